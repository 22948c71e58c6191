"""Claim 3: SAM lowers lambda_max at every batch size, and helps only at a small one.

Kaur, Cohen, Lipton 2022, section 3.3. "Small" and "large" are the smallest and the largest batch among the runs; rho
is SAM's radius, 0 is plain SGD. Only runs at the same learning rate are compared.
"""

from types import SimpleNamespace

from flatlib.claims.prediction import Claim, Prediction, above, below
from flatlib.claims.settings import OTHER_SHARPNESS, kaur2022_config, with_own_images
from flatlib.claims.study import Study
from flatlib.config import RunConfig, grid

SAM = Study(settings=("batch_size", "learning_rate", "sam_rho"), blocks=("learning_rate",))
SMALL, LARGE = SAM.at("small"), SAM.at("large")
GAIN = ("test_accuracy", "sam_rho > 0", "sam_rho == 0")


def experiment(p: SimpleNamespace) -> list[RunConfig]:
    """Return the runs: batch size x learning rate x SAM's radius x seed, otherwise plain SGD to 99 % accuracy."""
    base = kaur2022_config(p, *OTHER_SHARPNESS)
    runs = grid(base, batch_size=p.batch_sizes, learning_rate=p.learning_rates, sam_rho=p.rhos, seed=p.seeds)
    return with_own_images(p, runs)


CLAIM = Claim(
    chapter="03_sam",
    intervention="SAM",
    sentence=(
        "Sharpness-aware minimization finds smaller λ_max at every batch size, but it generalizes better only when the "
        "batch is small."
    ),
    source="Kaur, Cohen, Lipton 2022, section 3.3, Figures 6 and 7",
    experiment=experiment,
    predictions=(
        Prediction(
            "sharpness (small batch)",
            "At the small batch, λ_max falls with the radius ρ.",
            SMALL.kendall("sam_rho", "lambda_max"),
            below(-0.3),
            "λ_max falls (Figures 6, 7)",
        ),
        Prediction(
            "sharpness (large batch)",
            "At the large batch, λ_max falls with ρ as well.",
            LARGE.kendall("sam_rho", "lambda_max"),
            below(-0.3),
            "λ_max falls (Figures 6, 7)",
        ),
        Prediction(
            "accuracy (small batch)",
            "At the small batch, SAM improves the test accuracy.",
            SMALL.difference(*GAIN),
            above(0),
            "accuracy rises with ρ (Figures 6, 7)",
        ),
        Prediction(
            "accuracy (large batch)",
            "At the large batch it does not: by less than half a point.",
            LARGE.difference(*GAIN),
            below(0.5),
            "accuracy falls slightly (Figure 6)",
        ),
        Prediction(
            "contrast",
            "SAM helps more at the small batch than at the large one.",
            SMALL.difference(*GAIN) - LARGE.difference(*GAIN),
            above(0),
            "the benefit vanishes at the large batch (section 3.3)",
        ),
    ),
)
