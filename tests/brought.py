"""Models, losses and batches at random, as readers bring them, with the matrices of the reader's own call."""

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlib.curvature import HessianOperator

D = 4  # features of an input


@dataclasses.dataclass
class Output:
    logits: Tensor
    name: str = "output"


class Recurrent(nn.Module):
    def __init__(self, outputs: int):
        super().__init__()
        self.cell, self.head = nn.GRU(2, 3, batch_first=True), nn.Linear(3, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x.unflatten(1, (2, 2)))[0][:, -1])


class Tied(nn.Module):
    def __init__(self, outputs: int):
        super().__init__()
        self.first, self.head = nn.Linear(D, D), nn.Linear(D, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.first(torch.tanh(self.first(x)))))


class Reader(nn.Module):
    """A network as it is brought: what it returns, and what it does to itself and to its inputs."""

    def __init__(self, inner: nn.Module, returned: str, habit: str):
        super().__init__()
        self.inner, self.returned, self.habit = inner, returned, habit
        self.last: Any = None
        if habit == "decorated":
            forward = inner.forward
            inner.forward = lambda *arguments: forward(*arguments)
        if habit == "hooked":
            inner.register_forward_hook(lambda module, inputs, output: 1.5 * output)
        if habit == "reparametrised":
            nn.utils.parametrizations.weight_norm(next(m for m in inner.modules() if isinstance(m, nn.Linear)))

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Any:
        if self.habit == "in place":
            x.mul_(0.5)
        output = self.inner(x if scale is None else x * scale[:, None])
        if self.habit == "remembering":
            self.last = output
        if self.habit == "mixing":  # the examples of a batch
            output = output - output.mean(0)
        wrapped = {
            "tensor": output,
            "dictionary": {"logits": output, "loss": None},
            "tuple": (output, output.sum(1)),
            "data class": Output(output),
            "object": SimpleNamespace(logits=output),
            "partly hidden": {"logits": output, "cache": SimpleNamespace(keys=output)},
        }
        return wrapped[self.returned]


