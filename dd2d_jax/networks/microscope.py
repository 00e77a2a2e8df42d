"""What cameras and real flakes do to a pattern's spots, beside noise and geometry.

Each function takes a `jax.random` key and intensities (B, C, 2), of spots hk and -hk of C rods, and
an amount (B,) that may be zero: it then changes nothing. `disturbances` says in which order they
come.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import diffraction as dx

# keV: the range of transmission microscopes.
ENERGIES = 60.0, 300.0
# angstrom between the atoms of one layer and of the next: van der Waals gaps are 3 to 3.5.
GAP = 3.2
# Part of the intensity that no thickness takes away: flakes are bent.
BENT = 0.03
# Where the next layer lies, in parts of the cell: on top, as in 2H and 3R crystals, half way.
STACKINGS = np.array(
    [[0, 0], [1 / 3, 2 / 3], [2 / 3, 1 / 3], [1 / 2, 0], [0, 1 / 2], [1 / 2, 1 / 2]]
)
# The most spots of a pattern of which only the strongest are seen.
MOST_SPOTS = 200
# Cells whose superlattice gives satellites, as parts of a reciprocal vector.
SATELLITES = np.array([[1 / 2, 0], [0, 1 / 2], [1 / 3, 1 / 3], [1 / 3, 0], [0, 1 / 4]])
# Most satellites and false spots of a pattern.
SATELLITE_PLACES, FALSE_PLACES = 64, 32
# Share of false spots that fall on a spot of the lattice.
ON_LATTICE = 0.2
# A false spot is as strong as this to this, relative to the strongest.
FALSE_LEVELS = 0.005, 0.2


def wide(x: jax.Array) -> jax.Array:
    """(B,) as (B, 1, 1)."""
    return x[:, None, None]


def energies(key: jax.Array, energy: jax.Array, amount: jax.Array) -> jax.Array:
    """Energies (B,) in keV, on a logarithmic scale so far away from `energy` as `amount` says.

    1 is anywhere in `ENERGIES`.
    """
    low, high = np.log(ENERGIES)
    anywhere = low + (high - low) * jax.random.uniform(key, amount.shape)
    moved = jnp.exp((1 - amount) * jnp.log(energy) + amount * anywhere)
    return jnp.where(amount > 0, moved, energy)


def stack_layers(
    key: jax.Array,
    crystal: dx.Crystal,
    hk: jax.Array,
    intensity: jax.Array,
    wavelength: jax.Array,
    tilt: jax.Array,
    amount: jax.Array,
) -> jax.Array:
    """Intensities of so many layers on each other instead of one.

    N layers, 1 to `amount`, on a logarithmic scale; each other one is shifted as `STACKINGS` has
    it. The intensity is that of one layer times |sum_n exp(2 pi i (n q_z c + (n mod 2) hk . s))|^2
    / N^2 (kinematic; Warren, X-ray Diffraction, 1969), q_z where the Ewald sphere cuts the rod.
    """
    count_key, shift_key = jax.random.split(key)
    share = jax.random.uniform(count_key, amount.shape)
    # Up to the amount itself, each number with a part of the scale.
    count = jnp.floor(jnp.exp(share * jnp.log1p(jnp.maximum(amount, 1.0) - 1e-3)))
    count = jnp.clip(count, 1.0, jnp.maximum(amount, 1.0))
    shift = jnp.asarray(STACKINGS, jnp.float32)[
        jax.random.randint(shift_key, amount.shape, 0, len(STACKINGS))
    ]
    there, z = crystal.numbers > 0, crystal.positions[..., 2]
    top = jnp.where(there, z, -jnp.inf).max(-1)
    thickness = top - jnp.where(there, z, jnp.inf).min(-1)
    rods = jnp.stack([hk, -hk], -2).astype(jnp.float32)
    flat = jnp.einsum("bcsd,bde->bcse", rods, crystal.reciprocal, precision="highest")
    height = dx.ewald_qz(flat.reshape(len(hk), -1, 2), wavelength, tilt).reshape(rods.shape[:-1])
    turn = jnp.nan_to_num(height) * wide(thickness + GAP)
    offset = jnp.einsum("bcsd,bd->bcs", rods, shift, precision="highest")
    even, odd = wide(jnp.ceil(count / 2)), wide(jnp.floor(count / 2))
    # Of layers 0, 2, 4... and 1, 3, 5..., both with twice the spacing.
    first, second = _geometric(even, 2 * turn), _geometric(odd, 2 * turn)
    between = 2 * jnp.pi * (turn + offset + (odd - even) * turn)
    whole = first**2 + second**2 + 2 * first * second * jnp.cos(between)
    kept = BENT + (1 - BENT) * whole / wide(count) ** 2
    return jnp.where(wide(count) > 1, intensity * kept, intensity)


def _geometric(count: jax.Array, turn: jax.Array) -> jax.Array:
    """sum_{n < count} exp(2 pi i n turn), without its phase exp(pi i (count - 1) turn); real."""
    part = turn - jnp.round(turn)
    below = jnp.sin(jnp.pi * part)
    small = jnp.abs(below) < 1e-4
    ratio = jnp.sin(jnp.pi * count * part) / jnp.where(small, 1.0, below)
    # A whole turn changes the sign of numerator and denominator, by its own powers of -1.
    sign = jnp.where((jnp.round(turn) * (count - 1)) % 2 == 0, 1.0, -1.0)
    return jnp.where(small, count, ratio) * sign


def slope(key: jax.Array, q: jax.Array, intensity: jax.Array, amount: jax.Array) -> jax.Array:
    """Intensities times exp(-s q^2), s uniform within +- `amount`, angstrom^2; q (B, C, 2, 2)."""
    s = amount * jax.random.uniform(key, amount.shape, minval=-1.0, maxval=1.0)
    return intensity * jnp.exp(-wide(s) * jnp.sum(q * q, -1))


def part_mates(key: jax.Array, intensity: jax.Array, amount: jax.Array) -> jax.Array:
    """Friedel mates apart: the logarithm of their ratio is normal, their product as it was.

    Its standard deviation is uniform from 0 to `amount`, one for each pattern.
    """
    draw_key, size_key = jax.random.split(key)
    size = amount * jax.random.uniform(size_key, amount.shape)
    ratio = wide(size) * jax.random.normal(draw_key, (*intensity.shape[:-1], 1))
    return intensity * jnp.exp(ratio * jnp.array([0.5, -0.5]))


def light_up(
    key: jax.Array, intensity: jax.Array, there: jax.Array, amount: jax.Array
) -> jax.Array:
    """Intensities and what false spots add that fall on a spot of the lattice.

    `there` (B, C, 1): no padding. They are `ON_LATTICE` of the `FALSE_PLACES`, each with
    probability `amount`; as strong as `FALSE_LEVELS` of the strongest, on a logarithmic scale.
    """
    where_key, level_key = jax.random.split(key)
    spots = 2 * there.sum((1, 2), keepdims=True)
    share = FALSE_PLACES * ON_LATTICE / jnp.maximum(spots, 1)
    lit = jax.random.uniform(where_key, intensity.shape) < wide(amount) * share
    low, high = np.log(FALSE_LEVELS)
    level = jnp.exp(jax.random.uniform(level_key, intensity.shape, minval=low, maxval=high))
    strongest = intensity.max((1, 2), keepdims=True)
    return intensity + jnp.where(lit & there, level * strongest, 0.0)


def expose(key: jax.Array, intensity: jax.Array, gamma: jax.Array, clip: jax.Array) -> jax.Array:
    """Intensities as a camera or an export gives them: of another power, the strongest cut off.

    The power's logarithm is uniform within +- `gamma`; what exceeds exp(-c) of the strongest is
    that, c uniform from 0 to `clip`.
    """
    gamma_key, clip_key = jax.random.split(key)
    strongest = intensity.max((1, 2), keepdims=True)
    scale = jnp.where(strongest > 0, strongest, 1.0)
    power = jnp.exp(gamma * jax.random.uniform(gamma_key, gamma.shape, minval=-1.0, maxval=1.0))
    relative = intensity / scale
    bent = jnp.where(relative > 0, jnp.where(relative > 0, relative, 1.0) ** wide(power), 0.0)
    intensity = jnp.where(wide(gamma) > 0, bent * scale, intensity)
    most = jnp.exp(-wide(clip * jax.random.uniform(clip_key, clip.shape))) * strongest
    return jnp.where(wide(clip) > 0, jnp.minimum(intensity, most), intensity)


def strongest_spots(key: jax.Array, intensity: jax.Array, amount: jax.Array) -> jax.Array:
    """Which (B, C, 2) of the intensities are among the n strongest.

    n = 200 exp(-x), x uniform from 0 to `amount`; all where the amount is 0.
    """
    count = MOST_SPOTS * jnp.exp(-amount * jax.random.uniform(key, amount.shape))
    flat = intensity.reshape(len(intensity), -1)
    place = (-flat).argsort(-1).argsort(-1).reshape(intensity.shape)
    return (place < wide(count)) | (wide(amount) == 0)


def add_satellites(
    key: jax.Array, hk: jax.Array, q: jax.Array, intensity: jax.Array, amount: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """q (B, 64, 2) and intensities (B, 64) of satellites about the strongest spots.

    A third of the patterns have some: at +- one vector of a superlattice (`SATELLITES`) from each
    spot, each `amount` times u^2 v^2 as strong as it, u uniform for each pattern, v for each.
    """
    some_key, which_key, size_key, each_key = jax.random.split(key, 4)
    batch = len(hk)
    some = jax.random.bernoulli(some_key, 1 / 3, (batch,))
    vector = jnp.asarray(SATELLITES, jnp.float32)[
        jax.random.randint(which_key, (batch,), 0, len(SATELLITES))
    ]
    flat, parents = intensity.reshape(batch, -1), q.reshape(batch, -1, 2)
    short = max(SATELLITE_PLACES // 2 - flat.shape[1], 0)
    flat, parents = (
        jnp.pad(flat, [(0, 0), (0, short)]),
        jnp.pad(parents, [(0, 0), (0, short), (0, 0)]),
    )
    best, place = jax.lax.top_k(flat, SATELLITE_PLACES // 2)
    parents = jnp.take_along_axis(parents, place[..., None], 1)
    step = jnp.einsum("bd,bde->be", vector, _basis(hk, q, intensity))[:, None]
    positions = jnp.concatenate([parents + step, parents - step], 1)
    size = amount * some * jax.random.uniform(size_key, (batch,)) ** 2
    each = jax.random.uniform(each_key, (batch, SATELLITE_PLACES)) ** 2
    return positions, size[:, None] * each * jnp.concatenate([best, best], 1)


def _basis(hk: jax.Array, q: jax.Array, intensity: jax.Array) -> jax.Array:
    """Reciprocal vectors (B, 2, 2), rows, by least squares of q (B, C, 2, 2) and hk (B, C, 2)."""
    weight = (intensity.max(-1) > 0)[..., None]
    index = hk * weight
    half = jnp.where(weight, (q[..., 0, :] - q[..., 1, :]) / 2, 0.0)
    normal = jnp.einsum("bci,bcj->bij", index, index, precision="highest").astype(q.dtype)
    mixed = jnp.einsum("bci,bcj->bij", index.astype(q.dtype), half, precision="highest")
    a, b, d = normal[:, 0, 0], normal[:, 0, 1], normal[:, 1, 1]
    det = a * d - b * b
    inverse = jnp.stack([jnp.stack([d, -b], -1), jnp.stack([-b, a], -1)], -2)
    return inverse @ mixed / jnp.where(det > 0, det, 1.0)[:, None, None]


def false_spots(
    key: jax.Array, strongest: jax.Array, q_max: float, amount: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """q (B, 32, 2) and intensities (B, 32) of spots that are none, each with probability `amount`.

    Anywhere within q_max, as strong as `FALSE_LEVELS` of the pattern's strongest (B,).
    """
    there_key, place_key, level_key = jax.random.split(key, 3)
    shape = (len(strongest), FALSE_PLACES)
    there = jax.random.uniform(there_key, shape) < amount[:, None]
    radius, turn = jax.random.uniform(place_key, (2, *shape))
    radius, angle = q_max * jnp.sqrt(radius), 2 * jnp.pi * turn
    q = radius[..., None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)
    low, high = np.log(FALSE_LEVELS)
    level = jnp.exp(jax.random.uniform(level_key, shape, minval=low, maxval=high))
    return q, jnp.where(there, level * strongest[:, None], 0.0)
