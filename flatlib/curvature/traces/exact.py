"""Exact trace and diagonal of every parameter tensor's diagonal block, from one backward pass per output."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from flatlib.curvature.operators.base import CurvatureOperator
from flatlib.curvature.operators.examples import Chunk
from flatlib.curvature.operators.fisher import EmpiricalFisherOperator
from flatlib.curvature.operators.gauss_newton import GaussNewtonOperator
from flatlib.curvature.traces.example_gradient_norms import gradient_squared_norms, is_known, patch_size
from flatlib.curvature.traces.example_gradient_squares import gradient_size, gradient_squares
from flatlib.curvature.traces.output_hessian import Factors, output_hessian_factors
from flatlib.curvature.traces.piecewise_linearity import analyze_graph
from flatlib.errors import FlatlibError, NotFinite
from flatlib.losses import is_mean_of_examples

PART_MEMORY = 2**27  # bytes of unfolded images held at a time; tuned on a CPU, parts of 4 and 16 MiB were slower


class Recording(NamedTuple):
    """Outputs of a forward pass; each call's input (empty if passed by keyword) and its output's place in the graph."""

    output: Tensor
    calls: dict[nn.Module, list[tuple[Tensor, GradientEdge]]]


class Statistic(NamedTuple):
    """Square of an example's gradient in one tensor: its squared norm for the trace, of each entry for the diagonal.

    Attributes:
        of_layer: Maps a layer, its attributes, its input a (N, ...) and the number of passes to the map from its
            derivative (N, ...) and weights (N,) to the weighted sums over the examples, by attribute.
        of_gradient: The same for one example, from its gradient.
        held: Numbers held for each example, from a layer and its input.
    """

    of_layer: Callable[[nn.Module, set[str], Tensor, int], Callable[[Tensor, Tensor], dict[str, Tensor]]]
    of_gradient: Callable[[Tensor], Tensor]
    held: Callable[[nn.Module, Tensor], int]


def _norms(owner: nn.Module, attributes: set[str], a: Tensor, passes: int) -> Callable:
    norms = gradient_squared_norms(owner, attributes, a, passes)
    return lambda delta, weight: {name: weight @ norm.double() for name, norm in norms(delta).items()}


TRACE = Statistic(_norms, lambda gradient: torch.linalg.vector_norm(gradient).square(), patch_size)
DIAGONAL = Statistic(gradient_squares, torch.square, gradient_size)


def exact_traces(operator: CurvatureOperator) -> dict[str, float] | None:
    """Compute the trace of each parameter tensor's diagonal block, or return None where it is not known to be exact."""
    sums = exact_sums(operator, TRACE)
    return None if sums is None else {name: float(value) for name, value in sums.items()}


def exact_sums(operator: CurvatureOperator, statistic: Statistic) -> dict[str, Tensor] | None:
    r"""Compute the trace or the diagonal of each parameter tensor's block, or return None where it may not be exact.

    For the Gauss-Newton matrix the trace is $\sum_i \sum_k w_{ik} \|J_i^\top s_{ik}\|^2$ with the factors of
    ``output_hessian_factors``, for the empirical Fisher matrix with the slopes of the examples' losses; the diagonal
    has the squared entries in place of the squared norm. The Hessian's has in addition
    $\partial L / \partial f_{ic} \cdot \partial^2 f_{ic} / \partial \theta_j^2$, summed over i, c and j. These terms
    vanish if each single parameter enters the outputs piecewise linearly, the others fixed: true of weights and biases
    of ReLU networks, residual or not, and of batch norm's scale and shift with running statistics. ``analyze_graph``
    proves it, or there is no exact trace.

    A layer's part of $J_i^\top s$ is $\delta_i a_i^\top$, from its input $a_i$ and the back-propagated $\delta_i$; its
    square is $\|\delta_i\|^2 \|a_i\|^2$, so that no gradient of a single example is formed. This is checked against
    autograd on one example, alone and among others: a layer with another ``forward``, or a model that mixes examples,
    has no exact trace either.
    """
    if operator.data is None or not isinstance(operator.data[0], Tensor):
        return None
    owners = _owners(operator)
    with operator.measuring():
        per_example = _spot_check(operator, owners, statistic) if owners else None
        if owners is None or per_example is None:
            return None
        totals = {name: torch.zeros((), dtype=torch.float64, device=operator.device) for name in operator.parameters}
        part_size = max(1, int(PART_MEMORY / (operator.torch_dtype.itemsize * per_example)))
        for chunk in _parts(operator, part_size):
            means = _means(operator, owners, statistic, chunk.inputs, chunk.targets, part_size)
            if means is None:
                return None
            for name, mean in means.items():
                totals[name] = totals[name] + chunk.share * mean
    if not all(torch.isfinite(value).all() for value in totals.values()):
        raise NotFinite("a layer's gradient is not finite: the trace is not defined")
    return totals


def _owners(operator: CurvatureOperator) -> dict[str, nn.Module] | None:
    """Return the layer of each parameter if the gradient norms of all are known."""
    owners = {}
    for name in operator.parameters:
        path, _, attribute = name.rpartition(".")
        owner = owners[name] = operator.model.get_submodule(path)
        if attribute not in ("weight", "bias") or not is_known(owner):
            return None
    return owners


def _record(operator: CurvatureOperator, owners: dict[str, nn.Module], x: Tensor) -> Recording:
    calls: dict[nn.Module, list] = {owner: [] for owner in owners.values()}

    def note(owner: nn.Module, inputs: tuple, output: Tensor) -> None:
        if output.requires_grad:
            # An edge, not the tensor: an in-place ReLU would put its own output there.
            calls[owner].append((inputs[0].detach() if inputs else torch.empty(0), get_gradient_edge(output)))

    handles = [owner.register_forward_hook(note, prepend=True) for owner in calls]
    try:
        return Recording(operator.output(x), calls)
    finally:
        for handle in handles:
            handle.remove()


