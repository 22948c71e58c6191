"""Axes of the Explorer: measures and numeric settings, named in plain text.

A measure has up to three columns: at the end of training, at equal training loss (``lambda_max_at_loss``), and the
largest of those tracked along training (``peak_lambda_max``).
"""

from typing import Any

from flatlib.config import RunConfig
from flatlib.figures.axes import AT_LOSS, COLUMNS

PEAK = "peak_"  # before a measure's name: its largest value along training
SETTINGS = {name: value for name, value in RunConfig().to_json().items() if name not in ("measures", "track")}
TITLES = {"dataset": "Data set", "model": "Network", "sam_batch": "SAM batch"}  # of settings that are no axis
PERFORMANCE = ("_accuracy", "_loss", "_gap")  # endings of names
CONTROLS = ("gradient_norm", "weight_norm", "margin", "margin_low", "updates", "update")
GROUPS = (
    *("Performance", "Sharpness and sensitivity", "Controls"),
    *("Largest along training", "At equal training loss", "Settings"),
)
SYMBOLS = {r"\lambda": "λ", r"\eta": "η", r"\rho": "ρ", r"\gamma": "γ", r"\alpha": "α"} | {
    **{r"\Vert ": "‖", r"\Vert": "‖", r"\max": "max", r"\min": "min", r"\mathrm": "", r"\,": " ", "^2": "²"},
    **dict.fromkeys("${}", ""),
}  # LaTeX -> plain text


def base(name: str) -> str:
    """Return the measure of a column.

    >>> base("peak_lambda_max"), base("trace_at_loss"), base("trace")
    ('lambda_max', 'trace', 'trace')
    """
    return name.removeprefix(PEAK).removesuffix(AT_LOSS)


def axes_of(names: list[str]) -> list[dict[str, Any]]:
    """Return the axes among the columns `names`, in the order of `GROUPS` and of `COLUMNS`.

    Each is a dictionary of its name, group, label and unit, whether it is logarithmic (``log``), and what values are
    multiplied by where they are drawn (``multiplier``).
    """
    order = list(COLUMNS)
    axes = []
    for name in sorted((name for name in names if base(name) in COLUMNS), key=lambda name: order.index(base(name))):
        column = COLUMNS[base(name)]
        drawn = {"unit": column.unit, "log": column.scale == "log", "multiplier": column.multiplier}
        axes.append({"name": name, "group": group(name), "label": label(name)} | drawn)
    return sorted(axes, key=lambda axis: GROUPS.index(axis["group"]))


def group(name: str) -> str:
    """Return the one of `GROUPS` that a column belongs to."""
    if name in SETTINGS:
        return "Settings"
    if name.startswith(PEAK):
        return "Largest along training"
    if name.endswith(AT_LOSS):
        return "At equal training loss"
    if name.endswith(PERFORMANCE):
        return "Performance"
    return "Controls" if name in CONTROLS else "Sharpness and sensitivity"


def label(name: str) -> str:
    """Return a column's name and symbol in plain text.

    >>> label("frobenius_at_loss"), label("peak_lambda_max"), label("weight_decay_kind")
    ('Frobenius norm ‖H‖_F, at equal loss', 'Sharpness λ_max, largest', 'Weight decay kind')
    """
    if base(name) not in COLUMNS:
        return TITLES.get(name, name.replace("_", " ").capitalize())
    column = COLUMNS[base(name)]
    symbol = column.symbol
    for latex, letters in SYMBOLS.items():
        symbol = symbol.replace(latex, letters)
    when = ", at equal loss" * name.endswith(AT_LOSS) + ", largest" * name.startswith(PEAK)
    return f"{column.name} {symbol}".strip() + when
