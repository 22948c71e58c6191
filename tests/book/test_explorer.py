"""The Explorer: its data (every committed run, as recorded), and its page in a browser."""

import json
import re
from urllib.parse import parse_qs, urlsplit

import pytest
from scipy.stats import kendalltau

from browser import CHAPTER_PAGES, WIDTHS, open_page, requested
from flatlib.book import explorer, overview, pooling
from flatlib.book.explorer import SETTINGS, columns, label
from flatlib.book.parameters import defaults
from flatlib.book.paths import find_root, notebooks
from flatlib.claims.concordance import stratified_kendall_tau
from flatlib.config import RunConfig
from flatlib.errors import FlatlibError
from flatlib.figures import COLUMNS
from flatlib.figures.axes import AT_LOSS
from flatlib.runs import records

ROOT = find_root()
LINES = {
    (path.parent.name, path.stem): records.read(path)
    for chapter in notebooks(ROOT)
    for path in records.list_records(ROOT / "book" / "records" / chapter).values()
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return what the page reads, from the file that is written."""
    folder = tmp_path_factory.mktemp("explorer")
    explorer.write(ROOT, folder)
    assert sum(path.stat().st_size for path in folder.glob("*.js")) < 2.5e6
    assert "1. Learning rate and" in (folder / "runs.svg").read_text(encoding="utf-8")
    name, _, content = (folder / "runs.js").read_text(encoding="utf-8").partition(" = ")
    assert name == "window.flatlibRuns"
    return json.loads(content.rstrip(";\n"))


def test_runs_are_listed_in_their_places(data):
    assert len(set(data["run_id"])) == len(data["run_id"])
    assert [tuple(place) for place in data["places"]] == sorted(LINES)
    for position, place in enumerate(map(tuple, data["places"])):
        here = [run_id for run_id, places in zip(data["run_id"], data["in"], strict=True) if position in places]
        assert set(here) == set(LINES[place])


def test_numbers_are_those_of_the_record(data):
    position = {run_id: i for i, run_id in enumerate(data["run_id"])}
    seen = set()
    for run_id, line in (item for lines in LINES.values() for item in lines.items()):
        i = position[run_id]
        assert data["status"][i] == line["status"]
        for name in data["measures"]:
            tracked = [v for v in line["trajectory"].get(name.removeprefix("peak_"), []) if v is not None]
            expected = max(tracked, default=None) if name.startswith("peak_") else line["measures"].get(name)
            assert data["measures"][name][i] == expected, (run_id, name)
            seen |= {name} if expected is not None else set()
        for name, setting in data["settings"].items():
            value = line["config"].get(name, SETTINGS[name])
            value = "+".join(value) if isinstance(value, list) else value
            assert setting["values"][setting["index"][i]] == value, (run_id, name)
    assert seen == set(data["measures"]), "a measure that no run has"


def test_every_measure_is_an_axis(data):
    measured = {name for lines in LINES.values() for line in lines.values() for name in line["measures"]}
    measured = {name for name in measured if name.removesuffix(AT_LOSS) in COLUMNS}
    assert {"lambda_max", "trace", "frobenius", "jacobian_norm", "minimum_sharpness", "gradient_norm"} <= measured
    assert measured <= {axis["name"] for axis in data["axes"]}
    for part in ("name", "label"):
        assert len({axis[part] for axis in data["axes"]}) == len(data["axes"])
    assert not [name for name in COLUMNS if set(label(name)) & set("\\${}")], "labels are plain"


def test_shared_runs_and_peaks(line):
    """Two chapters share a run; one of them varies the learning rate, the other the optimizer."""
    rates = [RunConfig(learning_rate=rate, seed=seed) for rate in (0.1, 0.2) for seed in (0, 1)]
    tracked = RunConfig(track=("lambda_max",), track_every=1)
    tracked = line(tracked, trajectory={"update": [0, 1, 2], "lambda_max": [1.0, 7.0, None]}, lambda_max=None)
    one = [line(config, lambda_max=1.0) for config in rates]
    two = [one[0], line(RunConfig(optimizer="adam", learning_rate=0.01), lambda_max=1.0), tracked]
    tables = {("01_one", "small"): records.table(one), ("02_two", "small"): records.table(two)}
    found = columns(tables, {"01_one": "1. One", "02_two": "2. Two"})
    assert found["in"] == [[0, 1], [0], [0], [0], [1], [1]]
    assert found["varies"] == [["learning_rate", "seed"], ["optimizer", "learning_rate", "track_every"]]
    assert found["settings"]["optimizer"]["values"] == ["adam", "sgd"]
    assert "batch_size" not in found["settings"], "a setting at its default everywhere"
    assert list(found["held"].values()) == [None, [], ["learning_rate"]]
    assert found["measures"]["peak_lambda_max"] == [None] * 5 + [7.0]
    assert found["measures"]["lambda_max"] == [1.0] * 5 + [None]
    assert "peak_update" not in found["measures"]


def test_missing_bokeh_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(explorer, "find_spec", lambda name: None)
    with pytest.raises(FlatlibError, match="install bokeh"):
        explorer.write(ROOT, tmp_path)


SELECTIONS = {  # in the address, and the same of the table of all runs
    "": "chapter == chapter",
    "x=lambda_max&y=generalization_gap&scale=small&model=small_cnn": "scale == 'small' and model == 'small_cnn'",
    "x=weight_norm&y=test_loss&batch_size=50&batch_size=250&chapter=01_lr_batch": (
        "chapter == '01_lr_batch' and batch_size in (50, 250)"
    ),
    "x=learning_rate&y=test_accuracy&chapter=08_progressive_sharpening": "chapter == '08_progressive_sharpening'",
}


@pytest.fixture(scope="module")
def runs():
    return overview.all_runs(overview.read_records(ROOT))


@pytest.fixture
def explore(browser, address):
    """Return a function that opens the Explorer with a query, and waits until it is drawn."""

    def opened(query="", at=address):
        open_page(browser, f"{at}/book/explorer.html?{query}", WIDTHS[0])
        settle(browser)
        return browser

    return opened


def settle(browser):
    waits = pytest.importorskip("selenium.webdriver.support.ui")
    drawn = "return document.querySelector('.explorer').getAttribute('aria-busy') === 'false'"
    waits.WebDriverWait(browser, 20, 0.05).until(lambda page: page.execute_script(drawn))


def status(browser):
    return browser.find_element("css selector", ".explorer-status").text


def levels(browser):
    """Return the page's table: for each level tau, runs, groups and pairs."""
    rows = browser.execute_script("""return [...document.querySelectorAll('.explorer-taus tbody tr')].map(row =>
        [row.cells[0].textContent, row.dataset.tau, ...[2, 3, 4].map(i => Number(row.cells[i].textContent))])""")
    return {name: (float("nan" if tau == "null" else tau), *counts) for name, tau, *counts in rows}


@pytest.mark.parametrize("query", SELECTIONS)
def test_tau_is_that_of_scipy(explore, runs, query):
    """It is also that of the book's own tables, at every level."""
    page, axes = explore(query), parse_qs(query)
    (x,), (y,) = axes.get("x", ["lambda_max"]), axes.get("y", ["test_accuracy"])
    chosen = runs.query(SELECTIONS[query])
    reached = chosen[chosen["status"] == "reached"]
    once = reached.drop_duplicates("run_id").dropna(subset=[x, y])
    tau, found = kendalltau(once[x], once[y]).statistic, levels(page)
    assert found["any two runs"][:2] == (pytest.approx(tau, abs=1e-12), len(once))
    for level, held in pooling.HELD.items():
        expected = stratified_kendall_tau(reached if held else once, x, y, held, resamples=2)
        counts = (expected.runs, expected.groups, expected.pairs)
        assert found[level] == (pytest.approx(expected.tau.estimate, abs=1e-12, nan_ok=True), *counts)
    assert f"over {len(once)} of the {chosen['run_id'].nunique()} runs kept" in status(page)


@pytest.mark.parametrize(("ending", "mark"), [("capped", "open points"), ("diverged", "crosses")])
def test_other_endings_are_counted_and_excluded(explore, runs, ending, mark):
    page = explore("chapter=01_lr_batch")
    n = runs.query("chapter == '01_lr_batch'")["run_id"].nunique()
    before = levels(page)["any two runs"]
    page.execute_script(f"""const runs = structuredClone(flatlibRuns); runs.status.fill('{ending}', 0, 7);
        return flatlibExplorer.start(document.querySelector('.explorer'), runs)""")
    assert re.search(rf"over {n - 7} of the {n} runs kept; .*: 7 {ending} \({mark}\)\.", status(page))
    assert levels(page)["any two runs"] != before


@pytest.mark.parametrize("page", CHAPTER_PAGES)
def test_chapters_link_to_their_runs(pages, runs, page):
    chapter = page.rpartition("/")[2].removesuffix(".html")
    (link,) = set(re.findall(r'href="([^"]*explorer\.html\?[^"]*)"', (pages / page).read_text(encoding="utf-8")))
    scale = defaults(notebooks(ROOT)[chapter])["preset"]
    assert urlsplit(link).path == "../explorer.html"
    assert parse_qs(urlsplit(link.replace("&amp;", "&")).query) == {"chapter": [chapter], "scale": [scale]}
    assert len(runs.query("chapter == @chapter and scale == @scale"))


def test_the_keyboard_reaches_axes_and_filters(explore, runs):
    page, keys = explore(), pytest.importorskip("selenium.webdriver").Keys

    def tab_to(name):
        for _ in range(60):
            if page.switch_to.active_element.get_attribute("id") == name:
                return page.switch_to.active_element
            page.switch_to.active_element.send_keys(keys.TAB)
        raise AssertionError(f"no way to {name}")

    tab_to("explorer-x").send_keys("Jacobian")
    settle(page)
    assert "x=jacobian_norm" in page.current_url
    tab_to("explorer-chapter-10").send_keys(keys.SPACE)
    settle(page)
    assert "chapter=11_regularisers" in page.current_url
    n = runs.query("chapter == '11_regularisers'")["run_id"].nunique()
    assert f"of the {n} runs kept" in status(page)


def test_arrow_keys_walk_through_runs(explore, runs):
    page, keys = explore("chapter=04_dropout"), pytest.importorskip("selenium.webdriver").Keys
    plot = page.find_element("css selector", ".explorer-plot")
    plot.send_keys(keys.END, keys.ARROW_LEFT)
    card = page.find_element("css selector", ".explorer-card")
    run = runs.query("chapter == '04_dropout'").sort_values("lambda_max").iloc[-2]
    assert run["run_id"] in card.text
    shown = dict(zip(*[iter(card.text.splitlines()[2:-1])] * 2, strict=True))
    assert (shown["Dropout rate p"], shown["Seed"]) == (f"{run['dropout']:g}", str(run["seed"]))
    assert float(shown["Sharpness λ_max"]) == pytest.approx(run["lambda_max"], rel=1e-3)
    plot.send_keys(keys.ESCAPE)
    assert card.text == ""


def test_the_address_holds_the_state(explore):
    expected = "x=trace&y=test_loss&yscale=linear&colour=seed&model=small_cnn&learning_rate=0.05"
    page = explore(f"{expected}&nonsense=1&chapter=13_luck")
    page.find_element("css selector", "#explorer-xlog").click()
    settle(page)
    query = urlsplit(page.current_url).query
    assert parse_qs(query) == parse_qs(f"{expected}&xscale=linear")
    before = status(page), levels(page)
    explore(query)
    assert (status(page), levels(page)) == before
    assert page.find_element("id", "explorer-colour").get_attribute("value") == "seed"


def test_the_headline_compares_runs_of_the_same_experiment(explore):
    """The pooled number of all runs is in the table only: experiments differ in everything at once."""
    page = explore()
    found = levels(page)
    headline = float(re.search(r"τ = (\S+) \(same experiment\)", status(page))[1].replace("\N{MINUS SIGN}", "-"))
    assert headline == pytest.approx(found["same experiment"][0], abs=1e-3)
    assert abs(headline - found["any two runs"][0]) > 0.1


def test_an_empty_selection_says_so(explore):
    page = explore("chapter=04_dropout&scale=medium")
    assert "No run is left" in page.find_element("css selector", ".explorer-plot").text
    assert [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []
    page.find_element("css selector", ".explorer-filters > .explorer-button").click()
    settle(page)
    assert page.find_elements("css selector", ".explorer-plot .explorer-empty") == []


def test_the_chosen_run_is_in_view_and_in_the_address(explore):
    page, keys = explore("chapter=04_dropout"), pytest.importorskip("selenium.webdriver").Keys
    page.find_element("css selector", ".explorer-plot").send_keys(keys.END)
    beside = """const [plot, card] = ['.explorer-plot', '.explorer-card'].map(
        name => document.querySelector(name).getBoundingClientRect()); return card.top < plot.bottom"""
    assert page.execute_script(beside)
    (run,) = parse_qs(urlsplit(page.current_url).query)["run"]
    again = explore(urlsplit(page.current_url).query)
    assert run in again.find_element("css selector", ".explorer-card").text


def test_it_works_from_disk(explore, pages, runs):
    page = explore("chapter=02_linear_scaling", at=pages.as_uri())
    n = runs.query("chapter == '02_linear_scaling'")["run_id"].nunique()
    assert f"over {n} of the {n} runs kept" in status(page)
    page.get_log("browser"), page.get_log("performance")  # a log is emptied by reading it
    page.find_element("id", "explorer-y").send_keys("Generalization")
    settle(page)
    assert "y=generalization_gap" in page.current_url
    assert [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == requested(page) == []
