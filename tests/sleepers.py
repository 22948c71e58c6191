"""A run that only sleeps; it needs no torch, so that a worker starts at once."""

import time


def sleep(seconds: float, device: str, data: None) -> float:
    time.sleep(seconds)
    return seconds
