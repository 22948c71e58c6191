"""The Hessian as an adaptive optimizer sees it: preconditioned by the optimizer's own second moments."""

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from flatlib.curvature.operators.hessian import HessianOperator
from flatlib.curvature.spectrum.eigenvalues import top_eigenvalues
from flatlib.curvature.spectrum.lanczos_search import Eigenvalues
from flatlib.errors import FlatlibError


class PreconditionedOperator:
    r"""$P^{-1/2} H P^{-1/2}$ for a diagonal $P > 0$: symmetric, with the eigenvalues of $P^{-1} H$.

    Parameters
    ----------
    operator: H, (n, n).
    preconditioner: (n,) diagonal of P, in the order of the operator's parameters.

    Raises
    ------
    FlatlibError: if the preconditioner is not n positive finite numbers.
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
        """As `CurvatureOperator.noise`."""
        return float(self._scale.max()) ** 2 * self._operator.noise

    def matvec(self, v: Tensor) -> Tensor:
        """Product with v of shape (n,)."""
        return self._scale * self._operator.matvec(self._scale * v)

    def matmat(self, V: Tensor) -> Tensor:
        """Product with V of shape (n, k)."""
        return self._scale[:, None] * self._operator.matmat(self._scale[:, None] * V)

    def to_dense(self) -> Tensor:
        """The (n, n) matrix, for small n."""
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
    r"""The largest eigenvalue of $P^{-1/2} H P^{-1/2}$, the preconditioned sharpness of Cohen et al. 2022.

    Full-batch Adam trains where it equilibrates at `adam_stability_threshold` ("Adaptive gradient methods at the edge
    of stability", sections 2 and 3).

    Parameters
    ----------
    operator: of the Hessian, (n, n).
    preconditioner: (n,) diagonal of P, for Adam from `adam_preconditioner`.
    tol, max_products, start, seed: as for `top_eigenvalues`, of the preconditioned operator: the `vectors` of an
        earlier call are a warm `start`. Residuals are in its coordinates, too.

    Raises
    ------
    FlatlibError: for a preconditioner that is not n positive numbers, and what `top_eigenvalues` refuses.
    """
    preconditioned = PreconditionedOperator(operator, preconditioner)
    return top_eigenvalues(preconditioned, tol=tol, max_products=max_products, start=start, seed=seed)


def adam_preconditioner(optimizer: Optimizer, model: nn.Module, operator: HessianOperator) -> Tensor:
    r"""Diagonal of $P_t = (1 - \beta_1^t) \big(\sqrt{\nu_t / (1 - \beta_2^t)} + \epsilon\big)$ after t steps of Adam.

    Adam's step is $\eta P_t^{-1} m_t$ with the raw first moment $m_t$, so that the bias correction of both moments is
    in P (Cohen et al. 2022, section 2). With `amsgrad`, $\nu_t$ is the running maximum. Weight decay is not in P.

    Parameters
    ----------
    optimizer: torch's Adam or AdamW after at least one step.
    model: whose parameters it optimizes, by the names that the operator uses.
    operator: gives the parameters and their order.

    Returns
    -------
    (n,) float64 on the operator's device, in the units of the gradient.

    Raises
    ------
    FlatlibError: for another optimizer, a parameter which it does not hold, or which it has not yet stepped.
    """
    if not isinstance(optimizer, Adam | AdamW):
        raise FlatlibError(f"{type(optimizer).__name__} is not Adam or AdamW: its preconditioner is not known")
    groups = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}
    named = dict(model.named_parameters())
    pieces = []
    for name in operator.parameters:
        parameter = named.get(name)
        if parameter is None or parameter not in groups:
            raise FlatlibError(f'the optimizer does not hold the parameter "{name}"')
        state, group = optimizer.state.get(parameter), groups[parameter]
        if not state:
            raise FlatlibError(f'the optimizer has made no step with the parameter "{name}" yet')
        pieces.append(_adam_diagonal(state, group).flatten().to(operator.device))
    return torch.cat(pieces)


def _adam_diagonal(state: dict, group: dict) -> Tensor:
    step, (beta1, beta2) = float(state["step"]), (float(beta) for beta in group["betas"])
    second = state["max_exp_avg_sq"] if group["amsgrad"] else state["exp_avg_sq"]
    return (1 - beta1**step) * ((second.detach().double() / (1 - beta2**step)).sqrt() + group["eps"])


def adam_stability_threshold(learning_rate: float, beta1: float = 0.9) -> float:
    r"""$\frac{2 + 2\beta_1}{(1 - \beta_1)\,\eta}$: Adam with a frozen preconditioner diverges on a quadratic above it
    (Cohen et al. 2022, section 2).

    >>> round(adam_stability_threshold(1.0), 9)
    38.0

    Parameters
    ----------
    learning_rate: $\eta$.
    beta1: $\beta_1$, the decay of Adam's first moment.
    """
    return (2 + 2 * beta1) / ((1 - beta1) * learning_rate)
