"""The reduced basis of a lattice."""

from __future__ import annotations

import numpy as np


def reduce(lattice: np.ndarray) -> np.ndarray:
    """The integer matrix (2, 2) that takes a lattice to its Gauss-reduced basis, 90 to 120 deg."""
    change = np.eye(2, dtype=int)
    for _ in range(100):
        a, b = change @ lattice
        if a @ a > b @ b * (1 + 1e-9):
            change = change[::-1]
            continue
        steps = int(np.rint(a @ b / (a @ a)))
        if steps == 0:
            break
        change = np.array([change[0], change[1] - steps * change[0]])
    a, b = change @ lattice
    if a @ b > 1e-9:
        change = np.array([change[0], -change[1]])
    return change


def spanned(hk: np.ndarray) -> np.ndarray:
    """Basis (2, 2) of the lattice that integer vectors (K, 2) span; zeros where they do not."""
    rest, basis = np.unique(np.asarray(hk, int), axis=0), np.zeros((2, 2), int)
    for column in range(2):
        while (some := np.flatnonzero(rest[:, column])).size:
            least = some[np.argmin(np.abs(rest[some, column]))]
            pivot = rest[least].copy()
            rest = rest - (rest[:, column] // pivot[column])[:, None] * pivot
            basis[column] = pivot
            if not rest[:, column].any():
                break
    return basis
