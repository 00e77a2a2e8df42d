"""What both encoders read: the strongest spots of a pattern, as Friedel pairs.

Spots at q and -q carry nearly the same intensity; a pair is one token with two levels, so that a
token costs one place in the attention and nothing is lost.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import diffraction as dx

# Intensities, relative to the strongest spot, below this are read as this.
FLOOR = 1e-4
# Crystals of a block of `clean_pairs_in_few_shapes`.
_BLOCK = 32
# No intensity that was straightened is known better than so, relative to the strongest.
_SURE = 1e-3


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Spots:
    """Friedel pairs of a pattern in the canonical setting of its lattice, batch axes in front.

    Attributes:
        q: (..., T, 2) of the pair's spot in the upper half plane, 1/angstrom.
        hk: (..., T, 2) its indices in the reduced cell.
        intensity: (..., T, 2) of the spots at q and -q, relative to the strongest of the pattern.
        measured: (..., T, 2) True where that spot of the pair was seen.
        lattice: (..., 2, 2) the cell in angstrom that the spots' positions give.
        sigma: (..., T, 2) standard uncertainties of `intensity`, in its units; 0 where one is not
            known. None: none is.
    """

    q: jax.Array
    hk: jax.Array
    intensity: jax.Array
    measured: jax.Array
    lattice: jax.Array
    sigma: jax.Array | None = None

    @property
    def mask(self) -> jax.Array:
        """(..., T) True where at least one spot of the pair was seen."""
        return self.measured.any(-1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Conditions:
    """How patterns are taken.

    Attributes:
        radiation: `dx.Electrons` or `dx.Xrays`.
        q_max: 1/angstrom.
        b_iso: angstrom^2.
        tokens: number of spot pairs that the encoders read.
    """

    radiation: dx.Electrons | dx.Xrays
    q_max: float
    b_iso: float
    tokens: int = dataclasses.field(metadata={"static": True})

    @classmethod
    def from_config(cls, config) -> Conditions:
        """From the `diffraction` part of a config."""
        return cls(dx.Electrons(config.energy), config.q_max, config.b_iso, config.tokens)


def half_plane(lattice: np.ndarray, q_max: float) -> np.ndarray:
    """Rods (..., K, 2) of `dx.reflections`, one of each Friedel pair, padded with (0, 0)."""
    hk = dx.reflections(lattice, q_max)
    upper = (hk[..., 0] > 0) | ((hk[..., 0] == 0) & (hk[..., 1] > 0))
    order = np.argsort(~upper, axis=-1, kind="stable")
    size = int(upper.sum(-1).max())
    out = np.take_along_axis(np.where(upper[..., None], hk, 0), order[..., None], -2)
    return out[..., :size, :]


@jax.jit
def both_sides(
    crystal: dx.Crystal,
    hk: jax.Array,
    conditions: Conditions,
    b_iso: jax.Array | None = None,
    tilt: jax.Array | tuple[float, float] = (0.0, 0.0),
) -> tuple[jax.Array, jax.Array]:
    """q (..., T, 2, 2) and intensities (..., T, 2) of the spots at `hk` (..., T, 2) and -hk.

    Zero for padding. `tilt` in degrees, see `dx.simulate`; under tilt the two are not at q and -q.
    """
    count = hk.shape[-2]
    pattern = dx.simulate(
        crystal,
        conditions.radiation,
        conditions.q_max,
        conditions.b_iso if b_iso is None else b_iso,
        tilt,
        hk=jnp.concatenate([hk, -hk], -2),
    )
    halves = slice(None, count), slice(count, None)
    return (
        jnp.stack([pattern.q[..., half, :] for half in halves], -2),
        jnp.stack([pattern.intensity[..., half] for half in halves], -1),
    )


@jax.jit
def pair_intensities(
    crystal: dx.Crystal, hk: jax.Array, conditions: Conditions, b_iso: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """q (..., T, 2) of rods `hk` and the intensities (..., T, 2) at q and -q, zero for padding."""
    q, intensity = both_sides(crystal, hk, conditions, b_iso)
    return q[..., 0, :], intensity


@functools.partial(jax.jit, static_argnames="tokens")
def select(
    q: jax.Array,
    hk: jax.Array,
    intensity: jax.Array,
    measured: jax.Array,
    tokens: int,
    sigma: jax.Array | None = None,
) -> Spots:
    """The `tokens` strongest pairs (..., T), intensities relative to the strongest spot.

    The lattice is fitted to the selected spots' positions.
    """
    shortfall = tokens - hk.shape[-2]
    if shortfall > 0:
        q, hk, intensity, measured, sigma = jax.tree.map(
            lambda x: jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, shortfall), (0, 0)]),
            (q, hk, intensity, measured, sigma),
        )
    intensity = jnp.where(measured, intensity, 0.0)
    strongest = intensity.max((-1, -2), keepdims=True)
    unit = jnp.where(strongest > 0, strongest, 1.0)
    intensity, sigma = jax.tree.map(lambda x: x / unit, (intensity, sigma))
    _, index = jax.lax.top_k(intensity.max(-1), tokens)
    q, hk, intensity, measured, sigma = jax.tree.map(
        lambda x: jnp.take_along_axis(x, index[..., None], -2),
        (q, hk, intensity, measured, sigma),
    )
    measured = measured & (hk != 0).any(-1, keepdims=True)
    return Spots(q, hk, intensity, measured, fit_lattice(q, hk, measured.any(-1)), sigma)


def straightened(spots: Spots, power: float | np.ndarray) -> Spots:
    """With the intensities (..., T, 2) of which those of `spots` are a power (...)."""
    power = np.asarray(power, np.float32)[..., None, None]
    if np.all(power == 1):
        return spots
    intensity, sigma = root(np.asarray(spots.intensity), spots.sigma, power)
    return dataclasses.replace(spots, intensity=intensity, sigma=sigma)


def root(
    intensity: np.ndarray, sigma: np.ndarray | None, power: float | np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Intensities, relative to the strongest, of which these are a power; and their errors."""
    if np.all(np.asarray(power) == 1):
        return intensity, sigma
    exponent = 1 / np.asarray(power)
    if sigma is not None:
        sigma = np.asarray(sigma)
        spread = (intensity + sigma) ** exponent - np.maximum(intensity - sigma, 0) ** exponent
        sigma = np.where(sigma > 0, np.maximum(spread / 2, np.float32(_SURE)), 0)
    return intensity**exponent, sigma


