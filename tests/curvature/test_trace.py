"""Hutchinson's estimate of the trace."""

import torch

from flatlib.curvature import HessianOperator, trace


def test_standard_errors_cover_the_trace(quadratic):
    """Two standard errors hold the trace in about 95 of 100 seeds: here in at least 90 and at most 99 % of 100."""
    spectrum = torch.linspace(-1, 5, 12).tolist()
    operator = HessianOperator(*quadratic(spectrum))
    found = [trace(operator, probes=40, seed=seed) for seed in range(100)]
    covered = sum(abs(one.value - sum(spectrum)) <= 2 * one.standard_error for one in found) / 100
    assert 0.9 <= covered <= 0.99
    assert found[0].products == 40


def test_probes_force_an_estimate(small_case):
    found = trace(HessianOperator(small_case.model, "mse", small_case.data, parameters="3.*"), probes=10)
    assert (found.exact, found.products) == (False, 10)
