"""Tables of runs that nobody trained, and those for or against the claims of Kaur, Cohen and Lipton 2022."""

from dataclasses import replace
from math import ceil

import numpy as np
import pandas as pd

from flatlib.claims import Claim
from flatlib.config import RunConfig, grid
from flatlib.runs import records

SEEDS = range(5)


def noise(seed: int) -> float:
    """Seeds differ by one percent."""
    return 1 + 0.01 * np.sin(seed)


MEAN_NOISE = float(np.mean([noise(seed) for seed in SEEDS]))


def line_of(config: RunConfig, measures: dict, trajectory: dict | None = None, status: str = "reached") -> dict:
    about = {"provenance": {}, "trajectory": trajectory or {}}
    return {"run_id": config.run_id, "config": config.to_json(), "status": status, "measures": measures} | about


def runs_of(configs, measures, trajectory=lambda config: None) -> pd.DataFrame:
    """The table of runs that all reached the stop rule, with what two functions of a configuration say of each."""
    return records.table(line_of(config, measures(config), trajectory(config)) for config in configs)


def without(runs: pd.DataFrame, condition: str, status: str = "capped") -> pd.DataFrame:
    """The runs, those that meet a condition with another status."""
    return runs.assign(status=runs["status"].mask(runs.eval(condition), status))


def words(claim: Claim, runs: pd.DataFrame) -> dict[str, str]:
    """The verdict on each prediction."""
    return claim.verdicts(runs).set_index("prediction")["verdict"].to_dict()


def numbers(claim: Claim, runs: pd.DataFrame) -> dict[str, float]:
    """The estimate of each prediction."""
    return claim.verdicts(runs).set_index("prediction")["estimate"].to_dict()


RATES = [0.05, 0.1, 0.2]


def lr_runs(holds: bool, seeds=SEEDS) -> pd.DataFrame:
    """Sharpness on 2 / rate; there the small batch starts at 60 % and rises, the large one stays at 50 %.

    At twice the largest of three rates the large batch diverges.
    """

    def measures(config):
        decades, small = np.log10(config.learning_rate / 0.02), config.batch_size < 1000
        sharpness = 2 / config.learning_rate if holds else 10 * 10**decades
        accuracy = (0.6 + 0.05 * decades, 0.5) if holds else (0.4 - 0.05 * decades, 0.5 + 0.05 * decades)
        noisy = noise(config.seed)
        return {"lambda_max": sharpness * noisy, "test_accuracy": accuracy[0 if small else 1] * noisy}

    axes = {"batch_size": [50, 250, 1000], "learning_rate": [0.02, 0.05, 0.1]}
    beyond = grid(RunConfig(), batch_size=[1000], learning_rate=[0.2], seed=seeds)
    return without(runs_of(grid(RunConfig(), **axes, seed=seeds) + beyond, measures), "learning_rate > 0.1", "diverged")


def scaling_runs(holds: bool) -> pd.DataFrame:
    """Batches of 10, 40, 160 at two ratios; one is tracked every second epoch, at the start in the other order."""
    fixed, across = 0.0 if holds else 0.03, 0.02
    base = RunConfig(train_size=1000)
    pairs = [(size, alpha) for alpha in (500, 1000) for size in (10, 40, 160)]
    configs = []
    for size, alpha in pairs:
        tracked = {"track": ("lambda_max",), "track_every": 2 * ceil(1000 / size)} if alpha == 1000 else {}
        configs += grid(replace(base, batch_size=size, learning_rate=size / alpha, **tracked), seed=SEEDS)

    def measures(config):
        rate, alpha = config.learning_rate, config.batch_size / config.learning_rate
        accuracy = 0.6 + fixed * np.log10(rate) + (across - fixed) * np.log10(1 / alpha)
        sharpness = 100 * rate ** (-0.5 if holds else 0.5) * alpha  # the ratios lie far apart
        return {"lambda_max": sharpness * noise(config.seed), "test_accuracy": accuracy * noise(config.seed)}

    def path(config):
        if not config.track:
            return None
        late = [config.learning_rate ** (-1 if holds else 1)] * 10
        return {"update": [config.track_every * k for k in range(11)], "lambda_max": [1 / late[0], *late]}

    return runs_of(configs, measures, path)


def sam_runs(holds: bool) -> pd.DataFrame:
    """Sharpness that falls with the radius and by much more with the learning rate; accuracy that depends on both."""
    gains = {20: 0.02, 1000: 0.002} if holds else {20: -0.01, 1000: 0.01}

    def measures(config):
        sharpness = (10 + (-20 if holds else 20) * config.sam_rho) / config.learning_rate**2
        accuracy = 0.5 + config.learning_rate + gains[config.batch_size] * (config.sam_rho > 0)
        return {"lambda_max": sharpness * noise(config.seed), "test_accuracy": accuracy * noise(config.seed)}

    axes = {"batch_size": [20, 1000], "learning_rate": RATES[:2], "sam_rho": [0.0, 0.05, 0.1, 0.2]}
    return runs_of(grid(RunConfig(), **axes, seed=SEEDS), measures)


DROPOUT_ACCURACY = {0.0: 0.5, 0.1: 0.51, 0.2: 0.52, 0.4: 0.7, 0.7: 0.45}


def dropout_runs(holds: bool) -> pd.DataFrame:
    """Accuracy that two modest rates raise and the largest lowers; between them a rate that is neither."""

    def measures(config):
        accuracy = DROPOUT_ACCURACY[config.dropout] if holds else 1 - DROPOUT_ACCURACY[config.dropout]
        sharpness = (10 + (-10 if holds else 10) * config.dropout) / config.learning_rate**2
        return {"lambda_max": sharpness * noise(config.seed), "test_accuracy": accuracy * noise(config.seed)}

    axes = {"learning_rate": RATES[:2], "dropout": list(DROPOUT_ACCURACY)}
    return runs_of(grid(RunConfig(), **axes, seed=SEEDS), measures)


def batch_norm_runs(holds: bool, mode: str = "train") -> pd.DataFrame:
    """With batch norm the sharpness lies above at some rates and below at others; lambda_max itself is far off."""
    doublings = {50: 0.75, 250: 0.5} if holds else {50: 1.25, 250: 1.5}
    gains = {0.005: -0.02, 0.1: 0.1, 0.2: 0.03} if holds else {0.005: 0.02, 0.1: 0.1, 0.2: -0.03}

    def measures(config):
        above = 1 if config.learning_rate == 0.1 else -1
        with_norm = config.model == "small_cnn_bn"
        sharpness = 2 / config.learning_rate * 2 ** (with_norm * above * doublings[config.batch_size])
        gain = gains[config.learning_rate] * (1 if config.batch_size == 50 else 2)
        accuracy = (0.5 + with_norm * gain) * noise(config.seed)
        largest = 100 * sharpness if with_norm else sharpness
        return {"lambda_max": largest, "between_iterates": sharpness, "test_accuracy": accuracy}

    axes = {"model": ["small_cnn", "small_cnn_bn"], "batch_size": [50, 250], "learning_rate": [0.005, 0.1, 0.2]}
    return runs_of(grid(RunConfig(batch_norm=mode), **axes, seed=SEEDS), measures)
