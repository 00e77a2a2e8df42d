"""`dd2d index`, `dd2d enumerate` and `dd2d merge`: crystals to search."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dd2d_jax.commands.common import (
    add_checkpoint,
    at_least_one,
    check_above,
    check_file,
    check_new,
    command,
    load_model,
    naming,
    part_of,
    print_json,
    say,
)
from dd2d_jax.util.errors import UserError


def add_index(commands: Any) -> None:
    """Put `dd2d index` among the commands."""
    parser = command(
        commands,
        "index",
        _index,
        "build a library of crystals for `dd2d retrieve`; the same command resumes an "
        "interrupted build",
        "dd2d index crystals.db my_library --checkpoint runs/base\n"
        "  dd2d index enumerate:1000000 million --part 1/2 & dd2d index enumerate:1000000 million "
        "--part 2/2",
    )
    parser.add_argument(
        "source",
        help="ASE database (a file, or postgresql://USER:PASSWORD@HOST/NAME), folder or file of "
        "structures, DD2D JSON file, or a named source: prototypes, bulk, c2db, jarvis_2d, "
        "enumerate:N",
    )
    parser.add_argument(
        "directory", type=Path, help="a new folder for the library, or an unfinished one"
    )
    add_checkpoint(parser)
    parser.add_argument(
        "--part",
        type=part_of,
        default=(1, 1),
        metavar="I/N",
        help="let this process build every N-th part, from the I-th; start all N processes "
        "(default: 1/1)",
    )
    parser.add_argument(
        "--append", action="store_true", help="add the source to an existing library"
    )
    parser.add_argument(
        "--known",
        type=Path,
        metavar="FILE",
        help="uids of synthesised crystals, one per line; these are always weighed if their cell "
        "fits",
    )
    parser.add_argument("--data-dir", metavar="DIR", help="folder for prepared data sets")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def _index(args: argparse.Namespace) -> None:
    from dd2d_jax.data.row_ranges import server_name
    from dd2d_jax.libraries.build import build

    above = next(p for p in (args.directory, *args.directory.absolute().parents) if p.exists())
    check_above(f"{args.directory}: cannot be written", above)
    model = load_model(args.checkpoint)
    name = server_name(args.source) if "://" in args.source else args.source
    say(f"reading {name}")
    with naming(name):
        report = build(
            args.source, args.directory, model, args.data_dir, args.part, args.append, say,
            _uids(args.known),
        )  # fmt: skip
    facts = {"library": str(args.directory), "model": model.fingerprint}
    if report is not None:
        _print_library(args, report, facts)
    elif args.json:
        print_json({**facts, "finished": False})


def _uids(path: Path | None) -> list[str]:
    """The lines of a file."""
    if path is None:
        return []
    from dd2d_jax.util.limits import MAX_TEXT, read_text

    uids = [line.strip() for line in read_text(path, MAX_TEXT).splitlines()]
    uids = [uid for uid in uids if uid and not uid.startswith("#")]
    if not uids:
        raise UserError(f"--known {path}: no uid in it; give one per line")
    return uids


def add_enumerate(commands: Any) -> None:
    """Put `dd2d enumerate` among the commands."""
    parser = command(
        commands,
        "enumerate",
        _enumerate,
        "write hypothetical crystals, prototypes with all suitable elements, to a database; "
        "`dd2d index enumerate:N DIR` indexes them directly",
        "dd2d enumerate crystals.db --count 20000",
    )
    parser.add_argument("out", type=Path, metavar="OUT.db", help="a new ASE database")
    parser.add_argument(
        "--count",
        type=at_least_one,
        default=20_000,
        metavar="N",
        help="number of candidates, including those skipped because two atoms are too close "
        "(default: 20000)",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def _enumerate(args: argparse.Namespace) -> None:
    from dd2d_jax.data.enumeration import write_db

    check_file("OUT.db", args.out, (".db",))
    if args.out.exists():
        raise UserError(f"{args.out}: exists already; choose another name or remove it")
    _print_library(args, write_db(args.out, args.count), {"out": str(args.out)})


def add_merge(commands: Any) -> None:
    """Put `dd2d merge` among the commands."""
    parser = command(
        commands,
        "merge",
        _merge,
        "merge several libraries into one",
        "dd2d merge first_library second_library both",
    )
    parser.add_argument(
        "libraries", nargs="+", type=Path, metavar="LIBRARY", help="libraries to merge"
    )
    parser.add_argument("directory", type=Path, help="a new folder for the library")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def _merge(args: argparse.Namespace) -> None:
    from dd2d_jax.libraries.build import merge

    check_new(args.directory)
    report = merge(args.libraries, args.directory)
    _print_library(args, report, {"library": str(args.directory)})


def _print_library(args: argparse.Namespace, report: dict, facts: dict) -> None:
    """What was kept and skipped of the crystals in a new library or database."""
    if args.json:
        print_json({**facts, "crystals": report["kept"], "report": report})
        return
    print(f"{next(iter(facts.values()))}: {report['kept']} crystals out of {report['rows']}")
    for reason, skipped in report["skipped"].items():
        print(f"skipped {skipped['count']}: {reason}, for example {skipped['examples'][0]}")
    twins = report["duplicates"]
    if twins["count"]:
        print(f"kept {twins['count']} structural duplicates, for example {twins['examples'][0]}")
