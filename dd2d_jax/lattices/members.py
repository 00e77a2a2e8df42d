"""Which spots are a lattice's once it stands: each judged with its own uncertainty."""

from __future__ import annotations

import numpy as np

from dd2d_jax.lattices.search import FINEST, Fit, square
from dd2d_jax.lattices.warp import Warp, straight

# This share of true spots has an uncertainty larger by this factor: overlaps, saturated cores.
_SHARE, _WIDER = 0.15, 5.0
# A spot may be this far from its place, as a share of the shortest reciprocal vector.
_FARTHEST = 0.2
# No list is so clean or so bad that fewer than these shares are false or true.
_CLEAN = 0.03


def settle(
    fit: Fit, q: np.ndarray, noise: np.ndarray, others: np.ndarray, farthest: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Warp]:
    """Fit a lattice to all spots that are its own, with origin and radial term where they help.

    Args:
        fit: the lattice.
        q: (K, 2) strongest first, 1/angstrom.
        noise: (K,) relative positional uncertainties; 1 is usual.
        others: (K,) True for spots on another lattice.
        farthest: how far a spot may lie from its place at most, 1/angstrom.

    Returns:
        Reciprocal basis (2, 2), indices (K, 2), a mask (K,) of the lattice's spots, and the warp.
    """
    basis, warp, good = fit.basis, Warp(), fit.good
    hk = fit.hk
    limit = min(farthest, _FARTHEST * float(np.sqrt(square(basis).min())))
    for _ in range(3):
        if good.sum() < 3 or np.linalg.matrix_rank(hk[good]) < 2:
            break
        new = straight(q[good], hk[good], 1 / noise[good] ** 2)
        if not _near(new.basis, basis):
            break
        basis, warp = new.basis, new.warp
        flat = warp(q)
        hk = np.rint(flat @ np.linalg.inv(basis)).astype(int)
        distance = np.sqrt(square(flat - hk @ basis))
        distance[(hk == 0).all(1)] = np.inf
        good = _own(distance, noise, good, others, basis, max(limit, fit.reach), fit.reach)
        # Those that are near enough without their uncertainty may be measured twice.
        good = _one_each(hk, distance / noise, good) | (good & (distance < fit.reach))
    return basis, hk, good, warp


def _near(new: np.ndarray, old: np.ndarray) -> bool:
    change = new @ np.linalg.inv(old)
    return bool(np.abs(change - np.eye(2)).max() < 0.05)


def _own(
    distance: np.ndarray,
    noise: np.ndarray,
    good: np.ndarray,
    others: np.ndarray,
    basis: np.ndarray,
    limit: float,
    reach: float,
) -> np.ndarray:
    """(K,) True for spots that are more likely the lattice's than anywhere in its cell."""
    cell = abs(np.linalg.det(basis))
    # The median of a 2D Gaussian's radius is 1.18 sigma.
    spread = max(float(np.median((distance / noise)[good])) / 1.18, 0.25 * FINEST)
    sigma = spread * noise
    near = np.minimum(distance, 10 * limit)

    def gaussian(width: np.ndarray) -> np.ndarray:
        return np.exp(-0.5 * (near / width) ** 2) / (2 * np.pi * width**2)

    density = (1 - _SHARE) * gaussian(sigma) + _SHARE * gaussian(_WIDER * sigma)
    # Among the spots about as strong.
    window = max(12, len(distance) // 5)
    kernel = np.ones(min(window, len(distance)))
    kind = good.astype(float)
    share = np.convolve(kind, kernel, "same") / np.convolve(np.ones(len(kind)), kernel, "same")
    share = np.clip(share, _CLEAN, 1 - _CLEAN)
    own = (share * density * cell > 1 - share) & (distance < limit)
    return np.where(others, own & (distance < reach), own)


def _one_each(hk: np.ndarray, away: np.ndarray, good: np.ndarray) -> np.ndarray:
    """The same with the nearest spot of each place only."""
    order = np.argsort(np.where(good, away, np.inf), kind="stable")
    _, first = np.unique(hk[order], axis=0, return_index=True)
    out = np.zeros(len(hk), bool)
    out[order[first]] = True
    return out & good
