"""A layer as ase.Atoms: in-plane lattice in xy, 15 angstrom of empty space along z."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms

VACUUM = 15.0
"""Added to the slab's thickness to give the length of the c axis, in angstrom."""


def cell_2d(a: float, b: float, gamma: float) -> np.ndarray:
    """Rows a1, a2 of an in-plane lattice: lengths in angstrom, angle in degrees; shape (2, 2)."""
    angle = np.deg2rad(gamma)
    # 15 digits of cos(90 degrees) would make a right angle a little oblique
    return np.round([[a, 0.0], [b * np.cos(angle), b * np.sin(angle)]], 10)


def make_layer(symbols: Sequence[str], cell: np.ndarray, positions: np.ndarray) -> Atoms:
    """Put atoms at Cartesian positions (N, 3), angstrom, into a cell (2, 2) centred along z."""
    positions = np.array(positions, dtype=float)
    low, high = positions[:, 2].min(), positions[:, 2].max()
    height = high - low + VACUUM
    positions[:, 2] += height / 2 - (high + low) / 2
    full = np.zeros((3, 3))
    full[:2, :2] = cell
    full[2, 2] = height
    return Atoms(list(symbols), positions=positions, cell=full, pbc=(True, True, False))
