"""How many lattices a list of spots needs: one, its superlattice, or several.

An explanation costs what it could have explained by chance: two small cells win against the large
one that holds both, a superlattice wins where a second lattice would explain less.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from dd2d_jax.lattice_search import (
    FINEST,
    MAX_AREA,
    Fit,
    chance,
    polish,
    search,
    square,
    superlattice,
)

# Logarithms of how unlikely by chance a superlattice and a whole lattice have to be.
_SUPERLATTICE, _LATTICE = 5.0, 5.0
# A further lattice is looked for where this many spots and this share of them are left.
_LEFT, _LEFT_SHARE = 6, 0.15
# Vectors of each lattice whose sums are double diffraction.
_BEAMS = 24
# A cell larger than this (angstrom^2) with fewer of its places seen than this may be a moire.
_LARGE, _SEEN = 40.0, 0.35


@dataclasses.dataclass(frozen=True)
class Explained:
    """Lattices that explain a list of spots together.

    Attributes:
        fits: the one with most spots first.
        doubled: (K,) True for spots on none of them, but at sums of their vectors.
    """

    fits: list[Fit]
    doubled: np.ndarray

    @property
    def spots(self) -> np.ndarray:
        """(K,) True for every spot that is explained."""
        return np.any([f.good for f in self.fits], axis=0) | self.doubled


def explain(q: np.ndarray, weight: np.ndarray, tolerance: float, most: int) -> Explained:
    """The lattices, at most `most`, that explain spots q (K, 2) of intensity weight (K,) best.

    `fits` is empty where no lattice is significant.
    """
    found = _grow(q, weight, tolerance, most, MAX_AREA)
    if most > 1 and len(found.fits) == 1 and _sparse(found.fits[0], q):
        # Twisted lattices have a common, large and mostly empty cell.
        apart = _grow(q, weight, tolerance, most, found.fits[0].area / 4)
        if _worth(apart, q) > _worth(found, q):
            found = apart
    order = sorted(range(len(found.fits)), key=lambda i: -int(found.fits[i].good.sum()))
    return Explained([found.fits[i] for i in order], found.doubled)


def _grow(
    q: np.ndarray, weight: np.ndarray, tolerance: float, most: int, max_area: float
) -> Explained:
    """Take the more significant of a superlattice and a further lattice while there is one."""
    fits: list[Fit] = []
    doubled = np.zeros(len(q), bool)
    refused = False
    for _ in range(4 * most):
        left = ~np.any([f.good for f in fits], axis=0) & ~doubled if fits else ~doubled
        moves = []
        if left.any():
            for i, fit in enumerate(fits):
                new, gain = superlattice(fit, q, left)
                if gain > _SUPERLATTICE and new.area < max_area:
                    moves.append((gain, i, new))
        enough = left.sum() >= max(_LEFT, _LEFT_SHARE * len(q)) or not fits
        if enough and len(fits) < most and not refused:
            new = search(q[left], weight[left], tolerance, max_area)
            gain = significance(new, q[left]) if new is not None else -np.inf
            refused = gain < _LATTICE
            if not refused:
                moves.append((gain, None, new))
        if not moves:
            break
        gain, place, new = max(moves, key=lambda m: m[0])
        if place is None:
            # What explains a lattice's spots and others is its superlattice.
            fits = [f for f in fits if not _holds(new, f)]
            fits.append(polish(new.basis, q if not fits else q[left], tolerance, new.reach))
        else:
            fits[place] = polish(new.basis, q, tolerance, new.reach)
        fits = [f.on(q) for f in fits]
        doubled = _doubled(fits, q, weight)
    return Explained(fits, doubled)


def _holds(fine: Fit, coarse: Fit) -> bool:
    """Whether all places of one reciprocal lattice are places of the other."""
    change = coarse.basis @ np.linalg.inv(fine.basis)
    apart = (change - np.rint(change)) @ fine.basis
    return bool((np.linalg.norm(apart, axis=1) < fine.reach).all())


def _doubled(fits: list[Fit], q: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Which spots (K,) on no lattice lie at the sum of two lattices' vectors."""
    out = np.zeros(len(q), bool)
    alone = ~np.any([f.good for f in fits], axis=0)
    for i, first in enumerate(fits):
        for second in fits[i + 1 :]:
            beams = []
            for fit in (first, second):
                on = np.flatnonzero(fit.good)
                on = on[np.argsort(-weight[on], kind="stable")[:_BEAMS]]
                vectors = fit.hk[on] @ fit.basis
                beams.append(np.concatenate([vectors, -vectors]))
            sums = (beams[0][:, None] + beams[1]).reshape(-1, 2)
            distance = np.sqrt(square(q[alone, None] - sums)).min(1)
            out[np.flatnonzero(alone)[distance < max(first.reach, second.reach)]] = True
    return out


