"""Callbacks that measure a network while Lightning or transformers' Trainer trains it, through a `Tracker`.

Neither package is imported before its callback is made: the base class of the callback comes from it.
"""

import importlib
from collections.abc import Callable
from typing import Any

import pandas as pd
from torch import nn
from torch.optim import Optimizer

from flatlib.curvature.operators.empirical_risk import Loss
from flatlib.curvature.operators.examples import Data
from flatlib.errors import FlatlibError
from flatlib.measures.performance import Numbers
from flatlib.measures.tracker import Tracker

__all__ = ["lightning_callback", "trainer_callback"]

LIGHTNING = ("lightning.pytorch", "pytorch_lightning")  # names of the same package
PREFIX = "flatlib/"  # of the names in a logger


class PeriodicTracker:
    """A `Tracker` that looks every so many updates; what both callbacks do.

    Args:
        loss: A name or a callable, as for `HessianOperator`.
        data: (inputs, targets) or an iterable of batches, which is read at the start of the training.
        every: Updates between two looks; the first is before the training.
        network: Returns the network to measure from what is trained; by default that itself.
        options: Further arguments of `Tracker`.
    """

    def __init__(
        self, loss: Loss, data: Data, every: int, network: Callable[[Any], nn.Module] | None, options: dict[str, Any]
    ):
        if not isinstance(every, int) or every < 1:
            raise FlatlibError(f"every={every} is not a positive number of updates")
        self._arguments, self._every, self._options = (loss, data), every, options
        self._network = network or (lambda trained: trained)
        self._tracker: Tracker | None = None
        self._last = -1

    def start(self, trained: Any, optimizer: Optimizer | None) -> None:
        """Make the tracker; its eigenvectors and its table start afresh."""
        self._tracker = Tracker(self._network(trained), *self._arguments, optimizer=optimizer, **self._options)
        self._last = -1

    def look(self, update: int) -> Numbers | None:
        """Measure after this update if it is one of the requested ones and has not been measured yet."""
        if self._tracker is None or update % self._every or update == self._last:
            return None
        self._last = update
        return self._tracker.look(update)

    def table(self) -> pd.DataFrame:
        """Return one row for each look, as `Tracker.table`; empty before the training."""
        return pd.DataFrame() if self._tracker is None else self._tracker.table()


def lightning_callback(
    loss: Loss, data: Data, *, every: int = 100, network: Callable[[Any], nn.Module] | None = None, **options: Any
) -> Any:
    """Return a callback for Lightning's `Trainer(callbacks=[...])`.

    It looks before the training and after every so many updates, on the first process only. The numbers go to the
    loggers of the trainer, as ``flatlib/lambda_max`` and so on, and into ``callback.table()``. The optimizer is passed
    to the tracker where there is one only. Training is not affected, as with any `Tracker`.

    >>> import torch
    >>> batch = torch.randn(20, 4), torch.arange(20) % 3
    >>> callback = lightning_callback("cross_entropy", batch, every=50, above="stability")  # doctest: +SKIP
    >>> Trainer(callbacks=[callback]).fit(module, loader); callback.table()  # doctest: +SKIP

    Args:
        loss: A name or a callable, as for `HessianOperator`.
        data: (inputs, targets) or an iterable of batches, such as a ``DataLoader``; read at the start of the training.
        every: Updates (``trainer.global_step``) between two looks.
        network: Returns the network that maps these inputs to outputs from the ``LightningModule``, such as
            ``lambda module: module.net``; by default the module itself.
        **options: Further arguments of `Tracker`: ``measures``, ``above``, ``batch_norm``, ``tolerance`` and so on.

    Raises:
        FlatlibError: If Lightning is not installed, ``every`` is below 1, or the tracker refuses.
    """
    tracking = PeriodicTracker(loss, data, every, network, options)

    class CurvatureCallback(_module(*LIGHTNING).Callback):  # type: ignore[misc]
        table = staticmethod(tracking.table)

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.is_global_zero:
                optimizers = trainer.optimizers
                tracking.start(pl_module, optimizers[0] if len(optimizers) == 1 else None)
            self._look(trainer)

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            self._look(trainer)

        def _look(self, trainer: Any) -> None:
            numbers = tracking.look(trainer.global_step) if trainer.is_global_zero else None
            if numbers:
                for logger in trainer.loggers:
                    logger.log_metrics(_loggable(numbers), step=trainer.global_step)

    return CurvatureCallback()


def trainer_callback(
    loss: Loss, data: Data, *, every: int = 100, network: Callable[[Any], nn.Module] | None = None, **options: Any
) -> Any:
    """Return a callback for the `Trainer(callbacks=[...])` of transformers.

    It looks before the training and after every so many updates, on the first process only. The numbers go into
    ``trainer.state.log_history``, as ``flatlib/lambda_max`` and so on, and into ``callback.table()``. Training is not
    affected, as with any `Tracker`.

    >>> import torch.nn.functional as F
    >>> def loss(output, labels):  # models of transformers return objects
    ...     return F.cross_entropy(output.logits, labels)
    >>> callback = trainer_callback(loss, (input_ids, labels), every=50)  # doctest: +SKIP
    >>> Trainer(model, arguments, train_dataset=data, callbacks=[callback]).train()  # doctest: +SKIP

    Args:
        loss: A name or a callable, as for `HessianOperator`; called with what the network returns.
        data: (inputs, targets) or an iterable of batches, read at the start of the training; ``from_dict_batches``
            makes them of dictionaries.
        every: Updates (``state.global_step``) between two looks.
        network: Returns the network that maps these inputs to outputs from the model; by default the model itself.
        **options: Further arguments of `Tracker`: ``measures``, ``above``, ``batch_norm``, ``tolerance`` and so on.

    Raises:
        FlatlibError: If transformers is not installed, ``every`` is below 1, or the tracker refuses.
    """
    tracking = PeriodicTracker(loss, data, every, network, options)

    class CurvatureCallback(_module("transformers").TrainerCallback):  # type: ignore[misc]
        table = staticmethod(tracking.table)

        def on_train_begin(self, args: Any, state: Any, control: Any, **context: Any) -> None:
            if state.is_world_process_zero:
                tracking.start(context["model"], _optimizer(context.get("optimizer")))
            self._look(state)

        def on_step_end(self, args: Any, state: Any, control: Any, **context: Any) -> None:
            self._look(state)

        def _look(self, state: Any) -> None:
            numbers = tracking.look(state.global_step) if state.is_world_process_zero else None
            if numbers:
                state.log_history.append(_loggable(numbers) | {"step": state.global_step})

    return CurvatureCallback()


def _module(*names: str) -> Any:
    """Import the first of these packages that is installed."""
    for name in names:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if not name.startswith(error.name or " "):  # installed, but something that it needs is not
                raise
    raise FlatlibError(f"{names[0]} is not installed: its callbacks need it")


def _optimizer(optimizer: Any) -> Any:
    """Return the PyTorch optimizer inside a wrapper, as accelerate's."""
    return getattr(optimizer, "optimizer", optimizer)


def _loggable(numbers: Numbers) -> dict[str, float]:
    """Return the numbers that have a value, with the prefix of their names."""
    return {
        f"{PREFIX}{name}": float(value) for name, value in numbers.items() if value is not None and name != "update"
    }
