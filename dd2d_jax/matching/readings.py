"""Readings of a pattern: its whole cell, a parent with a weak superlattice, a stack of layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dd2d_jax.lattices.indexed import Indexed
from dd2d_jax.matching.hypotheses import TEMPERATURE
from dd2d_jax.matching.rerank import Query
from dd2d_jax.matching.stacks import Stack, stacks
from dd2d_jax.matching.superlattice import Superlattice, log_satellites
from dd2d_jax.matching.weighing import Once, Weighed, weigh_twice, weighed

# That a crystal shows a weak superlattice, and that it is a stack of shifted layers, before the
# pattern was seen.
_SUPERLATTICE, _STACK = 0.2, 0.2
# Readings whose log-probability by kinematic intensities is this far below the likeliest's: those
# of a multislice never made up more than 7 of it.
_FAR = 12.0
# R1 of the first candidate above which stacks are tried, too.
_POOR = 0.1


def for_parents(count: int) -> int:
    """Crystals to weigh of a parent's cell: it is small, and the first of those that fit do."""
    return max(count // 4, 10)


def stacks_of(indexed: Indexed, once: Once) -> list[Stack]:
    """`stacks` of a pattern whose whole cell was weighed; [] where a crystal explains it well."""
    value = once.weighing.value + once.prior
    first = np.argmax(value)
    well = once.weighing.r1[first] <= _POOR and value[first] >= once.nothing / TEMPERATURE
    return [] if well else stacks(indexed)


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
    once: Sequence[Once], above: Sequence[Superlattice] = (), layers: Sequence[Stack] = ()
) -> list[tuple[int, Weighed, float]]:
    """Weigh a pattern's readings to the end.

    Args:
        once: of the whole cell, of the parent of each superlattice, of each stack's layer.
        above: these superlattices.
        layers: these stacks.

    Returns:
        Of each reading that is likely enough its place in `once`, the crystals' odds and
        probabilities in it, and its own log-probability.
    """
    total = np.array([one.total() for one in once])
    before = log_readings(total, above, once[0].query, layers)
    kept = np.flatnonzero(before > before.max() - _FAR)
    again = [weigh_twice(once[i]) for i in kept]
    # What else a reading is likely by, a multislice does not change.
    after = before[kept] - total[kept] + [one.total() for one in again]
    after -= np.logaddexp.reduce(after)
    return [
        (i, weighed(one), by)
        for i, one, by in zip(kept.tolist(), again, after.tolist(), strict=True)
    ]
