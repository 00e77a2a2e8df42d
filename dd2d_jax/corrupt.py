"""Disturbed crystals and patterns: what lies between a library's structure and a measurement."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

import diffraction as dx
from dd2d_jax.spots import Conditions, Spots, pair_intensities, select


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Disturbance:
    """How much a query is disturbed; everything is off by default.

    Attributes:
        strain: standard deviation of an isotropic strain of the lattice (0.01 is 1 %).
        displacement: standard deviation of every atomic coordinate, angstrom.
        noise: standard deviation of the logarithm of each spot's intensity.
        b_iso: half width of a uniform change of B, angstrom^2.
        missing: probability that a spot is not seen.
        crop: spots beyond (1 - crop) q_max are not seen.
        floor: spots weaker than this, relative to the strongest, are not seen.
    """

    strain: float | jax.Array = 0.0
    displacement: float | jax.Array = 0.0
    noise: float | jax.Array = 0.0
    b_iso: float | jax.Array = 0.0
    missing: float | jax.Array = 0.0
    crop: float | jax.Array = 0.0
    floor: float | jax.Array = 0.0


# The levels at which accuracy is measured, by name.
LEVELS = {
    "clean": Disturbance(),
    "perturbed": Disturbance(strain=0.01, displacement=0.03, noise=0.1),
}


def disturb_crystal(key: jax.Array, crystal: dx.Crystal, amount: Disturbance) -> dx.Crystal:
    """Strain a batch of crystals isotropically and move their atoms.

    Args:
        key: a `jax.random` key.
        crystal: batch axis (B,).
        amount: each field a number or (B,).
    """
    strain_key, move_key = jax.random.split(key)
    batch = crystal.numbers.shape[0]
    dtype = crystal.positions.dtype
    scale = 1 + amount.strain * jax.random.normal(strain_key, (batch,), dtype)
    stretch = jnp.stack([scale, scale, jnp.ones_like(scale)], -1)
    moves = jax.random.normal(move_key, crystal.positions.shape, dtype)
    moves = moves * jnp.broadcast_to(jnp.asarray(amount.displacement, dtype), (batch,))[
        :, None, None
    ]
    return dataclasses.replace(
        crystal,
        lattice=crystal.lattice * scale[:, None, None],
        positions=crystal.positions * stretch[:, None, :] + moves,
    )


def observe(
    key: jax.Array,
    crystal: dx.Crystal,
    hk: jax.Array,
    conditions: Conditions,
    amount: Disturbance,
) -> Spots:
    """Spots (B, T) of disturbed copies of a batch of crystals.

    Args:
        key: a `jax.random` key.
        crystal: batch axis (B,).
        hk: (B, C, 2) rods to simulate, one of each Friedel pair.
        conditions: radiation, q_max, B and the number of tokens.
        amount: each field a number or (B,).
    """
    crystal_key, noise_key, b_key, miss_key = jax.random.split(key, 4)
    batch = crystal.numbers.shape[0]

    def each(value: float | jax.Array) -> jax.Array:
        return jnp.broadcast_to(jnp.asarray(value, jnp.float32), (batch,))[:, None, None]

    change = jax.random.uniform(b_key, (batch,), minval=-1.0, maxval=1.0)
    b_iso = jnp.maximum(conditions.b_iso + amount.b_iso * change, 0.0)
    q, intensity = pair_intensities(
        disturb_crystal(crystal_key, crystal, amount), hk, conditions, b_iso
    )
    intensity = intensity * jnp.exp(
        each(amount.noise) * jax.random.normal(noise_key, intensity.shape)
    )
    strongest = intensity.max((1, 2), keepdims=True)
    reach = (1 - each(amount.crop)) * conditions.q_max
    measured = (
        (intensity > 0)
        & (intensity >= each(amount.floor) * strongest)
        & (jnp.sum(q * q, -1, keepdims=True) <= reach**2)
        & (jax.random.uniform(miss_key, intensity.shape) >= each(amount.missing))
    )
    return select(q, hk, intensity, measured, conditions.tokens)


def clean_spots(crystal: dx.Crystal, hk: jax.Array, conditions: Conditions) -> Spots:
    """Spots (B, T) of the crystals as they are, without any randomness."""
    q, intensity = pair_intensities(crystal, hk, conditions)
    return select(q, hk, intensity, intensity > 0, conditions.tokens)
