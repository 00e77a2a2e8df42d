"""Flakes of one crystal that fit a pattern: stackings, numbers of layers and tilts.

A layer's scattering matrix tells what it makes of each beam. A flake is a product of these and of
phases: of the way to the next layer, tilted, and of its shift. So one pass through 20 layers gives
the intensities of flakes of any number of them, at many tilts at once. In each layer the tilt is
left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import diffraction as dx
from dd2d_jax.data.crystal_set import CrystalSet
from dd2d_jax.matching.dynamical import grid_points
from dd2d_jax.matching.layers import GAP, SLIDE, Stacking, slides, spacing, stackings, turned
from dd2d_jax.matching.rerank import Way
from dd2d_jax.refinement.bonds import EXPECTED, ratios
from dd2d_jax.spots import (
    Conditions,
    Spots,
    atom_slots,
    cut_to,
    filled,
    picked,
    power_of_two,
    sized,
    slots,
)
from diffraction.kinematic import ewald_qz
from diffraction.multislice import scattering_matrix, turn


def square_grid(along: np.ndarray) -> np.ndarray:
    """(n^2, 2) points of a square grid, float32."""
    return np.stack(np.meshgrid(along, along), -1).reshape(-1, 2).astype(np.float32)


# Layers of a flake, at most.
LAYERS = 20
# Flakes of a crystal that are weighed.
_KEPT = 4
# B of the scattering matrix, angstrom^2, and of what is compared beyond it.
B, _SOFTER = 0.8, (-0.6, 0.0, 1.0, 2.0)
# What is compared is this power of intensities: weak spots count, too.
_ROOT = 0.25
# Pairs of spots that are compared; beams reach this much further than they do, 1/angstrom. There
# are at least, and about at most, so many beams: of large cells only inner spots are compared.
_PAIRS, _BEYOND, _LEAST, _ROOM = 64, 0.4, 128, 512
# Of these the inner ones serve where tilts are tried first.
_INNER = 256
# Tilts that are tried first, degrees, of so many stackings at once; then about the best ones, ever
# closer, and shifts that symmetry leaves free likewise, angstrom.
_COARSE = square_grid(np.linspace(-2, 2, 9))
_AT_ONCE = 8
_CLOSER, _SLIDES, _ABOUT = (0.2, 0.08, 0.04), (0.2, 0.08, 0.03), square_grid(np.arange(-2, 3))
# Ways (stacking and sense of q) of a crystal that are looked at closely; where layers may slide, so
# many before that at shifts and tilts between those tried first.
_WAYS, _SLID = 6, 32
# Likenesses of the same flake differ by less.
_SAME = 1e-5
# A tilt's components are normal, degrees; two tilts are told apart if they differ by this, divided
# by the number of layers.
_TILT, _TOLD = 1.0, 1.0


class Fitting(NamedTuple):
    """The flakes of a crystal that fit a pattern, the best first: m of them.

    Attributes:
        likeness: (m,) cosine of the amplitudes. way: (m,) in which each is seen.
    """

    likeness: np.ndarray
    way: Way


def search(
    crystal: CrystalSet,
    spots: Spots,
    conditions: Conditions,
    powers: Sequence[float] = (1.0,),
) -> Fitting:
    """Stackings, numbers of layers and tilts of one crystal that fit best.

    Args:
        crystal: one.
        spots: (T,) of a pattern, in the crystal's setting.
        conditions: electrons.
        powers: of counts that the intensities may be.
    """
    told = _to_compare(crystal, spots, conditions, powers)
    inner, may_slide = _inner(told), slides(crystal)
    every = stackings(crystal.lattice[0], may_slide)
    like, tilts = _first(inner, every)
    which, sense = _different(like)
    some, tilts = jax.tree.map(lambda x: x[which], every), tilts[which, sense]
    free = may_slide / np.linalg.norm(crystal.lattice[0], axis=1)
    if free.any():
        some, sense, tilts = _slid(inner, some, sense, tilts, free)
    # The last one again, so that one size is compiled.
    ways = min(len(sense), _WAYS)
    some, sense, tilts = jax.tree.map(lambda x: filled(x, _WAYS), (some, sense, tilts))
    like, some, tilts = _closer(told, some, sense, tilts, free)
    layers, likeness = 2 + like.argmax(1), like.max(1)
    best = np.argsort(-likeness[:ways], kind="stable")[:_KEPT]
    # Each stacking and sense as likely, numbers of layers evenly on a logarithmic scale.
    narrow = np.minimum(_TOLD / (layers * _TILT), 1.0) ** 2
    price = np.log(narrow) + log_tilt(tilts) - np.log(2 * len(every.turned) * np.log(LAYERS))
    way = Way(np.zeros(_WAYS, bool), sense == 1, tilts, layers, some, price)
    return Fitting(likeness[best], jax.tree.map(lambda x: x[best], way))


def log_tilt(tilts: np.ndarray) -> np.ndarray:
    """Log-probability density (n,) of tilts (n, 2), degrees, but for a constant."""
    return -0.5 * (tilts**2).sum(-1) / _TILT**2


def _first(told: _Told, every: Stacking) -> tuple[np.ndarray, np.ndarray]:
    """Likeness (S, 2) of flakes of S stackings in both senses of q and the tilt (S, 2, 2) of each,
    of those on a coarse grid.
    """
    count = len(every.turned)
    likeness, tilts = np.zeros((count, 2)), np.zeros((count, 2, 2))
    for start in range(0, count, _AT_ONCE):
        rows = np.arange(start, min(start + _AT_ONCE, count))
        some = jax.tree.map(lambda x, rows=rows: x[filled(rows, _AT_ONCE)], every)
        like = np.asarray(_likeness(told, *_everywhere(some, _COARSE)))[: len(rows), 1:]
        likeness[rows] = like.max((1, 2))
        tilts[rows] = _COARSE[like.max(1).argmax(1)]
    return likeness, tilts


def _slid(
    told: _Told, stacking: Stacking, sense: np.ndarray, tilts: np.ndarray, free: np.ndarray
) -> tuple[Stacking, np.ndarray, np.ndarray]:
    """The first of stackings, the senses of q and tilts in which each is seen, at the best of
    shifts and tilts between those that were tried, and of these the likeliest.
    """
    stacking, sense, tilts = jax.tree.map(lambda x: filled(x, _SLID), (stacking, sense, tilts))
    along = np.unique(square_grid(np.linspace(-SLIDE, SLIDE, 3) / 3) * free, axis=0)
    aside = square_grid(np.array([-0.25, 0.0, 0.25]))
    shifts = np.repeat(stacking.shift[:, None] + along, len(aside), 1)
    near = np.tile(tilts[:, None] + aside, (1, len(along), 1))
    like = _in_sense(told, stacking._replace(shift=shifts), sense, near).max(1)
    each, best = np.arange(_SLID), like.argmax(1)
    stacking = stacking._replace(shift=shifts[each, best])
    first = np.argsort(-like.max(1), kind="stable")[:_WAYS]
    return jax.tree.map(lambda x: x[first], (stacking, sense, near[each, best]))


def _closer(
    told: _Told, stacking: Stacking, sense: np.ndarray, tilts: np.ndarray, free: np.ndarray
) -> tuple[np.ndarray, Stacking, np.ndarray]:
    """Likeness (S, LAYERS - 1) of flakes of 2, 3, ... layers in S stackings, each in one sense of
    q, at the best of shifts and tilts ever closer about theirs, and these.
    """
    each = np.arange(len(sense))
    along = np.unique(free * _ABOUT, axis=0)
    for step, slide in zip(_CLOSER, _SLIDES, strict=True):
        near = tilts[:, None] + step * _ABOUT
        like = _in_sense(told, stacking, sense, near)
        tilts = near[each, like.max(1).argmax(-1)]
        if free.any():
            there = stacking.shift[:, None] + slide * along
            like = _in_sense(told, stacking._replace(shift=there), sense, tilts[:, None])
            stacking = stacking._replace(shift=there[each, like.max(1).argmax(-1)])
    return like.max(-1), stacking, tilts


def _in_sense(
    told: _Told, stacking: Stacking, sense: np.ndarray, tilts: np.ndarray
) -> np.ndarray:
    """Likeness (S, LAYERS - 1, T) of flakes of 2, 3, ... layers in S stackings, each in one sense
    of q, at each of T shifts and tilts.
    """
    like = np.asarray(_likeness(told, *_everywhere(stacking, tilts)))
    return like[np.arange(len(sense)), 1:, :, sense]


def _everywhere(stacking: Stacking, tilts: np.ndarray) -> tuple[np.ndarray, ...]:
    """Arguments of `_likeness`: each of S stackings at each of its T shifts and tilts."""
    turns, further, shifts = stacking
    shifts = shifts.reshape(len(turns), -1, 2)
    tilts = np.broadcast_to(tilts, (len(turns), *np.shape(tilts)[-2:]))
    shape = (len(turns), max(shifts.shape[1], tilts.shape[1]), 2)
    shifts, tilts = (np.broadcast_to(x, shape).astype(np.float32) for x in (shifts, tilts))
    return turns, further, shifts, tilts


def _to_compare(
    crystal: CrystalSet, spots: Spots, conditions: Conditions, powers: Sequence[float]
) -> _Told:
    """Arguments as of `search`."""
    lattice = np.asarray(crystal.lattice[0], float)
    # As far as there is room for beams.
    farthest = float(np.sqrt(0.95 * _ROOM / (np.pi * abs(np.linalg.det(lattice)))))
    reciprocal = np.linalg.inv(lattice).T
    q = np.linalg.norm(np.asarray(spots.hk) @ reciprocal, axis=-1)
    spots = sized(picked(spots, np.flatnonzero(q < _compared(farthest))), _PAIRS)
    hk = np.concatenate([spots.hk, -spots.hk])
    squared = ((hk @ reciprocal) ** 2).sum(-1)
    reach = min(float(np.sqrt(squared.max())) + _BEYOND, farthest)
    beams = dx.reflections(lattice, reach)
    beams = np.concatenate([[[0, 0]], beams[(beams != 0).any(-1)]])
    place = {tuple(x): i for i, x in enumerate(beams.tolist())}
    flat, half = np.zeros((1, 2)), np.full(1, EXPECTED)
    bonded = ratios(crystal, hk[None], crystal.lattice, conditions, flat, half)
    # Few sizes are compiled.
    beams = slots(beams[None], power_of_two(max(len(beams), _LEAST)))[0]
    return _Told(
        _matrices(crystal, beams, place, reach, conditions),
        beams,
        (beams @ reciprocal).astype(np.float32),
        np.array([place[tuple(x)] for x in hk.tolist()]),
        squared.astype(np.float32),
        bonded[0].astype(np.float32),
        *_observed(spots),
        np.array(powers, np.float32),
        np.float32(spacing(crystal)[0]),
        np.float32(conditions.radiation.wavelength),
    )


class _Told(NamedTuple):
    """What flakes of one crystal are compared with; M beams, K rods.

    Attributes:
        matrices: (2, M, M) of the layer and of the turned one, 0 for padding.
        hk: (M, 2) of the beams, the direct one first. q: (M, 2) 1/angstrom.
        rods: (K,) beams that are compared. squared: (K,) their |q|^2. bonded: (K,) by what bonds
            multiply their intensities.
        amplitude: (2, K) observed, in both senses of q. measured: (2, K) 1 where there is one.
        powers: (P,) of counts that the intensities may be.
        step: from layer to layer, angstrom. wavelength: angstrom.
    """

    matrices: jax.Array
    hk: jax.Array
    q: jax.Array
    rods: jax.Array
    squared: jax.Array
    bonded: jax.Array
    amplitude: jax.Array
    measured: jax.Array
    powers: jax.Array
    step: jax.Array
    wavelength: jax.Array


def _compared(reach: float) -> float:
    """How far spots are compared where beams reach so far, 1/angstrom."""
    return max(reach - _BEYOND, reach / 2)


def _different(tops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Stackings and senses of q, (m,) each, that fit best, of (S, 2) likenesses.

    Those of equal likeness are the same flake: many layers look the same after a turn.
    """
    order = np.argsort(-tops, axis=None, kind="stable")
    new = np.diff(tops.ravel()[order], prepend=np.inf) < -_SAME
    return np.unravel_index(order[new], tops.shape)


