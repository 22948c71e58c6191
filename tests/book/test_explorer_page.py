"""The Explorer in a browser: its tau, its links, its keyboard, what it shows of runs that ended otherwise."""

import re
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from browser import CHAPTER_PAGES, THEMES, WIDTHS, open_page, requested, set_theme
from scipy.stats import kendalltau

from flatlib.book import overview
from flatlib.book.parameters import defaults
from flatlib.book.paths import find_root, notebooks
from flatlib.claims.concordance import stratified_kendall_tau

keys = pytest.importorskip("selenium.webdriver.common.keys", reason="selenium is not installed").Keys
waits = pytest.importorskip("selenium.webdriver.support.ui")

ROOT = find_root()
SELECTIONS = {  # in the address, and the same of the table of all runs
    "": "chapter == chapter",
    "x=lambda_max&y=generalization_gap": "chapter == chapter",
    "x=lambda_max&y=generalization_gap&scale=small&model=small_cnn": "scale == 'small' and model == 'small_cnn'",
    "x=weight_norm&y=test_loss&batch_size=50&batch_size=250&chapter=01_lr_batch": (
        "chapter == '01_lr_batch' and batch_size in (50, 250)"
    ),
    "x=minimum_sharpness&y=generalization_gap&optimizer=adam&dataset=cifar10-jpeg": (
        "optimizer == 'adam' and dataset == 'cifar10-jpeg'"
    ),
    "x=learning_rate&y=test_accuracy&chapter=08_progressive_sharpening": "chapter == '08_progressive_sharpening'",
    "x=jacobian_norm&y=loss_gap&chapter=11_regularisers&xscale=linear": "chapter == '11_regularisers'",
}


@pytest.fixture(scope="module")
def runs():
    return overview.all_runs(overview.read_records(ROOT))


@pytest.fixture
def explore(browser, address):
    """Open the Explorer with this query, and wait until it is drawn."""

    def opened(query="", width=WIDTHS[0]):
        open_page(browser, f"{address}/book/explorer.html?{query}", width)
        settle(browser)
        return browser

    return opened


def settle(browser):
    drawn = "return document.querySelector('.explorer').getAttribute('aria-busy') === 'false'"
    waits.WebDriverWait(browser, 20, 0.05).until(lambda page: page.execute_script(drawn))


def said(browser):
    return browser.find_element("css selector", ".explorer-status").text


def levels(browser):
    """The page's table: for each level tau, runs, groups and pairs."""
    rows = browser.execute_script("""return [...document.querySelectorAll('.explorer-taus tbody tr')].map(row =>
        [row.cells[0].textContent, row.dataset.tau, ...[2, 3, 4].map(i => Number(row.cells[i].textContent))])""")
    return {name: (np.nan if tau == "null" else float(tau), *counts) for name, tau, *counts in rows}


@pytest.mark.parametrize("query", SELECTIONS)
def test_tau_is_that_of_scipy_and_of_the_books_own_tables(explore, runs, query):
    page = explore(query)
    asked = parse_qs(query)
    (x,), (y,) = asked.get("x", ["lambda_max"]), asked.get("y", ["test_accuracy"])
    chosen = runs.query(SELECTIONS[query])
    reached = chosen[chosen["status"] == "reached"]
    once = reached.drop_duplicates("run_id").dropna(subset=[x, y])
    tau = kendalltau(once[x], once[y]).statistic
    found = levels(page)
    assert found["any two runs"][:2] == (pytest.approx(tau, abs=1e-12), len(once))
    for level, held in overview.HELD.items():
        wanted = stratified_kendall_tau(reached if held else once, x, y, held, resamples=2)
        counts = (wanted.runs, wanted.groups, wanted.pairs)
        assert found[level] == (pytest.approx(wanted.tau.estimate, abs=1e-12, nan_ok=True), *counts)
    assert said(page).startswith(f"Kendall's τ = {tau:.3f}".rstrip("0").replace("-", "−"))
    assert f"over {len(once)} of the {chosen['run_id'].nunique()} runs kept" in said(page)


