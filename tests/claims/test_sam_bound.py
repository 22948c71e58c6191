"""The bound of Kaur et al. 2022, appendix A.1, on the published runs."""

import pandas as pd
import pytest

from flatlib.book.paths import find_root
from flatlib.claims.sam import bound_table, bound_texts, sam_bound
from flatlib.config import RunConfig, grid
from flatlib.errors import FlatlibError
from flatlib.runs import records
from synthetic_runs import SEEDS, noise, runs_of, without

MEDIANS = {  # of the rise at SAM's step over the bound, and of the share of the gradient's term
    "01_lr_batch/small": (0.98, 0.35),
    "01_lr_batch/medium": (0.80, 0.39),
    "03_sam/small": (0.88, 0.61),
    "03_sam/medium": (0.78, 0.57),
    "04_dropout/small": (0.87, 0.65),
    "04_dropout/mnist": (0.86, 0.66),
}


@pytest.mark.parametrize("name", MEDIANS)
def test_published_runs(name):
    lines = records.read(find_root() / "book" / "records" / f"{name}.jsonl").values()
    runs = records.table(lines)
    bound = sam_bound(runs)
    found = (bound["reached"].median(), bound["gradient_share"].median())
    assert found == pytest.approx(MEDIANS[name], abs=0.01)
    assert (bound["rise"] - 0.05 * runs["gradient_norm"]).to_numpy() == pytest.approx(runs["lambda_max"] / 800)


def test_radius_and_missing_columns():
    runs = pd.DataFrame({"gradient_norm": [1.0], "lambda_max": [10.0], "sam_sharpness": [0.3]})
    assert sam_bound(runs, rho=0.2).to_numpy().tolist() == [pytest.approx([0.4, 0.5, 0.75])]
    with pytest.raises(FlatlibError, match="no column lambda_max"):
        sam_bound(runs.drop(columns="lambda_max"))


def bounded_runs() -> pd.DataFrame:
    """Runs whose bound is 3 rho |g| / 2 without dropout and 2 rho |g| with it; half of it is reached."""

    def measures(config):
        second = 0.5 if config.dropout == 0 else 1.0
        gradient = config.batch_size / 100 * noise(config.seed)
        bound = 0.05 * gradient * (1 + second)
        sharpness = 2 * second * gradient / 0.05
        return {"gradient_norm": gradient, "lambda_max": sharpness, "sam_sharpness": bound / 2}

    return runs_of(grid(RunConfig(), batch_size=[20, 200], dropout=[0.0, 0.5], seed=SEEDS), measures)


def test_settings_have_rows_and_all_runs_a_mean():
    table = bound_table(bounded_runs(), "dropout")
    assert table[["batch size", "dropout"]].to_numpy().tolist() == [
        [size, rate] for size in ("20", "200") for rate in ("0.0", "0.5")
    ]
    assert table.iloc[:, 3].tolist() == [f"{share}, all 5 seeds" for share in ("0.6667", "0.5")] * 2
    assert set(table.iloc[:, 4]) == {"0.5, all 5 seeds"}
    assert bound_texts(bounded_runs()) == {"gradient_share": "58.33, all 5 seeds", "reached": "50, all 5 seeds"}
    capped = without(bounded_runs(), "dropout == 0")
    assert len(bound_table(capped, "dropout")) == 2
    assert bound_texts(capped)["gradient_share"].startswith("50")
    assert len(bound_table(bounded_runs(), "learning_rate")) == 2


@pytest.mark.parametrize("lost", ["gradient_norm", "sam_sharpness"])
def test_records_without_a_part_of_the_bound_say_so(lost):
    runs = bounded_runs().drop(columns=lost)
    assert bound_table(runs, "dropout").to_numpy().tolist() == [["not measured in these runs"]]
    assert set(bound_texts(runs).values()) == {"not measured in these runs"}
