"""Minimum sharpness: the least trace of the Hessian over all rescalings of the layers (Ibayashi et al. 2021)."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn

from flatlib.curvature.operators.empirical_risk import Loss
from flatlib.curvature.operators.examples import Data, Examples
from flatlib.curvature.operators.hessian import HessianOperator
from flatlib.curvature.traces.exact import exact_traces
from flatlib.curvature.traces.hutchinson import Estimate, trace
from flatlib.errors import NotDefined
from flatlib.losses import inputs_in_a_batch, resolve_loss
from flatlib.sharpness.rescaling import BATCH_NORM, SAMPLES, Layer, chain_of_layers, require_homogeneous

CONVERGED = 1e-14  # part of the value that half Newton's squared decrement, the expected error, is at the end
MOST_ITERATIONS = 200  # measured: up to 10 where the traces lie within four orders of magnitude, up to 53 within thirty


@dataclass(frozen=True)
class MinimumSharpness:
    r"""Least trace over all rescalings, the factors that attain it, and the traces of the layers.

    Attributes:
        value: $\min_\alpha \mathrm{tr}\, H(\alpha(w))$, in units of the loss over those of the weights squared.
        standard_error: Standard error of the value, from those of the traces; 0 if they are exact.
        alphas: (D,) minimising factors; their product is 1.
        trace: $\mathrm{tr}\, H(w)$, the value at $\alpha = 1$.
        weight_traces: (D,) traces of the Hessian's blocks of each layer's weight.
        bias_traces: (D,) traces of the Hessian's blocks of each layer's bias.
        layers: Names of the D layers, in order.
        products: Hessian-vector products used for the traces, 0 if they are exact.
        exact: Whether all traces are exact.
        iterations: Iterations of Newton's method.
    """

    value: float
    standard_error: float
    alphas: np.ndarray
    trace: float
    weight_traces: np.ndarray
    bias_traces: np.ndarray
    layers: tuple[str, ...]
    products: int
    exact: bool
    iterations: int


def minimum_sharpness(
    model: nn.Module,
    loss: Loss,
    data: Data,
    *,
    batch_norm: str = "eval",
    chunk_size: int | None = None,
    dtype: torch.dtype | None = None,
    probes: int | None = None,
    seed: int = 0,
    traces: dict[str, float] | None = None,
) -> MinimumSharpness:
    r"""Compute the least trace of the Hessian over all rescalings of the layers that keep the function.

    $\min_{\alpha_1 \cdots \alpha_D = 1} \mathrm{tr}\, H(\alpha(w))$, the measure of Bejan et al. 2022, equation 5.

    $\alpha(w)$ multiplies layer l's weight by $\alpha_l$ and its bias by $s_l = \alpha_1 \cdots \alpha_l$ (`rescale`):
    the loss stays, and each diagonal block of the Hessian is divided by its factor squared. With $a_l, b_l$ the traces
    of the blocks of weights and biases at w,

    $$\mathrm{tr}\, H(\alpha(w)) = \sum_l a_l / \alpha_l^2 + \sum_l b_l / s_l^2, \qquad s_D = 1,$$

    which is convex in $\log s$ and minimised by Newton's method; without biases the minimum is
    $D\, (a_1 \cdots a_D)^{1/D}$, from the inequality of means. The text of Bejan et al. multiplies all parameters of a
    layer by one factor, which would change the function; the code of Ibayashi et al. 2021 ("Minimum sharpness"), which
    they use, minimises the sum above, by 100,000 epochs of SGD.

    Defined if every weight's trace is positive, no bias' trace is negative and the layers form a chain between which
    the network is positively homogeneous; the last is tested on the data. Batch norm counts as a layer in evaluation
    mode, as in that code; its running mean is rescaled along, its variance kept. In train mode the loss does not depend
    on the scale of the layer before it, whose trace then falls to zero with growing weights: the infimum is not
    attained (nor when the running variance is rescaled along, as re-estimating the statistics would do).

    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> found = minimum_sharpness(model, "mse", (torch.eye(2), torch.ones(2, 1)))
    >>> found.value < found.trace, round(float(found.alphas.prod()), 6)
    (True, 1.0)

    Args:
        model: Network, left as it was.
        loss: A name or a callable, as for `HessianOperator`.
        data: (inputs, targets) or an iterable of batches.
        batch_norm: "eval"; "train" is refused if there is batch norm.
        chunk_size: Examples per pass, as for `HessianOperator`.
        dtype: Precision of the copy that is measured, as for `HessianOperator`.
        probes: Probes of `trace` for each block; by default the traces are exact where that is possible.
        seed: Seed of the probes.
        traces: Exact trace of each parameter's block, from ``exact_traces``, if they are known already.

    Raises:
        NotDefined: If minimum sharpness is not defined, with the reason.
        FlatlibError: If `HessianOperator` refuses.
    """
    if batch_norm == "train" and any(isinstance(module, BATCH_NORM) for module in model.modules()):
        raise NotDefined('minimum sharpness is not defined with batch norm in train mode: pass batch_norm="eval"')
    examples = Examples.read(data, inputs_in_a_batch(resolve_loss(loss)))
    layers = chain_of_layers(model)
    hessian = partial(HessianOperator, model, loss, examples, batch_norm=batch_norm, chunk_size=chunk_size, dtype=dtype)
    operator = hessian()
    require_homogeneous(model, layers, examples.few(SAMPLES).parts[0].inputs)
    exact = traces or (exact_traces(operator) if probes is None else None)

    def estimate(name: str | None) -> Estimate:
        if name is None or name not in operator.parameters:
            return Estimate(0.0, 0.0, 0, True)
        if exact is not None:
            return Estimate(exact[name], 0.0, 0, True)
        return trace(hessian(parameters=[name]), probes=probes, seed=seed)

    return _minimum(layers, [estimate(layer.weight) for layer in layers], [estimate(layer.bias) for layer in layers])


def _minimum(layers: list[Layer], weights: list[Estimate], biases: list[Estimate]) -> MinimumSharpness:
    """Return the minimum over the scales of the traces of the layers' blocks, and its error."""
    a, b = (np.array([estimate.value for estimate in block], dtype=float) for block in (weights, biases))
    for layer, of_weight, of_bias in zip(layers, a, b, strict=True):
        if not (of_weight > 0 and of_bias >= 0):
            name, found = (layer.weight, of_weight) if not of_weight > 0 else (layer.bias, of_bias)
            raise NotDefined(
                f'the Hessian\'s trace over "{name}" is {found:.3g}: not positive, so that rescaling lowers the trace '
                "without limit and minimum sharpness is not defined (or take more probes)"
            )
    log_scales, iterations = minimise_over_scales(a, b)
    alphas = np.exp(np.diff(log_scales, prepend=0.0))
    shares_a, shares_b = alphas**-2.0, np.exp(-2 * log_scales)
    # At the minimum the scales' own change is of second order, so that the traces' errors enter with their shares.
    errors = np.array([estimate.standard_error for estimate in (*weights, *biases)])
    return MinimumSharpness(
        value=float(a @ shares_a + b @ shares_b),
        standard_error=float(np.linalg.norm(errors * np.concatenate([shares_a, shares_b]))),
        alphas=alphas,
        trace=float(a.sum() + b.sum()),
        weight_traces=a,
        bias_traces=b,
        layers=tuple(layer.name for layer in layers),
        products=sum(estimate.products for estimate in (*weights, *biases)),
        exact=all(estimate.exact for estimate in (*weights, *biases)),
        iterations=iterations,
    )


