"""What multiple scattering adds to kinematic intensities."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import numpy as np

import diffraction as dx
from dd2d_jax.spots import Conditions, filled, power_of_two
from diffraction.kinematic import kinematic_pattern
from diffraction.multislice import coarse_band, multislice, multislice_grid

# Patterns that are computed at once.
_CHUNK = 8


def differences(
    crystals: dx.Crystal,
    b_atoms: np.ndarray,
    hk: np.ndarray,
    tilts: np.ndarray,
    conditions: Conditions,
    say: Callable[[str], None] = lambda line: None,
) -> np.ndarray:
    """Multislice less kinematic intensities (n, P, T, 2) in angstrom^2; 0 for X-rays.

    Args:
        crystals: a batch of n, concrete.
        b_atoms: (n, N) angstrom^2.
        hk: (n, P, T, 2) rods; of each the spot and its opposite are computed.
        tilts: (n, P, 2) degrees.
        conditions: radiation, and how far rods go.
        say: is told what is being done.
    """
    count, patterns, pairs, _ = hk.shape
    out = np.zeros((count, patterns, pairs, 2), np.float32)
    if not isinstance(conditions.radiation, dx.Electrons):
        return out
    rods = np.concatenate([hk, -hk], 2)
    lattice = np.asarray(crystals.lattice, float)
    length = np.linalg.norm(hk @ np.linalg.inv(lattice).swapaxes(1, 2)[:, None], axis=-1)
    reach = float(length.max()) * 1.05
    band = coarse_band(reach, b_atoms, np.asarray(crystals.numbers))
    # Few shapes are compiled: whatever is larger than needed changes little.
    grids = np.array([[_roomy(max(multislice_grid(one, band)))] * 2 for one in lattice])
    rows = np.repeat(np.arange(count), patterns)
    which = np.tile(np.arange(patterns), count)
    chunk = min(_CHUNK, power_of_two(len(rows)))
    for grid in np.unique(grids, axis=0):
        alike = np.flatnonzero((grids[rows] == grid).all(1))
        for begin in range(0, len(alike), chunk):
            part = alike[begin : begin + chunk]
            full = filled(part, chunk)
            i, p = rows[full], which[full]
            say(f"multislice of {begin + len(part)} of {len(alike)} patterns")
            found = _difference(
                jax.tree.map(lambda x, i=i: np.asarray(x)[i], crystals),
                b_atoms[i].astype(np.float32), rods[i, p], tilts[i, p].astype(np.float32),
                conditions.radiation, reach, band, tuple(int(n) for n in grid),
            )  # fmt: skip
            found = np.asarray(found)[: len(part)].reshape(len(part), 2, pairs)
            out[rows[part], which[part]] = found.swapaxes(1, 2)
    return out


@functools.partial(jax.jit, static_argnames="grid")
def _difference(crystals, b_atoms, rods, tilts, radiation, reach, band, grid) -> jax.Array:
    options = (crystals, radiation, reach, b_atoms, tilts, rods)
    true = multislice(*options, band=band, grid=grid).intensity
    return true - kinematic_pattern(*options).intensity


def _roomy(size: int) -> int:
    """The next of a few sizes of a grid."""
    return next((n for n in (24, 32, 48, 64, 96, 128, 192, 256, 384) if n >= size), size)
