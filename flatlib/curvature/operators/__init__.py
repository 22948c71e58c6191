"""Hessian and Gauss-Newton operators of an empirical risk."""
