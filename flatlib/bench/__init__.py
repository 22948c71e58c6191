"""Benchmarks against the libraries that measure the same: every figure is a ratio of timings taken in one run."""
