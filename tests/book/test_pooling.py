"""All runs in one comparison: every network once, each experiment for itself."""

import pandas as pd
import pytest

from flatlib.book import pooling
from flatlib.config import RunConfig
from flatlib.runs import records

RATES = (0.1, 0.2, 0.4)


@pytest.fixture
def make(line):
    """Return the table of one chapter: each doubling of the rate halves the sharpness and gains two points."""

    def chapter(name, model, sharpness, accuracy, scale="small", **settings):
        lines = [
            line(
                RunConfig(model=model, learning_rate=rate, seed=seed, **settings),
                lambda_max=sharpness * 0.1 / rate,
                test_accuracy=accuracy + 0.02 * (seed - 2) + 0.02 * doublings,
            )
            for doublings, rate in enumerate(RATES)
            for seed in range(5)
        ]
        return records.table(lines).assign(chapter=name, scale=scale)

    return chapter


@pytest.fixture
def runs(make):
    """Return two experiments at two levels."""
    parts = [make("01_lr_batch", "small_cnn", 8.0, 0.3), make("03_sam", "mlp", 1000.0, 0.9)]
    return pd.concat(parts, ignore_index=True)


def test_the_experiments_mean_is_subtracted(runs):
    found = pooling.centred_by_experiment(runs)
    assert found["intervention"].tolist() == ["learning rate, batch size"] * 3 + ["SAM"] * 3
    assert found["lambda_max"].tolist() == pytest.approx([1, 0, -1] * 2)
    assert found["test_accuracy"].tolist() == pytest.approx([-2, 0, 2] * 2)


def with_batch_norm(runs):
    """Return the runs of one experiment, and the same with batch norm, four times as sharp."""
    plain = runs.query("chapter == '01_lr_batch'")
    other = plain.assign(model="small_cnn_bn", lambda_max=4 * plain["lambda_max"], run_id=plain["run_id"] + "bn")
    return pd.concat([plain, other], ignore_index=True)


DEVIATIONS = {
    "an incomplete setting moves no mean": (
        lambda runs: runs.assign(status=runs["status"].mask(runs.index == 0, "diverged")),
        [-1, -0.5, 0, 0.5, 1],
    ),
    "batch norm is an intervention": (with_batch_norm, [-2, -1, 0, 0, 1, 2]),
    "seeds on images of their own are one setting": (
        lambda runs: runs.assign(data_seed=runs["seed"]),
        [-1, -1, 0, 0, 1, 1],
    ),
    "a single setting has none": (lambda runs: runs.query("learning_rate == 0.1"), []),
}


@pytest.mark.parametrize(("change", "deviations"), DEVIATIONS.values(), ids=DEVIATIONS)
def test_deviations(runs, change, deviations):
    assert sorted(pooling.centred_by_experiment(change(runs))["lambda_max"]) == pytest.approx(deviations)


def test_a_run_of_two_chapters_counts_once(runs):
    twice = pd.concat([runs, runs.query("chapter == '01_lr_batch'").assign(chapter="07_adam_vs_sgd")])
    found = pooling.distinct_networks(twice)
    assert found["chapter"].value_counts().to_dict() == {"03_sam": 15, "07_adam_vs_sgd": 15}, "in the later one"
    assert len(pooling.centred_by_experiment(twice)) == 6
    one, other = (pooling.within_experiments(table, "lambda_max", "test_accuracy") for table in (twice, runs))
    assert (one.runs, one.pairs) == (other.runs, other.pairs)


def test_a_network_in_three_modes_counts_once(make):
    """The same weights are sharper in another mode of batch norm, and as accurate: no third network."""
    modes = [make("05_batch_norm", "small_cnn_bn", 8.0 * i, 0.3, batch_norm=m) for i, m in enumerate(pooling.MODES, 1)]
    density = modes[0].assign(run_id="density", lambda_max=None)  # another measurement in the same mode stays
    table = pd.concat([*modes[::-1], density], ignore_index=True)
    kept = pooling.distinct_networks(table)
    assert set(kept["batch_norm"]) == {"train"}
    assert len(pooling.distinct_networks(modes[2])) == 15, "any mode, if it is the only one"
    assert len(pooling.centred_by_experiment(table)) == 3
    assert pooling.within_experiments(table, "lambda_max", "test_accuracy").runs == 15


def test_runs_on_another_loss_are_compared_with_each_other_only(make):
    """Their order is that of the others; their levels would turn the tau of all of them round."""
    stated = make("10_minimum_sharpness", "mlp", 8.0, 0.3)
    squared = make("10_minimum_sharpness", "mlp", 8e3, 0.9, width=0.5).assign(loss="squared", width=1.0)
    table = pd.concat([stated, squared], ignore_index=True)
    table["test_accuracy"] = table["test_accuracy"].round(2) + 1e-3 * table["seed"]
    assert pooling.within_experiments(table, "lambda_max", "test_accuracy").groups == 2
    assert pooling.centred_by_experiment(table)["lambda_max"].tolist() == pytest.approx([1, 0, -1] * 2)
    coded = table.assign(loss=table["loss"].replace("squared", pooling.CODED))
    assert set(pooling.distinct_networks(coded)["loss"]) == {"cross_entropy"}


def test_few_seeds_are_excluded(runs):
    few = runs[(runs["chapter"] == "01_lr_batch") | (runs["seed"] < 4)]
    assert set(pooling.distinct_networks(few)["chapter"]) == {"01_lr_batch"}


def test_equal_training_loss_is_a_level_of_its_own(runs):
    """The gap rises with the sharpness at equal loss, and falls with it at the end."""
    table = runs.assign(loss_gap=-runs["lambda_max"], lambda_max_at_loss=runs["lambda_max"])
    table = table.assign(loss_gap_at_loss=table["lambda_max"])
    found = pooling.concordances(table, "loss_gap").set_index("series")["estimate"]
    assert (found["same experiment"], found[pooling.AT_EQUAL_LOSS]) == (-1, 1)
    assert pooling.AT_EQUAL_LOSS not in set(
        pooling.concordances(runs.assign(loss_gap=1.0 * runs.index), "loss_gap")["series"]
    )
