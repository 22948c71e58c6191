"""The six optimizers of Bejan et al. 2022, each alone and inside SAM, for the two chapters that train them."""

from dataclasses import replace
from typing import Any

from flatlib.config import RunConfig

RHO = 0.05  # the default of the SAM implementation that the paper uses; the text gives no radius
LEARNING_RATES = {  # section III.A: 0.1 for SGD and heavy ball, the defaults of the others; AdaShift's from their code
    **{"sgd": 0.1, "heavy_ball": 0.1, "adam": 0.001},
    **{"adagrad": 0.01, "adashift": 0.01, "adabound": 0.001},
}


def optimizer_grid(base: RunConfig, loss: str = "cross_entropy") -> list[RunConfig]:
    """Return twelve configurations: batches of 128 images with pixels in [0, 1], momentum 0.8 for heavy ball.

    Args:
        base: Everything else.
        loss: The training loss. The cross-entropy stops at 0.01; any other loss runs for all its epochs, because the
            cross-entropy, which the stop rule reads, need never fall to 0.01 then.
    """
    ending: dict[str, Any] = {"stop": "epochs"}
    if loss == "cross_entropy":
        ending = {"stop": "train_loss", "stop_value": 0.01}
    measures = ("performance", "lambda_max", "minimum_sharpness", "gradient_norm", "weight_norm")
    batch_size = min(128, base.train_size or 128)
    common = replace(base, loss=loss, **ending, standardize=False, batch_size=batch_size, measures=measures)
    return [
        replace(common, optimizer=name, learning_rate=rate, momentum=0.8 if name == "heavy_ball" else 0.0, sam_rho=rho)
        for name, rate in LEARNING_RATES.items()
        for rho in (0.0, RHO)
    ]
