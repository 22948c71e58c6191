"""Published numbers recomputed from the lines of the records with pandas and scipy alone."""

import json
from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kendalltau

from flatlib.book import overview, pooling
from flatlib.book.paths import find_root
from flatlib.config import RunConfig

ROOT = find_root()
RECORDS = ROOT / "book" / "records"


@cache
def table(chapter: str, scale: str) -> pd.DataFrame:
    """Settings and measures of each line of a record; a field that is younger than a line has its default."""
    lines = [json.loads(line) for line in (RECORDS / chapter / f"{scale}.jsonl").read_text().splitlines()]
    defaults = RunConfig().to_json()
    about = [{"status": line["status"], "run": line["run_id"]} for line in lines]
    rows = [defaults | line["config"] | line["measures"] | also for line, also in zip(lines, about, strict=True)]
    runs = pd.DataFrame(rows).drop(columns=["measures", "track"])
    return runs.assign(augmentation=runs["augmentation"].map("+".join))


def slope(runs: pd.DataFrame, y: pd.Series) -> float:
    return np.polyfit(np.log10(runs["learning_rate"]), y, 1)[0]


def of_seeds(runs: pd.DataFrame, number) -> float:
    return float(np.mean([number(of_seed) for _, of_seed in runs.groupby("seed")]))


def at(runs: pd.DataFrame, batch: str) -> pd.DataFrame:
    return runs[runs["batch_size"] == getattr(runs["batch_size"], batch)()]


def gain(runs: pd.DataFrame, by: list[str], high: str, low: str, y: str, scale: float = 100) -> float:
    """The mean of a difference within each combination of settings."""
    cells = [block.query(high)[y].mean() - block.query(low)[y].mean() for _, block in runs.groupby(by)]
    return scale * float(np.nanmean(cells))


def spread(runs: pd.DataFrame, gap: str, column: str) -> float:
    return of_seeds(runs, lambda r: kendalltau(r[column], r[gap]).statistic)


ONE, SAM, DROPOUT = table("01_lr_batch", "medium"), table("03_sam", "medium"), table("04_dropout", "mnist")
NORM, ADAM = table("05_batch_norm", "small").query("batch_norm == 'train'"), table("07_adam_vs_sgd", "small")
METHODS = ADAM[(ADAM["stop"] == "epochs") & ADAM["validation_size"].isna()]
STATED = table("10_minimum_sharpness", "small").query("loss == 'cross_entropy'")
REGULARISED = table("11_regularisers", "small").query("jacobian_penalty == 0")  # the paper has no penalty
DECAY = table("06_weight_decay", "small").dropna(subset=["lambda_max"])
NUMBERS = {  # chapter, scale, prediction: its estimate
    ("01_lr_batch", "medium", "sharpness (small batch)"): lambda: of_seeds(
        at(ONE, "min"), lambda r: slope(r, np.log10(r["lambda_max"]))
    ),
    ("01_lr_batch", "medium", "accuracy (large batch)"): lambda: of_seeds(
        at(ONE, "max"), lambda r: slope(r, 100 * r["test_accuracy"])
    ),
    ("01_lr_batch", "medium", "contrast"): lambda: of_seeds(
        ONE, lambda r: np.subtract(*(slope(at(r, b), 100 * at(r, b)["test_accuracy"]) for b in ("min", "max")))
    ),
    ("03_sam", "medium", "sharpness (small batch)"): lambda: spread(at(SAM, "min"), "lambda_max", "sam_rho"),
    ("03_sam", "medium", "accuracy (large batch)"): lambda: gain(
        at(SAM, "max"), ["seed"], "sam_rho > 0", "sam_rho == 0", "test_accuracy"
    ),
    ("04_dropout", "mnist", "modest dropout"): lambda: gain(
        DROPOUT, ["seed", "batch_size", "learning_rate"], "0 < dropout <= 0.2", "dropout == 0", "test_accuracy"
    ),
    ("05_batch_norm", "small", "accuracy (large rate)"): lambda: gain(
        NORM[NORM["learning_rate"] == NORM["learning_rate"].max()],
        ["seed", "batch_size"],
        "model == 'small_cnn_bn'",
        "model == 'small_cnn'",
        "test_accuracy",
    ),
    ("06_weight_decay", "small", "accuracy"): lambda: gain(
        DECAY, ["seed"], "weight_decay > 0", "weight_decay == 0", "test_accuracy"
    ),
    ("07_adam_vs_sgd", "small", "sharpness"): lambda: gain(
        METHODS.assign(log2=np.log2(METHODS["lambda_max"])),
        ["seed"],
        "averaging_start.notna()",
        "optimizer == 'heavy_ball'",
        "log2",
        1,
    ),
    ("10_minimum_sharpness", "small", "accuracy (every optimizer)"): lambda: min(
        gain(r, ["seed"], "sam_rho > 0", "sam_rho == 0", "test_accuracy") for _, r in STATED.groupby("optimizer")
    ),
    ("10_minimum_sharpness", "small", "correlation"): lambda: spread(STATED, "generalization_gap", "minimum_sharpness"),
    ("11_regularisers", "small", "softmaxed Jacobian and loss gap"): lambda: spread(
        REGULARISED, "loss_gap", "softmax_jacobian_norm"
    ),
    ("11_regularisers", "small", "logits' Jacobian against sharpness (loss gap)"): lambda: of_seeds(
        REGULARISED,
        lambda r: np.subtract(
            *(abs(kendalltau(r[name], r["loss_gap"]).statistic) for name in ("jacobian_norm_mean", "lambda_max"))
        ),
    ),
}


