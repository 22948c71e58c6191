"""A chapter's parameters: read from its notebook, and checked against it before anything trains.

The cell tagged ``parameters`` declares each one with a type, a default and a comment. papermill itself accepts any
value for them, passes ``-p seeds '[0,1]'`` and ``1e-3`` on as text, and warns of a misspelt name at most.
"""

import ast
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from flatlib.errors import FlatlibError

Values = dict[str, Any]
KINDS = {"str": str, "int": int, "float": float, "bool": bool}


class Parameter(NamedTuple):
    """A declared parameter: its type (``int``, ``list[float]``, ...) and its default."""

    kind: str
    default: Any


def declared(notebook: Path) -> dict[str, Parameter]:
    """Return the parameters that a notebook declares, by name, read without executing anything."""
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if "parameters" in cell["metadata"].get("tags", []):
            return {
                node.target.id: Parameter(ast.unparse(node.annotation), ast.literal_eval(node.value))
                for node in ast.parse("".join(cell["source"])).body
                if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value
            }
    raise FlatlibError(f"{notebook}: has no cell tagged 'parameters'")


def defaults(notebook: Path) -> Values:
    """Return the values of the parameters cell: those of the published page."""
    return {name: parameter.default for name, parameter in declared(notebook).items()}


def injected(variables: Mapping[str, Any]) -> list[str]:
    """Return the names that papermill's own cell assigned in a running notebook, given its ``globals()``.

    A name that an earlier cell has assigned is left out: a reader's copy may have parameters of its own.
    """
    own: set[str] = set()
    found: list[str] = []
    for source in variables.get("In", ()):
        names = assigned(source)
        if source.startswith("# Parameters\n"):
            found += [name for name in names if name not in own]
        own.update(names)
    return found


def assigned(source: str) -> list[str]:
    """Return the names that the statements of a cell assign; a cell with magic commands has none."""
    try:
        nodes = ast.parse(source).body
    except SyntaxError:
        return []
    names = [part for node in nodes if isinstance(node, ast.Assign | ast.AnnAssign) for part in ast.walk(node)]
    return [name.id for name in names if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)]


def check(notebook: Path, given: Values) -> Values:
    """Return `given` with each value as the type its parameter declares; another name or type is a `FlatlibError`."""
    known = declared(notebook)
    for name in given:
        if name not in known:
            raise FlatlibError(f"{notebook.stem}: unknown parameter {name!r}; allowed: {', '.join(known)}")
    return {name: coerce(name, value, known[name].kind) for name, value in given.items()}


def coerce(name: str, value: Any, kind: str) -> Any:
    """Return `value` as a parameter of type `kind`; text stands for the YAML it holds, and 1e3 is a whole number.

    >>> coerce("seeds", "[0, 1]", "list[int]"), coerce("tolerance", "1e-3", "float"), coerce("train_size", "1e3", "int")
    ([0, 1], 0.001, 1000)
    """
    try:
        if isinstance(value, str) and kind != "str":
            value = yaml.safe_load(value)
        if kind in ("int", "float") and isinstance(value, str):  # YAML 1.1 reads 1e3 and 1e-3 as text
            value = float(value)
        if kind == "float" and type(value) is int:
            value = float(value)
        if kind == "int" and type(value) is float and value.is_integer():
            value = int(value)
    except yaml.YAMLError:
        raise FlatlibError(f"{name}: {value!r} is not a value of type {kind}") from None
    except (ValueError, OverflowError):
        raise FlatlibError(f"{name}: expected a number, got {str(value)[:40]!r}") from None
    if kind.startswith("list["):
        if not isinstance(value, list):
            raise FlatlibError(f"{name}: expected a list such as [1, 2], got {value!r}")
        return [coerce(name, item, kind.removeprefix("list[").removesuffix("]")) for item in value]
    if type(value) is not KINDS[kind]:
        raise FlatlibError(f"{name}: expected {kind}, got {value!r}")
    return value


def preset(path: Path) -> Values:
    """Return the parameters that a preset file changes; an empty file changes nothing."""
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
