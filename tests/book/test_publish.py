"""The published book, the workflows that publish it, and the printed book."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from browser import CHROMIUM, PAGES, ROOT
from flatlib import cli
from flatlib.book import pdf
from flatlib.book.build import add_address, build
from flatlib.book.plain_markdown import markup_left
from flatlib.errors import FlatlibError

WORKFLOWS = {path.name: yaml.safe_load(path.read_text()) for path in (ROOT / ".github" / "workflows").glob("*.yml")}
ADDRESS = {"repository": "https://github.com/OWNER/NAME", "url": "https://example.org/book", "notebooks": "notebooks"}
CHAPTER = "book/claims/03_sam"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Return the folder of the book as its workflow builds it."""
    return build(output=tmp_path_factory.mktemp("published"), address=ADDRESS).parent


@pytest.mark.parametrize("repository", ["https://github.com/A-b/c.d", "https://github.com/A-b/c.d.git"])
@pytest.mark.parametrize(("url", "address"), [("", "https://a-b.github.io/c.d/"), ("http://a.b", "http://a.b/")])
def test_an_address_sets_repository_and_baseurl(tmp_path, repository, url, address):
    shutil.copy(ROOT / "_config.yml", tmp_path)
    add_address(tmp_path / "_config.yml", repository, url=url)
    settings = yaml.safe_load((tmp_path / "_config.yml").read_text())
    assert settings["repository"] == {"url": "https://github.com/A-b/c.d", "branch": "main"}
    assert settings["html"]["baseurl"] == address


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--repository OWNER/NAME", "expected https://github.com/OWNER/NAME"),
        ("--repository https://github.com/a/b --url example.org", "expected an address such as"),
        ("--url https://example.org", "--repository"),
    ],
)
def test_a_malformed_address_is_one_line(options, message, capsys):
    assert cli.main(["book", *options.split()]) == 2
    assert message in capsys.readouterr().err


