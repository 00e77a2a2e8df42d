"""Spots of ideal lattices, for tests of what finds them."""

import numpy as np

import diffraction as dx

CELL = np.array([[3.18, 0.0], [-1.59, 2.754]])


def pattern(q, intensity) -> dx.Pattern:
    return dx.Pattern(q, intensity, np.zeros(q.shape, int), np.ones(len(q), bool))


def places(cell: np.ndarray, q_max: float) -> np.ndarray:
    """q (K, 2) of all reflections but the central beam."""
    hk = np.stack(np.meshgrid(*(np.arange(-12, 13),) * 2), -1).reshape(-1, 2)
    q = hk @ np.linalg.inv(cell).T
    length = np.linalg.norm(q, axis=1)
    return q[(length > 0.02) & (length < q_max)]
