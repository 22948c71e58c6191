"""Rendered pages, finished: colours of badges, sizes of pictures, names for screen readers; and a check of links."""

import html
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from flatlib.book.cards import with_card
from flatlib.book.tables import typeset_tables
from flatlib.errors import FlatlibError
from flatlib.figures.panels import NARROW

PICTURE = re.compile(r'(<img\b(?=[^>]*\bsrc="([^":?#]*_images/[^"?#]+\.svg)")(?![^>]*\bwidth=))([^>]*>)')
VIEW = re.compile(rf'<view id="{NARROW}" viewBox="0 [\d.]+ ([\d.]+) ([\d.]+)"')
PHONE = 342  # pixels that a phone of 390 has for a figure
WORD = r'>(?:<span class="pasted-text">)?(supported|contradicted|inconclusive|not tested here)<'
BADGE = re.compile(rf'<span class="(?:[^"]* )?verdict(?: [^"]*)?"(?={WORD})')
FINDING = re.compile(  # the bold sentence at the head of a figure's caption
    r'(<img alt=")([^"]*)("[^>]*>(?:(?!<img).)*?<figcaption>(?:(?!</p>).)*?<strong>)(.*?)(?=</strong>)', re.DOTALL
)
TAG = re.compile(r"<[^>]+>")
MENU = re.compile(r'<summary>(?=<span class="toctree-toggle")')
PARAMETERS = re.compile(r'<dl>\n((?:<dd><em class="sig-param">.*</dd>\n)+)</dl>')
PERCENT = re.compile(
    r"(?P<kept><(pre|script)\b.*?</\2>)|(?<=\d) %(?=[\s<.,;:)])", re.DOTALL
)  # English has no space there
MEANING = re.compile(r'<dt id="(term-[^"]+)">.*?</dt>\s*<dd>(.*?)</dd>', re.DOTALL)
TERM = re.compile(r'(?P<start><a class="reference internal" href="[^"#]*#(?P<term>term-[^"]+)")>')
PATH = re.compile(r'(?<=\sd=")[^"]+|(?<=\s[xy]=")[^"]+')  # the coordinates in an SVG
UNTURNED = re.compile(r' transform="rotate\(-?0 [-\d.]+ [-\d.]+\)"')  # Matplotlib turns every text, most by nothing
LONG = re.compile(r"-?\d+\.\d{3,}")
PIXELS = {"": 1.0, "px": 1.0, "pt": 4 / 3, "in": 96.0}  # of one unit, as CSS defines them


def html_pages(folder: Path) -> list[Path]:
    """Return the pages of a book, without the theme's templates that it copies to ``_static``."""
    return [path for path in sorted(folder.rglob("*.html")) if "_static" not in path.relative_to(folder).parts]


def finish_pages(folder: Path) -> None:
    """Rewrite every HTML page and figure below `folder`; a finished one stays unchanged."""
    for path in [*html_pages(folder), *(folder / "_images").glob("*.svg")]:
        path.write_text(round_coordinates(path.read_text(encoding="utf-8")), encoding="utf-8")
    meanings = glossary(folder)
    for path in html_pages(folder):
        text = path.read_text(encoding="utf-8")
        text = PICTURE.sub(lambda found: picture(found, path.parent / found[2]), text)  # noqa: B023 (used at once)
        text = PERCENT.sub(lambda found: found["kept"] or "%", text)
        text = explain_terms(typeset_tables(text), meanings)
        # The words of the bar say what it opens; the theme gives all of them one name.
        text = text.replace('<summary aria-label="Toggle hidden content">', "<summary>")
        text = BADGE.sub(r'\g<0> data-verdict="\1"', text)
        # What a figure shows is for those who cannot see it, too.
        text = FINDING.sub(lambda found: f"{found[1]}{alternative(found[2], found[4])}{found[3]}{found[4]}", text)
        # Sphinx calls the bibliography a list and its entries no items: a screen reader counts none.
        text = text.replace('<div role="list" class="citation-list">', '<div class="citation-list">')
        # Sphinx puts a list of terms into a term, and the theme's arrow in the contents has no name.
        text = PARAMETERS.sub(signature_lines, text)
        text = MENU.sub('<summary aria-label="Show or hide the pages of this part">', text)
        path.write_text(with_card(text), encoding="utf-8")


