"""Eigenvalues, spectral density and norms of an operator."""
