"""Every chapter rerun at the smallest scale with `flatlib run`, and with parameters that leave little to show."""

import contextlib
import functools
import io
import json
import re
import subprocess
import sys
from types import SimpleNamespace

import nbformat
import pytest

from chapter_pages import CHAPTERS, PRESETS, ROOT, given, open_page, quick
from flatlib import stats
from flatlib.book.chapter import Chapter
from flatlib.book.execute import glued
from flatlib.book.paths import read_notebook
from flatlib.book.plain_markdown import markup_left
from flatlib.book.resolve import restore
from flatlib.claims import progressive_sharpening as ps
from flatlib.cli import main
from flatlib.errors import FlatlibError
from flatlib.runs import records
from notebook_text import code, prose

OPEN = {"inconclusive", "not tested here"}


def state_of_the_checkout() -> list[bytes]:
    return [path.read_bytes() for path in [*CHAPTERS.values(), *sorted(PRESETS.rglob("*.yaml"))]]


@pytest.fixture(scope="session")
def rerun(tmp_path_factory):
    """Return a chapter's rerun by its name: done when it is first requested, in folders of its own."""

    @functools.cache
    def done(chapter: str) -> SimpleNamespace:
        folder = tmp_path_factory.mktemp(chapter)
        command = ["run", chapter, "--preset", "smoke", "--device", "cpu", "--workers", "1", *given(chapter)]
        command += ["--records", str(folder / "records"), "--output", str(folder / "pages")]
        before = state_of_the_checkout()
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
            assert main(command) == 0, err.getvalue()
        at, page = quick(chapter, records=str(folder / "records")), folder / "pages" / f"{chapter}.ipynb"
        return SimpleNamespace(
            out=out.getvalue(),
            err=err.getvalue(),
            untouched=state_of_the_checkout() == before,
            at=at,
            lines=records.read(at.record),
            resolved=nbformat.read(page, 4),
            page=nbformat.reads(json.dumps(restore(read_notebook(page))), 4),
        )

    return done


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_rerun_prints_its_verdict_only(rerun, chapter):
    """The committed pages and presets are unchanged, and no run is one that is committed."""
    done = rerun(chapter)
    assert done.out.startswith(tuple(f"{chapter}: {word}: " for word in OPEN)), "two seeds or one decide nothing"
    assert (done.out.count("\n"), done.untouched) == (1, True)
    assert " runs done, 0 left" in done.err
    for committed in (ROOT / "book" / "records" / chapter).glob("*.jsonl"):
        assert not set(done.lines) & set(records.read(committed))


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_figures_are_drawn_and_prose_glued(rerun, chapter):
    page = rerun(chapter).page
    for cell in code(page):
        if "figure" in cell.metadata.get("mystnb", {}):
            assert any("image/svg+xml" in output.get("data", {}) for output in cell.outputs), cell.source
    for name in re.findall(r"\{glue:text\}`([^`]+)`", prose(page)):
        assert glued(page, name).strip() not in ("", "nan")


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_rerun_stands_on_its_own(rerun, chapter):
    """No markup of the book is left, the verdict is on a card, and progress is one line."""
    page = rerun(chapter).resolved
    outputs = [output.get("data", {}) for cell in code(page) for output in cell.outputs]
    shown = [prose(page), *(data.get("text/markdown", "") for data in outputs)]
    assert [left for text in shown for left in markup_left(text)] == []
    assert prose(page).count("**Figure ") == len(set(re.findall(r"\*\*Figure (\d+)\.", prose(page)))) > 0
    cards = [data["text/plain"] for data in outputs if data.get("text/plain", "").startswith("Claim. ")]
    assert len(cards) == 1
    assert any(f"{word} (smoke: " in cards[0] for word in OPEN)
    streams = [output for cell in code(page) for output in cell.outputs if output.output_type == "stream"]
    assert {output.name for output in streams} <= {"stdout"}
    calls = sum(cell.source.count("chapter.run(") for cell in code(page))
    assert sum(output.text.count("\n") for output in streams) <= calls


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_run_is_recorded_and_counted(monkeypatch, rerun, chapter):
    """The page is opened a second time, and its cells are run twice in one process: nothing is trained."""
    done, requested, run = rerun(chapter), [], Chapter.run
    before = (done.at.record.read_bytes(), done.at.record.stat().st_mtime_ns)

    def counted(self, configs):
        requested.extend(config.run_id for config in configs)
        return run(self, configs)

    monkeypatch.setattr("flatlib.runs.executors.train", None)
    monkeypatch.setattr(Chapter, "run", counted)
    page = open_page(monkeypatch, done.at, times=2)
    assert (done.at.record.read_bytes(), done.at.record.stat().st_mtime_ns) == before
    assert requested == [config.run_id for config in done.at.requests()] * 2
    assert set(done.lines) == set(requested)
    endings = page["runs"]["status"].tolist()
    counts = {name: endings.count(name) for name in ("reached", "capped", "diverged")} | {"runs": len(endings)}
    assert {name: int(glued(done.page, f"n_{name}")) for name in counts} == counts
    assert counts["reached"], "nothing to show"


