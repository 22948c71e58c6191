"""A chapter's parameters: read from its notebook, checked against it, before anything trains.

The cell tagged ``parameters`` declares each one with a type, a default and a comment. papermill itself accepts any
value for them, passes ``-p seeds '[0,1]'`` and ``1e-3`` on as text, and runs on after a misspelt name with a warning.
"""

import ast
import warnings
from pathlib import Path
from typing import Any

import papermill
import yaml

from flatlib.errors import FlatlibError

Values = dict[str, Any]
KINDS = {"str": str, "int": int, "float": float, "bool": bool}


def declared(notebook: Path) -> dict[str, dict[str, str]]:
    """What the parameters cell declares: name -> its type (``int``, ``list[float]``, ...), default and help."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # papermill warns about cells it does not need
        found = papermill.inspect_notebook(str(notebook))
    if not found:
        raise FlatlibError(f"{notebook}: has no cell tagged 'parameters'")
    return found


def check(notebook: Path, given: Values) -> Values:
    """`given`, each value as the type its parameter declares.

    Raises:
        FlatlibError: for a name the notebook does not declare, or a value of another type.
    """
    known = declared(notebook)
    for name in given:
        if name not in known:
            raise FlatlibError(f"{notebook.stem}: unknown parameter {name!r}; allowed: {', '.join(known)}")
    return {name: coerce(name, value, known[name]["inferred_type_name"]) for name, value in given.items()}


def defaults(notebook: Path) -> Values:
    """The values of the parameters cell: those of the published page."""
    return {name: ast.literal_eval(found["default"]) for name, found in declared(notebook).items()}


def coerce(name: str, value: Any, kind: str) -> Any:
    """`value` as a parameter of type `kind`; text stands for the YAML it holds, a whole number for a float.

    >>> coerce("seeds", "[0, 1]", "list[int]"), coerce("tolerance", "1e-3", "float")
    ([0, 1], 0.001)
    """
    if isinstance(value, str) and kind != "str":
        try:
            value = yaml.safe_load(value)
        except yaml.YAMLError:
            raise FlatlibError(f"{name}: {value!r} is not a value of type {kind}") from None
    if kind.startswith("list["):
        if not isinstance(value, list):
            raise FlatlibError(f"{name}: expected a list such as [1, 2], got {value!r}")
        return [coerce(name, item, kind.removeprefix("list[").removesuffix("]")) for item in value]
    if kind == "float" and type(value) in (int, str):  # YAML 1.1 reads 1e-3 as text
        try:
            value = float(value)
        except (ValueError, OverflowError):
            raise FlatlibError(f"{name}: expected a number, got {str(value)[:40]!r}") from None
    if type(value) is not KINDS[kind]:
        raise FlatlibError(f"{name}: expected {kind}, got {value!r}")
    return value


def preset(path: Path) -> Values:
    """The parameters a preset file changes; an empty file changes nothing."""
    try:
        values = yaml.safe_load(path.read_text()) or {}
    except FileNotFoundError:
        names = ", ".join(sorted(folder.name for folder in path.parent.parent.glob("*/")))
        raise FlatlibError(f"preset {path.parent.name}: no file {path.name} for it; presets: {names}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise FlatlibError(f"{path}: not readable YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(values, dict):
        raise FlatlibError(f"{path}: expected parameter names with values")
    return values
