"""Every device: the same run gives the same bits twice, and a checkpoint's measures are those of float64 on the CPU.

Where there is a GPU these run on it as well.
"""

import copy
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from flatlib.config import MEASURES, RunConfig
from flatlib.curvature import HessianOperator, top_eigenvalues
from flatlib.device import reproducible, resolve
from flatlib.errors import FlatlibError
from flatlib.measures import measure
from flatlib.precision import PRECISION_SWITCHES
from flatlib.runs.sweep import run_one
from flatlib.training.data import load
from flatlib.training.models import build
from flatlib.training.train import checkpoint_of_run, train

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
AGREEMENT = 1e-3
COMPANIONS = ("residual", "products", "converged", "standard_error", "exact")
TINY = RunConfig(
    model="small_cnn", width=0.1, train_size=40, test_size=20, measure_size=20, batch_size=20, max_epochs=2
)
MEASURED = tuple(name for name in MEASURES if name not in ("density", "keskar_sharpness"))


@pytest.fixture(params=DEVICES)
def device(request):
    return torch.device(request.param)


@pytest.mark.parametrize(
    "settings",
    [
        {"model": "small_cnn_bn"},
        {"model": "mlp", "dropout": 0.2, "optimizer": "adamw"},
        {"sam_rho": 0.05, "augmentation": ("flip", "crop")},
        {"model": "vgg11", "width": 0.05, "dataset": "images"},
    ],
    ids=lambda settings: settings.get("model", "small_cnn"),
)
def test_a_run_twice_is_the_same_bit_for_bit(device, settings, images):
    settings = settings | ({"dataset": str(images)} if "dataset" in settings else {})
    config = replace(TINY, **settings, measures=("performance", "lambda_max"))
    one, two = (run_one(config, device.type, None) for _ in range(2))
    assert one["measures"] == two["measures"]
    assert one["provenance"]["device"] in ("cpu", *map(torch.cuda.get_device_name, range(torch.cuda.device_count())))


@pytest.fixture
def images(tmp_path):
    """A data file of a few random images of CIFAR's shape."""
    generator, file = np.random.default_rng(0), tmp_path / "images.npz"
    x = {
        f"x_{split}": generator.integers(0, 256, (n, 32, 32, 3), np.uint8) for split, n in (("train", 40), ("test", 20))
    }
    y = {f"y_{split}": np.arange(n) % 10 for split, n in (("train", 40), ("test", 20))}
    np.savez(file, **x, **y)
    return file


def moved(config: RunConfig, model: nn.Module, device: torch.device, dtype: torch.dtype):
    """The checkpoint of a network there, with a fixed next iterate."""
    data = load(config, device)
    data = replace(data, x_train=data.x_train.to(dtype), x_test=data.x_test.to(dtype))
    network, following = (copy.deepcopy(model).to(device, dtype) for _ in range(2))
    with torch.no_grad():
        for p in following.parameters():
            p.mul_(1.01)
    return checkpoint_of_run(network, data, config, after=lambda: following)


@pytest.mark.parametrize("model", ["mlp", "small_cnn_bn"])
def test_measures_are_those_of_float64_on_the_cpu(device, model):
    config = replace(TINY, model=model, tolerance=1e-4, measures=("train_loss",))
    trained = train(config, device="cpu").model
    exact = measure(MEASURED, moved(config, trained, torch.device("cpu"), torch.float64))
    found = measure(MEASURED, moved(config, trained, device, torch.float32))
    for name, value in exact.items():
        if not name.endswith(COMPANIONS):
            close = pytest.approx(value, rel=AGREEMENT, abs=1e-5) if value is not None else None
            assert found[name] == close, name


def test_products_in_chunks_are_those_of_the_whole(device):
    data = load(TINY, device)
    model = build(TINY, tuple(data.x_train.shape[1:]), data.classes).to(device)
    whole, parts = (HessianOperator(model, "cross_entropy", data.measured(20), chunk_size=size) for size in (None, 7))
    v = torch.ones(whole.shape[0], device=device)
    torch.testing.assert_close(parts.matvec(v), whole.matvec(v), rtol=1e-3, atol=1e-5)
    assert top_eigenvalues(whole).vectors.device.type == device.type


def test_runs_and_measures_are_deterministic_and_ieee_inside_and_nothing_is_left_outside(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = [switch.fp32_precision for switch in PRECISION_SWITCHES]
    with reproducible():
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert {switch.fp32_precision for switch in PRECISION_SWITCHES} == {"ieee"}
    assert not torch.are_deterministic_algorithms_enabled()
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    assert [switch.fp32_precision for switch in PRECISION_SWITCHES] == before


def test_a_readers_own_cublas_setting_is_kept(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with reproducible():
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_a_gpu_that_is_not_there_is_one_line():
    with pytest.raises(FlatlibError, match=f"torch sees {torch.cuda.device_count()} CUDA devices"):
        resolve(f"cuda:{torch.cuda.device_count()}")
