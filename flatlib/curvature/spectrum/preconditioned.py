"""Curvature as an optimizer sees it: the Hessian preconditioned by Adam's second moments, and stability thresholds."""

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from flatlib.curvature.operators.frozen_model import unwrapped
from flatlib.curvature.operators.hessian import HessianOperator
from flatlib.curvature.operators.symmetry import ASYMMETRY
from flatlib.curvature.spectrum.eigenvalues import top_eigenvalues
from flatlib.curvature.spectrum.lanczos_search import Eigenvalues
from flatlib.errors import FlatlibError, NotDefined


class PreconditionedOperator:
    r"""Matrix $P^{-1/2} H P^{-1/2}$ for a diagonal $P > 0$: symmetric, with the eigenvalues of $P^{-1} H$.

    >>> H = HessianOperator(torch.nn.Linear(2, 1), "mse", (torch.eye(2), torch.ones(2, 1)))
    >>> halved = PreconditionedOperator(H, torch.full((3,), 2.0))
    >>> torch.allclose(halved.to_dense(), H.to_dense() / 2)
    True

    Args:
        operator: H, (n, n).
        preconditioner: Diagonal of P, (n,), in the order of the operator's parameters.

    Raises:
        FlatlibError: If the preconditioner is not n positive finite numbers.
    """

    def __init__(self, operator: HessianOperator, preconditioner: Tensor):
        n = operator.shape[0]
        if preconditioner.shape != (n,):
            raise FlatlibError(f"the preconditioner must be {n} numbers, got the shape {tuple(preconditioner.shape)}")
        self.shape, self.torch_dtype, self.device = operator.shape, operator.torch_dtype, operator.device
        self._operator = operator
        self._scale = preconditioner.detach().to(operator.device, torch.float64).rsqrt().to(operator.torch_dtype)
        if not (torch.isfinite(self._scale) & (self._scale > 0)).all():
            raise FlatlibError("the preconditioner must be positive and finite")

    @property
    def noise(self) -> float:
        """Norm that rounding gives a zero product, as of ``CurvatureOperator``."""
        return float(self._scale.max()) ** 2 * self._operator.noise

    def matvec(self, v: Tensor) -> Tensor:
        """Return the product with v of shape (n,)."""
        return self._scale * self._operator.matvec(self._scale * v)

    def matmat(self, V: Tensor) -> Tensor:
        """Return the product with V of shape (n, k)."""
        return self._scale[:, None] * self._operator.matmat(self._scale[:, None] * V)

    def to_dense(self) -> Tensor:
        """Return the (n, n) matrix, from n products."""
        return self._scale[:, None] * self._operator.to_dense() * self._scale


def preconditioned_eigenvalue(
    operator: HessianOperator,
    preconditioner: Tensor,
    *,
    tol: float = 1e-3,
    max_products: int | None = None,
    start: Tensor | None = None,
    seed: int = 0,
) -> Eigenvalues:
    r"""Compute the preconditioned sharpness, the largest eigenvalue of $P^{-1/2} H P^{-1/2}$.

    In full-batch training with Adam it settles at ``adam_stability_threshold`` (Cohen et al. 2022, "Adaptive gradient
    methods at the edge of stability", arXiv:2207.14484, sections 2 and 3). Its residual and vector are in the
    coordinates of the preconditioned matrix.

    >>> H = HessianOperator(torch.nn.Linear(2, 1, bias=False), "mse", (torch.eye(2), torch.ones(2, 1)))
    >>> round(float(preconditioned_eigenvalue(H, torch.tensor([0.5, 2.0])).values[0]), 6)  # H is the unit matrix
    2.0

    Args:
        operator: Hessian, (n, n).
        preconditioner: Diagonal of P, (n,), for Adam from ``adam_preconditioner``.
        tol: Relative tolerance, as for ``top_eigenvalues``.
        max_products: Limit of products, as there.
        start: Warm start, such as the ``vectors`` of an earlier call.
        seed: Seed of the random part of the start.

    Raises:
        FlatlibError: If the preconditioner is not n positive numbers, if some are so small beside the others that the
            rounding of the operator's products would count, or if ``top_eigenvalues`` refuses an argument.
    """
    preconditioned = PreconditionedOperator(operator, preconditioner)
    # Weights without a gradient, such as biases before batch norm, are divided by little more than epsilon.
    amplified = float(preconditioner.median() / preconditioner.min())
    if amplified * torch.finfo(operator.torch_dtype).eps > ASYMMETRY:
        raise FlatlibError(
            f"the preconditioner has numbers {amplified:.0e} times below its median, which amplifies the rounding of "
            f"products in {operator.torch_dtype}: pass an operator with dtype=torch.float64"
        )
    return top_eigenvalues(preconditioned, tol=tol, max_products=max_products, start=start, seed=seed)


