"""Every chapter rerun at the smallest scale with `flatlib run`; what it computed."""

import contextlib
import functools
import io
import re
import subprocess
import sys
from types import SimpleNamespace

import nbformat
import pytest
from chapter_pages import CHAPTERS, PRESETS, ROOT, given, open_page, quick
from notebook_text import code, prose

from flatlib import stats
from flatlib.book.chapter import Chapter
from flatlib.book.execute import glued
from flatlib.claims import progressive_sharpening as ps
from flatlib.cli import main
from flatlib.runs import records


def flatlib_run(*arguments) -> SimpleNamespace:
    """Return the exit code, output and messages of `flatlib run ...`."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        status = main(["run", *map(str, arguments)])
    return SimpleNamespace(status=status, out=out.getvalue(), err=err.getvalue())


def state_of_the_checkout() -> list[bytes]:
    return [path.read_bytes() for path in [*CHAPTERS.values(), *sorted(PRESETS.rglob("*.yaml"))]]


@pytest.fixture(scope="session")
def rerun(tmp_path_factory):
    """Return a chapter's rerun by its name: done when it is first requested, in folders of its own."""

    @functools.cache
    def done(chapter: str) -> SimpleNamespace:
        folder = tmp_path_factory.mktemp(chapter)
        places = ["--records", folder / "records", "--output", folder / "pages"]
        before = state_of_the_checkout()
        command = flatlib_run(chapter, "--preset", "smoke", "--device", "cpu", "--workers", 1, *places, *given(chapter))
        assert command.status == 0, command.err
        at = quick(chapter, records=str(folder / "records"))
        page = nbformat.read(folder / "pages" / f"{chapter}.ipynb", 4)
        untouched = state_of_the_checkout() == before
        return SimpleNamespace(command=command, untouched=untouched, at=at, lines=records.read(at.record), page=page)

    return done


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_rerun_ends_with_its_verdict(rerun, chapter):
    command = rerun(chapter).command
    assert command.out.count("\n") == 1
    assert command.out.startswith(f"{chapter}: inconclusive"), "two seeds or one decide nothing"
    assert command.err.count(" runs done, 0 left") >= 1


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_rerun_leaves_the_checkout_unchanged(rerun, chapter):
    done = rerun(chapter)
    assert done.untouched
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
def test_every_requested_run_is_recorded_and_counted(monkeypatch, rerun, chapter):
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
    endings = page["runs"]["status"].value_counts()
    told = {name: int(glued(done.page, f"n_{name}")) for name in ("runs", "reached", "capped", "diverged")}
    counts = {name: endings.get(name, 0) for name in ("reached", "capped", "diverged")}
    assert told == {"runs": len(page["runs"])} | counts
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
