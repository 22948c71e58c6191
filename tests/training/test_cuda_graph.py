"""Gradients that are recorded and replayed. A stand-in plays the graph here, so that all but CUDA's own part is run
without a GPU; where there is one, so is the real thing."""

import warnings
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import nn

from flatlib.bench.training import benchmark, report
from flatlib.config import RunConfig
from flatlib.training.cuda_graph import LARGEST, WARM_UP, CudaGraph, Replay, State, agree, replayed
from flatlib.training.train import train

CPU = torch.device("cpu")
# 105 images in batches of 20: the last of an epoch has 5.
CONFIG = RunConfig(width=0.1, train_size=105, test_size=20, batch_size=20, max_epochs=4, measures=("performance",))
SETTINGS = [
    {},
    {"model": "small_cnn_bn"},
    {"dropout": 0.3, "optimizer": "adam"},
    {"sam_rho": 0.05, "model": "small_cnn_bn"},
    {"sam_rho": 0.05, "sam_batch": 10, "dropout": 0.2},
    {"microbatch": 7, "optimizer": "heavy_ball", "momentum": 0.9},
    {"mixup": 0.5, "augmentation": ("flip",), "label_smoothing": 0.1},
    {"batch_size": 0, "model": "small_cnn_bn"},
    {"precision": "bfloat16", "schedule": "granziol"},
    {"averaging_start": 0.5, "stop": "epochs", "model": "small_cnn_bn"},
    {"track": ("lambda_max", "between_iterates"), "track_every": 3, "dropout": 0.2},
]
ids = [" ".join(map(str, settings.values())) or "plain" for settings in SETTINGS]


class Stand:
    """A graph of Python: recording runs nothing that is seen outside, replaying writes where the recording wrote."""

    def __init__(self, model: nn.Module):
        self.model, self.replays = model, 0

    def beside(self, work):
        work()

    def record(self, work):
        before = State(self.model, CPU)
        work()
        before.put_back()
        self.work, self.written = work, [p.grad for p in self.model.parameters()]

    def replay(self):
        self.replays += 1
        self.work()
        for p, place in zip(self.model.parameters(), self.written, strict=True):
            place.copy_(p.grad)
            p.grad = None


class OldBatch(Stand):
    """The images of the recording for ever."""

    def record(self, work):
        super().record(lambda: work.func(tuple(tensor + 0 for tensor in old)) if (old := self.kept(work)) else None)

    def kept(self, work):
        if not hasattr(self, "batch"):
            self.batch = tuple(tensor.clone() for tensor in work.args[0])
        return self.batch


class OldWeights(Stand):
    """The gradient of the first replay for ever."""

    def replay(self):
        if self.replays == 0:
            super().replay()
        self.replays += 1


class OldStatistics(Stand):
    """Batch norm's statistics stay."""

    def replay(self):
        before = [buffer.clone() for buffer in self.model.buffers()]
        super().replay()
        for buffer, value in zip(self.model.buffers(), before, strict=True):
            buffer.copy_(value)


class OldMask(Stand):
    """Dropout draws what it drew when it was recorded."""

    def record(self, work):
        self.state = torch.get_rng_state()
        super().record(work)

    def replay(self):
        torch.set_rng_state(self.state)
        super().replay()


class OtherWeights(Stand):
    """SAM moves the weights and does not come back."""

    def replay(self):
        super().replay()
        with torch.no_grad():
            next(self.model.parameters()).add_(1)


class Unrecorded(Stand):
    """An operation that waits for the GPU; what ends the recording says only that it was broken off."""

    def record(self, work):
        work()
        try:
            raise RuntimeError("operation not permitted when stream is capturing\nand more")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")


@contextmanager
def graphs_of(kind, monkeypatch):
    """Every training replays; the graphs that did are appended to what is given."""
    made = []

    def always(gradient, model, size, device):
        made.append(kind(model))
        return Replay(gradient, model, size, device, made[-1])

    with monkeypatch.context() as patched:
        patched.setattr("flatlib.training.train.replayed", always)
        yield made


