"""`flatlib plan` and `flatlib sweep`: write down the missing runs here, train them on a machine without notebooks."""

import argparse
import sys
from pathlib import Path

from flatlib.cli.chapters import prepared, seconds, which
from flatlib.errors import FlatlibError

ORDER = ("01", "03", "05", "02", "04", "08", "09", "06", "07", "10", "11")
"""Of all chapters, by number: first those whose verdict hangs most on the papers' own scale."""


def add(commands: argparse._SubParsersAction) -> None:
    """The two commands and their options."""
    plan = commands.add_parser("plan", help="write down the missing runs of chapters, for flatlib sweep elsewhere")
    which(plan, "paper")
    plan.add_argument("--records", type=Path, help="folder with further records (default _build/records)")
    plan.add_argument("--output", type=Path, required=True, help="the list to write")
    plan.set_defaults(command=write_plan, device="cpu", workers=1, scheduler="", time_limit="0")

    sweep = commands.add_parser("sweep", help="train the runs of a list; needs no notebook, no browser and no network")
    sweep.add_argument("list", type=Path, metavar="LIST", help="a file that flatlib plan wrote")
    sweep.add_argument("--records", type=Path, required=True, help="folder to append CHAPTER/PRESET.jsonl in")
    sweep.add_argument("--data", type=Path, help="folder with the data, NAME.npz (default FLATLIB_DATA)")
    sweep.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    sweep.add_argument("--workers", type=int, default=1, help="runs at the same time (default 1)")
    sweep.add_argument("--time-limit", default="0", help="end after so long: 90, 8m or 2h")
    sweep.set_defaults(command=train_list)


def write_plan(options: argparse.Namespace) -> int:
    """`flatlib plan`: the missing runs of chapters, the most valuable chapters first."""
    given = dict(options.given)
    if options.records is not None:
        given["records"] = str(options.records.resolve())
    root, chapters = prepared(options, given)
    from flatlib.book.dry_run import asked
    from flatlib.runs import run_list

    if "all" in options.chapters:
        chapters = dict(sorted(chapters.items(), key=lambda item: rank(item[0])))
    groups = {}
    for name, values in chapters.items():
        found = asked(root, name, values)
        later = found.chosen_later
        groups[name, options.preset] = [config for run_id, config in found.missing.items() if run_id not in later]
        print(f"{name}: {len(groups[name, options.preset])} of {len(found.configs)} runs")
        if later:
            print(f"{name}: {len(later)} more are chosen by these: plan again when they are recorded")
    run_list.write(options.output, groups)
    print(f"{options.output}: {sum(map(len, groups.values()))} missing runs")
    return 0


def rank(name: str) -> tuple[int, str]:
    """Where a chapter stands in `ORDER`."""
    return ORDER.index(name[:2]) if name[:2] in ORDER else len(ORDER), name


def train_list(options: argparse.Namespace) -> int:
    """`flatlib sweep`: exit code 0 once every run of the list is recorded."""
    from flatlib.book.paths import find_root
    from flatlib.runs import run_list
    from flatlib.runs.requirements import require_packages

    groups = run_list.read(options.list)
    require_packages(())  # before anything imports them
    from flatlib.config import Execution
    from flatlib.runs.slot import left_out, spend

    try:
        committed = find_root() / "book" / "records"
    except FlatlibError:  # the package alone, without the book
        committed = None
    folder = options.records.resolve()
    if committed and folder.is_relative_to(committed.parent):
        raise FlatlibError(f"--records: {folder} is published; merge into it with flatlib records merge")
    execution = Execution(
        device=options.device,
        workers=options.workers,
        time_limit=seconds(options.time_limit) or None,
        data=options.data,
    )
    for error in spend(groups, folder, execution, committed):
        print(f"flatlib: {error}", file=sys.stderr)
    left = left_out(groups, folder, committed)
    for (chapter, preset), configs in groups.items():
        total = len({config.run_id for config in configs})
        print(f"{chapter} {preset}: {total - len(left[chapter, preset])} of {total} runs recorded")
    return 2 if any(left.values()) else 0
