"""Which crystals are one structure, compared on one cell: a strain tells no structures apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dd2d_jax.crystals.canonical import kinds_of
from dd2d_jax.crystals.structures import to_atoms
from dd2d_jax.data.crystal_set import CrystalSet

if TYPE_CHECKING:
    from pymatgen.core import Structure

# Two structures are one where atoms differ by less than this, angstrom (root mean square).
SAME = 0.3
# Angstrom between a layer and the next one of the structures that are compared. With more, the
# matcher takes longer: it tries each c that is a few degrees off.
_VACUUM = 10.0


def distinct(crystals: CrystalSet, library: CrystalSet, k: int) -> list[int]:
    """The first k of some crystals that are neither the library's nor each other's twins."""
    chosen: list[int] = []
    for i in range(len(crystals)):
        same = np.flatnonzero(library.formula == crystals.formula[i])
        known = any(_alike(crystals, i, library, row) for row in same)
        if not known and not any(_alike(crystals, i, crystals, j) for j in chosen):
            chosen.append(i)
        if len(chosen) == k:
            break
    return chosen


def twins(crystals: CrystalSet, i: int, library: CrystalSet) -> np.ndarray:
    """Rows of a library that hold crystal i's structure, by formula and atoms, not by cell."""
    same = np.flatnonzero(library.formula == crystals.formula[i])
    return np.array([row for row in same if _alike(crystals, i, library, row)], int)


def groups(crystals: CrystalSet, count: int) -> list[list[int]]:
    """Rows of crystals by structure, in the order of their first, until there are `count`.

    Twins of these that come later are with them.
    """
    out: list[list[int]] = []
    for i in range(len(crystals)):
        same = next((group for group in out if _alike(crystals, i, crystals, group[0])), None)
        if same is not None:
            same.append(i)
        elif len(out) < count:
            out.append([i])
    return out


def _alike(one: CrystalSet, i: int, other: CrystalSet, j: int) -> bool:
    """Whether two crystals are one structure, both on the cell of the first."""
    from pymatgen.analysis.structure_matcher import StructureMatcher  # takes half a second

    count = int((one.numbers[i] > 0).sum())
    if one.formula[i] != other.formula[j] or count != (other.numbers[j] > 0).sum():
        return False
    cell = one.lattice[i].astype(float)
    height = _VACUUM + max(_thickness(one, i), _thickness(other, j))
    kinds = _kinds(one, i, other, j)
    if sorted(kinds[0]) != sorted(kinds[1]):
        return False
    this = _on_cell(one, i, kinds[0], cell, height)
    that = _on_cell(other, j, kinds[1], cell, height)
    # It measures distances in units of (volume / atoms)^(1/3).
    unit = (this.volume / count) ** (1 / 3)
    matcher = StructureMatcher(stol=SAME / unit, primitive_cell=False)
    # Both are on one reduced cell already.
    return matcher.fit(this, that, skip_structure_reduction=True)


def _thickness(crystals: CrystalSet, i: int) -> float:
    return float(np.ptp(crystals.positions[i][crystals.numbers[i] > 0, 2]))


def _kinds(one: CrystalSet, i: int, other: CrystalSet, j: int) -> list[np.ndarray]:
    """Atomic numbers of the atoms of two crystals; where sites are mixed, other numbers that differ
    where elements or occupancies do."""
    pairs = [(crystals, k, crystals.numbers[k] > 0) for crystals, k in ((one, i), (other, j))]
    numbers = [crystals.numbers[k][real] for crystals, k, real in pairs]
    if one.occupancy is None and other.occupancy is None:
        return numbers
    shares = [
        np.ones(len(z)) if crystals.occupancy is None else crystals.occupancy[k][real]
        for z, (crystals, k, real) in zip(numbers, pairs, strict=True)
    ]
    kinds = 1 + kinds_of(np.concatenate(numbers), np.concatenate(shares))
    return np.split(kinds, [len(numbers[0])])


def _on_cell(
    crystals: CrystalSet, i: int, kinds: np.ndarray, cell: np.ndarray, height: float
) -> Structure:
    from pymatgen.io.ase import AseAtomsAdaptor  # see _alike

    real = crystals.numbers[i] > 0
    positions = crystals.positions[i][real].astype(float)
    positions[:, :2] = positions[:, :2] @ np.linalg.inv(crystals.lattice[i]) @ cell
    atoms = to_atoms(cell, positions, kinds)
    atoms.cell[2, 2] = height
    return AseAtomsAdaptor.get_structure(atoms)
