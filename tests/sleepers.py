"""Runs that sleep, end their process or leave a note; torch is not imported before a run needs it.

They stand here since workers find this module: the folder of the tests is on the path that they inherit.
"""

import os
import time


def sleep(seconds: float, device: str, data: None) -> float:
    time.sleep(seconds)
    return seconds


def sleep_on(*_: object) -> None:
    time.sleep(1000)


def end(*_: object) -> None:
    os._exit(1)


def logged(config, device: str, data):
    """Leave a note before a run, and take at least a twentieth of a second."""
    from flatlib.runs.executors import run_one

    with open(os.environ["NOTES"], "a") as notes:
        notes.write(f"{config.run_id}\n")
    time.sleep(0.05)
    return run_one(config, device, data)
