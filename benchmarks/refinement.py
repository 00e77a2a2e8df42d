"""Measures how well refinement recovers atoms from a disturbed start.

    python benchmarks/refinement.py [--c2db FILE] [--crystals 200] [--seed 0] [--free]
        [--heights] [--multislice] [--method multislice]

Crystals of C2DB with atoms that their layer group lets move in the plane. Their kinematic patterns
(80 kV, B = 0.5 A^2, along the normal; the --pairs strongest Friedel pairs up to --q-max, spots
above --floor of the strongest, intensities times lognormal(--noise), places off by 0.002 1/A) are
fitted from a start strained by N(0, 2 %) in each component, with every free coordinate in the plane
moved by N(0, 0.1 A), within the layer group or (--free) without. Error: distance of an atom from
its place, root mean square over a crystal's atoms, on one origin and in the true cell.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from pathlib import Path

import ase.db
import jax.numpy as jnp
import numpy as np
from ase.data import chemical_symbols
from rich.console import Console
from rich.table import Table

from dd2d_jax.data import usable

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import diffraction as dx  # noqa: E402
from dd2d_jax.crystals.symmetry import displacements  # noqa: E402
from dd2d_jax.data.crystal_set import CrystalSet  # noqa: E402
from dd2d_jax.refinement.dynamical import differences  # noqa: E402
from dd2d_jax.refinement.refine import Fit, fit  # noqa: E402
from dd2d_jax.spots import Conditions, Spots, half_plane, pair_intensities, select  # noqa: E402

STRAIN, DISPLACEMENT, PLACE = 0.02, 0.1, 0.002
ENERGY, B_ISO = 80.0, 0.5
GOAL = 0.01
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


def draw(path: Path, count: int, rng: np.random.Generator) -> CrystalSet:
    """Crystals with a free coordinate in the plane, at random."""
    database = ase.db.connect(path)
    some = rng.permutation(np.arange(1, database.count() + 1))[: 3 * count]
    rows = [database.get(id=int(i)) for i in some]
    crystals = usable.from_atoms([(row.toatoms(), {"uid": row.uid}) for row in rows])
    free = [i for i in range(len(crystals)) if not in_plane(crystals, i, True)[1].all()]
    return crystals.take(free[:count])


def in_plane(crystals: CrystalSet, i: int, symmetric: bool) -> tuple[np.ndarray, np.ndarray]:
    """`displacements` of a crystal of the set."""
    real = crystals.numbers[i] > 0
    return displacements(
        crystals.lattice[i].astype(float),
        crystals.positions[i][real].astype(float),
        crystals.numbers[i][real],
        symmetric,
    )


def disturbed(
    crystals: CrystalSet, free: bool, heights: bool, rng: np.random.Generator
) -> CrystalSet:
    """Strained copies with atoms moved in the plane, and along the normal if told."""
    lattice, positions = crystals.lattice.astype(float), crystals.positions.astype(float)
    for i in range(len(crystals)):
        fields, along_normal = in_plane(crystals, i, not free)
        fields = fields if heights else fields[~along_normal]
        moves = np.einsum("m,mnd->nd", rng.normal(0, DISPLACEMENT, len(fields)), fields)
        positions[i, crystals.numbers[i] > 0] += moves
        strain = rng.normal(0, STRAIN, (2, 2))
        stretch = np.eye(2) + (strain + strain.T) / 2
        lattice[i] = lattice[i] @ stretch
        positions[i, :, :2] = positions[i, :, :2] @ stretch
    return dataclasses.replace(
        crystals, lattice=lattice.astype(np.float32), positions=positions.astype(np.float32)
    )


def observed(
    crystals: CrystalSet, conditions: Conditions, noise: float, floor: float, multislice: bool, rng
) -> Spots:
    """Patterns (n, T) with errors."""
    hk = half_plane(crystals.lattice, conditions.q_max)
    q, intensity = (np.asarray(x) for x in pair_intensities(crystals.crystal, hk, conditions))
    if multislice:
        b = np.where(crystals.numbers > 0, conditions.b_iso, 0.0)
        tilts = np.zeros((len(crystals), 1, 2))
        added = differences(crystals.crystal, b, hk[:, None], tilts, conditions)[:, 0]
        intensity = np.maximum(intensity + added, 0)
    measured = intensity > floor * intensity.max((1, 2), keepdims=True)
    intensity = intensity * np.exp(rng.normal(0, noise, intensity.shape))
    q = q + rng.normal(0, PLACE, q.shape)
    arrays = (jnp.asarray(x) for x in (q.astype(np.float32), hk, intensity, measured))
    return select(*arrays, conditions.tokens)


def offsets(found: dx.Crystal, truth: CrystalSet) -> np.ndarray:
    """Distances (n, N, 3) of atoms from their places, on one origin and in the true cell."""
    there = np.einsum(
        "ind,ide->ine", np.asarray(found.positions)[..., :2], np.linalg.inv(found.lattice)
    )
    true = np.einsum("ind,ide->ine", truth.positions[..., :2], np.linalg.inv(truth.lattice))
    away = np.einsum("ind,ide->ine", there - true, truth.lattice)
    up = np.asarray(found.positions)[..., 2:] - truth.positions[..., 2:]
    away = np.concatenate([away, up], -1)
    real = (truth.numbers > 0)[..., None]
    return np.where(real, away - (away * real).sum(1, keepdims=True) / real.sum(1)[:, None], 0)


def errors(found: dx.Crystal, truth: CrystalSet) -> np.ndarray:
    """Root mean square distances (n,) in the plane, angstrom."""
    away = offsets(found, truth)[..., :2]
    return np.sqrt((away**2).sum((1, 2)) / (truth.numbers > 0).sum(1))


def pulls(
    found: Fit,
    truth: CrystalSet,
    axes: slice = slice(0, 2),
    most: float = np.inf,
    keep: list[list[bool]] | None = None,
) -> list[np.ndarray]:
    """(fitted - true) / stated of each crystal's free coordinates, stated to better than `most`,
    of the atoms to `keep`."""
    away, stated = offsets(found.crystals, truth)[..., axes], found.position_sigma[..., axes]
    free = (stated > 1e-4) & (stated < most)
    if keep is not None:
        free &= np.array(keep)[..., None]
    return [a[f] / s[f] for a, s, f in zip(away, stated, free, strict=True)]


def labels(numbers: np.ndarray) -> list[str]:
    """Such as S2, atoms counted by element; "" for padding."""
    count: dict[int, int] = {}
    out = []
    for number in numbers.tolist():
        count[number] = count.get(number, 0) + 1
        out.append(f"{chemical_symbols[number]}{count[number]}" if number else "")
    return out


def print_pulls(what: str, each: list[np.ndarray]) -> None:
    """Their quantile, and how many are far off."""
    every = np.abs(np.concatenate(each))
    if not len(every):
        print(f"pulls {what}: there are none")
        return
    worst = np.array([np.abs(x).max(initial=0) for x in each])
    print(
        f"pulls {what}, {len(every)} coordinates: 68 % within {np.quantile(every, 0.683):.2f}; "
        f"{(every > 3).mean():.2%} beyond 3, {(every > 5).mean():.2%} beyond 5; "
        f"crystals with one beyond 5: {(worst > 5).sum()} of {len(worst)}"
    )


def heights(found: Fit, truth: CrystalSet) -> tuple[int, int]:
    """How many free heights there are, and how many of them are said to be undetermined."""
    said = sum(x.startswith("z of") for names in found.undetermined for x in names)
    return int((found.position_sigma[..., 2] > 1e-4).sum()), said


def arguments() -> argparse.Namespace:
    """From the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--c2db", type=Path, default=Path("../shared/data/c2db.db"))
    parser.add_argument("--crystals", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--q-max", type=float, default=1.5, help="1/angstrom")
    parser.add_argument("--pairs", type=int, default=128)
    parser.add_argument("--noise", type=float, default=0.05)
    parser.add_argument("--floor", type=float, default=1e-3)
    parser.add_argument("--heights", action="store_true", help="move atoms along the normal, too")
    parser.add_argument("--multislice", action="store_true", help="patterns by multislice")
    parser.add_argument("--method", default="kinematic", help="of the fit; or multislice")
    parser.add_argument("--once", action="store_true", help="do not measure the time")
    parser.add_argument("--starts", type=int, default=6)
    parser.add_argument("--free", action="store_true", help="without the layer group")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    options = arguments()
    rng = np.random.default_rng(options.seed)
    truth = draw(options.c2db, options.crystals, rng)
    conditions = Conditions(dx.Electrons(ENERGY), options.q_max, B_ISO, options.pairs)
    start = disturbed(truth, options.free, options.heights, rng)
    queries = observed(
        truth, conditions, options.noise, options.floor, options.multislice, rng
    )

    def refine() -> Fit:
        return fit(
            start, queries, conditions, symmetric=not options.free, starts=options.starts,
            method=options.method,
        )  # fmt: skip

    begin = time.process_time()
    found = refine()
    first = time.process_time() - begin
    begin = time.process_time()
    found = found if options.once else refine()
    again = time.process_time() - begin

    before, after = errors(start.crystal, truth), errors(found.crystals, truth)
    claimed = np.sqrt((found.position_sigma[..., :2] ** 2).sum((1, 2)) / (truth.numbers > 0).sum(1))
    table = Table("", *(f"{x:.0%}" for x in QUANTILES), title=f"{len(truth)} crystals")
    rows = {
        "error before, A": before, "error after, A": after, "its claimed uncertainty, A": claimed,
        "R1 before": found.r_before, "R1 after": found.r_factor,
        "wR2 before": found.wr2_before, "wR2 after": found.wr2,
    }  # fmt: skip
    for name, values in rows.items():
        table.add_row(name, *(f"{x:.4f}" for x in np.quantile(values, QUANTILES)))
    Console().print(table)
    spots = np.asarray(queries.measured).sum((1, 2))
    print_pulls("in the plane", pulls(found, truth))
    print_pulls("of what is determined there", pulls(found, truth, most=DISPLACEMENT / 2))
    print_pulls("along the normal", pulls(found, truth, slice(2, 3)))
    free, said = heights(found, truth)
    far = after > GOAL
    print(f"spots a pattern: {np.quantile(spots, QUANTILES).astype(int).tolist()}")
    print(f"beyond {GOAL} A: {far.mean():.1%}; of these")
    print(f"more than one minimum in {(found.minima > 1).sum()}")
    for share, what in (
        ((claimed > GOAL / 2)[far], f"claim an uncertainty over {GOAL / 2} A"),
        ((after > 3 * claimed)[far], "are off by more than three times their claim"),
        ((found.r_factor > 0.05)[far], "have R1 over 5 %: false minima"),
    ):
        print(f"  {share.mean():.0%} {what}")
    determined = [
        [f"z of {x}" not in names for x in labels(numbers)]
        for names, numbers in zip(found.undetermined, truth.numbers, strict=True)
    ]
    each = pulls(found, truth, slice(2, 3), keep=determined)
    print_pulls("of heights that are said to be determined", each)
    print(f"heights: {free} free, {said} of them ({said / max(free, 1):.0%}) said undetermined")
    print(
        f"{again / len(truth) * 1e3:.1f} ms of one core a candidate, "
        f"{first - again:.0f} s to compile"
    )


if __name__ == "__main__":
    main()
