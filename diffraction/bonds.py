"""Valence electrons in the bonds of light atoms, which form factors of free atoms leave out.

Between atoms of boron, carbon and nitrogen the density of electrons has a maximum at the middle of
the bond, which free atoms do not have there. It is taken for a Gaussian; the electrons come from
around it, such that neither their number nor their second moment changes. So a bond does next to
nothing at small q, where charges moved from atom to atom count as much. Its three numbers were
fitted to structure factors of graphene, h-BN and g-C3N4 beyond 0.4/angstrom by density-functional
theory (`benchmarks/bonds.py`; PBE, all electrons).
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffraction.crystal import Crystal
from diffraction.radiation import Electrons, Radiation

# Electrons of a bond's Gaussian, its B, exp(-B q^2 / 4), and by how much that of where they come
# from is larger.
_ELECTRONS, _B, _AROUND = 0.85, 13.5, 30.0
# Atomic numbers of atoms that have such bonds, and how long these are, angstrom. Boron has bonds of
# three atoms with its like.
LIGHT, _BORON, _LENGTHS = (5, 6, 7), 5, (0.9, 1.75)
# f_e = this (Z - f_x) / q^2, angstrom (Mott and Bethe): m e^2 / (2 pi eps_0 h^2).
_MOTT_BETHE = 0.0957378
# Atoms whose neighbours are looked for at once.
_AT_ONCE = 512


class Bonds(NamedTuple):
    """The M bonds of one crystal's light atoms.

    Attributes:
        middle: (M, 3) angstrom.
        electrons: (M,) that each has beyond free atoms.
        ends: (M, 2) its atoms.
    """

    middle: np.ndarray
    electrons: np.ndarray
    ends: np.ndarray


def find_bonds(
    lattice: np.ndarray,
    numbers: np.ndarray,
    positions: np.ndarray,
    occupancy: np.ndarray | None = None,
) -> Bonds:
    """Bonds of one crystal's light atoms; those of mixed sites hold as many electrons as are there.

    Args: as of `Crystal`, without batch axes; concrete.
    """
    lattice, positions = np.asarray(lattice, float), np.asarray(positions, float)
    numbers = np.asarray(numbers)
    light = np.flatnonzero(np.isin(numbers, LIGHT))
    there = np.ones(len(numbers)) if occupancy is None else np.asarray(occupancy, float)
    found = []
    for start in range(0, len(light), _AT_ONCE):
        near = light[start : start + _AT_ONCE]
        apart = positions[light] - positions[near][:, None]
        # Atoms may stand outside of the cell.
        parts = apart[..., :2] @ np.linalg.inv(lattice)
        parts -= np.rint(parts)
        for image in itertools.product((-1, 0, 1), repeat=2):
            apart[..., :2] = (parts + image) @ lattice
            length = np.linalg.norm(apart, axis=-1)
            bonded = (length > _LENGTHS[0]) & (length < _LENGTHS[1])
            bonded &= (numbers[near] != _BORON)[:, None] | (numbers[light] != _BORON)
            i, j = np.nonzero(bonded)
            found.append((positions[near[i]] + apart[i, j] / 2, near[i], light[j]))
    if not found:
        return Bonds(np.zeros((0, 3)), np.zeros(0), np.zeros((0, 2), int))
    middle, first, second = (np.concatenate(x) for x in zip(*found, strict=True))
    # Each bond is met from both of its ends.
    electrons = _ELECTRONS / 2 * there[first] * there[second]
    return Bonds(middle, electrons, np.stack([first, second], -1))


def bonds_of(crystal: Crystal) -> Bonds:
    """The same of a crystal or a batch (...): arrays (..., M, .), padded with 0 electrons.

    Raises:
        ValueError: the crystal is traced.
    """
    parts = (crystal.lattice, crystal.numbers, crystal.positions, crystal.occupancy)
    if any(isinstance(x, jax.core.Tracer) for x in parts):
        raise ValueError("bonds are found in a concrete crystal: it may not be traced")
    batch = crystal.numbers.shape[:-1]
    flat = [
        None if x is None else np.asarray(x).reshape(-1, *x.shape[len(batch) :]) for x in parts
    ]
    each = [
        find_bonds(*(None if x is None else x[i] for x in flat)) for i in range(len(flat[1]))
    ]
    most = max((len(one.electrons) for one in each), default=0)

    def padded(values: list[np.ndarray]) -> np.ndarray:
        wide = [np.pad(x, [(0, most - len(x))] + [(0, 0)] * (x.ndim - 1)) for x in values]
        return np.stack(wide).reshape(*batch, most, *values[0].shape[1:])

    return Bonds(*(padded(list(x)) for x in zip(*each, strict=True)))


def bond_factor(radiation: Radiation, electrons: jax.Array, q_squared: jax.Array) -> jax.Array:
    """What a bond's electrons add to F, less what they leave behind; broadcast.

    Args:
        radiation: electrons (angstrom) or X-rays (electrons), as in `form_factor`.
        electrons: (...) in the bond.
        q_squared: (...) |q|^2 in 1/angstrom^2.
    """
    # As q^4 at small q.
    around = -jnp.expm1(-_AROUND / 4 * q_squared)
    gained = electrons * jnp.exp(-_B / 4 * q_squared) * around**2
    if not isinstance(radiation, Electrons):
        return gained
    return -_MOTT_BETHE * gained / jnp.maximum(q_squared, 1e-9)
