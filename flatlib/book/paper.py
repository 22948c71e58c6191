"""What only the printed book has: a title page, contents with page numbers, the Explorer as a picture, and no API."""

import datetime
import html
import re
from importlib.metadata import version

PART = re.compile(r'<span id="(document-book/[^"]+)"></span><section\b[^>]*>\s*<h\d>(.*?)<a class="headerlink"', re.S)
ARTICLE = '<article class="bd-article">'
API = '<style>span[id^="document-book/api/"] + section { display: none !important; }</style>'
NOSCRIPT = re.compile(r"<noscript><style>.*?</style>(.*?)</noscript>", re.DOTALL)
OBJECT = re.compile(rb"(?:^|\n)(\d+) 0 obj\n(.*?)\nendobj", re.DOTALL)
KIDS = re.compile(rb"/Type\s*/Pages\b.*?/Kids\s*\[(.*?)\]|/Kids\s*\[(.*?)\].*?/Type\s*/Pages\b", re.DOTALL)
PLACE = re.compile(rb"/(document-book[^\s/\[(]+)\s*\[(\d+) 0 R")


def for_paper(text: str, pages: dict[str, int], api: bool = False) -> str:
    """Return the book on one page as it is printed.

    Args:
        text: HTML of the book on one page.
        pages: Page number of each part of the book, by its anchor; a part without one is listed without a number.
        api: Whether the pages about the package's functions are printed as well.
    """
    listed = [part for part in PART.findall(text) if api or not part[0].startswith("document-book/api/")]
    text = text.replace(ARTICLE, f"{front_matter(listed, pages)}{ARTICLE}", 1)
    # Browsers print with scripts on, and the Explorer is a picture without them.
    text = NOSCRIPT.sub(lambda found: found[1].replace("../_static/", "_static/"), text)
    return text if api else text.replace("</head>", f"{API}</head>", 1)


def front_matter(listed: list[tuple[str, str]], pages: dict[str, int]) -> str:
    """Return the title page and the contents."""
    today = datetime.datetime.now(tz=datetime.UTC).date()
    about = f"The flatlib authors. Version {version('flat-minima')}, printed on {today:%-d %B %Y}."
    rows = [f'<li><a href="#{anchor}">{title}</a><span>{pages.get(anchor, "")}</span></li>' for anchor, title in listed]
    title = '<p class="print-title">Sharpness and generalization</p>'
    contents = f'<nav class="print-contents"><p>Contents</p><ol>{"".join(rows)}</ol></nav>'
    return f'<div class="print-front">{title}<p>{html.escape(about)}</p>{contents}</div>'


def page_numbers(pdf: bytes) -> dict[str, int]:
    """Return the number of the page on which each part begins, from the link destinations that Chromium writes."""
    objects = dict(OBJECT.findall(pdf))
    order: list[bytes] = []

    def collect(number: bytes) -> None:
        kids = KIDS.search(objects.get(number, b""))
        if kids is None:
            order.append(number)
            return
        for kid in re.findall(rb"(\d+) 0 R", kids[1] or kids[2]):
            collect(kid)

    root = re.search(rb"/Type\s*/Catalog\b.*?/Pages (\d+) 0 R|/Pages (\d+) 0 R.*?/Type\s*/Catalog\b", pdf, re.DOTALL)
    if root is None:
        return {}
    collect(root[1] or root[2])
    place = {number: i for i, number in enumerate(order, start=1)}
    return {unescaped(name): place[page] for name, page in PLACE.findall(pdf) if page in place}


def unescaped(name: bytes) -> str:
    """Return a PDF name as text.

    >>> unescaped(b"document-book#2Fglossary")
    'document-book/glossary'
    """
    return re.sub(rb"#([0-9A-Fa-f]{2})", lambda code: bytes([int(code[1], 16)]), name).decode()
