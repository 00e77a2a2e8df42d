"""Known crystals weighed again as flakes of several layers.

What is exfoliated has a few layers, or some dozens, as often as one. The waves of all layers add up
as they lie on each other (`layers.stackings`), and a tilt of a degree then changes intensities
several times, those of Friedel mates differently. A single layer explains nothing of this.

Flakes that fit are searched for with the layer's scattering matrix (`flake_search`), and are then
weighed by the multislice of all atoms.

Only crystals that are known to have been made are weighed so: what is hypothetical has no flakes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np

import diffraction as dx
from dd2d_jax.data.crystal_set import CrystalSet
from dd2d_jax.matching.dynamical import dynamical_squares, explain_in_way
from dd2d_jax.matching.evidence import Explained
from dd2d_jax.matching.flake_search import B, log_tilt, search, square_grid
from dd2d_jax.matching.hypotheses import Hypothesis, likely_powers
from dd2d_jax.matching.layers import flakes
from dd2d_jax.matching.rerank import Query, Way, Weighing, best_of, put
from dd2d_jax.spots import Conditions

# Known crystals that are weighed as flakes: so many of the likeliest of those whose cell fits, by
# so many of the strain's standard deviations, and whose shear is not larger.
_MOST, _STRAINS, _SHEAR = 24, 3.0, 0.03
# Cells of bulk crystals' layers differ from those of single ones in strain and in shear, SnSe's by
# 2 %.
_BULK = 0.01
# Where a flake comes first, differences in log-probability count for less by this factor: stacking,
# thickness and tilt make up for other elements. Fitted, see docs/retrieval.md.
_TEMPERATURE = 2.0
# R1 below which a single layer leaves nothing to explain: no flake's was.
_EXPLAINED = 0.005
# Flakes that are not behind by more have their tilt told by multislice: it is tried so far away,
# divided by the number of layers, degrees.
_CLOSE, _AROUND = 6.0, square_grid(np.array([-0.4, 0.0, 0.4]))


def weigh_flakes(
    weighing: Weighing,
    log_prior: np.ndarray,
    crystals: CrystalSet,
    query: Query,
    conditions: Conditions,
    hypotheses: Sequence[Hypothesis],
) -> Weighing:
    """What was weighed as single layers, known crystals as flakes of several, too.

    Args: as of `dynamical.weigh_again`, whose result `weighing` is.
    """
    some = np.flatnonzero(may_be_flakes(weighing, log_prior, crystals, conditions, hypotheses))
    some = some[np.argsort(-(weighing.value + log_prior)[some], kind="stable")[:_MOST]]
    if not len(some):
        return weighing
    rows, ways = [], []
    for row in some:
        spots = jax.tree.map(lambda x, row=row: np.asarray(x)[weighing.setting[row]], query.whole)
        found = search(crystals.take([row]), spots, conditions, likely_powers(hypotheses))
        rows += [row] * len(found.likeness)
        ways.append(found.way)
    rows, way = np.array(rows), jax.tree.map(lambda *x: np.concatenate(x), *ways)
    wider = [
        dataclasses.replace(
            h, stretch=math.hypot(h.stretch, _BULK), shear=math.hypot(h.shear, _BULK)
        )
        for h in hypotheses
    ]

    def explained(rows: np.ndarray, way: Way) -> Explained:
        spots = jax.tree.map(lambda x: np.asarray(x)[weighing.setting[rows]], query.whole)
        warmer = np.full(len(rows), B - conditions.b_iso)
        return explain_in_way(crystals.take(rows), spots, conditions, wider, warmer, way)

    found = explained(rows, way)
    total = found.value + way.price + log_prior[rows]
    best = [mine[total[mine].argmax()] for mine in (np.flatnonzero(rows == x) for x in some)]
    near = np.array([i for i in best if total[i] > total.max() - _CLOSE])
    again = np.tile(near, len(_AROUND))
    about = _tilted(jax.tree.map(lambda x: x[again], way), np.repeat(_AROUND, len(near), 0))
    tried = explained(rows[again], about), about
    better = best_of(tried, tried[0].value + about.price, len(_AROUND))
    found, way = put((found, way), near, better)
    each = found.value + way.price
    value, r1, b, power, bonds = (
        x.copy() for x in (weighing.value, weighing.r1, weighing.b, weighing.power, weighing.bonds)
    )
    its = weighing.way
    for row in np.unique(rows):
        mine = np.flatnonzero(rows == row)
        best = mine[each[mine].argmax()]
        as_flake = np.logaddexp.reduce(each[mine])
        if as_flake > value[row]:
            r1[row] = found.r1[best]
            its = put(its, np.array([row]), jax.tree.map(lambda x, i=best: x[[i]], way))
            b[row], power[row], bonds[row] = found.b[best], found.power[best], found.bonds[best]
        # The price is the flakes' prior: where none fits, nothing changes.
        value[row] = np.logaddexp(value[row], as_flake)
    first = int(np.argmax(value + log_prior))
    if its.layers[first] > 1:
        value = value[first] + (value - value[first]) / _TEMPERATURE
    # `absent` learnt what multiple scattering in a single layer is worth.
    once = np.where(its.layers > 1, value, weighing.once)
    return weighing._replace(
        value=value, once=once, r1=r1, b=b, power=power, bonds=bonds, way=its
    )


def _tilted(way: Way, away: np.ndarray) -> Way:
    """n ways, tilted further by `away` (n, 2), degrees divided by the number of layers."""
    lean = way.lean + away / way.layers[:, None]
    return way._replace(lean=lean, price=way.price + log_tilt(lean) - log_tilt(way.lean))


def may_be_flakes(
    weighing: Weighing,
    log_prior: np.ndarray,
    crystals: CrystalSet,
    conditions: Conditions,
    hypotheses: Sequence[Hypothesis],
) -> np.ndarray:
    """(n,) True for known crystals whose cell fits; none where a single layer explains all.

    Args: as of `weigh_flakes`.
    """
    explained = weighing.r1[np.argmax(weighing.value + log_prior)] < _EXPLAINED
    if explained or not isinstance(conditions.radiation, dx.Electrons):
        return np.zeros(len(crystals), bool)
    return (
        np.asarray(crystals.known, bool)
        & ~crystals.mixed
        & (np.abs(weighing.stretch) < _STRAINS * hypotheses[0].stretch)
        & (weighing.shear < _SHEAR)
    )


def simulated(
    crystals: CrystalSet, hk: np.ndarray, conditions: Conditions, b: np.ndarray, way: Way
) -> np.ndarray:
    """Intensities (n, T, 2) of n flakes at rods hk (n, T, 2) and -hk, as they were weighed: with
    `b` (n,) beyond the conditions', angstrom^2.
    """
    both = np.concatenate([hk, -hk], 1)
    warmer = np.full(len(crystals), B - conditions.b_iso)
    pile = flakes(crystals, way.layers, way.stacking)
    squares = dynamical_squares(pile, both, conditions, warmer, way.lean)
    q = np.einsum("nkj,njd->nkd", both, np.linalg.inv(crystals.lattice).swapaxes(1, 2))
    found = squares * np.exp(-0.5 * b[:, None] * (q**2).sum(-1))
    pairs = np.stack(np.split(found, 2, 1), -1)
    return np.where(way.turned[:, None, None], pairs[..., ::-1], pairs)
