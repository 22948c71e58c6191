"""Train networks, measure the curvature of their loss, and test claims about flat minima.

Read the rooms in this order; an import only ever points from a later room to an earlier one:

    errors, losses, config, device, stats   the ground: settings, statistics
    curvature                               Hessian operators, their spectrum and trace
    sharpness                               the papers' sharpness measures, Jacobian norms, margins, landscapes
    measures                                a name -> numbers of a network, each with its error
    training                                a `RunConfig` -> a trained network
    runs                                    a `RunConfig` -> one line of a record
    figures                                 tables -> axes
    claims                                  an experiment and its predictions -> verdicts
    book                                    chapters executed, judged, rendered
    bench                                   timings and failure modes beside other libraries
    cli                                     the commands
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flatlib.config import RunConfig, grid
    from flatlib.curvature import GaussNewtonOperator, HessianOperator, top_eigenvalues, trace
    from flatlib.measures.tracker import Tracker
    from flatlib.training.train import train

__version__ = "0.1.0"
__all__ = ["GaussNewtonOperator", "HessianOperator", "RunConfig", "Tracker"]
__all__ += ["grid", "top_eigenvalues", "trace", "train"]

_HOMES = {
    **dict.fromkeys(("GaussNewtonOperator", "HessianOperator", "top_eigenvalues", "trace"), "curvature"),
    **{"Tracker": "measures.tracker", "RunConfig": "config", "grid": "config", "train": "training.train"},
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `flatlib --help` must not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'flatlib' has no attribute {name!r}")
    return getattr(importlib.import_module(f"flatlib.{_HOMES[name]}"), name)
