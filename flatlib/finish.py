"""The last touch on rendered pages: badges in their colours, pictures that keep their room, a list that is one."""

import re
from pathlib import Path
from xml.etree import ElementTree

from PIL import Image

from flatlib.errors import FlatlibError
from flatlib.links import html

PICTURE = re.compile(r'<img\b(?=[^>]*\bsrc="([^":?#]*_images/[^"?#]+)")(?![^>]*\b(?:width|height)=)')
WORD = r'>(?:<span class="pasted-text">)?(supported|contradicted|inconclusive)<'
BADGE = re.compile(rf'<span class="(?:[^"]* )?verdict(?: [^"]*)?"(?={WORD})')
PIXELS = {"": 1.0, "px": 1.0, "pt": 4 / 3, "in": 96.0}  # of one unit, as CSS defines them


def finish(pages: Path) -> None:
    """Rewrite every HTML page below `pages`."""
    for path in html(pages):
        text = path.read_text(encoding="utf-8")
        done = PICTURE.sub(lambda found, page=path: sized(found, page), text)
        done = BADGE.sub(r'\g<0> data-verdict="\1"', done)
        # Sphinx calls the bibliography a list and its entries no items; a screen reader counts none.
        done = done.replace('<div role="list" class="citation-list">', '<div class="citation-list">')
        if done != text:
            path.write_text(done, encoding="utf-8")


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
