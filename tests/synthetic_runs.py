"""Tables of runs that nobody trained, as a record would hold them, for the tests of the claims."""

import numpy as np
import pandas as pd
import pytest

from flatlib.claims import Claim, claim_verdict
from flatlib.config import RunConfig
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
    verdicts = claim.verdicts(runs)
    return dict(zip(verdicts["prediction"], verdicts["verdict"], strict=True))


def numbers(claim: Claim, runs: pd.DataFrame) -> dict[str, float]:
    """The estimate of each prediction."""
    verdicts = claim.verdicts(runs)
    return dict(zip(verdicts["prediction"], verdicts["estimate"], strict=True))


def check_open(claim: Claim, runs: pd.DataFrame, mute: set[str]) -> None:
    """On these predictions no seed has an answer, and they are open; the others are supported as if nothing were
    missing."""
    verdicts = claim.verdicts(runs).set_index("prediction")
    assert set(verdicts.index[verdicts["n"] == 0]) == mute
    assert set(verdicts.loc[list(mute), "verdict"]) <= {"inconclusive"}
    assert set(verdicts["verdict"].drop(list(mute))) <= {"supported"}


def check_both_ways(claim: Claim, make, supporting: dict[str, float], contradicting: dict[str, float]) -> None:
    """`make(True)` supports every prediction and `make(False)` contradicts it, at these estimates, in any order."""
    for holds, word, expected in ((True, "supported", supporting), (False, "contradicted", contradicting)):
        runs = make(holds)
        verdicts = claim.verdicts(runs).set_index("prediction")
        assert verdicts["verdict"].to_dict() == {prediction.name: word for prediction in claim.predictions}
        assert verdicts["estimate"].to_dict() == pytest.approx(expected, rel=1e-6, abs=1e-9)
        assert (verdicts["n"] == 5).all()
        assert not verdicts["n_missing"].any()
        assert claim_verdict(verdicts) == word
        shuffled = claim.verdicts(runs.sample(frac=1, random_state=0)).set_index("prediction")
        pd.testing.assert_frame_equal(verdicts, shuffled)


def check_left_out(claim: Claim, runs: pd.DataFrame, setting: str) -> None:
    """A setting that one seed did not train to the stop rule is left out, as a whole and alone."""
    missed = numbers(claim, without(runs, f"{setting} and seed == 2"))
    assert missed == pytest.approx(numbers(claim, runs.query(f"not ({setting})")), nan_ok=True)
    assert sum(np.isfinite(number) for number in missed.values()) >= len(missed) - 1