def _inner(told: _Told) -> _Told:
    """With the inner beams alone, and the spots that lie well among them."""
    if len(told.hk) <= _INNER:
        return told
    near = np.sqrt(told.squared) < _compared(np.linalg.norm(told.q[_INNER - 1]))
    return told._replace(
        matrices=told.matrices[:, :_INNER, :_INNER],
        hk=told.hk[:_INNER],
        q=told.q[:_INNER],
        rods=np.where(near, told.rods, 0),
        amplitude=told.amplitude * near,
        measured=told.measured * near,
    )


def _matrices(
    crystal: CrystalSet,
    beams: np.ndarray,
    place: dict[tuple[int, int], int],
    reach: float,
    conditions: Conditions,
) -> np.ndarray:
    """`_Told.matrices`, of beams (M, 2); `place` of each that is no padding."""
    band = max(2 * reach, 2.5)
    grid = tuple(grid_points(crystal.lattice, band)[0].tolist())
    atoms = power_of_two(max(int(atom_slots(crystal.numbers).max()), 16))
    layer = jax.tree.map(lambda x: x[0], cut_to(crystal, np.zeros(1, int), atoms))
    made = scattering_matrix(layer, conditions.radiation, B, beams, float(band), grid)
    own = np.zeros((len(beams),) * 2, np.complex64)
    count = len(place)
    own[:count, :count] = np.asarray(made)[:count, :count]
    # Turned about the origin, then shifted to where the turned layer lies.
    there = (crystal.positions[0, 0] + turned(crystal).positions[0, 0])[:2]
    phase = np.asarray(turn(beams @ np.linalg.solve(np.asarray(crystal.lattice[0]).T, there)))
    opposite = np.arange(len(beams))
    opposite[:count] = [place[-h, -k] for h, k in beams[:count].tolist()]
    other = phase[:, None] * own[np.ix_(opposite, opposite)] * phase.conj()
    return np.stack([own, other.astype(np.complex64)])


