"""A claim's result in words: a sentence that is made from its table of verdicts, so that it follows the records."""

import re
from collections.abc import Iterable, Mapping

import pandas as pd

from flatlib.claims import claim_verdict, summarize
from flatlib.claims.verdict import MIN_SEEDS, SUPPORTED

SCALES = ("digits", "small", "mnist", "medium")  # of this book, from small to large; a paper's come after them
GENERALIZATION = re.compile("test accuracy|gap")  # in what a prediction states or measures; the others are of curvature
KINDS = ("About curvature or Jacobian", "About test accuracy or gap")
WORDS = {  # what a number says if its interval lies above zero, below zero, or on both sides
    "move": ("rose", "fell", "did not clearly change"),
    "than": ("higher", "lower", "neither clearly higher nor lower"),
    "with": ("went together", "went opposite ways", "showed no clear relation"),
    "tracker": ("better than", "worse than", "not clearly better or worse than"),
}
HEADLINES = {  # by chapter; in braces a prediction, and as what it is told
    "01_lr_batch": "With the learning rate, sharpness {sharpness (small batch):move} at the small batch and "
    "{sharpness (large batch):move} at the large one. Test accuracy {accuracy (small batch):move} at the small batch "
    "({accuracy (small batch):points} per tenfold rate) and {accuracy (large batch):move} at the large one "
    "({accuracy (large batch):points}).",
    "02_linear_scaling": "With batch and learning rate growing in step, sharpness {sharpness (fixed ratio):move} and "
    "test accuracy {accuracy (fixed ratio):move} ({accuracy (fixed ratio):points} per tenfold rate).",
    "03_sam": "With SAM's radius, sharpness {sharpness (small batch):move} at the small batch and "
    "{sharpness (large batch):move} at the large one. Test accuracy with SAM {accuracy (small batch):move} at the "
    "small batch ({accuracy (small batch):points}) and {accuracy (large batch):move} at the large one "
    "({accuracy (large batch):points}).",
    "04_dropout": "Sharpness {sharpness:move} with the dropout rate. Test accuracy {modest dropout:move} with a modest "
    "rate ({modest dropout:points}) and {excess (accuracy):move} from there to the largest "
    "({excess (accuracy):points}).",
    "05_batch_norm": "With and without batch norm, sharpness differed by a factor of {sharpness (small batch):factor} "
    "at the small batch and {sharpness (large batch):factor} at the large one. With batch norm, test accuracy was "
    "{accuracy (small rate):than} at the smallest learning rate ({accuracy (small rate):points}) and "
    "{accuracy (large rate):than} at the largest ({accuracy (large rate):points}).",
    "06_weight_decay": "Sharpness {sharpness:move} with weight decay. Test accuracy {accuracy:move} "
    "({accuracy:points}), and the generalization gap {gap:move} ({gap:points}).",
    "07_adam_vs_sgd": "Averaged Adam's sharpness was {sharpness:factor} times SGD's, the length of its weights "
    "{weight norm:factor} times, and its test accuracy {accuracy:than} ({accuracy:points}).",
    "08_progressive_sharpening": "From initialization to its peak, sharpness {progressive sharpening:move} by a factor "
    "of {progressive sharpening:factor}, and the Jacobian norm {Jacobian growth:move} by one of "
    "{Jacobian growth:factor}. Where it stood farthest from 2/η, sharpness was {edge of stability:number} times that.",
    "09_label_smoothing": "At equal training accuracy, sharpness {sharpness (equal accuracy):move} with label "
    "smoothing, and the Jacobian norm {Jacobian norm (equal accuracy):move}.",
    "10_minimum_sharpness": "With SAM, minimum sharpness {minimum sharpness:move} and test accuracy {accuracy:move} "
    "({accuracy:points}), over all optimizers. Minimum sharpness and the generalization gap {correlation:with}.",
    "11_regularisers": "Sharpness {sharpness (SAM):move} with SAM and {sharpness (the others):move} with the other "
    "regularisers. The logits' Jacobian and the loss gap {logits' Jacobian and loss gap:with}; as a guide to that gap "
    "the Jacobian was {logits' Jacobian against sharpness (loss gap):tracker} sharpness.",
}


