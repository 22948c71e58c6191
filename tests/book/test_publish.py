"""A book that is published, and a book on paper."""

import json
import os
import re
import shutil
import subprocess
from xml.etree import ElementTree

import pytest
import yaml
from browser import CHROMIUM, PAGES, ROOT

import flatlib.book.build
from flatlib import cli
from flatlib.book import pdf
from flatlib.book.paths import notebooks, other_pages
from flatlib.book.publish import Site
from flatlib.errors import FlatlibError

WORKFLOWS = {path.name: yaml.safe_load(path.read_text()) for path in (ROOT / ".github" / "workflows").glob("*.yml")}
SITE = Site("https://github.com/OWNER/NAME", url="https://example.org/book", notebooks="notebooks")
CHAPTER = "book/claims/03_sam"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The folder of the book as its workflow builds it."""
    return flatlib.book.build.build(output=tmp_path_factory.mktemp("published"), site=SITE).parent


@pytest.mark.parametrize("repository", ["https://github.com/A-b/c.d", "https://github.com/A-b/c.d.git"])
def test_a_repository_has_one_address_and_its_pages_have_one(repository):
    assert Site(repository).source == "https://github.com/A-b/c.d"
    assert Site(repository).address == "https://a-b.github.io/c.d/"
    assert Site(repository, url="https://example.org").address == "https://example.org/"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--repository", "OWNER/NAME"], "expected https://github.com/OWNER/NAME, got 'OWNER/NAME'"),
        (["--repository", "https://github.com/a/b", "--url", "example.org"], "expected an address such as"),
        (["--url", "https://example.org"], "they need --repository"),
    ],
)
def test_an_address_that_is_none_is_one_line(options, message, capsys):
    assert cli.main(["book", *options]) == 2
    assert message in capsys.readouterr().err


def test_the_sitemap_has_every_page(published):
    found = [place.text for place in ElementTree.parse(published / "sitemap.xml").iter() if place.tag.endswith("loc")]
    assert sorted(found) == sorted(f"https://example.org/book/{page}" for page in PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_a_published_page_has_its_address_and_a_card(published, page):
    text = (published / page).read_text(encoding="utf-8")
    assert f'<link rel="canonical" href="https://example.org/book/{page}" />' in text
    assert f'<meta property="og:url" content="https://example.org/book/{page}" />' in text
    assert '<meta property="og:image" content="https://example.org/book/_static/card.png" />' in text
    assert '<meta property="og:site_name" content="Sharpness and generalization" />' in text
    assert "\\" not in re.search(r'<meta property="og:description" content="([^"]*)"', text)[1], "TeX is not for cards"


def test_the_card_of_a_chapter_says_its_claim(published):
    text = (published / f"{CHAPTER}.html").read_text(encoding="utf-8")
    assert 'content="Claim Sharpness-aware minimization finds smaller λmax at every batch size, but' in text


def test_a_chapter_opens_on_binder_and_on_colab(published):
    text = (published / f"{CHAPTER}.html").read_text(encoding="utf-8")
    assert f'href="https://mybinder.org/v2/gh/OWNER/NAME/main?urlpath=lab/tree/{CHAPTER}.ipynb"' in text
    assert f'href="https://colab.research.google.com/github/OWNER/NAME/blob/notebooks/{CHAPTER}.ipynb"' in text
    assert (published / "_sources" / f"{CHAPTER}.ipynb").is_file(), "what Colab opens"


def test_what_colab_opens_installs_flatlib_first(published):
    cells = json.loads((published / "_sources" / f"{CHAPTER}.ipynb").read_text(encoding="utf-8"))["cells"]
    first = next(cell for cell in cells if cell["cell_type"] == "code")
    assert first["source"].splitlines()[1:] == [
        "!git clone -q --depth 1 --branch main https://github.com/OWNER/NAME",
        "%pip install -q ./NAME",
        "%cd NAME/book/claims",
        "# This chapter at the smallest scale, from the start: !flatlib run 03_sam --preset smoke",
    ]


def test_without_an_address_no_page_has_a_button_that_leads_nowhere(pages):
    assert not (pages / "sitemap.xml").exists()
    for page in PAGES:
        text = (pages / page).read_text(encoding="utf-8")
        assert not re.search(
            r'mybinder|colab\.research|rel="canonical"|property="og:|executablebooks/jupyter-book', text
        )


@pytest.mark.parametrize("path", [*notebooks(ROOT).values(), *other_pages(ROOT).values()], ids=lambda path: path.stem)
def test_every_notebook_can_be_downloaded_as_it_is_committed(pages, path):
    place = path.relative_to(ROOT)
    assert f'_sources/{place}"' in (pages / place.with_suffix(".html")).read_text(encoding="utf-8")
    assert (pages / "_sources" / place).read_bytes() == path.read_bytes()


def steps(workflow):
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_takes_official_actions_at_a_major_version(name):
    used = [step["uses"] for step in steps(WORKFLOWS[name]) if "uses" in step]
    assert used
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", action) for action in used)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_every_line_of_a_workflow_is_a_command_that_exists(name):
    lines = [line for step in steps(WORKFLOWS[name]) for line in step.get("run", "").strip().splitlines()]
    assert lines
    for line in lines:
        program, *rest = re.sub(r"\$\{\{.*?\}\}", "https://github.com/a/b", line).replace('"', "").split()
        if program == "flatlib":
            cli.parser().parse_args(rest)
        elif program == "bash":
            assert (ROOT / rest[0]).is_file()
        else:
            assert program in ("git", "pip"), line


def test_the_workflow_publishes_the_notebooks_where_colab_looks_for_them(published, tmp_path):
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


def test_without_a_browser_printing_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(pdf, "BROWSERS", ("no-such-browser",))
    assert cli.main(["book", "--pdf", "book.pdf"]) == 2
    assert "flatlib: no Chromium and no Chrome was found" in capsys.readouterr().err


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_the_whole_book_is_printed(tmp_path):
    file = pdf.print_book(tmp_path / "book.pdf")
    assert file.read_bytes().startswith(b"%PDF")
    assert [path.name for path in tmp_path.iterdir()] == ["book.pdf"]
    reader = pytest.importorskip("pypdfium2", reason="pypdfium2 is not installed").PdfDocument(file)
    assert len(reader) >= 3 * len(PAGES)
    text = "".join(page.get_textpage().get_text_range() for page in reader)
    missing = [
        name for name in ("What the paper predicts", "Rerun it yourself", "Fig. 1 ", "References") if name not in text
    ]
    assert missing == []
    reader.close()


def test_a_browser_that_fails_is_one_line(tmp_path):
    with pytest.raises(FlatlibError, match="could not print the book"):
        pdf.print_page(shutil.which("false"), tmp_path / "page.html", tmp_path / "book.pdf")