def test_capped_runs_are_open_counted_and_off_tau(explore, runs):
    page = explore("chapter=08_progressive_sharpening")
    capped = runs.query("chapter == '08_progressive_sharpening' and status == 'capped'")
    assert len(capped) == 5
    assert "left out: 5 capped (open points)." in said(page)
    assert page.find_element("id", "explorer-x").get_attribute("value") == "peak_lambda_max", "the sharpness there is"


def test_diverged_runs_are_crosses_counted_and_off_tau(explore, runs):
    page = explore("chapter=01_lr_batch")
    n = runs.query("chapter == '01_lr_batch'")["run_id"].nunique()
    before = levels(page)["any two runs"]
    changed = """const runs = structuredClone(flatlibRuns); runs.status.fill('diverged', 0, 7);
        return flatlibExplorer.start(document.querySelector('.explorer'), runs)"""
    page.execute_script(changed)
    assert f"over {n - 7} of the {n} runs kept; left out: 7 diverged (crosses)." in said(page)
    assert levels(page)["any two runs"] != before


@pytest.mark.parametrize("page", CHAPTER_PAGES)
def test_every_chapter_links_to_its_own_runs(pages, runs, page):
    chapter = page.rpartition("/")[2].removesuffix(".html")
    links = set(re.findall(r'href="([^"]*explorer\.html\?[^"]*)"', (pages / page).read_text(encoding="utf-8")))
    (link,) = links
    assert urlsplit(link).path == "../explorer.html"
    scale = defaults(notebooks(ROOT)[chapter])["preset"]
    assert parse_qs(urlsplit(link.replace("&amp;", "&")).query) == {"chapter": [chapter], "scale": [scale]}
    assert len(runs.query("chapter == @chapter and scale == @scale"))


def test_a_chapters_link_preselects_its_runs(browser, address, runs):
    open_page(browser, f"{address}/book/claims/06_weight_decay.html", WIDTHS[0])
    browser.find_element("css selector", ".bd-footer-article .explorer-link a").click()
    waits.WebDriverWait(browser, 20).until(lambda page: "explorer.html" in page.current_url)
    settle(browser)
    n = len(runs.query("chapter == '06_weight_decay' and scale == 'small'"))
    assert f"of the {n} runs kept" in said(browser)
    ticked = browser.execute_script("""return [...document.querySelectorAll('.explorer fieldset input:checked')]
        .map(box => box.parentElement.children[1].textContent)""")
    assert ticked == ["6. Weight decay", "small"]


def test_the_keyboard_alone_changes_an_axis_and_a_filter(explore, runs):
    page = explore()
    for _ in range(60):
        if page.switch_to.active_element.get_attribute("id") == "explorer-x":
            break
        page.switch_to.active_element.send_keys(keys.TAB)
    page.switch_to.active_element.send_keys("Jacobian")
    settle(page)
    assert "x=jacobian_norm" in page.current_url
    for _ in range(20):
        page.switch_to.active_element.send_keys(keys.TAB)
        if page.switch_to.active_element.get_attribute("id") == "explorer-chapter-10":
            break
    page.switch_to.active_element.send_keys(keys.SPACE)
    settle(page)
    assert "chapter=11_regularisers" in page.current_url
    n = runs.query("chapter == '11_regularisers'")["run_id"].nunique()
    assert f"of the {n} runs kept" in said(page)


def test_arrow_keys_go_from_run_to_run(explore, runs):
    page = explore("chapter=04_dropout")
    plot = page.find_element("css selector", ".explorer-plot")
    plot.send_keys(keys.END, keys.ARROW_LEFT)
    card = page.find_element("css selector", ".explorer-card")
    ordered = runs.query("chapter == '04_dropout'").sort_values("lambda_max")
    run = ordered.iloc[-2]
    assert run["run_id"] in card.text
    shown = dict(zip(*[iter(card.text.splitlines()[2:-1])] * 2, strict=True))
    assert shown["Dropout rate p"] == f"{run['dropout']:g}"
    assert shown["Seed"] == str(run["seed"])
    assert float(shown["Sharpness λ_max"]) == pytest.approx(run["lambda_max"], rel=1e-3)
    plot.send_keys(keys.ESCAPE)
    assert card.text == ""


