"""Chapters as pages: the same sections, little code, numbers that come from outputs, nothing left of a run."""

import re
import statistics

import nbformat
import pytest
from notebook_text import code, lines_of, prose

from flatlib.book.paths import find_root, notebooks
from flatlib.claims import CLAIMS, label_smoothing
from flatlib.claims import progressive_sharpening as ps

CHAPTERS = notebooks(find_root())
SECTIONS = [
    *(r"What the papers? predicts?", r"The experiment", r"What we see", r"The verdict"),
    *(r"What else could explain it", r"Where we differ from the papers?", r"Rerun it yourself"),
]
RESULTS = {"What we see", "The verdict", "What else could explain it"}  # where every number must be glued
MARKUP = [
    r"```.*?```",  # commands
    r"\{[\w:]+\}`[^`]*`",  # roles: glue, cite, numref
    r"`[^`]*`",
    r"\]\([^)]*\)",  # addresses
    r"\$[^$]*\$",
    r"^:+[^\n]*$",
]


@pytest.fixture(params=CHAPTERS)
def page(request):
    """Every committed chapter."""
    return nbformat.read(CHAPTERS[request.param], 4)


def plain(text: str) -> str:
    for pattern in MARKUP:
        text = re.sub(pattern, " ", text, flags=re.DOTALL | re.MULTILINE)
    return text


def test_the_sections_are_those_of_every_chapter(page):
    headings = re.findall(r"^(#+) (.*)$", re.sub(r"```.*?```", "", prose(page), flags=re.DOTALL), flags=re.MULTILINE)
    assert [level for level, _ in headings] == ["#", *["##"] * len(SECTIONS)]
    for (_, title), section in zip(headings[1:], SECTIONS, strict=True):
        assert re.fullmatch(section, title)


def test_the_claim_on_the_card_is_the_claim_that_is_judged(request, page):
    spoken = page.cells[0].source.replace(r"$\lambda_{\max}$", "λ_max").replace(r"$2/\eta$", "2/η")
    spoken = spoken.replace(r"$\lambda_{\max} = 2/\eta$", "").replace("\n", " ")
    assert any(claim.sentence in spoken for claim in CLAIMS.values())


def test_code_is_short_and_defines_nothing(page):
    counts = [lines_of(cell) for cell in code(page)]
    assert statistics.median(counts) <= 6
    assert max(counts) <= 20
    assert not re.search(r"^\s*(def|class) |\blambda [a-z_]+: .*\bif\b", "\n".join(c.source for c in code(page)), re.M)


def test_there_are_six_words_of_prose_for_every_line_of_code(page):
    words = len(re.findall(r"[A-Za-z]{2,}", plain(prose(page))))
    assert words >= 6 * sum(map(lines_of, code(page)))


def test_every_number_in_prose_about_results_is_glued(page):
    """Constants of the protocol (in the code on the page) and the level of the intervals may be written out."""
    shown = [output for cell in code(page) if "show_source(" in cell.source for output in cell.outputs]
    settings = [cell.source for cell in code(page)] + [output["data"]["text/plain"] for output in shown]
    allowed = set(re.findall(r"\d+(?:\.\d+)?", "\n".join(settings)))
    allowed |= {"95", "99", f"{ps.FITTED:g}", f"{100 * label_smoothing.ACCURATE:g}"}
    for section in re.split(r"^## ", prose(page), flags=re.MULTILINE)[1:]:
        title, text = section.split("\n", 1)
        if title in RESULTS:
            said = re.sub(r"(?i)\b(figures?|sections?|theorem|tables?) \d[\d.]*( (and|to) \d+)?", " ", plain(text))
            numbers = re.findall(r"(?<![\w-])\d+(?:\.\d+)?", said)
            assert set(numbers) <= allowed, f"{title}: {set(numbers) - allowed}"


def test_every_figure_has_a_name_a_caption_and_an_alternative_text(page):
    drawn = [cell for cell in code(page) if "plt.show()" in cell.source]
    assert drawn
    names = []
    for cell in drawn:
        about = cell.metadata["mystnb"]
        names.append(about["figure"]["name"])
        assert names[-1].startswith("fig-")
        assert len(about["figure"]["caption"].split()) >= 8
        assert len(about["image"]["alt"].split()) >= 6
        assert f"{{numref}}`{names[-1]}`" in prose(page), "a figure that no sentence leads to"
    assert len(set(names)) == len(names)


def test_every_glued_name_comes_from_the_page_itself(page):
    source = "\n".join(cell.source for cell in code(page))
    announced = {"verdict", "verdict_sentence", "scale"} if "chapter.glue_verdicts(" in source else set()
    if "chapter.report_exclusions(" in source:
        announced |= {"n_runs", "n_reached", "n_capped", "n_diverged", "n_unconverged", "worst_residual"}
    for name in re.findall(r"\{glue:text\}`([^`]+)`", prose(page)):
        family = name.rpartition("_")[0]
        assert name in announced or re.search(rf"\b{name}=|{family}_\{{", source), name


def test_nothing_of_a_run_is_left_in_a_committed_page(page):
    assert set(page.metadata) == {"kernelspec", "language_info"}
    for cell in page.cells:
        assert "papermill" not in cell.metadata
        assert "execution" not in cell.metadata
        assert "injected-parameters" not in cell.metadata.get("tags", [])
    assert [cell.metadata.get("tags", []) for cell in page.cells].count(["parameters", "hide-input"]) == 1


def test_a_committed_page_is_executed_from_top_to_bottom(page):
    assert [cell.execution_count for cell in code(page)] == list(range(1, len(code(page)) + 1))
    for output in (output for cell in code(page) for output in cell.outputs):
        assert output.output_type != "error"
        assert output.get("name") != "stderr"
        assert str(find_root()) not in str(output)
