"""How far atoms may move before a network no longer finds their crystal.

    python benchmarks/displaced.py --checkpoint runs/twin [--displacements 0 0.05 0.1 0.19 0.3]
        [--library L.db]

Queries are the checkpoint's test crystals in their own cell, each coordinate of each atom moved by
N(0, displacement): a snapshot without correlations between atoms. The network alone ranks the
undisturbed test crystals, or those of a library that holds them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dd2d_jax.data.datasets import read_source  # noqa: E402
from dd2d_jax.evaluation.evaluate import make_queries, places  # noqa: E402
from dd2d_jax.evaluation.ranks import accuracy, embedding_ranks  # noqa: E402
from dd2d_jax.networks.disturbances import Disturbance  # noqa: E402
from dd2d_jax.networks.trained import load  # noqa: E402
from dd2d_jax.spots import strongest  # noqa: E402


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument(
        "--displacements", type=float, nargs="+", default=[0, 0.05, 0.1, 0.19, 0.3], help="angstrom"
    )
    parser.add_argument("--library", help="crystals to search (default: the test crystals)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    model = load(options.checkpoint)
    queries = read_source(options.checkpoint / "test.db")
    library = queries if options.library is None else read_source(options.library)
    truth = places(queries, library)
    gallery = model.embed_crystals(library.crystal)
    print(f"{len(queries)} queries, {len(library):,} crystals")
    print("displacement of each coordinate (A), top-1/3/5/10 (%)")
    for size in options.displacements:
        amount = Disturbance(displacement=size)
        made = make_queries(queries, model.conditions, amount, options.seed)
        seen = model.embed_patterns(strongest(made, model.conditions.tokens))
        found = accuracy(embedding_ranks(seen, gallery, truth))
        print(f"{size:5.2f}  " + "/".join(f"{found[f'top{k}']:.1f}" for k in (1, 3, 5, 10)))


if __name__ == "__main__":
    main()
