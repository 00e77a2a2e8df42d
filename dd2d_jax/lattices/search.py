"""The best 2D lattice through the origin for a list of points, some missing, some spurious.

Plain numpy on a single list, strongest point first. A lattice is as good as points strewn at random
are unlikely to lie on it as well: among all points, or among as many of the strongest as show it
best, so that hundreds of faint false ones do not hide it. Cell area, number of points and how
closely they lie decide, nothing else.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.sparse import csr_array
from scipy.spatial import cKDTree

# Basis vectors are sought among this many of the strongest and of the nearest points,
_SOURCES = 24
# and among this many of the shortest differences, of which as many clusters are kept as bases.
_DIFFERENCES, _VECTORS = 500, 32
# Differences nearer than this are one vector, 1/angstrom.
_CLUSTER = 0.008
# Bases are compared on this many of the nearest and of the strongest points.
_COMPARED = 60
# Cells larger than this (angstrom^2) explain any list of points; none of a crystal is smaller.
MAX_AREA, _MIN_AREA = 900.0, 3.0
# No 2D crystal has a shorter lattice vector, angstrom: hexagonal boron has one of 2.87, graphene
# of 2.46, both of them in scales that may be wrong by a few per cent.
SHORTEST = 2.0
# Nor a smaller cell, angstrom^2; graphene's has 5.2.
SMALLEST = 4.5
# A point may be this far from its place, as a share of the shortest reciprocal vector.
_SHARE = 0.15
# Tolerances that are tried, as shares of the one allowed, and the finest, 1/angstrom: positions
# are never better known, even if a simulation says so.
_STEPS = np.array([1.0, 0.5, 0.25, 0.125])
FINEST = 0.0015
# The strongest points that are judged alone: so many, and by this factor more.
_FIRST, _MORE = 8, 1.5


@dataclasses.dataclass(frozen=True)
class Fit:
    """A reciprocal lattice fitted to points.

    Attributes:
        basis: (2, 2) reciprocal basis vectors as rows, 1/angstrom.
        hk: (K, 2) the nearest indices of every point.
        distance: (K,) from there, 1/angstrom.
        reach: how far a point of this lattice may lie from its place, 1/angstrom.
        score: logarithm of how unlikely random points are to fit as well, without the number of
            lattices tried.
    """

    basis: np.ndarray
    hk: np.ndarray
    distance: np.ndarray
    reach: float
    score: float

    @property
    def good(self) -> np.ndarray:
        """(K,) True for points on the lattice."""
        return self.distance < self.reach

    @property
    def area(self) -> float:
        """Of the direct cell, angstrom^2."""
        return float(1 / np.abs(np.linalg.det(self.basis)))

    def on(self, q: np.ndarray) -> Fit:
        """The same lattice for other points (K, 2)."""
        hk, distance = _index(self.basis[None], q)
        return dataclasses.replace(self, hk=hk[0].astype(int), distance=distance[0])


def search(q: np.ndarray, tolerance: float, max_area: float = MAX_AREA) -> Fit | None:
    """The lattice that points q (K, 2) are least likely to lie on by chance.

    Args:
        q: 1/angstrom, strongest first, the origin left out.
        tolerance: how far a point may lie from its place at most, 1/angstrom.
        max_area: of the direct cell, angstrom^2.

    Returns:
        The fit, or None if the points span no such lattice.
    """
    strong = q[:_SOURCES]
    near = np.argsort(square(q), kind="stable")
    vectors = [_vectors(strong)]
    if len(q) > _SOURCES:
        vectors.append(_vectors(q[np.union1d(near[:_SOURCES], np.arange(_SOURCES))]))
    bases = np.concatenate([_bases(v, max_area) for v in vectors])
    if not len(bases):
        return None
    some = q[near[:_SOURCES]]
    fitted = _refit(bases, some, *_index(bases, some), _reach(bases, tolerance))
    if len(q) > 2 * _SOURCES:
        # The nearest may be the halo's.
        other = _refit(bases, strong, *_index(bases, strong), _reach(bases, tolerance))
        fitted = np.concatenate([fitted, other])
    bases = fitted
    some = q[np.union1d(near[:_COMPARED], np.arange(min(_COMPARED, len(q))))]
    score, reach, _ = _score(bases, _index(bases, some)[1], tolerance)
    for keep in (48, 12):
        first = np.argsort(-score, kind="stable")[:keep]
        bases = bases[first]
        bases = _refit(bases, some, *_index(bases, some), 2 * reach[first])
        score, reach, _ = _score(bases, _index(bases, some)[1], tolerance)
    best = int(np.argmax(score))
    return lengthened(polish(bases[best], q, tolerance, 2 * reach[best]), q)


def polish(basis: np.ndarray, q: np.ndarray, tolerance: float, reach: float) -> Fit:
    """Fit a basis (2, 2) that is nearly right to all points, starting from those within reach."""
    bases, used = basis[None], len(q)
    for _ in range(4):
        hk, distance = _index(bases, q[:used])
        bases = _refit(bases, q[:used], hk, distance, np.array([reach]))
        hk, distance = _index(bases, q)
        score, tight, size = _score(bases, distance, tolerance)
        used = int(size[0])
        inside = distance[0, :used][distance[0, :used] < tight[0]]
        # The median of a 2D Gaussian's radius is 1.18 sigma, and 1 in 3,000 is beyond 4.
        spread = 4 * float(np.median(inside)) / 1.18 if len(inside) else 0.0
        limit = float(_reach(bases, tolerance)[0])
        reach = min(max(spread, 2 * FINEST), limit)
    return Fit(bases[0], hk[0].astype(int), distance[0], reach, float(score[0]))


def sizes(count: int) -> np.ndarray:
    """How many of the strongest points are judged by themselves: few, more, and all."""
    steps = int(np.log(max(count / _FIRST, 1.0)) / np.log(_MORE)) + 1
    some = np.rint(_FIRST * _MORE ** np.arange(steps)).astype(int)
    return np.append(some[some < 0.9 * count], count)


def superlattice(fit: Fit, q: np.ndarray, left: np.ndarray) -> tuple[Fit, float]:
    """The lattice of 2 to 16 times the cell that explains the points left (K,) by chance least.

    Returns:
        The lattice, not polished, and the logarithm of how unlikely it is, all tried considered.
    """
    bases = FRACTIONS @ fit.basis
    few = q[left]
    hk, distance = _index(bases, few)
    reach = np.minimum(_reach(bases, fit.reach)[:, None] * _STEPS[:3], fit.reach)
    reach = np.maximum(reach, FINEST)
    judged = sizes(len(few))
    count = np.stack(
        [(distance < reach[:, i, None]).cumsum(1)[:, judged - 1] for i in range(3)], 1
    )
    # The points left are not on the lattice itself.
    probability = np.pi * reach**2 * fit.area * (INDEX[:, None] - 1)
    value = chance(count, judged, probability[..., None]).max(2)
    value -= np.log(INDEX * SAME_INDEX * len(judged))[:, None]
    value[INDEX * fit.area > MAX_AREA] = -np.inf
    best, step = np.unravel_index(int(np.argmax(value)), value.shape)
    hk, distance = _index(bases[best][None], q)
    new = Fit(bases[best], hk[0].astype(int), distance[0], float(reach[best, step]), fit.score)
    # One row at the rim of a distorted pattern, between its places, is no superlattice: others of
    # its spots would stand elsewhere.
    row = new.hk[left & new.good].astype(float)
    alone = len(row) > 2 and np.linalg.matrix_rank(row - row[0]) < 2 == np.linalg.matrix_rank(row)
    return new, -np.inf if alone else float(value[best, step])


def _sublattices(most: int) -> np.ndarray:
    """Hermite normal forms (n, 2, 2) of all sublattices of index 2 to `most`."""
    return np.array(
        [
            [[index // d, shift], [0, d]]
            for index in range(2, most + 1)
            for d in range(1, index + 1)
            if index % d == 0
            for shift in range(index // d)
        ]
    )


SUPERCELLS = _sublattices(16)
INDEX = np.abs(np.linalg.det(SUPERCELLS)).round().astype(int)
# Sublattices that there are of the same index.
SAME_INDEX = (INDEX[:, None] == INDEX).sum(1)
# Of a superlattice's reciprocal basis in terms of the lattice's.
FRACTIONS = np.linalg.inv(SUPERCELLS)


def chance(
    indexed: np.ndarray | float, points: np.ndarray | float, probability: np.ndarray | float
) -> np.ndarray:
    """Chernoff's bound on the logarithm of the binomial tail, with the sign turned.

    How unlikely it is that at least `indexed` of `points` hit places that each hits with
    `probability`.
    """
    points = np.maximum(points, 1e-9)
    share = np.clip(indexed / points, 0.0, 1.0)
    probability = np.clip(probability, 1e-12, 1 - 1e-12)
    rest = 1 - share
    value = share * np.log(np.maximum(share, 1e-12) / probability)
    value = value + rest * np.log(np.maximum(rest, 1e-12) / (1 - probability))
    return np.where(share > probability, points * value, 0.0)


def _vectors(some: np.ndarray) -> np.ndarray:
    """Short vectors (n, 2) that many pairs of points have in common."""
    first, second = np.triu_indices(len(some), 1)
    vectors = np.concatenate([some, some[first] - some[second]])
    lower = (vectors[:, 1] < 0) | ((vectors[:, 1] == 0) & (vectors[:, 0] < 0))
    vectors = np.where(lower[:, None], -vectors, vectors)
    length = np.hypot(*vectors.T)
    order = np.argsort(length, kind="stable")
    vectors = vectors[order[length[order] > 1 / 40][:_DIFFERENCES]]
    if not len(vectors):
        return vectors
    pairs = cKDTree(vectors).query_pairs(_CLUSTER, output_type="ndarray")
    every = np.arange(len(vectors))
    rows, columns = (np.concatenate([x, y, every]) for x, y in (pairs.T, pairs.T[::-1]))
    close = csr_array((np.ones(len(rows)), (rows, columns)), (len(every), len(every)))
    votes = np.diff(close.indptr)
    # A vector's length counts against it: of a lattice's vectors the short ones span it.
    rank = votes / np.hypot(*vectors.T)
    tops = []
    for _ in range(min(_VECTORS, len(vectors))):
        top = int(np.argmax(rank))
        if rank[top] < 0:
            break
        tops.append(top)
        rank[close.indices[close.indptr[top] : close.indptr[top + 1]]] = -1.0
    return (close @ vectors / votes[:, None])[tops]


def shortest(basis: np.ndarray) -> float:
    """The shortest vector of the direct lattice, angstrom, of a reciprocal basis (2, 2)."""
    return float(shortest_of(basis[None])[0])


def possible(cell: np.ndarray) -> bool:
    """Whether a 2D crystal may have a cell (2, 2), angstrom: none is so short or so small."""
    large = abs(np.linalg.det(cell)) >= SMALLEST
    return bool(large and shortest(np.linalg.inv(cell).T) >= SHORTEST)


def shortest_of(bases: np.ndarray) -> np.ndarray:
    """The same (n,) of many (n, 2, 2)."""
    direct = _inverse(bases).swapaxes(1, 2)
    steps = np.stack(np.meshgrid(*(np.arange(-4, 5),) * 2), -1).reshape(-1, 2)
    lengths = np.sqrt(square(steps[(steps != 0).any(1)] @ direct))
    return lengths.min(1)


def lengthened(fit: Fit, q: np.ndarray) -> Fit:
    """The lattice itself, or where a vector is too short for a crystal its superlattice.

    Of those that are large enough the smallest, of these the one with most points, of these the
    one whose shortest vector is longest.
    """
    if shortest(fit.basis) >= SHORTEST:
        return fit
    bases = FRACTIONS @ fit.basis
    lengths = shortest_of(bases)
    fits = (INDEX <= 4) & (lengths >= SHORTEST)
    if not fits.any():
        return fit
    some = np.flatnonzero(fits & (INDEX == INDEX[fits].min()))
    hk, distance = _index(bases[some], q)
    count = (distance < fit.reach).sum(1)
    best = np.lexsort((-lengths[some], -count))[0]
    return dataclasses.replace(
        fit, basis=bases[some[best]], hk=hk[best].astype(int), distance=distance[best]
    )


def _bases(vectors: np.ndarray, max_area: float) -> np.ndarray:
    """Pairs (n, 2, 2) of vectors that may span the lattice."""
    first, second = np.triu_indices(len(vectors), 1)
    pairs = np.stack([vectors[first], vectors[second]], 1)
    area = np.abs(_det(pairs))
    lengths = np.sqrt(square(pairs[:, 0]) * square(pairs[:, 1]))
    return pairs[(area > 1 / max_area) & (area < 1 / _MIN_AREA) & (area > 0.4 * lengths)]


def square(vectors: np.ndarray) -> np.ndarray:
    """Squared lengths (...) of vectors (..., 2); numpy is slow in sums of two."""
    return vectors[..., 0] ** 2 + vectors[..., 1] ** 2


def _det(bases: np.ndarray) -> np.ndarray:
    return bases[:, 0, 0] * bases[:, 1, 1] - bases[:, 0, 1] * bases[:, 1, 0]


def _inverse(bases: np.ndarray) -> np.ndarray:
    a, b, c, d = bases[:, 0, 0], bases[:, 0, 1], bases[:, 1, 0], bases[:, 1, 1]
    return np.stack([d, -b, -c, a], -1).reshape(-1, 2, 2) / _det(bases)[:, None, None]


def _index(bases: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nearest indices (n, K, 2) and the distance from there (n, K); infinite for the origin."""
    hk = np.rint(q @ _inverse(bases))
    distance = np.sqrt(square(q - hk @ bases))
    distance[(hk[..., 0] == 0) & (hk[..., 1] == 0)] = np.inf
    return hk, distance


