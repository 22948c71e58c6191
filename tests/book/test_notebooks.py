"""Committed notebooks as pages: sections, numbers that come from outputs, captions, no traces of a run."""

import re

import nbformat
import pytest

from flatlib.book.paths import find_root, notebooks, other_pages
from flatlib.book.results import SCALES
from flatlib.claims import CLAIMS, label_smoothing
from flatlib.claims.along_run import FITTED
from notebook_text import code, prose

CHAPTERS = notebooks(find_root())
PAGES = CHAPTERS | other_pages(find_root())
SECTIONS = [
    *(r"What the papers? predicts?", r"The experiment", r"What we see", r"The verdict"),
    *(r"What else could explain it", r"Where we differ from the papers?", r"Rerun it yourself"),
]
RESULTS = {"What we see", "The verdict", "What else could explain it"}  # where every number of a chapter must be glued
COMMANDS = re.compile(r"```.*?```", re.DOTALL)
MARKUP = [  # what is no prose: commands, roles, code, addresses, mathematics, directives
    *(r"```.*?```", r"\{[\w:]+\}`[^`]*`", r"`[^`]*`", r"\]\([^)]*\)"),
    *(r"\$\$.*?\$\$", r"\$[^$]*\$", r"^:+[^\n]*$"),
]
REFERENCE = re.compile(r"(?i)\b(equations?|figures?|sections?|theorem|tables?) \d[\d.]*( (and|to) \d+)?")
NUMBER = re.compile(r"(?<![\w-])\d+(?:\.\d+)?")
PROTOCOL = {"95", "99", f"{FITTED:g}", f"{100 * label_smoothing.ACCURATE:g}"}  # may be written out


@pytest.fixture(params=PAGES)
def name(request):
    return request.param


@pytest.fixture
def page(name):
    """Return a committed notebook."""
    return nbformat.read(PAGES[name], 4)


def source(page) -> str:
    return "\n".join(cell.source for cell in code(page))


def plain(text: str) -> str:
    for pattern in MARKUP:
        text = re.sub(pattern, " ", text, flags=re.DOTALL | re.MULTILINE)
    return REFERENCE.sub(" ", text)


def test_chapters_have_the_same_sections(name, page):
    headings = re.findall(r"^(#+) (.*)$", COMMANDS.sub("", prose(page)), flags=re.MULTILINE)
    assert [level for level, _ in headings] == ["#", *["##"] * (len(headings) - 1)]
    assert page.cells[0].source.startswith("# ")
    if name in CHAPTERS:
        titles = [title for _, title in headings[1:]]
        assert len(titles) == len(SECTIONS)
        assert all(re.fullmatch(section, title) for section, title in zip(SECTIONS, titles, strict=True))


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_card_states_the_claim(chapter):
    text = nbformat.read(CHAPTERS[chapter], 4).cells[0].source
    spoken = text.replace(r"$\lambda_{\max}$", "λ_max").replace(r"$2/\eta$", "2/η")
    assert CLAIMS[chapter].sentence in spoken.replace(r"$\lambda_{\max} = 2/\eta$", "").replace("\n", " ")


def test_code_is_short_and_defines_nothing(page):
    assert max(sum(bool(line.strip()) for line in cell.source.splitlines()) for cell in code(page)) <= 20
    assert not re.search(r"^\s*(def|class) |\blambda [a-z_]+: .*\bif\b", source(page), re.MULTILINE)


def test_numbers_in_prose_are_glued(name, page):
    shown = [output for cell in code(page) if "show_source(" in cell.source for output in cell.outputs]
    settings = [source(page), *(output["data"]["text/plain"] for output in shown)]
    allowed = set(re.findall(r"\d+(?:\.\d+)?", "\n".join(settings)))
    if name not in CHAPTERS:
        assert set(NUMBER.findall(plain(prose(page)))) <= allowed
    for section in re.split(r"^## ", prose(page), flags=re.MULTILINE)[1:]:
        title, text = section.split("\n", 1)
        if name in CHAPTERS and title in RESULTS:
            assert set(NUMBER.findall(plain(text))) <= allowed | PROTOCOL, title


def test_figures_have_captions(page):
    drawn = [cell for cell in code(page) if "plt.show()" in cell.source]
    assert drawn
    for cell in drawn:
        about = cell.metadata["mystnb"]
        assert about["figure"]["name"].startswith("fig-")
        assert len(about["figure"]["caption"].split()) >= 8
        assert len(about["image"]["alt"].split()) >= 6
        assert f"{{numref}}`{about['figure']['name']}`" in prose(page), "a figure that no sentence leads to"
    names = [cell.metadata["mystnb"]["figure"]["name"] for cell in drawn]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_result_comes_first(chapter):
    """The card has the result and all verdicts; the first figure follows it, and its caption says what is found."""
    page = nbformat.read(CHAPTERS[chapter], 4)
    card = page.cells[0].source
    assert ["{glue:md}`result:myst`" in card, "{glue:md}`strip:myst`" in card] == [True, True]
    first = next(cell for cell in code(page) if "plt.show()" in cell.source)
    before = page.cells[1 : page.cells.index(first)]
    assert {cell.cell_type for cell in before} == {"code"}, "prose between the card and the figure"
    assert first.metadata["mystnb"]["figure"]["caption"].startswith("**{glue:text}`finding`**")
    assert "figures.verdict_intervals(verdicts, ax)" in source(page)
    assert re.search(r"^show_exercise\(chapter, question, \w+=", source(page), re.MULTILINE)


def test_glued_names_come_from_the_page(name, page):
    text = source(page)
    by_chapter = {"verdict", "verdict_sentence", "scale", "finding"} if "chapter.glue_verdicts(" in text else set()
    by_chapter |= {f"finding {scale}" for scale in SCALES} | {"result:myst", "strip:myst"} if by_chapter else set()
    if "chapter.report_exclusions(" in text:
        by_chapter |= {"n_runs", "n_reached", "n_capped", "n_diverged", "n_unconverged", "worst_residual"}
    captions = [cell.metadata.get("mystnb", {}).get("figure", {}).get("caption", "") for cell in code(page)]
    for glued in re.findall(r"\{glue:\w+\}`([^`]+)`", "\n".join([prose(page), *captions])):
        family = glued.rpartition("_")[0]
        assert glued in by_chapter or re.search(rf"\b{glued}=|{family}_\{{", text), glued
    quoted = re.compile(r"glue_(texts|verdicts)\(|report_exclusions\(|\bshow\(")
    checked = [cell for cell in code(page) if quoted.search(cell.source.replace("plt.show()", ""))]
    tagged = [cell for cell in checked if "nbval-check-output" in cell.metadata.get("tags", [])]
    assert tagged == checked


def test_no_traces_of_a_run(name, page):
    assert set(page.metadata) == {"kernelspec", "language_info"}
    assert not any({"papermill", "execution"} & set(cell.metadata) for cell in page.cells)
    tags = [cell.metadata.get("tags", []) for cell in page.cells]
    assert not any("injected-parameters" in of_cell for of_cell in tags)
    assert tags.count(["parameters", "hide-input"]) == (name in CHAPTERS)


def test_a_page_is_executed_in_order(page):
    assert [cell.execution_count for cell in code(page)] == list(range(1, len(code(page)) + 1))
    for cell in code(page):
        assert not [out for out in cell.outputs if out.output_type == "error" or out.get("name") == "stderr"]
        assert str(find_root()) not in str(cell.outputs)
        drawn = any("image/svg+xml" in output.get("data", {}) for output in cell.outputs)
        assert drawn or "plt.show()" not in cell.source
