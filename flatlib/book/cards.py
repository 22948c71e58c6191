"""What a link to a page shows in messengers and search engines: its title, its first words and a picture."""

import html
import re

TITLE = re.compile(r"<h1\b[^>]*>(.*?)</h1>", re.DOTALL)
PARAGRAPH = re.compile(r"<p(?: class=\"sd-card-text\")?>(.*?)</p>", re.DOTALL)
FINDING = re.compile(
    r"<p class=\"sd-card-text\"><strong>(.*?)</strong>", re.DOTALL
)  # of a chapter, in its claim's card
NOT_WORDS = re.compile(r"<(annotation|a class=\"headerlink\")\b.*?</(annotation|a)>|<[^>]+>", re.DOTALL)
DESCRIPTION = re.compile(r'<meta (?:property="og:description"|name="description") content="[^"]*" ?/?>\s*')
LONGEST = 300  # letters of a description
PICTURE = "_static/card.png"


def with_card(text: str, top: str) -> str:
    """Return an HTML page whose head says what it is about; one that does stays unchanged.

    Args:
        text: The page.
        top: Address of the book's folder, seen from the page: for a picture where no address of the book is known.
    """
    title, words = TITLE.search(text), description(text)
    if title is None or not words:
        return text
    about = f'<meta property="og:description" content="{words}" />\n<meta name="description" content="{words}" />\n'
    if about in text:
        return text
    if 'property="og:title"' not in text:
        about += f'<meta property="og:title" content="{plain(title[1])}" />\n'
        about += (
            f'<meta property="og:type" content="article" />\n<meta property="og:image" content="{top}{PICTURE}" />\n'
        )
    return DESCRIPTION.sub("", text).replace("</head>", f"{about}</head>", 1)


def description(text: str) -> str:
    """Return the finding of a chapter, or else the first paragraph of a page, as plain text for an attribute."""
    article = text.partition("<article")[2]
    found = FINDING.search(article) or PARAGRAPH.search(article)
    words = plain(found[1]) if found else ""
    return words if len(words) <= LONGEST else words[:LONGEST].rsplit(" ", 1)[0] + " …"


def plain(text: str) -> str:
    """Return a piece of HTML as text for an attribute.

    >>> plain("<strong>It &lt;rose</strong> by <math>x<annotation>x</annotation></math>")
    'It &lt;rose by x'
    """
    return html.escape(html.unescape(" ".join(NOT_WORDS.sub("", text).split())), quote=True)