def same(one, two):
    states = [run.model.state_dict() for run in (one, two)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert (one.measures, one.trajectory, one.status) == (two.measures, two.trajectory, two.status)


@pytest.mark.parametrize("settings", SETTINGS, ids=ids)
def test_a_run_that_replays_is_the_run_that_does_not(settings, monkeypatch):
    config = replace(CONFIG, **settings)
    plain = train(config, device="cpu")
    with graphs_of(Stand, monkeypatch) as made, warnings.catch_warnings():
        warnings.simplefilter("error")
        same(train(config, device="cpu"), plain)
    whole_batches = 4 * (1 if config.batch_size == 0 else 5)
    assert [graph.replays for graph in made] == [whole_batches - WARM_UP]


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (OldBatch, {}),
        (OldBatch, {"batch_size": 0, "augmentation": ("crop",), "max_epochs": 8}),
        (OldWeights, {"batch_size": 0, "max_epochs": 8}),
        (OldStatistics, {"model": "small_cnn_bn"}),
        (OldMask, {"dropout": 0.3}),
        (OtherWeights, {"sam_rho": 0.05}),
        (Unrecorded, {"model": "small_cnn_bn"}),
        (Unrecorded, {"dropout": 0.3}),
    ],
)
def test_a_graph_that_gives_anything_else_is_not_used(kind, settings, monkeypatch):
    config = replace(CONFIG, **settings)
    plain = train(config, device="cpu")
    reason = "not permitted when stream is capturing$" if kind is Unrecorded else "do not give the plain gradient"
    with graphs_of(kind, monkeypatch) as made, pytest.warns(UserWarning, match=f"no CUDA graphs .*{reason}"):
        same(train(config, device="cpu"), plain)
    assert len(made) == 1


def test_a_run_that_diverges_does_so_by_either(monkeypatch):
    config = replace(CONFIG, learning_rate=1e20)
    with graphs_of(Stand, monkeypatch):
        replaying = train(config, device="cpu")
    assert (replaying.status, train(config, device="cpu").status) == ("diverged", "diverged")


def test_what_agrees():
    one, nan = torch.ones(4), torch.tensor([1.0, float("nan")])
    assert agree(one, one)
    assert agree(one * 1.0005, one)
    assert not agree(one * 1.002, one)
    assert agree(nan, nan)
    assert not agree(torch.ones(2), nan)
    assert not agree(nan, torch.ones(2))
    assert agree(torch.tensor(3), torch.tensor(3))
    assert not agree(torch.tensor(3), torch.tensor(4))


def test_graphs_are_for_small_batches_on_a_gpu_where_none_has_failed(monkeypatch):
    def gradient(batch):
        pass

    model = nn.Linear(2, 2)
    assert replayed(gradient, model, 10, CPU) is gradient
    assert replayed(gradient, model, LARGEST + 1, torch.device("cuda")) is gradient
    monkeypatch.setattr(CudaGraph, "usable", False)
    assert replayed(gradient, model, 10, torch.device("cuda")) is gradient


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("settings", SETTINGS, ids=ids)
def test_cudas_own_graphs(settings, monkeypatch):
    """Recorded without a warning, by every setting, and the run that it would have been."""
    config = replace(CONFIG, **settings)
    with monkeypatch.context() as patched:
        patched.setattr("flatlib.training.cuda_graph.LARGEST", 0)
        plain = train(config, device="cuda")
    replays = []
    monkeypatch.setattr(CudaGraph, "replay", lambda graph: (replays.append(1), graph._graph.replay()))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="no CUDA graphs")
        fast = train(config, device="cuda")
    assert len(replays) == 4 * (1 if config.batch_size == 0 else 5) - WARM_UP
    for one, two in zip(plain.model.parameters(), fast.model.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_graph_is_faster_where_launches_are_what_takes_the_time():
    entries = benchmark(["mlp"], "digits", "cuda", 1000, 5, batch=50)
    assert report(entries)["flatlib, without CUDA graphs / flatlib"].item() > 1
