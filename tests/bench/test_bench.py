"""The benchmark at its smallest: one network on digits, every library that is installed."""

import json

import pytest

from flatlib.bench import exact
from flatlib.bench.curvature import ACCURACY, benchmark, oracle, ratios, reference, report
from flatlib.bench.libraries import LIBRARIES, unusable
from flatlib.bench.problems import NAMES, Problem, problems, select_names
from flatlib.bench.timing import alternating, median_ratio, peak_memory_of
from flatlib.cli import main
from flatlib.curvature import top_eigenvalues
from flatlib.errors import FlatlibError

SMALLEST = ["--cases", "mlp init 1000", "--dataset", "digits", "--repeats", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def problem():
    (problem,) = problems(["mlp init 1000"], "digits", "cpu")
    return problem


@pytest.fixture(scope="module")
def entries(problem):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flatlib.bench.curvature.peak_memory_of", lambda *arguments: 2**20)
        return [benchmark(problem, repeats=2)]


def test_every_library_reaches_the_accuracy(entries):
    (entry,) = entries
    for name in LIBRARIES:
        if "missing" not in entry[name]:
            assert max(entry[name]["errors"]) <= ACCURACY
            assert len(entry[name]["seconds"]) == len(entry[name]["products"]) == 2
    assert "missing" not in entry["PyHessian"]
    assert min(entry["PyHessian"]["products"]) > 2, "products are counted"
    assert entry["flatlib"]["effort"] >= entry["flatlib, certified"]["effort"]


def test_reference_and_oracle(problem):
    exact = reference(problem)
    operator = problem.hessian()
    found = top_eigenvalues(operator, tol=1e-4, start="random")
    assert float(found.values[0]) == pytest.approx(exact, rel=1e-4)
    needed, product = oracle(problem, exact, 2)
    assert max(needed["products"]) <= found.products
    assert product(0).shape == (operator.shape[0],)


def test_times_are_taken_in_turn(entries):
    order = []
    seconds = alternating({"a": lambda repeat: order.append("a"), "b": lambda repeat: order.append("b")}, 2)
    assert order == ["a", "b", "a", "b"]
    assert {len(times) for times in seconds.values()} == {2}
    assert median_ratio([2.0, 6.0, 4.0], [1.0, 1.0, 2.0]) == 2.0
    table = ratios(entries)
    ours, theirs = (entries[0][name]["seconds"] for name in ("flatlib", "PyHessian"))
    assert table.loc["mlp init 1000", "PyHessian"] == pytest.approx(median_ratio(theirs, ours))
    assert "geometric mean" in report(entries)


def test_unusable_libraries(problem, monkeypatch):
    train_mode = Problem("n", problem.model, problem.batches, "train")
    assert unusable("PyHessian", train_mode) == "cannot: evaluation mode only"
    assert unusable("flatlib", train_mode) is None
    monkeypatch.setitem(LIBRARIES, "PyHessian", LIBRARIES["PyHessian"]._replace(package="no_such_package"))
    assert unusable("PyHessian", problem) == "not installed"


def test_cases_match_patterns():
    assert select_names("mlp *, vgg11_bn*train-mode") == [*NAMES[1:5], "vgg11_bn trained 1000 train-mode"]
    with pytest.raises(FlatlibError, match="matches none of"):
        select_names("resnet*")


def test_language_models_are_measured_alike(monkeypatch):
    monkeypatch.setattr("flatlib.bench.language_model.UPDATES", 10)
    start, trained = problems(["gpt init 1000", "gpt trained 1000"], "digits", "cpu")
    assert sum(p.numel() for p in start.model.parameters()) == pytest.approx(0.35e6, rel=0.05)
    ((x, y),) = start.batches
    assert start.loss(trained.model(x), y) < 0.9 * start.loss(start.model(x), y)
    small = Problem("gpt", trained.model, [(x[:40], y[:40])])
    found = {
        name: LIBRARIES[name].solve(small, LIBRARIES[name].efforts[-1], 0).value
        for name in LIBRARIES
        if unusable(name, small) is None
    }
    assert {"flatlib", "PyHessian"} <= set(found)
    assert "dense Hessian" not in found
    assert list(found.values()) == pytest.approx([reference(small)] * len(found), rel=1e-2)
    with pytest.raises(FlatlibError, match="matches none of"):
        select_names("gpt*", exact.CASES)


def test_command_prints_and_writes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("flatlib.bench.curvature.peak_memory_of", lambda *arguments: 2**20)
    output = tmp_path / "new" / "bench.json"
    assert main(["bench", "curvature", *SMALLEST, "--output", str(output)]) == 0
    assert json.loads(output.read_text())["entries"][0]["problem"] == "mlp init 1000"
    assert "PyHessian" in capsys.readouterr().out
    assert main(["bench", "curvature", "--repeats", "0"]) == 2


def test_peak_memory_of_a_process(problem):
    assert 2**20 < peak_memory_of("flatlib", problem, 1e-2) < 2**28


def test_exact_quantities(tmp_path, capsys):
    output = tmp_path / "exact.json"
    assert main(["bench", "exact", *SMALLEST, "--output", str(output)]) == 0
    (entry,) = json.loads(output.read_text())["entries"]
    assert entry["trace_is_exact"]
    assert entry["jacobian_error"] < 1e-5
    assert "trace / gradient" in capsys.readouterr().out


def test_benchmark_resumes(tmp_path, capsys, monkeypatch):
    output, other = tmp_path / "exact.json", tmp_path / "list.json"
    other.write_text("[]")
    timed = []

    def benchmark(problem, repeats):
        timed.append(problem.name)
        if timed == ["mlp init 1000", "mlp/10 init 1000"]:
            raise KeyboardInterrupt
        names = ("gradient", "trace", "jacobian_norm", "vmap(jacrev)")
        return {"problem": problem.name, "trace_is_exact": True, "seconds": {name: [1.0] for name in names}}

    def ask(path, repeats="1", what="exact"):
        options = ["--cases", "mlp* init 1000", "--repeats", repeats, "--output", str(path)]
        return main(["bench", what, *SMALLEST, *options])  # of an option given twice the last counts

    monkeypatch.setattr("flatlib.bench.exact.benchmark", benchmark)
    monkeypatch.setattr("flatlib.bench.exact.CASES", ("mlp init 1000", "mlp/10 init 1000"))
    assert ask(output) == 130
    (kept,) = json.loads(output.read_text())["entries"]
    assert kept["provenance"]["device"] == "cpu"
    assert ask(output) == 0
    assert timed == ["mlp init 1000", "mlp/10 init 1000", "mlp/10 init 1000"]
    assert "1 of 2 cases are there" in capsys.readouterr().err
    whole = output.read_text()
    assert json.loads(whole)["entries"][0] == kept
    for path, repeats, message in ((output, "2", "was taken with another repeats"), (other, "1", "is no benchmark")):
        assert ask(path, repeats) == 2
        assert message in capsys.readouterr().err
    monkeypatch.setattr("flatlib.bench.curvature.CASES", ("mlp init 1000",))
    assert ask(output, what="curvature") == 2
    assert "was taken with another benchmark" in capsys.readouterr().err
    assert (output.read_text(), other.read_text()) == (whole, "[]")
