"""Where the beam went through, as the lattice says: nearby, or at another point of the lattice.

A pattern that is off by a lattice vector lies on the same lattice. Only its intensities tell: they
are alike at q and -q of the true origin, and of no other point.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.spatial import ConvexHull, QhullError

from dd2d_jax.lattices.search import INDEX, SUPERCELLS

# Friedel mates differ in the logarithm of their intensity by about so much.
_LIKE = 0.8
# A spot without a mate of like intensity counts as much against an origin as one with such a mate
# at this share of its own counts for it.
CHANCE = 0.4
# Origins up to so many lattice vectors away are looked at.
_REACH = 2
# Fewer spots do not tell.
_FEWEST = 8
# Another origin is at least so symmetric, and by so much more than the given one.
_SYMMETRIC, _MORE = 0.1, 0.1
# So many standard uncertainties make it doubtful, and certain. Of 500 patterns of C2DB, disturbed
# as measured ones are, and 129 images none is moved; of those a vector off 70 and 92 % are, one in
# 130 to a wrong point.
DOUBTFUL, CERTAIN = 1.5, 2.5
# Of the spots so many lie on a coarser lattice than the one through the origin, of this index at
# most, where the origin is none of its points; their indices there are multiples of a twelfth.
_ALL, _COARSEST, _PARTS = 0.9, 4, 12
# The beam is brighter than the next spot by this factor, if it is seen.
_BEAM = 3.0
# A spot counts half that is so many times the median distance from its place.
_FAR = 2.0


def alike(intensity: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(...,) 1 for intensities that are equal, towards 0 the less they could be Friedel mates'."""
    return np.exp(-(np.log(intensity / other) ** 2) / (2 * _LIKE**2))


def weights(intensity: np.ndarray) -> np.ndarray:
    """(K,) what spots count for an origin; the beam must not outweigh all others."""
    root = np.sqrt(intensity)
    return np.minimum(root, np.quantile(root, 0.9))


def offset(q: np.ndarray, hk: np.ndarray) -> np.ndarray:
    """Where (2,) a lattice through spots q (K, 2) of indices hk (K, 2) has its origin, in q's unit.

    By least squares in which spots far from their places count less.
    """
    design = np.c_[hk, np.ones(len(hk))]
    weight = np.ones((len(hk), 1))
    for _ in range(10):
        fitted = np.linalg.lstsq(design * weight, q * weight, rcond=None)[0]
        away = np.linalg.norm(q - design @ fitted, axis=1, keepdims=True)
        weight = 1 / np.hypot(1, away / (_FAR * np.median(away) + 1e-12))
    return fitted[2]


class Rival(NamedTuple):
    """A lattice point that the beam rather went through.

    Attributes:
        hk: (2,) its indices.
        significance: by how many standard uncertainties the intensities are more symmetric about
            it than about (0, 0).
    """

    hk: np.ndarray
    significance: float


def rival(hk: np.ndarray, basis: np.ndarray, intensity: np.ndarray) -> Rival | None:
    """The lattice point other than (0, 0) that the beam rather went through.

    Args:
        hk: (K, 2) indices of spots.
        basis: (2, 2) reciprocal vectors.
        intensity: (K,).

    Returns:
        None where no point is clearly more so. Of spots that all lie beside those of a coarser
        lattice through (0, 0), the nearest of their most symmetric points, with any significance.
    """
    if len(hk) < _FEWEST:
        return None
    try:
        edges = ConvexHull(hk @ basis).equations
    except QhullError:  # all on a line
        return None
    steps = np.arange(-_REACH, _REACH + 1)
    origins = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
    opposite = 2 * origins[:, None] - hk
    low = np.minimum(hk.min(0), opposite.min((0, 1)))
    rows = np.full(np.maximum(hk.max(0), opposite.max((0, 1))) - low + 1, -1)
    rows[tuple((hk - low).T)] = np.arange(len(hk))
    mate = rows[tuple(np.moveaxis(opposite - low, -1, 0))]
    positive = np.maximum(intensity, 1e-9 * intensity.max())
    like = np.where(mate >= 0, alike(positive, positive[mate]), 0.0)
    # Where nothing was measured, no mate is missing.
    within = (opposite @ basis @ edges[:, :2].T + edges[:, 2] < 1e-9).all(-1)
    tested = ((mate >= 0) | within) & (hk != origins[:, None]).any(-1)
    weight = weights(intensity)
    weight = weight / weight.sum() * tested
    score = (weight * (like - CHANCE)).sum(1)
    mean = (weight * like).sum(1) / np.maximum(weight.sum(1), 1e-12)
    # Every pair of mates is counted twice.
    variance = 2 * (weight**2 * (like - mean[:, None]) ** 2).sum(1)
    beside = _beside(hk, intensity, origins)
    if beside.any():
        # A spot that does not outshine all others is not the beam.
        spots = hk[intensity < _BEAM * np.sort(intensity)[-2]]
        spot = (spots == origins[:, None]).all(-1).any(-1)
        beside &= ~spot | spot[beside].all()
        # The nearest of those that are as symmetric.
        good = np.flatnonzero(beside & (score > score[beside].max() - _MORE))
        nearest = good[np.argmin(np.linalg.norm(origins[good] @ basis, axis=1))]
        return Rival(origins[nearest], np.inf)
    best, given = int(np.argmax(score)), len(origins) // 2
    more = score[best] - score[given]
    if score[best] < _SYMMETRIC or more < _MORE:
        return None
    return Rival(origins[best], float(more / np.sqrt(variance[best] + variance[given] + 1e-12)))


def _beside(hk: np.ndarray, intensity: np.ndarray, origins: np.ndarray) -> np.ndarray:
    """(n,) True for origins on the lattice of nearly all spots, where (0, 0) is not on it.

    A structure that shows spots shows their mates, too, and sums of them.
    """
    for index in range(_COARSEST, 1, -1):
        for matrix in SUPERCELLS[INDEX == index]:
            there, here, mates = (_class(x, matrix) for x in (hk, origins, -hk))
            classes, which = np.unique(there, axis=0, return_inverse=True)
            share = np.bincount(which.ravel(), intensity / intensity.sum())
            most = classes[share.argmax()]
            own = (there == most).all(1)
            if not most.any():
                continue
            # Mates are elsewhere if the origin is right.
            apart = not (mates[own] == most).all()
            if own.mean() >= _ALL or (apart and share.max() >= _ALL):
                return (here == most).all(1)
    return np.zeros(len(origins), bool)


def _class(hk: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """(K, 2) which of the cosets of a reciprocal sublattice indices (K, 2) are in; 0 is its own."""
    index = hk @ np.linalg.inv(matrix).T
    return np.rint(_PARTS * (index - np.floor(index + 1e-6))).astype(int)
