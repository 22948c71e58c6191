"""Docstrings as the book's API pages want them: a Sphinx extension, between `sphinx.ext.autodoc` and napoleon.

In the source a docstring is written to be read there: formulas between dollar signs, code between single backticks,
sections headed by a colon or by a rule. Sphinx reads reStructuredText, where each of these is written another way.
"""

import functools
import importlib
import inspect
import re
from collections.abc import Mapping
from typing import Any

MODULES = (
    *("curvature", "jacobian", "sharpness", "measures", "tracking", "config", "execution", "sweep", "records"),
    *("claims", "figures", "errors"),
)
"""The modules of flatlib that the API pages cover; their ``__all__`` is what is public."""

RULED = re.compile(r"^(Parameters|Attributes|Returns|Raises)\n-{3,}\n", re.MULTILINE)
MARKS = re.compile(
    r"(?P<doctest>^[ ]*>>>[^\n]*\n(?:[^\n]*\S[^\n]*\n)*)"
    r"|(?P<literal>``.+?``)"
    r"|`(?P<code>[^`]+)`"
    r"|\n*^(?P<indent>[ ]*)\$\$(?P<display>.+?)\$\$\n*"
    r"|\$(?P<formula>[^$]+)\$"
    r"|(?P<special>[|*\\])",
    re.MULTILINE | re.DOTALL,
)


@functools.cache
def public() -> dict[str, str]:
    """Every public name of `MODULES` with its full one, such as flatlib.curvature.trace.trace."""
    found = {}
    for module in (importlib.import_module(f"flatlib.{name}") for name in MODULES):
        found |= {name: f"{module.__name__}.{name}" for name in module.__all__}
    return found


def restructured(text: str, links: Mapping[str, str]) -> str:
    r"""A docstring as reStructuredText with Google's section headings.

    links: names that become links when they stand between backticks, and what to.

    >>> print(restructured("The sum `s`, $a + b$, of a `Grid`.", {"Grid": "flatlib.Grid"}))
    The sum ``s``, :math:`a + b`, of a :py:obj:`Grid <flatlib.Grid>`.
    """
    return MARKS.sub(lambda found: _marked(found, links), _under_colons(text) + "\n").rstrip("\n")


def _marked(found: re.Match, links: Mapping[str, str]) -> str:
    kind = found.lastgroup
    text = found[kind]
    if kind == "code":
        return f":py:obj:`{text} <{links[text]}>`" if text in links else f"``{text}``"
    if kind == "formula":
        return f":math:`{' '.join(text.split())}`"
    if kind == "display":
        return f"\n\n{found['indent']}.. math:: {' '.join(text.split())}\n\n"
    return f"\\{text}" if kind == "special" else text


def _under_colons(text: str) -> str:
    """Sections under a rule, whose lines are not indented, as sections under a colon, whose lines are."""
    before, *rest = RULED.split(text)
    sections = [
        f"{'Args' if heading == 'Parameters' else heading}:\n{_shifted(body)}"
        for heading, body in zip(rest[::2], rest[1::2], strict=True)
    ]
    return "\n".join([before.rstrip("\n") + "\n", *sections])


def _shifted(body: str) -> str:
    return "".join(f"    {line}".rstrip() + "\n" for line in body.strip("\n").split("\n"))


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx. Napoleon handles the same event at priority 500 and must come second."""
    app.connect("autodoc-process-docstring", rewrite, priority=400)
    app.connect("autodoc-skip-member", nameless)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def rewrite(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Replace the lines of one docstring in place. A short word such as `trace` may be anything and is no link."""
    telling = {name: full for name, full in public().items() if "_" in name or not name.islower()}
    lines[:] = restructured(inspect.cleandoc("\n".join(lines)), telling).split("\n")


def nameless(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave out the fields of a named tuple, whose class explains them: Python calls each an alias for a number."""
    return True if (inspect.getdoc(obj) or "").startswith("Alias for field number") else None
