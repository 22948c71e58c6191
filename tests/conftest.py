"""Small float64 problems whose dense Hessian is known, for the curvature tests; a tiny run and a line, for the rest."""

import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.axes import Axes
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from browser import address, browser, pages  # noqa: F401 (fixtures, for every test of the built book)
from flatlib.config import RunConfig
from flatlib.figures import use_style
from flatlib.losses import resolve_loss

torch.set_num_threads(1)  # several processes test at the same time; more threads would only wait for each other


class Case(NamedTuple):
    """A model, a loss and data, with the dense Hessian in evaluation mode from `torch.func`."""

    model: nn.Module
    loss: str | Callable[[Tensor, Tensor], Tensor]
    data: tuple[Tensor, Tensor]

    def dense(self) -> Tensor:
        return dense_hessian(*self)


def dense_hessian(model: nn.Module, loss: str | Callable, data: tuple[Tensor, Tensor]) -> Tensor:
    """(n, n) over all parameters that require grad. Wrong for train-mode batch norm: torch.func differs there."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    names, tensors = zip(*[(n, p.detach()) for n, p in model.named_parameters() if p.requires_grad], strict=True)

    def value(flat: Tensor) -> Tensor:
        pieces = flat.split([t.numel() for t in tensors])
        parameters = {name: piece.view_as(t) for name, piece, t in zip(names, pieces, tensors, strict=True)}
        return resolve_loss(loss)(torch.func.functional_call(model, parameters, (data[0],)), data[1])

    try:
        with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
            warnings.simplefilter("ignore", FutureWarning)  # torch.func compiles its rules with torch.jit
            return torch.func.hessian(value)(torch.cat([t.flatten() for t in tensors]))
    finally:
        for module, training in modes.items():
            module.training = training


class Net(nn.Module):
    """Parts by name (modules, parameters; other tensors are buffers), and a function of the net and its inputs."""

    def __init__(self, forward: Callable[..., Tensor], **parts: nn.Module | Tensor):
        super().__init__()
        self.function = forward
        for name, part in parts.items():
            if isinstance(part, nn.Module | nn.Parameter):
                setattr(self, name, part)
            else:
                self.register_buffer(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def attention() -> nn.Module:
    """One self-attention layer over rows of the input; its fused kernels have no second derivative."""

    def forward(net: Net, x: Tensor) -> Tensor:
        tokens = x.unflatten(1, (2, 4))
        return net.head(net.attention(tokens, tokens, tokens, need_weights=False)[0].mean(1))

    return Net(forward, attention=nn.MultiheadAttention(4, 2, batch_first=True), head=nn.Linear(4, 3))


MODELS = {
    "mlp": lambda: nn.Sequential(nn.Linear(8, 5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 3)),
    "relu": lambda: nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)),
    "conv_bn": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 2, 2)), nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.Softplus(), nn.Flatten(), nn.Linear(3, 3)
    ),
    "attention": attention,
}


def make_case(model: str = "mlp", loss: str = "cross_entropy") -> Case:
    torch.manual_seed(3)
    net = MODELS[model]().double()
    x = torch.randn(23, 8, dtype=torch.float64)
    net(x)  # running statistics of batch norm away from their initial values
    return Case(net, loss, (x, torch.arange(23) % 3))


@pytest.fixture(params=[(model, loss) for model in MODELS for loss in ("cross_entropy", "mse")], ids="-".join)
def case(request) -> Case:
    """Every model with every loss."""
    return make_case(*request.param)


@pytest.fixture(params=list(MODELS))
def model_case(request) -> Case:
    """Every model with one loss."""
    return make_case(request.param)


@pytest.fixture
def small_case() -> Case:
    """One case, where one suffices."""
    return make_case()


def mean_output(output: Tensor, target: Tensor) -> Tensor:
    """A loss linear in the outputs."""
    return output.mean()


@pytest.fixture
def quadratic() -> Callable:
    """Make (model, loss, data), whose Hessian has the given eigenvalues in a rotated basis."""

    def make(eigenvalues: list[float], dtype: torch.dtype = torch.float64) -> Case:
        n = len(eigenvalues)
        generator = torch.Generator().manual_seed(0)
        rotation, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
        matrix = rotation * torch.tensor(eigenvalues, dtype=torch.float64) @ rotation.T
        model = Net(
            lambda net, x: (0.5 * net.weight @ net.matrix @ net.weight).expand(len(x), 1),
            **{"weight": nn.Parameter(torch.ones(n, dtype=dtype)), "matrix": matrix.to(dtype)},
        )
        return Case(model, mean_output, (torch.zeros(4, 1, dtype=dtype), torch.zeros(4)))

    return make


def snapshot(model: nn.Module) -> dict[str, object]:
    """Return all that a measurement must leave alone."""
    return {
        "modes": torch.tensor([m.training for m in model.modules()]),
        "tensors": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "grads": [torch.empty(0) if p.grad is None else p.grad.clone() for p in model.parameters()],
        "requires_grad": torch.tensor([p.requires_grad for p in model.parameters()]),
        "rng": torch.get_rng_state(),
    }


def assert_untouched(model: nn.Module, before: dict[str, object]) -> None:
    torch.testing.assert_close(snapshot(model), before, rtol=0, atol=0)


@pytest.fixture
def tiny() -> RunConfig:
    """A run of a tenth of a second."""
    return RunConfig(width=0.1, train_size=200, test_size=100, max_epochs=3)


@pytest.fixture(scope="session")
def line() -> Callable:
    """Make a line of a record as a sweep would write it, without training."""

    def make(config: RunConfig, status: str = "reached", trajectory: dict | None = None, **measures: float) -> dict:
        about = {"provenance": {"data": "f00d"}, "trajectory": trajectory or {}}
        return {"run_id": config.run_id, "config": config.to_json(), "status": status, "measures": measures} | about

    return make


@pytest.fixture
def style() -> Iterator[None]:
    """The book's figure style, without a screen."""
    with plt.rc_context():
        plt.switch_backend("agg")
        use_style()
        yield
        plt.close("all")


@pytest.fixture
def ax(style: None) -> Axes:
    return plt.subplots()[1]
