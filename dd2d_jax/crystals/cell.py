"""Lengths and angle of a cell."""

from __future__ import annotations

import math

import numpy as np


def cell(lattice: np.ndarray) -> tuple[float, float, float]:
    """a and b in angstrom and gamma in degrees of a cell (2, 2)."""
    a, b = (float(np.linalg.norm(v)) for v in np.asarray(lattice, float))
    cosine = float(np.dot(*np.asarray(lattice, float))) / (a * b)
    return a, b, math.degrees(math.acos(max(-1.0, min(1.0, cosine))))
