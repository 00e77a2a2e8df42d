"""Further layers of a twisted stack: turned, slightly larger or smaller copies of a lattice.

A layer of which few spots are seen has no lattice by itself that chance would not give. As a copy
of the lattice beside it, of like cell and any rotation, it has two numbers instead of four, and an
elliptic camera stretches both alike: with that stretch a nearly hexagonal or square lattice is
taken for exactly so, if copies of it then explain what nothing else does.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.spatial import cKDTree

from dd2d_jax.lattices.search import FINEST, Fit, chance, square
from dd2d_jax.lattices.stretch import stretched, symmetric_stretch
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
# Of a lattice with places further out, in steps of its vectors, any spots are a copy.
_FURTHEST = 30


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
    flat, basis = stretched(q, stretch), stretched(fit.basis, stretch)
    # A hexagonal or square lattice is its own mirror image.
    hands = [basis] if stretch else [basis, basis * [1, -1]]
    out: list[Fit] = []
    left = left & ~_strayed(fit, q)
    while len(out) < most and left.sum() >= _FEWEST:
        best = max((_copy(hand, flat[left][:_SPOTS]) for hand in hands), key=lambda x: x.score)
        if best.score < _UNLIKELY:
            break
        new = best.on(flat)
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
    turned = stretched(basis, stretch) @ [1, 1j]
    ratio, angle = abs(turned[1] / turned[0]), abs(np.degrees(np.angle(turned[1] / turned[0])))
    regular = abs(np.log(ratio)) < 1e-3 and min(abs(angle - x) for x in (60, 90, 120)) < 0.1
    return stretch if regular and abs(stretch) < _MOST else 0.0


def _copy(basis: np.ndarray, left: np.ndarray) -> Fit:
    """The copy of a basis (2, 2) that spots (n, 2) are least likely to lie on by chance."""
    size = int(np.ceil(np.sqrt(square(left).max() / square(basis).min()) * 1.3)) + 1
    nothing = best = Fit(basis, np.zeros((0, 2), int), np.zeros(0), _REACH, -np.inf)
    if size > _FURTHEST:
        return nothing
    hk = np.stack(np.meshgrid(*(np.arange(-size, size + 1),) * 2), -1).reshape(-1, 2)
    # As complex numbers: a copy is the lattice times one of these.
    own, spots = basis @ [1, 1j], left @ [1, 1j]
    factors = spots[:, None] / (hk[(hk != 0).any(1)] @ own)
    factors = np.unique(np.round(factors[abs(np.log(abs(factors))) < _LIKE], 4))
    once = _once(left)
    tried = np.log(max(len(factors), 1) / 4)

    def copy(factor: complex) -> Fit:
        made = factor * own
        return dataclasses.replace(nothing, basis=np.stack([made.real, made.imag], 1)).on(left)

    for factor in factors:
        one = copy(factor)
        for _ in range(2):
            if not one.good.any():
                break
            on = one.hk[one.good] @ own
            one = copy((on.conj() * spots[one.good]).sum() / (abs(on) ** 2).sum())
        for reach in np.maximum(_REACH / np.array([1, 2, 4]), FINEST):
            near = one.distance < reach
            # One spot gives the copy.
            value = chance((near & once).sum() - 1, once.sum() - 1, np.pi * reach**2 / one.area)
            if near.sum() >= _FEWEST and value - tried > best.score:
                best = dataclasses.replace(one, reach=float(reach), score=float(value - tried))
    return best


def _once(points: np.ndarray) -> np.ndarray:
    """(n,) True for one spot of each pair of Friedel mates, and for those without a mate."""
    apart, mate = cKDTree(points).query(-points)
    return (apart > _REACH) | (mate >= np.arange(len(points)))
