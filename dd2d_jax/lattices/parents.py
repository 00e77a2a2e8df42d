"""A superlattice's main cell, and other cells that the spots do not rule out."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from dd2d_jax.lattices.reduction import reduce
from dd2d_jax.lattices.search import INDEX, SHORTEST, SUPERCELLS, shortest

if TYPE_CHECKING:
    from dd2d_jax.lattices.indexed import Indexed

# Spots of the main cell are stronger than satellites of like |q| by this factor, in the median.
_WEAK = 0.25
# So few satellites may be false spots.
_FEW = 3


def with_parent(indexed: Indexed, main: np.ndarray) -> Indexed:
    """The same with its main cell (2, 2), angstrom, and satellites, where these are weak."""
    matrix = np.rint(indexed.lattice @ np.linalg.inv(main)).astype(int)
    index = indexed.hk @ np.linalg.inv(matrix).T
    satellites = (np.abs(index - np.rint(index)) > 1e-6).any(1)
    if not satellites.any() or satellites.all():
        return indexed
    strong, weak = indexed.intensity[~satellites], indexed.intensity[satellites]
    if np.median(weak) > _WEAK * np.median(strong):
        return indexed
    return dataclasses.replace(indexed, parent=matrix, satellites=satellites)


def with_alternatives(indexed: Indexed) -> Indexed:
    """The same with the cells that its spots do not rule out.

    Where all spots lie on the reciprocal lattice of a cell too short for a crystal, its other
    superlattices of the same size; where there are few satellites, the main cell.
    """
    found = []
    if indexed.parent is not None and indexed.satellites.sum() <= _FEW:
        found.append(indexed.main)
    for matrix in SUPERCELLS[INDEX <= 4]:
        index = indexed.hk @ np.linalg.inv(matrix).T
        if (np.abs(index - np.rint(index)) > 1e-6).any():
            continue
        # matrix.T takes the reciprocal basis to the coarser one.
        small = np.linalg.inv(matrix) @ indexed.lattice
        alike = SUPERCELLS[INDEX == round(float(np.linalg.det(matrix)))]
        cells = [one.T @ small for one in alike]
        found += [
            reduce(c) @ c
            for c in cells
            if shortest(np.linalg.inv(c).T) >= SHORTEST and not _same(c, indexed.lattice)
        ]
    kept: list[np.ndarray] = []
    for cell in found:
        if not any(_same(cell, other) for other in kept):
            kept.append(cell)
    return dataclasses.replace(indexed, alternatives=tuple(kept)) if kept else indexed


def _same(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two cells are of one lattice."""
    change = first @ np.linalg.inv(second)
    return bool(np.abs(change - np.rint(change)).max() < 1e-3) and bool(
        abs(abs(np.linalg.det(change)) - 1) < 1e-3
    )
