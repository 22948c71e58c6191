"""Measures of a tiny run by name, against dense computations in float64 with `torch.func`."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call, hessian, jacrev, vmap

from flatlib.config import RunConfig
from flatlib.training.train import train

NAMES = (
    *("performance", "lambda_max", "lambda_min", "gauss_newton_lambda_max", "trace", "frobenius", "sam_sharpness"),
    *("empirical_fisher_lambda_max", "empirical_fisher_trace", "gradient_norm", "weight_norm", "critical_sharpness"),
    *("margin", "jacobian_norm", "softmax_jacobian_norm", "input_lambda_max", "cross_entropy_lambda_max"),
)
TINY = RunConfig(width=0.03, depth=1, train_size=60, test_size=40, activation="tanh", tolerance=1e-5, measures=NAMES)
RHO = 0.05  # radius of sam_sharpness


def losses_of(name, outputs, y):
    """Loss of each example."""
    if name == "squared":
        return (outputs - torch.eye(10, dtype=outputs.dtype)[y]).square().sum(1) / 2
    return F.cross_entropy(outputs, y, reduction="none")


def first_rise(loss_at):
    """Smallest learning rate at which a step raises the loss: by steps of 1 %, then by halving."""
    low, high = 1e-3, 1.01e-3
    while loss_at(high) <= loss_at(0.0):
        low, high = high, 1.01 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if loss_at(middle) <= loss_at(0.0) else (low, middle)
    return high


def by_brute_force(run, name):
    model, x, y = run.model.eval().double(), run.data.x_train.double(), run.data.y_train
    shapes = {key: p.shape for key, p in model.named_parameters()}
    w = torch.cat([p.detach().flatten() for p in model.parameters()])

    def outputs(w, x):
        pieces = w.split([shape.numel() for shape in shapes.values()])
        weights = {key: piece.view(shape) for (key, shape), piece in zip(shapes.items(), pieces, strict=True)}
        return functional_call(model, weights, (x,))

    def loss(w, kind=name):
        return losses_of(kind, outputs(w, x), y).mean()

    def loss_of_one(w, x, y):
        return losses_of(name, outputs(w, x[None]), y[None])[0]

    p = outputs(w, x).softmax(1)
    spread = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    of_outputs = torch.eye(10, dtype=p.dtype).expand_as(spread) if name == "squared" else spread
    J = vmap(jacrev(lambda w, x: outputs(w, x[None])[0]), (None, 0))(w, x)
    gradients = vmap(jacrev(loss_of_one), (None, 0, 0))(w, x, y)
    slopes = vmap(jacrev(lambda x: outputs(w, x[None])[0]))(x).flatten(2)
    curvatures = vmap(hessian(lambda x, y: loss_of_one(w, x, y)))(x, y).reshape(len(x), 64, 64)
    g = gradients.mean(0)
    own = F.one_hot(y, 10).bool()
    f = outputs(w, x)
    best = f.masked_fill(own, -torch.inf).argmax(1)
    rows = torch.arange(len(x))
    margins = (f[own] - f[rows, best]) / (slopes[rows, y] - slopes[rows, best]).norm(dim=1)
    spectrum = torch.linalg.eigvalsh(hessian(loss)(w))
    fisher = gradients.T @ gradients / len(x)
    norms, softmaxed = (torch.linalg.matrix_norm(rows, ord=2) for rows in (slopes, spread @ slopes))
    return {
        "train_loss": loss(w),
        "train_accuracy": (f.argmax(1) == y).double().mean(),
        "lambda_max": spectrum[-1],
        "lambda_min": spectrum[0],
        "gauss_newton_lambda_max": torch.linalg.eigvalsh((J.mT @ of_outputs @ J).mean(0))[-1],
        "cross_entropy_lambda_max": torch.linalg.eigvalsh(hessian(lambda w: loss(w, "cross_entropy"))(w))[-1],
        "empirical_fisher_lambda_max": torch.linalg.eigvalsh(fisher)[-1],
        "empirical_fisher_trace": fisher.trace(),
        "trace": spectrum.sum(),
        "frobenius": spectrum.norm(),
        "sam_sharpness": loss(w + RHO * g / g.norm()) - loss(w),
        "critical_sharpness": 2 / first_rise(lambda rate: float(loss(w - rate * g))),
        "gradient_norm": g.norm(),
        "weight_norm": w.norm(),
        "margin": margins.quantile(0.5),
        "margin_low": margins.quantile(0.1),
        "jacobian_norm": norms.max(),
        "jacobian_norm_mean": norms.mean(),
        "softmax_jacobian_norm": softmaxed.max(),
        "softmax_jacobian_norm_mean": softmaxed.mean(),
        "input_lambda_max": torch.linalg.eigvalsh(curvatures)[:, -1].max(),
        "input_lambda_max_mean": torch.linalg.eigvalsh(curvatures)[:, -1].mean(),
    }


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch.func compiles its rules with torch.jit
@pytest.mark.parametrize("loss", ["cross_entropy", "squared"])
def test_measures_of_a_run(loss):
    run = train(replace(TINY, loss=loss, max_epochs=20), device="cpu")
    for name, value in by_brute_force(run, loss).items():
        error = 5 * (run.measures.get(f"{name}_standard_error") or 0.0)
        assert run.measures[name] == pytest.approx(float(value), rel=2e-3, abs=error), name
