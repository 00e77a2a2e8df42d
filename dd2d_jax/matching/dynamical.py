"""The first candidates weighed again, by multislice: electrons may scatter more than once.

This changes the intensities of a monolayer of heavy atoms by several per cent, those of a thick
layer by more; as much as crystals differ that are alike. Kinematic intensities hardly tell the two
sides of a layer apart, nor the two senses of the scattering vectors, multislice intensities do:
all four ways are tried of crystals that may come first. A crystal's probability is the mean of the
kinematic one and that of its best way: a film that is bent or disordered may be nearer to the
kinematic.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

import diffraction as dx
from dd2d_jax.data.crystal_set import CrystalSet
from dd2d_jax.matching.evidence import Explained, explain
from dd2d_jax.matching.hypotheses import Hypothesis
from dd2d_jax.matching.layers import flakes
from dd2d_jax.matching.rerank import Query, Way, Weighing, put
from dd2d_jax.spots import (
    Conditions,
    Spots,
    atom_slots,
    blocks,
    cut_to,
    power_of_four,
    power_of_two,
    slots,
)
from diffraction.multislice import beam_intensities, coarse_band

# Crystals that are weighed by multislice, too: so many of the likeliest, unless a crystal's
# log-probability is this far below the first's. True ones of heavy elements were 24 below.
_MOST, _WITHIN = 80, 40.0
# Crystals whose log-probability untilted is this far below the best one's are not tried tilted: at
# a tilt of 1 degree a thick layer of heavy atoms was 12 behind, and first. With one side up, those
# this far below are not tried with the other: BiBrS, whose sides differ, was more than 30 behind.
_CLOSE, _CLOSE_BELOW = 20.0, 40.0
# Sides and senses this far below the best one's of a crystal are not tried tilted.
_WORSE = 10.0
# Crystals that are computed at once.
_BATCH = 8
# Least and largest B, angstrom^2, of the multislice: less needs a finer grid, and what more makes
# weak is not seen; both change little.
_LEAST_B, _MOST_B = 0.4, 10.0
# Crystals whose cells differ more from the pattern's, in strain or shear, explain nothing of it.
_FAR = 0.2
# Tilts beyond are none that a fit about the normal can find, degrees.
_STEEP = 5.0
# Atoms times points of their grids, of all crystals together: more take longer than 2 s.
_WORK = 16e6
# What each further layer adds to the relative errors of a flake's intensities: atoms' B differ, the
# gaps between layers too, and flakes are bent.
_EACH_LAYER = 0.015
# Points along an axis: few sizes are compiled.
_POINTS = np.array([24, 36, 48, 72, 96, 144, 192, 288, 384])
# Beams that are read from a wave, and atoms, at least: few sizes are compiled.
_BEAMS, _ATOMS = 512, 16
# Programs that are kept. Each takes some 200 of the 65,530 maps that Linux lets a process have,
# beyond which it crashes: a run over a thousand patterns did.
_PROGRAMS = 96


def weigh_again(
    weighing: Weighing,
    log_prior: np.ndarray,
    crystals: CrystalSet,
    query: Query,
    conditions: Conditions,
    hypotheses: Sequence[Hypothesis],
) -> Weighing:
    """What was weighed by kinematic intensities, the likeliest by those of a multislice, too.

    X-rays scatter once only: nothing is changed.

    Args:
        weighing: of n crystals, from `rerank.weigh`.
        log_prior: (n,) of each.
        crystals: these.
        query, conditions, hypotheses: what they were weighed for; the layer is not tilted.
    """
    if not isinstance(conditions.radiation, dx.Electrons):
        return weighing
    value, r1 = weighing.value.copy(), weighing.r1.copy()
    total = value + log_prior
    some = np.argsort(-total, kind="stable")[:_MOST]
    far = np.maximum(np.abs(weighing.stretch), weighing.shear)[some] > _FAR
    some = some[(total[some] > total[some[0]] - _WITHIN) & ~far]
    work = np.prod(_shapes(crystals.take(some), conditions.q_max), axis=1, dtype=float)
    some = some[np.cumsum(work) <= _WORK]
    if not len(some):
        return weighing
    spots = jax.tree.map(lambda x: np.asarray(x)[weighing.setting[some]], query.whole)
    few = crystals.take(some)
    again, its, how = explain_dynamical(
        few, spots, conditions, hypotheses, weighing.b[some], weighing.lean[some]
    )
    r1[some] = np.where(again > value[some], its, r1[some])
    value[some] = either(again, value[some])
    return weighing._replace(value=value, r1=r1, way=put(weighing.way, some, how))


def either(once: np.ndarray, again: np.ndarray) -> np.ndarray:
    """Log-probability, given that by either theory: both are as likely."""
    return np.logaddexp(once, again) - np.log(2)


def explain_dynamical(
    crystals: CrystalSet,
    queries: Spots,
    conditions: Conditions,
    hypotheses: Sequence[Hypothesis],
    b: np.ndarray,
    lean: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, Way]:
    """How well n crystals explain a query by electrons that scatter more than once.

    All are tried with one side up, untilted, and with the other unless far behind; those that then
    explain nearly as much as the best one at tilts, too.

    Args:
        crystals: n.
        queries: (n, T) spots for each, as in `evidence.explain`.
        conditions: electrons, q_max and B.
        hypotheses: what may differ.
        b: (n,) B beyond that of the conditions that fits each, angstrom^2.
        lean: (n, 2) tilt that fits each where electrons scatter once, degrees.

    Returns:
        Log-probability (n,) and R1 (n,) in the way that explains most, and that way.
    """

    def of(rows: np.ndarray) -> tuple[CrystalSet, Spots]:
        return crystals.take(rows), jax.tree.map(lambda x: np.asarray(x)[rows], queries)

    def seen(rows: np.ndarray, below: np.ndarray, lean: np.ndarray) -> _Tried:
        """Crystals `rows` in both senses of the scattering vectors."""
        turned = np.repeat([[False], [True]], len(rows), 1)
        way = Way.single(below, turned, lean)
        found = _explain(*of(rows), conditions, hypotheses, b[rows], way)
        way = Way.single(np.tile(below, 2), turned.ravel(), np.tile(lean, (2, 1)))
        return _Tried(found, way, np.tile(rows, 2))

    def at_its_tilt(tried: _Tried) -> _Tried:
        way = tried.way._replace(lean=tried.found.lean)
        found = explain_in_way(*of(tried.row), conditions, hypotheses, tried.found.b, way)
        return _Tried(found, way, tried.row)

    flat = np.zeros((len(crystals), 2))
    up = seen(np.arange(len(crystals)), np.zeros(len(crystals), bool), flat)
    some = up.within(_CLOSE_BELOW)
    untilted = up.joined(seen(some, np.ones(len(some), bool), flat[some]))
    # Tilts have several optima. That of kinematic intensities, the opposite one seen from below, is
    # near to one of them; each side and sense has one of its own.
    near = untilted.within(_CLOSE)
    below = np.repeat([False, True], len(near))
    tilted = seen(np.tile(near, 2), below, np.concatenate([lean[near], -lean[near]]))
    tried = untilted.joined(tilted)
    best, near = untilted.first().found.value, tried.within(_CLOSE)
    ways = np.isin(untilted.row, near) & (untilted.found.value > best[untilted.row] - _WORSE)
    tried = tried.joined(at_its_tilt(untilted.some(ways)))
    near = tried.within(_CLOSE)
    out = tried.joined(at_its_tilt(tried.first().some(near))).first()
    return out.found.value, out.found.r1, out.way


def explain_in_way(
    crystals: CrystalSet,
    queries: Spots,
    conditions: Conditions,
    hypotheses: Sequence[Hypothesis],
    b: np.ndarray,
    way: Way,
) -> Explained:
    """How well n crystals, each seen in one way, explain a query; see `explain_dynamical`."""
    way = way._replace(turned=way.turned[None])
    return _explain(crystals, queries, conditions, hypotheses, b, way)


def _explain(
    crystals: CrystalSet,
    queries: Spots,
    conditions: Conditions,
    hypotheses: Sequence[Hypothesis],
    b: np.ndarray,
    way: Way,
) -> Explained:
    """Of n crystals in S senses, `way.turned` (S, n): S n rows; one multislice serves them all."""
    sides = crystals.take(np.arange(len(crystals)))
    sides.positions[way.below, :, 2] *= -1
    lean = np.clip(np.nan_to_num(way.lean), -_STEEP, _STEEP)
    turned, layers, single = way.turned, way.layers, way.layers == 1
    pile = flakes(sides, layers, way.stacking)

    def squares(hk: np.ndarray) -> np.ndarray:
        one = dynamical_squares(pile, hk[: len(sides)], conditions, b, lean)
        one = one / layers[:, None] ** 2
        mates = np.roll(one, one.shape[1] // 2, 1)
        return np.where(turned[..., None], mates, one).reshape(-1, one.shape[1])

    every = np.tile(np.arange(len(crystals)), len(turned))
    spots = jax.tree.map(lambda x: np.asarray(x)[every], queries)
    if not single.all():
        spots = _less_exact(spots, layers[every])
    # What a small tilt changes is known of single layers only.
    about = np.where(single[:, None], lean, 0.0)
    return explain(
        sides.take(every), spots, conditions, hypotheses, squares=squares, lean=about[every]
    )


def _less_exact(spots: Spots, layers: np.ndarray) -> Spots:
    """Spots (n, T) of flakes, whose intensities are the less exact the more layers there are."""
    intensity = np.asarray(spots.intensity)
    sigma = 0.0 if spots.sigma is None else np.asarray(spots.sigma)
    added = (_EACH_LAYER * (layers - 1))[:, None, None] * intensity
    return dataclasses.replace(spots, sigma=np.hypot(sigma, added).astype(np.float32))


class _Tried(NamedTuple):
    """How crystals `row` (m,) of n explain a query, each in one way; every one is there."""

    found: Explained
    way: Way
    row: np.ndarray

    def some(self, rows: np.ndarray) -> _Tried:
        return jax.tree.map(lambda x: x[rows], self)

    def joined(self, *others: _Tried) -> _Tried:
        return jax.tree.map(lambda *x: np.concatenate(x), self, *others)

    def within(self, most: float) -> np.ndarray:
        """Crystals that are not farther behind the best one."""
        value = self.first().found.value
        return np.flatnonzero(value > value.max() - most)

    def first(self) -> _Tried:
        """Each crystal once, as it explains most, in the first of equal ways."""
        order = np.lexsort((-self.found.value, self.row))
        return self.some(order[np.unique(self.row[order], return_index=True)[1]])


def dynamical_squares(
    crystals: CrystalSet,
    hk: np.ndarray,
    conditions: Conditions,
    b: np.ndarray,
    tilts: np.ndarray,
) -> np.ndarray:
    """|F|^2 (n, K) of rods (n, K, 2) that kinematic scattering would need for a multislice's
    intensities, in angstrom^2, at the conditions' B.

    The multislice has `b` (n,) more, angstrom^2, which is taken out again: the less B, the more do
    electrons scatter. `tilts` (n, 2) in degrees, as in `dx.simulate`.
    """
    lattice = np.asarray(crystals.lattice, float)
    q = np.einsum("nkj,njd->nkd", hk, np.linalg.inv(lattice).swapaxes(1, 2))
    squared = (q**2).sum(-1)
    reach = max(float(np.sqrt(squared.max())), float(conditions.q_max)) * 1.001
    total = np.clip(float(conditions.b_iso) + b, _LEAST_B, _MOST_B)
    shapes, band = _shapes(crystals, reach), _band(reach)
    beams = slots(hk, power_of_two(max(hk.shape[1], _BEAMS)))
    if beam_intensities._cache_size() > _PROGRAMS:
        beam_intensities.clear_cache()
    out = np.zeros(squared.shape)
    for (*points, atoms), _, rows in blocks(shapes, _BATCH):
        room = power_of_four(max(atoms, _ATOMS))
        # The last row is repeated: it is written again.
        intensity = beam_intensities(
            cut_to(crystals, rows, room), conditions.radiation, total[rows].astype(np.float32),
            tilts[rows].astype(np.float32), beams[rows], band, tuple(points), thin=True,
        )  # fmt: skip
        out[rows] = intensity[:, : hk.shape[1]]
    return out * np.exp(0.5 * (total - float(conditions.b_iso))[:, None] * squared)


def _band(reach: float) -> float:
    return float(coarse_band(reach, _LEAST_B, np.ones(1)))


def _shapes(crystals: CrystalSet, reach: float) -> np.ndarray:
    """(n, 3) points along both axes that crystals are computed with, and atoms, or a few more."""
    rooms = [power_of_two(int(n)) for n in atom_slots(crystals.numbers)]
    return np.c_[grid_points(crystals.lattice, _band(reach)), rooms]


def grid_points(lattices: np.ndarray, band: float) -> np.ndarray:
    """(n, 2) points along both axes of lattices (n, 2, 2), of few sizes, that hold all |g| up to
    `band`, 1/angstrom.
    """
    least = [dx.multislice_grid(one, band) for one in np.asarray(lattices, float)]
    points = _POINTS[np.minimum(np.searchsorted(_POINTS, least), len(_POINTS) - 1)]
    return np.maximum(points, least)
