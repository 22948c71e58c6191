"""Curvature of the loss in the inputs: the largest eigenvalue of its Hessian in each example's input."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Unpack

import torch
from torch import Tensor, nn

from flatlib.curvature.operators.empirical_risk import Loss
from flatlib.curvature.operators.example_losses import require_own_losses, require_own_outputs
from flatlib.curvature.operators.examples import Chunk, Data
from flatlib.curvature.operators.hessian import HessianOperator
from flatlib.curvature.operators.symmetry import require_own_graph, require_symmetry
from flatlib.errors import FlatlibError, NotDefined, NotFinite, explained
from flatlib.sharpness.perturbed_loss import Options

MOST = 100  # products; ReLU networks need one more than they have outputs
MEMORY = 2**28  # bytes of the vectors of one part of the examples; not tuned
EXPECTED = 32  # vectors for which that memory is planned
CHECK_EVERY = 4  # steps between two looks at the residuals, which take longer than a product of a small network
ROUNDING = 10.0  # units in the last place of an eigenvalue below which a number is rounding error, as for Lanczos


@dataclass(frozen=True)
class InputCurvature:
    """Largest eigenvalue of the Hessian of each example's loss in its input.

    Attributes:
        values: (N,) float64 on the CPU, by sign, in units of the loss per squared input.
        residuals: (N,) float64, ||Hv - value v|| for the unit vector v: an eigenvalue lies within it of the value, and
            the largest is not below the value, but for rounding.
        products: Products of every example's Hessian with a vector, in each part of the examples at most.
        converged: Whether every residual is at most tol |value|, or at the rounding error.
    """

    values: Tensor
    residuals: Tensor
    products: int
    converged: bool


@torch.inference_mode(False)
def input_lambda_max(
    model: nn.Module,
    loss: Loss,
    data: Data,
    *,
    tol: float = 1e-3,
    max_products: int = MOST,
    seed: int = 0,
    operator: HessianOperator | None = None,
    **options: Unpack[Options],
) -> InputCurvature:
    r"""Compute $\lambda_{\max}(\nabla^2_x \ell(f(x), y))$ at each example, with its residual.

    The gradient of a network of small input curvature holds further around the input. Moosavi-Dezfooli et al. 2019,
    "Robustness via curvature regularization, and vice versa" (arXiv:1811.09716), bound the smallest perturbation that
    raises the loss to a threshold by this eigenvalue, and find it to fall with adversarial training.

    As no example depends on another, one pass multiplies each one's Hessian by a vector of its own, and Lanczos's
    method with full reorthogonalization runs for all examples at once. A residual certifies an eigenvalue, not that it
    is the largest: see ``top_eigenvalues``. A custom function whose backward pass hides its own derivative from
    autograd goes unnoticed: what is left is symmetric.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> _ = nn.init.constant_(model.weight, 3)  # of (3 x_1 + 3 x_2 - y)^2 the Hessian in x is 18 (1 1; 1 1)
    >>> found = input_lambda_max(model, "mse", (torch.eye(2), torch.ones(2, 1)))
    >>> found.values.numpy().round(4).tolist()
    [36.0, 36.0]

    Args:
        model: Maps (N, ...) to (N, ...), one example independent of the others; left as it was.
        loss: A name or a callable, as for `HessianOperator`, the mean of the examples' own losses.
        data: (inputs, targets) or an iterable of batches.
        tol: Stop when each residual is at most tol |value|, or at the rounding error.
        max_products: Stop with ``converged=False`` after this many products.
        seed: Seed of the starting vectors.
        operator: The Hessian of the loss over the data, if it exists already: its derivatives are not checked again.
        **options: ``batch_norm``, ``chunk_size``, ``parameters`` and ``dtype`` of `HessianOperator`.

    Raises:
        NotDefined: If the inputs are not one tensor of numbers, or the model or the loss mixes examples.
        FlatlibError: If an argument is out of range, or `HessianOperator` refuses.
    """
    if not tol > 0 or max_products < 1:
        raise FlatlibError(f"tol={tol} and max_products={max_products} must be positive")
    operator = operator or HessianOperator(model, loss, data, **options)
    if operator.data is None or not operator.data[0].is_floating_point():
        raise NotDefined("the inputs are no tensor of floating-point numbers: the loss has no derivative in them")
    operator.check_derivatives(products=True)
    generator = torch.Generator().manual_seed(seed)
    size = max(1, MEMORY // (EXPECTED * operator.torch_dtype.itemsize * max(1, operator.data[0][0].numel())))
    parts = []
    with operator.measuring():
        for chunk in operator.chunks():
            for part in chunk.split(size):
                gradient, leaf = _input_gradient(operator, part)
                parts.append(_largest(gradient, leaf, tol, max_products, generator, operator.noise))
    values, residuals, converged, products = zip(*parts, strict=True)
    return InputCurvature(
        torch.cat(values).cpu(), torch.cat(residuals).cpu(), max(products), bool(torch.cat(converged).all())
    )


def _input_gradient(operator: HessianOperator, part: Chunk) -> tuple[Tensor, Tensor]:
    """Return the gradient of each example's own loss in its input, with its graph, and the inputs it belongs to."""
    leaf = part.inputs.clone().requires_grad_()
    value = operator.chunk_loss(part._replace(inputs=leaf.clone()))  # a copy, since a model may work in place
    require_own_losses(operator, require_own_outputs(operator, part), part.targets)
    if not value.requires_grad:
        return torch.zeros_like(leaf), leaf
    with explained("the gradient in the inputs fails"):
        gradient = torch.autograd.grad(part.size * value, leaf, create_graph=True, materialize_grads=True)[0]
    require_own_graph([gradient], operator.frozen.originals)
    return gradient, leaf


