"""The training loss: cross-entropy of hard, smoothed or mixed targets, squared error, and one that was a mistake."""

import inspect
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlib.errors import FlatlibError

Loss = Callable[[Tensor, Tensor], Tensor]


class SmoothedCrossEntropy:
    r"""Mean over examples of $-\sum_c q_c \log p_c - H(q)$, $q = (1 - s)\, t + s / C$ of the target t.

    Without the entropy H(q) of the targets it would not be zero where the network predicts exactly q (MacDonald et al.
    2023, Figure 1). The gradient is that of the cross-entropy.

    Args:
        smoothing: Share s of the target that is spread evenly over the classes, in [0, 1).
    """

    def __init__(self, smoothing: float):
        self.smoothing = smoothing

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the mean, in nats, of logits (N, C) and classes (N,) or probabilities (N, C)."""
        cross_entropy = F.cross_entropy(output, target, label_smoothing=self.smoothing)
        return cross_entropy - self.entropy(target, output.shape[1])

    def entropy(self, target: Tensor, classes: int) -> Tensor | float:
        """Return the mean over examples of H(q), in nats."""
        if target.is_floating_point():
            q = (1 - self.smoothing) * target + self.smoothing / classes
            return torch.special.entr(q).sum(1).mean()
        q = torch.full((classes,), self.smoothing / classes, dtype=torch.float64)
        q[0] += 1 - self.smoothing
        return float(torch.special.entr(q).sum())


def batch_softmax_cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    r"""Compute the cross-entropy of $z_{nc} - \log \sum_m e^{z_{mc}}$, in nats.

    A log-softmax over the batch, where classes were meant, precedes the one over classes inside the cross-entropy.
    The public code of Bejan et al. 2022 trains on this. The loss of an example depends on the others of its batch,
    and a constant added to a class's output changes nothing: that class's bias is not trained.

    Args:
        output: Outputs z, (N, C).
        target: Classes, (N,).
    """
    return F.cross_entropy(F.log_softmax(output, dim=0), target)


def training_loss(name: str, smoothing: float = 0.0) -> Loss:
    """Return the training loss with this name; PyTorch's own function where labels are not smoothed.

    Args:
        name: ``cross_entropy``, ``squared`` or ``batch_softmax``.
        smoothing: Share of the target that is spread evenly over the classes, in [0, 1).
    """
    if name == "batch_softmax":
        return batch_softmax_cross_entropy
    if name == "squared":
        return SmoothedSquaredError(smoothing) if smoothing else squared_error
    return SmoothedCrossEntropy(smoothing) if smoothing else F.cross_entropy


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    r"""Compute the mean of $-\log \mathrm{softmax}(f)_y$, in nats, with the range of the classes checked first.

    Args:
        output: Logits f, (N, C).
        target: Classes (N,), where -100 marks an example to ignore, or probabilities (N, C).

    Raises:
        FlatlibError: If there is one output only, whose softmax is 1 whatever it is; if floating-point targets are not
            probabilities; if a class does not exist, which would leave a GPU unusable.
    """
    if isinstance(output, Tensor) and output.ndim > 1 and output.shape[1] == 1:
        raise FlatlibError(
            'cross_entropy of a single output is zero: pass loss="mse" for a regression, or '
            "nn.BCEWithLogitsLoss() for two classes"
        )
    if target.is_floating_point():
        _require_probabilities(output, target)
        return F.cross_entropy(output, target)
    least, most = (int(end) for end in target[target != IGNORED].aminmax()) if (target != IGNORED).any() else (0, 0)
    if output.ndim > 1 and not 0 <= least <= most < output.shape[1]:
        raise FlatlibError(f"the targets run from {least} to {most}, the outputs have {output.shape[1]} classes")
    return F.cross_entropy(output, target.long())


def _require_probabilities(output: Tensor, target: Tensor) -> None:
    """Raise a ``FlatlibError`` for targets of a regression, which cross-entropy takes as weights of the classes."""
    if output.shape != target.shape:
        raise FlatlibError(
            f"cross_entropy: floating-point targets of shape {tuple(target.shape)} for outputs of shape "
            f'{tuple(output.shape)} are not probabilities: pass whole numbers for classes, or loss="mse"'
        )
    sums = target.detach().sum(1)
    if not ((target >= 0).all() and ((sums - 1).abs() <= NORMALISED).all()):
        raise FlatlibError('cross_entropy: the targets are not probabilities that sum to 1: did you mean loss="mse"?')


def mse(output: Tensor, target: Tensor) -> Tensor:
    r"""Compute $\frac{1}{NC} \sum (f - y)^2$, PyTorch's mean over all elements.

    Args:
        output: Outputs f, (N, C).
        target: Targets y, (N, C), or classes (N,), which become one-hot rows.

    Raises:
        FlatlibError: If the shapes differ, or a class does not exist.
    """
    if not target.is_floating_point() and target.ndim == output.ndim - 1:
        target = target.unsqueeze(-1) == torch.arange(output.shape[-1], device=target.device)
        if not target.any(-1).all():
            raise FlatlibError(f"mse: a target is not one of the {output.shape[-1]} classes of the outputs")
    if target.shape != output.shape:
        raise FlatlibError(f"mse: targets of shape {tuple(target.shape)} for outputs of shape {tuple(output.shape)}")
    return F.mse_loss(output, target.to(output.dtype))


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    r"""Compute $\frac{1}{2N} \sum_i \|f_i - y_i\|_2^2$, a sum over outputs and a mean over examples.

    This is the squared loss of Cohen et al. 2021 (arXiv:2103.00065; their code sums $\frac12 (f - y)^2$ over classes
    and divides by N), C / 2 times `mse`: with that factor $\lambda_{\max}$ is to be compared with $2/\eta$.

    >>> float(squared_error(torch.tensor([[3.0, 1.0]]), torch.tensor([0])))  # (2^2 + 1^2) / 2
    2.5

    Args:
        output: Outputs f, (N, C).
        target: Targets y, (N, C), or classes (N,), which become one-hot rows.

    Raises:
        FlatlibError: If the shapes differ, or a class does not exist.
    """
    return mse(output, target) * (output[0].numel() / 2)


class SmoothedSquaredError:
    r"""`squared_error` with the targets $q = (1 - s)\, t + s / C$, of two classes $\sqrt2\,(1 - s)$ apart.

    Args:
        smoothing: Share s of the target that is spread evenly over the classes, in [0, 1).
    """

    def __init__(self, smoothing: float):
        self.smoothing = smoothing

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the mean of outputs (N, C) and classes (N,) or rows of targets (N, C)."""
        classes = output.shape[1]
        if not target.is_floating_point():
            target = (target.unsqueeze(-1) == torch.arange(classes, device=target.device)).to(output.dtype)
        return squared_error(output, (1 - self.smoothing) * target + self.smoothing / classes)