class Told:
    """The number of one prediction, told in the form that a format string asks for.

    >>> row = pd.Series({"estimate": -2.0, "low": -2.5, "high": -1.5, "n": 5})
    >>> f"{Told(row):move}, {Told(row):points}, {Told(row):factor}"
    'fell, −2.0 [−2.5, −1.5] points, 4'
    """

    def __init__(self, row: "pd.Series[float]") -> None:
        """Take a row of a table of verdicts."""
        self.estimate, self.low, self.high, self.n = (float(row[name]) for name in ("estimate", "low", "high", "n"))

    def __format__(self, form: str) -> str:
        """Return the words of ``WORDS``, or ``points``, a ``number``, or a ``factor`` of a number of doublings."""
        if not self.n:
            return "was not measured" if form in WORDS else "not measured"
        if form in WORDS:
            up, down, open_ = WORDS[form]
            decided = self.n >= MIN_SEEDS
            return up if decided and self.low > 0 else down if decided and self.high < 0 else open_
        if form == "factor":
            return f"{2 ** abs(self.estimate):.2g}" if abs(self.estimate) >= 2 else f"{2 ** abs(self.estimate):.1f}"
        unit = " points" if form == "points" else ""
        digits = 1 if max(abs(self.low), abs(self.high)) >= 0.1 else 2
        mean, low, high = (f"{round(x, digits) + 0.0:+.{digits}f}" for x in (self.estimate, self.low, self.high))
        mean = mean if form == "points" else mean.removeprefix("+")
        return f"{mean} [{low.removeprefix('+')}, {high.removeprefix('+')}]{unit}".replace("-", "−")


def tell(text: str, verdicts: pd.DataFrame) -> str:
    """Fill in the braces of a text: ``{PREDICTION:FORM}``, with the forms of `Told`.

    Args:
        text: Such as "accuracy {accuracy:move}".
        verdicts: The table of verdicts of one claim at one scale.
    """
    numbers = {row["prediction"]: Told(row) for _, row in verdicts.iterrows()}
    return re.sub(r"\{([^{}:]+):(\w+)\}", lambda found: format(numbers[found[1]], found[2]), text)


def result(verdicts: pd.DataFrame, chapter: str) -> str:
    """Return what was measured of a claim at one scale, in a sentence or two."""
    return tell(HEADLINES[chapter], verdicts) if chapter in HEADLINES else f"{summarize(verdicts)}."


def sorted_scales(scales: Iterable[str]) -> list[str]:
    """Sort scales from small to large, a paper's last.

    >>> sorted_scales(["paper", "small", "mine", "digits", "paper-mlp"])
    ['digits', 'small', 'mine', 'paper', 'paper-mlp']
    """
    place = {name: i for i, name in enumerate(SCALES)}
    return sorted(set(scales), key=lambda name: (name.startswith("paper"), place.get(name, len(place)), name))


def best_scale(verdicts: pd.DataFrame) -> str:
    """Return the largest scale of a table of verdicts at which seeds suffice for a verdict; if none, the largest."""
    enough = verdicts.loc[verdicts["n"] >= MIN_SEEDS, "scale"]
    return sorted_scales(enough if len(enough) else verdicts["scale"])[-1]


def strip(verdicts: pd.DataFrame) -> str:
    """Return the verdict at every scale as badges in MyST Markdown, the largest scale first."""
    parts = []
    for scale in reversed(sorted_scales(verdicts["scale"])):
        here = verdicts[verdicts["scale"] == scale]
        held = f"{scale}, {int((here['verdict'] == SUPPORTED).sum())} of {len(here)}"
        parts.append(f"[{claim_verdict(here)}]{{.verdict}} [{held}]{{.scale}}")
    return " ".join(parts)


def kind(prediction: Mapping[str, str]) -> str:
    """Return what a prediction is about, given its ``statement`` and its ``unit``."""
    generalization = GENERALIZATION.search(f"{prediction['statement']} {prediction['unit']}")
    return KINDS[bool(generalization)]
