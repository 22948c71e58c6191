"""What can be put on an axis of the Explorer: measures and numeric settings, named in plain text.

A measure has up to three columns: at the end of training, at equal training loss (``lambda_max_at_loss``), and the
largest of those tracked along training (``peak_lambda_max``).
"""

from typing import Any

from flatlib.config import RunConfig
from flatlib.figures.axes import AT_LOSS, COLUMNS, Column

PEAK = "peak_"
SETTINGS = {name: value for name, value in RunConfig().to_json().items() if name not in ("measures", "track")}
TITLES = {"dataset": "Data set", "model": "Network", "sam_batch": "SAM batch"}  # of settings that are no axis
PERFORMANCE = ("_accuracy", "_loss", "_gap")
CONTROLS = ("gradient_norm", "weight_norm", "margin", "margin_low", "updates", "update")
GROUPS = (
    *("Performance", "Sharpness and sensitivity", "Controls"),
    *("Largest along training", "At equal training loss", "Settings"),
)
SYMBOLS = {r"\lambda": "λ", r"\eta": "η", r"\rho": "ρ", r"\gamma": "γ", r"\alpha": "α"} | {
    **{r"\Vert ": "‖", r"\Vert": "‖", r"\max": "max", r"\min": "min", r"\mathrm": "", r"\,": " ", "^2": "²"},
    **dict.fromkeys("${}", ""),
}


def base(name: str) -> str:
    """
    >>> base("peak_lambda_max"), base("trace_at_loss"), base("trace")
    ('lambda_max', 'trace', 'trace')
    """
    return name.removeprefix(PEAK).removesuffix(AT_LOSS)


def in_order(names: list[str]) -> list[dict[str, Any]]:
    """The columns of `names` that can be an axis, described, in the order of `GROUPS` and of `COLUMNS`."""
    known = list(COLUMNS)
    shown = sorted((name for name in names if base(name) in COLUMNS), key=lambda name: known.index(base(name)))
    return sorted(map(described, shown), key=lambda axis: GROUPS.index(axis["group"]))


def described(name: str) -> dict[str, Any]:
    """An axis: its group in the list of choices, its label and unit, whether it is logarithmic, and what values are
    multiplied by where they are drawn."""
    axis: Column = COLUMNS[base(name)]
    about = {"unit": axis.unit, "log": axis.scale == "log", "multiplier": axis.multiplier}
    return {"name": name, "group": group(name), "label": label(name)} | about


def group(name: str) -> str:
    """One of `GROUPS`."""
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
    """A column's name and symbol in plain text.

    >>> label("frobenius_at_loss"), label("peak_lambda_max"), label("weight_decay_kind")
    ('Frobenius norm ‖H‖_F, at equal loss', 'Sharpness λ_max, largest', 'Weight decay kind')
    """
    if base(name) not in COLUMNS:
        return TITLES.get(name, name.replace("_", " ").capitalize())
    axis = COLUMNS[base(name)]
    symbol = axis.symbol
    for latex, letters in SYMBOLS.items():
        symbol = symbol.replace(latex, letters)
    when = ", at equal loss" * name.endswith(AT_LOSS) + ", largest" * name.startswith(PEAK)
    return f"{axis.name} {symbol}".strip() + when