def _product(gradient: Tensor, leaf: Tensor, q: Tensor) -> Tensor:
    """Return each example's Hessian times its own vector, (N, D)."""
    if not gradient.requires_grad:
        return torch.zeros_like(q)
    with explained("the second derivative fails"):
        w = torch.autograd.grad(gradient, leaf, q.view_as(leaf), retain_graph=True, materialize_grads=True)[0]
    if not torch.isfinite(w).all():
        raise NotFinite("a Hessian-vector product is not finite: the curvature is not defined")
    return w.flatten(1)


class _Lanczos:
    """Lanczos's iteration with full reorthogonalization for N symmetric matrices (D, D) at once."""

    def __init__(self, start: Tensor, generator: torch.Generator):
        self._generator = generator
        self._vectors = start.new_empty(len(start), min(EXPECTED, start.shape[1]), start.shape[1])
        self._next = start / torch.linalg.vector_norm(start, dim=1, keepdim=True)
        self._alphas: list[Tensor] = []
        self._betas: list[Tensor] = []
        self.size = self.asymmetry = torch.zeros(len(start), dtype=torch.float64, device=start.device)

    @property
    def steps(self) -> int:
        """Number of products so far."""
        return len(self._betas)

    @property
    def rounding(self) -> Tensor:
        """Numbers below these, (N,), are zero to rounding: from the dtype, or from the asymmetry of the products."""
        return torch.maximum(ROUNDING * torch.finfo(self._next.dtype).eps * self.size, self.asymmetry)

    def step(self, multiply: Callable[[Tensor], Tensor]) -> None:
        """Add one product; continue an exhausted space from a random vector orthogonal to it."""
        m, d = self.steps, self._vectors.shape[2]
        if m == self._vectors.shape[1]:
            self._vectors = torch.cat([self._vectors, torch.empty_like(self._vectors)], 1)
        self._vectors[:, m] = self._next
        basis = self._vectors[:, : m + 1]
        w, overlaps = _orthogonalize(multiply(self._next), basis)
        self._alphas.append(overlaps[:, -1])
        self.asymmetry = torch.maximum(self.asymmetry, torch.linalg.vector_norm(overlaps[:, :-2], dim=1))
        w, _ = _orthogonalize(w, basis)
        beta = torch.linalg.vector_norm(w, dim=1, dtype=torch.float64)
        self.size = torch.maximum(self.size, overlaps[:, -1].abs() + beta)
        exhausted = (beta <= ROUNDING * torch.finfo(w.dtype).eps * self.size) | (m + 1 == d)
        self._betas.append(beta.masked_fill(exhausted, 0))
        self._next = w / beta.masked_fill(exhausted, 1).to(w)[:, None]
        if exhausted.any() and m + 1 < d:
            fresh = torch.randn(w.shape, generator=self._generator, dtype=torch.float64).to(w)
            fresh = _orthogonalize(_orthogonalize(fresh, basis)[0], basis)[0]
            fresh /= torch.linalg.vector_norm(fresh, dim=1, keepdim=True)
            self._next = torch.where(exhausted[:, None], fresh, self._next)

    def largest(self) -> tuple[Tensor, Tensor]:
        """Return the largest Ritz value of each matrix and its residual, (N,) each."""
        alphas, betas = torch.stack(self._alphas, 1), torch.stack(self._betas, 1)
        T = torch.diag_embed(alphas) + torch.diag_embed(betas[:, :-1], 1) + torch.diag_embed(betas[:, :-1], -1)
        values, vectors = torch.linalg.eigh(T)
        return values[:, -1], torch.maximum(betas[:, -1] * vectors[:, -1, -1].abs(), self.rounding)


def _orthogonalize(w: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Return what is left of w (N, D) after the basis (N, m, D), and the overlaps with it, (N, m) in float64."""
    overlaps = basis @ w[:, :, None]
    return w - (overlaps.mT @ basis)[:, 0], overlaps[:, :, 0].double()


def _largest(
    gradient: Tensor, leaf: Tensor, tol: float, most: int, generator: torch.Generator, noise: float
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Return each example's largest Ritz value, its residual and whether it converged, and the products used."""
    start = torch.randn(len(leaf), leaf[0].numel(), generator=generator, dtype=torch.float64).to(leaf)
    lanczos, last = _Lanczos(start, generator), min(most, start.shape[1])
    while True:
        lanczos.step(lambda q: _product(gradient, leaf, q))
        if lanczos.steps == last or lanczos.steps % CHECK_EVERY == 0:
            values, residuals = lanczos.largest()
            converged = residuals <= torch.maximum(tol * values.abs(), lanczos.rounding)
            if lanczos.steps == last or converged.all():
                break
    require_symmetry(float(lanczos.asymmetry.max()), float(lanczos.size.max()), noise)
    return values, residuals, converged, lanczos.steps
