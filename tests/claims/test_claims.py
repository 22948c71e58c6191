"""Rules and claims on tables made to support, to contradict, and to leave open."""

from math import inf, nan

import numpy as np
import pandas as pd
import pytest
from synthetic_runs import SEEDS, line_of, noise

from flatlib.book.paths import find_root, notebooks
from flatlib.claims import (
    CLAIMS,
    above,
    below,
    between,
    claim_verdict,
    complete_cells,
    exclusions,
    format_verdicts,
    lr_batch,
    summarize,
)
from flatlib.claims import progressive_sharpening as ps
from flatlib.config import RunConfig, grid
from flatlib.runs import records
from flatlib.stats import Interval

LR_BATCH, SHARPENING = CLAIMS["01_lr_batch"], CLAIMS["08_progressive_sharpening"]
RATES = [0.02, 0.05, 0.1]


@pytest.mark.parametrize(
    ("rule", "low", "high", "verdict"),
    [
        (above(0), 0.1, 1, "supported"),
        (above(0), -1, -0.1, "contradicted"),
        (above(0), -1, 0, "contradicted"),
        (above(0), 0, 1, "inconclusive"),
        (above(0), -0.1, 1, "inconclusive"),
        (below(0.5), 0, 0.4, "supported"),
        (below(0.5), 0.5, 0.7, "contradicted"),
        (between(0.7, 1.5), 0.8, 1.4, "supported"),
        (between(0.7, 1.5), 0.2, 0.6, "contradicted"),
        (between(0.7, 1.5), 1.5, 2.0, "contradicted"),
        (between(0.7, 1.5), 0.5, 2.0, "inconclusive"),
        (above(0), -inf, inf, "inconclusive"),
        (above(0), nan, nan, "inconclusive"),
    ],
)
def test_a_rule_decides_by_the_whole_interval(rule, low, high, verdict):
    assert rule.decide(Interval((low + high) / 2, low, high, n=5, level=0.95)) == verdict


@pytest.mark.parametrize("n", [0, 1, 4])
def test_fewer_than_five_seeds_decide_nothing(n):
    assert above(0).decide(Interval(1.0, 0.9, 1.1, n=n, level=0.95)) == "inconclusive"
    verdicts = LR_BATCH.verdicts(lr_runs(True, seeds=range(n))) if n else pd.DataFrame()
    assert not len(verdicts) or set(verdicts["verdict"]) == {"inconclusive"}


@pytest.mark.parametrize(
    ("rule", "text"), [(above(0), "> 0"), (below(-0.2), "< -0.2"), (between(0.7, 1.5), "in 0.7 .. 1.5")]
)
def test_a_rule_reads_as_text(rule, text):
    assert str(rule) == text


def lr_runs(holds: bool, seeds=SEEDS) -> pd.DataFrame:
    """Claim 1 as the paper has it, or in every respect the other way round."""
    lines = []
    for config in grid(RunConfig(), batch_size=[50, 250, 1000], learning_rate=RATES, seed=seeds):
        rate, size = config.learning_rate, config.batch_size
        small = size < 1000
        decades = np.log10(rate / RATES[0])
        sharpness = 2 / rate if holds else 600 * rate / RATES[0]
        # At equal sharpness: with slope +5 the small batch starts at 60 %, the large one stays at 50 %; else reversed.
        accuracy = (
            (0.6 + 0.05 * decades if small else 0.5)
            if holds
            else (0.4 - 0.05 * decades if small else 0.5 + 0.05 * decades)
        )
        measures = {"lambda_max": sharpness * noise(config.seed), "test_accuracy": accuracy * noise(config.seed)}
        lines.append(line_of(config, measures))
    return records.table(lines)


def path_of(start: float, below: float, peak: float, growth: float, seed: int) -> dict:
    """Sharpness that climbs from `start` to `below`, jumps to `peak` and stays there, in units of the caller; a
    Jacobian norm that ends at `growth` times its start; a loss that falls past 0.3."""
    sharpness = np.concatenate([np.geomspace(start, below, 5), np.full(5, peak)])
    return {
        "update": list(range(10)),
        "train_loss": np.linspace(2.3, 0.29, 10).tolist(),
        "lambda_max": (sharpness * noise(seed)).tolist(),
        "softmax_jacobian_norm": (np.geomspace(1, growth, 10) * noise(seed)).tolist(),
    }


