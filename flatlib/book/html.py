"""Rendered pages, finished: colours of badges, sizes of pictures, names for screen readers; and a check of links."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from flatlib.errors import FlatlibError

PICTURE = re.compile(r'<img\b(?=[^>]*\bsrc="([^":?#]*_images/[^"?#]+\.svg)")(?![^>]*\bwidth=)')
WORD = r'>(?:<span class="pasted-text">)?(supported|contradicted|inconclusive|not tested here)<'
BADGE = re.compile(rf'<span class="(?:[^"]* )?verdict(?: [^"]*)?"(?={WORD})')
MENU = re.compile(r'<summary>(?=<span class="toctree-toggle")')
PARAMETERS = re.compile(r'<dl>\n((?:<dd><em class="sig-param">.*</dd>\n)+)</dl>')
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
    for path in html_pages(folder):
        text = path.read_text(encoding="utf-8")
        text = PICTURE.sub(lambda found: found[0] + svg_size(path.parent / found[1]), text)  # noqa: B023 (used at once)
        text = BADGE.sub(r'\g<0> data-verdict="\1"', text)
        # Sphinx calls the bibliography a list and its entries no items: a screen reader counts none.
        text = text.replace('<div role="list" class="citation-list">', '<div class="citation-list">')
        # Sphinx puts a list of terms into a term, and the theme's arrow in the contents has no name.
        text = PARAMETERS.sub(signature_lines, text)
        text = MENU.sub('<summary aria-label="Show or hide the pages of this part">', text)
        path.write_text(text, encoding="utf-8")


def round_coordinates(text: str) -> str:
    """Round the coordinates of all drawings to a hundredth of a point: a third of most figures' bytes."""
    text = UNTURNED.sub("", text)
    return PATH.sub(lambda line: " ".join(LONG.sub(lambda x: f"{float(x[0]):.2f}", line[0]).split()), text)


def signature_lines(found: re.Match[str]) -> str:
    """Return the parameters of a signature, one a line."""
    listed = found[1].replace("<dd>", '<span class="sig-line">').replace("</dd>", "</span>")
    return f'<span class="sig-lines">\n{listed}</span>'


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
