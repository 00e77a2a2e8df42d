"""The first candidates weighed by simulation, over every setting of the query's lattice."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import jax
import numpy as np

from dd2d_jax.data.crystal_set import CrystalSet
from dd2d_jax.lattices.indexed import Indexed
from dd2d_jax.lattices.lattice import canonical_spots
from dd2d_jax.matching.evidence import SOFT, Explained, explain, with_unseen
from dd2d_jax.matching.hypotheses import Hypothesis
from dd2d_jax.matching.layers import Stacking
from dd2d_jax.matching.score import Table, score, strains
from dd2d_jax.spots import (
    Conditions,
    Spots,
    filled,
    power_of_four,
    power_of_two,
    straightened,
    strongest,
)

T = TypeVar("T")

# A candidate is tried in so many settings: those that `score` likes best; in the second where its
# log-probability in the first is less than this below the likeliest one's.
_SETTINGS, _NEAR = 2, 25.0
# Where the scale is unknown, at so many scales.
_SCALES = 3
# Cells further than this from the query's, in isotropic strain and in shear, are not compared.
STRETCH, SHEAR = 0.06, 0.045

# Spot pairs that the comparison sees, and rods without a spot that it knows of.
_SEEN, _UNSEEN = 128, 128
# Pairs that are read of a pattern, whatever its cell.
_ALL = 512

# Of mates that differ by more the weaker one counts as not measured: it is hidden, by the beam stop
# or otherwise, and what was read there is stray light. Tilted flakes' differ by 30 at most.
_HIDDEN = 100.0
# Of a pattern of a structure of any kind: the errors of the logarithm of two mates' ratio, one as
# likely as another, with the gradients across the pattern as of `hypotheses.measured`; the
# probability that a spot is missed, and the range of strain and shears.
_LIKENESS, _GRADIENTS = (0.05, 0.1, 0.3, 0.6, 1.2), (0.2, 0.3, 0.3, 0.4, 0.6)
_MISSING, _CELLS = 0.25, 0.5
# The envelope falls no faster in q^2 than this, angstrom^2: form factors and a B of 20 together.
_STEEPEST = 20.0
# Log-density of any cell, without the factor that the crystals' lack.
LOG_ANY_CELL = 1.5 * np.log(2 * np.pi) - np.log(_CELLS)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Query:
    """A pattern in every setting that its lattice may have.

    Attributes:
        settings: (S, T) its spots.
        whole: (S, U) the same, and after them the rods of its cell that show no spot.
        found: (S,) False where the cell is twice the one that was found.
    """

    settings: Spots
    whole: Spots
    found: np.ndarray

    @classmethod
    def known(cls, spots: Spots) -> Query:
        """Of spots (T,) whose setting is known; nothing is said of rods without a spot."""
        cut = strongest(spots, power_of_two(max(int(np.asarray(spots.mask).sum()), 1)))
        one = jax.tree.map(lambda x: np.asarray(x)[None], cut)
        return cls(one, one, np.ones(1, bool))

    @classmethod
    def indexed(cls, indexed: Indexed, q_max: float) -> Query:
        """Of a pattern whose lattice was found, as far as `q_max`, 1/angstrom.

        Raises:
            PatternError: no spot within q_max.
        """
        spots = canonical_spots(indexed, q_max, _ALL)
        hidden = _HIDDEN * spots.intensity < np.flip(spots.intensity, -1)
        intensity = np.where(hidden, np.float32(0), spots.intensity)
        spots = dataclasses.replace(spots, intensity=intensity, measured=spots.measured & ~hidden)
        last = float(np.linalg.norm(np.asarray(spots.q), axis=-1).max())
        whole = with_unseen(spots, min(last, q_max), _SEEN, _UNSEEN, indexed.stacked)
        area = np.abs(np.linalg.det(np.asarray(spots.lattice, float)))
        return cls(strongest(spots, _SEEN), whole, area < 1.5 * area.min())

    def straightened(self, power: float) -> Query:
        """With the intensities of which this pattern's are a power."""
        settings, whole = (straightened(x, power) for x in (self.settings, self.whole))
        return dataclasses.replace(self, settings=settings, whole=whole)

    @classmethod
    def joined(cls, queries: Sequence[Query]) -> Query:
        """All settings of several, one after another."""
        return jax.tree.map(lambda *x: np.concatenate(x), *queries)