def _parts(operator: CurvatureOperator, part_size: int) -> Iterator[Chunk]:
    """Yield the operator's chunks, in smaller parts where the loss is known to be a mean over these too."""
    for chunk in operator.chunks():
        size = part_size if is_mean_of_examples(operator.loss, chunk.targets) else chunk.size
        for part in chunk.split(size):
            yield part._replace(share=chunk.share * part.size / chunk.size)


def _means(
    operator: CurvatureOperator,
    owners: dict[str, nn.Module],
    statistic: Statistic,
    x: Tensor,
    y: Tensor,
    part_size: int,
) -> dict[str, Tensor] | None:
    """Return each block's statistic for the mean loss of these examples, holding one part's graph at a time."""
    parts = x.split(part_size)
    recording = _record(operator, owners, parts[0]) if len(parts) == 1 else None
    with torch.no_grad():
        output = recording.output.detach() if recording else torch.cat([operator.output(part) for part in parts])
    uses_parameters = operator.checked_loss(output, y).requires_grad  # beside the outputs, as a penalty does
    terms = None if uses_parameters else _factors(operator, output, y.clone())
    if terms is None:
        return None
    factors = [(weight, vector.view_as(output).to(output.dtype)) for weight, vector in terms]
    totals: dict[str, Tensor] = {}
    for i, part in enumerate(parts):
        here = slice(i * part_size, i * part_size + len(part))
        recording = recording or _record(operator, owners, part)
        if not _is_proved(operator, owners, recording):
            return None
        for sums in _sums(owners, statistic, recording, [(weight[here], vector[here]) for weight, vector in factors]):
            for name, value in sums.items():
                totals[name] = totals.get(name, 0) + value
        recording = None
    return totals


def _factors(operator: CurvatureOperator, output: Tensor, y: Tensor) -> Factors | None:
    """Return the weights (N,) and vectors (N, D) whose squares make up the matrix in the outputs of each example."""
    if isinstance(operator, EmpiricalFisherOperator):
        slopes = operator.slopes(output, y).double()
        return iter([(torch.full_like(slopes.flatten(1)[:, 0], 1 / len(slopes)), slopes)])
    return output_hessian_factors(operator.loss, output, y)


def _is_proved(operator: CurvatureOperator, owners: dict[str, nn.Module], recording: Recording) -> bool:
    """Return whether each parameter enters once, through its layer, and for the Hessian piecewise linearly."""
    if not recording.output.requires_grad:
        return True
    found = analyze_graph(recording.output, operator.parameters)
    for name, uses in found.uses.items():
        calls = recording.calls[owners[name]]
        if uses > 0 and not (uses == len(calls) == 1 and calls[0][1].node in found.nodes):
            return False
    return found.linear or isinstance(operator, GaussNewtonOperator)


def _sums(
    owners: dict[str, nn.Module], statistic: Statistic, recording: Recording, factors: list[tuple[Tensor, Tensor]]
) -> Iterator[dict[str, Tensor]]:
    r"""Yield for each k the sum over i of $w_{ik}$ times the statistic of $J_i^\top s_{ik}$, of every tensor in use."""
    inputs = {owner: calls[0][0] for owner, calls in recording.calls.items() if calls}
    edges = [recording.calls[owner][0][1] for owner in inputs]
    names = {owner: {name.rpartition(".")[2]: name for name in owners if owners[name] is owner} for owner in inputs}
    maps = {owner: statistic.of_layer(owner, set(names[owner]), a, len(factors)) for owner, a in inputs.items()}
    for weight, vector in factors if edges else ():
        deltas = torch.autograd.grad(recording.output, edges, vector, retain_graph=True, allow_unused=True)
        sums = {}
        for owner, delta in zip(inputs, deltas, strict=True):
            for attribute, value in maps[owner](delta, weight).items() if delta is not None else ():
                if attribute in names[owner]:
                    sums[names[owner][attribute]] = value
        yield sums


def _spot_check(operator: CurvatureOperator, owners: dict[str, nn.Module], statistic: Statistic) -> int | None:
    """Return the numbers held for an example if one example's gradient by autograd has the statistic computed here.

    Here it lies between two others: a model that mixes examples gives it another output or gradient than alone.
    """
    x = next(operator.chunks()).inputs
    one, other = x[:1], x[len(x) // 2 :][:1]
    try:
        recording = _record(operator, owners, torch.cat([other, one, other]))
        alone = operator.output(one)
    except FlatlibError:  # a model made for one batch size, or batch statistics of one example
        return None
    output = recording.output
    if not isinstance(output, Tensor) or len(output) != 3:  # an object that only the loss can read
        return None
    inputs = [a for calls in recording.calls.values() for a, _ in calls]
    if not all(a.ndim > 1 and len(a) == 3 for a in inputs) or not _is_proved(operator, owners, recording):
        return None
    tolerance = torch.finfo(operator.torch_dtype).eps ** 0.5
    if not ((output[1] - alone[0]).abs() <= tolerance * output.abs().max()).all():
        return None
    if not output.requires_grad:
        return 1
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(0)).to(output)
    second = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64, device=output.device)
    sums = next(_sums(owners, statistic, recording, [(second, weights)]), {})
    grads = torch.autograd.grad(alone, list(operator.parameters.values()), weights[1:2], materialize_grads=True)
    for name, gradient in zip(operator.parameters, grads, strict=True):
        true = statistic.of_gradient(gradient)
        if not (sums.get(name, 0) - true).abs().max() <= tolerance * true.max():
            return None
    return sum(statistic.held(owner, calls[0][0]) for owner, calls in recording.calls.items() if calls) or 1
