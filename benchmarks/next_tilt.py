"""Measures how often the tilt that is proposed next decides what one pattern leaves open.

    python benchmarks/next_tilt.py --library DIR [--queries 100] [--draws 600]
        [--sizes 1 2 4 10 20] [--seed 0]

A query is the pattern of a crystal of the library along its normal (80 kV, B = 0.5 A^2,
q_max = 1.25 1/A; cell off by N(0, 1 %), atoms by N(0, 0.03 A) in the plane and N(0, 0.05 A) in
height, intensities times lognormal(0.2), spots above 0.1 % of the strongest). It is ambiguous
where the evidence does not put the true crystal first among the 16 whose cells are nearest. Those
get a second pattern, at the proposed tilt, at random ones of the same size, and at none; the
evidence of both together decides. Each is repeated with other noise, and the mean is taken: one
pattern of each tells more of the noise than of the tilt.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import diffraction as dx  # noqa: E402
from dd2d_jax.data.crystal_set import CrystalSet  # noqa: E402
from dd2d_jax.libraries.library import Library  # noqa: E402
from dd2d_jax.matching.evidence import log_evidence  # noqa: E402
from dd2d_jax.matching.hypotheses import measured  # noqa: E402
from dd2d_jax.matching.next_tilt import next_tilt  # noqa: E402
from dd2d_jax.matching.score import strain_between  # noqa: E402
from dd2d_jax.spots import Conditions, Spots, both_sides, half_plane, select  # noqa: E402

CONDITIONS = Conditions(dx.Electrons(80.0), 1.25, 0.5, 64)
NEAREST, MOST_ATOMS = 16, 32
FLOOR, NOISE = 1e-3, 0.2
ROOM = 512
# Second patterns of each kind.
REPEATS = 8


def disturbed(crystals: CrystalSet, rng: np.random.Generator) -> dx.Crystal:
    """One crystal with its cell and atoms off, as a batch."""
    stretch = 1 + rng.normal(0, 0.01)
    moves = rng.normal(0, [0.03, 0.03, 0.05], crystals.positions.shape)
    moves[crystals.numbers == 0] = 0
    positions = crystals.positions * [stretch, stretch, 1] + moves
    return dx.Crystal(
        jnp.asarray(crystals.lattice * stretch, jnp.float32),
        jnp.asarray(positions, jnp.float32),
        jnp.asarray(crystals.numbers),
    )


def observed(crystal: dx.Crystal, tilt: np.ndarray, rng: np.random.Generator) -> Spots:
    """Its spots (T,) at a tilt, on the lattice that the crystal has."""
    hk = half_plane(np.asarray(crystal.lattice), CONDITIONS.q_max)
    hk = np.pad(hk, [(0, 0), (0, ROOM - hk.shape[1]), (0, 0)])
    q, intensity = both_sides(crystal, hk, CONDITIONS, tilt=jnp.asarray(tilt, jnp.float32))
    intensity = np.asarray(intensity) * np.exp(rng.normal(0, NOISE, intensity.shape))
    seen = intensity > FLOOR * intensity.max()
    spots = select(q[..., 0, :], jnp.asarray(hk), jnp.asarray(intensity, jnp.float32),
                    jnp.asarray(seen), CONDITIONS.tokens)  # fmt: skip
    spots = dataclasses.replace(spots, lattice=crystal.lattice)
    return jax.tree.map(lambda x: x[0], spots)


def nearest(lattices: np.ndarray, lattice: np.ndarray, own: int) -> np.ndarray:
    """Rows of the crystals whose cells are nearest, the true one's first."""
    stretch, shear = (np.asarray(x) for x in strain_between(lattices, lattice))
    away = np.abs(stretch) + 3 * shear
    away[own] = -1
    return np.argsort(away)[:NEAREST]


def as_found(crystals: CrystalSet, query: Spots, log: np.ndarray) -> SimpleNamespace:
    """Candidates with their probabilities, in the pattern's own frame."""
    share = np.exp(log - log.max())
    share /= share.sum()
    own = SimpleNamespace(lattice=np.asarray(query.lattice))
    candidates = [
        SimpleNamespace(
            structure=jax.tree.map(np.asarray, crystals.crystal[i]).to_ase(),
            axes=np.eye(2), query=own, b_iso=CONDITIONS.b_iso, probability=share[i],
        )
        for i in range(len(crystals))
    ]  # fmt: skip
    return SimpleNamespace(candidates=candidates, indexed=own)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", type=Path, required=True)
    parser.add_argument("--queries", type=int, default=100, help="ambiguous ones")
    parser.add_argument("--draws", type=int, default=600, help="at most")
    parser.add_argument(
        "--sizes", type=float, nargs="+", default=[1.0, 2.0, 4.0, 10.0, 20.0], help="degrees"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    library = Library.load(options.library).crystals
    lattices = np.asarray(library.lattice)
    right: dict[str, list[float]] = {}
    drawn = 0
    for row in rng.permutation(len(lattices))[: options.draws]:
        rows = nearest(lattices, lattices[row], row)
        crystals = library.take(rows)
        if (crystals.numbers > 0).sum(1).max() > MOST_ATOMS:
            continue
        drawn += 1
        true = disturbed(crystals.take([0]), rng)

        def evidence(tilt, true=true, crystals=crystals):
            tilt = np.asarray(tilt, float)
            query = observed(true, tilt, rng)
            tilts = np.tile(tilt, (len(crystals), 1))
            return query, log_evidence(crystals, query, CONDITIONS, measured(0.01), tilts)

        query, first = evidence((0, 0))
        if first.argmax() == 0:
            continue
        found = as_found(crystals, query, first)
        angles = 2 * np.pi * (rng.random() + np.arange(REPEATS) / REPEATS)
        around = np.stack([np.cos(angles), np.sin(angles)], -1)
        tilts = {"at no tilt": np.zeros((REPEATS, 2))}
        for size in options.sizes:
            proposed = next_tilt(found, CONDITIONS.radiation, size).tilt
            tilts[f"at the proposed tilt of {size:g} degrees"] = np.tile(proposed, (REPEATS, 1))
            tilts[f"at random tilts of {size:g} degrees"] = size * around
        for name, some in tilts.items():
            decided = [(first + evidence(tilt)[1]).argmax() == 0 for tilt in some]
            right.setdefault(name, []).append(float(np.mean(decided)))
        count = len(right["at no tilt"])
        if count % 10 == 0:
            print(count, {k: round(sum(v), 1) for k, v in right.items()}, flush=True)
        if count >= options.queries:
            break
    count = len(right.get("at no tilt", ()))
    print(f"{count} ambiguous of {drawn} queries; the true crystal is first after a second pattern")
    for name, values in right.items():
        print(f"  {name}: {np.sum(values):.1f} ({np.mean(values):.0%})")


if __name__ == "__main__":
    main()