@pytest.fixture(scope="module")
def judged() -> pd.DataFrame:
    return overview.verdicts(overview.read_records(ROOT)).set_index(["chapter", "scale", "prediction"])


@pytest.mark.parametrize("place", NUMBERS, ids=" ".join)
def test_estimates_are_those_of_pandas_and_scipy(judged, place):
    assert judged.loc[place, "estimate"] == pytest.approx(NUMBERS[place](), rel=1e-9)


def distinct() -> pd.DataFrame:
    """Every network at `small` once, with cross-entropy: the later chapter's, batch norm measured in train mode."""
    chapters = [path.parent.name for path in sorted(RECORDS.glob("[0-9]*/small.jsonl"))]
    runs = pd.concat([table(name, "small").assign(chapter=name) for name in chapters], ignore_index=True)
    runs = runs[(runs["status"] == "reached") & (runs["loss"] == "cross_entropy")].dropna(subset=["lambda_max"])
    measured_again = (runs["chapter"] == "05_batch_norm") & (runs["batch_norm"] != "train")
    return runs[~measured_again].drop_duplicates("run", keep="last")


EXPERIMENT = ["chapter", "dataset", "train_size", "model", "width", "depth", "activation"]


def test_front_page_counts_pairs_within_experiments():
    runs = distinct()
    score = untied = 0.0
    for _, one in runs.groupby(EXPERIMENT, dropna=False):
        once = np.triu_indices(len(one), 1)
        values = one[["lambda_max", "test_accuracy"]].to_numpy(float).T
        x, y = (np.sign(np.subtract.outer(column, column))[once] for column in values)
        score, untied = score + (x * y).sum(), untied + np.sqrt((x != 0).sum() * (y != 0).sum())
    everything = overview.all_runs(overview.read_records(ROOT)).query("scale == 'small'")
    found = pooling.within_experiments(everything, "lambda_max", "test_accuracy")
    assert found.tau.estimate == pytest.approx(score / untied)
    assert found.runs == len(runs)


def test_front_page_counts_settings_in_quadrants():
    runs = distinct()
    runs = runs.assign(log2=np.log2(runs["lambda_max"]), network=runs["model"].str.removesuffix("_bn"))
    settings = set(RunConfig().to_json()) - {"seed", "data_seed", "measures", "track"}
    means = runs.groupby(["chapter", "network", *settings], dropna=False)
    means = means[["log2", "test_accuracy"]].mean().reset_index()
    within = means.groupby([*EXPERIMENT[:3], "network", *EXPERIMENT[4:]], dropna=False)
    x, y = (means[name] - within[name].transform("mean") for name in ("log2", "test_accuracy"))
    several = within["log2"].transform("size") > 1
    story = pooling.centred_by_experiment(overview.all_runs(overview.read_records(ROOT)).query("scale == 'small'"))
    allowed = (story["lambda_max"] * story["test_accuracy"] < 0).sum()
    assert (len(story), allowed) == (several.sum(), (x * y < 0)[several].sum())
