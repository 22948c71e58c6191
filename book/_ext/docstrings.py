"""Read dollar signs in docstrings as mathematics, as on the book's other pages; napoleon does the rest."""

import inspect
import re
from typing import Any

MARKS = re.compile(
    r"(?P<kept>^[ ]*>>>[^\n]*\n(?:[^\n]*\S[^\n]*\n)*|:[\w:]+:`[^`]+`|``.+?``)"  # doctests, roles and literals
    r"|`(?P<code>[^`]+)`"
    r"|\n*^(?P<indent>[ ]*)\$\$(?P<display>.+?)\$\$\n*"
    r"|\$(?P<inline>[^$]+)\$"
    r"|(?P<special>[|*\\])",
    re.MULTILINE | re.DOTALL,
)
CLASS = re.compile(r"[A-Z]+[a-z]\w*")


def translate(found: re.Match[str]) -> str:
    """Return one piece of a docstring as reStructuredText; a class is linked to from every module."""
    kind = found.lastgroup
    text = found[kind]
    if kind == "code":
        role = f":py:obj:`.{text}`" if CLASS.fullmatch(text) else f"`{text}`"
        return role if re.fullmatch(r"[~.\w]+", text) else f"``{text}``"
    if kind == "inline":
        return f":math:`{' '.join(text.split())}`"
    if kind == "display":
        return f"\n\n{found['indent']}.. math:: {' '.join(text.split())}\n\n"
    return f"\\{text}" if kind == "special" else text


def rewrite(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Replace the lines of one docstring in place; a constant without one of its own shows none of its type."""
    if what == "data" and obj is not None and inspect.getdoc(obj) == "\n".join(lines).strip():
        lines.clear()
    lines[:] = MARKS.sub(translate, "\n".join(lines) + "\n").rstrip("\n").split("\n")


def exclude_alias(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Exclude the fields of a named tuple, which its class describes: Python calls each an alias for a number."""
    return True if (getattr(obj, "__doc__", None) or "").startswith("Alias for field number") else None


def name_functions(app: Any, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: Any) -> Any:
    """Show a function that is a default by its name, not by its address in memory."""
    return signature and re.sub(r"<function (\w+) at 0x\w+>", r"\1", signature), returns


def setup(app: Any) -> dict[str, bool]:
    """Connect the handlers; napoleon handles docstrings at priority 500 and must come second."""
    app.connect("autodoc-process-docstring", rewrite, priority=400)
    app.connect("autodoc-process-signature", name_functions)
    app.connect("autodoc-skip-member", exclude_alias)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
