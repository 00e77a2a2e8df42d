"""Readings of a pattern: its whole cell, a parent with a weak superlattice, a stack of layers, a
tilted layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from dd2d_jax.matching.hypotheses import TEMPERATURE
from dd2d_jax.matching.leaning import Leaning
from dd2d_jax.matching.rerank import Query
from dd2d_jax.matching.stacks import Stack
from dd2d_jax.matching.superlattice import Superlattice, log_satellites
from dd2d_jax.matching.weighing import Once, Weighed, weigh_twice, weighed

# That a crystal shows a weak superlattice, that it is a stack of shifted layers, and that most rods
# of its cell are weak, before the pattern was seen: more for stacks costs C2DB's single layers
# ranks, and wins the stacks none.
_SUPERLATTICE, _STACK, _WEAK = 0.2, 0.02, 0.1
# That a pattern has a false spot (dust, a hot pixel, another grain) where a superlattice's would
# be, of just this intensity; and so for each further one.
_FALSE = 0.02
# Readings whose log-probability by kinematic intensities is this far below the likeliest's: those
# of a multislice never made up more than 7 of it.
_FAR = 12.0
# P(none) above which stacks are tried, too: 8 of 100 patterns at level *measured* have more where
# their crystal is in the library. And tilts, which other crystals now and then explain half.
_UNEXPLAINED, _DOUBTED = 0.2, 0.1


class Reading(NamedTuple):
    """One reading, weighed to the end.

    Attributes:
        place: among the whole cell, the parents, the stacks and the tilted layers.
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
    further: Sequence[Stack | Leaning] = (),
) -> np.ndarray:
    """Log-probability (1 + n + m,) of each reading of a pattern: the whole cell's own spots, those
    of one of n parents and a weak superlattice, or those of one of m stacks of shifted layers or
    tilted layers.

    Args:
        totals: `Once.total` of the whole cell, of each parent and of each further layer.
        above: n superlattices.
        query: the whole pattern.
        further: m stacks and tilted layers.
    """
    others = [*above, *further]
    shares = [_share(one) for one in others]
    reading = np.array(totals)
    for i, (one, share) in enumerate(zip(others, shares, strict=True), 1):
        if isinstance(one, Leaning):
            reading[i] += one.log_p
            continue
        weak = one.above if isinstance(one, Stack) else one
        if weak is not None:
            satellites = log_satellites(weak, query) / TEMPERATURE
            reading[i] += np.logaddexp(satellites, weak.satellites * np.log(_FALSE))
        # Readings of one kind share what is expected of it.
        reading[i] += np.log(share / shares.count(share))
    return reading - np.logaddexp.reduce(reading)


def _share(one: Superlattice | Stack | Leaning) -> float | None:
    """Of patterns that are read so; None where the reading has its own probability."""
    if isinstance(one, Leaning):
        return None
    if isinstance(one, Stack):
        return _STACK if one.layer.stacked else _WEAK
    return _SUPERLATTICE


def weigh_readings(
    once: Sequence[Once],
    above: Sequence[Superlattice] = (),
    stacked: Callable[[], Iterable[tuple[Stack, Once]]] = tuple,
    tilted: Callable[[], Iterable[tuple[Leaning, Once]]] = tuple,
) -> list[Reading]:
    """Weigh a pattern's readings to the end: those that are likely enough.

    Args:
        once: of the whole cell, and of the parent of each superlattice.
        above: these superlattices.
        stacked: weighs the stacks that the pattern may be; asked where the library's crystals do
            not explain it as it is.
        tilted: the same of tilted layers.
    """
    done: dict[int, tuple[Once, Weighed]] = {}

    def weigh(once: Sequence[Once], further: Sequence[Stack | Leaning]) -> list[Reading]:
        total = np.array([one.total() for one in once])
        before = log_readings(total, above, once[0].query, further)
        likely = before > before.max() - _FAR
        # Crystals of the whole cell that are far behind as layers may be likeliest as flakes.
        likely[0] |= once[0].may_be_flakes()
        kept = np.flatnonzero(likely).tolist()
        for i in kept:
            if i not in done:
                again = weigh_twice(once[i])
                done[i] = again, weighed(again)
        # What else a reading is likely by, a multislice does not change.
        after = before[kept] - total[kept] + [done[i][0].total() for i in kept]
        after -= np.logaddexp.reduce(after)
        return [Reading(i, done[i][1], by) for i, by in zip(kept, after.tolist(), strict=True)]

    readings = weigh(once, ())
    none = none_of(readings)
    more = [
        *(stacked() if none > _UNEXPLAINED else ()),
        *(tilted() if none > _DOUBTED else ()),
    ]
    if not more:
        return readings
    return weigh([*once, *(one for _, one in more)], [one for one, _ in more])


def none_of(readings: Sequence[Reading]) -> float:
    """Probability that none of a library's crystals made the pattern."""
    return sum(math.exp(by) * one.none for _, one, by in readings)
