"""What of each paper is tested here: a row for each figure and theorem, and findings computed afterwards."""

import re
from typing import NamedTuple

import pandas as pd

from flatlib.claims.adam_vs_sgd import MAIN, RATIO
from flatlib.claims.batch_norm import SETTINGS, compared
from flatlib.claims.papers import AUTHORS
from flatlib.claims.prediction import Prediction, above, below
from flatlib.claims.sam import sam_bound
from flatlib.claims.study import Statistic, Study
from flatlib.claims.weight_decay import DECAY, WITH, WITHOUT

PLACES = re.compile(r"(Figure|Theorem|Appendix)s? ((?:A\.)?\d[\d.]*(?:(?:, | and |-)\d[\d.]*)*)")


class Item(NamedTuple):
    """A numbered thing of a paper.

    Attributes:
        paper: The paper's key in the references.
        number: Its number there, such as "Figure 1".
        reports: What it shows or states.
        remark: What differs here, or why nothing is tested.
        tested: Whether the predictions that cite it test it; False where their runs are of another kind.
        elsewhere: Scale whose runs are of another item, of those whose predictions cite both.
        pages: Further pages about it, seen from ``book/claims``, with a label of MyST where there is one.
    """

    paper: str
    number: str
    reports: str
    remark: str = ""
    tested: bool = True
    elsewhere: str = ""
    pages: tuple[str, ...] = ()


TOO_LARGE = "not run: a network for a GPU; chapter 6 asks the same of a small one"
NO_PREDICTION = "measured in chapters 1, 2, 3 and 5, with no prediction"
LAYERS = "the network is in the package; `tests/training/test_models.py` builds it"

ITEMS = (
    Item("kaur2022", "Figure 1", "λ_max falls with η at both batches, the accuracy rises at the small one only"),
    Item("kaur2022", "Figure 2", "at equal λ_max the small batch is much better"),
    Item("kaur2022", "Figure 3", "the larger the batch, the smaller the benefit of a large rate"),
    Item("kaur2022", "Figure 4", "at one ratio of batch size to η the accuracies are alike, and λ_max is not"),
    Item("kaur2022", "Figure 5", "at one ratio, larger rates have the smaller λ_max throughout training"),
    Item("kaur2022", "Figure 6", "SAM lowers λ_max at both batches, and helps at the small one only"),
    Item("kaur2022", "Figure 7", "the same at a second learning rate"),
    Item("kaur2022", "Figure 8", "dropout lowers λ_max; modest rates help, excessive ones harm"),
    Item("kaur2022", "Figure 9", "the same at a larger batch"),
    Item("kaur2022", "Figure 10", "batch norm changes the accuracy, and not λ_max"),
    Item("kaur2022", "Figure 11", "the same at the large batch; there, too, normalized networks like large rates"),
    Item(
        *("kaur2022", "Appendix A.1", "SAM's objective rises by at most ρ‖∇L‖ + ρ²λ_max / 2, to second order"),
        pages=("03_sam.ipynb",),
    ),
    Item(
        *("granziol2020", "Figure 1", "softmax regression: λ_max and the accuracy rise with weight decay"),
        *("its network and data at `paper`", True, "paper-mlp"),
    ),
    Item(
        *("granziol2020", "Figure 2", "one hidden layer: the same, and the strongest decay has the smallest gap"),
        *("its network and data at `paper-mlp`", True, "paper"),
    ),
    Item("granziol2020", "Figure 3", "a small CNN on CIFAR-100: λ_max rises with weight decay", TOO_LARGE),
    Item("granziol2020", "Figure 4", "PreResNet-164 on CIFAR-100: the same", TOO_LARGE),
    Item("granziol2020", "Figure 5", "WideResNet-28x10 on CIFAR-100: the same", TOO_LARGE),
    Item("granziol2020", "Figure 6", "averaged Adam's minima are sharper, better, and of higher norm"),
    Item("granziol2020", "Figure 7", "the same on CIFAR-10"),
    Item("granziol2020", "Figure 8", "batch norm in evaluation mode", "not tested: no batch norm there", tested=False),
    Item(
        *("granziol2020", "Theorem 1", "the spectral norm goes to zero with the loss"),
        remark="false as stated; a condition that suffices is given",
        pages=("../method/toy.ipynb#condition", "../method/ledger.ipynb#ledger-theorem"),
    ),
    Item(
        *("granziol2020", "Theorem 2", "how fast the eigenvalues of Lanczos's method converge (textbook)"),
        remark="used, not tested: every eigenvalue here has its own residual",
        pages=("../method/curvature.md#residual",),
    ),
    Item(
        *("granziol2020", "Theorem 3", "Lanczos's method gives the nodes of a Gauss quadrature (textbook)"),
        remark="used for spectra",
        pages=("../method/primer.ipynb",),
    ),
    Item("macdonald2023", "Figure 1", "λ_max and the Jacobian grow, less so with label smoothing"),
    Item("macdonald2023", "Figure 2", "without weight decay λ_max vanishes, Jacobian and gap do not"),
    Item("macdonald2023", "Figure 3", "larger rates: smaller λ_max, Jacobian and gap", NO_PREDICTION),
    Item("macdonald2023", "Figure 4", "larger batches: larger ones, but at the largest rate", NO_PREDICTION),
    Item("macdonald2023", "Figure 5", "four regularisers lower the Jacobian, SAM alone λ_max"),
    Item(
        *("macdonald2023", "Ansatz 3.1", "a larger Jacobian causes a larger λ_max"),
        remark="that both rise is tested, and in chapter 11 what a penalty on the Jacobian does to λ_max",
        pages=("08_progressive_sharpening.ipynb", "09_label_smoothing.ipynb", "11_regularisers.ipynb"),
    ),
    Item("macdonald2023", "Theorem 4.2", "samples cover many distributions", "nothing to measure"),
    Item(
        *("macdonald2023", "Theorem 4.3", "the Jacobian on the samples bounds the Lipschitz norm"),
        remark="not tested: the bound has a variation of the Jacobian that nobody can compute",
    ),
    Item(
        *("macdonald2023", "Theorem 5.1", "a model that fits targets far apart has a large Jacobian"),
        remark="its term is computed; consequences are tested: the norm falls with 1 - s, and grows in a linear model",
        pages=("08_progressive_sharpening.ipynb", "09_label_smoothing.ipynb"),
    ),
    Item(
        *("macdonald2023", "Theorem 6.1", "the Jacobian bounds the distance from the target function"),
        remark="not tested: it needs a model that meets every target exactly",
        pages=("../method/ledger.ipynb#ledger-bound",),
    ),
    Item("bejan2022", "Figure 1", "SAM improves the accuracy with every optimizer"),
    Item("bejan2022", "Figure 2", "SAM lowers the minimum sharpness with every optimizer"),
    Item("bejan2022", "Figure 3", "minimum sharpness goes with the gap"),
    Item("bejan2022", "Figure 4", "adaptive optimizers do not differ from the others"),
    *(Item("bejan2022", f"Figure {n}", "the layers of a network", LAYERS) for n in (5, 6, 7)),
    Item("bejan2022", "Figure 8", "Figure 4 on FashionMNIST", "not run"),
)


