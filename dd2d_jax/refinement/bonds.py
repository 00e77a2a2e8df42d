"""What the electrons in light atoms' bonds do to crystals' structure factors and intensities."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

import diffraction as dx
from dd2d_jax.data.crystal_set import CrystalSet
from dd2d_jax.refinement.inputs import on_lattice
from dd2d_jax.spots import Conditions
from diffraction.bonds import LIGHT, Bonds, bond_factor, find_bonds
from diffraction.kinematic import atom_factors

# The share of the bonds' electrons that is expected: free atoms, which most programs simulate, have
# 0, true ones 1.
EXPECTED = 0.5
# Rods whose intensity is less than this, relative to a strong one's, are not scaled by bonds.
FAINT = 1e-3


def amplitudes(
    crystals: CrystalSet,
    hk: np.ndarray,
    lattices: np.ndarray,
    conditions: Conditions,
    tilts: np.ndarray,
) -> np.ndarray:
    """What bonds add to F, complex (n, K), of n crystals; angstrom for electrons.

    Args:
        crystals: n, their fractional coordinates count.
        hk: (n, K, 2) rods.
        lattices: (n, 2, 2) on which they are, angstrom.
        conditions: radiation and B.
        tilts: (n, 2) degrees as in `dx.simulate`.
    """
    out = np.zeros(hk.shape[:2], np.complex64)
    for row, bonds in _with_bonds(crystals):
        q = _vectors(hk[row], lattices[row], conditions, tilts[row])
        squared = (q**2).sum(-1)
        parts = bonds.middle[:, :2] @ np.linalg.inv(np.asarray(crystals.lattice[row], float))
        turns = hk[row] @ parts.T + np.outer(q[:, 2], bonds.middle[:, 2])
        factor = np.asarray(bond_factor(conditions.radiation, 1.0, squared))
        damped = factor * np.exp(-conditions.b_iso * squared / 4)
        out[row] = damped * (np.exp(2j * np.pi * turns) @ bonds.electrons)
    return out


def ratios(
    crystals: CrystalSet,
    hk: np.ndarray,
    lattices: np.ndarray,
    conditions: Conditions,
    tilts: np.ndarray,
    share: np.ndarray,
) -> np.ndarray:
    """Kinematic intensities (n, K) with a share (n,) of the bonds' electrons over those of free
    atoms; 1 where these scatter next to nothing.

    Args: as of `amplitudes`.
    """
    bonds = share[:, None] * amplitudes(crystals, hk, lattices, conditions, tilts)
    batch, out = crystals.crystal, np.ones(hk.shape[:2])
    for row in np.flatnonzero(bonds.any(1)):
        moved = on_lattice(batch[row], lattices[row])
        q = _vectors(hk[row], lattices[row], conditions, tilts[row])
        # Cells may be so far off that rods lie beyond the form factors: no `dx.structure_factor`.
        real, imaginary = atom_factors(moved, q, conditions.radiation, conditions.b_iso)
        free = np.asarray(real).sum(-1) + 1j * np.asarray(imaginary).sum(-1)
        seen = np.abs(free) ** 2 > FAINT * np.abs(free).max() ** 2
        out[row, seen] = np.abs(1 + bonds[row, seen] / free[seen]) ** 2
    return out


def _with_bonds(crystals: CrystalSet) -> Iterator[tuple[int, Bonds]]:
    """Rows of crystals that have bonds of light atoms, and these."""
    for row in np.flatnonzero(np.isin(crystals.numbers, LIGHT).sum(1) > 1):
        occupancy = None if crystals.occupancy is None else crystals.occupancy[row]
        bonds = find_bonds(
            crystals.lattice[row], crystals.numbers[row], crystals.positions[row], occupancy
        )
        if len(bonds.electrons):
            yield int(row), bonds


def _vectors(
    hk: np.ndarray, lattice: np.ndarray, conditions: Conditions, tilt: np.ndarray
) -> np.ndarray:
    """Scattering vectors (K, 3) of one crystal's rods (K, 2), 1/angstrom."""
    flat = (hk @ np.linalg.inv(np.asarray(lattice, float)).T).astype(np.float32)
    height = dx.ewald_qz(flat, conditions.radiation.wavelength, np.asarray(tilt, np.float32))
    return np.c_[flat, np.nan_to_num(height)]
