"""Configurations as a record holds them, checked and named a whole record at a time.

A sweep repeats each of its settings for many seeds. What goes with the seed is checked once, not once a seed.
"""

import functools
import hashlib
from typing import Any

import orjson

from flatlib._validation import LARGEST_SEED
from flatlib.config import RunConfig
from flatlib.errors import FlatlibError


def recorded_run_id(values: dict[str, Any]) -> str:
    """The `run_id` of the configuration that a record line holds: that of `RunConfig.from_json`, which takes five times
    as long.

    Raises:
        FlatlibError: what `RunConfig.from_json` raises.
    """
    seed = values.get("seed")
    if type(seed) is not int or not 0 <= seed <= LARGEST_SEED:
        return RunConfig.from_json(values).run_id
    # Text, because as keys 1, 1.0 and True are the same, and as settings they are not.
    try:
        before, after = _around_seed(orjson.dumps({**values, "seed": 1}))
    except FlatlibError:
        return RunConfig.from_json(values).run_id  # raises again, in the words of what was given
    canonical = f'{before}"seed":{seed},{after}' if seed else before + after
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


@functools.lru_cache(maxsize=10_000)
def _around_seed(config: bytes) -> tuple[str, str]:
    """The canonical JSON of a configuration with seed 1, before and after its seed. Inside a text a quotation mark is
    escaped, and the version comes last: the seed stands there once, with a comma."""
    before, _, after = RunConfig.from_json(orjson.loads(config)).canonical.partition('"seed":1,')
    return before, after