def cited(reported: str, source: str) -> set[tuple[str, str]]:
    """Return the figures and theorems that a prediction cites: pairs of a paper's key and a number.

    >>> sorted(cited("highly similar (Figures 10, 11)", "Kaur, Cohen, Lipton 2022"))
    [('kaur2022', 'Figure 10'), ('kaur2022', 'Figure 11')]

    Args:
        reported: What the paper reports, with its places.
        source: The claim's source, whose first paper is meant where ``reported`` names none.
    """
    texts = (text for text in (reported, source) if any(name in text for name in AUTHORS))
    text = next(texts, "")
    papers = sorted((name for name in AUTHORS if name in text), key=text.find)
    numbers = [
        (kind, number)
        for kind, several in PLACES.findall(reported)
        for part in re.split(r", | and ", several)
        for number in _span(*part.split("-"))
    ]
    return {(AUTHORS[name], f"{kind} {number}") for name in papers[:1] for kind, number in numbers}


def _span(first: str, last: str = "") -> list[str]:
    """Return all numbers of a range."""
    return [str(number) for number in range(int(first), int(last) + 1)] if last else [first]


def rise_over_bound(runs: pd.DataFrame) -> pd.Series:
    """Return SAM's sharpness over the bound of Kaur et al. 2022, Appendix A.1: by seed, as a mean over its runs."""
    return sam_bound(runs)["reached"].groupby(runs["seed"]).mean()


def normalized(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs with batch norm that chapter 5 compares."""
    kept = compared(runs)
    return kept[kept["normalized"]]


LARGER, SMALLER_BATCH = "batch_size == batch_size.max()", "batch_size == batch_size.min()"
RATES = Study(("batch_size", "learning_rate"), blocks=("learning_rate",), paired="batch_size")
BOUND = Statistic(Study(), rise_over_bound, "rise under SAM's step over the bound")
BELOW_BOUND = Prediction(
    *("SAM's bound", "Under SAM's step the loss rises by less.", BOUND, below(1)),
    "an upper bound (Kaur et al., Appendix A.1)",
)
# By chapter: found in the records after they were made, unlike the predictions of the claims.
AFTERWARDS = {
    "01_lr_batch": (
        Prediction(
            "equal rates",
            "At the same learning rate λ_max is larger at the larger batch.",
            RATES.log2_ratio("lambda_max", LARGER, SMALLER_BATCH),
            above(0),
            "lower at the small batch (Kaur et al., Figure 1)",
        ),
        BELOW_BOUND,
    ),
    "03_sam": (BELOW_BOUND,),
    "04_dropout": (BELOW_BOUND,),
    "05_batch_norm": (
        Prediction(
            "rates with batch norm",
            "With batch norm, a larger learning rate is better at the large batch.",
            Study(SETTINGS, batch="large", prepare=normalized).slope("learning_rate", "test_accuracy"),
            above(0),
            "large rates do help (Kaur et al., Figure 11)",
        ),
    ),
    "06_weight_decay": (
        Prediction(
            "loss gap",
            "Weight decay lowers the gap between test and training loss.",
            DECAY.difference("loss_gap", WITH, WITHOUT, ", times 100").measured_in("hundredths of a nat"),
            below(0),
            "relatively large without (MacDonald et al., Figure 2)",
        ),
    ),
    "07_adam_vs_sgd": (
        Prediction(
            "norms",
            "Averaged Adam's weights are longer than SGD's.",
            MAIN.log2_ratio("weight_norm", *RATIO),
            above(0),
            "higher norms (Granziol, Figures 6, 7)",
        ),
    ),
}
