"""Problems on which libraries fail, with what people bring: losses, models and data that are not ordinary."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from flatlib.bench.problems import Problem

EXAMPLES = 24
CLOSE = [1.0, *torch.linspace(0.5, 0.985, 40).tolist()]  # eigenvalues between which power iteration cannot tell


class MeanOutput(nn.Module):
    """Loss that is the mean of the outputs."""

    reduction = "mean"

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return output.mean()


class TinyCrossEntropy(nn.CrossEntropyLoss):
    """Cross-entropy times a billionth, as of a network that has fitted its data."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return 1e-9 * super().forward(output, target)


class QuadraticModel(nn.Module):
    """Model whose output (N, 1) has a mean with the given Hessian eigenvalues, in a rotated basis."""

    matrix: Tensor

    def __init__(self, eigenvalues: list[float]):
        super().__init__()
        n = len(eigenvalues)
        rotation, _ = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))
        self.weight = nn.Parameter(torch.ones(n))
        self.register_buffer("matrix", (rotation * torch.tensor(eigenvalues) @ rotation.T).float())

    def forward(self, x: Tensor) -> Tensor:
        return (0.5 * self.weight @ self.matrix @ self.weight).expand(len(x), 1)


class Penalized(nn.Module):
    """Cross-entropy and the squared norm of a model's weights, which the loss holds."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.parameters_of_model = list(model.parameters())

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output, target) + sum(p.square().sum() for p in self.parameters_of_model)


class Rounded(nn.Module):
    """Layer that rounds its input and passes the gradient on, as quantized networks do."""

    def forward(self, x: Tensor) -> Tensor:
        return x + (x.round() - x).detach()


class Standardizing(nn.Module):
    """Model that standardizes its input in place, as is harmless in training, where every batch is fresh."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.sub_(0.5).div_(0.25))


class Attention(nn.Module):
    """One layer of attention over two tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 12), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.inner(x.unflatten(1, (1, 2, 4))).chunk(3, -1)
        return self.outer(nn.functional.scaled_dot_product_attention(q, k, v).mean((1, 2)))


def _network(*first: nn.Module) -> nn.Sequential:
    return nn.Sequential(*(first or [nn.Linear(8, 5)]), nn.Tanh(), nn.Linear(5, 3))


def _data() -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(EXAMPLES, 8), torch.arange(EXAMPLES) % 3)]


def _problem(model: nn.Module | None = None, **settings: Any) -> Problem:
    return Problem("", model or _network(), _data(), **settings)


def _quadratic(eigenvalues: list[float]) -> Problem:
    return Problem("", QuadraticModel(eigenvalues), [(torch.zeros(4, 1), torch.zeros(4))], loss=MeanOutput())


def _unequal_batches() -> Problem:
    ((x, y),) = _data()
    x = torch.cat([x[:20], 4 * x[20:]])
    return Problem("", _network(), [(x[:20], y[:20]), (x[20:], y[20:])])


def _unused_parameter() -> Problem:
    problem = _problem()
    problem.model.register_parameter("spare", nn.Parameter(torch.ones(2)))
    return problem


def _old_gradients() -> Problem:
    """Return a problem as PyHessian leaves it: with gradients that hold their graph."""
    problem = _problem()
    ((x, y),) = problem.batches
    parameters = list(problem.model.parameters())
    gradients = torch.autograd.grad(problem.loss(problem.model(x), y), parameters, create_graph=True)
    for p, gradient in zip(parameters, gradients, strict=True):
        p.grad = gradient
    return problem


def _sorted_classes() -> Problem:
    """Return a problem with weighted classes whose batches hold one class each, as of a folder of images."""
    ((x, _),) = _data()
    y = torch.arange(EXAMPLES) // 8
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 9.0, 30.0]))
    return Problem("", _network(), list(zip(x.split(8), y.split(8), strict=True)), loss=loss)


def _ignored_targets() -> Problem:
    ((x, y),) = _data()
    y[13:23] = -100
    return Problem("", _network(), list(zip(x.split(12), y.split(12), strict=True)))


def _penalized() -> Problem:
    model = _network()
    return _problem(model, loss=Penalized(model))


def _wrapped_forward() -> Problem:
    """Return a problem whose model's ``forward`` was replaced on the instance, as profilers and decorators do."""
    model = _network()
    forward = model.forward
    model.forward = lambda *inputs: forward(*inputs)  # type: ignore[method-assign]
    return _problem(model)


def _remembered_features() -> Problem:
    """Return a problem after a training step of a model that keeps the features of its last pass."""
    model = _network()
    model[1].register_forward_hook(lambda layer, inputs, output: setattr(layer, "features", output))
    ((x, y),) = _data()
    nn.functional.cross_entropy(model(x), y).backward()
    model.zero_grad()
    return Problem("", model, [(x, y)])


def _scaled_gradient() -> Problem:
    """Return a problem with an option of embeddings under which PyTorch's gradient is not the derivative."""
    embedding = nn.Embedding(4, 5, scale_grad_by_freq=True)
    model = nn.Sequential(embedding, nn.Flatten(), nn.Tanh(), nn.Linear(10, 3))
    return Problem("", model, [(torch.arange(2 * EXAMPLES).reshape(-1, 2) ** 2 % 4, torch.arange(EXAMPLES) % 3)])


def _broadcast_targets() -> Problem:
    """Return a regression with outputs (N, 1) and targets (N,), which a loss compares each with every other."""
    ((x, _),) = _data()
    return Problem("", _one_output_network(), [(x, x.sum(1))], loss=nn.MSELoss())


def _one_output() -> Problem:
    """Return a regression measured by cross-entropy, which is zero whatever a single output is."""
    ((x, _),) = _data()
    return Problem("", _one_output_network(), [(x, torch.zeros(EXAMPLES).long())])


def _one_output_network() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 1))


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "eigenvalues 2, -3, 0.5": lambda: _quadratic([2.0, -3.0, 0.5]),
    "eigenvalues 1, -1, 0.5": lambda: _quadratic([1.0, -1.0, 0.5]),
    "many close eigenvalues": lambda: _quadratic(CLOSE),
    "a loss of a billionth": lambda: _problem(loss=TinyCrossEntropy()),
    "gradients left from before": _old_gradients,
    "batches of unequal size": _unequal_batches,
    "a parameter not used": _unused_parameter,
    "batch norm in train mode": lambda: _problem(_network(nn.Linear(8, 5), nn.BatchNorm1d(5)), batch_norm="train"),
    "weight norm": lambda: _problem(_network(nn.utils.parametrizations.weight_norm(nn.Linear(8, 5)))),
    "attention": lambda: _problem(Attention()),
    "weighted classes, sorted": _sorted_classes,
    "ignored targets": _ignored_targets,
    "a loss that holds the model": _penalized,
    "a wrapped forward": _wrapped_forward,
    "remembered features": _remembered_features,
    "inputs changed in place": lambda: _problem(Standardizing(_network())),
    "scaled gradients of an embedding": _scaled_gradient,
    "targets that are broadcast": _broadcast_targets,
    "cross-entropy of one output": _one_output,
    "rounding with a gradient": lambda: _problem(_network(nn.Linear(8, 5), Rounded())),
    "no data": lambda: Problem("", _network(), []),
}
# Problems without an answer: a value is wrong, whatever it is.
UNANSWERABLE = ("targets that are broadcast", "cross-entropy of one output", "rounding with a gradient", "no data")


def make_problem(name: str) -> Problem:
    """Return the problem of that name; its numbers do not depend on the random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return replace(PROBLEMS[name](), name=name)
