"""How long a run is: its updates and the products of its measures, known, recorded before, or guessed."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from statistics import median

from flatlib.config import RunConfig
from flatlib.runs.plan.stand_ins import Images
from flatlib.runs.records import Line
from flatlib.training.train import last_update

EXACT, RECORDED, GUESS = "exact", "recorded", "guess"
PRODUCTS = 10
"""With the Hessian, of a largest eigenvalue, where none is recorded: the committed records' medians are 6 to 14."""


@dataclass(frozen=True)
class Length:
    """Updates of a run and how they are known: ``exact`` by its settings, by ``recorded`` runs, or a ``guess``."""

    updates: int
    source: str


class History:
    """The recorded runs of a chapter, at every scale, as a source of what its next ones will take."""

    def __init__(self, lines: Iterable[Line]):
        self._runs = [(RunConfig.from_json(line["config"]), line) for line in lines]
        self._updates: dict[str, list[float]] = defaultdict(list)
        self._products: dict[str, list[float]] = defaultdict(list)
        for config, line in self._runs:
            self._updates[setting(config)] += _numbers([line["measures"].get("updates")])
            self._products[setting(config)] += _numbers(
                [line["measures"].get("lambda_max_products"), *line["trajectory"].get("lambda_max_products", [])]
            )

    def length(self, config: RunConfig, images: Images) -> Length:
        """The updates of a run on `images`, the part of the data set that is in use.

        The stop rules ``epochs`` and ``updates`` say it. Under the others it is the median of the runs recorded with
        other seeds; without any, that of the recorded runs nearest in learning rate and then in batch size, at
        whatever scale, so that learning rate times updates stays the same. Never more than the run's own limit.
        """
        batch = config.batch_size or images.train
        last = last_update(config, math.ceil(images.train / batch))
        if config.stop in ("epochs", "updates"):
            return Length(last, EXACT)
        known = self._updates.get(setting(config))
        if known:
            return Length(min(last, round(median(known))), RECORDED)
        return Length(min(last, round(self._guess(config, batch) or last)), GUESS)

    def _guess(self, config: RunConfig, batch: int) -> float | None:
        def distance(other: RunConfig) -> tuple[bool, float, float]:
            batches = math.log((other.batch_size or other.train_size or batch) / batch)
            rates = math.log(other.learning_rate / config.learning_rate)
            return other.optimizer != config.optimizer, abs(rates), abs(batches)

        ruled = [(other, line) for other, line in self._runs if other.stop == config.stop]
        nearest = min((distance(other) for other, _ in ruled), default=None)
        alike = [pair for pair in ruled if distance(pair[0]) == nearest]
        times = [
            updates * other.learning_rate
            for other, line in alike
            for updates in _numbers([line["measures"].get("updates")])
        ]
        return median(times) / config.learning_rate if times else None

    def products(self, config: RunConfig) -> float:
        """Products with the Hessian that one largest eigenvalue takes: the median of the recorded runs with these
        settings, else of the whole chapter, else `PRODUCTS`."""
        everything = [number for numbers in self._products.values() for number in numbers]
        known = self._products.get(setting(config)) or everything
        return median(known) if known else PRODUCTS


def setting(config: RunConfig) -> str:
    """A name for the settings of a run without its seed."""
    return replace(config, seed=0).run_id


def _numbers(values: Iterable[float | None]) -> Iterator[float]:
    return (value for value in values if value is not None)