def sharpening_runs(holds: bool) -> pd.DataFrame:
    """Claim 8 as the papers have it, or in every respect the other way round."""
    track = {"track": ("train_loss", "lambda_max", "softmax_jacobian_norm"), "track_every": 1}
    growth = 8.0 if holds else 1 / 8
    main = grid(RunConfig(**track), learning_rate=RATES, seed=SEEDS)
    widths = grid(RunConfig(**track), width=[0.25, 0.5], learning_rate=RATES[:1], seed=SEEDS)
    linear = grid(RunConfig(model="softmax_regression", **track), learning_rate=RATES[:1], seed=SEEDS)
    paths = {}
    for config in main:
        shape = np.array([1 / 16, 0.9, 1.05] if holds else [0.9, 0.98, 1.7]) * 2 / config.learning_rate
        paths[config] = path_of(*shape, growth, config.seed)
    for config in widths:
        peak = 32 / config.width if holds else 1 + config.width / 10  # the main runs, of width 1, rise by a factor 16.8
        paths[config] = path_of(1.0, 1.0, peak, growth, config.seed)
    for config in linear:
        paths[config] = path_of(1.0, 1.0, 1.05 if holds else 8.0, growth, config.seed)
    return records.table(line_of(config, {}, path) for config, path in paths.items())


SETTING = ["batch_size", "learning_rate"]
CASES = [(LR_BATCH, lr_runs), (SHARPENING, sharpening_runs)]


@pytest.mark.parametrize(("claim", "make"), CASES, ids=["lr_batch", "sharpening"])
@pytest.mark.parametrize(("holds", "word"), [(True, "supported"), (False, "contradicted")])
def test_every_prediction_can_be_supported_and_contradicted(claim, make, holds, word):
    verdicts = claim.verdicts(make(holds))
    found = dict(zip(verdicts["prediction"], verdicts["verdict"], strict=True))
    assert found == {prediction.name: word for prediction in claim.predictions}
    assert claim_verdict(verdicts) == word
    assert (verdicts["n"] == 5).all()


@pytest.mark.parametrize(("claim", "make"), CASES, ids=["lr_batch", "sharpening"])
def test_verdicts_do_not_depend_on_the_order_of_the_runs(claim, make):
    runs = make(True)
    pd.testing.assert_frame_equal(claim.verdicts(runs), claim.verdicts(runs.sample(frac=1, random_state=0)))


def test_numbers_of_the_synthetic_claims_are_exact():
    slopes = lr_batch.LARGE.slope("learning_rate", "lambda_max", logy=True)(lr_runs(True))
    assert slopes.tolist() == pytest.approx([-1] * 5)
    assert lr_batch.SMALL.slope("learning_rate", "test_accuracy")(lr_runs(True)).tolist() == pytest.approx(
        [5 * noise(s) for s in SEEDS]
    )
    assert lr_batch.distance_to_edge(lr_batch.LARGE.select(lr_runs(True))).tolist() == pytest.approx(
        [noise(s) for s in SEEDS]
    )
    main = ps.main_runs(sharpening_runs(True))
    assert len(main) == len(RATES) * len(SEEDS)
    assert main.apply(ps.rise, axis=1).groupby(main["seed"]).mean().tolist() == pytest.approx([np.log2(16 * 1.05)] * 5)
    assert main.apply(ps.hover, axis=1).groupby(main["seed"]).mean().tolist() == pytest.approx(
        [1.05 * noise(s) for s in SEEDS]
    )


def test_windows_end_where_the_data_are_fitted():
    run = sharpening_runs(True).iloc[0]
    assert ps.trajectory(run)["train_loss"].iloc[-2] > ps.FITTED >= ps.trajectory(run)["train_loss"].iloc[-1]
    run["trajectory"] = run["trajectory"] | {"train_loss": [1.0] * 10}
    assert len(ps.trajectory(run)) == 10