def first_candidates(found: np.ndarray, every: np.ndarray, count: int) -> np.ndarray:
    """Rows of `count` crystals: half of them the first of `found`, then those of `every`.

    There are more settings of the cells of twice the area, and more crystals with large cells:
    these would crowd out what fits the cell that was found.

    Args:
        found: rows by the settings of that cell (`Query.found`), the best first.
        every: rows by all settings, the best first.
        count: of them.
    """
    rows = np.concatenate([found[: count // 2], every])
    _, first = np.unique(rows, return_index=True)
    return rows[np.sort(first)][:count]


def compare(table: Table, settings: Spots) -> np.ndarray:
    """Scores (S, n) of a table's crystals in S settings of one pattern.

    Only crystals whose cells are near are compared, in sizes that are powers of four. The others
    come behind them, the nearer cell before the farther.
    """
    apart = np.array([strains(table.lattice, cell) for cell in settings.lattice])
    stretch, shear = np.abs(apart).swapaxes(0, 1)
    near = (stretch < STRETCH) & (shear < SHEAR)
    out = -10 - stretch - shear
    # All are begun before the first is waited for.
    begun = []
    for s in np.flatnonzero(near.any(1)):
        rows = np.flatnonzero(near[s])
        few = table.take(filled(rows, power_of_four(max(len(rows), 64))))
        begun.append((s, rows, score(few, jax.tree.map(lambda x, s=s: x[s], settings))))
    for s, rows, found in begun:
        out[s, rows] = np.asarray(found)[: len(rows)]
    return out


class Way(NamedTuple):
    """How n crystals are seen where electrons scatter more than once.

    Attributes:
        below: (n,) from below.
        turned: (n,) with -q for q.
        lean: (n, 2) at a tilt of the layer as it then lies, degrees.
        layers: (n,) on each other. stacking: of each of n.
        price: (n,) log-probability of that way among those of flakes; 0 of a single layer.
    """

    below: np.ndarray
    turned: np.ndarray
    lean: np.ndarray
    layers: np.ndarray
    stacking: Stacking
    price: np.ndarray

    @classmethod
    def single(cls, below: np.ndarray, turned: np.ndarray, lean: np.ndarray) -> Way:
        """Of single layers."""
        n = len(below)
        on_top = Stacking(np.zeros(n, bool), np.zeros(n, bool), np.zeros((n, 2)))
        return cls(below, turned, lean, np.ones(n, int), on_top, np.zeros(n))


def best_of(tried: T, value: np.ndarray, times: int) -> T:
    """Arrays of what was tried so many times, all rows one time after another: the best of each."""
    count = len(value) // times
    rows = count * value.reshape(times, count).argmax(0) + np.arange(count)
    return jax.tree.map(lambda x: x[rows], tried)


def put(whole: T, rows: np.ndarray, part: T) -> T:
    """Arrays with some of their rows replaced."""

    def one(old: np.ndarray, new: np.ndarray) -> np.ndarray:
        out = old.copy()
        out[rows] = new
        return out

    return jax.tree.map(one, whole, part)


class Weighing(NamedTuple):
    """What n crystals, each in the setting that fits best, say of a pattern.

    Attributes:
        value: (n,) log-probability of the pattern, see `evidence.explain`.
        once: (n,) the same if electrons scatter once, see `dynamical.weigh_again`.
        setting: (n,) of the query.
        r1: (n,) of the amplitudes, scale and B fitted.
        b: (n,) the B that was fitted, beyond that of the conditions, angstrom^2.
        power: (n,) of counts that the intensities are.
        bonds: (n,) the share of the electrons in bonds that fits.
        lean: (n, 2) the tilt that fits best, degrees.
        stretch, shear: (n,) strain from each crystal's cell to the pattern's.
        way: in which each explains most, where it was weighed again.
    """

    value: np.ndarray
    once: np.ndarray
    setting: np.ndarray
    r1: np.ndarray
    b: np.ndarray
    power: np.ndarray
    bonds: np.ndarray
    lean: np.ndarray
    stretch: np.ndarray
    shear: np.ndarray
    way: Way

    def way_of(self, row: int) -> Way | None:
        """Of one crystal, if it was weighed by electrons that scatter more than once, too."""
        if self.value[row] == self.once[row]:
            return None
        return jax.tree.map(lambda x: x[[row]], self.way)


def weigh(
    crystals: CrystalSet,
    scores: np.ndarray,
    query: Query,
    conditions: Conditions,
    hypotheses: Sequence[Hypothesis],
    tilts: np.ndarray | None = None,
    scales: int = 1,
) -> Weighing:
    """Weigh n crystals for a pattern.

    Args:
        crystals: n candidates.
        scores: (S, n) of them in each setting, by `compare`.
        query: the pattern.
        conditions: radiation and B.
        hypotheses: what may differ.
        tilts: (S, 2) of the layer in each setting, degrees; None for none.
        scales: at which the pattern was joined, as many settings of each.
    """
    settings = _best(scores, scales)
    rows = np.arange(len(crystals))

    def of(which: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, Explained]:
        """Of crystals `rows` (m,) the best of their settings `which` (c, m), and what it says."""
        queries = jax.tree.map(lambda x: np.asarray(x)[which.ravel()], query.whole)
        tilted = None if tilts is None else tilts[which.ravel()]
        every = crystals.take(np.tile(rows, len(which)))
        found = explain(every, queries, conditions, hypotheses, tilted)
        return best_of((which.ravel(), found), found.value, len(which))

    first = of(settings[:, 0], rows)
    setting, found = first
    near = np.flatnonzero(found.value > found.value.max() - _NEAR)
    if settings.shape[1] > 1 and len(near):
        second = of(settings[:, 1][:, near], near)
        better = second[1].value > found.value[near]
        some = jax.tree.map(lambda x: x[better], second)
        setting, found = put(first, near[better], some)
    once = np.zeros(len(crystals), bool)
    way = Way.single(once, once, found.lean)
    return Weighing(
        found.value, found.value, setting, found.r1, found.b, found.power, found.bonds,
        found.lean, found.stretch, found.shear, way,
    )  # fmt: skip


def _best(scores: np.ndarray, scales: int) -> np.ndarray:
    """Settings (c, 2, n) that each crystal is tried in, of scores (S, n); of one setting (1, 1, n).

    The two best of the three best scales: `score` weighs cells and intensities otherwise than the
    probability does, which would miss the scale at which a candidate's intensities fit better. The
    second is mostly as good by symmetry.
    """
    each = scores.reshape(scales, -1, scores.shape[1])
    first = np.argsort(-each, axis=1, kind="stable")[:, :_SETTINGS]
    tops = np.take_along_axis(each, first[:, :1], axis=1)[:, 0]
    chosen = np.argsort(-tops, axis=0, kind="stable")[:_SCALES]
    return np.take_along_axis(first, chosen[:, None], axis=0) + each.shape[1] * chosen[:, None]


def log_none(query: Query) -> float:
    """Log-probability of a pattern of a structure of any kind.

    Comparable with that of `explain`. The mean of two Friedel mates has an exponential density
    about a smooth envelope, as any large structure's intensities do (Wilson, Acta Cryst. 2, 318,
    1949), mates are as like as in the best of several hypotheses, and the cell may be any. Where it
    is likelier than a crystal, that one explains nothing; what a library lacks is mostly more like
    its crystals than this, see `absent`.
    """
    spots = jax.tree.map(lambda x: np.asarray(x[0], float), query.whole)
    measured = spots.measured > 0
    seen = measured.any(-1)
    expected = (spots.hk != 0).any(-1)
    squared = (spots.q**2).sum(-1)
    weight = measured.sum(-1)
    mean = (spots.intensity * measured).sum(-1) / np.maximum(weight, 1)
    # The mean of an exponential variable's logarithm lies below that of its mean by 0.5772.
    slope = level = 0.0
    if seen.sum() > 2:
        x, y = squared[seen], np.log(mean[seen])
        slope = (x - x.mean()) @ y / max(((x - x.mean()) ** 2).sum(), 1e-12)
        # A few spots whose |q| hardly differ have any slope.
        slope = np.clip(slope, -_STEEPEST, 0.0)
        level = (y - slope * x).mean()
    envelope = np.exp(slope * squared + level + np.euler_gamma)
    logs = np.log(mean[seen] + SOFT)
    value = (logs - np.log(envelope[seen]) - mean[seen] / envelope[seen]).sum()
    both = measured.all(-1)
    ratio = np.diff(np.log(spots.intensity[both] + SOFT), axis=-1)[:, 0]
    across = 2 * spots.q[both] / np.sqrt(squared[seen].max())
    mates = [_of_mates(ratio, across, *each) for each in zip(_LIKENESS, _GRADIENTS, strict=True)]
    value += np.logaddexp.reduce(mates) - np.log(len(mates))
    floor = spots.intensity[measured].min()
    below = 1 - np.exp(-floor / envelope[expected])
    alone = (expected[:, None] & ~measured).sum(-1)[expected]
    value += (alone * np.log(_MISSING + (1 - _MISSING) * below)).sum()
    value += measured.sum() * np.log1p(-_MISSING)
    # Half a Gaussian's log for each spot is left out of `log_evidence`, too.
    value += 0.5 * measured.sum() * np.log(2 * np.pi)
    return float(value + LOG_ANY_CELL)


def _of_mates(ratio: np.ndarray, across: np.ndarray, error: float, gradient: float) -> float:
    """Log-density of ratios (n,) that have an error each and grow along `across` (n, 2) together.

    Half a Gaussian's log for each is left out.
    """
    columns, rest = gradient / error * across, ratio / error
    inner = np.eye(2) + columns.T @ columns
    along = columns.T @ rest
    square = rest @ rest - along @ np.linalg.solve(inner, along)
    return float(-0.5 * (square + np.log(np.linalg.det(inner))) - len(ratio) * np.log(error))
