"""How many lattices a list of spots needs: one, its superlattice, or several.

An explanation costs what it could have explained by chance: two small cells win against the large
one that holds both, a superlattice wins where a second lattice would explain less. Lattices of a
set that share one small common cell pay for the coincidence. All lists are strongest spot first.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.spatial import cKDTree

from dd2d_jax.lattices.search import (
    FINEST,
    FRACTIONS,
    INDEX,
    MAX_AREA,
    SAME_INDEX,
    SHORTEST,
    SMALLEST,
    SUPERCELLS,
    Fit,
    chance,
    lengthened,
    polish,
    search,
    shortest_of,
    sizes,
    square,
    superlattice,
)

# Logarithms of how unlikely by chance a superlattice, a further lattice and the first one have to
# be: of random lists of 4 to 12 spots fewer than 1 in 100 reach the last.
_SUPERLATTICE, _LATTICE, _ALONE = 5.0, 5.0, 7.0
# Of a lattice in a set: its four numbers, each to about a hundredth of its range.
_COST = 20.0
# A further lattice is looked for where this many spots and this share of them are left.
_LEFT, _LEFT_SHARE = 6, 0.15
# Spots nearer than this to places of two lattices may be both in one, 1/angstrom.
_OVERLAP = 0.012
# Vectors of each lattice whose sums are double diffraction.
_BEAMS = 24
# A cell larger than this (angstrom^2) with fewer of its places seen than this may be a moire.
_LARGE, _SEEN = 15.0, 0.4
# Places with two spots, as a share, that make one lattice a mean of several.
_TWOFOLD = 0.05


@dataclasses.dataclass(frozen=True)
class Explained:
    """Lattices that explain a list of spots together.

    Attributes:
        fits: the one with most spots first.
        doubled: (K,) True for spots on none of them, but at sums of their vectors or between
            places of two.
        sums: number of places that such sums have.
    """

    fits: list[Fit]
    doubled: np.ndarray
    sums: int

    @property
    def spots(self) -> np.ndarray:
        """(K,) True for every spot that is explained."""
        return np.any([f.good for f in self.fits] + [self.doubled], axis=0)


def explain(q: np.ndarray, tolerance: float, most: int) -> Explained:
    """The lattices, at most `most`, that explain spots q (K, 2), strongest first, best.

    `fits` is empty where no lattice is significant.
    """
    found = [_grow(q, tolerance, most, MAX_AREA)]
    fits = found[0].fits
    if most > 1 and len(fits) == 1 and sparse(fits[0], q):
        # Twisted lattices have a common, large and mostly empty cell.
        found.append(_grow(q, tolerance, most, fits[0].area / 2.5))
    if most > 1 and any(_twofold(f, q, tolerance) for f in fits):
        # Lattices that are nearly the same have a mean, from which spots stray.
        found += [_grow(q, tolerance / s, most, MAX_AREA) for s in (2, 4)]
    best = max(found, key=lambda f: worth(f, q))
    return dataclasses.replace(best, fits=sorted(best.fits, key=lambda f: -int(f.good.sum())))


def _grow(q: np.ndarray, tolerance: float, most: int, max_area: float) -> Explained:
    """Take the better of a superlattice and a further lattice, and keep the best on the way."""
    found = best = Explained([], np.zeros(len(q), bool), 0)
    refused = False
    for _ in range(4 * most):
        left = ~found.spots
        moves = []
        for i, fit in enumerate(found.fits if left.any() else ()):
            new, gain = superlattice(fit, q, left)
            if gain > _SUPERLATTICE and new.area < max_area:
                new = lengthened(polish(new.basis, q, tolerance, new.reach), q)
                moves.append([new if i == j else f for j, f in enumerate(found.fits)])
        enough = not found.fits or left.sum() >= max(_LEFT, _LEFT_SHARE * len(q))
        if enough and len(found.fits) < most and not refused:
            new = search(q[left], tolerance, max_area)
            needed = _LATTICE if found.fits else _ALONE
            refused = new is None or significance(new, q[left]) < needed
            if not refused:
                # What explains a lattice's spots and others is its superlattice.
                moves.append([*(f for f in found.fits if not _holds(new, f)), new.on(q)])
        if not moves:
            break
        found = max((double_diffraction(fits, q) for fits in moves), key=lambda f: worth(f, q))
        best = max(best, found, key=lambda f: worth(f, q))
    return best


def _holds(fine: Fit, coarse: Fit) -> bool:
    """Whether all places of one reciprocal lattice are places of the other."""
    change = coarse.basis @ np.linalg.inv(fine.basis)
    apart = (change - np.rint(change)) @ fine.basis
    return bool((np.linalg.norm(apart, axis=1) < fine.reach).all())


def double_diffraction(fits: list[Fit], q: np.ndarray) -> Explained:
    """Find which spots on none of the lattices lie at the sum of two lattices' vectors."""
    out = np.zeros(len(q), bool)
    alone = ~np.any([f.good for f in fits], axis=0)
    places = 0
    for i, first in enumerate(fits):
        for second in fits[i + 1 :]:
            beams = []
            for fit in (first, second):
                on = np.flatnonzero(fit.good)
                hk = fit.hk[on[:_BEAMS]]
                beams.append(np.unique(np.concatenate([hk, -hk]), axis=0) @ fit.basis)
            sums = (beams[0][:, None] + beams[1]).reshape(-1, 2)
            sums = sums[square(sums) < square(q).max()]
            reach = max(first.reach, second.reach)
            places += len(np.unique(np.rint(sums / reach), axis=0))
            # Two spots that overlap are seen as one between their places.
            close = (first.distance < _OVERLAP) & (second.distance < _OVERLAP)
            out |= close & alone
            if alone.any() and len(sums):
                distance, _ = cKDTree(sums).query(q[alone])
                out[np.flatnonzero(alone)[distance < reach]] = True
    return Explained(fits, out, places)


