"""The answer to the book's question, in words that follow the records: for the landing page and the overview."""

import pandas as pd

from flatlib.book import results
from flatlib.book.overview import in_markdown
from flatlib.claims import claim_verdict
from flatlib.claims.verdict import CONTRADICTED, INCONCLUSIVE, NOT_TESTED, SUPPORTED
from flatlib.stats import Interval

SIGNS = {SUPPORTED: "✓", CONTRADICTED: "✗", INCONCLUSIVE: "?", NOT_TESTED: "–"}
IN_SHORT = {  # each claim in the words of a list; the chapter has it in full
    "01_lr_batch": "Large learning rates flatten, and help at small batches only",
    "02_linear_scaling": "At a fixed ratio of batch and rate, accuracy stays and sharpness falls",
    "03_sam": "SAM flattens at every batch, and helps at small ones only",
    "04_dropout": "Dropout flattens, but too much of it harms",
    "05_batch_norm": "Batch norm changes the accuracy, and not the sharpness",
    "06_weight_decay": "Weight decay makes minima sharper and networks better",
    "07_adam_vs_sgd": "Averaged Adam is sharper than SGD, at larger weights, and as good",
    "08_progressive_sharpening": "Sharpness rises to 2/η and stays there, and the Jacobian with it",
    "09_label_smoothing": "With label smoothing, Jacobian and sharpness rise less",
    "10_minimum_sharpness": "SAM lowers the minimum sharpness, and accuracy gains",
    "11_regularisers": "Regularisers lower the Jacobian, which tracks the gap",
}
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
    """Return a list of all claims in MyST Markdown, a line each: the claim in short, and its verdict at every scale.

    Args:
        judged: The table of `flatlib.book.overview.verdicts`.
        folder: Folder of the chapters, seen from the page that shows the list.
    """
    items = []
    for number, (chapter, rows) in enumerate(judged.groupby("chapter"), start=1):
        claim = IN_SHORT.get(str(chapter)) or in_markdown(str(chapter))
        items.append(f"{number}. [{claim}]({folder}{chapter}.ipynb) {marks(rows)}\n")
    return "".join(items)


def marks(judged: pd.DataFrame) -> str:
    """Return the verdict on a claim at every scale as marks in MyST Markdown, the largest scale first."""
    parts = []
    for scale in reversed(results.sorted_scales(judged["scale"])):
        here = judged[judged["scale"] == scale]
        word, count = claim_verdict(here), held(here).replace(" of ", "/")
        parts.append(f"[{SIGNS[word]} {scale} {count}]{{.verdict .{word.replace(' ', '-')}}}")
    return " ".join(parts)
