"""Reproducible runs, and measures that agree with float64, on the CPU and on a GPU where there is one."""

import copy
import os
from dataclasses import replace

import pytest
import torch
from torch import nn

from flatlib.config import RunConfig
from flatlib.curvature import HessianOperator, top_eigenvalues
from flatlib.device import PRECISION_SWITCHES, reproducible, resolve, seeded
from flatlib.errors import FlatlibError
from flatlib.measures import measure
from flatlib.names import MEASURES
from flatlib.runs.sweep import run_one
from flatlib.training.data import load
from flatlib.training.models import build
from flatlib.training.train import checkpoint_of_run, train
from image_files import save

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
AGREEMENT = 1e-3
COMPANIONS = ("residual", "products", "converged", "error", "exact", "alignment", "frank_wolfe_gap")
SIZES = {"train_size": 40, "test_size": 20, "measure_size": 20, "batch_size": 20, "max_epochs": 2}
TINY = RunConfig(model="small_cnn", width=0.1, **SIZES)
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
def test_runs_are_deterministic(device, settings, tmp_path):
    if "dataset" in settings:
        images = save(tmp_path / "images.npz", shape=(32, 32, 3))
        settings = settings | {"dataset": images, "train_size": 24, "test_size": 12}
    config = replace(TINY, **settings, measures=("performance", "lambda_max"))
    one, two = (run_one(config, device.type, None) for _ in range(2))
    assert one["measures"] == two["measures"]
    assert one["provenance"]["device"] in ("cpu", *map(torch.cuda.get_device_name, range(torch.cuda.device_count())))


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
def test_measures_agree_with_float64(device, model):
    config = replace(TINY, model=model, tolerance=1e-4, measures=("train_loss",))
    trained = train(config, device="cpu").model
    exact = measure(MEASURED, moved(config, trained, torch.device("cpu"), torch.float64))
    found = measure(MEASURED, moved(config, trained, device, torch.float32))
    # Where a CPU reduces an MLP to the subspace of its inputs, it draws other probes.
    error = 4 * found["frobenius_standard_error"] / found["frobenius"]
    assert found.pop("frobenius") == pytest.approx(exact.pop("frobenius"), rel=2 * error)
    assert found.pop("frobenius_per_parameter") == pytest.approx(exact.pop("frobenius_per_parameter"), rel=4 * error)
    for name, value in exact.items():
        if not name.endswith(COMPANIONS):
            close = pytest.approx(value, rel=AGREEMENT, abs=1e-5) if value is not None else None
            assert found[name] == close, name


def test_chunked_products(device):
    data = load(TINY, device)
    model = build(TINY, data.image_shape, data.classes).to(device)
    whole, parts = (HessianOperator(model, "cross_entropy", data.measured(20), chunk_size=size) for size in (None, 7))
    v = torch.ones(whole.shape[0], device=device)
    torch.testing.assert_close(parts.matvec(v), whole.matvec(v), rtol=1e-3, atol=1e-5)
    assert top_eigenvalues(whole).vectors.device.type == device.type


@pytest.mark.parametrize("workspace", [None, ":16:8"])
def test_reproducible_restores_settings(monkeypatch, workspace):
    """A workspace that the environment sets is kept."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    if workspace:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", workspace)
    before = [switch.fp32_precision for switch in PRECISION_SWITCHES]
    with reproducible():
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == (workspace or ":4096:8")
        assert {switch.fp32_precision for switch in PRECISION_SWITCHES} == {"ieee"}
    assert torch.get_deterministic_debug_mode() == 0
    assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == workspace
    assert [switch.fp32_precision for switch in PRECISION_SWITCHES] == before


def test_missing_gpu():
    with pytest.raises(FlatlibError, match="CUDA devices"):
        resolve(f"cuda:{torch.cuda.device_count()}")


def test_seeded_restores_state_after_an_error():
    before = torch.get_rng_state()
    with pytest.raises(KeyError), seeded(3, torch.device("cpu")):
        raise KeyError(torch.rand(5))
    assert torch.equal(torch.get_rng_state(), before)
