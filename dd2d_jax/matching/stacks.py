"""Stacks of shifted layers: the layer's cell, most of whose rods show no spot.

In rhombohedral Bi2Se3 each layer is shifted by a third of the cell's diagonal against the one below
it, in black phosphorus by half a cell. Waves of such layers cancel in two rods of three, or in one
of two, and the spots that are left are those of a smaller cell. Their intensities are a single
layer's.

Without any shift, too, two rods of three may show no spot: in 1T-TiSe2 titanium and selenium nearly
cancel there.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from dd2d_jax.lattices.indexed import Indexed
from dd2d_jax.lattices.reduction import reduce, spanned
from dd2d_jax.lattices.search import INDEX, SUPERCELLS, possible
from dd2d_jax.matching.superlattice import Superlattice, mains

# Of so many rods of a layer one shows a spot.
_LEFT = (2, 3)
# Cells of a layer that are tried.
_TRIED = 3
# Spots, at least.
_FEWEST = 6
# Changes of a reduced basis, and how far what they leave as it is may be off: cameras are elliptic.
_CHANGES = np.array(list(itertools.product((-1, 0, 1), repeat=4))).reshape(-1, 2, 2)
_CHANGES = _CHANGES[np.abs(np.linalg.det(_CHANGES)).round() == 1]
_ALIKE = 0.06


@dataclasses.dataclass(frozen=True)
class Stack:
    """A pattern as that of layers shifted against each other, or of one that seems to be.

    Attributes:
        layer: the spots in a layer's cell; see `Indexed.stacked`, which is False where the other
            rods are only weak.
        above: what the weak spots between them are, those of rods that do not cancel completely;
            None where there are none.
    """

    layer: Indexed
    above: Superlattice | None = None


def stacks(indexed: Indexed) -> list[Stack]:
    """Cells of layers that a pattern may be a stack of, at most three, and those of three times its
    area again, of a layer whose other rods are weak; [] where it has few spots.

    Their symmetry is not lower than that of the spots that are seen: behind a hexagonal cell there
    may be a hexagonal one whose layers are shifted by a third, behind a square one a square one.
    """
    # These take a lattice to the cells that it is a superlattice of, their transposes to its own.
    matrices = SUPERCELLS[np.isin(INDEX, _LEFT)]
    found = []
    for one in mains(indexed, matrices):
        if _may_be(one.matrix, one.parent.lattice):
            found.append(Stack(_layer(one.parent, indexed.lattice), one))
    basis = spanned(indexed.hk)
    if not np.linalg.det(basis):
        return []
    small = np.linalg.inv(basis.T) @ indexed.lattice
    small = reduce(small) @ small
    found += [
        Stack(_layer(indexed, matrix.T @ small)) for matrix in matrices if _may_be(matrix.T, small)
    ]
    found = [one for one in found if len(one.layer.hk) >= _FEWEST]
    found.sort(key=lambda one: -_symmetry(one.layer.lattice))
    found = found[:_TRIED]
    # Cells of twice the area are tried anyway, see `canonical_spots`.
    large = 2.5 * abs(np.linalg.det(indexed.lattice))
    weak = [
        Stack(dataclasses.replace(one.layer, stacked=False))
        for one in found
        if one.above is None and abs(np.linalg.det(one.layer.lattice)) > large
    ]
    return found + weak


def _may_be(matrix: np.ndarray, small: np.ndarray) -> bool:
    """Whether a layer may have the cell `matrix @ small` if spots have the cell `small` (2, 2)."""
    cell = matrix @ small
    return possible(cell) and _symmetry(cell) >= _symmetry(small)


def _symmetry(cell: np.ndarray) -> int:
    """Rotations and mirrors of a lattice: 12 of a hexagonal one, 8, 4, or 2 of an oblique one."""
    cell = reduce(cell) @ cell
    metric = cell @ cell.T
    again = _CHANGES @ metric @ _CHANGES.swapaxes(1, 2)
    size = np.sqrt(np.outer(np.diag(metric), np.diag(metric)))
    return int((np.abs(again - metric) < _ALIKE * size).all((1, 2)).sum())


def _layer(indexed: Indexed, cell: np.ndarray) -> Indexed:
    cell = reduce(cell) @ cell
    hk = np.rint(indexed.hk @ np.linalg.inv(indexed.lattice).T @ cell.T).astype(int)
    return dataclasses.replace(
        indexed, lattice=cell, hk=hk, parent=None, satellites=None, alternatives=(), stacked=True
    )