def logits_of(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    if isinstance(output, tuple):
        return output[0]
    return output["logits"] if isinstance(output, dict) else output.logits


MODELS = {
    "linear": lambda c: nn.Linear(D, c),
    "tanh": lambda c: nn.Sequential(nn.Linear(D, 3), nn.Tanh(), nn.Linear(3, c)),
    "relu": lambda c: nn.Sequential(nn.Linear(D, 5), nn.ReLU(), nn.Linear(5, c)),
    "dropout": lambda c: nn.Sequential(nn.Linear(D, 3), nn.GELU(), nn.Dropout(0.5), nn.Linear(3, c)),
    "norm": lambda c: nn.Sequential(nn.Linear(D, 3), nn.BatchNorm1d(3), nn.Softplus(), nn.Linear(3, c)),
    "layer norm": lambda c: nn.Sequential(nn.Linear(D, 3), nn.LayerNorm(3), nn.SiLU(), nn.Linear(3, c)),
    "convolution": lambda c: nn.Sequential(nn.Unflatten(1, (1, D)), nn.Conv1d(1, 2, 2), nn.Flatten(), nn.Linear(6, c)),
    "recurrent": Recurrent,
    "tied": Tied,
    "probabilities": lambda c: nn.Sequential(nn.Linear(D, c), nn.Sigmoid()),
}
WEIGHTS = torch.tensor([1.0, 7.0, 0.3, 20.0], dtype=torch.float64)


def contrastive(o: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(o @ o.T, torch.arange(len(o)))


def counted(losses: Tensor, y: Tensor) -> Tensor:
    return (losses * (y != 0)).sum() / (y != 0).sum().clamp_min(1)


def losses_of(o: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(o, y, reduction="none")


CLASSES = {  # of classes, at least two
    "mean": F.cross_entropy,
    "module": nn.CrossEntropyLoss(),
    "weighted": lambda o, y: F.cross_entropy(o, y, WEIGHTS[: o.shape[1]]),
    "weighted module": lambda o, y: nn.CrossEntropyLoss(WEIGHTS[: o.shape[1]], label_smoothing=0.1)(o, y),
    "ignoring": nn.CrossEntropyLoss(ignore_index=0),
    "masked": lambda o, y: counted(losses_of(o, y), y),
    "masked and penalised": lambda o, y: counted(losses_of(o, y), y) + o.square().mean(),
    "hard examples": lambda o, y: losses_of(o, y).topk((len(y) + 1) // 2).values.mean(),
    "tilted": lambda o, y: losses_of(o, y).exp().mean().log(),
    "geometric": lambda o, y: losses_of(o, y).log().mean().exp(),
    "focal": lambda o, y: ((1 - (-losses_of(o, y)).exp()) ** 2 * losses_of(o, y)).mean(),
    "contrastive": contrastive,
    "sum": lambda o, y: F.cross_entropy(o, y, reduction="sum"),
    "sum over a constant": lambda o, y: F.cross_entropy(o, y, reduction="sum") / 32,
    "sum and penalty": lambda o, y: F.cross_entropy(o, y, reduction="sum") + o.square().mean(),
}
NUMBERS = {  # of real targets, (N, C)
    "mse": F.mse_loss,
    "root": lambda o, y: F.mse_loss(o, y).sqrt(),
    "huber": nn.HuberLoss(),
    "scaled": lambda o, y: 1e-6 * F.mse_loss(o, y),
    "weighed": lambda o, y: ((o - y).square() * y.exp()).sum() / y.exp().sum(),
    "entropy": lambda o, y: F.binary_cross_entropy(o.sigmoid(), y.sigmoid()),
    "detached": lambda o, y: F.mse_loss(o, y) + (o.detach() * o).mean(),
    "in place": lambda o, y: (o - y.mul_(0.5)).square().mean(),
    "smooth": lambda o, y: F.mse_loss(o, y) + (o[1:] - o[:-1]).square().sum() / len(o),
    "sum": lambda o, y: F.mse_loss(o, y, reduction="sum"),
    "every pair": lambda o, y: (o[:, :1] - y[:, 0]).square().mean(),
}
SUMS = ("sum", "sum over a constant", "sum and penalty")  # which are refused


class Brought:
    """What a reader brings, and the matrices of the loss in the reader's own call on all examples."""

    def __init__(self, case: dict[str, Any]):
        torch.manual_seed(case["seed"])
        self.model = Reader(MODELS[case["model"]](case["outputs"]), case["returned"], case["habit"]).double()
        of, name = case["loss"]
        self.plain = (CLASSES if of == "classes" else NUMBERS)[name]
        self.case, n = case, case["examples"]
        self.x = torch.randn(n, D, dtype=torch.float64)
        self.scale = torch.rand(n, dtype=torch.float64)
        classes = torch.randint(0, case["outputs"], (n,))
        self.y = classes.sort().values if of == "classes" else torch.randn(n, case["outputs"], dtype=torch.float64)

    def loss(self) -> Any:
        parameters = list(self.model.parameters())

        def of_output(output: Any, target: Tensor) -> Tensor:
            return self.plain(logits_of(output), target)

        def penalised(output: Any, target: Tensor) -> Tensor:
            return of_output(output, target) + 0.1 * sum(p.square().sum() for p in parameters)

        def of_model(model: nn.Module, batch: Any) -> Tensor:
            *inputs, target = batch.values() if isinstance(batch, dict) else batch
            inputs = inputs[0] if isinstance(inputs[0], tuple) else inputs
            return of_output(model(*inputs), target)

        return {"output": of_output, "penalised": penalised, "model and batch": of_model}[self.case["form"]]

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (self.x, self.scale) if self.case["batch"] == "two inputs" else (self.x,)

    def data(self) -> Any:
        kind, x, y = self.case["batch"], self.x, self.y
        first = (len(x) + 1) // 2
        return {
            "pair": (x, y),
            "uneven": [(x[:first], y[:first]), (x[first:], y[first:])],
            "mapping": [{"x": x, "labels": y}],
            "two inputs": (x, self.scale, y),
            "arrays": (x.numpy(), y.numpy()),
        }[kind]

    def value(self, output: Any = None) -> Tensor:
        """The loss in a call of the reader's own."""
        inputs, y = [t.clone() for t in self.inputs], self.y.clone()
        if self.case["form"] == "model and batch":
            return self.loss()(self.model, (*inputs, y))
        return self.loss()(self.model(*inputs) if output is None else output, y)

    def truth(self) -> Tensor:
        parameters = list(self.model.parameters())
        if self.case["kind"] is HessianOperator:
            return differences(lambda: flat_gradient(self.value(), parameters).detach(), parameters)
        output = logits_of(self.model(*[t.clone() for t in self.inputs]))
        free = output.detach().requires_grad_()
        self.model.returned, returned = "tensor", self.model.returned
        curvature = rows(flat_gradient(self.value(free), [free]), [free])
        self.model.returned = returned
        jacobian = rows(output.flatten(), parameters)
        return jacobian.T @ curvature @ jacobian


@torch.no_grad()
def differences(gradient: Callable[[], Tensor], parameters: list[Tensor], step: float = 1e-6) -> Tensor:
    """The derivative of the gradient from central differences, short so as to meet few kinks.

    PyTorch's own is wrong for some functions.
    """
    rows = []
    for p in parameters:
        for place in p.view(-1).split(1):
            ends = []
            for move in (step, -2 * step):
                place.add_(move)
                with torch.enable_grad():
                    ends.append(gradient())
            place.add_(step)
            rows.append((ends[0] - ends[1]) / (2 * step))
    return torch.stack(rows)


def flat_gradient(value: Tensor, inputs: list[Tensor]) -> Tensor:
    found = torch.autograd.grad(value, inputs, create_graph=True, materialize_grads=True)
    return torch.cat([g.flatten() for g in found])


def rows(values: Tensor, inputs: list[Tensor]) -> Tensor:
    if not values.requires_grad:
        return torch.zeros(len(values), sum(t.numel() for t in inputs), dtype=torch.float64)

    def row(value: Tensor) -> Tensor:
        return torch.cat(
            [g.flatten() for g in torch.autograd.grad(value, inputs, retain_graph=True, materialize_grads=True)]
        )

    return torch.stack([row(value) for value in values])
