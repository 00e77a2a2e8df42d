"""Checks on batches of layers: contacts that are too near, and fingerprints to find repeats."""

from __future__ import annotations

import numpy as np
from ase.data import covalent_radii

MIN_CONTACT = 0.7
"""Nearest allowed distance in sums of covalent radii."""
_RANGE = 5.0  # angstrom, of the fingerprint
_CENTRES = np.array([1.6, 2.4, 3.2, 4.0])
_WIDTH = 0.5
_SAME = 0.015  # largest relative difference between fingerprints of one crystal


def distances(cells: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Distances (K, N, N, S) of all atoms to all images within reach, angstrom; self is infinite.

    Args:
        cells: (K, 2, 2); positions: (K, N, 3), angstrom.
    """
    area = np.abs(np.linalg.det(cells))
    lengths = np.linalg.norm(cells, axis=2)
    heights = area[:, None] / lengths[:, ::-1]
    n1, n2 = np.minimum(np.ceil(_RANGE / heights.min(0)).astype(int) + 1, 8)
    shifts = np.array([(p, q) for p in range(-n1, n1 + 1) for q in range(-n2, n2 + 1)])
    offset = np.einsum("si,kij->ksj", shifts, cells)
    plane = positions[:, :, None, :2] - positions[:, None, :, :2]
    z = positions[:, :, None, 2] - positions[:, None, :, 2]
    square = ((plane[:, :, :, None] + offset[:, None, None]) ** 2).sum(-1) + z[..., None] ** 2
    atoms = np.arange(positions.shape[1])
    square[:, atoms, atoms, len(shifts) // 2] = np.inf
    return np.sqrt(square)


def nearest_contact(numbers: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Smallest distance of every crystal (K,), in sums of covalent radii."""
    radii = covalent_radii[numbers]
    sums = radii[:, :, None] + radii[:, None]
    return (distance.min(-1) / sums).min((1, 2))


def fingerprint(numbers: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Smoothed pair distances by element pair for one crystal: numbers (N,), distance (N, N, S).

    Independent of the choice of cell and of the order of the atoms; mirror images agree.
    """
    elements = np.unique(numbers)
    cut = np.clip(1 - (distance / _RANGE) ** 2, 0, None)
    parts = []
    for centre in _CENTRES:
        weight = (np.exp(-(((distance - centre) / _WIDTH) ** 2)) * cut).sum(-1)
        rows = np.stack([weight[:, numbers == e].sum(1) for e in elements], axis=1)
        parts.append(np.stack([rows[numbers == e].sum(0) for e in elements]))
    return np.stack(parts).ravel() / len(numbers)


class Seen:
    """Crystals met so far, by composition."""

    def __init__(self) -> None:
        self._by_composition: dict[tuple, list[np.ndarray]] = {}

    def add(self, numbers: np.ndarray, distance: np.ndarray) -> bool:
        """Remember a crystal; False, and nothing remembered, where it was there already."""
        elements, counts = np.unique(numbers, return_counts=True)
        counts = counts // np.gcd.reduce(counts)
        key = (*elements.tolist(), *counts.tolist())
        new = fingerprint(numbers, distance)
        met = self._by_composition.setdefault(key, [])
        scale = _SAME * np.abs(new).max()
        if any(np.abs(old - new).max() < scale for old in met):
            return False
        met.append(new)
        return True
