"""A superlattice's main cell, and other cells that the spots do not rule out."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from dd2d_jax.lattices.lattice import Indexed

# Spots of the main cell are stronger than satellites of like |q| by this factor, in the median.
_WEAK = 0.25


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
