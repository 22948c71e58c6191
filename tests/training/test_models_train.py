"""Every network trains, and its curvature can be measured, with batch norm in both modes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from flatlib.config import MODELS, RunConfig
from flatlib.curvature import HessianOperator
from flatlib.training.models import build
from flatlib.training.train import train

WIDTH = {"preresnet164": 0.12, "wideresnet28x10": 0.02, "bejan_simple": 0.2}
PLAIN = ("softmax_regression", "mlp", "small_cnn", "vgg11", "vgg16", "allcnn")  # without batch norm
MODES = [(model, mode) for model in MODELS for mode in ("eval", "train") if mode == "eval" or model not in PLAIN]
SIDES = [(model, 32) for model in MODELS] + [(model, 28) for model in MODELS if not model.startswith("vgg")]


def tiny(model: str, **settings) -> RunConfig:
    return RunConfig(model=model, width=WIDTH.get(model, 0.05), **settings)


@pytest.mark.parametrize(("model", "side"), SIDES)
def test_every_parameter_is_trained(model, side, tmp_path):
    """One step of gradient descent, on grey images of 28 pixels or colour images of 32."""
    generator = np.random.default_rng(0)
    shape = (12, side, side, 3) if side == 32 else (12, side, side)
    images, labels = generator.normal(size=shape).astype(np.float32), np.arange(12) % 3
    np.savez(tmp_path / "x.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    config = tiny(model, dataset=str(tmp_path / "x.npz"), batch_size=0, max_epochs=1, stop="epochs")
    config = replace(config, measures=("performance",))
    trained = train(config, device="cpu")
    assert (trained.status, trained.updates) == ("reached", 1)
    assert np.isfinite(trained.measures["train_loss"])
    start = build(config, tuple(trained.data.x_train.shape[1:]), 3)
    moved = [not torch.equal(p, q) for p, q in zip(trained.model.parameters(), start.parameters(), strict=True)]
    assert sum(moved) >= 0.9 * len(moved)  # a bias before batch norm moves by rounding errors only


@pytest.mark.parametrize(("model", "batch_norm"), MODES)
def test_a_hessian_product_is_the_change_of_the_gradient(model, batch_norm):
    """In float64, by central differences along a random direction, so short that no ReLU switches."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    network = build(tiny(model), (3, 32, 32), 5).double()
    start = nn.utils.parameters_to_vector(network.parameters()).detach()
    weights = start + 0.01 * noise(len(start))  # off the kink where a zero bias meets an image patch of zeros
    x, y, v = noise(6, 3, 32, 32), torch.arange(6) % 5, nn.functional.normalize(noise(len(start)), dim=0)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    network(x)  # the running statistics are now those of these images: after one step at 0.1 deep nets explode

    def operator(shift: float) -> HessianOperator:
        nn.utils.vector_to_parameters(weights + shift * v, network.parameters())
        return HessianOperator(network, "cross_entropy", (x, y), batch_norm=batch_norm)

    product = operator(0.0).matvec(v)
    change = (operator(1e-8).gradient() - operator(-1e-8).gradient()) / 2e-8
    assert torch.isfinite(product).all()
    assert (product - change).norm() <= 1e-4 * product.norm()
    assert product.norm() > 0
