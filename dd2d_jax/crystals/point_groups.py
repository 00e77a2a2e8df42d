"""Point groups of layers, how near they are to each other, and which one is taken for which."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import ase
import numpy as np
import spglib
from scipy.cluster.hierarchy import linkage

# Angstrom. With it the layer groups of C2DB's relaxed crystals come out as C2DB gives them.
TOLERANCE = 0.1
# Finer ones where the search fails at the first.
_TOLERANCES = (TOLERANCE, 0.01, 0.001)
_HALL_NUMBERS = 530
# Space groups from this one to that one have hexagonal axes in their first setting.
_HEXAGONAL = (143, 194)


def point_group(atoms: ase.Atoms) -> str:
    """International symbol of a layer's point group, symmetry sought to within `TOLERANCE`.

    Args:
        atoms: a layer with its normal along c; lengths in angstrom.

    Returns:
        One of the 32 symbols; "1" also where spglib finds no symmetry at any tolerance.
    """
    cell = (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
    for tolerance in _TOLERANCES:
        found = spglib.get_symmetry_layerdataset(cell, aperiodic_dir=2, symprec=tolerance)
        if found is not None:
            return found.pointgroup
    return "1"


@functools.cache
def _standard_settings() -> dict[str, int]:
    """The first Hall number of each point group: that of its symmorphic primitive space group."""
    first: dict[str, int] = {}
    for hall in range(1, _HALL_NUMBERS + 1):
        first.setdefault(spglib.get_spacegroup_type(hall).pointgroup_international, hall)
    return first


@functools.cache
def operations(symbol: str) -> frozenset[tuple[float, ...]]:
    """Rotations of a point group in its standard setting, as rows of Cartesian 3 x 3 matrices.

    Raises:
        ValueError: no point group of that name.
    """
    settings = _standard_settings()
    if symbol not in settings:
        raise ValueError(f"point group {symbol!r} is unknown; one of {', '.join(settings)}")
    hall = settings[symbol]
    rotations = spglib.get_symmetry_from_database(hall)["rotations"]
    number = spglib.get_spacegroup_type(hall).number
    axes = np.eye(3)
    if _HEXAGONAL[0] <= number <= _HEXAGONAL[1]:
        axes[:, 1] = -0.5, np.sqrt(0.75), 0
    cartesian = axes @ rotations @ np.linalg.inv(axes)
    # Adding zero makes -0 the same as 0.
    return frozenset(tuple((np.round(r, 6) + 0.0).ravel().tolist()) for r in cartesian)


def distance(one: str, other: str) -> float:
    """Jaccard distance of two point groups' operations: 0 for the same."""
    a, b = operations(one), operations(other)
    return 1 - len(a & b) / len(a | b)


def tree(symbols: Sequence[str]) -> np.ndarray:
    """Hierarchical clustering of m >= 2 point groups by `distance`, average linkage.

    Returns:
        (m - 1, 4), as scipy.cluster.hierarchy has it, leaves in their best order.
    """
    count = len(symbols)
    apart = [distance(symbols[i], symbols[j]) for i in range(count) for j in range(i + 1, count)]
    return linkage(np.array(apart), "average", optimal_ordering=True)


def counts(true: np.ndarray, predicted: np.ndarray, symbols: Sequence[str]) -> np.ndarray:
    """How often group i was the true one and group j that of a candidate, (m, m).

    Args:
        true: (q,) symbols.
        predicted: (q, k) symbols of each query's candidates.
        symbols: the m symbols of rows and columns.
    """
    place = {symbol: i for i, symbol in enumerate(symbols)}
    out = np.zeros((len(symbols), len(symbols)), int)
    for row, candidates in zip(true, predicted, strict=True):
        for candidate in candidates:
            out[place[row], place[candidate]] += 1
    return out
