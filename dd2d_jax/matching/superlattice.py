"""Weak spots between the strong ones: the parent cell that has the strong ones alone.

Charge-density waves, ordering and moires add spots of a superlattice, some thousandths to some
hundredths of the crystal's own, whose cell is the larger one. The library holds the parent.
"""

from __future__ import annotations

import dataclasses
import itertools

import jax
import numpy as np

from dd2d_jax.lattices.indexed import Indexed
from dd2d_jax.lattices.lattice import reduce, settings
from dd2d_jax.lattices.search import possible
from dd2d_jax.matching.rerank import Query, log_none
from dd2d_jax.spots import Spots

# Areas of the superlattice, in cells of the parent, at most.
_MOST = 16
# One integer matrix for each cell that a lattice may be a superlattice of.
_MATRICES = np.array(
    [
        [[size // second, 0], [b, second]]
        for size in range(2, _MOST + 1)
        for second in range(size, 0, -1)
        if size % second == 0
        for b in range(second)
    ]
)
# Satellites are weaker than this, relative to the strongest spot, and their mean lies below that
# of the parent's spots by this factor.
_WEAK, _BELOW = 0.25, 4.0
# Spots of the parent, and share of its rods that are seen, at least. Where few spots are seen at
# all, the parent holds this share of them, and is so much more filled than the whole lattice: a
# false spot or two make a multiple of the cell, which is then mostly empty.
_FEWEST, _SEEN = 6, 0.5
_MAIN, _FULLER = 0.5, 1.25
# One spot, or up to this share of the parent's, may be strong and on none of its rods: dust and hot
# pixels may be so, too, and one of them makes a multiple of the cell.
_FALSE = 0.1
# So many spots between a crystal's own are called false as well as a superlattice's.
_DUST = 3
# Parents that are weighed.
_TRIED = 3


@dataclasses.dataclass(frozen=True)
class Superlattice:
    """A pattern's lattice as a superlattice of a smaller cell.

    Attributes:
        name: such as "3 x 3" or "sqrt(13) x sqrt(13)".
        parent: the spots of the smaller cell, and that cell.
        satellites: number of spots that are not among them.
        matrix: (2, 2) integers, pattern's lattice = matrix @ parent's lattice.
    """

    name: str
    parent: Indexed
    satellites: int
    matrix: np.ndarray

    @property
    def may_be_false(self) -> bool:
        """Whether its spots are so few that they may as well be false."""
        return self.satellites <= _DUST


def superlattices(indexed: Indexed) -> list[Superlattice]:
    """Parent cells all of whose further spots are weak or few, at most three; [] for none.

    Those that tell strong and weak spots apart best, of as high a symmetry as the lattice first:
    spots of a class that the parent itself shows weakly look like satellites, too. So the one that
    keeps most spots is always among them: cells of its own strong spots tell them apart better.
    """
    found = []
    symmetry = len(settings(indexed.lattice))
    for matrix, main in zip(_MATRICES, _on(indexed, _MATRICES), strict=True):
        if _is_parent(indexed, matrix, main):
            lattice = np.linalg.inv(matrix) @ indexed.lattice
            whole = len(settings(reduce(lattice) @ lattice)) >= symmetry
            found.append((whole, _apart(indexed.intensity, main), int(main.sum()), matrix))
    found.sort(key=lambda one: one[:2], reverse=True)
    matrices = [matrix for *_, matrix in found]
    if indexed.parent is not None:
        # What the lattice's own search found goes first.
        others = [m for m in matrices if not _same(m, indexed.parent)]
        matrices = [indexed.parent, *others]
    first = matrices[:_TRIED]
    if found:
        *_, fullest = max(found, key=lambda one: one[2])
        if not any(_same(fullest, m) for m in first):
            first[-1] = fullest
    return [_superlattice(indexed, matrix) for matrix in first]


def mains(indexed: Indexed, matrices: np.ndarray) -> list[Superlattice]:
    """Those of the cells `inv(matrix) @ lattice`, of any size, whose further spots are weak or few.

    Args:
        indexed: a pattern whose lattice was found.
        matrices: (n, 2, 2) integers.
    """
    return [
        _superlattice(indexed, matrix)
        for matrix in matrices
        if _are_weak_or_few(indexed, matrix, _on(indexed, matrix))
    ]


def _on(indexed: Indexed, matrices: np.ndarray) -> np.ndarray:
    """(..., K) whether each spot is one of the cell `inv(matrices) @ lattice`, (..., 2, 2)."""
    hk = indexed.hk @ np.linalg.inv(matrices).swapaxes(-1, -2)
    return (np.abs(hk - np.rint(hk)) < 1e-6).all(-1)


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two matrices lead to one parent lattice."""
    # lattice = one @ P = other @ Q: the lattices P and Q are the same where P = change @ Q.
    change = np.linalg.inv(one) @ other
    whole = np.abs(change - np.rint(change)).max() < 1e-6
    return bool(whole and abs(round(np.linalg.det(change))) == 1)


def _superlattice(indexed: Indexed, matrix: np.ndarray) -> Superlattice:
    hk = indexed.hk @ np.linalg.inv(matrix).T
    main = _on(indexed, matrix)
    lattice = np.linalg.inv(matrix) @ indexed.lattice
    change = reduce(lattice)
    sigma = indexed.intensity_sigma
    parent = dataclasses.replace(
        indexed,
        lattice=change @ lattice,
        q=indexed.q[main],
        hk=np.rint(hk[main]).astype(int) @ change.T,
        intensity=indexed.intensity[main],
        spots=indexed.spots[main],
        intensity_sigma=None if sigma is None else sigma[main],
        parent=None,
        satellites=None,
        alternatives=(),
    )
    whole = np.rint(matrix @ np.linalg.inv(change)).astype(int)
    return Superlattice(_name(whole, parent.lattice), parent, int((~main).sum()), whole)


def _is_parent(indexed: Indexed, matrix: np.ndarray, main: np.ndarray) -> bool:
    parent = np.linalg.inv(matrix) @ indexed.lattice
    return possible(parent) and _are_weak_or_few(indexed, matrix, main)


def _are_weak_or_few(indexed: Indexed, matrix: np.ndarray, main: np.ndarray) -> bool:
    """Whether spots that are not `main` (K,) are weak or few, and those that are fill the cell."""
    count = int(main.sum())
    if count < _FEWEST or count == len(main):
        return False
    strong, weak = indexed.intensity[main], indexed.intensity[~main]
    few = len(weak) <= max(1, _FALSE * len(strong))
    if not few and (weak.max() > _WEAK or weak.mean() * _BELOW > strong.mean()):
        return False
    if np.linalg.svd(indexed.q[main], compute_uv=False)[1] < 0.02:
        return False
    # Rods of the parent within the furthest of its spots.
    reach = np.linalg.norm(indexed.q[main], axis=1).max()
    index = round(np.linalg.det(matrix))
    own = np.pi * reach**2 * abs(np.linalg.det(indexed.lattice)) / index
    share = count / len(main)
    return count > _SEEN * own - 1 or (share > _MAIN and share * index > _FULLER)


def _apart(intensity: np.ndarray, main: np.ndarray) -> float:
    """Log-likelihood of two exponential densities, but for a constant."""
    groups = (intensity[main], intensity[~main])
    return float(-sum(len(group) * np.log(group.mean()) for group in groups))


def _name(matrix: np.ndarray, parent: np.ndarray) -> str:
    """As the field writes it: lengths of the superlattice's vectors over those of the parent."""
    cell = matrix @ parent
    for mine, its in itertools.product(settings(cell), settings(parent)):
        whole = np.abs(np.rint(mine @ matrix @ np.linalg.inv(its)).astype(int))
        if whole[0, 1] == whole[1, 0] == 0:
            return f"{whole[0, 0]} x {whole[1, 1]}"
        if whole[0, 0] == whole[1, 1] == 0:
            return f"{whole[1, 0]} x {whole[0, 1]}"
    ratios = np.linalg.norm(cell, axis=1) / np.linalg.norm(parent, axis=1)
    names = [_length(ratio) for ratio in ratios]
    if None in names:  # of an oblique or rectangular cell: its matrix
        return "({} {}, {} {})".format(*matrix.ravel())
    return " x ".join(names)


def _length(ratio: float) -> str | None:
    squared = ratio**2
    if abs(ratio - round(ratio)) < 0.02:
        return str(round(ratio))
    if abs(squared - round(squared)) < 0.06:
        return f"sqrt({round(squared)})"
    return None


def log_satellites(found: Superlattice, query: Query) -> float:
    """Log-probability of the satellites as those of any weak superlattice, see `log_none`.

    Added to the log-probability of the parent's spots, it is comparable with that of all spots.
    """
    whole = jax.tree.map(lambda x: np.asarray(x[:1]), query.whole)
    hk = whole.hk[0]
    on_parent = hk @ np.linalg.inv(_first_setting(found)).T
    there = (hk != 0).any(-1) & (np.abs(on_parent - np.rint(on_parent)) > 1e-6).any(-1)
    pairs = (whole.q, whole.hk, whole.intensity, whole.measured)
    some = Spots(*(x[:, there] for x in pairs), whole.lattice)
    # The cell is known from the parent's spots.
    blank = dataclasses.replace(query, settings=some, whole=some, found=np.ones(1, bool))
    if not blank.whole.measured.any():  # none among the strongest spots that are compared
        return 0.0
    return log_none(blank) - 1.5 * float(np.log(2 * np.pi))


def _first_setting(found: Superlattice) -> np.ndarray:
    """The matrix (2, 2) that makes the cell of `canonical_spots`' first setting of the parent's."""
    lattice = found.matrix @ found.parent.lattice
    change = reduce(lattice)
    return settings(change @ lattice)[0] @ change @ found.matrix
