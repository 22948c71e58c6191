"""`flatlib measure`: a table of measures of a network of the user's own."""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flatlib.errors import FlatlibError, require_one_of

if TYPE_CHECKING:
    from flatlib.cli.user_model import Row, UserFiles
    from flatlib.measures import Checkpoint

SETTINGS = ("batch_norm", "batch_size", "tolerance", "seed")  # of a checkpoint
OUTCOME = (
    "A measure that is refused stops no other: those that were taken are printed and written, one line says why the "
    "others were not, and the exit code is 2. Interrupting it (Ctrl-C) keeps those taken so far; the exit code is 130."
)


class Target(argparse.Action):
    """The one FILE.py:FUNCTION, wherever it stands."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Keep it; a second one is an error."""
        if namespace.target is not None:
            parser.error(f"one FILE.py:FUNCTION is measured at a time, got {namespace.target} and {values}")
        namespace.target = values
        self.required = False


class Measures(argparse.Action):
    """Names of measures, and the FILE.py:FUNCTION after them, which argparse takes for one more name."""

    target: Target

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Keep the names, and pass on what is none."""
        names = [value for value in values if ".py:" not in value]
        for value in values:
            if value not in names:
                self.target(parser, namespace, value)
        namespace.measures = names


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    own = commands.add_parser("measure", help="measure a network of your own", epilog=OUTCOME)
    target = own.add_argument(
        "target", metavar="FILE.py:FUNCTION", action=Target, help="a function of yours that returns (model, data)"
    )
    measures = own.add_argument(
        "--measures",
        nargs="+",
        action=Measures,
        default=["lambda_max", "lambda_min", "trace"],
        metavar="NAME",
        help="names with spaces or commas between them, or all (default lambda_max lambda_min trace)",
    )
    measures.target = target
    own.add_argument("--loss", help="cross_entropy (default), mse, squared, or FILE.py:FUNCTION: of (output, target)")
    own.add_argument("--batch-norm", choices=["eval", "train", "recalibrated"], default="eval", help="default eval")
    own.add_argument("--batch-size", type=int, default=32, help="of the training, for batch_sharpness (default 32)")
    own.add_argument("--examples", type=int, help="only the first so many examples; reads no further (default all)")
    own.add_argument("--dtype", choices=["float32", "float64"], help="measure a copy cast to it (default as it is)")
    own.add_argument("--tolerance", type=float, default=1e-3, help="of eigenvalues' residuals (default 1e-3)")
    own.add_argument("--seed", type=int, default=0)
    own.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    own.add_argument("--output", type=Path, help="JSON file to write, again after each measure")
    own.set_defaults(command=measure_user_model)


def measure_user_model(options: argparse.Namespace) -> int:
    """Run `flatlib measure`: print a table; write the same numbers, and what they are of, to a JSON file."""
    from flatlib.cli.user_model import UserFiles

    files = UserFiles()
    try:
        names = requested(options)
        checkpoint, about = prepare(options, files)
        return take(names, checkpoint, about, options, files)
    except KeyboardInterrupt:
        print("flatlib: interrupted", file=sys.stderr)
        return 130


def requested(options: argparse.Namespace) -> Sequence[str]:
    """Return the names of the measures, if these and all numbers are allowed."""
    from flatlib.cli.user_model import MEASURABLE

    words = [name.strip() for name in ",".join(options.measures).split(",")]
    names = list(dict.fromkeys(filter(None, words)))
    if "all" in names:
        return MEASURABLE
    for name in names or [""]:
        require_one_of("--measures", name, MEASURABLE)
    if options.examples is not None and options.examples < 1:
        raise FlatlibError(f"--examples: at least 1, got {options.examples}")
    if not 0 < options.tolerance < math.inf:
        raise FlatlibError(f"--tolerance: a positive number, got {options.tolerance}")
    return names


def prepare(options: argparse.Namespace, files: "UserFiles") -> tuple["Checkpoint", dict[str, Any]]:
    """Load the loss, the model and the data; return what is measured, and its description as plain JSON values."""
    import torch

    from flatlib.cli.user_data import fitted, read
    from flatlib.cli.user_model import described, load, load_loss
    from flatlib.device import resolve
    from flatlib.measures import Checkpoint

    device = resolve(options.device)
    dtype = getattr(torch, options.dtype) if options.dtype else None
    loss = load_loss(options.loss or "cross_entropy", files)
    model, data = load(options.target, files)
    model = model.to(device, dtype)
    if isinstance(loss, torch.nn.Module):  # with weights of classes, for example
        loss = loss.to(device, dtype)
    with files.explained("the data cannot be read"):
        examples, count = read(data, options.examples)
    pair = fitted(examples, model, device) if isinstance(examples, tuple) else None
    settings = {name: getattr(options, name) for name in SETTINGS}
    about = {"examples": count, "loss": options.loss or "cross_entropy", **settings}
    checkpoint = Checkpoint(model=model, examples=pair or examples, train=pair or examples, loss=loss, **settings)
    return checkpoint, described(model, device) | about


def take(
    names: Sequence[str],
    checkpoint: "Checkpoint",
    about: dict[str, Any],
    options: argparse.Namespace,
    files: "UserFiles",
) -> int:
    """Take the measures, print and write them, and return 2 if one was refused."""
    from flatlib.cli.user_model import measured

    rows: dict[str, Row] = {}
    refused: dict[str, list[str]] = {}  # names of measures by the reason
    try:
        save(options.output, about, rows, refused)  # a file that cannot be written is known before the work
        for name, found in measured(names, checkpoint):
            if isinstance(found, FlatlibError):
                message = str(found).removeprefix(f"{name} of a {about['model']}: ") + files.place(found)
                refused.setdefault(message + hint(message, options), []).append(name)
            else:
                rows |= found
            save(options.output, about, rows, refused)
    finally:
        report(about, rows, refused)
    return 2 if refused else 0


def report(about: dict[str, Any], rows: "dict[str, Row]", refused: dict[str, list[str]]) -> None:
    """Print the table and what it is of, and on stderr one line for each reason why measures were refused."""
    from flatlib.cli.user_model import table

    if rows:
        print(table(rows).to_string(na_rep="", float_format="{:.4g}".format))
        kind = f"{about['parameters']:,} parameters, {about['examples']:,} examples, {about['dtype']}"
        print(f"{about['model']}: {kind}", flush=True)
    for message, names in refused.items():
        print(f"flatlib: {', '.join(names)}: {message}", file=sys.stderr)


def hint(message: str, options: argparse.Namespace) -> str:
    """Return which losses there are, where a message is about a loss that was not chosen."""
    if options.loss is not None or not any(word in message for word in ("loss", "target")):
        return ""
    return "; no --loss was given, so it is cross_entropy: --loss mse is for regression, FILE.py:FUNCTION your own"


def save(path: Path | None, about: dict[str, Any], rows: dict[str, Any], refused: dict[str, list[str]]) -> None:
    """Write the measures taken so far and the reasons of those refused, as strict JSON: null for NaN."""
    from flatlib.cli.user_model import COLUMNS

    if path is None:
        return
    plain = {name: {column: row.get(column) for column in COLUMNS} for name, row in rows.items()}
    for row in plain.values():
        row |= {key: None for key, value in row.items() if isinstance(value, float) and not math.isfinite(value)}
    reasons = {name: message for message, names in refused.items() for name in names}
    write_json(path, about | {"measures": plain, "refused": reasons})


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as an indented file, in a folder that is made for it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise FlatlibError(f"{path}: cannot be written ({error.strerror})") from None
