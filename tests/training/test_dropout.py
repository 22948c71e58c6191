"""Dropout: where it is, that a seed decides what it drops, and that it leaves no trace outside the run."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from flatlib.config import RunConfig
from flatlib.device import seeded
from flatlib.training.models import build
from flatlib.training.train import DROPOUT, train

CIFAR = (3, 32, 32)
TINY = RunConfig(width=0.2, dropout=0.3, train_size=200, test_size=100, max_epochs=3, stop="epochs")


def weights(config: RunConfig) -> torch.Tensor:
    return nn.utils.parameters_to_vector(train(config, device="cpu").model.parameters()).detach()


@pytest.mark.parametrize("model", ["mlp", "vgg11", "vgg11_bn", "vgg16", "vgg16_bn"])
def test_every_hidden_linear_layer_has_dropout_after_its_activation(model):
    network = build(RunConfig(model=model, width=0.1, dropout=0.3), CIFAR, 10)
    kinds = [type(layer) for layer in network if not isinstance(layer, nn.Sequential)]
    hidden = [nn.Linear, nn.ReLU, nn.Dropout]
    assert kinds == [nn.Flatten, *hidden, *hidden, nn.Linear]
    assert {layer.p for layer in network if isinstance(layer, nn.Dropout)} == {0.3}


@pytest.mark.parametrize("model", ["mlp", "vgg11"])
def test_the_start_does_not_depend_on_dropout_and_without_it_there_is_none(model):
    config = RunConfig(model=model, width=0.1)
    plain, dropping = build(config, CIFAR, 10), build(replace(config, dropout=0.5), CIFAR, 10)
    assert not any(isinstance(layer, nn.Dropout) for layer in plain.modules())
    for p, q in zip(plain.parameters(), dropping.parameters(), strict=True):
        assert torch.equal(p, q)
    x = torch.randn(2, *CIFAR, generator=torch.Generator().manual_seed(0))
    assert torch.equal(plain.eval()(x), dropping.eval()(x))
    with seeded(0, torch.device("cpu")):
        assert not torch.equal(plain.train()(x), dropping.train()(x))


def test_the_same_bits_every_time_and_the_global_state_as_it_was():
    results = []
    for outside in (1, 2):
        torch.manual_seed(outside)
        before = torch.get_rng_state()
        results.append(weights(TINY))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*results)
    assert not torch.equal(results[0], weights(replace(TINY, dropout=0.0)))


def test_a_plain_loop_gives_the_same_weights():
    trained = train(TINY, device="cpu")
    data, model = trained.data, build(TINY, (1, 8, 8), 10).train()
    order = torch.Generator().manual_seed(TINY.seed + 0x5EED)
    optimizer = torch.optim.SGD(model.parameters(), lr=TINY.learning_rate)
    with seeded(TINY.seed + DROPOUT, torch.device("cpu")):
        for _ in range(TINY.max_epochs):
            for batch in torch.randperm(200, generator=order).split(TINY.batch_size):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(data.x_train[batch]), data.y_train[batch]).backward()
                optimizer.step()
    for p, q in zip(model.parameters(), trained.model.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_measures_along_the_run_do_not_change_what_is_dropped():
    """Not even the one that takes a training step of its own, which is the same every time."""
    tracked = replace(TINY, track=("train_loss", "lambda_max", "between_iterates"), track_every=5, measure_size=20)
    assert torch.equal(weights(tracked), weights(TINY))
    first, second = (train(tracked, device="cpu").trajectory for _ in range(2))
    assert first == second


def test_the_seed_decides_what_is_dropped():
    """Not the order of the images, which a full batch does not have, nor the start, which is the same network."""
    steps = []
    for seed in (0, 0, 1):
        network = build(TINY, (1, 8, 8), 10)
        with seeded(seed, torch.device("cpu")):
            steps.append(network(torch.ones(4, 1, 8, 8)))
    assert torch.equal(steps[0], steps[1])
    assert not torch.equal(steps[0], steps[2])


def fails() -> None:
    with seeded(3, torch.device("cpu")):
        torch.rand(5)
        raise KeyError


def test_the_global_state_comes_back_after_an_error():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with pytest.raises(KeyError):
        fails()
    assert torch.equal(torch.get_rng_state(), before)
