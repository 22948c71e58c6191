"""The bound of Kaur et al. 2022, appendix A.1, on the published runs."""

import pandas as pd
import pytest

from flatlib.book.paths import find_root
from flatlib.claims.sam import sam_bound
from flatlib.errors import FlatlibError
from flatlib.runs import records

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