def _twofold(fit: Fit, q: np.ndarray, tolerance: float) -> bool:
    """Whether many of the lattice's places have two spots."""
    near = fit.hk[fit.distance < tolerance]
    return len(near) - len(np.unique(near, axis=0)) > max(2, _TWOFOLD * len(near))


def seen(fit: Fit, q: np.ndarray) -> float:
    """Share of the lattice's places out to the furthest of spots q (K, 2) that have a spot."""
    places = np.pi * square(q).max() * fit.area
    return len(np.unique(fit.hk[fit.good], axis=0)) / places


def sparse(fit: Fit, q: np.ndarray) -> bool:
    """Whether a cell is large and few of its places are seen."""
    return fit.area > _LARGE and seen(fit, q) < _SEEN


def worth(found: Explained, q: np.ndarray) -> float:
    """Logarithm of the odds against random spots, each at one of the places explained.

    A spot explained costs the choice of its place, one that is not that of any point of the plane;
    all cost their kind.
    """
    if not found.fits:
        return -np.inf
    left = np.ones(len(q), bool)
    total, kinds = 0.0, []
    for fit in found.fits:
        mine = fit.good & left
        left &= ~mine
        kinds.append(mine)
        total += mine.sum() * -np.log(min(np.pi * fit.reach**2 * fit.area, 1.0)) - _COST
        total += parent(fit.hk[mine], fit.basis)[1]
    for i, fit in enumerate(found.fits):
        total -= max((_coincidence(fit, other) for other in found.fits[:i]), default=0.0)
    if found.doubled.any():
        plane = np.pi * square(q).max()
        reach = max(f.reach for f in found.fits)
        total += found.doubled.sum() * -np.log(min(found.sums * np.pi * reach**2 / plane, 1.0))
        kinds.append(found.doubled)
    kinds.append(~np.any(kinds, axis=0))
    return float(total + _choices(np.stack(kinds)[None])[0])


def _choices(kinds: np.ndarray) -> np.ndarray:
    """Logarithm (n,) of the likelihood of kinds (n, C, K) of spots, by their rank in strength.

    Shares are those among spots about as strong; each of them costs its uncertainty.
    """
    edges = [0]
    while edges[-1] < kinds.shape[2]:
        edges.append(max(12, int(2.5 * edges[-1])))
    number = np.add.reduceat(kinds, edges[:-1], axis=2, dtype=float)
    every = np.maximum(number.sum(1, keepdims=True), 1e-9)
    some = (number.sum(2) > 0).sum(1) - 1
    cost = 0.5 * some * np.log1p(every[:, 0]).sum(1)
    return (number * np.log(np.maximum(number, 1e-9) / every)).sum((1, 2)) - cost


