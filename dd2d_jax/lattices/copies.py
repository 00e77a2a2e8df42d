"""Further layers of a twisted stack: turned, slightly larger or smaller copies of a lattice.

A layer of which few spots are seen has no lattice by itself that chance would not give. As a copy
of the lattice beside it, of like cell and any rotation, it has two numbers instead of four, and an
elliptic camera stretches both alike: with that stretch a nearly hexagonal or square lattice is
taken for exactly so, if copies of it then explain what nothing else does.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from dd2d_jax.lattices.search import FINEST, Fit, chance, square
from dd2d_jax.lattices.stretch import symmetric_stretch
from dd2d_jax.util.errors import PatternError

# Cells that count as like (logarithm of the lengths' ratio), and the largest stretch.
_LIKE, _MOST = 0.1, 0.045
# The strongest of the spots left, and how unlikely (logarithm) they have to be by chance.
_SPOTS, _UNLIKELY = 30, 6.0
# A copy has so many spots; Friedel mates count once for how unlikely it is.
_FEWEST = 5
# Spots this near (share of |q|) to an empty place of the lattice are its own: cameras bend.
_NEAR = 0.06
# How far from its place a spot of a copy may lie at most, 1/angstrom.
_REACH = 0.012


def copies(fit: Fit, q: np.ndarray, left: np.ndarray, most: int) -> tuple[complex, list[Fit]]:
    """The stretch, and copies of a lattice that explain spots which are on none.

    Args:
        fit: the lattice.
        q: (K, 2) spots, strongest first, 1/angstrom.
        left: (K,) True for spots on no lattice.
        most: number of copies at most.

    Returns:
        The stretch a that straightens q as q + a q*, 0 where none is needed, and the copies, of
        spots so straightened. None where what is found may be chance.
    """
    stretch = _to_symmetric(fit.basis)
    turned = q @ [1, 1j] + stretch * (q @ [1, -1j])
    basis = fit.basis @ [1, 1j] + stretch * (fit.basis @ [1, -1j])
    # A hexagonal or square lattice is its own mirror image.
    hands = [basis] if stretch is not None and stretch != 0 else [basis, basis.conj()]
    out: list[Fit] = []
    left = left & ~_strayed(fit, q)
    flat = np.stack([turned.real, turned.imag], 1)
    while len(out) < most and left.sum() >= _FEWEST:
        best = max((_copy(hand, turned[left][:_SPOTS]) for hand in hands), key=lambda x: x[0])
        if best[0] < _UNLIKELY:
            break
        made = np.stack([best[1].real, best[1].imag], 1)
        new = Fit(made, np.zeros((0, 2), int), np.zeros(0), best[2], best[0]).on(flat)
        if (new.good & left).sum() < _FEWEST:
            break
        out.append(new)
        left &= ~new.good
    return (stretch, out) if out else (0.0, [])


def _strayed(fit: Fit, q: np.ndarray) -> np.ndarray:
    """(K,) True for spots near one of the lattice's places that has no spot of its own."""
    near = fit.distance < _NEAR * np.sqrt(square(q))
    taken = {tuple(one) for one in fit.hk[fit.good].tolist()}
    return near & np.array([tuple(one) not in taken for one in fit.hk.tolist()], bool)


def _to_symmetric(basis: np.ndarray) -> complex:
    """The stretch that makes a lattice hexagonal or square; 0 where it is far from both."""
    try:
        stretch = symmetric_stretch(basis)
    except PatternError:
        return 0.0
    turned = basis @ [1, 1j]
    turned = turned + stretch * turned.conj()
    ratio, angle = abs(turned[1] / turned[0]), abs(np.degrees(np.angle(turned[1] / turned[0])))
    regular = abs(np.log(ratio)) < 1e-3 and min(abs(angle - x) for x in (60, 90, 120)) < 0.1
    return stretch if regular and abs(stretch) < _MOST else 0.0


def _copy(basis: np.ndarray, left: np.ndarray) -> tuple[float, np.ndarray, float]:
    """The copy that explains most of the spots left (n,), complex: - log chance, basis, reach."""
    size = int(np.ceil(abs(left).max() / abs(basis).min() * 1.3)) + 1
    hk = np.stack(np.meshgrid(*(np.arange(-size, size + 1),) * 2), -1).reshape(-1, 2)
    places = hk[(hk != 0).any(1)] @ basis
    factor = left[:, None] / places
    factor = np.unique(np.round(factor[abs(np.log(abs(factor))) < _LIKE], 4))
    points = np.stack([left.real, left.imag], 1)
    area = abs((basis[0].conj() * basis[1]).imag)
    once = _once(points)
    best = (-np.inf, basis, _REACH)
    tried = np.log(max(len(factor), 1) / 4)
    for one in factor:
        for _ in range(2):
            indices, distance = _indexed(one * basis, left)
            near = distance < _REACH
            if not near.any():
                break
            on = indices[near] @ basis
            one = (on.conj() * left[near]).sum() / (abs(on) ** 2).sum()
        _, distance = _indexed(one * basis, left)
        for reach in (_REACH, _REACH / 2, _REACH / 4):
            reach = max(reach, FINEST)
            near = distance < reach
            # One spot gives the copy.
            value = chance((near & once).sum() - 1, once.sum() - 1, np.pi * reach**2 / area)
            if near.sum() >= _FEWEST and value - tried > best[0]:
                best = (float(value - tried), one * basis, reach)
    return best


def _indexed(basis: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nearest indices (n, 2) of complex q (n,), and the distance from there; never the origin."""
    rows = np.stack([basis.real, basis.imag], 1)
    points = np.stack([q.real, q.imag], 1)
    hk = np.rint(points @ np.linalg.inv(rows))
    distance = np.sqrt(square(points - hk @ rows))
    distance[(hk == 0).all(1)] = np.inf
    return hk, distance


def _once(points: np.ndarray) -> np.ndarray:
    """(n,) True for one spot of each pair of Friedel mates, and for those without a mate."""
    apart, mate = cKDTree(points).query(-points)
    return (apart > _REACH) | (mate >= np.arange(len(points)))
