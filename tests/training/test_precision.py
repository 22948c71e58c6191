"""Precision of training steps, as configured, and of measures, always float32."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import nn

from flatlib.config import RunConfig
from flatlib.device import PRECISION_SWITCHES, PRECISION_SWITCHES_GPU, Bfloat16, reproducible
from flatlib.measures import evaluate, measure
from flatlib.training.models import build
from flatlib.training.optim import sam_gradient
from flatlib.training.train import TrainedRun, checkpoint_of_run, train

MEASURES = ("performance", "lambda_max", "sam_sharpness", "jacobian_norm", "between_iterates")
TINY = RunConfig(width=0.1, train_size=200, test_size=100, max_epochs=3, measures=MEASURES)
TRACKED = replace(TINY, track=("train_loss", "lambda_max"), track_every=4, sam_rho=0.05)


def weights(trained: TrainedRun) -> torch.Tensor:
    return nn.utils.parameters_to_vector(trained.model.parameters()).detach()


def settings() -> list:
    """What surrounds a run, which must be as it was."""
    switches = [switch.fp32_precision for switch in PRECISION_SWITCHES]
    return [*switches, torch.is_autocast_enabled("cpu"), torch.get_float32_matmul_precision()]


@contextmanager
def watched(see):
    """Call see(module, output) after every pass of a linear layer, wherever it happens."""
    with nn.modules.module.register_module_forward_hook(
        lambda module, _, output: see(module, output) if isinstance(module, nn.Linear) else None
    ):
        yield


def seen(config: RunConfig) -> dict[bool, set]:
    """By training mode: the kinds of outputs, and how float32 was multiplied on a GPU."""
    found = {True: set(), False: set()}

    def see(module, output):
        found[module.training].add((output.dtype, *{switch.fp32_precision for switch in PRECISION_SWITCHES_GPU}))

    with watched(see):
        train(config, device="cpu")
    return found


@pytest.mark.parametrize(
    ("precision", "in_steps"),
    [("float32", (torch.float32, "ieee")), ("tf32", (torch.float32, "tf32")), ("bfloat16", (torch.bfloat16, "ieee"))],
)
def test_precision_of_steps_and_measures(precision, in_steps):
    before = settings()
    found = seen(replace(TRACKED, precision=precision))
    assert found[True] == {in_steps}
    assert found[False] == {(torch.float32, "ieee"), (torch.float64, "ieee")}, "measures, and their check in float64"
    assert settings() == before


def test_bfloat16_measures_float32_weights():
    plain, coarse = (train(replace(TRACKED, precision=name), device="cpu") for name in ("float32", "bfloat16"))
    assert plain.trajectory["train_loss"][0] == coarse.trajectory["train_loss"][0]
    assert plain.trajectory["train_loss"][1:] != coarse.trajectory["train_loss"][1:]
    assert coarse.trajectory["train_loss"][-1] == pytest.approx(plain.trajectory["train_loss"][-1], rel=0.05)
    assert {p.dtype for p in coarse.model.parameters()} == {torch.float32}
    again = measure(MEASURES[:-1], checkpoint_of_run(coarse.model, coarse.data, replace(TRACKED, precision="float32")))
    assert again == {name: coarse.measures[name] for name in again}


def test_bfloat16_casts_current_weights():
    """Also inside another autocast, on or off, which lasts longer than the pass."""
    layer, x = nn.Linear(4, 3), torch.ones(1, 4)
    for surrounding in (reproducible(), torch.autocast("cpu", torch.bfloat16)):
        with surrounding:
            before = Bfloat16(layer)(x)
            with torch.no_grad():
                layer.bias.add_(1)
            assert torch.allclose(Bfloat16(layer)(x), before + 1, atol=0.1)


def test_evaluate_in_full_precision():
    kinds, layer = set(), nn.Linear(4, 3)
    with watched(lambda module, output: kinds.update(switch.fp32_precision for switch in PRECISION_SWITCHES)):
        evaluate(layer, torch.ones(2, 4), torch.zeros(2, dtype=torch.long))
    assert kinds == {"ieee"}


def test_surrounding_precision_is_ignored():
    plain, before = train(TRACKED, device="cpu"), torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            inside = settings()
            surrounded = train(TRACKED, device="cpu")
            assert settings() == inside
    finally:
        torch.set_float32_matmul_precision(before)
    tf32 = train(replace(TRACKED, precision="tf32"), device="cpu")
    assert torch.equal(weights(plain), weights(surrounded))
    assert torch.equal(weights(plain), weights(tf32)), "a CPU has no TF32"
    assert (plain.measures, plain.trajectory) == (surrounded.measures, surrounded.trajectory)


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
@pytest.mark.parametrize("training", [True, False])
def test_settings_after_an_interrupt(precision, training):
    def stop(module, output):
        if module.training == training:
            raise KeyboardInterrupt

    before = settings()
    with watched(stop), pytest.raises(KeyboardInterrupt):
        train(replace(TRACKED, precision=precision), device="cpu")
    assert settings() == before


@pytest.mark.parametrize("model", ["mlp", "small_cnn"])
@pytest.mark.parametrize("rho", [0.0, 0.1])
def test_bfloat16_gradients(model, rho):
    """SAM's second pass takes the moved weights; with those that were cast before they moved it is 0.4 and more off."""
    torch.manual_seed(0)
    network = build(RunConfig(model=model, width=0.25), (3, 32, 32), 10)
    batch = torch.randn(32, 3, 32, 32), torch.arange(32) % 10
    gradients = []
    for case in (network, Bfloat16(network)):
        sam_gradient(case, nn.functional.cross_entropy, batch, rho)
        assert {p.grad.dtype for p in network.parameters()} == {torch.float32}
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    exact, coarse = gradients
    assert 1e-4 < (coarse - exact).norm() / exact.norm() < 0.2
