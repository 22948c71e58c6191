"""Whether the packages are there that training wants: far fewer than those of the whole book."""

import importlib.metadata
import importlib.util
import re
from collections.abc import Callable, Iterable

from flatlib.config import RunConfig
from flatlib.errors import FlatlibError

TORCH = (2, 11)
"""The oldest version whose switches for precision are used here, as in pyproject.toml."""
ALWAYS = ("torch", "numpy", "pandas", "scipy", "tqdm", "psutil", "filelock", "orjson")
SOMETIMES: dict[str, Callable[[RunConfig], bool]] = {
    "torchvision": lambda config: config.model.startswith(("vgg", "resnet")),
    "pytorch_optimizer": lambda config: config.optimizer in ("adashift", "adabound"),
    "pyhessian": lambda config: config.engine == "pyhessian",
    "sklearn": lambda config: config.dataset == "digits",
}
INSTALLED_AS = {"pytorch_optimizer": "pytorch-optimizer", "pyhessian": "PyHessian", "sklearn": "scikit-learn"}


def require_packages(configs: Iterable[RunConfig]) -> None:
    """Raise a `FlatlibError` that names every package which training these runs wants and which is not installed."""
    configs = list(configs)
    wanted = [*ALWAYS, *(name for name, wants in SOMETIMES.items() if any(map(wants, configs)))]
    absent = [INSTALLED_AS.get(name, name) for name in wanted if importlib.util.find_spec(name) is None]
    if absent:
        raise FlatlibError(f"training wants packages that are not installed here: {', '.join(absent)}")
    version = importlib.metadata.version("torch")
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < TORCH:
        raise FlatlibError(f"torch {version} is too old, at least {'.'.join(map(str, TORCH))} is wanted")
