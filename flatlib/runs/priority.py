"""Order of the missing runs: complete seeds first, because statistics pair the settings of a seed; failed runs last."""

import json
from collections import Counter
from collections.abc import Container, Iterable
from pathlib import Path

from flatlib.config import RunConfig
from flatlib.runs.records import failures


def complete_seeds_first(missing: Iterable[RunConfig], last: Container[str] = ()) -> list[RunConfig]:
    """Return runs seed by seed, the seed that lacks the fewest runs first; otherwise in the order given.

    Many short sweeps complete one seed after another this way. Results do not depend on the order.

    Args:
        missing: The runs.
        last: The run_ids that come after all others.

    >>> from flatlib.config import grid
    >>> [(c.learning_rate, c.seed) for c in complete_seeds_first(grid(RunConfig(), learning_rate=[1, 2], seed=[7, 8]))]
    [(1.0, 7), (2.0, 7), (1.0, 8), (2.0, 8)]
    """
    missing = list(missing)
    lacking = Counter(config.seed for config in missing)
    place = {seed: number for number, seed in enumerate(lacking)}  # a counter keeps the order of first appearance
    return sorted(missing, key=lambda config: (config.run_id in last, lacking[config.seed], place[config.seed]))


def previously_failed(record: Path, time_limit: float | None) -> set[str]:
    """Return the run_ids that failed before, or were cancelled after at least as long as there is now.

    Trained first, they would take the time of every sweep from the runs that can be done in it.

    Args:
        record: The record; failures are listed beside it.
        time_limit: Seconds there are now; None for no limit.
    """
    found = set()
    path = failures(record)
    for content in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            line = json.loads(content)
            seconds = line.get("seconds")
            if seconds is None or (time_limit is not None and seconds >= time_limit):
                found.add(line["run_id"])
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # torn by a crash, or edited: it is no result, and only the order depends on it
    return found
