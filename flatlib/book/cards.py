"""What a link to a page says in messengers and search engines: what the page found, or its first words."""

import html
import re

PARAGRAPH = re.compile(r"<p(?: class=\"sd-card-text\")?>(.*?)</p>", re.DOTALL)
FINDING = re.compile(r"<p class=\"sd-card-text\"><strong>(.*?)</strong>", re.DOTALL)  # in the card of a chapter
NOT_WORDS = re.compile(r"<(annotation|a class=\"headerlink\")\b.*?</(annotation|a)>|<[^>]+>", re.DOTALL)
DESCRIPTION = re.compile(r'<meta (?:property="og:description"|name="description") content="[^"]*" ?/?>\s*')
LONGEST = 300  # letters of a description


def with_card(text: str) -> str:
    """Return an HTML page whose head says what it is about; one that does stays unchanged.

    Where the address of the book is known, the head has a card for messengers, which gets the same words.
    """
    words = description(text)
    if not words:
        return text
    about = f'<meta name="description" content="{words}" />\n'
    if 'property="og:title"' in text:
        about = f'<meta property="og:description" content="{words}" />\n{about}'
    return text if about in text else DESCRIPTION.sub("", text).replace("</head>", f"{about}</head>", 1)


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