def strongest(spots: Spots, tokens: int) -> Spots:
    """The first `tokens` pairs: spots are sorted by strength."""
    return _by_pair(lambda x: x[..., :tokens, :], spots)


def picked(spots: Spots, pairs: np.ndarray) -> Spots:
    """Some of the pairs, by their places."""
    return _by_pair(lambda x: x[..., pairs, :], spots)


def sized(spots: Spots, tokens: int) -> Spots:
    """The first `tokens` pairs, filled up with padding where there are fewer; concrete."""
    short = max(tokens - spots.hk.shape[-2], 0)
    widths = [(0, 0)] * (spots.hk.ndim - 2) + [(0, short), (0, 0)]
    padded = _by_pair(lambda x: np.pad(x, widths), strongest(spots, tokens))
    return dataclasses.replace(padded, lattice=np.asarray(spots.lattice))


def _by_pair(change: Callable[[jax.Array], jax.Array], spots: Spots) -> Spots:
    """`change` made to all that has an axis of pairs."""
    pairs = {f.name: getattr(spots, f.name) for f in dataclasses.fields(spots)}
    del pairs["lattice"]
    return Spots(**jax.tree.map(change, pairs), lattice=spots.lattice)


@jax.jit
def fit_lattice(q: jax.Array, hk: jax.Array, mask: jax.Array) -> jax.Array:
    """Least-squares cell (..., 2, 2) in angstrom of spots q (..., T, 2) indexed hk (..., T, 2)."""
    weight = mask.astype(q.dtype)[..., None]
    indices = hk.astype(q.dtype) * weight
    normal = jnp.einsum("...ti,...tj->...ij", indices, indices, precision="highest")
    mixed = jnp.einsum("...ti,...tj->...ij", indices, q * weight, precision="highest")
    # q = hk B and A = B^-T, hence A = (mixed^-1 normal)^T.
    return jnp.einsum("...ij,...jk->...ki", _inverse(mixed), normal, precision="highest")


def _inverse(m: jax.Array) -> jax.Array:
    a, b, c, d = m[..., 0, 0], m[..., 0, 1], m[..., 1, 0], m[..., 1, 1]
    rows = jnp.stack([jnp.stack([d, -b], -1), jnp.stack([-c, a], -1)], -2)
    det = a * d - b * c
    return rows / jnp.where(jnp.abs(det) > 1e-12, det, 1.0)[..., None, None]