def test_sharpness_falls_with_the_learning_rate(rerun):
    runs = records.table(rerun("01_lr_batch").lines.values()).query("batch_size == 20 and status == 'reached'")
    assert (stats.seed_slopes(runs, "learning_rate", "lambda_max", logy=True) < -0.2).all()
    assert runs["lambda_max_converged"].astype(bool).all()


def test_sharpness_rises_in_the_network_only(rerun):
    runs = records.table(rerun("08_progressive_sharpening").lines.values())
    assert (ps.mean_over_runs(ps.MAIN, ps.rise, "")(runs) > 1).all()
    assert (ps.mean_over_runs(ps.MAIN, ps.jacobian_growth, "")(runs) > 0).all()
    assert (ps.mean_over_runs(ps.LINEAR_MODEL, ps.rise, "")(runs) < 0.25).all()


def papermill(name, output, *options) -> subprocess.CompletedProcess:
    scale = PRESETS / "smoke" / f"{name}.yaml"
    command = [sys.executable, "-m", "papermill", CHAPTERS[name], output, "-f", scale, *options]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=ROOT)


def test_papermill_alone_computes_the_same(tmp_path, rerun):
    name = "03_sam"
    places = ["-p", "records", tmp_path / "plain", "-p", "device", "cpu", "-p", "workers", 1]
    done = papermill(name, tmp_path / "plain.ipynb", *places, *given(name))
    assert done.returncode == 0, done.stderr[-2000:]
    plain = records.read(tmp_path / "plain" / name / "smoke.jsonl")
    assert {run_id: line["measures"] for run_id, line in plain.items()} == {
        run_id: line["measures"] for run_id, line in rerun(name).lines.items()
    }


def test_papermill_reports_a_misspelt_parameter(tmp_path):
    done = papermill("03_sam", tmp_path / "page.ipynb", "-p", "sedes", "1")
    assert done.returncode != 0
    assert "unknown parameter 'sedes'; allowed:" in done.stderr