def alternative(text: str, finding: str) -> str:
    """Return an alternative text with the finding of a caption, a piece of HTML, in front."""
    said = html.escape(html.unescape(TAG.sub("", finding)).strip(), quote=True)
    return text if said in text else f"{said} {text}"


def round_coordinates(text: str) -> str:
    """Round the coordinates of all drawings to a hundredth of a point: a third of most figures' bytes."""
    text = UNTURNED.sub("", text)
    return PATH.sub(lambda line: " ".join(LONG.sub(lambda x: f"{float(x[0]):.2f}", line[0]).split()), text)


def signature_lines(found: re.Match[str]) -> str:
    """Return the parameters of a signature, one a line."""
    listed = found[1].replace("<dd>", '<span class="sig-line">').replace("</dd>", "</span>")
    return f'<span class="sig-lines">\n{listed}</span>'


def glossary(folder: Path) -> dict[str, str]:
    """Return the meaning of each term of the glossary, as plain text, by the anchor of the term."""
    path = folder / "book" / "glossary.html"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return {term: " ".join(re.sub(r"<[^>]+>", "", meaning).split()) for term, meaning in MEANING.findall(text)}


def explain_terms(text: str, meanings: dict[str, str]) -> str:
    """Return a page whose links to terms of the glossary show the meaning under the pointer."""

    def explained(link: re.Match[str]) -> str:
        meaning = meanings.get(link["term"])
        return f'{link["start"]} title="{meaning}">' if meaning else link[0]

    return TERM.sub(explained, text)


def picture(found: re.Match[str], file: Path) -> str:
    """Return an image with its size; where its drawing has a narrow view, phones show that one."""
    image = f"{found[1]}{svg_size(file)}{found[3]}"
    view = VIEW.search(file.read_text(encoding="utf-8"))
    if view is None:
        return image
    height = round(PHONE * float(view[2]) / float(view[1]))
    source = f'srcset="{found[2]}#{NARROW}" width="{PHONE}" height="{height}"'
    return f'<picture style="--narrow: {PHONE}/{height}"><source media="(max-width: 600px)" {source}>{image}</picture>'


def svg_size(picture: Path) -> str:
    """Return a picture's own width and height as attributes: the browser reserves its room, and no line jumps."""
    tag = picture.read_text(encoding="utf-8").partition("<svg")[2].partition(">")[0]
    found = [re.search(rf'\s{name}="([\d.]+)(px|pt|in|)"', tag) for name in ("width", "height")]
    pixels = [round(float(size[1]) * PIXELS[size[2]]) for size in found if size]
    if len(pixels) < 2:
        raise FlatlibError(f"{picture.name}: the SVG needs a width and a height in px, pt or in")
    return f' width="{pixels[0]}" height="{pixels[1]}"'


class Page(HTMLParser):
    """The links of one page, and the places in it that can be linked to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: dict[str, None] = {}
        self.places = {"", "top"}  # the browser's own
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect ``href``, ``src``, ``id`` and ``name``."""
        self.links |= {value: None for name, value in attrs if name in ("href", "src") and value}
        self.places |= {value for name, value in attrs if name in ("id", "name") and value}


def dead_links(folder: Path) -> list[str]:
    """Return every dead link inside the book below `folder`, as ``page: link``."""
    pages = {path.resolve(): Page(path) for path in html_pages(folder)}
    dead = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            found = unquote(parts.fragment) in pages[target].places if target in pages else target.is_file()
            if not (found or parts.scheme or parts.netloc):
                dead.append(f"{path.relative_to(folder.resolve())}: {link}")
    return dead
