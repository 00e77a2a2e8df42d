"""Retrieval without a network: every pattern of a library is compared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dd2d_jax.data.crystal_set import CrystalSet
from dd2d_jax.evaluation.asked import Asked, merged
from dd2d_jax.evaluation.ranks import rank
from dd2d_jax.matching.hypotheses import Hypothesis
from dd2d_jax.matching.rerank import compare, weigh
from dd2d_jax.matching.score import Table
from dd2d_jax.spots import Conditions


def physics_rank(
    table: Table,
    library: CrystalSet,
    asked: Asked,
    conditions: Conditions,
    truth: int,
    hypotheses: Sequence[Hypothesis],
    allowed: np.ndarray | None = None,
    count: int = 100,
) -> int:
    """Rank of the true crystal, row `truth` of a library.

    The probability is computed of the first `count` by `score`, in each reading of the pattern.
    Where the setting is known, so may the cell be: those whose cells are nearest count, too, as
    atoms that moved far spoil the intensities. The others keep their order.
    """
    near = asked.nearness(table.lattice)
    rows, values, best = [], [], np.full(len(library), -np.inf)
    for query in asked.queries:
        scores = compare(table, query.settings)
        if allowed is not None:
            scores = np.where(allowed, scores, -np.inf)
        its = scores.max(0)
        best = np.maximum(best, its)
        first = _first(its, count)
        if len(scores) == 1:
            first = np.union1d(first, _first(np.where(np.isfinite(its), near, -np.inf), count))
        first = first[np.isfinite(its[first])]
        rows.append(first)
        few = library.take(first)
        values.append(weigh(few, scores[:, first], query, conditions, hypotheses).value)
    totals = np.array([np.logaddexp.reduce(value) for value in values])
    shift = asked.log_readings(totals) - totals
    found, value = merged(rows, [x + by for x, by in zip(values, shift, strict=True)])
    place = np.flatnonzero(found == truth)
    if len(place):
        return rank(value, int(place[0]))
    others = np.setdiff1d(np.arange(len(best)), found)
    return len(found) + rank(best[others], int(np.flatnonzero(others == truth)[0]))


def _first(scores: np.ndarray, count: int) -> np.ndarray:
    """Places of the `count` highest scores, the best first."""
    count = min(count, len(scores))
    # Of a million only these are sorted.
    few = np.argpartition(-scores, count - 1)[:count]
    return few[np.argsort(-scores[few], kind="stable")]
