"""Networks that are measured: image classifiers and a language model, at initialization and trained."""

import fnmatch
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn

from flatlib.bench.language_model import language_model
from flatlib.config import RunConfig
from flatlib.curvature import HessianOperator
from flatlib.device import resolve
from flatlib.errors import FlatlibError
from flatlib.training.data import load
from flatlib.training.models import build
from flatlib.training.train import TrainedRun, next_iterate, train

# A trained network's training stops at an accuracy of 0.99.
TRAINING = RunConfig(learning_rate=0.05, max_epochs=20, seed=1, measures=("train_loss",))
NETWORKS = {  # model and width by name
    "mlp/10": ("mlp", 0.1),
    "mlp": ("mlp", 1.0),
    "small_cnn": ("small_cnn", 1.0),
    "vgg11": ("vgg11", 0.125),
    "vgg11_bn": ("vgg11_bn", 0.125),
}
IMAGE_NAMES = (  # network, state, training images, and the mode of batch norm where it is not "eval"
    "mlp/10 trained 1000",
    *("mlp init 1000", "mlp init 5000", "mlp trained 1000", "mlp trained 5000"),
    *("small_cnn init 1000", "small_cnn trained 1000", "small_cnn trained 5000"),
    *("vgg11 init 1000", "vgg11 trained 1000", "vgg11 trained 5000"),
    *("vgg11_bn init 1000", "vgg11_bn trained 1000", "vgg11_bn trained 1000 train-mode"),
)
NAMES = (*IMAGE_NAMES, "gpt init 1000", "gpt trained 1000")  # the last two: sums


@dataclass(frozen=True)
class Problem:
    """Hessian to measure: of the mean loss over all batches.

    Attributes:
        name: Network, state and number of images.
        model: Network.
        batches: (inputs, targets) to measure it on.
        batch_norm: Mode of batch norm, as for `HessianOperator`.
        loss: Loss that averages over examples.
        test: Images and labels to evaluate the network on, for the measures that do.
        after: Returns the network after one more step of its training; None without training.
    """

    name: str
    model: nn.Module
    batches: list[tuple[Tensor, Tensor]]
    batch_norm: str = "eval"
    loss: nn.Module = field(default_factory=nn.CrossEntropyLoss)
    test: tuple[Tensor, Tensor] | None = None
    after: Callable[[], nn.Module] | None = None

    def hessian(self, dtype: torch.dtype | None = None) -> HessianOperator:
        """Return flatlib's Hessian operator."""
        return HessianOperator(self.model, self.loss, self.batches, batch_norm=self.batch_norm, dtype=dtype)

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.model.parameters()).device


def select_names(patterns: str, names: tuple[str, ...] = NAMES) -> list[str]:
    """Return the names that match one of the comma-separated shell patterns."""
    found = [name for name in names if any(fnmatch.fnmatchcase(name, p.strip()) for p in patterns.split(","))]
    if not found:
        raise FlatlibError(f"--cases {patterns!r} matches none of: {', '.join(names)}")
    return found


def problems(names: list[str], dataset: str, device: str) -> Iterator[Problem]:
    """Yield one problem after another; those that share a trained network train it once."""
    place, trained = resolve(device), dict[str, TrainedRun]()
    for name in names:
        network_name, state, images, *mode = name.split()
        if network_name == "gpt":
            language, sums = language_model(state == "trained", int(images), place)
            yield Problem(name, language, [sums])
            continue
        model, width = NETWORKS[network_name]
        config = replace(TRAINING, dataset=dataset, model=model, width=width, train_size=int(images))
        if state == "init":
            split = load(config, place)
            network, after = build(config, split.image_shape, split.classes).to(place), None
        else:
            if config.run_id not in trained:
                trained[config.run_id] = train(config, device=device)
            run = trained[config.run_id]
            network, split, after = run.model, run.data, partial(next_iterate, run)
        train_images, test_images = [(split.x_train, split.y_train)], (split.x_test, split.y_test)
        yield Problem(name, network, train_images, "train" if mode else "eval", test=test_images, after=after)
