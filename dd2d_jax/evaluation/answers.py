"""What retrieval answers to the queries of an evaluation, the crystal present and left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from dd2d_jax.data.crystal_set import CrystalSet
from dd2d_jax.data.duplicates import twins
from dd2d_jax.evaluation.asked import Asked, merged
from dd2d_jax.evaluation.ranks import rank
from dd2d_jax.evaluation.reliability import as_expected, reliability
from dd2d_jax.lattices import lattice as lattices
from dd2d_jax.lattices.tilts import untilted
from dd2d_jax.libraries.library import Library
from dd2d_jax.matching.hypotheses import Hypothesis
from dd2d_jax.matching.leaning import Leaning, leanings
from dd2d_jax.matching.prior import log_prior
from dd2d_jax.matching.readings import for_others, none_of, weigh_readings
from dd2d_jax.matching.rerank import Query
from dd2d_jax.matching.stacks import Stack, stacks
from dd2d_jax.matching.weighing import Once, weigh_once
from dd2d_jax.refinement.refine import tilt_in_setting
from dd2d_jax.spots import Conditions, Spots


class Answer(NamedTuple):
    """To one query: the true crystal's rank, and what was said of the first and of none."""

    rank: int
    probability: float
    right: bool
    none: float


def answer(
    library: Library,
    asked: Asked,
    embedded: Sequence[np.ndarray],
    conditions: Conditions,
    truth: int,
    cosines: np.ndarray,
    embed: Callable[[Spots], np.ndarray],
    hypotheses: Sequence[Hypothesis],
    allowed: np.ndarray | None = None,
    count: int = 100,
) -> Answer:
    """Weigh a library's crystals for a query, all of them alike beforehand.

    Queries are drawn evenly from a library, whatever their stability: so is the prior here.

    Args:
        library: n crystals.
        asked: the query's readings, in S settings each.
        embedded: of each (S, D), what the network makes of these.
        conditions: of the comparison.
        truth: row of the query's crystal; its rank is n where it is not allowed.
        cosines: (n,) that order what is not weighed.
        embed: what the network makes (S, D) of spots in S settings.
        hypotheses: what may differ.
        allowed: (n,) bool; None allows all.
        count: crystals to weigh; of parents and stacks fewer, see `readings.for_others`.
    """
    allowed = np.ones(len(library), bool) if allowed is None else allowed
    prior = log_prior(library, allowed, use=False)

    def weigh(
        query: Query, embedded: np.ndarray, most: int, tilts: np.ndarray | None = None
    ) -> Once:
        return weigh_once(
            library, query, embedded, allowed, prior, conditions, hypotheses, most, 0.02, tilts
        )

    counts = [count] + [for_others(count)] * len(asked.above)
    once = list(map(weigh, asked.queries, embedded, counts))

    def stacked() -> Iterator[tuple[Stack, Once]]:
        for one in [] if asked.indexed is None else stacks(asked.indexed):
            query = Query.indexed(one.layer, conditions.q_max)
            yield one, weigh(query, embed(query.settings), for_others(count))

    def tilted() -> Iterator[tuple[Leaning, Once]]:
        for one in [] if asked.indexed is None else leanings(asked.indexed, hypotheses[0]):
            flat = untilted(one.indexed, one.tilt, conditions)
            query = Query.indexed(flat, conditions.q_max)
            tilts = np.array([tilt_in_setting(one.tilt, x) for x in lattices.frames(flat)])
            yield one, weigh(query, embed(query.settings), count, tilts)

    readings = weigh_readings(once, asked.above, stacked, tilted)
    none = none_of(readings)
    log_p = [
        weighed.odds + np.log(max(weighed.none, 1e-300)) + by for _, weighed, by in readings
    ]
    rows, value = merged([weighed.rows for _, weighed, _ in readings], log_p)
    place = np.flatnonzero(rows == truth)
    if len(place):
        its = rank(value, int(place[0]))
    elif allowed[truth]:
        others = np.setdiff1d(np.flatnonzero(allowed), rows)
        its = len(rows) + rank(cosines[others], int(np.flatnonzero(others == truth)[0]))
    else:
        its = len(library)
    return Answer(its, float(np.exp(value[0])), bool(rows[0] == truth), float(none))


def present_and_absent(
    present: Sequence[Answer], absent: Sequence[Answer] | None
) -> dict[str, dict[str, Any]]:
    """How far stated probabilities are true; shares in percent of the queries.

    What is stated holds where `absent.NONE` of the crystals are absent: "mixed" are these shares.

    Returns:
        {"present": {"queries", "right_above_90", "wrong_above_90", "wrong_above_99", "none_first",
        "first": of the first candidate's probability, "none": of that of none of the library's;
        see `reliability`}}, where the crystal was left out also "absent" alike, and where there are
        answers of both kinds "mixed".
    """
    out = {"present": _said(present, np.zeros(len(present), bool), np.ones(len(present)))}
    if absent is not None:
        out["absent"] = _said(absent, np.ones(len(absent), bool), np.ones(len(absent)))
    if present and absent:
        gone = np.arange(len(present) + len(absent)) >= len(present)
        out["mixed"] = _said([*present, *absent], gone, as_expected(gone))
    return out


def _said(answers: Sequence[Answer], absent: np.ndarray, weight: np.ndarray) -> dict[str, Any]:
    """Of answers that count for `weight` (n,), their crystals in the library or `absent` (n,)."""
    stated = np.array([one.probability for one in answers])
    right = np.array([one.right for one in answers], bool) & ~absent
    none = np.array([one.none for one in answers])
    shares = {
        "right_above_90": (stated > 0.9) & right,
        "wrong_above_90": (stated > 0.9) & ~right,
        "wrong_above_99": (stated > 0.99) & ~right,
        "none_first": none > stated,
    }
    total = max(float(weight.sum()), 1e-300)
    return {
        "queries": len(answers),
        **{name: 100 * float(weight[which].sum()) / total for name, which in shares.items()},
        "first": reliability(stated, right, weight),
        "none": reliability(none, absent, weight),
    }


def leaving_out(library: CrystalSet, row: int, allowed: np.ndarray) -> np.ndarray:
    """`allowed` (n,) without a crystal and its structural twins."""
    out = allowed.copy()
    out[row] = False
    out[twins(library, row, library)] = False
    return out
