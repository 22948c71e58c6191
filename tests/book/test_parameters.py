"""A chapter's parameters: what its cell declares, and nothing of another type or name."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from flatlib.book.parameters import check, coerce, declared, defaults, injected, preset
from flatlib.book.paths import find_root, notebooks
from flatlib.errors import FlatlibError

ROOT = find_root()
CELL = """\
name: str = "a"  # a text
count: int = 3  # a whole number
rate: float = 0.1  # a number
on: bool = True  # a switch
seeds: list[int] = [0, 1]  # a list
rates: list[float] = [0.1]  # a list of numbers
"""


@pytest.fixture
def notebook(tmp_path):
    """Return a notebook with one parameter of each kind."""
    cells = [new_code_cell(CELL, metadata={"tags": ["parameters"]}), new_code_cell("1 / 0")]
    nbformat.write(new_notebook(cells=cells), tmp_path / "own.ipynb")
    return tmp_path / "own.ipynb"


COERCED = {
    "str": [("abc", "abc"), ("1", "1"), ("[1]", "[1]"), ("", "")],
    "int": [(3, 3), ("3", 3), (500.0, 500), ("500.0", 500), ("1e3", 1000), (-2.0, -2)],
    "float": [(3, 3.0), ("3", 3.0), ("1e-3", 1e-3), ("0.5", 0.5)],
    "bool": [(True, True), ("false", False)],
    "list[int]": [("[0, 1]", [0, 1]), ([0, 1], [0, 1]), ("[]", []), ("[1e3, 2.0]", [1000, 2])],
    "list[float]": [("[1, 1e-3, 0.5]", [1.0, 1e-3, 0.5]), (["1e-3"], [1e-3])],
}
REFUSED = {
    "int": (1.5, "1.5", "1e-3", "1e999", "nan", "abc", "", None, True, "true", [1], "[1]", "{a: 1}"),
    "float": ("abc", "", None, True, [0.1], "[0.1]", "2020-01-01", "!!python/none x", 10**400),
    "bool": (1, 0, "1", "maybe", None),
    "list[int]": (1, "1", "1, 2", "[1, 2", "[1.5]", "[[1]]", [True], "{1: 2}", None),
    "list[float]": (0.1, "[a]", ["b"], [None]),
    "str": (1, None, ["a"]),
}


@pytest.mark.parametrize("kind", COERCED)
def test_values_become_the_declared_type(kind):
    for value, expected in COERCED[kind]:
        assert repr(coerce("x", value, kind)) == repr(expected), "equal, and of the same types"


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind, values in REFUSED.items() for value in values])
def test_another_type_is_one_line(kind, value):
    with pytest.raises(FlatlibError, match=r"^rate: ") as error:
        coerce("rate", value, kind)
    assert "\n" not in str(error.value)


def test_defaults_are_read_and_not_executed(notebook):
    values = {"name": "a", "count": 3, "rate": 0.1, "on": True, "seeds": [0, 1], "rates": [0.1]}
    assert defaults(notebook) == values
    assert declared(notebook)["seeds"].kind == "list[int]"
    assert check(notebook, values) == values


def test_check_converts_known_names_only(notebook):
    given = {"rate": 1, "seeds": "[2]", "rates": [1], "on": "true"}
    assert check(notebook, given) == {"rate": 1.0, "seeds": [2], "rates": [1.0], "on": True}
    with pytest.raises(FlatlibError, match="'sead'; allowed: name, count, rate, on, seeds, rates"):
        check(notebook, {"seeds": "[1]", "sead": 1})


def test_the_parameters_cell_is_required(tmp_path):
    nbformat.write(new_notebook(cells=[new_code_cell("x = 1")]), tmp_path / "none.ipynb")
    with pytest.raises(FlatlibError, match="has no cell tagged 'parameters'"):
        declared(tmp_path / "none.ipynb")


def test_pages_have_the_small_preset():
    for source in notebooks(ROOT).values():
        values = preset(ROOT / "book" / "presets" / "small" / f"{source.stem}.yaml")
        assert check(source, defaults(source)) == defaults(source)
        assert defaults(source) | values == defaults(source)


INJECTED = "# Parameters\nseeds = [1]\nsead = 2\n"


def test_papermills_names_are_found():
    cells = ["%pip install x", "seeds: list[int] = [0]\ny = 1", INJECTED]
    assert injected({"In": cells, "seeds": [1], "sead": 2, "y": 1}) == ["sead"]
    assert injected({"In": [*cells, *cells]}) == ["sead"], "also the second time"
    assert injected({"x": 1}) == []


def test_a_copy_may_have_parameters_of_its_own():
    assert injected({"In": ["seeds: list[int] = [0]\nsead: int = 1", INJECTED, "sead = 3", INJECTED]}) == []


@pytest.mark.parametrize("text", ["", "# only a comment\n", "{}"])
def test_an_empty_preset_changes_nothing(tmp_path, text):
    (tmp_path / "x.yaml").write_text(text)
    assert preset(tmp_path / "x.yaml") == {}


@pytest.mark.parametrize(
    "content", [b"- a\n", b"just text", b"3", b"a: [1", b"a: b: c", b"\xff\xfe\xff", b"!!python/none x"]
)
def test_a_malformed_preset_is_one_line(tmp_path, content):
    (tmp_path / "x.yaml").write_bytes(content)
    with pytest.raises(FlatlibError, match=r"x\.yaml: ") as error:
        preset(tmp_path / "x.yaml")
    assert "\n" not in str(error.value)
