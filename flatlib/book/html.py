"""The last touch on rendered pages: badges in their colours, pictures that keep their room and weigh less, names and
lists that a screen reader understands."""

import re
from pathlib import Path
from xml.etree import ElementTree

from PIL import Image

from flatlib.book.links import html
from flatlib.errors import FlatlibError

PICTURE = re.compile(r'<img\b(?=[^>]*\bsrc="([^":?#]*_images/[^"?#]+)")(?![^>]*\b(?:width|height)=)')
WORD = r'>(?:<span class="pasted-text">)?(supported|contradicted|inconclusive)<'
BADGE = re.compile(rf'<span class="(?:[^"]* )?verdict(?: [^"]*)?"(?={WORD})')
PATH = re.compile(r'(?<=\sd=")[^"]+|(?<=\s[xy]=")[^"]+')  # where an SVG keeps its coordinates
LONG = re.compile(r"-?\d+\.\d{3,}")
UNTURNED = re.compile(r' transform="rotate\(-?0 [-\d.]+ [-\d.]+\)"')  # Matplotlib turns every text, most by nothing
MENU = re.compile(r'<summary>(?=<span class="toctree-toggle")')
PARAMETERS = re.compile(r'<dl>\n((?:<dd><em class="sig-param">.*</dd>\n)+)</dl>')
PIXELS = {"": 1.0, "px": 1.0, "pt": 4 / 3, "in": 96.0}  # of one unit, as CSS defines them


def finish(pages: Path) -> None:
    """Rewrite every HTML page below `pages`."""
    for picture in (pages / "_images").glob("*.svg"):
        drawing = short(picture.read_text(encoding="utf-8"))
        picture.write_text(re.sub(r"\n +", "\n", drawing), encoding="utf-8")
    for path in html(pages):
        text = path.read_text(encoding="utf-8")
        done = PICTURE.sub(lambda found, page=path: sized(found, page), text)
        done = BADGE.sub(r'\g<0> data-verdict="\1"', done)
        # Sphinx calls the bibliography a list and its entries no items; a screen reader counts none.
        done = done.replace('<div role="list" class="citation-list">', '<div class="citation-list">')
        # Sphinx puts a list of terms into a term; the theme's arrow in the contents has no name.
        done = PARAMETERS.sub(lines, done)
        done = MENU.sub('<summary aria-label="Show or hide the pages of this part">', done)
        done = short(done) if "<svg" in done else done
        if done != text:
            path.write_text(done, encoding="utf-8")


def short(svg: str) -> str:
    """The same drawing with two digits behind the point, a hundredth of a point: a third of most figures' bytes. Texts
    that are not turned do not say so."""
    svg = UNTURNED.sub("", svg)
    return PATH.sub(lambda path: " ".join(LONG.sub(lambda number: f"{float(number[0]):.2f}", path[0]).split()), svg)


def lines(found: re.Match[str]) -> str:
    """The parameters of a signature, a line each."""
    listed = found[1].replace("<dd>", '<span class="sig-line">').replace("</dd>", "</span>")
    return f'<span class="sig-lines">\n{listed}</span>'


def sized(found: re.Match[str], page: Path) -> str:
    """An image tag with the picture's own width and height: the browser keeps its room, and no line jumps."""
    width, height = size(page.parent / found[1])
    return f'{found[0]} width="{width}" height="{height}"'


def size(picture: Path) -> tuple[int, int]:
    """Width and height of a picture in CSS pixels.

    Raises:
        FlatlibError: an SVG that does not say how large it is.
    """
    if picture.suffix != ".svg":
        with Image.open(picture) as image:
            return image.size
    _, root = next(ElementTree.iterparse(picture, events=["start"]))
    lengths = [re.fullmatch(r"([\d.]+)(px|pt|in|)", root.get(name, "")) for name in ("width", "height")]
    if None in lengths:
        raise FlatlibError(f"{picture.name}: the SVG gives no width and height in px, pt or in")
    width, height = (round(float(length[1]) * PIXELS[length[2]]) for length in lengths)
    return width, height