BROKEN = {  # claim, runs, and which of its predictions then have no answer
    "one batch size": (LR_BATCH, lambda: lr_runs(True).query("batch_size == 50"), "all"),
    "one learning rate": (LR_BATCH, lambda: lr_runs(True).query("learning_rate == 0.1"), "slope|contrast|equal"),
    "all capped": (LR_BATCH, lambda: lr_runs(True).assign(status="capped"), "all"),
    "no measures": (LR_BATCH, lambda: lr_runs(True).drop(columns=["lambda_max", "test_accuracy"]), "all"),
    "no runs": (LR_BATCH, lambda: records.table([]), "all"),
    "all diverged": (SHARPENING, lambda: sharpening_runs(True).assign(status="diverged"), "all"),
    "no trajectory": (SHARPENING, lambda: lr_runs(True), "all"),
    "no runs at all": (SHARPENING, lambda: records.table([]), "all"),
    "the main runs alone": (SHARPENING, lambda: ps.main_runs(sharpening_runs(True)), "width|linear"),
}


@pytest.mark.parametrize(("claim", "make", "silent"), BROKEN.values(), ids=BROKEN)
def test_runs_that_lack_what_is_compared_leave_the_claim_open(claim, make, silent):
    verdicts = claim.verdicts(make())
    assert verdicts["prediction"].tolist() == [p.name for p in claim.predictions]
    told = verdicts["prediction"] + verdicts["unit"].str.replace(" per ", " slope ")
    mute = told.str.contains("" if silent == "all" else silent)
    assert mute.sum() >= 3
    shown = format_verdicts(verdicts)
    assert shown.loc[mute, "measured"].str.contains("undefined for every seed").all()
    assert set(shown.loc[mute, "verdict"]) == {"inconclusive"}
    assert claim_verdict(verdicts) == "inconclusive"


def test_a_setting_that_one_seed_missed_is_left_out_as_a_whole_and_counted():
    runs = lr_runs(True)
    missed = (runs["batch_size"] == 50) & (runs["learning_rate"] == 0.1) & (runs["seed"] == 2)
    runs.loc[missed, "status"] = "capped"
    kept = complete_cells(runs, SETTING)
    assert len(runs) - len(kept) == len(SEEDS)
    assert kept.query("batch_size == 50")["learning_rate"].unique().tolist() == RATES[:2]
    counted = exclusions(runs, SETTING).set_index(SETTING)
    assert counted.loc[(50, 0.1)].to_dict() == {"reached": 4, "capped": 1, "diverged": 0, "counts": "no"}
    assert (counted["counts"] == "no").sum() == 1
    assert counted[["reached", "capped", "diverged"]].to_numpy().sum() == len(runs)


def test_the_sentence_says_what_held_and_names_what_did_not():
    verdicts = LR_BATCH.verdicts(lr_runs(True))
    assert claim_verdict(verdicts) == "supported"
    assert "7 of 7 predictions supported" in summarize(verdicts)
    names = verdicts["prediction"].tolist()
    verdicts.loc[0, "verdict"], verdicts.loc[1, "verdict"] = "contradicted", "inconclusive"
    assert (claim_verdict(verdicts), claim_verdict(verdicts[1:])) == ("contradicted", "inconclusive")
    text = summarize(verdicts)
    assert "5 of 7" in text
    assert text.index("contradicted") < text.index(names[0]) < text.index(names[1])
    assert "\n" not in text


def test_the_readable_table_has_rounded_intervals_and_the_declared_regions():
    shown = format_verdicts(LR_BATCH.verdicts(lr_runs(True)).assign(scale="smoke"))
    assert list(shown) == ["scale", "prediction", "measured", "must be", "the paper", "verdict"]
    assert shown["must be"].tolist() == LR_BATCH.declared()["must be"].tolist()
    assert shown["measured"].str.fullmatch(r"-?[\d.]+ \[-?[\d.]+, -?[\d.]+\], n = 5").all()


def test_a_silent_seed_is_counted():
    runs = sharpening_runs(True)
    low = runs["trajectory"].map(lambda path: path | {"lambda_max": [1.0, 1.5, 1.2] + [1.1] * 7})
    runs["trajectory"] = runs["trajectory"].where(runs["seed"] != 3, low)
    row = SHARPENING.verdicts(runs).set_index("prediction").query("unit == 'λ_max η / 2'").iloc[0]
    assert (row["n"], row["n_missing"], row["verdict"]) == (4, 1, "inconclusive")


def test_every_chapter_has_a_claim_and_every_prediction_its_own_name():
    assert set(CLAIMS) == set(notebooks(find_root()))
    for claim in CLAIMS.values():
        assert len({p.name for p in claim.predictions}) == len(claim.predictions) == len(claim.declared())
