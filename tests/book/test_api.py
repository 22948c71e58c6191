"""What is public is explained: every name, every argument; and docstrings become the markup that Sphinx reads."""

import importlib
import inspect
import re

import pytest

from flatlib.book.docstrings import public, restructured
from flatlib.curvature.operators.base import CurvatureOperator

EXPLAINED_ONCE = {"ax"}  # matplotlib's axes, in every function of flatlib.figures: on the page itself


def named(full: str):
    """What a full name stands for."""
    module, _, name = full.rpartition(".")
    return getattr(importlib.import_module(module), name)


CALLABLE = {
    name: full for name, full in public().items() if inspect.isclass(named(full)) or inspect.isroutine(named(full))
}


def test_what_is_public():
    assert len(public()) > 60
    assert {"top_eigenvalues", "jacobian_norm", "minimum_sharpness", "Tracker", "RunConfig", "CLAIMS"} <= set(public())


@pytest.mark.parametrize("name", CALLABLE)
def test_every_public_name_has_a_docstring_of_its_own(name):
    thing = named(CALLABLE[name])
    assert len((thing.__doc__ or "").split()) >= 5
    for member, value in vars(thing).items() if inspect.isclass(thing) else ():
        if not member.startswith("_") and (inspect.isroutine(value) or isinstance(value, property | classmethod)):
            assert inspect.getdoc(getattr(thing, member) if isinstance(value, classmethod) else value), member


@pytest.mark.parametrize("name", CALLABLE)
def test_every_argument_is_explained(name):
    thing = named(CALLABLE[name])
    if inspect.isclass(thing) and issubclass(thing, Exception):
        return
    text = inspect.getdoc(CurvatureOperator if thing in CurvatureOperator.__subclasses__() else thing)
    for argument in inspect.signature(thing).parameters.keys() - EXPLAINED_ONCE:
        assert re.search(rf"\b{argument}\b", text), argument


@pytest.mark.parametrize("name", CALLABLE)
def test_nothing_is_left_of_the_source_s_own_marks(name):
    text = restructured(inspect.getdoc(named(CALLABLE[name])), public())
    text = re.sub(r":[\w:]+:`[^`]*`|``.*?``|^ *>>>.*\n(?:.*\S.*\n?)*", "", text, flags=re.MULTILINE)
    assert not re.search(r"[$`]|-{5}|(?<!\\)[|*]", text)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("the `k` of $a\nb$", "the ``k`` of :math:`a b`"),
        ("``as it is`` and |v| * 2", r"``as it is`` and \|v\| \* 2"),
        ("of a `Grid`, `grid`", "of a :py:obj:`Grid <flatlib.Grid>`, ``grid``"),
        ("One.\n\n$$x^2$$\n\nTwo.", "One.\n\n.. math:: x^2\n\nTwo."),
        ("One.\n\nParameters\n----------\nk: so\n    many.\n", "One.\n\nArgs:\n    k: so\n        many."),
        ("One.\n\n>>> a | b\n'`'\n\n`c`", "One.\n\n>>> a | b\n'`'\n\n``c``"),
    ],
)
def test_marks_become_markup(source, expected):
    assert restructured(source, {"Grid": "flatlib.Grid"}) == expected


def test_sections_follow_each_other():
    text = "What.\n\nParameters\n----------\nk: one.\n\nRaises\n------\nFlatlibError: if so."
    assert restructured(text, {}) == "What.\n\nArgs:\n    k: one.\n\nRaises:\n    FlatlibError: if so."
