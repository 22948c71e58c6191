"""`flatlib bench`: time and accuracy of this package and of other libraries that measure the same."""

import argparse
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flatlib.cli.measure import write_json
from flatlib.errors import FlatlibError

if TYPE_CHECKING:
    import torch


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    bench = commands.add_parser("bench", help="time this package against the libraries that measure the same")
    bench.add_argument(
        "what",
        choices=["curvature", "exact", "panel", "traps"],
        help="curvature: time and memory of the largest eigenvalue; exact: time of the exact trace and of Jacobian "
        "norms; panel: time of every measure, alone and together; traps: values where libraries go wrong",
    )
    bench.add_argument("--cases", default="*", help="shell patterns of cases, with commas between them (default all)")
    bench.add_argument("--dataset", default="cifar10", help="images the networks are trained on (default cifar10)")
    bench.add_argument("--repeats", type=int, default=5, help="starts of each search, and timings (default 5)")
    bench.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    bench.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    bench.add_argument("--output", type=Path, help="JSON file to write")
    bench.set_defaults(command=run_benchmark)


def run_benchmark(options: argparse.Namespace) -> int:
    """Run `flatlib bench`: print a table, report progress on stderr, write everything measured to a JSON file."""
    from flatlib.device import current, resolve

    if options.repeats < 1 or options.threads < 1:
        raise FlatlibError("--repeats and --threads: at least 1")
    with current(device := resolve(options.device)):
        found = answers() if options.what == "traps" else timed(options, device)
    if options.output is not None:
        write_json(options.output, found)
    return 0


def answers() -> dict[str, Any]:
    """Evaluate every library on every trap, on the CPU, as traps are small."""
    import pandas as pd
    import torch

    from flatlib.bench.failure_modes import evaluate_all
    from flatlib.runs.provenance import provenance

    rows = evaluate_all()
    table = pd.DataFrame(rows).set_index("trap")
    print(table.map(lambda value: f"{value:.4g}" if isinstance(value, float) else str(value)[:28]).T.to_string())
    return {"provenance": provenance(torch.device("cpu")), "answers": rows}


def timed(options: argparse.Namespace, device: "torch.device") -> dict[str, Any]:
    """Time every case, print the report, and return the settings and the entries of the cases.

    Each entry is written as soon as it is measured, and entries already in the output are kept: an interrupted
    benchmark of hours resumes, and one output can be filled case by case.
    """
    from flatlib.bench.problems import problems, select_names
    from flatlib.bench.timing import using_threads
    from flatlib.device import full_precision
    from flatlib.runs.provenance import provenance

    module = import_module(f"flatlib.bench.{options.what}")
    settings = {name: getattr(options, name) for name in ("dataset", "repeats", "threads")}
    settings |= {"benchmark": options.what, "device": str(device)}
    wanted, entries = select_names(options.cases, module.CASES), taken(options.output, settings)
    missing = [name for name in wanted if name not in entries]
    if len(missing) < len(wanted):
        print(f"{options.output}: {len(wanted) - len(missing)} of {len(wanted)} cases are there", file=sys.stderr)
    for problem in problems(missing, options.dataset, options.device):
        with using_threads(options.threads), full_precision():
            entries[problem.name] = module.benchmark(problem, options.repeats) | {"provenance": provenance(device)}
        if options.output is not None:
            write_json(options.output, settings | {"entries": list(entries.values())})
    print(module.report(list(entries.values())))
    return settings | {"entries": list(entries.values())}


def taken(path: Path | None, settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the entries of an earlier benchmark by case; one with other settings is a `FlatlibError`."""
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
