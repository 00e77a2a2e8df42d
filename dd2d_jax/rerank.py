"""The first candidates weighed by simulation, over every setting of the query's lattice."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from dd2d_jax.datasets import CrystalSet
from dd2d_jax.evidence import MEASURED, Hypothesis, log_evidence, with_unseen
from dd2d_jax.lattice import Indexed, canonical_spots
from dd2d_jax.score import Table, score, strain_between
from dd2d_jax.spots import Conditions, Spots, power_of_two, strongest

# A candidate is tried in so many settings: those that `score` likes best.
_SETTINGS = 2
# Cells further than this from the query's, in isotropic strain and in shear, are not compared.
STRETCH, SHEAR = 0.06, 0.03

# Spot pairs that the comparison sees, and rods without a spot that it knows of.
_SEEN, _UNSEEN = 128, 128
# Pairs that are read of a pattern, whatever its cell.
_ALL = 512

_strains = jax.jit(strain_between)


@dataclasses.dataclass(frozen=True, eq=False)
class Query:
    """A pattern in every setting that its lattice may have.

    Attributes:
        settings: (S, T) its spots.
        whole: (S, U) the same, and after them the rods of its cell that show no spot.
    """

    settings: Spots
    whole: Spots

    @classmethod
    def known(cls, spots: Spots) -> Query:
        """Of spots (T,) whose setting is known; nothing is said of rods without a spot."""
        cut = strongest(spots, power_of_two(max(int(np.asarray(spots.mask).sum()), 1)))
        one = jax.tree.map(lambda x: np.asarray(x)[None], cut)
        return cls(one, one)

    @classmethod
    def indexed(cls, indexed: Indexed, conditions: Conditions) -> Query:
        """Of a pattern whose lattice was found.

        Raises:
            PatternError: no spot within q_max.
        """
        spots = canonical_spots(indexed, conditions.q_max, _ALL)
        last = float(np.linalg.norm(np.asarray(spots.q), axis=-1).max())
        whole = with_unseen(spots, min(last, conditions.q_max), _SEEN, _UNSEEN)
        return cls(strongest(spots, _SEEN), whole)


def compare(table: Table, settings: Spots) -> np.ndarray:
    """Scores (S, n) of a table's crystals in S settings of one pattern; -inf where cells differ.

    Only crystals whose cells are near are compared, in sizes that are powers of two.
    """
    lattice = np.asarray(table.lattice)
    out = np.full((len(settings.lattice), len(lattice)), -np.inf, np.float32)
    for s in range(len(out)):
        one = jax.tree.map(lambda x, s=s: x[s], settings)
        stretch, shear = (np.asarray(x) for x in _strains(table.lattice, one.lattice))
        rows = np.flatnonzero((np.abs(stretch) < STRETCH) & (shear < SHEAR))
        if len(rows):
            size = power_of_two(max(len(rows), 64))
            filled = rows[np.minimum(np.arange(size), len(rows) - 1)]
            out[s, rows] = np.asarray(score(table.take(filled), one))[: len(rows)]
    return out


def weigh(
    crystals: CrystalSet,
    scores: np.ndarray,
    query: Query,
    conditions: Conditions,
    hypotheses: Sequence[Hypothesis] = MEASURED,
) -> tuple[np.ndarray, np.ndarray]:
    """Log-probability (n,) of a pattern for each of n crystals, and the setting that fits best.

    Args:
        crystals: n candidates.
        scores: (S, n) of them in each setting, by `compare`.
        query: the pattern.
        conditions: radiation and B.
        hypotheses: what may differ.
    """
    count = min(_SETTINGS, len(scores))
    best = np.argsort(-scores, axis=0, kind="stable")[:count]
    rows = np.tile(np.arange(len(crystals)), count)
    queries = jax.tree.map(lambda x: np.asarray(x)[best.ravel()], query.whole)
    found = log_evidence(crystals.take(rows), queries, conditions, hypotheses)
    found = found.reshape(count, -1)
    first = found.argmax(0)
    return found.max(0), best[first, np.arange(len(crystals))]