MODEL_NAMES = ("model", "net", "network", "module")  # of the first argument of a loss that takes (model, batch)
NORMALISED = 1e-2  # largest deviation of a sum of probabilities from 1; mixed float16 labels have 1e-3
IGNORED = -100  # PyTorch's default ignore_index
LOSSES = {"cross_entropy": cross_entropy, "mse": mse, "squared": squared_error}  # that `resolve_loss` knows by name


def is_mean_of_examples(loss: Callable, target: Tensor) -> bool:
    """Return whether the loss is known to weight all examples equally; a class of -100 has no weight."""
    if loss is cross_entropy:
        return target.is_floating_point() or bool((target >= 0).all())
    return loss in (mse, squared_error)


def resolve_loss(loss: str | Loss) -> Loss:
    """Return the loss of this name, or the callable itself.

    PyTorch's cross-entropy with default options is treated as "cross_entropy", whose output Hessian is known.

    Args:
        loss: Name in ``LOSSES``, or a callable (output, target) -> scalar that averages over examples.

    Raises:
        FlatlibError: If the name is unknown, or the loss is a sum: its Hessian grows with the data.
    """
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise FlatlibError(f'loss "{loss}" is unknown; choose one of {", ".join(LOSSES)} or pass a callable')
        return LOSSES[loss]
    if not callable(loss):
        raise FlatlibError(f"the loss must be a name or a callable, not {type(loss).__name__}")
    if loss is F.cross_entropy or (type(loss) is nn.CrossEntropyLoss and _has_default_options(loss)):
        return cross_entropy
    reduction = getattr(loss, "reduction", "mean")
    if reduction not in ("mean", "batchmean"):
        raise FlatlibError(f'the loss has reduction="{reduction}": only "mean" weights examples alike')
    return loss


def inputs_in_a_batch(loss: Callable) -> int | None:
    """Return how many entries of a batch are inputs, by what the loss takes.

    Returns:
        -1, all but the last, for a loss of (output, target); 1 for one of (output, target, weight); None for one of
        (model, batch), or of (model, input, target), whose first argument is called ``model``, ``net``, ``network`` or
        ``module``.
    """
    required = required_arguments(loss)
    if len(required) > 1 and required[0] in MODEL_NAMES:
        return None
    return 1 if len(required) == 3 else -1


def required_arguments(loss: Callable) -> list[str]:
    """Return the names of the positional arguments without a default; none for what is built into Python or PyTorch."""
    try:
        arguments = inspect.signature(loss.forward if isinstance(loss, nn.Module) else loss).parameters.values()
    except (TypeError, ValueError):
        return []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [a.name for a in arguments if a.default is a.empty and a.kind in kinds]


def _has_default_options(loss: nn.CrossEntropyLoss) -> bool:
    options = (loss.weight, loss.ignore_index, loss.reduction, loss.label_smoothing)
    return options == (None, IGNORED, "mean", 0.0) and not loss._forward_hooks and not loss._forward_pre_hooks
