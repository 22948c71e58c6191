"""What happens along one run of gradient descent: numbers of its trajectory, up to where the data are fitted.

Cross-entropy loses its curvature once the training loss has fallen to ``FITTED``; what comes after that is excluded.
"""

import numpy as np
import pandas as pd

from flatlib.stats import kendall_tau

FITTED = 0.3  # training loss, in nats, from which the collapse of the cross-entropy's curvature shows
JACOBIAN = "softmax_jacobian_norm"  # the paper's choice: the softmaxed model, largest over the training samples


def trajectory(run: pd.Series) -> pd.DataFrame:
    """Return the tracked points of one run, on cross-entropy up to the first one at or below ``FITTED`` (else all)."""
    points = pd.DataFrame(run["trajectory"]).astype(float)
    if run["loss"] != "cross_entropy":
        return points
    fitted = np.flatnonzero(points["train_loss"] <= FITTED)
    return points.iloc[: fitted[0] + 1] if len(fitted) else points


def crossing(points: pd.DataFrame, learning_rate: float) -> int | None:
    """Return the position of the first point at or above 2 / learning rate; None if the run never gets there."""
    above = np.flatnonzero(points["lambda_max"] >= 2 / learning_rate)
    return int(above[0]) if len(above) else None


def doublings(first: float, last: float) -> float:
    """Return how many times `first` doubles to become `last`; NaN unless both are positive and finite."""
    return float(np.log2(last / first)) if 0 < first < np.inf and 0 < last < np.inf else np.nan


def rise(run: pd.Series) -> float:
    """Return the doublings of lambda_max from initialisation to its peak."""
    sharpness = trajectory(run)["lambda_max"]
    return doublings(sharpness.iloc[0], sharpness.max())


def jacobian_growth(run: pd.Series) -> float:
    """Return the doublings of the Jacobian norm from initialisation to the end of the window."""
    norms = trajectory(run)[JACOBIAN]
    return doublings(norms.iloc[0], norms.iloc[-1])


def hover(run: pd.Series) -> float:
    """Return the median of lambda_max x learning rate / 2 from the crossing of 2 / learning rate on; NaN without."""
    points = trajectory(run)
    start = crossing(points, run["learning_rate"])
    return np.nan if start is None else float((points["lambda_max"][start:] * run["learning_rate"] / 2).median())


def rise_together(run: pd.Series) -> float:
    """Return Kendall's tau of the growth of lambda_max and of the Jacobian norm, from point to point along the rise.

    Two quantities that both rise have a tau of one; that of their growth is one if they rise fast at the same time. The
    rise ends at the crossing of 2 / learning rate, or at the peak of lambda_max where it is never crossed.
    """
    points = trajectory(run)
    end = crossing(points, run["learning_rate"])
    rising = points.iloc[: (int(points["lambda_max"].argmax()) if end is None else end) + 1]
    both = np.log2(rising[["lambda_max", JACOBIAN]].where(rising > 0)).diff().dropna()
    return kendall_tau(*both.to_numpy().T) if len(both) > 2 and (both.nunique() > 1).all() else np.nan


def distance_at_start(run: pd.Series) -> float:
    """Return lambda_max x learning rate / 2 at initialisation."""
    return float(trajectory(run)["lambda_max"].iloc[0] * run["learning_rate"] / 2)
