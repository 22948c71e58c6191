"""Hessian, Gauss-Newton and Fisher operators of an empirical risk."""