def parent(hk: np.ndarray, basis: np.ndarray) -> tuple[np.ndarray | None, float]:
    """The coarser reciprocal lattice on which the strongest of spots hk (K, 2) lie.

    Args:
        hk: on a lattice, strongest first.
        basis: (2, 2) its reciprocal vectors, 1/angstrom.

    Returns:
        The integer matrix (2, 2) that takes the lattice's reciprocal basis to the coarser one's,
        and how much more likely (logarithm) the spots are as those of a crystal and satellites of
        its superlattice; None and 0 where they are not.
    """
    if len(hk) < 6:
        return None, 0.0
    # Rows of SUPERCELLS are vectors of a superlattice, in reciprocal space of a coarser lattice.
    coarse = hk @ FRACTIONS.swapaxes(1, 2)
    whole = np.abs(coarse - np.rint(coarse)) < 1e-6
    on = whole[..., 0] & whole[..., 1]
    number = np.count_nonzero(on, axis=1)
    value = number * np.log(INDEX) + (len(hk) - number) * np.log(INDEX / (INDEX - 1))
    value += _choices(np.stack([on, ~on], 1)) - np.log(INDEX * SAME_INDEX) - 1
    spans = (number > 2) & (_independent(hk, on) > 0.5)
    coarser = SUPERCELLS.swapaxes(1, 2) @ basis
    short = (shortest_of(coarser) < SHORTEST) | (np.abs(np.linalg.det(coarser)) > 1 / SMALLEST)
    value[~spans | (number == len(hk)) | short] = -np.inf
    best = int(np.argmax(value))
    if value[best] <= 0:
        return None, 0.0
    gain = float(value[best])
    # Of lattices with the same spots the coarsest: satellites may be absent by a rule of their own.
    alike = np.flatnonzero((on == on[best]).all(1) & np.isfinite(value))
    best = int(alike[np.argmax(INDEX[alike])])
    return SUPERCELLS[best].T, gain


def _independent(hk: np.ndarray, some: np.ndarray) -> np.ndarray:
    """(n,) determinants of the Gram matrices of some (n, K) of integer vectors (K, 2).

    They are integers: 0 where all of these lie on one line.
    """
    xx, xy, yy = (
        some @ np.stack([hk[:, 0] ** 2, hk[:, 0] * hk[:, 1], hk[:, 1] ** 2], 1).T[..., None]
    )
    return (xx * yy - xy**2)[:, 0]


def _coincidence(fit: Fit, other: Fit) -> float:
    """Logarithm of how unlikely it is that two lattices share as small a common cell by chance."""
    bases = FRACTIONS @ other.basis
    change = fit.basis @ np.linalg.inv(bases)
    apart = np.sqrt(square((change - np.rint(change)) @ bases)).max(1)
    apart[apart > max(fit.reach, other.reach)] = np.inf
    area = np.minimum(np.pi * np.maximum(apart, 0.5 * FINEST) ** 2 * other.area * INDEX, 1.0)
    value = -2 * np.log(area) - np.log(INDEX * SAME_INDEX)
    return float(max(value.max(), 0.0))


def significance(fit: Fit, q: np.ndarray) -> float:
    """- log of how many lattices as good are expected among as many random spots.

    The smaller of two: spots strewn over the plane, and spots turned at random on their own rings,
    as those of a powder. A spot and its Friedel mate count once: both come from the same grain.
    Of all spots, or of as many of the strongest as show it best.
    """
    apart, mate = cKDTree(q).query(-q)
    paired = apart < fit.reach
    once = ~paired | (mate >= np.arange(len(q)))
    q = np.where(paired[:, None], (q - q[mate]) / 2, q)[once]
    distance = fit.on(q).distance
    reach = np.maximum(fit.reach * np.array([1.0, 0.5, 0.25]), FINEST)
    points = sizes(len(q))
    count = (distance[:, None] < reach).cumsum(0)[points - 1]
    points = points[:, None]
    strewn = chance(count - 2, points - 2, np.pi * reach**2 * fit.area)
    # Two spots give a basis, in a few ways.
    strewn -= np.log(np.clip(2 * points * (points - 1), 1, 2000))
    rings = np.stack([_on_rings(fit, q, r) for r in reach], 1).cumsum(0)[points[:, 0] - 1] / points
    # One spot gives the rotation.
    turned = chance(count - 1, points - 1, rings) - np.log(3 * points)
    return float(np.minimum(strewn, turned).max() - np.log(len(points)))


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
    across = 2 * np.maximum(radius[:, None], FINEST)
    share = 2 * np.arcsin(np.minimum(chord / across, 1.0)) / np.pi
    return np.clip(share.sum(1), plane, 1.0)
