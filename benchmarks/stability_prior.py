"""How far above the convex hull the crystals that were made lie: fits the prior of retrieval.

    python benchmarks/stability_prior.py --c2db c2db.db

Crystals of the package's library that are known are looked up in C2DB's training part (split
"random", seed 0) by formula, cell and atoms. Two numbers are fitted to them: with probability w
the crystal is drawn by exp(-ehull / E0), else evenly from the whole library
(`dd2d_jax.matching.prior`).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dd2d_jax.data.datasets import read_source  # noqa: E402
from dd2d_jax.data.duplicates import twins  # noqa: E402
from dd2d_jax.data.splits import split  # noqa: E402
from dd2d_jax.libraries.library import Library  # noqa: E402
from dd2d_jax.matching.score import strain_between  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--c2db", type=Path, required=True)
    args = parser.parse_args()
    crystals = read_source(args.c2db)
    crystals = crystals.take(split(crystals, "random", 0)["train"])
    library = Library.load().crystals.whole
    made = set()
    for i in np.flatnonzero(library.known):
        for row in twins(library, i, crystals):
            stretch, shear = strain_between(library.lattice[i], crystals.lattice[row])
            if abs(stretch) < 0.04 and shear < 0.02:
                made.add(int(row))
    ehull = np.maximum(crystals.ehull, 0)
    mine = ehull[sorted(made)]
    best = max(
        (_log_likelihood(mine, ehull, e0, w), e0, w)
        for e0 in np.geomspace(0.01, 0.5, 40)
        for w in np.linspace(0.05, 1, 20)
    )
    print(f"{len(made)} of {len(crystals)} were made; ehull {np.percentile(mine, [10, 50, 90])}")
    print(f"all of them: ehull {np.percentile(ehull, [10, 50, 90])}")
    print(f"E0 = {best[1]:.3f} eV/atom, w = {best[2]:.2f}, log-likelihood {best[0]:.1f}")


def _log_likelihood(mine: np.ndarray, every: np.ndarray, e0: float, w: float) -> float:
    share = np.exp(-mine / e0) / np.exp(-every / e0).sum()
    return float(np.log(w * share + (1 - w) / len(every)).sum())


if __name__ == "__main__":
    main()
