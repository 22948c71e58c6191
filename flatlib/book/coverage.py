"""Each figure and theorem of the papers beside what the book's runs say of it, as tables for a page."""

from collections.abc import Iterator

import pandas as pd

from flatlib.book import overview
from flatlib.book.citations import parts, work
from flatlib.book.paths import find_root
from flatlib.claims import CLAIMS, claim_verdict
from flatlib.claims.coverage import AFTERWARDS, ITEMS, Item, cited
from flatlib.claims.prediction import SUPPORTED

DECLARED, LATER = "declared", "afterwards"


def verdicts(tables: overview.Tables) -> pd.DataFrame:
    """Judge every figure and theorem that predictions cite.

    Args:
        tables: Those of `flatlib.book.overview.read_records`.

    Returns:
        One row per item, scale, chapter and kind of prediction ("declared" before the runs, or found "afterwards"),
        with the verdict on all such predictions together, the number of those supported (``held``) and of all of them.
    """
    rows = pd.DataFrame(_judged(tables)).explode("item")
    known = {item[:2]: item for item in ITEMS if item.tested}
    found = []
    for (key, scale, chapter, kind), group in rows.groupby(["item", "scale", "chapter", "kind"], sort=False):
        if key in known and scale != known[key].elsewhere:
            held = int((group["verdict"] == SUPPORTED).sum())
            found.append((*key, scale, chapter, kind, claim_verdict(group), held, len(group)))
    names = ["paper", "number", "scale", "chapter", "kind", "verdict", "held", "predictions"]
    return pd.DataFrame(found, columns=names)


def _judged(tables: overview.Tables) -> Iterator[dict]:
    """Yield the verdict on each prediction whose statistic the runs have, and the items that it cites."""
    for (chapter, scale), runs in tables.items():
        claim = CLAIMS[chapter]
        later = pd.DataFrame([finding.judge(runs) for finding in AFTERWARDS.get(chapter, ())])
        for kind, judged in ((DECLARED, claim.verdicts(runs)), (LATER, later)):
            for row in judged.to_dict("records"):
                items = sorted(cited(row["reported"], claim.source))
                if row["n"] and items:
                    yield {"chapter": chapter, "scale": scale, "kind": kind, "item": items, **row}


def declared(found: pd.DataFrame) -> pd.DataFrame:
    """Return one row per item and scale, with the verdict on all its declared predictions, in the order of ``ITEMS``.

    It has the columns that `flatlib.figures.verdict_grid` draws, with the papers' authors in the place of chapters.
    """
    bibliography = find_root() / "book" / "references.bib"
    rows = []
    for item in ITEMS:
        own = (found["paper"] == item.paper) & (found["number"] == item.number) & (found["kind"] == DECLARED)
        authors, _ = parts(work(bibliography, item.paper))
        for scale, group in found[own].groupby("scale", sort=False):
            rows.append((authors, item.number, scale, claim_verdict(group)))
    return pd.DataFrame(rows, columns=["chapter", "prediction", "scale", "verdict"])


def table(found: pd.DataFrame, paper: str) -> str:
    """Return a paper's items as a table in MyST Markdown: what each reports, where it is tested, and the agreement."""
    lines = ["| item | what it reports | here | agreement | remark |", "|---|---|---|---|---|"]
    for item in (item for item in ITEMS if item.paper == paper):
        rows = found[(found["paper"] == item.paper) & (found["number"] == item.number)]
        cells = (item.number, item.reports, places(item, rows), agreement(rows), item.remark)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def places(item: Item, rows: pd.DataFrame) -> str:
    """Return links to the chapters whose predictions cite an item, and to its other pages."""
    labels = (f"[](#{label})" if label else f"[]({page})" for page, _, label in (p.partition("#") for p in item.pages))
    return ", ".join([*map(overview.link, sorted(rows["chapter"].unique())), *labels])


def agreement(rows: pd.DataFrame) -> str:
    """Return the verdicts on one item, each with its scale and the predictions that hold."""
    shown = []
    for scale in overview.sorted_scales(rows["scale"]):
        for row in rows[rows["scale"] == scale].itertuples():
            note = f"{scale}: {row.held} of {row.predictions}{', afterwards' if row.kind == LATER else ''}"
            shown.append(f"[{row.verdict}]{{.verdict}} [{note}]{{.scale}}")
    return "<br>".join(shown)