ODD = {  # beside one value of every list, for every chapter
    "01 some diverge": ("01_lr_batch", {"learning_rates": [0.1, 1e20]}),
    "01 all capped": ("01_lr_batch", {"max_epochs": 1}),
    "02 some diverge": ("02_linear_scaling", {"alphas": [50.0, 1e-19]}),
    "03 no radius": ("03_sam", {"rhos": [0.0]}),
    "03 no plain descent": ("03_sam", {"rhos": [0.1]}),
    "03 one diverges": ("03_sam", {"learning_rates": [0.4, 1e20], "rhos": [0.0, 0.1]}),
    "03 all capped": ("03_sam", {"max_epochs": 1}),
    "04 no dropout": ("04_dropout", {"rates": [0.0]}),
    "04 nothing excessive": ("04_dropout", {"rates": [0.0, 0.2]}),
    "04 one diverges": ("04_dropout", {"learning_rates": [0.2, 1e20]}),
    "05 one diverges": ("05_batch_norm", {"batch_sizes": [20], "learning_rates": [0.2, 1e20]}),
    "05 all capped": ("05_batch_norm", {"batch_sizes": [20], "max_epochs": 1}),
    "06 no weight decay": ("06_weight_decay", {"weight_decays": [0.0]}),
    "06 one diverges": ("06_weight_decay", {"weight_decays": [0.0, 1e20]}),
    "06 two of everything": ("06_weight_decay", {"inputs": ["in [0, 1]", "standardized"], "epochs": [1, 2]}),
    "06 two networks": ("06_weight_decay", {"models": ["softmax_regression", "mlp"]}),
    "07 no tuning": ("07_adam_vs_sgd", {"tuning_seeds": []}),
    "07 all of SGD diverges": ("07_adam_vs_sgd", {"sgd_rates": [1e20], "tuning_seeds": []}),
    "07 the six are capped": ("07_adam_vs_sgd", {"epochs": [4, 1]}),
    "08 no widths": ("08_progressive_sharpening", {"widths": []}),
    "08 one diverges": ("08_progressive_sharpening", {"learning_rates": [0.1, 1e20]}),
    "08 capped at once": ("08_progressive_sharpening", {"max_updates": 1}),
    "09 one diverges": ("09_label_smoothing", {"learning_rates": [0.1, 1e20]}),
    "09 one update": ("09_label_smoothing", {"max_updates": 1}),
    "10 not the coded loss": ("10_minimum_sharpness", {"coded": []}),
    "10 all capped": ("10_minimum_sharpness", {"max_epochs": 1}),
    "11 no regulariser": ("11_regularisers", {"smoothings": [], "augmentations": [], "mixups": [], "rhos": []}),
    "11 one regulariser": ("11_regularisers", {"smoothings": [], "augmentations": [], "mixups": []}),
    "11 some diverge": ("11_regularisers", {"rhos": [0.2, 1e20]}),
}
SHORTER = {  # nothing here needs to be trained well
    "01_lr_batch": {"train_size": 100, "width": 0.05, "batch_sizes": [10, 50], "max_epochs": 12},
    "08_progressive_sharpening": {"train_size": 100, "width": 0.05, "widths": [0.1], "max_updates": 12, "depth": 1},
    "10_minimum_sharpness": {"max_epochs": 20},
}
PAIRED = ("models", "widths", "train_sizes", "epochs", "decays")  # of chapter 7: an item for each comparison
ONE_OF_EVERYTHING = {f"{name} one of everything": (name, None) for name in CHAPTERS}


def first_of_each_list(chapter: Chapter) -> dict:
    """Return the list parameters of a chapter with their first value only."""
    lists = {name: value for name, value in vars(chapter.parameters).items() if isinstance(value, list)}
    return {name: value[:1] for name, value in lists.items() if name not in PAIRED}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Return a record folder for all cases: a run that two have in common is trained once."""
    return str(tmp_path_factory.mktemp("records"))


@pytest.mark.parametrize(("name", "values"), (ODD | ONE_OF_EVERYTHING).values(), ids=ODD | ONE_OF_EVERYTHING)
def test_odd_parameters_make_a_page(monkeypatch, shared, name, values):
    values = SHORTER.get(name, {}) | (first_of_each_list(quick(name)) if values is None else values)
    page = open_page(monkeypatch, quick(name, records=shared, **values))
    judged = page["verdicts"].query("scale == 'smoke'")
    assert len(judged) == len(page["chapter"].claim.predictions)
    assert set(judged["verdict"]) <= OPEN


REFUSED = {
    "nothing is tracked": ("02_linear_scaling", {"tracked_alpha": 7.0}, "no run was tracked"),
    "nothing to choose from": ("07_adam_vs_sgd", {"sgd_rates": [1e20]}, "SGD: no learning rate to choose"),
    "nothing to run": ("04_dropout", {"rates": []}, "dropout: the list of values is empty"),
    "all diverge": ("03_sam", {"learning_rates": [1e20]}, "runs diverged: there is nothing to show"),
}


@pytest.mark.parametrize(("name", "values", "message"), REFUSED.values(), ids=REFUSED)
def test_parameters_without_page_are_refused(monkeypatch, shared, name, values, message):
    with pytest.raises(FlatlibError, match=message) as refused:
        open_page(monkeypatch, quick(name, records=shared, **values))
    assert "\n" not in str(refused.value)
