"""Accuracy and time of the three methods with the weights and the library in the package.

    python benchmarks/retrieval.py [--queries 200] [--level LEVEL ...] [--library DIR] [--json OUT]

Queries are crystals of the library, drawn at random; those of the default library are of the same
families as the crystals that the weights were trained on, and most of them were among these. How
well the weights do on crystals that they never saw: docs/accuracy.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dd2d_jax  # noqa: E402
from dd2d_jax.evaluation.evaluate import evaluate, stored  # noqa: E402
from dd2d_jax.libraries.library import Library  # noqa: E402
from dd2d_jax.networks.checkpoint import write_json  # noqa: E402
from dd2d_jax.reports.tables import evaluation_table, reliability_tables  # noqa: E402
from dd2d_jax.util import cache  # noqa: E402

LEVELS = ("clean", "perturbed", "measured", "microscope")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--level", nargs="+", choices=LEVELS, default=LEVELS)
    parser.add_argument("--library", type=Path, help="from dd2d index; the one in the package")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--leave-out", action="store_true", help="see dd2d evaluate")
    parser.add_argument("--elements", choices=("known", "unknown"), default="unknown")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    cache.keep_compilations()
    console = Console()
    model, library = dd2d_jax.load(), Library.load(args.library)
    crystals, gallery = stored(model, library)
    drawn = np.random.default_rng(args.seed).permutation(len(library))[: args.queries]
    queries = crystals.take(np.sort(drawn))
    results = []
    for level in args.level:
        with console.status(level):
            found = evaluate(
                model, queries, crystals, level, args.seed, gallery=gallery,
                leave_out=args.leave_out, elements=args.elements == "known",
            )  # fmt: skip
        for table in (evaluation_table(found), *reliability_tables(found["reliability"])):
            console.print(table)
        results.append(found)
    if args.json:
        write_json(args.json, results)


if __name__ == "__main__":
    main()
