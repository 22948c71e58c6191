"""Files of a new chapter, from the templates in `template/`, each ready to be rewritten."""

import re
from pathlib import Path

from flatlib.book.paths import notebooks
from flatlib.errors import FlatlibError

TEMPLATE = Path(__file__).parent / "template"
PRESETS = ("smoke", "small", "paper")
LAST = "      - file: book/claims/overview\n"  # chapters come before the page about all of them


def create(root: Path, chapter: str) -> list[Path]:
    """Write the claim, the notebook and the presets of a new chapter, put it into the book, and return the files.

    The claim registers itself: :mod:`flatlib.claims` collects every module that has one.

    Args:
        root: The checkout.
        chapter: Number and name, such as ``12_batch_order``; without the number it names the claim's module.

    Raises:
        FlatlibError: A malformed name, one that is taken, or a folder that is not this package's checkout.
    """
    found = re.fullmatch(r"(\d\d)_([a-z][a-z0-9_]*)", chapter)
    if found is None:
        raise FlatlibError(f"a chapter is called by two digits and a name, such as 12_batch_order; got {chapter!r}")
    number, module = found.groups()
    if not (root / "flatlib" / "claims").is_dir():
        raise FlatlibError(f"{root}: a new claim needs a checkout that holds flatlib itself")
    if taken := [name for name in notebooks(root) if name.startswith(f"{number}_")]:
        raise FlatlibError(f"the number {number} is taken, by {taken[0]}")
    places = {
        "claim.py": root / "flatlib" / "claims" / f"{module}.py",
        "chapter.ipynb": root / "book" / "claims" / f"{chapter}.ipynb",
        **{f"{preset}.yaml": root / "book" / "presets" / preset / f"{chapter}.yaml" for preset in PRESETS},
    }
    if existing := [place for place in places.values() if place.exists()]:
        raise FlatlibError(f"{existing[0]} exists")
    contents = root / "_toc.yml"
    listed = contents.read_text(encoding="utf-8")
    if LAST not in listed:
        raise FlatlibError(f"{contents}: no line {LAST.strip()!r} to put the chapter before")
    for source, place in places.items():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(renamed((TEMPLATE / source).read_text(encoding="utf-8"), chapter, module), encoding="utf-8")
    contents.write_text(listed.replace(LAST, f"      - file: book/claims/{chapter}\n{LAST}"), encoding="utf-8")
    return [*places.values(), contents]


def renamed(text: str, chapter: str, module: str) -> str:
    """Return a template's text under the chapter's own name."""
    names = {"00_template": chapter, "fig-template": f"fig-{module.replace('_', '-')}", "template": module}
    names |= {"# Template": f"# {module.replace('_', ' ').capitalize()}", "Claim 0:": f"Claim {int(chapter[:2])}:"}
    for old, new in names.items():
        text = text.replace(old, new)
    return text
