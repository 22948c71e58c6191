"""The curvature above which an optimizer's steps grow on a quadratic."""

from typing import Any

from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from flatlib.curvature.spectrum.preconditioned import adam_stability_threshold


def stability_threshold(optimizer: Optimizer) -> float | None:
    r"""The largest stable eigenvalue for full batches; the Hessian's, or the preconditioned Hessian's for Adam.

    $2/\eta$ for gradient descent, $(2 + 2\beta)/\eta$ with momentum, $(2 + 2\beta) / ((1 + 2\beta)\,\eta)$ with
    Nesterov's (Cohen et al. 2021, "Gradient descent on neural networks typically occurs at the edge of stability",
    appendix B), `adam_stability_threshold` for Adam and AdamW. None where it is not known: another optimizer,
    dampening, groups with different settings. Weight decay is left out.
    """
    names = ("lr", "betas", "momentum", "nesterov", "dampening", "maximize")
    settings = {tuple(_plain(group.get(name)) for name in names) for group in optimizer.param_groups}
    if len(settings) > 1:
        return None
    group = optimizer.param_groups[0]
    rate = float(group["lr"])
    if rate <= 0 or group.get("maximize"):
        return None
    if isinstance(optimizer, Adam | AdamW):
        return adam_stability_threshold(rate, float(group["betas"][0]))
    if not isinstance(optimizer, SGD) or group["dampening"]:
        return None
    beta = group["momentum"]
    return (2 + 2 * beta) / ((1 + 2 * beta if group["nesterov"] else 1) * rate)


def _plain(setting: Any) -> Any:
    """A tensor as its number: two tensors of one value are two keys of a set."""
    return setting.item() if isinstance(setting, Tensor) else setting
