"""Runs that speak for or against the claims of Granziol 2020, MacDonald et al. 2023 and Bejan et al. 2022."""

from dataclasses import replace

import numpy as np
import pandas as pd

from flatlib.claims.bejan2022 import optimizer_grid
from flatlib.config import RunConfig, grid
from synthetic_runs import SEEDS, noise, runs_of

DECAYS = [0.0, 0.001, 0.01]
MOMENTUM = {"optimizer": "heavy_ball", "momentum": 0.9}


def decay_runs(holds: bool) -> pd.DataFrame:
    """Two lengths of training that differ by more than the decays do; the weak decay's effects are not the strong's."""
    signs = 1 if holds else -1
    base = RunConfig(stop="epochs", measures=("performance",), **MOMENTUM)

    def measures(config):
        step, long = DECAYS.index(config.weight_decay), config.max_epochs == 50
        sharpness = 4.0 ** ((step if holds else -step) + 10 * long)
        accuracy = 0.5 + signs * 0.01 * step + 0.2 * long
        return {
            "lambda_max": sharpness * noise(config.seed),
            "frobenius": 2 * sharpness,
            "test_accuracy": accuracy * noise(config.seed),
            "generalization_gap": (0.3 - signs * 0.02 * step + 0.2 * long) * noise(config.seed),
            "train_accuracy": 1.0 - 0.1 * step,  # fitted without decay
            "softmax_jacobian_norm": 2.0 ** -(signs * step) * noise(config.seed),
            "jacobian_norm_mean": 2.0 ** -(signs * step) * noise(config.seed),
        }

    return runs_of(grid(base, max_epochs=[10, 50], weight_decay=DECAYS, seed=SEEDS), measures)


SGD = RunConfig(stop="epochs", learning_rate=0.1, **MOMENTUM)
ADAMW = RunConfig(stop="epochs", learning_rate=0.001, optimizer="adamw", weight_decay_kind="decoupled")
AVERAGED = replace(ADAMW, averaging_start=0.5, averaging_learning_rate=0.0005)


def adam_runs(holds: bool) -> pd.DataFrame:
    """SGD against averaged Adam, plain Adam far off both; and four optimizers of each kind, apart from the other."""
    doubled, gained = (2, 0.01) if holds else (-1, -0.02)
    apart, away = (0.005, 0.5) if holds else (0.03, 2.0)
    six = [config for config in optimizer_grid(RunConfig(train_size=100)) if not config.sam_rho]

    def measures(config):
        averaged = config.averaging_start is not None
        plain = config.optimizer == "adamw" and not averaged
        adaptive = config.optimizer in ("adam", "adagrad", "adashift", "adabound")
        sharpness = 2.0 ** (doubled * averaged) * (1000 if plain else 1)
        return {
            "lambda_max": sharpness * noise(config.seed),
            "frobenius": sharpness**2 * noise(config.seed),
            "weight_norm": sharpness**0.5 * noise(config.seed),
            "test_accuracy": (0.6 + gained * averaged + apart * adaptive - 0.3 * plain) * noise(config.seed),
            "train_accuracy": (0.9 + 0.005 * averaged - 0.3 * plain) * noise(config.seed),
            "minimum_sharpness": 2.0 ** (away * adaptive) * noise(config.seed),
        }

    runs = runs_of([replace(config, seed=seed) for config in (SGD, ADAMW, AVERAGED, *six) for seed in SEEDS], measures)
    more = runs[(runs["stop"] == "train_loss") & runs["optimizer"].isin(["sgd", "heavy_ball"])]
    return pd.concat([runs, more.assign(optimizer="another " + more["optimizer"])], ignore_index=True)


def sharpening_runs(holds: bool) -> pd.DataFrame:
    """Sharpness that climbs to just below 2 / rate, jumps and stays; wider networks rise less, a linear one hardly.

    Its steps grow, but for the jump if the claim holds, and so do those of the Jacobian norm; else these shrink.
    """
    base = RunConfig(track=("train_loss", "lambda_max", "softmax_jacobian_norm"), track_every=1)
    rates = [0.02, 0.05, 0.1]
    configs = grid(base, learning_rate=rates, seed=SEEDS)
    configs += grid(base, width=[0.25, 0.5], learning_rate=rates[:1], seed=SEEDS)
    configs += grid(replace(base, model="softmax_regression"), learning_rate=rates[:1], seed=SEEDS)
    configs += grid(replace(base, loss="squared"), learning_rate=rates, seed=SEEDS)
    configs += grid(replace(base, input_scale=0.5), learning_rate=rates[:1], seed=SEEDS)

    def path(config):
        shape = np.array([1 / 16, 0.9, 1.05] if holds else [0.9, 0.98, 1.7]) * 2 / config.learning_rate
        if config.loss == "squared":
            shape[-1] *= 1.1
        if config.width < 1:
            shape = [1.0, 1.0, 32 / config.width if holds else 1 + config.width / 10]
        if config.model == "softmax_regression":
            shape = [1.0, 1.0, 1.05 if holds else 8.0]
        start, before, peak = shape
        closer = config.input_scale < 1
        peak /= 2 ** (closer * (1 if holds else -1))
        climb = start * (before / start) ** (np.linspace(0, 1, 5) ** 2)
        sharpness = np.concatenate([climb, np.full(5, peak)])
        steps = np.array([0, 2, 3, 4, 5, 1, 3, 3, 3, 3] if holds else [0, -1, -2, -3, -4, -5, -3, -3, -3, -3]) / 9
        return {
            "update": list(range(10)),
            "train_loss": np.linspace(2.3, 0.29, 10).tolist(),  # fitted at the last point
            "lambda_max": (sharpness * noise(config.seed)).tolist(),
            "softmax_jacobian_norm": (2 ** ((1 + closer) * steps.cumsum()) * noise(config.seed)).tolist(),
        }

    return runs_of(configs, lambda config: {}, path)


