"""Scales: their order, and what becomes of verdicts from one to another."""

import pandas as pd

from flatlib.book import scales


def test_the_change_of_verdicts_counts_each_pair_once_and_only_what_was_tested_twice():
    pairs = {
        "a": ("supported", "supported"),
        "b": ("inconclusive", "contradicted"),
        "c": ("supported", "inconclusive"),
        "d": ("contradicted", "supported"),
        "e": ("inconclusive", "inconclusive"),
        "only small": (None, "supported"),
    }
    rows = [
        ("01_x", name, scale, verdict)
        for name, both in pairs.items()
        for scale, verdict in zip(("digits", "small"), both, strict=True)
        if verdict
    ]
    judged = pd.DataFrame(rows, columns=["chapter", "prediction", "scale", "verdict"])
    assert scales.change(judged, "digits", "small") == scales.Change(both=5, same=2, decided=1, lost=1, turned=1)
    assert scales.change(judged, "digits", "paper") == scales.Change(0, 0, 0, 0, 0)
