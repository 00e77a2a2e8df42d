"""Measures where kinematic intensities of 2D crystals fail, and how well that is foretold.

    python benchmarks/kinematic_error.py [--c2db FILE] [--crystals 140] [--b 0.5]
        [--energies 80 200]

Crystals of C2DB, drawn alike from classes of thickness and of the heaviest element, up to 24 atoms
and 8 A of a lattice vector (q_max = 1.25 1/A): the kinematic pattern against the multislice
(band = 8 1/A, without heat 12). Printed: how near the quick estimate `dx.kinematic_error` comes to
the same from the fine multislice, and by its classes the errors of the strongest ten spots after
scaling to the same sum.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import ase.db
import jax
import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import diffraction as dx  # noqa: E402
from diffraction.multislice import KINEMATIC_LIMIT, kinematic_error, multislice  # noqa: E402

Q_MAX = 1.25
FINE, FINEST = 8.0, 12.0
MOST_ATOMS, LONGEST = 24, 8.0
THICKNESS = [0.5, 2, 3.5, 5, 7, 9]
"""Angstrom, between the outermost atoms."""
HEAVIEST = [20, 35, 50, 65]
CLASSES = [0, 0.01, 0.02, 0.04, 0.06, 0.08, 0.12, 1]
TOP = 10
CHUNK = 10
CLOSE, FACTOR = 0.2, 1.5


def draw(path: Path, count: int) -> dx.Crystal:
    """Crystals of the database, by turns from each class."""
    classes: dict[tuple[int, int], list[ase.Atoms]] = {}
    for row in ase.db.connect(path).select():
        atoms = row.toatoms()
        if len(atoms) <= MOST_ATOMS and max(atoms.cell.lengths()[:2]) <= LONGEST:
            thickness = np.digitize(np.ptp(atoms.positions[:, 2]), THICKNESS)
            heaviest = np.digitize(atoms.numbers.max(), HEAVIEST)
            classes.setdefault((thickness, heaviest), []).append(atoms)
    rng = np.random.default_rng(0)
    shuffled = [[x[i] for i in rng.permutation(len(x))] for _, x in sorted(classes.items())]
    turns = [x[i] for i in range(max(map(len, shuffled))) for x in shuffled if i < len(x)]
    return dx.stack([dx.Crystal.from_ase(a) for a in turns[:count]])


def strongest(kinematic: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Relative errors (crystals, TOP) of the strongest spots, scaled to the same sum of these."""
    top = np.argsort(-true, -1)[:, :TOP]
    kinematic, true = (np.take_along_axis(x, top, -1) for x in (kinematic, true))
    scale = true.sum(-1, keepdims=True) / kinematic.sum(-1, keepdims=True)
    return np.abs(scale * kinematic / true - 1)


def r_factor(kinematic: np.ndarray, true: np.ndarray) -> np.ndarray:
    """As `dx.kinematic_error` has it."""
    scale = true.sum(-1, keepdims=True) / kinematic.sum(-1, keepdims=True)
    return np.abs(true - scale * kinematic).sum(-1) / true.sum(-1)


def compare(quick: np.ndarray, fine: np.ndarray) -> None:
    """Print how near the quick estimates are, and whether they warn where the fine ones do."""
    close = np.abs(quick / fine - 1) < CLOSE
    limit = KINEMATIC_LIMIT
    wrong = ((fine > FACTOR * limit) & (quick <= limit)) | (
        (fine < limit / FACTOR) & (quick > limit)
    )
    other = (quick > limit) != (fine > limit)
    print(
        f"quick within {CLOSE:.0%} of fine: {close.mean():.0%} of {len(fine)}; on the wrong side "
        f"of {limit:.0%}: {other.sum()}, by more than a factor {FACTOR}: {wrong.sum()}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--c2db", type=Path, default=Path("../shared/data/c2db.db"))
    parser.add_argument("--crystals", type=int, default=140)
    parser.add_argument("--b", type=float, default=0.5, help="angstrom^2")
    parser.add_argument("--energies", type=float, nargs="+", default=[80.0, 200.0], help="keV")
    options = parser.parse_args()
    crystals, b = draw(options.c2db, options.crystals), options.b
    # By size, so that small cells are not computed on large grids.
    longest = np.linalg.norm(np.asarray(crystals.lattice), axis=-1).max(1)
    crystals = crystals[np.argsort(longest)]
    hk = dx.reflections(np.asarray(crystals.lattice), Q_MAX)
    parts = [slice(i, i + CHUNK) for i in range(0, len(crystals), CHUNK)]
    band = FINE if b else FINEST

    quick, fine, errors = [], [], []
    for beam in map(dx.Electrons, options.energies):
        kinematic = np.asarray(dx.simulate(crystals, beam, Q_MAX, b, hk=hk).intensity)
        chunks = [
            multislice(crystals[x], beam, Q_MAX, b, hk=hk[x], band=band).intensity for x in parts
        ]
        true = np.concatenate([np.asarray(x) for x in chunks])
        jax.block_until_ready([kinematic_error(crystals[x], beam, Q_MAX, b) for x in parts])
        start = time.perf_counter()
        again = [np.asarray(kinematic_error(crystals[x], beam, Q_MAX, b)) for x in parts]
        each = (time.perf_counter() - start) / len(crystals)
        quick.append(np.concatenate(again))
        fine.append(r_factor(kinematic, true))
        errors.append(strongest(kinematic, true))
        parts = ", ".join(f"{x:.1%}" for x in np.quantile(fine[-1], [0.1, 0.5, 0.9, 1]))
        print(f"{beam.energy:.0f} kV: R (10th, 50th, 90th, 100th percentile) {parts};", end=" ")
        print(f"the quick estimate takes {1e3 * each:.1f} ms a crystal")

    quick, fine, errors = map(np.concatenate, (quick, fine, errors))
    compare(quick, fine)
    worst = errors.max(-1)
    table = Table("quick R", "patterns", "fine / quick R", "worst of ten", "over 10 %")
    for low, high in zip(CLASSES, CLASSES[1:], strict=False):
        row = (quick >= low) & (quick < high)
        if row.any():
            low_ratio, high_ratio = np.quantile(fine[row] / quick[row], [0.05, 0.95])
            table.add_row(
                f"{low:.0%} to {high:.0%}",
                str(row.sum()),
                f"{low_ratio:.2f} to {high_ratio:.2f}",
                f"{np.median(worst[row]):.1%}",
                f"{np.mean(worst[row] > 0.1):.0%}",
            )
    Console().print(table)
    for limit in CLASSES[3:-1]:
        above, below = worst[quick >= limit], worst[quick < limit]
        print(
            f"R over {limit:.0%}: {len(above)} patterns, worst of ten {np.median(above):.1%} "
            f"(median), over 10 % in {np.mean(above > 0.1):.0%}; below: {np.median(below):.1%}, "
            f"{np.mean(below > 0.1):.0%}"
        )


if __name__ == "__main__":
    main()
