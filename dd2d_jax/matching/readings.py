"""Readings of a pattern: its whole cell, a parent with a weak superlattice, a stack of layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dd2d_jax.matching.hypotheses import TEMPERATURE
from dd2d_jax.matching.rerank import Query
from dd2d_jax.matching.stacks import Stack
from dd2d_jax.matching.superlattice import Superlattice, log_satellites
from dd2d_jax.matching.weighing import Once, Weighed, weigh_twice, weighed

# That a crystal shows a weak superlattice, and that it is a stack of shifted layers, before the
# pattern was seen: more for stacks costs C2DB's single layers ranks, and wins the stacks none.
_SUPERLATTICE, _STACK = 0.2, 0.02
# Readings whose log-probability by kinematic intensities is this far below the likeliest's: those
# of a multislice never made up more than 7 of it.
_FAR = 12.0
# P(none) above which stacks are tried, too: 8 of 100 patterns at level *measured* have more where
# their crystal is in the library.
_UNEXPLAINED = 0.2


class Reading(NamedTuple):
    """One reading, weighed to the end.

    Attributes:
        place: among all readings.
        weighed: the crystals' odds and probabilities in it.
        log_p: log-probability of the reading itself.
    """

    place: int
    weighed: Weighed
    log_p: float


def for_others(count: int) -> int:
    """Crystals to weigh of a parent's or a stack's cell: the first of those that fit do."""
    return max(count // 4, 10)


def log_readings(
    totals: Sequence[float],
    above: Sequence[Superlattice],
    query: Query,
    layers: Sequence[Stack] = (),
) -> np.ndarray:
    """Log-probability (1 + n + m,) of each reading of a pattern: the whole cell's own spots, those
    of one of n parents and a weak superlattice, or those of one of m stacks of shifted layers.

    Args:
        totals: `Once.total` of the whole cell, of each parent and of each stack's layer.
        above: n superlattices.
        query: the whole pattern.
        layers: m stacks.
    """
    reading = np.array(totals)
    beside = [*above, *(one.above for one in layers)]
    shares = [_SUPERLATTICE / len(above) for _ in above] + [_STACK / len(layers) for _ in layers]
    for i, (weak, share) in enumerate(zip(beside, shares, strict=True), 1):
        if weak is not None:
            reading[i] += log_satellites(weak, query) / TEMPERATURE
        reading[i] += np.log(share)
    return reading - np.logaddexp.reduce(reading)


def weigh_readings(
    once: Sequence[Once],
    above: Sequence[Superlattice] = (),
    layers: Sequence[Stack] = (),
    twice: dict[int, Once] | None = None,
) -> list[Reading]:
    """Weigh a pattern's readings to the end: those that are likely enough.

    Args:
        once: of the whole cell, of the parent of each superlattice, of each stack's layer.
        above: these superlattices.
        layers: these stacks.
        twice: `weigh_twice` by place in `once`, where it is known; what is not is added.
    """
    twice = {} if twice is None else twice
    total = np.array([one.total() for one in once])
    before = log_readings(total, above, once[0].query, layers)
    kept = np.flatnonzero(before > before.max() - _FAR).tolist()
    for i in set(kept) - set(twice):
        twice[i] = weigh_twice(once[i])
    again = [twice[i] for i in kept]
    # What else a reading is likely by, a multislice does not change.
    after = before[kept] - total[kept] + [one.total() for one in again]
    after -= np.logaddexp.reduce(after)
    return [
        Reading(i, weighed(one), by) for i, one, by in zip(kept, again, after.tolist(), strict=True)
    ]


def none_of(readings: Sequence[Reading]) -> float:
    """Probability that none of a library's crystals made the pattern."""
    return sum(math.exp(by) * one.none for _, one, by in readings)


def explained(readings: Sequence[Reading]) -> bool:
    """Whether the library's crystals explain a pattern as it is, so that it need not be a stack."""
    return none_of(readings) <= _UNEXPLAINED
