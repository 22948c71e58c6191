"""What measures share changes no number, is computed once, and is dropped in time."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from flatlib.curvature import HessianOperator
from flatlib.curvature.operators import base
from flatlib.errors import FlatlibError
from flatlib.measures import REGISTRY, Checkpoint, measure
from flatlib.measures.registry import VERSIONS
from flatlib.sharpness.perturbed_loss import PerturbedLoss

NAMES = tuple(name for name in REGISTRY if name != "jacobian_norms")  # the numbers of two others, but for rounding
SHARED = ("operator", "empirical_fisher", "around", "normalized", "traces", "search", "deflation")


def checkpoint(bend=nn.ReLU, **settings):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(9, 12), bend(), nn.Linear(12, 8), bend(), nn.Linear(8, 3))
    x = torch.randn(40, 9)
    split = (x, x[:, :3].argmax(1))
    moved = copy.deepcopy(model)
    moved[0].bias.data += 0.01
    return Checkpoint(model=model, examples=split, train=split, test=split, after=lambda: moved, **settings)


def other_orders():
    order = torch.Generator().manual_seed(0)
    return [[NAMES[i] for i in torch.randperm(len(NAMES), generator=order).tolist()] for _ in range(4)]


@pytest.mark.parametrize("bend", [nn.ReLU, nn.Tanh])  # with exact traces, and without
def test_a_measure_is_the_same_alone_and_among_others(bend):
    alone = {name: measure([name], checkpoint(bend)) for name in NAMES}
    expected = {key: value for numbers in alone.values() for key, value in numbers.items()}
    for names in (NAMES, NAMES[::-1], *other_orders()):
        assert measure(names, checkpoint(bend)) == expected


def test_a_measure_is_the_same_along_a_trajectory():
    """The search for lambda_max then starts from the last eigenvector, which the others do not see."""
    paths = [checkpoint(), checkpoint(), checkpoint()]
    for _ in range(3):
        whole = measure(["lambda_max", "frobenius", "density"], paths[0])
        assert measure(["density", "frobenius"], paths[1]) == {k: v for k, v in whole.items() if "lambda" not in k}
        assert measure(["lambda_max"], paths[2]) == {k: v for k, v in whole.items() if "lambda" in k}
        for mine in paths:
            mine.model[0].weight.data *= 1.1


@pytest.fixture
def counted(monkeypatch):
    """How often a graph was built, a gradient computed at the weights themselves, and derivatives compared."""
    counts = {"graphs": 0, "gradients": 0, "checks": 0}
    build, compute, check = HessianOperator._build, PerturbedLoss.loss_and_gradient, base.require_derivatives

    def counting_build(self, chunk):
        counts["graphs"] += self.torch_dtype == torch.float32  # float64 where derivatives are checked
        return build(self, chunk)

    def counting_check(risk, products):
        counts["checks"] += 1
        check(risk, products)

    def counting_compute(self, displacement=0.0):
        counts["gradients"] += not isinstance(displacement, torch.Tensor)
        return compute(self, displacement)

    monkeypatch.setattr(HessianOperator, "_build", counting_build)
    monkeypatch.setattr(PerturbedLoss, "loss_and_gradient", counting_compute)
    monkeypatch.setattr(base, "require_derivatives", counting_check)
    return counts


def test_graph_gradient_and_check_are_computed_once(counted):
    names = ("sam_sharpness", "lambda_max", "adaptive_sharpness", "trace", "frobenius", "density", "minimum_sharpness")
    measure([*names, "keskar_sharpness", "gradient_norm", "lambda_min", "average_adaptive_sharpness"], checkpoint())
    assert counted == {"graphs": 1, "gradients": 1, "checks": 1}


def test_calls_share_on_request(counted):
    mine = checkpoint()
    together = measure(["lambda_max", "trace", "frobenius", "gradient_norm", "sam_sharpness"], checkpoint())
    counted.update(graphs=0, gradients=0, checks=0)
    apart = [measure([name], mine, keep=True) for name in ("sam_sharpness", "frobenius", "lambda_max", "gradient_norm")]
    assert {key: value for numbers in apart for key, value in numbers.items()}.items() <= together.items()
    assert counted == {"graphs": 1, "gradients": 1, "checks": 1}
    mine.forget()
    assert mine._shared == {}


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_kept_after_the_last_measure(name):
    mine = checkpoint()
    measure([name], mine)
    assert mine._shared == {}
    mine.examples = (mine.examples[0] * torch.nan, mine.examples[1])
    with pytest.raises(FlatlibError, match="the loss is nan"):
        measure(["frobenius", "trace"], mine)
    assert mine._shared == {}


def test_the_graph_is_dropped_before_measures_that_do_not_use_it(monkeypatch):
    operators, alive = [], []

    def look(checkpoint):
        gc.collect()
        alive.append([operator() is not None for operator in operators])
        return {}

    def remember(checkpoint):
        checkpoint.operator.matvec(torch.ones(checkpoint.operator.shape[0]))
        operators.append(weakref.ref(checkpoint.operator._graph.gradient[0]))
        return {}

    monkeypatch.setitem(REGISTRY, "weight_norm", look)
    monkeypatch.setitem(REGISTRY, "lambda_min", remember)
    measure(["lambda_min", "weight_norm", "lambda_max", "frobenius", "weight_norm", "trace"], checkpoint())
    assert alive == [[True], [True]]
    measure(["lambda_max", "lambda_min", "frobenius", "weight_norm"], checkpoint())
    assert alive[-1] == [False, False]


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize(
    "change",
    [
        lambda mine: mine.model[0].weight.data.mul_(2),  # which counts as no change of the parameter
        lambda mine: torch.optim.SGD([mine.model[2].bias.sum().backward() or mine.model[2].bias], lr=1.0).step(),
        lambda mine: mine.model[0].register_buffer("more", torch.ones(2)),
        lambda mine: setattr(mine, "model", copy.deepcopy(mine.model)),
        lambda mine: setattr(mine, "examples", (2 * mine.examples[0], mine.examples[1])),
        lambda mine: setattr(mine, "seed", 1),
        lambda mine: setattr(mine, "tolerance", 0.1),
        lambda mine: setattr(mine, "batch_norm", "train"),
        lambda mine: setattr(mine, "loss", "mse"),
    ],
    ids=["data", "step", "buffer", "model", "examples", "seed", "tolerance", "batch_norm", "loss"],
)
def test_a_change_drops_what_is_shared(name, change):
    mine = checkpoint()
    mine.examples = (mine.examples[0], torch.nn.functional.one_hot(mine.examples[1]).float())
    first = getattr(mine, name)
    assert getattr(mine, name) is first
    change(mine)
    assert getattr(mine, name) is not first


def test_numbers_follow_the_weights():
    mine = checkpoint()
    before = REGISTRY["trace"](mine)
    mine.model[4].weight.data *= 2
    assert REGISTRY["trace"](mine) == REGISTRY["trace"](checkpoint_like(mine)) != before


def checkpoint_like(mine):
    return Checkpoint(model=copy.deepcopy(mine.model), examples=mine.examples)


def test_a_release_leaves_no_basis():
    mine = checkpoint()
    for name in SHARED:
        getattr(mine, name)
    mine.release()
    assert set(mine._shared) == set(SHARED) - {"search", "deflation"}
    assert mine.operator._graph is mine.empirical_fisher._graph is None


class WrongSquare(torch.autograd.Function):
    """A square whose derivative is right and whose second derivative is wrong."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, slope):
        (x,) = ctx.saved_tensors
        return 2 * x.detach() * slope + 0 * x


