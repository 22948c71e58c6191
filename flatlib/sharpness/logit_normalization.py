"""Logit normalization, after which a loss no longer depends on how confident the network is."""

from collections.abc import Callable

from torch import Tensor

from flatlib.curvature.operators.empirical_risk import Loss
from flatlib.errors import NotDefined
from flatlib.losses import inputs_in_a_batch, resolve_loss


def of_normalized_logits(loss: Loss) -> Callable[[Tensor, Tensor], Tensor]:
    r"""Return the loss of the logits $\tilde f_i = (f_i - \bar f_i) / \|f_i - \bar f_i\|_2$, example by example.

    $\bar f_i$ is the mean over the classes. This is `LogitNormalizationWrapper` in the code of Andriushchenko et al.
    2023, "A modern look at the relationship between sharpness and generalization" (arXiv:2302.07011): multiplying all
    logits by a factor, as longer training does, changes nothing.

    >>> import torch
    >>> loss, classes = of_normalized_logits("cross_entropy"), torch.tensor([0])
    >>> loss(torch.tensor([[1.0, 3.0]]), classes) == loss(torch.tensor([[10.0, 30.0]]), classes)
    tensor(True)

    Args:
        loss: A name or a callable, as for `HessianOperator`.

    Raises:
        NotDefined: If the loss is not one of (output, target); when it is called, if the outputs are not (N, C) with
            two classes, or those of an example are all equal.
    """
    function = resolve_loss(loss)
    if inputs_in_a_batch(function) != -1:
        raise NotDefined("logits can be normalized for a loss of (output, target) only")

    def normalized(output: Tensor, target: Tensor) -> Tensor:
        if not isinstance(output, Tensor) or output.ndim != 2 or output.shape[1] < 2:
            raise NotDefined("logits can be normalized if the outputs are (N, C), with two classes or more")
        centered = output - output.mean(1, keepdim=True)
        norms = centered.norm(dim=1, keepdim=True)
        if not norms.all():
            raise NotDefined("the logits of an example are all equal: they cannot be normalized")
        return function(centered / norms, target)

    return normalized