def smoothing_runs(holds: bool) -> pd.DataFrame:
    """The peak and the point at 90 % accuracy are ordered one way, the start and the end of a run the other."""
    tracked = {"track": ("train_loss", "lambda_max", "softmax_jacobian_norm"), "track_every": 1}
    base = RunConfig(batch_size=0, stop="updates", max_updates=4, **tracked)
    sign = -1 if holds else 1

    def path(config):
        s, scale = config.label_smoothing, 0.001 / config.learning_rate**3
        jacobian = np.array([0.1, 2, 1, 0.3]) * (1 - s) ** -sign * noise(config.seed)
        rises = np.array([1 - sign * s, 10 + sign * s, 5 + sign * s, 2 - sign * s]) * scale * noise(config.seed)
        return {
            "update": [0, 1, 2, 3],
            "train_accuracy": [0.1, 0.8, 0.9, 1.0],
            "lambda_max": rises.tolist(),
            "softmax_jacobian_norm": jacobian.tolist(),
            "jacobian_norm": (jacobian if config.loss == "squared" else 1 / jacobian).tolist(),
        }

    configs = grid(base, learning_rate=[0.02, 0.05], label_smoothing=[0.0, 0.25, 0.5], seed=SEEDS)
    configs += [replace(config, loss="squared") for config in configs]
    return runs_of(configs, lambda config: {}, path)


def minimum_runs(holds: bool, loss: str = "cross_entropy") -> pd.DataFrame:
    """Six optimizers far apart from each other, each alone and inside SAM."""
    configs = optimizer_grid(RunConfig(train_size=100), loss)
    place = {config.optimizer: i for i, config in enumerate(configs)}

    def measures(config):
        inside = config.sam_rho > 0
        sharpness = 100.0 ** place[config.optimizer] * (0.5 if holds else 4.0) ** inside
        accuracy = 0.3 + 0.01 * place[config.optimizer] + (0.02 if holds else -0.01) * inside
        return {
            "minimum_sharpness": sharpness * noise(config.seed),
            "test_accuracy": accuracy * noise(config.seed),
            "generalization_gap": (0.5 + (0.001 if holds else -0.001) * np.log(sharpness)) * noise(config.seed),
        }

    return runs_of([replace(config, seed=seed) for config in configs for seed in SEEDS], measures)


STRENGTHS = [{}, {"label_smoothing": 0.1}, {"label_smoothing": 0.4}, {"mixup": 0.2}, {"mixup": 1.0}]
STRENGTHS += [{"augmentation": ("flip",)}, {"augmentation": ("flip", "crop")}, {"sam_rho": 0.05}, {"sam_rho": 0.2}]


def regulariser_runs(holds: bool) -> pd.DataFrame:
    """Each regulariser at two strengths; the strong one is far off and only the weak one is compared."""
    settings = [
        RunConfig(stop="epochs", **MOMENTUM, **strength) for strength in (*STRENGTHS, {"jacobian_penalty": 1.0})
    ]

    def measures(config):
        place = settings.index(replace(config, seed=0))
        strong = place > 0 and place % 2 == 0
        flatter = 2.0 ** (-(1 + place) if holds else 1 + place)
        jacobian = {True: 2.0**20 if holds else 2.0**-20}.get(strong, flatter) if place else 1.0
        doubled = (-1 if config.sam_rho else 0.25) if holds else (1 if config.sam_rho else -0.75)
        sharpness = 2.0 ** (30 if strong else doubled) if place else 1.0
        gap = 100 + np.log2(jacobian if holds else sharpness)
        if config.jacobian_penalty:
            jacobian, sharpness, gap = 0.5, *((0.5, 50.0) if holds else (2.0, 200.0))
        return {
            "train_accuracy": 1.0,
            "jacobian_norm_mean": jacobian * noise(config.seed),
            "softmax_jacobian_norm": jacobian * noise(config.seed),
            "lambda_max": sharpness * noise(config.seed),
            "loss_gap": gap,
            "generalization_gap": gap,
        }

    return runs_of([replace(config, seed=seed) for config in settings for seed in SEEDS], measures)