def adam_preconditioner(optimizer: Optimizer, model: nn.Module, operator: HessianOperator) -> Tensor:
    r"""Return the diagonal of Adam's $P_t$, $1 - \beta_1^t$ times $\sqrt{\nu_t / (1 - \beta_2^t)} + \epsilon$.

    It has the shape (n,), in float64 on the operator's device, in the units of the gradient. Adam's step is
    $\eta P_t^{-1} m_t$ with the raw first moment $m_t$, so that both bias corrections are in P (Cohen et al. 2022,
    section 2). With ``amsgrad``, $\nu_t$ is the running maximum. Weight decay is not in P.

    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = torch.optim.Adam(model.parameters())
    >>> model(torch.eye(2)).sum().backward()
    >>> optimizer.step()
    >>> H = HessianOperator(model, "mse", (torch.eye(2), torch.ones(2, 1)))
    >>> adam_preconditioner(optimizer, model, H).float()  # after one step 0.1 of the absolute gradient: weight, bias
    tensor([0.1000, 0.1000, 0.2000])

    Args:
        optimizer: PyTorch's Adam or AdamW after at least one step.
        model: Network whose parameters it optimizes, with the names that the operator uses.
        operator: Operator that gives the parameters and their order.

    Raises:
        NotDefined: If the optimizer is another, or does not hold a parameter or has not stepped it yet.
    """
    if not isinstance(optimizer, Adam | AdamW):
        raise NotDefined(f"{type(optimizer).__name__} is not Adam or AdamW: its preconditioner is not known")
    groups = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}
    named = {name.replace("_orig_mod.", ""): p for name, p in unwrapped(model).named_parameters()}
    pieces = []
    for name in operator.parameters:
        parameter = named.get(name)
        if parameter is None or parameter not in groups:
            raise NotDefined(f'the optimizer does not hold the parameter "{name}"')
        state, group = optimizer.state.get(parameter), groups[parameter]
        if not state:
            raise NotDefined(f'the optimizer has made no step with the parameter "{name}" yet')
        step, (beta1, beta2) = float(state["step"]), (float(beta) for beta in group["betas"])
        second = state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"].detach().double()
        diagonal = (1 - beta1**step) * ((second / (1 - beta2**step)).sqrt() + group["eps"])
        pieces.append(diagonal.flatten().to(operator.device))
    return torch.cat(pieces)


def adam_stability_threshold(learning_rate: float, beta1: float = 0.9) -> float:
    r"""Return $\frac{2 + 2\beta_1}{(1 - \beta_1)\,\eta}$, above which Adam with a frozen preconditioner diverges.

    The statement is for quadratics (Cohen et al. 2022, section 2).

    >>> round(adam_stability_threshold(1.0), 9)
    38.0

    Args:
        learning_rate: $\eta$.
        beta1: Decay $\beta_1$ of Adam's first moment.
    """
    return (2 + 2 * beta1) / ((1 - beta1) * learning_rate)


def stability_threshold(optimizer: Optimizer) -> float | None:
    r"""Return the largest stable eigenvalue for full batches: the Hessian's, or the preconditioned Hessian's for Adam.

    It is $2/\eta$ for gradient descent, $(2 + 2\beta)/\eta$ with momentum, $(2 + 2\beta) / ((1 + 2\beta)\,\eta)$ with
    Nesterov's (Cohen et al. 2021, "Gradient descent on neural networks typically occurs at the edge of stability",
    arXiv:2103.00065, appendix B), and ``adam_stability_threshold`` for Adam and AdamW. Weight decay is ignored.

    >>> round(stability_threshold(torch.optim.SGD([torch.ones(1)], lr=0.1, momentum=0.9)), 9)
    38.0

    Args:
        optimizer: Any optimizer of PyTorch.

    Returns:
        None where it is unknown: for another optimizer, dampening, or parameter groups with different settings.
    """
    names = ("lr", "betas", "momentum", "nesterov", "dampening", "maximize")
    settings = [[group.get(name) for name in names] for group in optimizer.param_groups]
    group = optimizer.param_groups[0]
    rate = float(group["lr"])
    if any(other != settings[0] for other in settings) or rate <= 0 or group.get("maximize"):
        return None
    if isinstance(optimizer, Adam | AdamW):
        return adam_stability_threshold(rate, float(group["betas"][0]))
    if not isinstance(optimizer, SGD) or group["dampening"]:
        return None
    beta = group["momentum"]
    return (2 + 2 * beta) / ((1 + 2 * beta if group["nesterov"] else 1) * rate)