def _sparse(fit: Fit, q: np.ndarray) -> bool:
    places = np.pi * square(q).max() * fit.area
    return fit.area > _LARGE and len(np.unique(fit.hk[fit.good], axis=0)) < _SEEN * places


def _worth(found: Explained, q: np.ndarray) -> float:
    """Logarithm of the odds against random spots, each at one of the places explained.

    A spot explained costs the choice of its place, one that is not that of any point of the plane;
    all cost their kind.
    """
    if not found.fits:
        return -np.inf
    reach = max(f.reach for f in found.fits)
    left = np.ones(len(q), bool)
    total, shares = 0.0, []
    for fit in found.fits:
        mine = fit.good & left
        left &= ~mine
        shares.append(mine.mean())
        total += mine.sum() * -np.log(min(np.pi * reach**2 * fit.area, 1.0)) - 2 * _LATTICE
    if found.doubled.any():
        plane = np.pi * square(q).max()
        places = min((2 * _BEAMS) ** 2 * np.pi * reach**2 / plane, 1.0)
        total += found.doubled.sum() * -np.log(places)
        shares.append(found.doubled.mean())
    shares = np.array([*shares, 1 - sum(shares)])
    shares = shares[shares > 0]
    return float(total + len(q) * (shares * np.log(shares)).sum())


def significance(fit: Fit, q: np.ndarray) -> float:
    """- log of how many lattices as good are expected among as many random spots.

    The smaller of two: spots strewn over the plane, and spots turned at random on their own rings,
    as those of a powder. A spot and its Friedel mate count once: both come from the same grain.
    """
    apart = square(q[:, None] + q)
    mate = apart.argmin(1)
    paired = apart[np.arange(len(q)), mate] < fit.reach**2
    once = ~paired | (mate >= np.arange(len(q)))
    q = np.where(paired[:, None], (q - q[mate]) / 2, q)[once]
    distance = fit.on(q).distance
    reach = np.maximum(fit.reach * np.array([1.0, 0.5, 0.25]), FINEST)
    count = (distance[:, None] < reach).sum(0)
    points = len(q)
    strewn = chance(count - 2, points - 2, np.pi * reach**2 * fit.area).max()
    # Two spots give a basis, in a few ways.
    strewn -= np.log(np.clip(2 * points * (points - 1), 1, 2000))
    rings = [_on_rings(fit, q, r).mean() for r in reach]
    # One spot gives the rotation.
    turned = chance(count - 1, points - 1, np.array(rings)).max() - np.log(3 * points)
    return float(min(strewn, turned))


def _on_rings(fit: Fit, q: np.ndarray, reach: float) -> np.ndarray:
    """Share (K,) of the circle through each spot that is within reach of the lattice's places."""
    radius = np.sqrt(square(q))
    plane = min(np.pi * reach**2 * fit.area, 1.0)
    size = int(np.ceil(radius.max() * np.sqrt(1 / np.linalg.eigvalsh(fit.basis @ fit.basis.T)[0])))
    if (2 * size + 1) ** 2 > 1000:
        return np.full(len(q), plane)  # rings overlap
    hk = np.stack(np.meshgrid(*(np.arange(-size, size + 1),) * 2), -1).reshape(-1, 2)
    places = np.sqrt(square(hk[(hk != 0).any(1)] @ fit.basis))
    chord = np.sqrt(np.maximum(reach**2 - (places - radius[:, None]) ** 2, 0.0))
    share = 2 * np.arcsin(np.minimum(chord / (2 * radius[:, None]), 1.0)) / np.pi
    return np.clip(share.sum(1), plane, 1.0)
