"""Which crystals are one structure, compared on one cell: a strain tells no structures apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dd2d_jax.crystals.structures import to_atoms
from dd2d_jax.data.crystal_set import CrystalSet

if TYPE_CHECKING:
    from pymatgen.core import Structure

# Two structures are one where atoms differ by less than this, angstrom (root mean square).
SAME = 0.3
# Angstrom, of the cell in which structures are compared.
_HEIGHT = 60.0


def distinct(crystals: CrystalSet, library: CrystalSet, k: int) -> list[int]:
    """The first k of some crystals that are neither the library's nor each other's twins."""
    chosen: list[int] = []
    kept: dict[str, list[Structure]] = {}
    for i in range(len(crystals)):
        cell, formula = crystals.lattice[i].astype(float), crystals.formula[i]
        this = _on_cell(crystals, i, cell)
        if formula not in kept:
            same = np.flatnonzero(library.formula == formula)
            kept[formula] = [_on_cell(library, row, cell) for row in same]
        if not any(_alike(this, other) for other in kept[formula]):
            kept[formula].append(this)
            chosen.append(i)
        if len(chosen) == k:
            break
    return chosen


def twins(crystals: CrystalSet, i: int, library: CrystalSet) -> np.ndarray:
    """Rows of a library that hold crystal i's structure, by formula and atoms, not by cell."""
    cell = crystals.lattice[i].astype(float)
    this = _on_cell(crystals, i, cell)
    same = np.flatnonzero(library.formula == crystals.formula[i])
    return np.array([r for r in same if _alike(this, _on_cell(library, r, cell))], int)


def groups(crystals: CrystalSet, count: int) -> list[list[int]]:
    """Rows of crystals by structure, in the order of their first, until there are `count`.

    Twins of these that come later are with them.
    """
    out: list[list[int]] = []
    kept: dict[tuple, list[list[int]]] = {}
    for i in range(len(crystals)):
        key = (crystals.formula[i], int((crystals.numbers[i] > 0).sum()))
        others = kept.setdefault(key, [])
        if len(out) == count and not others:
            continue
        cell = crystals.lattice[i].astype(float)
        this = _on_cell(crystals, i, cell) if others else None
        same = next((o for o in others if _alike(this, _on_cell(crystals, o[0], cell))), None)
        if same is not None:
            same.append(i)
        elif len(out) < count:
            out.append([i])
            others.append(out[-1])
    return out


def _on_cell(crystals: CrystalSet, i: int, cell: np.ndarray) -> Structure:
    from pymatgen.io.ase import AseAtomsAdaptor  # half a second that not every pattern needs

    real = crystals.numbers[i] > 0
    positions = crystals.positions[i][real].astype(float)
    positions[:, :2] = positions[:, :2] @ np.linalg.inv(crystals.lattice[i]) @ cell
    atoms = to_atoms(cell, positions, crystals.numbers[i][real])
    atoms.cell[2, 2] = _HEIGHT
    return AseAtomsAdaptor.get_structure(atoms)


def _alike(one: Structure, other: Structure) -> bool:
    from pymatgen.analysis.structure_matcher import StructureMatcher  # see _on_cell

    if len(one) != len(other):
        return False
    # It measures distances in units of (volume / atoms)^(1/3).
    unit = (one.volume / len(one)) ** (1 / 3)
    matcher = StructureMatcher(stol=SAME / unit, primitive_cell=False)
    # Both are on one reduced cell already.
    return matcher.fit(one, other, skip_structure_reduction=True)