def test_the_address_holds_what_is_seen(explore):
    page = explore("x=trace&y=test_loss&yscale=linear&colour=seed&model=small_cnn&learning_rate=0.05&nonsense=1")
    page.find_element("css selector", "#explorer-xlog").click()
    settle(page)
    query = urlsplit(page.current_url).query
    wanted = "x=trace&y=test_loss&colour=seed&xscale=linear&yscale=linear&model=small_cnn&learning_rate=0.05"
    assert parse_qs(query) == parse_qs(wanted)
    before = said(page), levels(page)
    explore(query)
    assert (said(page), levels(page)) == before
    assert page.find_element("id", "explorer-colour").get_attribute("value") == "seed"


def test_what_nobody_has_chosen_before_is_set_aside(explore, runs):
    assert f"of the {runs['run_id'].nunique()} runs" in said(explore("x=charm&chapter=13_luck&colour=mood"))


def test_a_value_of_zero_makes_its_axis_linear(explore):
    assert "horizontal axis is linear" in said(explore("x=weight_decay&chapter=06_weight_decay"))


def test_the_file_of_the_kept_runs_has_the_records_numbers(explore, runs):
    page = explore()
    words = "flatlibExplorer.makeWords(flatlibExplorer.makeSelection(flatlibRuns))"
    heads, cells = page.execute_script(f"return {words}.csv([3])").splitlines()
    row = dict(zip(heads.split(","), cells.split(","), strict=True))
    run = runs.drop_duplicates("run_id").iloc[3]
    names = ["lambda_max", "test_loss", "batch_size"]
    assert [row["run_id"], *(float(row[name]) for name in names)] == run[["run_id", *names]].tolist()


CONTRASTS = """
    const theme = flatlibExplorer.theme();
    const ink = document.createElement('canvas').getContext('2d');
    const hex = colour => { ink.fillStyle = colour; return ink.fillStyle; };
    const luminance = colour => [1, 3, 5].map(i => parseInt(hex(colour).slice(i, i + 2), 16) / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const paper = luminance(theme.paper);
    const colours = [...theme.hues, ...[0, 1, 2, 3, 4, 5].map(i => flatlibExplorer.viridis(i, 6, theme))];
    return colours.map(luminance).map(v => (Math.max(v, paper) + 0.05) / (Math.min(v, paper) + 0.05))"""


@pytest.mark.parametrize("theme", THEMES)
def test_colours_stand_out(explore, theme):
    page = explore()
    set_theme(page, theme)
    found = page.execute_script(CONTRASTS)
    assert (len(found), min(found) >= 3) == (12, True), found


@pytest.mark.parametrize("width", WIDTHS)
def test_with_everything_open_it_stays_inside_the_page_and_off_the_network(explore, address, runs, width):
    page = explore("chapter=07_adam_vs_sgd", width)
    page.get_log("browser"), page.get_log("performance")
    for theme in THEMES:
        set_theme(page, theme)
        settle(page)
        page.execute_script("document.querySelectorAll('.explorer details').forEach(part => { part.open = true; })")
        page.find_element("css selector", ".explorer-plot").send_keys(keys.ARROW_RIGHT)
        page.find_element("id", "explorer-y").send_keys(keys.ARROW_DOWN)
        settle(page)
        assert page.execute_script("return document.documentElement.scrollWidth") <= width
    table = [row.text for row in page.find_elements("css selector", ".explorer-rows tbody tr")]
    shown = runs.query("chapter == '07_adam_vs_sgd'").drop_duplicates("run_id")
    unmeasured = shown["lambda_max"].isna().sum()
    assert unmeasured > 0
    assert (len(table), sum("–" in row for row in table)) == (len(shown), unmeasured)
    assert [url for url in requested(page) if not url.startswith(f"{address}/")] == []
    assert [entry["message"] for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_it_works_from_disk(browser, pages, runs):
    open_page(browser, f"{(pages / 'book/explorer.html').as_uri()}?chapter=02_linear_scaling", WIDTHS[0])
    settle(browser)
    n = runs.query("chapter == '02_linear_scaling'")["run_id"].nunique()
    assert f"over {n} of the {n} runs kept" in said(browser)
    browser.find_element("id", "explorer-y").send_keys("Generalization")
    assert "y=generalization_gap" in browser.current_url
