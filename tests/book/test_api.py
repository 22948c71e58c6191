"""Every public name is on a page of the book, and every argument in a docstring."""

import importlib
import importlib.util
import inspect
import posixpath
import re

import pytest
from sphinx.util.inventory import InventoryFile

from flatlib.book.paths import find_root
from flatlib.curvature.operators.base import CurvatureOperator

ROOT = find_root()
PAGES = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "book" / "api").glob("*.md"))
MODULES = {name: importlib.import_module(name) for name in re.findall(r"currentmodule:: (\S+)", PAGES)}
PUBLIC = {f"{name}.{public}": getattr(module, public) for name, module in MODULES.items() for public in module.__all__}
CALLABLE = {name: thing for name, thing in PUBLIC.items() if inspect.isclass(thing) or inspect.isroutine(thing)}


def test_public_names_are_on_pages(pages):
    rooms = ("curvature", "sharpness", "measures", "claims", "figures", "config")
    assert {f"flatlib.{room}" for room in rooms} <= set(MODULES)
    with (pages / "objects.inv").open("rb") as inventory:
        listed = InventoryFile.load(inventory, "", posixpath.join)
    places = {name: item[2] for kind, names in listed.items() if kind.startswith("py:") for name, item in names.items()}
    for full in PUBLIC:
        module, _, name = full.rpartition(".")  # a constant is listed where it is defined, deeper down
        found = [place for known, place in places.items() if known.startswith(module) and known.endswith(f".{name}")]
        assert any(place.startswith("book/api/") for place in found), full


@pytest.mark.parametrize("name", CALLABLE)
def test_every_public_name_has_a_docstring(name):
    thing = CALLABLE[name]
    assert len((thing.__doc__ or "").split()) >= 5
    for member, value in vars(thing).items() if inspect.isclass(thing) else ():
        if not member.startswith("_") and (inspect.isroutine(value) or isinstance(value, property | classmethod)):
            assert inspect.getdoc(getattr(thing, member) if isinstance(value, classmethod) else value), member


@pytest.mark.parametrize("name", CALLABLE)
def test_every_argument_is_explained(name):
    thing = CALLABLE[name]
    if inspect.isclass(thing) and issubclass(thing, Exception):
        return
    text = inspect.getdoc(thing)
    if inspect.isclass(thing) and issubclass(thing, CurvatureOperator):  # its arguments are those of the base class
        text += inspect.getdoc(CurvatureOperator)
    # The axes to draw on are explained once, on the page of flatlib.figures.
    for argument in inspect.signature(thing).parameters.keys() - {"ax"}:
        assert re.search(rf"\b{argument}\b", text), argument


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("the `k` of $a\nb$", "the `k` of :math:`a b`"),
        ("``as it is`` and |v| * 2", r"``as it is`` and \|v\| \* 2"),
        ("of a `Grid`, `(n, k)`", "of a :py:obj:`.Grid`, ``(n, k)``"),
        ("One.\n\n$$x^2$$\n\nTwo.", "One.\n\n.. math:: x^2\n\nTwo."),
        ("One.\n\n>>> a | b\n'`'\n\n`c`", "One.\n\n>>> a | b\n'`'\n\n`c`"),
    ],
)
def test_dollars_in_docstrings_become_math(source, expected):
    spec = importlib.util.spec_from_file_location("docstrings", ROOT / "book" / "_ext" / "docstrings.py")
    extension = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(extension)
    lines = source.split("\n")
    extension.rewrite(None, "function", "f", None, None, lines)
    assert "\n".join(lines) == expected
