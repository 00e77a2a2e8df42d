"""Crystals that a library lacks although it holds their like: one element exchanged for another."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

import jax
import numpy as np

from dd2d_jax.data.crystal_set import CrystalSet, reduced_formula
from dd2d_jax.matching.dynamical import either, explain_in_way
from dd2d_jax.matching.evidence import explain
from dd2d_jax.matching.hypotheses import Hypothesis
from dd2d_jax.matching.rerank import Query, Way
from dd2d_jax.spots import Conditions

# Elements whose numbers differ by more (logarithm) scatter otherwise: they explain less anyhow.
_LIKE = 0.5
# Exchanges that are tried of a crystal.
_MOST = 32
# Of these so many are computed by multislice.
_TWICE = 8
_NOBLE = (2, 10, 18, 36, 54, 86)
_LAST = 83


def log_isotypes(
    crystals: CrystalSet,
    setting: int,
    query: Query,
    conditions: Conditions,
    hypotheses: Sequence[Hypothesis],
    known: Collection[str],
    tilt: np.ndarray | None = None,
    way: Way | None = None,
) -> float:
    """How well the isotypes of a crystal that a library lacks explain a pattern, together.

    Args:
        crystals: one crystal.
        setting: of the query in which it fits.
        query: the pattern.
        conditions: radiation and B.
        hypotheses: what may differ.
        known: formulas of the library's crystals of that cell.
        tilt: (2,) of the layer in that setting, degrees; None for none.
        way: in which the crystal, one row, explains most where electrons scatter more than once:
            those isotypes that explain most are weighed in it, too. None: they scatter once.

    Returns:
        Logarithm of the sum of their evidence (`evidence.explain`); -inf where there is none.
    """
    shares = None if crystals.occupancy is None else crystals.occupancy[0]
    numbers = exchanged(np.asarray(crystals.numbers[0]), known, shares)
    if not len(numbers):
        return -np.inf
    few = dataclasses.replace(crystals.take(np.zeros(len(numbers), int)), numbers=numbers)
    spots = jax.tree.map(lambda x: np.asarray(x)[setting], query.whole)
    tilts = None if tilt is None else np.broadcast_to(tilt, (len(numbers), 2))
    found = explain(few, spots, conditions, hypotheses, tilts)
    value = found.value
    if way is not None:
        best = np.argsort(-value, kind="stable")[:_TWICE]
        spots = jax.tree.map(lambda x: np.broadcast_to(x, (len(best), *x.shape)), spots)
        every = jax.tree.map(lambda x: np.repeat(x, len(best), 0), way)
        again = explain_in_way(few.take(best), spots, conditions, hypotheses, found.b[best], every)
        value = either(value[best], again.value)
    return float(np.logaddexp.reduce(value))


def exchanged(
    numbers: np.ndarray, known: Collection[str], occupancy: np.ndarray | None = None
) -> np.ndarray:
    """Atomic numbers (n, N) of a crystal's isotypes that are not known, the likest first.

    Its atomic numbers and occupancies are (N,) each.
    """
    own = [int(z) for z in np.unique(numbers[numbers > 0])]
    others = [z for z in range(1, _LAST + 1) if z not in _NOBLE and z not in own]
    pairs = [(abs(np.log(new / old)), old, new) for old in own for new in others]
    made: list[np.ndarray] = []
    for away, old, new in sorted(pairs):
        if away > _LIKE or len(made) == _MOST:
            break
        one = np.where(numbers == old, new, numbers)
        if reduced_formula(one, occupancy) not in known:
            made.append(one)
    return np.array(made, numbers.dtype).reshape(-1, len(numbers))