def test_the_sitemap_has_every_page(published):
    found = [place.text for place in ElementTree.parse(published / "sitemap.xml").iter() if place.tag.endswith("loc")]
    assert sorted(found) == sorted(f"https://example.org/book/{page}" for page in PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_a_published_page_has_a_card(published, page):
    text = (published / page).read_text(encoding="utf-8")
    assert f'<link rel="canonical" href="https://example.org/book/{page}" />' in text
    card = dict(re.findall(r'<meta property="og:(\w+)" content="([^"]*)"', text))
    assert card["url"] == f"https://example.org/book/{page}"
    assert card["image"] == "https://example.org/book/_static/card.png"
    assert card["site_name"] == "Sharpness and generalization"
    assert "\\" not in card["description"], "TeX is not for cards"


def test_chapters_open_on_binder_and_colab(published):
    text = (published / f"{CHAPTER}.html").read_text(encoding="utf-8")
    assert f'href="https://mybinder.org/v2/gh/OWNER/NAME/main?urlpath=lab/tree/{CHAPTER}.ipynb"' in text
    assert f'href="https://colab.research.google.com/github/OWNER/NAME/blob/notebooks/{CHAPTER}.ipynb"' in text
    cells = json.loads((published / "_sources" / f"{CHAPTER}.ipynb").read_text(encoding="utf-8"))["cells"]
    first = next(cell for cell in cells if cell["cell_type"] == "code")
    assert first["source"].splitlines()[1:4] == [
        "!git clone -q --depth 1 --branch main https://github.com/OWNER/NAME",
        "%pip install -q './NAME[book]'",
        "%cd NAME/book/claims",
    ]


@pytest.mark.parametrize("page", PAGES)
def test_without_an_address_no_buttons(pages, page):
    text = (pages / page).read_text(encoding="utf-8")
    assert not re.search(r'mybinder|colab\.research|rel="canonical"|property="og:|executablebooks/jupyter-book', text)
    assert not (pages / "sitemap.xml").exists()


def steps(workflow):
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_runs_what_exists(name):
    """Official actions at a major version, and commands that flatlib, git, pip and bash know."""
    used = [step["uses"] for step in steps(WORKFLOWS[name]) if "uses" in step]
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", action) for action in used)
    assert all("timeout-minutes" in job for job in WORKFLOWS[name]["jobs"].values())
    assert not any("${{" in step.get("run", "") for step in steps(WORKFLOWS[name])), "an expression is code in a script"
    for line in [line for step in steps(WORKFLOWS[name]) for line in step.get("run", "").strip().splitlines()]:
        program, *rest = line.replace('"', "").split()
        if program == "flatlib":
            cli.parser().parse_args(rest)
        elif program == "bash":
            assert (ROOT / rest[0]).is_file()
        else:
            assert program in ("git", "pip"), line


def test_the_workflow_publishes_notebooks(published, tmp_path):
    def run(*command, cwd=tmp_path):
        here = {"PATH": os.environ["PATH"], "GITHUB_SHA": "f00", "GIT_CONFIG_GLOBAL": os.devnull}
        return subprocess.run(command, cwd=cwd, check=True, env=here, capture_output=True, text=True).stdout

    checkout = tmp_path / "checkout"
    run("git", "init", "--quiet", "--bare", "origin")
    run("git", "clone", "--quiet", "origin", "checkout")
    shutil.copy(ROOT / ".gitignore", checkout)
    run("git", "add", "--all", cwd=checkout)
    run("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--message", "main", cwd=checkout)
    shutil.copytree(published / "_sources", checkout / "_build" / "html" / "_sources")
    (script,) = [step["run"] for step in steps(WORKFLOWS["pages.yml"]) if "git push" in step.get("run", "")]
    run("bash", "-euc", script, cwd=checkout)
    found = run("git", "ls-tree", "-r", "--name-only", "notebooks", cwd=tmp_path / "origin").split()
    assert f"{CHAPTER}.ipynb" in found
    assert ".gitignore" not in found


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_the_whole_book_is_printed(tmp_path):
    file = pdf.print_book(tmp_path / "book.pdf")
    assert file.read_bytes().startswith(b"%PDF")
    assert [path.name for path in tmp_path.iterdir()] == ["book.pdf"]
    reader = pytest.importorskip("pypdfium2", reason="pypdfium2 is not installed").PdfDocument(file)
    assert len(reader) >= 3 * len(PAGES)
    text = "".join(page.get_textpage().get_text_range() for page in reader)
    assert all(words in text for words in ("What the paper predicts", "Rerun it yourself", "Fig. 1 ", "References"))
    reader.close()


def test_binder_shows_resolved_notebooks(tmp_path):
    place = f"{CHAPTER}.ipynb"
    for name in ("_toc.yml", "book/references.bib", place, "book/method/curvature.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(["bash", ROOT / ".binder" / "postBuild"], cwd=tmp_path, env=os.environ | {"PATH": path}, check=True)
    text = json.dumps(json.loads((tmp_path / place).read_text(encoding="utf-8"))["cells"][0]["source"])
    assert "Kaur et al. ([2022]" in text
    assert markup_left(text) == []


def test_the_repository_has_one_address():
    """It is named in `pyproject.toml`; `CITATION.cff`, which cannot refer to that, repeats it."""
    address = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["url"] == address
    assert "repository" not in yaml.safe_load((ROOT / "_config.yml").read_text())
    for path in [*(ROOT / ".github").rglob("*.yml"), *(ROOT / ".binder").iterdir()]:
        assert "github.com" not in path.read_text(), path.name


def test_another_jupyter_book_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr("flatlib.book.build.find_spec", lambda name: None if name == "jupyter_book.cli" else True)
    with pytest.raises(FlatlibError, match=r"^the book needs Jupyter Book 1\.x: pip install 'jupyter-book<2'$"):
        build(output=tmp_path)


def test_a_failing_browser_is_one_line(monkeypatch, capsys, tmp_path):
    with pytest.raises(FlatlibError, match="could not print the book"):
        pdf.print_page(shutil.which("false"), tmp_path / "page.html", tmp_path / "book.pdf")
    monkeypatch.setattr(pdf, "BROWSERS", ("no-such-browser",))
    assert cli.main(["book", "--pdf", "book.pdf"]) == 2
    assert "no Chromium and no Chrome" in capsys.readouterr().err
