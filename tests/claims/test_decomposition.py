"""What a change of sharpness is made of: factors that were put in, and those of the committed records."""

import numpy as np
import pandas as pd
import pytest

from flatlib.book.overview import read_records
from flatlib.book.paths import find_root
from flatlib.claims.decomposition import (
    AT_EQUAL_LOSS,
    INTERVENTIONS,
    decompose,
    decompositions,
    readable_decompositions,
    summands,
)
from flatlib.claims.regularisers import named
from flatlib.config import RunConfig, grid
from synthetic_runs import SEEDS, noise, runs_of

SAM = next(each for each in INTERVENTIONS if each.chapter == "03_sam")


def sam_runs(model: str, **columns) -> pd.DataFrame:
    """SAM makes the loss four times as large, the weights half as long, and the rest an eighth."""

    def measures(config):
        inside = config.sam_rho > 0
        loss, length, rest = 0.01 * 4.0**inside, 10 * 0.5**inside, 8.0 ** -float(inside)
        scale = length**-2 if model.endswith("_bn") else 1.0
        sharpness = loss * scale * rest / config.learning_rate**2 * noise(config.seed)
        return {"lambda_max": sharpness, "train_loss": loss, "weight_norm": length}

    axes = {"learning_rate": [0.05, 0.1], "sam_rho": [0.0, 0.2]}
    return runs_of(grid(RunConfig(model=model), **axes, seed=SEEDS), measures).assign(**columns)


@pytest.mark.parametrize(("model", "scale"), [("small_cnn_bn", 2), ("small_cnn", None)])
def test_factors_are_found_and_add_up(model, scale):
    found = {part: it.estimate for part, it in decompose(SAM, sam_runs(model)).items()}
    assert found.pop("loss") == pytest.approx(2)
    assert found.pop("rest") == pytest.approx(-3)
    assert found.pop("scale", None) == (scale if scale is None else pytest.approx(scale))
    assert found.pop("sharpness") == pytest.approx(-1 + (scale or 0))
    assert found == ({} if scale is None else {"scale_free": pytest.approx(-1)})


def test_weights_have_no_scale_unless_all_networks_have_batch_norm():
    mixed = pd.concat([sam_runs("small_cnn_bn"), sam_runs("small_cnn")], ignore_index=True)
    assert "scale" not in decompose(SAM, mixed)


def test_moments_are_kept_apart():
    runs = sam_runs("small_cnn")
    names = ("lambda_max", "train_loss", "weight_norm")
    equal = runs.assign(**{f"{name}_at_loss": runs[name] for name in names}).assign(train_loss_at_loss=0.15)
    found = decompositions({("03_sam", "small"): equal, ("03_sam", "paper"): runs, ("04_dropout", "small"): runs})
    estimates = found.set_index(["scale", "when", "part"])["estimate"]
    assert estimates["small", "equal loss", "loss"] == 0
    assert estimates["small", "equal loss", "rest"] == pytest.approx(-1)
    assert estimates["small", "end", "rest"] == pytest.approx(-3)
    assert "equal loss" not in estimates["paper"].index.get_level_values("when")
    assert set(found["intervention"]) == {"SAM"}, "no dropout was changed"
    shown = readable_decompositions(found)
    assert shown[["scale", "when"]].to_numpy().tolist() == [["small", "end"], ["small", "equal loss"], ["paper", "end"]]
    assert shown["training loss"].tolist() == ["2, all 5 seeds", "0, all 5 seeds", "2, all 5 seeds"]
    drawn = summands(found, "small")
    assert drawn["part"].tolist() == ["λ_max", "training loss", "the rest", AT_EQUAL_LOSS]
    assert drawn["row"].tolist() == ["SAM"] * 4


def test_committed_records_are_decomposed():
    """Recomputed from the records with logarithms and means alone."""
    tables = read_records(find_root())
    for chapter, strong, weak, scale in (
        ("06_weight_decay", "weight_decay == weight_decay.max()", "weight_decay == 0", False),
        ("11_regularisers", "mixup == mixup.max()", "regulariser == 'none'", True),
    ):
        runs = tables[chapter, "small"].dropna(subset=["lambda_max"])
        runs = named(runs) if scale else runs
        one = next(each for each in INTERVENTIONS if each.chapter == chapter and each.name in ("weight decay", "mixup"))
        found = decompose(one, runs)
        for part, column, power in (
            ("sharpness", "lambda_max", 1),
            ("loss", "train_loss", 1),
            ("scale", "weight_norm", -2),
        ):
            high, low = (np.log2(runs.query(which)[column].astype(float)).mean() for which in (strong, weak))
            if part != "scale" or scale:
                assert found[part].estimate == pytest.approx(power * (high - low))
        parts = [it.estimate for part, it in found.items() if part in ("loss", "scale", "rest")]
        assert sum(parts) == pytest.approx(found["sharpness"].estimate)


def test_every_intervention_has_runs():
    found = decompositions(read_records(find_root()))
    assert set(found["intervention"]) == {each.name for each in INTERVENTIONS}
    assert len({each.name for each in INTERVENTIONS}) == len(INTERVENTIONS)
    assert np.isfinite(found["estimate"]).all()
