"""`flatlib new` in a copy of the checkout makes a chapter that passes the tests, as book/contributing.md says."""

import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from flatlib.book import scaffold
from flatlib.book.paths import find_root
from flatlib.errors import FlatlibError

ROOT = find_root()
CHAPTER = "97_dummy_claim"
WRITTEN = [
    "flatlib/claims/dummy_claim.py",
    f"book/claims/{CHAPTER}.ipynb",
    *(f"book/presets/{preset}/{CHAPTER}.yaml" for preset in ("smoke", "small", "paper")),
    "_toc.yml",
]
UNEXECUTED = "executed or svg"  # rules about the outputs of a page that is published already


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """Return a copy of the checkout, and `python -m ...` in it."""
    root = tmp_path_factory.mktemp("checkout")
    for name in ("flatlib", "tests"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "book", root / "book", ignore=shutil.ignore_patterns("_build", "records"))
    for name in ("_toc.yml", "_config.yml", "pyproject.toml"):
        shutil.copy(ROOT / name, root)

    def python(*arguments) -> SimpleNamespace:
        there = {"cwd": root, "env": os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}}
        return subprocess.run([sys.executable, "-m", *arguments], **there, capture_output=True, text=True)

    return SimpleNamespace(root=root, python=python, new=python("flatlib", "new", CHAPTER))


def test_the_command_lists_its_files(checkout):
    assert checkout.new.returncode == 0, checkout.new.stderr
    assert checkout.new.stdout.split() == WRITTEN
    assert f"flatlib run {CHAPTER} --preset smoke" in checkout.new.stderr
    assert f"book/claims/{CHAPTER}\n      - file: book/claims/overview" in (checkout.root / "_toc.yml").read_text()
    for name in WRITTEN:
        assert "template" not in (checkout.root / name).read_text().lower(), name


def test_the_new_chapter_runs(checkout):
    run = checkout.python("flatlib", "run", CHAPTER, "--preset", "smoke", "-p", "seeds", "[0, 1]", "--workers", "1")
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(f"{CHAPTER}: inconclusive: 0 of 1 predictions supported")
    assert (checkout.root / "_build" / "records" / CHAPTER / "smoke.jsonl").read_text().count("\n") == 3 * 2


def test_the_new_chapter_passes_the_tests(checkout):
    rules = [f"tests/book/test_{name}.py" for name in ("notebooks", "presets", "chapters")]
    chosen = f"({CHAPTER} or every_chapter_has) and not ({UNEXECUTED})"
    found = checkout.python("pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *rules, "-k", chosen)
    assert found.returncode == 0, found.stdout[-3000:]


TAKEN = {"04_other": "taken, by 04_dropout", "98_dropout": "dropout.py exists"}
MALFORMED = ("batch_order", "1_batch", "12_Batch", "12_", "12-batch", "../12_batch")


@pytest.mark.parametrize(("name", "message"), (TAKEN | dict.fromkeys(MALFORMED, "two digits and a name")).items())
def test_a_wrong_name_is_refused(name, message):
    with pytest.raises(FlatlibError, match=message):
        scaffold.create(ROOT, name)