def clean_pairs(
    crystals: dx.Crystal, conditions: Conditions
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Clean patterns of a concrete batch, in parts of like size.

    Yields:
        rows (m,) of the batch, and of those crystals q (m, T, 2), hk (m, T, 2) and the
        intensities (m, T, 2) at q and -q; all zero for padding.
    """
    chunks = dx.simulate_library(crystals, conditions.radiation, conditions.q_max, conditions.b_iso)
    for rows, pattern in chunks:
        count = pattern.mask.shape[1] // 2
        intensity = np.asarray(pattern.intensity)
        intensity = np.stack([intensity[:, :count], intensity[:, count:]], -1)
        yield rows, np.asarray(pattern.q)[:, :count], np.asarray(pattern.hk)[:, :count], intensity


def clean_pairs_in_few_shapes(
    crystals: dx.Crystal, conditions: Conditions, tilt: tuple[float, float] = (0.0, 0.0)
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """As `clean_pairs`, in blocks of few shapes: for hundreds of crystals of any kind, compiling
    would cost more than the padding. `tilt` in degrees; q are those of the upper half plane.
    """
    numbers = np.asarray(crystals.numbers)
    rods = half_plane(np.asarray(crystals.lattice), conditions.q_max)
    counts = (rods != 0).any(-1).sum(1)
    rooms = np.array([power_of_two(max(int(n), 8)) for n in atom_slots(numbers)])
    widths = np.array([power_of_two(max(int(n), 64)) for n in counts])
    for (room, width), real, rows in blocks(np.stack([rooms, widths], 1), _BLOCK):
        hk = slots(rods[rows], width)
        cut = cut_to(crystals, rows, room)
        q, intensity = both_sides(cut, hk, conditions, tilt=np.asarray(tilt, np.float32))
        count = len(real)
        yield real, np.asarray(q)[:count, :, 0], hk[:count], np.asarray(intensity)[:count]


def blocks(
    shapes: np.ndarray, size: int
) -> Iterator[tuple[tuple[int, ...], np.ndarray, np.ndarray]]:
    """Rows (n, d) of like shape, `size` at a time: few programs are compiled for them.

    Yields:
        The shape (d,), the rows, and these again (size,) with the last one repeated.
    """
    for shape in np.unique(shapes, axis=0):
        alike = np.flatnonzero((shapes == shape).all(1))
        for start in range(0, len(alike), size):
            rows = alike[start : start + size]
            yield tuple(shape.tolist()), rows, filled(rows, size)


def filled(rows: np.ndarray, size: int) -> np.ndarray:
    """Rows (n,) with the last one repeated to a size, so that few sizes are compiled."""
    return rows[np.minimum(np.arange(size), len(rows) - 1)]


def cut_to(crystals: Any, rows: np.ndarray, room: int) -> dx.Crystal:
    """Some of many crystals (a `CrystalSet` or a batch), atoms cut or padded to `room`."""
    lattice = np.asarray(crystals.lattice)[rows]
    by_atom = (crystals.positions, crystals.numbers, crystals.occupancy)
    return dx.Crystal(
        lattice, *(None if x is None else slots(np.asarray(x)[rows], room) for x in by_atom)
    )


def slots(values: np.ndarray, size: int) -> np.ndarray:
    """Axis 1 cut or padded with zeros to a size."""
    short = max(size - values.shape[1], 0)
    padded = np.pad(values, [(0, 0), (0, short)] + [(0, 0)] * (values.ndim - 2))
    return padded[:, :size]


def strongest_rods(crystals: dx.Crystal, conditions: Conditions, count: int) -> np.ndarray:
    """The `count` strongest Friedel pairs of each crystal's clean pattern.

    Args:
        crystals: a batch of n, concrete.
        conditions: radiation, q_max and B.
        count: rods to keep for each crystal.

    Returns:
        (n, count, 2) int16, padded with (0, 0).
    """
    out = np.zeros((len(crystals), count, 2), np.int16)
    for rows, _, hk, intensity in clean_pairs(crystals, conditions):
        best = np.argsort(-intensity.max(-1), axis=1, kind="stable")[:, :count]
        out[rows, : best.shape[1]] = np.take_along_axis(hk, best[..., None], 1)
    return out


def atom_slots(numbers: np.ndarray) -> np.ndarray:
    """Slots (...) of each crystal up to its last atom, of numbers (..., N): padding is anywhere.

    Or of each list of rods up to the last one that is used, of flags (..., N).
    """
    return numbers.shape[-1] - (numbers > 0)[..., ::-1].argmax(-1)


def power_of_two(x: int) -> int:
    """The least one that is not below x: few sizes are compiled."""
    return 1 << (x - 1).bit_length()


def power_of_four(x: int) -> int:
    """The least one that is not below x: fewer sizes still."""
    return power_of_two(x) << (power_of_two(x).bit_length() + 1) % 2