@np.errstate(divide="ignore", over="ignore")  # of the logarithm of a bias trace of zero, and of steps too long
def minimise_over_scales(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, int]:
    r"""Return $\arg\min_u \sum_l a_l e^{-2 (u_l - u_{l-1})} + \sum_l b_l e^{-2 u_l}$ and the iterations.

    u is $\log s$, shape (D,), with $u_0 = u_D = 0$. The objective is strictly convex for a > 0, b >= 0. Newton's method
    with halved steps starts from the minimum for b = 0, where all $a_l / \alpha_l^2$ are equal.
    """
    log_a, log_b = np.log(a), np.log(b[:-1])
    unit = log_a.mean()  # the closed form is D in these units, whatever the scale of the loss
    u = np.cumsum(0.5 * (log_a - unit))[:-1]

    def terms(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        between = np.diff(u, prepend=0.0, append=0.0)
        return np.exp(log_a - unit - 2 * between), np.exp(log_b - unit - 2 * u)

    if len(a) == 1:
        return np.zeros(1), 0
    for iteration in range(MOST_ITERATIONS):
        weights, biases = terms(u)
        value = weights.sum() + biases.sum()
        gradient = 2 * (weights[1:] - weights[:-1] - biases)
        beside = np.diag(-4 * weights[1:-1], 1)
        hessian = np.diag(4 * (weights[1:] + weights[:-1] + biases)) + beside + beside.T
        step = np.linalg.solve(hessian, -gradient)
        decrement = -gradient @ step
        if not np.isfinite(decrement):
            break
        if decrement <= 2 * CONVERGED * value:
            return np.append(u + step, 0.0), iteration
        length = 1.0
        while not sum(part.sum() for part in terms(u + length * step)) <= value - 0.1 * length * decrement:
            length /= 2
        u = u + length * step
    raise NotDefined("the traces of the layers span too many orders of magnitude for minimum sharpness")
