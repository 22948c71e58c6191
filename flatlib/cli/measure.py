"""`flatlib measure`: a table of measures of a network of the user's own."""

import argparse
import json
from pathlib import Path
from typing import Any

from flatlib.errors import FlatlibError


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    own = commands.add_parser("measure", help="measure a network of your own")
    own.add_argument("target", metavar="FILE.py:FUNCTION", help="a function of yours that returns (model, data)")
    own.add_argument(
        "--measures",
        nargs="+",
        default=["lambda_max", "lambda_min", "trace"],
        metavar="NAME",
        help="names with spaces or commas between them, or all; stands after FILE.py:FUNCTION (default lambda_max "
        "lambda_min trace)",
    )
    own.add_argument("--loss", default="cross_entropy", help="cross_entropy (default) or mse")
    own.add_argument("--batch-norm", default="eval", help="eval (default), train or recalibrated")
    own.add_argument("--batch-size", type=int, default=32, help="of the training, for batch_sharpness (default 32)")
    own.add_argument("--examples", type=int, help="only the first so many examples (default all)")
    own.add_argument("--dtype", choices=["float32", "float64"], help="measure a copy cast to it (default as it is)")
    own.add_argument("--tolerance", type=float, default=1e-3, help="of eigenvalues' residuals (default 1e-3)")
    own.add_argument("--seed", type=int, default=0)
    own.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    own.add_argument("--output", type=Path, help="JSON file to write")
    own.set_defaults(command=measure_user_model)


def measure_user_model(options: argparse.Namespace) -> int:
    """Run `flatlib measure`: print a table; write the same numbers, and what they are of, to a JSON file."""
    import torch

    from flatlib.cli.user_model import MEASURABLE, SETTINGS, described, examples, load, measured
    from flatlib.device import resolve
    from flatlib.measures import Checkpoint

    device = resolve(options.device)
    names = [name.strip() for name in ",".join(options.measures).split(",") if name.strip()]
    if options.examples is not None and options.examples < 1:
        raise FlatlibError(f"--examples: at least 1, got {options.examples}")
    model, data = load(options.target)
    dtype = getattr(torch, options.dtype) if options.dtype else None
    model = model.to(device, dtype)
    x, y = (t.to(dtype) if dtype and t.is_floating_point() else t for t in examples(data, options.examples, device))
    settings = {name: getattr(options, name) for name in SETTINGS}
    checkpoint = Checkpoint(model=model, examples=(x, y), train=(x, y), **settings)
    table, about = measured(MEASURABLE if names == ["all"] else names, checkpoint), described(checkpoint, device)
    print(table.to_string(na_rep="", float_format="{:.4g}".format))
    print(f"{about['model']}: {about['parameters']:,} parameters, {about['examples']:,} examples, {about['dtype']}")
    if options.output is not None:
        write_json(options.output, about | {"measures": json.loads(table.to_json(orient="index"))})
    return 0


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as an indented file, in a folder that is made for it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise FlatlibError(f"{path}: cannot be written ({error.strerror})") from None
