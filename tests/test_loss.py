"""The training loss and what is done to its data, against their formulas."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from conftest import dense_hessian
from flatlib.config import RunConfig
from flatlib.curvature import GaussNewtonOperator, HessianOperator, trace
from flatlib.errors import FlatlibError
from flatlib.losses import (
    LOSSES,
    SmoothedCrossEntropy,
    batch_softmax_cross_entropy,
    resolve_loss,
    squared_error,
    training_loss,
)
from flatlib.measures import evaluate
from flatlib.training.augmentation import augmented, flipped, mixed
from flatlib.training.models import build
from flatlib.training.train import train

LOGITS = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
TARGETS = torch.tensor([0, 1, 2, 3, 0])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def by_formula(logits, target, smoothing):
    q = (1 - smoothing) * target + smoothing / target.shape[1]
    log_p = logits - logits.exp().sum(1, keepdim=True).log()
    return float((q * (q.log() - log_p)).nansum(1).mean())


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.75])
def test_smoothed_loss_is_a_divergence(smoothing):
    loss = SmoothedCrossEntropy(smoothing)
    hard = F.one_hot(TARGETS, 4).double()
    soft = 0.7 * hard + 0.3 * hard.roll(1, 0)
    for target, as_probabilities in ((TARGETS, hard), (soft, soft)):
        assert float(loss(LOGITS, target)) == pytest.approx(by_formula(LOGITS, as_probabilities, smoothing), rel=1e-12)


def test_smoothed_loss_at_its_targets():
    q = 0.8 * F.one_hot(TARGETS, 4).double() + 0.2 / 4
    assert float(SmoothedCrossEntropy(0.2)(q.log(), TARGETS)) == pytest.approx(0, abs=1e-15)
    assert SmoothedCrossEntropy(0.2).entropy(TARGETS, 4) == pytest.approx(float(-(q[0] * q[0].log()).sum()))
    assert training_loss("cross_entropy") is F.cross_entropy
    assert training_loss("cross_entropy", 0.1).smoothing == 0.1


def test_curvature_of_the_training_loss():
    torch.manual_seed(0)
    model = torch.nn.Linear(6, 4).double()
    x = torch.randn(5, 6, dtype=torch.float64)
    loss = SmoothedCrossEntropy(0.3)
    assert evaluate(model, x, TARGETS, loss)[0] == pytest.approx(loss(model(x), TARGETS).item(), rel=1e-12)
    assert evaluate(model, x, TARGETS)[0] == pytest.approx(F.cross_entropy(model(x), TARGETS).item(), rel=1e-12)
    operator = HessianOperator(model, loss, (x, TARGETS))
    assert trace(operator).value == pytest.approx(float(operator.to_dense().trace()), rel=1e-10)


def test_batch_softmax_by_formula():
    z = LOGITS.numpy()
    over_batch = z - np.log(np.exp(z).sum(axis=0, keepdims=True))
    log_p = over_batch - np.log(np.exp(over_batch).sum(axis=1, keepdims=True))
    expected = -log_p[np.arange(5), TARGETS.numpy()].mean()
    assert float(batch_softmax_cross_entropy(LOGITS, TARGETS)) == pytest.approx(expected, rel=1e-12)
    assert float(F.cross_entropy(LOGITS, TARGETS)) != pytest.approx(expected, rel=1e-2)


def test_batch_softmax_ignores_class_constants():
    shift = torch.tensor([3.0, -20.0, 0.5, 7.0], dtype=torch.float64)
    shifted = (LOGITS + shift).requires_grad_()
    loss = batch_softmax_cross_entropy(shifted, TARGETS)
    assert loss.item() == pytest.approx(batch_softmax_cross_entropy(LOGITS, TARGETS).item(), rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, shifted)
    torch.testing.assert_close(gradient.sum(0), torch.zeros(4, dtype=torch.float64), atol=1e-15, rtol=0)
    assert gradient.abs().max() > 1e-2


def test_batch_softmax_trains_cross_entropy_measures(tiny):
    config = replace(tiny, loss="batch_softmax")
    assert training_loss(config.loss) is batch_softmax_cross_entropy
    plain, coded = train(tiny, device="cpu"), train(config, device="cpu")
    last = list(coded.model.parameters())[-1]
    start = list(build(config, (1, 8, 8), 10).parameters())[-1]
    torch.testing.assert_close(last, start, atol=1e-6, rtol=0)  # the biases of the classes are not trained
    assert not torch.allclose(list(plain.model.parameters())[-1], start, atol=1e-3)
    measured = F.cross_entropy(coded.model.eval()(coded.data.x_train), coded.data.y_train).item()
    assert coded.measures["train_loss"] == pytest.approx(measured, rel=1e-5)


@pytest.mark.parametrize("settings", [{"label_smoothing": 0.1}, {"mixup": 0.2}, {"microbatch": 10}], ids=str)
def test_batch_softmax_needs_hard_targets(settings):
    with pytest.raises(FlatlibError, match="loss: batch_softmax has hard targets and whole batches"):
        RunConfig(loss="batch_softmax", **settings)
    assert RunConfig(loss="cross_entropy", **settings)


def test_squared_loss_by_formula():
    hard = F.one_hot(TARGETS, 4).double()
    soft = 0.7 * hard + 0.3 * hard.roll(1, 0)
    for target, rows in ((TARGETS, hard), (soft, soft)):
        expected = 0.5 * ((LOGITS - rows) ** 2).sum() / 5
        assert float(training_loss("squared")(LOGITS, target)) == pytest.approx(float(expected), rel=1e-12)
        smooth = 0.6 * rows + 0.4 / 4
        expected = 0.5 * ((LOGITS - smooth) ** 2).sum() / 5
        assert float(training_loss("squared", 0.4)(LOGITS, target)) == pytest.approx(float(expected), rel=1e-12)
    assert RunConfig(loss="squared", mixup=0.2, microbatch=10, label_smoothing=0.1)


def test_curvature_of_the_squared_loss():
    """Of a linear model it is the mean of x x^T for every output, and the Gauss-Newton matrix is the Hessian."""
    torch.manual_seed(0)
    model, x = nn.Linear(6, 4, bias=False).double(), torch.randn(5, 6, dtype=torch.float64)
    expected = torch.kron(torch.eye(4, dtype=torch.float64), x.T @ x / 5)
    for operator in (HessianOperator, GaussNewtonOperator):
        torch.testing.assert_close(operator(model, "squared", (x, TARGETS)).to_dense(), expected, rtol=1e-8, atol=1e-9)
    found = trace(HessianOperator(model, "squared", (x, TARGETS)))
    assert found.value == pytest.approx(float(expected.trace()), rel=1e-10)
    assert found.standard_error == 0
    by_hand = squared_error(model(x), TARGETS).item()
    assert evaluate(model, x, TARGETS, "squared")[0] == pytest.approx(by_hand, rel=1e-12)


MEASURED = ("performance", "lambda_max", "gauss_newton_lambda_max", "trace", "empirical_fisher_trace", "gradient_norm")


@pytest.mark.parametrize("smoothing", [0.0, 0.4])
def test_squared_loss_trains_and_measures(tiny, smoothing):
    """Every number of such a run is that of the squared loss, to the smoothed targets."""
    config = replace(
        tiny,
        loss="squared",
        label_smoothing=smoothing,
        width=0.05,
        depth=1,
        max_epochs=30,
        measures=MEASURED,
        tolerance=1e-5,
    )
    run = train(config, device="cpu")
    model, x, y = run.model.eval().double(), run.data.x_train.double(), run.data.y_train
    targets = (1 - smoothing) * F.one_hot(y, 10).double() + smoothing / 10
    loss = F.mse_loss(model(x), targets, reduction="sum") / (2 * len(x))
    dense = torch.linalg.eigvalsh(dense_hessian(model, squared_error, (x, targets)))
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
    expected = {
        "train_loss": loss.item(),
        "train_accuracy": float((model(x).argmax(1) == y).double().mean()),
        "lambda_max": float(dense[-1]),
        "trace": float(dense.sum()),
        "gradient_norm": float(gradient.norm()),
    }
    assert {name: run.measures[name] for name in expected} == pytest.approx(expected, rel=1e-3)
    assert 0.6 < run.measures["train_accuracy"] < 1
    capped = train(replace(config, stop="train_loss", stop_value=0.3, check_every=1), device="cpu")
    assert (capped.status, capped.measures["train_loss"] <= 0.3) == ("reached", True)


IMAGES = torch.arange(2 * 3 * 8 * 8.0).reshape(2, 3, 8, 8).repeat(50, 1, 1, 1) + 1


def test_flips_mirror_half():
    found = flipped(IMAGES, generator())
    is_mirrored = [torch.equal(one, image.flip(-1)) for one, image in zip(found, IMAGES, strict=True)]
    assert all(m or torch.equal(one, image) for m, one, image in zip(is_mirrored, found, IMAGES, strict=True))
    assert 30 < sum(is_mirrored) < 70


@pytest.mark.parametrize("padding", [4, 1])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_crops_are_padded_windows(layout, padding):
    config = RunConfig(augmentation=("crop",), crop_padding=padding)
    found, _ = augmented(IMAGES.to(memory_format=layout), TARGETS, 4, config, generator())
    assert found.is_contiguous(memory_format=layout)
    padded, shifts = F.pad(IMAGES, (padding,) * 4), range(2 * padding + 1)
    offsets = set()
    for one, image in zip(found, padded, strict=True):
        windows = {(i, j) for i in shifts for j in shifts if torch.equal(image[:, i : i + 8, j : j + 8], one)}
        assert len(windows) == 1
        offsets |= windows
    assert {i for i, _ in offsets} == {j for _, j in offsets} == set(shifts)


def test_mixup_mixes_images_and_labels():
    """With a class of its own for every image, the mixed labels are the weights of the mixed images."""
    x, shares = torch.randn(9, 1, 2, 2), []
    for seed in range(400):
        found, labels = mixed(x, torch.arange(9), 9, 0.4, generator(seed))
        torch.testing.assert_close(found.flatten(1), labels @ x.flatten(1))
        torch.testing.assert_close(labels.sum(1), torch.ones(9))
        shares.append(float(labels.diagonal().min()))
    assert np.mean(shares) == pytest.approx(0.5, abs=0.06)
    assert np.var(shares) == pytest.approx(1 / (4 * (2 * 0.4 + 1)), rel=0.15)  # of Beta(0.4, 0.4)


def test_augmentation_follows_its_generator():
    config = RunConfig(augmentation=("flip", "crop"), mixup=0.2)
    labels = torch.arange(100) % 4
    state = torch.get_rng_state()
    first, second = (augmented(IMAGES, labels, 4, config, generator(3)) for _ in range(2))
    other = augmented(IMAGES, labels, 4, config, generator(4))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0])
    assert torch.equal(torch.get_rng_state(), state)
    assert augmented(IMAGES, labels, 4, RunConfig(), generator())[0] is IMAGES


@pytest.mark.parametrize(
    ("loss", "known"),
    [
        (F.cross_entropy, True),
        (nn.CrossEntropyLoss(), True),
        (nn.CrossEntropyLoss(weight=torch.ones(3)), False),
        (nn.CrossEntropyLoss(ignore_index=1), False),
        (nn.CrossEntropyLoss(label_smoothing=0.1), False),
    ],
)
def test_pytorchs_cross_entropy_without_options(loss, known):
    assert resolve_loss(loss) is (LOSSES["cross_entropy"] if known else loss)
