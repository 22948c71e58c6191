"""The answer to the book's question, in words that follow the records: for the landing page and the overview."""

import pandas as pd

from flatlib.book import results
from flatlib.book.overview import in_markdown
from flatlib.claims.verdict import SUPPORTED
from flatlib.stats import Interval

SLIGHT = 1 / 3  # a Kendall's tau up to which the odds are less than two to one


def held(judged: pd.DataFrame) -> str:
    """Return how many predictions of a table hold."""
    return f"{int((judged['verdict'] == SUPPORTED).sum())} of {len(judged)}"


def by_kind(judged: pd.DataFrame) -> pd.DataFrame:
    """Add to a table of verdicts what each prediction is about, as the column ``about``, and sort by it."""
    about = [results.kind({"statement": row.statement, "unit": row.unit}) for row in judged.itertuples()]
    return judged.assign(about=about).sort_values("about", kind="stable")


def summary(judged: pd.DataFrame, tau: Interval) -> str:
    """Return the answer in two sentences.

    Args:
        judged: The table of verdicts at one scale.
        tau: Kendall's tau of sharpness and test accuracy within experiments.
    """
    rows = by_kind(judged)
    curvature, accuracy = (held(rows[rows["about"] == name]) for name in results.KINDS)
    flatter = "Only a little" if abs(tau.estimate) < SLIGHT else "Yes"
    lead = flatter if tau.high < 0 else "Rather the reverse" if tau.low > 0 else "Not that we can see"
    return (
        f"{lead}: the flatter of two networks is the more accurate one {odds(tau)}. Of what papers predict about "
        f"flatness itself, {curvature} predictions hold here; of what they predict about accuracy, {accuracy}."
    )


def odds(tau: Interval) -> str:
    """Return how often the flatter of two networks is the more accurate one, in a hundred pairs without ties."""
    least, mean, most = (round(50 * (1 - value)) for value in (tau.high, tau.estimate, tau.low))
    return f"{mean} times in a hundred ({least} to {most})"


def signed(tau: "Interval | pd.Series[float]") -> str:
    """Return an estimate with its interval, with a true minus."""
    return f"{tau.estimate:z.2f} [{tau.low:z.2f}, {tau.high:z.2f}]".replace("-", "−")


def moved(parts: pd.DataFrame, scale: str, when: str = "end", **signs: int) -> str:
    """Return in words the interventions whose intervals lie on the given sides of zero.

    Args:
        parts: The table of `flatlib.claims.decomposition.decompositions`.
        scale: A scale.
        when: ``"end"`` or ``"equal loss"``.
        signs: 1 (above zero) or -1 (below) for each of some parts, such as ``sharpness`` and ``loss``.
    """
    here = parts[(parts["scale"] == scale) & (parts["when"] == when)]
    here = here[~here["intervention"].str.contains(", | and ")]  # the same once more, in another chapter
    moves = here.assign(sign=1 * (here["low"] > 0) - (here["high"] < 0))
    table = moves.pivot(index="intervention", columns="part", values="sign").reindex(columns=list(signs))
    found = table[(table == pd.Series(signs)).all(axis=1)].index
    return words([name for name in dict.fromkeys(here["intervention"]) if name in found])


def words(names: list[str]) -> str:
    """Join names with commas and an "and".

    >>> words(["a", "b", "c"]), words([])
    ('a, b and c', 'nothing')
    """
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]])) or "nothing"


def claims_in_lines(judged: pd.DataFrame, folder: str = "") -> str:
    """Return a list of all claims in MyST Markdown: statement, result at the best scale, verdict at every scale.

    Args:
        judged: The table of `flatlib.book.overview.verdicts`.
        folder: Folder of the chapters, seen from the page that shows the list.
    """
    items = []
    for number, (chapter, rows) in enumerate(judged.groupby("chapter"), start=1):
        best = results.best_scale(rows)
        found = results.result(rows[rows["scale"] == best], str(chapter))
        claim = f"[{in_markdown(str(chapter))}]({folder}{chapter}.ipynb)."
        items.append(f"{number}. {claim} {found} *({best})*\n\n   {results.strip(rows)}\n")
    return "\n".join(items)