def test_what_is_refused_once_is_refused_again():
    """Also where an earlier measure of the same checkpoint needs no product."""

    def loss(output, target):
        return WrongSquare.apply(output - target).mean()

    torch.manual_seed(0)
    mine = Checkpoint(model=nn.Linear(3, 1), examples=(torch.randn(9, 3), torch.randn(9, 1)), loss=loss)
    for names in (["gradient_norm", "lambda_max"], ["lambda_max", "frobenius"], ["frobenius"]):
        for name in names:
            if name == "gradient_norm":
                assert measure([name], mine, keep=True)[name] > 0
            else:
                with pytest.raises(FlatlibError, match="a product is not the derivative"):
                    measure([name], mine, keep=True)
    mine.forget()
    operator = HessianOperator(*mine.subject)
    for _ in range(2):
        with pytest.raises(FlatlibError, match="a product is not the derivative"):
            operator.matvec(torch.ones(4))


def test_versions_are_recorded_where_they_matter():
    exact, estimated = (measure(VERSIONS, checkpoint(bend)) for bend in (nn.ReLU, nn.Tanh))
    assert {name for name in exact if name.endswith("_version")} == {
        f"{name}_version" for name in VERSIONS if name not in ("trace", "minimum_sharpness")
    }
    assert estimated["trace_version"] == VERSIONS["trace"] == 2
    assert estimated["minimum_sharpness"] is None
    assert "minimum_sharpness_version" not in estimated
    assert "lambda_max_version" not in measure(["lambda_max", "gradient_norm"], checkpoint())
