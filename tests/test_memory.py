"""Memory, in processes of their own: within the stated bound, and not growing."""

import multiprocessing
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from unittest import mock

import pytest
import torch

from flatlib.config import RunConfig
from flatlib.curvature import HessianOperator, top_eigenvalues
from flatlib.device import container_memory, free_memory, keep_freed_memory
from flatlib.runs.executors import prepare_worker
from flatlib.training.train import train

SETUP = """
import gc, psutil, torch, torchvision
from torch import nn
from flatlib.curvature import HessianOperator, density, frobenius, top_eigenvalues, trace
from flatlib.device import peak_memory
torch.set_num_threads(1)
torch.manual_seed(0)
"""
PEAK = """
model = {model}
data = torch.randn({examples}, 3, 32, 32), torch.arange({examples}) % 9
warm = HessianOperator(nn.Linear(2, 2), "cross_entropy", (torch.randn(4, 2), torch.arange(4) % 2))
warm.matvec(torch.ones(6))
operator = HessianOperator(model, "cross_entropy", data, batch_norm="{batch_norm}", chunk_size={chunk_size})
predicted, v = operator.product_memory, torch.randn(operator.shape[0])
before = psutil.Process().memory_info().rss
for _ in range(2):
    operator.matvec(v)
print(predicted, peak_memory() - before)
"""
STEADY = """
model = nn.Sequential(nn.Unflatten(1, (1, 16, 16)), nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
model.append(nn.Linear(8 * 196, 5))
data = torch.randn(20, 256), torch.arange(20) % 5
for repeat in range(100):
    operator = HessianOperator(model, "cross_entropy", data, batch_norm=("eval", "train")[repeat % 2])
    top_eigenvalues(operator, tol=0.1, engine=("lanczos", "pyhessian")[repeat % 10 == 0], max_products=12)
    trace(operator, probes=2), frobenius(operator, probes=2), density(operator, steps=5)
    if repeat in (39, 99):
        gc.collect()
        print(psutil.Process().memory_info().rss, len(gc.get_objects()))
"""
STEPS = """
import resource, torch
from flatlib.config import RunConfig
from flatlib.training.models import build
from flatlib.training.optim import batch_gradient
torch.set_num_threads(1)
model = build(RunConfig(model="vgg11", width=0.25), (3, 32, 32), 10)
batch = torch.randn(50, 3, 32, 32), torch.arange(50) % 10
counts = []
for _ in range(13):
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    batch_gradient(model, torch.nn.functional.cross_entropy, batch)
faults = counts[-1] - counts[2]
"""
WIDE = """nn.Sequential(
    nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(25088, 9)
)"""


def run(program: str, **environment: str) -> list[int]:
    command = [sys.executable, "-W", "ignore", "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | environment)
    return [int(number) for number in result.stdout.split()]


@pytest.mark.parametrize(
    ("model", "examples", "batch_norm", "chunk_size"),
    [
        ("torchvision.models.resnet18(num_classes=10)", 100, "train", None),
        ("torchvision.models.resnet18(num_classes=10)", 100, "eval", 50),
        (WIDE, 300, "eval", None),
    ],
)
def test_product_memory_bound(model, examples, batch_norm, chunk_size):
    arguments = {"model": model, "examples": examples, "batch_norm": batch_norm, "chunk_size": chunk_size}
    predicted, taken = run(SETUP + PEAK.format(**arguments))
    assert 0.2 * predicted < taken <= predicted


def test_measurements_do_not_leak():
    rss, objects, later_rss, later_objects = run(SETUP + STEADY)
    assert later_rss < rss + 8 * 2**20
    assert later_objects < objects + 200


def test_allocator_is_left_alone(monkeypatch):
    """Here, and everywhere if the environment configures it."""
    with mock.patch("ctypes.CDLL", side_effect=AssertionError("the allocator was changed")):
        trained = train(RunConfig(width=0.1, train_size=100, test_size=20, max_epochs=1), device="cpu")
        top_eigenvalues(HessianOperator(trained.model, "cross_entropy", trained.data.measured(20)))
        monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
        assert not keep_freed_memory()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_worker_keeps_freed_memory(tmp_path):
    """Counted in pages that ten steps request from the system."""
    (tmp_path / "steps.py").write_text(STEPS)
    steps = f"__import__('runpy').run_path({str(tmp_path / 'steps.py')!r})['faults']"
    (elsewhere,) = run(f"print({steps})", MALLOC_TRIM_THRESHOLD_=str(2**17))
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=prepare_worker) as pool:
        in_worker = pool.submit(eval, steps).result()
    assert 4 * in_worker < elsewhere


def operator_with(monkeypatch, free: int) -> HessianOperator:
    monkeypatch.setattr("flatlib.curvature.operators.chunk_memory.free_memory", lambda device: free)
    data = torch.zeros(1000, 3, 8, 8), torch.zeros(1000, dtype=torch.long)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 2))
    return HessianOperator(model, "cross_entropy", data)


def test_chunks_fit_free_memory(monkeypatch):
    assert operator_with(monkeypatch, 2**40).chunk_size == 1000
    little = operator_with(monkeypatch, 4 * 2**20)
    assert 1 < little.chunk_size < 1000
    assert little.product_memory < 2**20 + 14 * 4 * little.shape[0]
    assert operator_with(monkeypatch, 0).chunk_size == 1
    monkeypatch.setattr("flatlib.curvature.operators.chunk_memory.GRAPH_MEMORY_CPU", 2**20)
    assert operator_with(monkeypatch, 2**40).chunk_size == little.chunk_size


def container(folder, limit: str, used: int, cached: int) -> Callable[[], int]:
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\n")
    return container_memory(folder)


def test_container_limits_free_memory(tmp_path, monkeypatch):
    assert 0 < free_memory(torch.device("cpu")) <= 2**50
    assert container_memory(tmp_path) > 2**60
    assert container(tmp_path, "max", 3000, 100) > 2**60
    assert container(tmp_path, "5000", 3000, 100) == 2100
    monkeypatch.setattr("flatlib.device.container_memory", lambda: 2100)
    assert free_memory(torch.device("cpu")) == 2100
