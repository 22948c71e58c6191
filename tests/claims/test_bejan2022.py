"""The twelve trainings of Bejan et al. 2022, as their text and their code have them."""

import pytest

from flatlib.claims.bejan2022 import optimizer_grid
from flatlib.config import RunConfig
from flatlib.names import OPTIMIZERS

RATES = {"sgd": 0.1, "heavy_ball": 0.1, "adam": 0.001, "adagrad": 0.01, "adashift": 0.01, "adabound": 0.001}


@pytest.mark.parametrize("loss", ["cross_entropy", "batch_softmax"])
def test_six_optimizers_alone_and_inside_sam(loss):
    configs = optimizer_grid(RunConfig(model="bejan_simple", width=0.5, seed=3, train_size=500), loss)
    assert [(c.optimizer, c.sam_rho) for c in configs] == [(name, rho) for name in RATES for rho in (0.0, 0.05)]
    assert len({c.run_id for c in configs}) == 12
    assert set(RATES) < set(OPTIMIZERS)
    for config in configs:
        assert config.learning_rate == RATES[config.optimizer]
        assert config.momentum == (0.8 if config.optimizer == "heavy_ball" else 0)
        assert (config.loss, config.standardize, config.batch_size) == (loss, False, 128)
        assert config.weight_decay == 0
        assert {"performance", "minimum_sharpness"} < set(config.measures)
        assert (config.model, config.width, config.seed, config.train_size) == ("bejan_simple", 0.5, 3, 500)


@pytest.mark.parametrize(("train_size", "batch_size"), [(None, 128), (128, 128), (100, 100)])
def test_batch_is_at_most_all_images(train_size, batch_size):
    assert {c.batch_size for c in optimizer_grid(RunConfig(train_size=train_size, batch_size=1))} == {batch_size}


def test_text_and_code_differ_in_loss():
    stated, coded = (optimizer_grid(RunConfig(), loss) for loss in ("cross_entropy", "batch_softmax"))
    for one, other in zip(stated, coded, strict=True):
        differing = {name for name, value in one.to_json().items() if value != other.to_json()[name]}
        assert differing == {"loss", "stop", "stop_value"}
        assert (one.stop, one.stop_value, other.stop) == ("train_loss", 0.01, "epochs")
    assert optimizer_grid(RunConfig()) == stated
