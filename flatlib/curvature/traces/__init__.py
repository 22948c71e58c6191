"""Trace of a curvature matrix: exact, or by Hutchinson's estimator."""
