"""The benchmark of training: an epoch of `flatlib.training.train`, against the loop of every tutorial."""

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from flatlib.bench.timing import alternating, median_ratio
from flatlib.bench.tutorial import tutorial
from flatlib.config import RunConfig
from flatlib.device import reproducible, resolve
from flatlib.errors import FlatlibError
from flatlib.precision import step_precision
from flatlib.training.cuda_graph import CHECKED, WARM_UP
from flatlib.training.data import Data, load
from flatlib.training.models import build
from flatlib.training.optim import build_optimizer
from flatlib.training.step import TrainingStep, gradient_of
from flatlib.training.train import TrainedRun, batches, stepper, updates_per_epoch

CASES = {"mlp": ("mlp", 1.0), "small_cnn": ("small_cnn", 1.0), "vgg11/4": ("vgg11", 0.25), "vgg11": ("vgg11", 1.0)}
"""Model and width by name."""
BATCH = 100
MATRIX = 2048
"""Side of the square matrices whose product is the machine's rate."""


def benchmark(
    names: Iterable[str],
    dataset: str,
    device: str,
    images: int,
    repeats: int,
    batch: int = BATCH,
    precision: str = "float32",
) -> list[dict[str, Any]]:
    """One entry for each network: seconds of an epoch by both loops, floating-point operations, and the matrix rate,
    all of them in one precision (`RunConfig.precision`).

    One CPU thread, as sweeps train.
    """
    with reproducible():
        place = resolve(device)
        return [_entry(name, dataset, place, images, repeats, batch, precision) for name in names]


def chosen(patterns: str, device: str = "cpu") -> list[str]:
    """The cases that are listed, with commas between them; ``*`` is all, but on a CPU not the largest."""
    if patterns == "*":
        return list(CASES)[: -1 if resolve(device).type == "cpu" else None]
    names = [name.strip() for name in patterns.split(",")]
    for name in names:
        if name not in CASES:
            raise FlatlibError(f"--cases: unknown name {name!r}; allowed: {', '.join(CASES)}")
    return names


def _entry(
    name: str, dataset: str, place: torch.device, images: int, repeats: int, batch: int, precision: str
) -> dict[str, Any]:
    model, width = CASES[name]
    size = {"train_size": images, "test_size": 10, "batch_size": min(batch, images)}
    config = RunConfig(dataset=dataset, model=model, width=width, precision=precision, **size)
    data = load(config, place)
    shape = tuple(data.x_train.shape[1:])
    one_by_one = _our_epoch(config, data, shape, _plain)
    with tutorial(config, place) as their_epoch:
        calls = {"flatlib": _our_epoch(config, data, shape, stepper), "tutorial": their_epoch}
        if place.type == "cuda":
            calls["flatlib, without CUDA graphs"] = one_by_one
        planned = math.ceil((WARM_UP + CHECKED) / updates_per_epoch(config, data))
        for call in calls.values():
            for repeat in range(planned):  # the first epochs plan their kernels, and record a graph
                call(repeat)
        with FlopCounterMode(display=False) as counter:
            one_by_one(0)  # what a graph replays is not counted
        seconds = alternating(calls | {"matrix": _matrix_product(place, precision)}, repeats)
    about = {"network": name, "batch": config.batch_size, "precision": precision}
    return about | {"operations": counter.get_total_flops(), "seconds": seconds}


def _plain(run: TrainedRun) -> TrainingStep:
    return TrainingStep(gradient_of(run.model, run.config), run.optimizer, run.config, run.data)


def _our_epoch(
    config: RunConfig, data: Data, shape: tuple[int, ...], steps_of: Callable[[TrainedRun], TrainingStep]
) -> Callable[[int], None]:
    network = build(config, shape, data.classes).to(data.x_train.device).train()
    step = steps_of(TrainedRun(config, network, data, build_optimizer(network.parameters(), config)))

    def epoch(repeat: int) -> None:
        for batch in itertools.islice(batches(data, config), updates_per_epoch(config, data)):
            step(batch)

    return epoch


def _matrix_product(place: torch.device, precision: str) -> Callable[[int], None]:
    kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
    a, b = torch.randn(2, MATRIX, MATRIX, device=place, dtype=kind)

    def product(repeat: int) -> None:
        with step_precision(precision):
            torch.mm(a, b)

    product(0)
    return product


def report(entries: list[dict[str, Any]]) -> pd.DataFrame:
    """Seconds of an epoch, how many times longer the other loops take, and the share of the machine's matrix rate."""
    rows = {}
    for entry in entries:
        seconds = {name: sorted(times)[len(times) // 2] for name, times in entry["seconds"].items()}
        rate = 2 * MATRIX**3 / seconds["matrix"]
        others = [name for name in entry["seconds"] if name not in ("flatlib", "matrix")]
        ratios = {name: median_ratio(entry["seconds"][name], entry["seconds"]["flatlib"]) for name in others}
        rows[entry["network"]] = {
            "batch": entry["batch"],
            "seconds": seconds["flatlib"],
            **{f"{name} / flatlib": ratio for name, ratio in ratios.items()},
            "share of the matrix rate": entry["operations"] / seconds["flatlib"] / rate,
            "Gflop/s": entry["operations"] / seconds["flatlib"] / 1e9,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("network")
