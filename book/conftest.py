"""Notebooks under pytest: what nbval compares, and how closely."""

import re
from typing import Any

import pytest
from nbval.plugin import IPyNbCell, IPyNbFile

NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?|nan|inf")
compare_exactly = IPyNbCell.compare_outputs


def pytest_configure(config: pytest.Config) -> None:
    """Let ``--nbval`` compare every output, although ``pyproject.toml`` says ``--nbval-lax``."""
    if config.option.nbval:
        config.option.nbval_lax = False


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Compare the data of a figure, which its text has; its drawing depends on the version of Matplotlib."""
    if isinstance(collector, IPyNbFile):
        collector.skip_compare = (*collector.skip_compare, "image/svg+xml")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Compare every figure, also with ``--nbval-lax``, which compares the tagged cells."""
    for item in items:
        if isinstance(item, IPyNbCell) and "figure" in item.cell.metadata.get("mystnb", {}):
            item.options["check"] = "nbval-ignore-output" not in item.cell.metadata.get("tags", [])


def compare(cell: IPyNbCell, test: list[Any], ref: list[Any], skip_compare: tuple[str, ...] | None = None) -> bool:
    """Compare outputs exactly, but for the data of figures on pages that train while they are executed.

    Another version of torch trains a little differently there. The pages of claims read records.
    """
    trains = cell.path.parent.name != "claims"
    for ours, stored in zip(test, ref, strict=False):
        pair = [output.get("data", {}) for output in (ours, stored)]
        if all("Figure of " in data.get("text/plain", "") for data in pair):
            if trains and close(pair[0]["text/plain"], pair[1]["text/plain"]):
                pair[0]["text/plain"] = pair[1]["text/plain"]
            for data in pair:
                data.pop("text/html", None)  # a drawing as well
    return compare_exactly(cell, test, ref, skip_compare)


def close(text: str, stored: str) -> bool:
    """Return whether two texts agree but for numbers, and these to a hundredth.

    On a linear axis a thousandth of the largest number of the line is enough.
    """
    lines = text.split("\n"), stored.split("\n")
    return len(lines[0]) == len(lines[1]) and all(map(close_lines, *lines))


def close_lines(line: str, stored: str) -> bool:
    """Return whether two lines agree."""
    if NUMBER.sub("#", line) != NUMBER.sub("#", stored):
        return False
    numbers = [[float(number) for number in NUMBER.findall(text)] for text in (line, stored)]
    size = 0 if "(log)" in line else max(map(abs, numbers[1]), default=0)
    return numbers[0] == pytest.approx(numbers[1], rel=0.01, abs=max(0.001 * size, 1e-12), nan_ok=True)


IPyNbCell.compare_outputs = compare