def _reach(bases: np.ndarray, tolerance: float) -> np.ndarray:
    shortest = np.sqrt(np.minimum(square(bases[:, 0]), square(bases[:, 1])))
    return np.minimum(tolerance, _SHARE * shortest)


def _refit(
    bases: np.ndarray, q: np.ndarray, hk: np.ndarray, distance: np.ndarray, reach: np.ndarray
) -> np.ndarray:
    """Least squares (n, 2, 2) over the points within reach (n,); unchanged where they are few."""
    kept = (hk * (distance < reach[:, None])[..., None]).swapaxes(1, 2)
    normal, mixed = kept @ hk, kept @ q
    solvable = np.abs(_det(normal)) > 0.5
    normal[~solvable] = np.eye(2)
    fitted = _inverse(normal) @ mixed
    # A basis far from any lattice can be fitted by one without area.
    solvable &= np.abs(_det(fitted)) > 1 / MAX_AREA
    return np.where(solvable[:, None, None], fitted, bases)


def _score(
    bases: np.ndarray, distance: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How unlikely by chance (n,), the tolerance (n,) and the number of points (n,) that say so."""
    reach = np.maximum(_reach(bases, tolerance)[:, None] * _STEPS, FINEST)
    judged = sizes(distance.shape[1])
    count = np.stack(
        [(distance < reach[:, i, None]).cumsum(1)[:, judged - 1] for i in range(len(_STEPS))], 1
    )
    probability = np.pi * reach**2 / np.abs(_det(bases))[:, None]
    # Two points always fit.
    value = chance(count - 2, judged - 2, probability[..., None]).reshape(len(bases), -1)
    best = value.argmax(1)
    rows = np.arange(len(bases))
    step, size = np.divmod(best, len(judged))
    return value[rows, best], reach[rows, step], judged[size]
