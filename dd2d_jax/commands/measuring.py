"""`dd2d evaluate`, `dd2d report` and `dd2d snapshots`: how good a network is."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
from pathlib import Path
from typing import Any

from dd2d_jax.commands.common import (
    add_checkpoint,
    at_least_one,
    at_least_zero,
    check_file,
    check_new,
    command,
    load_model,
    naming,
    positive,
    print_json,
    print_table,
    say,
)
from dd2d_jax.util.errors import UserError

_LEVELS = ("clean", "perturbed", "thermal", "measured", "microscope")


def add_evaluate(commands: Any) -> None:
    """Put `dd2d evaluate` among the commands."""
    parser = command(
        commands,
        "evaluate",
        _evaluate,
        "compare accuracy (top-1/3/5/10/50 in percent) and speed of the methods",
        "dd2d evaluate --checkpoint runs/base --queries test.db --library all.db --level clean",
    )
    add_checkpoint(parser)
    parser.add_argument(
        "--queries",
        required=True,
        metavar="Q.db",
        help="crystals to find; with the same uids as in the library",
    )
    parser.add_argument(
        "--library",
        required=True,
        metavar="L.db",
        help="crystals to search: a database, or a folder from dd2d index",
    )
    parser.add_argument(
        "--level",
        choices=_LEVELS,
        default="clean",
        help="how the queries are disturbed (default: clean)",
    )
    parser.add_argument(
        "--snapshots", metavar="S.db", help="queries of --level thermal, from `dd2d snapshots`"
    )
    parser.add_argument(
        "--leave-out",
        action="store_true",
        help="repeat with each query's crystal and its duplicates removed from the library",
    )
    parser.add_argument(
        "--elements",
        choices=("known", "unknown"),
        default="unknown",
        help="whether each query's elements are known (default: unknown)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed of the disturbance (default: 0)"
    )
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="OUT", help="print JSON, or write it to OUT"
    )


def _evaluate(args: argparse.Namespace) -> None:
    from dd2d_jax.data.datasets import read_source
    from dd2d_jax.evaluation.evaluate import evaluate, stored
    from dd2d_jax.libraries.library import MANIFEST, Library
    from dd2d_jax.networks.checkpoint import write_json
    from dd2d_jax.reports.tables import evaluation_table, reliability_tables

    out = None if args.json in (None, "-") else Path(args.json)
    check_file("--json", out)
    if (args.level == "thermal") != (args.snapshots is not None):
        raise UserError(
            "--level thermal and --snapshots S.db must be given together; make S.db "
            "with dd2d snapshots"
        )
    _check_snapshots(args.snapshots)
    model = load_model(args.checkpoint)
    say(f"reading {args.queries}")
    with naming(args.queries):
        queries = read_source(args.queries)
    say(f"reading {args.library}")
    gallery = None
    with naming(args.library):
        if (Path(args.library) / MANIFEST).is_file():
            library, gallery = stored(model, Library.load(args.library), say)
        else:
            library = read_source(args.library)
    result = evaluate(
        model, queries, library, args.level, args.seed, say, args.snapshots, gallery,
        args.leave_out, args.elements == "known",
    )  # fmt: skip
    if args.json == "-":
        print_json(result)
        return
    if out is not None:
        write_json(out, result)
    print_table(evaluation_table(result))
    for table in reliability_tables(result["reliability"]):
        print_table(table)


def add_report(commands: Any) -> None:
    """Put `dd2d report` among the commands."""
    parser = command(
        commands,
        "report",
        _report,
        "write a page with the paper's tables and figures for a checkpoint",
        "dd2d report --checkpoint runs/base --out runs/base_report",
    )
    add_checkpoint(parser, required=True)
    parser.add_argument(
        "--queries", metavar="Q.db", help="crystals to find (default: the checkpoint's test.db)"
    )
    parser.add_argument(
        "--library",
        metavar="L.db",
        help="crystals to search, with the same uids (default: the queries)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("report"),
        metavar="DIR",
        help="a new folder (default: report)",
    )
    parser.add_argument(
        "--ablation",
        nargs="+",
        default=(),
        metavar="DIR",
        help="checkpoints to compare with it, on the same queries",
    )
    parser.add_argument(
        "--snapshots", metavar="S.db", help="from `dd2d snapshots`; adds the level thermal"
    )
    parser.add_argument(
        "--crystal",
        metavar="UID",
        help="query whose attention maps are drawn (default: the first with 3 to 6 atoms)",
    )
    parser.add_argument(
        "--candidates-of",
        metavar="FILE",
        help="draw the candidates of this crystal's pattern and add it to the gallery: a structure "
        "file, or a record of the DD2D paper (default: a query found within ten, not first)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed of the disturbance (default: 0)"
    )
    parser.add_argument("--json", action="store_true", help="print all numbers as JSON")


def _report(args: argparse.Namespace) -> None:
    check_new(args.out)
    _check_snapshots(args.snapshots)
    from dd2d_jax.data.datasets import read_source
    from dd2d_jax.networks.checkpoint import last_step, read_records
    from dd2d_jax.reports.report import make
    from dd2d_jax.reports.tables import evaluation_table

    model = load_model(args.checkpoint)
    own_folder = Path(args.checkpoint).resolve()
    names = [name for name in dict.fromkeys(args.ablation) if Path(name).resolve() != own_folder]
    others = {name: (load_model(name), last_step(name, "best")) for name in names}
    own = Path(args.checkpoint) / "test.db"
    if args.queries is None and not own.is_file():
        raise UserError(f"{own}: no such file; give the crystals to find with --queries Q.db")
    queries = str(own) if args.queries is None else args.queries
    library = queries if args.library is None else args.library
    sets = {}
    drawn = args.candidates_of
    for source in dict.fromkeys((queries, library, *([] if drawn is None else [drawn]))):
        say(f"reading {source}")
        with naming(source):
            sets[source] = read_source(source)
    if drawn is not None and len(sets[drawn]) != 1:
        raise UserError(f"{drawn}: one crystal is needed, there are {len(sets[drawn])}")
    about = {
        "checkpoint": args.checkpoint,
        "steps": last_step(args.checkpoint, "best"),
        "queries": queries,
        "library": library,
    }
    numbers = make(
        model,
        sets[queries],
        sets[library],
        args.out,
        about,
        others,
        args.snapshots,
        args.seed,
        args.crystal,
        read_records(args.checkpoint),
        say,
        None if drawn is None else sets[drawn],
    )
    if args.json:
        print_json(numbers)
        return
    for result in numbers["accuracy"]["levels"]:
        print_table(evaluation_table(result))
    print(f"{args.out / 'report.html'}: open it in a browser")


def _check_snapshots(path: str | None) -> None:
    if path is not None and not Path(path).is_file():
        raise UserError(f"{path}: no such file; make it with dd2d snapshots")


def add_snapshots(commands: Any) -> None:
    """Put `dd2d snapshots` among the commands."""
    parser = command(
        commands,
        "snapshots",
        _snapshots,
        "make molecular-dynamics snapshots of crystals for `dd2d evaluate --level thermal`; the "
        "same command resumes an interrupted run",
        "dd2d snapshots test.db thermal.db --calculator chgnet --temperature 300",
    )
    parser.add_argument("source", help="crystals, in any form that `dd2d index` accepts")
    parser.add_argument(
        "out", type=Path, metavar="OUT.db", help="ASE database, new or to be continued"
    )
    parser.add_argument(
        "--calculator",
        required=True,
        metavar="NAME",
        help="chgnet, sevennet, emt, or module:function for a function that returns an ASE "
        "calculator",
    )
    parser.add_argument(
        "--temperature",
        type=positive,
        default=300.0,
        metavar="T",
        help="temperature in K (default: 300)",
    )
    parser.add_argument(
        "--time",
        type=positive,
        default=1.0,
        metavar="T",
        help="time in ps before the first snapshot of a crystal, and between two (default: 1)",
    )
    parser.add_argument(
        "--snapshots",
        type=at_least_one,
        default=1,
        metavar="N",
        help="number of snapshots per crystal (default: 1)",
    )
    parser.add_argument(
        "--limit", type=at_least_one, metavar="N", help="use only the first N crystals"
    )
    parser.add_argument(
        "--seed",
        type=at_least_zero,
        default=0,
        help="random seed of velocities and thermostat (default: 0)",
    )
    parser.add_argument("--data-dir", metavar="DIR", help="folder for prepared data sets")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def _snapshots(args: argparse.Namespace) -> None:
    from dd2d_jax.data.datasets import read_source
    from dd2d_jax.evaluation import snapshots as dynamics

    check_file("OUT.db", args.out, (".db",))
    settings = dynamics.Settings(
        args.calculator, args.temperature, args.time, args.snapshots, args.seed
    )
    say(f"reading {args.source}")
    with naming(args.source):
        crystals = read_source(args.source, args.data_dir)
    if args.limit:
        crystals = crystals.take(range(min(args.limit, len(crystals))))
    with contextlib.redirect_stdout(sys.stderr):  # some calculators greet their users
        made = dynamics.make(crystals, args.out, settings)
    if args.json:
        print_json({"out": str(args.out), **dataclasses.asdict(settings), **made})
        return
    print(
        f"{args.out}: {made['snapshots']} snapshots of {made['crystals']} out of {len(crystals)} "
        f"crystals ({made['before']} were there already)"
    )
    print(
        f"mean temperature {made['kinetic_temperature']:.0f} K, "
        f"rms displacement {made['displacement']:.3f} A"
    )
    for reason, named in made["skipped"].items():
        uid, message = next(iter(named.items()))
        print(f"skipped {len(named)}: {reason}, for example {uid}: {message}")
