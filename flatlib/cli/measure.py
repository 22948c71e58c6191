"""`flatlib measure` and `flatlib bench`: a network of the reader's own, and this package beside others."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flatlib.errors import FlatlibError


def add(commands: argparse._SubParsersAction) -> None:
    """The two commands and their options."""
    own = commands.add_parser("measure", help="measure a network of your own")
    own.add_argument("target", metavar="FILE.py:FUNCTION", help="a function of yours that returns (model, data)")
    own.add_argument("--measures", default="lambda_max,lambda_min,trace", help="names with commas between them, or all")
    own.add_argument("--loss", default="cross_entropy", help="cross_entropy (default) or mse")
    own.add_argument("--batch-norm", default="eval", help="eval (default), train or recalibrated")
    own.add_argument("--examples", type=int, help="only the first so many examples (default all)")
    own.add_argument("--dtype", choices=["float32", "float64"], help="measure a copy cast to it (default as it is)")
    own.add_argument("--tolerance", type=float, default=1e-3, help="of eigenvalues' residuals (default 1e-3)")
    own.add_argument("--seed", type=int, default=0)
    own.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    own.add_argument("--output", type=Path, help="JSON file to write")
    own.set_defaults(command=measure_own_model)

    bench = commands.add_parser("bench", help="time this package against the libraries that measure the same")
    bench.add_argument(
        "what",
        choices=["curvature", "exact", "traps"],
        help="curvature: time and memory of the largest eigenvalue; exact: time of the exact trace and of Jacobian "
        "norms; traps: values where libraries go wrong",
    )
    bench.add_argument("--cases", default="*", help="shell patterns of cases, with commas between them (default all)")
    bench.add_argument("--dataset", default="cifar10", help="images the networks are trained on (default cifar10)")
    bench.add_argument("--repeats", type=int, default=5, help="starts of each search, and timings (default 5)")
    bench.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    bench.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    bench.add_argument("--output", type=Path, help="JSON file to write")
    bench.set_defaults(command=run_benchmark)


def measure_own_model(options: argparse.Namespace) -> int:
    """`flatlib measure`: a table on stdout; the same numbers, and what they are of, in a JSON file."""
    import torch

    from flatlib.cli.own_model import MEASURABLE, described, examples, load, measured
    from flatlib.device import resolve
    from flatlib.measures import Checkpoint

    device = resolve(options.device)
    names = MEASURABLE if options.measures == "all" else [name.strip() for name in options.measures.split(",")]
    if options.examples is not None and options.examples < 1:
        raise FlatlibError(f"--examples: at least 1, got {options.examples}")
    model, data = load(options.target)
    model = model.to(device, getattr(torch, options.dtype) if options.dtype else None)
    x, y = examples(data, options.examples, device)
    if options.dtype:
        x, y = (t.to(getattr(torch, options.dtype)) if t.is_floating_point() else t for t in (x, y))
    checkpoint = Checkpoint(
        model=model,
        examples=(x, y),
        loss=options.loss,
        train=(x, y),
        batch_norm=options.batch_norm,
        tolerance=options.tolerance,
        seed=options.seed,
    )
    table, about = measured(names, checkpoint), described(checkpoint, device)
    print(table.to_string(na_rep="", float_format="{:.4g}".format))
    print(f"{about['model']}: {about['parameters']:,} parameters, {about['examples']:,} examples, {about['dtype']}")
    if options.output is not None:
        write_json(options.output, about | {"measures": json.loads(table.to_json(orient="index"))})
    return 0


def write_json(path: Path, value: Any) -> None:
    """`value` as an indented file, in a folder that is made for it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise FlatlibError(f"{path}: cannot be written ({error.strerror})") from None


def run_benchmark(options: argparse.Namespace) -> int:
    """`flatlib bench`: a table on stdout, progress on stderr, everything measured in a JSON file."""
    from flatlib.device import current, resolve

    if options.repeats < 1 or options.threads < 1:
        raise FlatlibError("--repeats and --threads: at least 1")
    benchmarks = {
        "curvature": benchmark_curvature,
        "exact": benchmark_exact,
        "traps": ask_about_traps,
    }
    with current(resolve(options.device)):
        found = benchmarks[options.what](options)
    if options.output is not None:
        write_json(options.output, found)
    return 0


def where_taken(options: argparse.Namespace) -> dict[str, Any]:
    """Versions, commit and device of what is timed now."""
    from flatlib.device import resolve
    from flatlib.runs.provenance import provenance

    return {"provenance": provenance(resolve(options.device))}


def benchmark_curvature(options: argparse.Namespace) -> dict[str, Any]:
    """Every library on every case."""
    from flatlib.bench.curvature import benchmark, report

    found = timed(benchmark, options)
    print(report(found["entries"]))
    return found


def benchmark_exact(options: argparse.Namespace) -> dict[str, Any]:
    """Exact traces and Jacobian norms on every case."""
    from flatlib.bench.exact import benchmark, ratios

    found = timed(benchmark, options)
    print(ratios(found["entries"]).round(2).to_string(na_rep="-"))
    return found


def timed(benchmark: Callable[..., list[dict[str, Any]]], options: argparse.Namespace) -> dict[str, Any]:
    """The entries of a benchmark on the cases, and how they were taken.

    Each is written as soon as it is there, and what the output holds already is kept: a benchmark of hours that was
    interrupted goes on where it stopped, and one output can be filled case by case.
    """
    from flatlib.bench.problems import problems, select_names
    from flatlib.device import resolve

    settings = {name: getattr(options, name) for name in ("dataset", "repeats", "threads")}
    settings |= {"benchmark": options.what, "device": str(resolve(options.device))}
    wanted, entries = select_names(options.cases), taken(options.output, settings)
    missing = [name for name in wanted if name not in entries]
    if len(missing) < len(wanted):
        print(f"{options.output}: {len(wanted) - len(missing)} of {len(wanted)} cases are there", file=sys.stderr)
    for problem in problems(missing, options.dataset, options.device):
        (entry,) = benchmark([problem], options.repeats, options.threads)
        entries[problem.name] = entry | where_taken(options)
        if options.output is not None:
            write_json(options.output, settings | {"entries": list(entries.values())})
    return settings | {"entries": list(entries.values())}


def taken(path: Path | None, settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The entries of an earlier benchmark, by case. Raises `FlatlibError` if it was not taken with these settings."""
    if path is None or not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        entries = {entry["problem"]: entry for entry in found["entries"]}
        differing = [name for name, value in settings.items() if found[name] != value]
    except (OSError, ValueError, KeyError, TypeError):
        raise FlatlibError(f"{path}: is no benchmark of this kind; name another --output") from None
    if differing:
        raise FlatlibError(f"{path}: was taken with another {differing[0]}; name another --output")
    return entries


def ask_about_traps(options: argparse.Namespace) -> dict[str, Any]:
    """Every library on every trap."""
    import pandas as pd
    import torch

    from flatlib.bench.failure_modes import evaluate_all
    from flatlib.runs.provenance import provenance

    rows = evaluate_all()
    table = pd.DataFrame(rows).set_index("trap")
    print(table.map(lambda value: f"{value:.4g}" if isinstance(value, float) else str(value)[:28]).T.to_string())
    return {"provenance": provenance(torch.device("cpu")), "answers": rows}  # whatever the device: traps are small
