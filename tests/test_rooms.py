"""Imports between the rooms of the package point in one direction."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import flatlib

PACKAGE = Path(flatlib.__file__).parent
GROUND = ("errors", "losses", "config", "names", "execution", "_validation", "device", "stats")
ROOMS = ("curvature", "sharpness", "measures", "training", "runs", "figures", "claims", "book", "bench", "cli")
TABLES_ONLY = {*GROUND, "figures"}  # figures see tables, so of the package only the ground


def imports() -> dict[str, set[str]]:
    """Return the modules of the package that each module imports, anywhere in its code."""
    modules = {
        ".".join(p.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): p
        for p in PACKAGE.rglob("*.py")
    }
    found = {}
    for name in modules.keys() - {"__init__", "__main__", "book.template.claim"}:
        froms = [node for node in ast.walk(ast.parse(modules[name].read_text())) if isinstance(node, ast.ImportFrom)]
        inside = [node for node in froms if (node.module or "").startswith("flatlib.")]
        parts = [f"{node.module}.{alias.name}".removeprefix("flatlib.") for node in inside for alias in node.names]
        found[name] = {part if part in modules else part.rpartition(".")[0] for part in parts} - {name}
    return found


def room(module: str) -> str:
    return module.partition(".")[0]


def test_rooms_are_those_of_the_design() -> None:
    assert {room(module) for module in imports()} == {*GROUND, *ROOMS}


def test_imports_point_up() -> None:
    order = dict.fromkeys(GROUND, 0) | {name: place for place, name in enumerate(ROOMS, start=1)}
    pairs = [(one, other) for one, others in imports().items() for other in others]
    assert not [(one, other) for one, other in pairs if order[room(other)] > order[room(one)]]


def test_modules_form_no_cycle() -> None:
    TopologicalSorter(imports()).prepare()


def test_figures_see_tables_only() -> None:
    seen = [others for one, others in imports().items() if room(one) == "figures"]
    assert {room(other) for other in set().union(*seen)} <= TABLES_ONLY


def test_files_fit_in_250_lines() -> None:
    assert not [path.name for path in PACKAGE.rglob("*.py") if len(path.read_text().splitlines()) > 250]