def _observed(spots: Spots) -> tuple[np.ndarray, np.ndarray]:
    """`_Told.amplitude` and `_Told.measured`."""
    intensity = np.maximum(np.asarray(spots.intensity, np.float32), 0) ** _ROOT
    measured = np.asarray(spots.measured, np.float32)
    amplitude, measured = (
        np.stack([np.concatenate([x[:, 0], x[:, 1]]), np.concatenate([x[:, 1], x[:, 0]])])
        for x in (intensity * measured, measured)
    )
    return amplitude, measured


@jax.jit
def _likeness(
    told: _Told, turns: jax.Array, further: jax.Array, shifts: jax.Array, tilts: jax.Array
) -> jax.Array:
    """Cosines (S, LAYERS, T, 2) of the amplitudes of flakes of 1, 2, ... layers in S stackings
    (see `Stacking`), each with shifts (S, T, 2) and at tilts (S, T, 2), in both senses of q; the
    best of those with different B and powers.
    """
    straight = jnp.nan_to_num(ewald_qz(told.q, told.wavelength))
    roots = _ROOT * told.powers
    roots = roots[:, None, None]
    soft = jnp.exp(-roots * jnp.array(_SOFTER)[:, None] * told.squared / 2) * told.bonded**roots
    whole = jnp.sum(told.amplitude**2, -1)

    def of(turns, further, shifts, tilts):
        qz = ewald_qz(jnp.broadcast_to(told.q, (len(tilts), *told.q.shape)), told.wavelength, tilts)
        way = (jnp.nan_to_num(qz) - straight) * told.step + straight * GAP
        between = turn(way).T
        aside = told.hk.astype(jnp.float32) @ shifts.T

        def pass_layer(wave, number):
            odd = number % 2
            phase = turn(aside * jnp.where(further, number, odd))
            matrix = told.matrices[jnp.where(turns, odd, 0)]
            wave = phase * (matrix @ (jnp.conj(phase) * wave))
            amplitude = jnp.abs(wave[told.rods]) ** (2 * roots)
            product = jnp.einsum("rk,pbk,pkt->pbtr", told.amplitude, soft, amplitude)
            size = jnp.einsum("rk,pbk,pkt->pbtr", told.measured, soft**2, amplitude**2)
            cosine = product / jnp.sqrt(size * whole + 1e-30)
            return wave * between, cosine.max((0, 1))

        first = jnp.zeros((len(told.hk), len(tilts)), jnp.complex64).at[0].set(1.0)
        return jax.lax.scan(pass_layer, first, jnp.arange(LAYERS))[1]

    return jax.lax.map(lambda x: of(*x), (turns, further, shifts, tilts))
