"""Disturbed crystals and patterns: what lies between a library's structure and a measurement."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

import diffraction as dx
from dd2d_jax.networks import microscope
from dd2d_jax.spots import FLOOR, Conditions, Spots, both_sides, pair_intensities, select


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
        scale: half width of a uniform error of the scale of q (0.02 is 2 %).
        ellipticity: most that the ratio of the axes of a distorted ring differs from 1; uniform,
            in any direction.
        tilt: the largest tilt of the layer, degrees; uniform, about any axis in the plane.
        wedge: angle that a beam stop hides from the centre outwards, degrees, in any direction.
        b_more: most that B grows, angstrom^2; uniform from 0.
        slope: half width of a uniform slope of the intensities' logarithm in q^2, angstrom^2.
        friedel: standard deviation of the logarithm of the ratio of Friedel mates in the worst
            pattern; uniform from 0.
        layers: most layers; their number is uniform on a logarithmic scale from 1.
        energy: from the energy of the conditions (0) to any from 60 to 300 keV (1).
        satellites: strongest satellite of a superlattice, relative to its spot; a third of the
            patterns have some, and only those that nobody has indexed (`measure`) show them.
        false: probability that each of 32 places holds a spot that is none, anywhere in the pattern
            (`measure`); a fifth as many fall on spots of the lattice (`observe`, too).
        few: ln(200 / n), n the least number of spots that are left, the strongest; uniform from 0.
        gamma: half width of the uniform logarithm of a power of the intensities.
        clip: -ln of the lowest intensity, relative to the strongest, above which all are cut off.
    """

    strain: float | jax.Array = 0.0
    displacement: float | jax.Array = 0.0
    noise: float | jax.Array = 0.0
    b_iso: float | jax.Array = 0.0
    missing: float | jax.Array = 0.0
    crop: float | jax.Array = 0.0
    floor: float | jax.Array = 0.0
    scale: float | jax.Array = 0.0
    ellipticity: float | jax.Array = 0.0
    tilt: float | jax.Array = 0.0
    wedge: float | jax.Array = 0.0
    b_more: float | jax.Array = 0.0
    slope: float | jax.Array = 0.0
    friedel: float | jax.Array = 0.0
    layers: float | jax.Array = 0.0
    energy: float | jax.Array = 0.0
    satellites: float | jax.Array = 0.0
    false: float | jax.Array = 0.0
    few: float | jax.Array = 0.0
    gamma: float | jax.Array = 0.0
    clip: float | jax.Array = 0.0


# What a microscope adds to `perturbed`: geometry, and spots that are not seen.
_OPTICS = {"missing": 0.2, "scale": 0.02, "ellipticity": 0.01, "wedge": 20.0}
# The levels at which accuracy is measured, by name.
LEVELS = {
    "clean": Disturbance(),
    "perturbed": Disturbance(strain=0.01, displacement=0.03, noise=0.1),
    "measured": Disturbance(
        strain=0.01, displacement=0.03, noise=0.1, floor=1e-3, tilt=2.0, **_OPTICS
    ),
    # And what cameras and real flakes do, each by itself from nothing to the most that is seen.
    "microscope": Disturbance(
        strain=0.01, displacement=0.03, noise=0.3, floor=3e-3, tilt=5.0, **_OPTICS,
        b_more=2.5, slope=0.5, friedel=1.7, layers=30.0, energy=1.0, satellites=0.05,
        false=0.1, few=2.3, gamma=0.7, clip=2.3,
    ),
}  # fmt: skip
# Those whose queries come as patterns, turned and from either side: their lattice is to be found.
PATTERNS = ("measured", "microscope")


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
    moves = (
        moves * jnp.broadcast_to(jnp.asarray(amount.displacement, dtype), (batch,))[:, None, None]
    )
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
    """Spots (B, T) of disturbed copies of a batch of crystals, in the crystals' own setting.

    Args:
        key: a `jax.random` key.
        crystal: batch axis (B,).
        hk: (B, C, 2) rods to simulate, one of each Friedel pair.
        conditions: radiation, q_max, B and the number of tokens.
        amount: each field a number or (B,).
    """
    q, intensity, measured = _expose(key, crystal, hk, conditions, amount)
    return select((q[..., 0, :] - q[..., 1, :]) / 2, hk, intensity, measured, conditions.tokens)


def measure(
    key: jax.Array,
    crystal: dx.Crystal,
    hk: jax.Array,
    conditions: Conditions,
    amount: Disturbance,
) -> dx.Pattern:
    """Patterns (B, 2 C + 96) of disturbed copies, as a microscope gives them.

    Turned in the plane by any angle and seen from either side; the spots' indices are not known
    (zero). Arguments as for `observe`.
    """
    q, intensity, measured = _expose(key, crystal, hk, conditions, amount)
    turn_key, side_key = jax.random.split(jax.random.fold_in(key, 3))
    batch = crystal.numbers.shape[0]
    measured = measured & (hk != 0).any(-1, keepdims=True)
    q, intensity, seen = _others(key, hk, q, intensity, measured, conditions, amount)
    turned = _direction(jax.random.uniform(turn_key, (batch,)))
    side = jnp.where(jax.random.bernoulli(side_key, shape=(batch,)), 1.0, -1.0)
    x, y = q[..., 0] * side[:, None], q[..., 1]
    c, s = turned[:, 0, None], turned[:, 1, None]
    q = jnp.stack([c * x - s * y, s * x + c * y], -1)
    return dx.Pattern(
        jnp.where(seen[..., None], q, 0.0),
        jnp.where(seen, intensity, 0.0),
        jnp.zeros(q.shape, jnp.int32),
        seen,
    )


def _others(
    key: jax.Array,
    hk: jax.Array,
    q: jax.Array,
    intensity: jax.Array,
    measured: jax.Array,
    conditions: Conditions,
    amount: Disturbance,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """q (B, K, 2), intensity and mask (B, K) of a pattern's spots and of what lies between them."""
    batch = len(hk)
    satellite_key, false_key = jax.random.split(jax.random.fold_in(key, 5))
    flat = (x.reshape(batch, -1, *x.shape[3:]) for x in (q, intensity, measured))
    seen = jnp.where(measured, intensity, 0.0)
    strongest = seen.max((1, 2))
    near, weak = microscope.add_satellites(
        satellite_key, hk, q, seen, _each(amount.satellites, batch)
    )
    far, false = microscope.false_spots(
        false_key, strongest, conditions.q_max, _each(amount.false, batch)
    )
    lowest = (jnp.maximum(_each(amount.floor, batch), FLOOR) * strongest)[:, None]
    others = jnp.concatenate([weak, false], 1)
    whole, level, mask = flat
    return (
        jnp.concatenate([whole, near, far], 1),
        jnp.concatenate([level, others], 1),
        jnp.concatenate([mask, others > lowest], 1),
    )


def _expose(
    key: jax.Array,
    crystal: dx.Crystal,
    hk: jax.Array,
    conditions: Conditions,
    amount: Disturbance,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """q (B, C, 2, 2), intensity and whether it was measured (B, C, 2), of the spots hk and -hk."""
    crystal_key, noise_key, b_key, miss_key = jax.random.split(key, 4)
    tilt_key, stop_key, scale_key, axis_key = jax.random.split(jax.random.fold_in(key, 2), 4)
    flake_key, camera_key, few_key = jax.random.split(jax.random.fold_in(key, 4), 3)
    batch = crystal.numbers.shape[0]

    def each(value: float | jax.Array, axes: int = 2) -> jax.Array:
        return _each(value, batch).reshape(batch, *[1] * axes)

    moved = disturb_crystal(crystal_key, crystal, amount)
    change = jax.random.uniform(b_key, (batch,), minval=-1.0, maxval=1.0)
    b_iso = jnp.maximum(conditions.b_iso + amount.b_iso * change, 0.0)
    angle, about = jax.random.uniform(tilt_key, (2, batch))
    tilt = each(amount.tilt, 1) * angle[:, None] * _direction(about)
    q, intensity = _flake(flake_key, moved, hk, conditions, amount, b_iso, tilt)
    intensity = intensity * jnp.exp(
        each(amount.noise) * jax.random.normal(noise_key, intensity.shape)
    )
    intensity = microscope.expose(
        camera_key, intensity, _each(amount.gamma, batch), _each(amount.clip, batch)
    )
    strongest = intensity.max((1, 2), keepdims=True)
    reach = (1 - each(amount.crop)) * conditions.q_max
    length = jnp.sqrt(jnp.sum(q * q, -1) + 1e-12)
    stop = _direction(jax.random.uniform(stop_key, (batch,)))
    toward = jnp.einsum("bcsd,bd->bcs", q, stop, precision="highest") / length
    # Rounding hides nothing where there is no beam stop.
    hidden = toward > jnp.cos(jnp.deg2rad(each(amount.wedge) / 2)) + 1e-6
    measured = (
        (intensity > 0)
        & (intensity >= each(amount.floor) * strongest)
        & (length <= reach * (1 + 1e-6))
        & (jax.random.uniform(miss_key, intensity.shape) >= each(amount.missing))
        & ~hidden
        & microscope.strongest_spots(few_key, intensity, _each(amount.few, batch))
    )
    # The optics: a scale, and an ellipse.
    stretch, ratio = jax.random.uniform(scale_key, (2, batch))
    along = _direction(jax.random.uniform(axis_key, (batch,)) / 2)[:, None, None]
    ellipse = each(amount.ellipticity, 3) * ratio[:, None, None, None]
    q = q * (1 + each(amount.scale, 3) * (2 * stretch - 1)[:, None, None, None])
    part = jnp.sum(q * along, -1, keepdims=True) * along
    return q * (1 - ellipse / 2) + ellipse * part, intensity, measured


def _flake(
    key: jax.Array,
    crystal: dx.Crystal,
    hk: jax.Array,
    conditions: Conditions,
    amount: Disturbance,
    b_iso: jax.Array,
    tilt: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """q (B, C, 2, 2) and intensities (B, C, 2) of a flake: its thickness, B, mates, energy."""
    batch = len(hk)
    energy_key, layers_key, b_key, slope_key, mates_key, false_key = jax.random.split(key, 6)
    beam = conditions.radiation
    if isinstance(beam, dx.Electrons):
        energy = microscope.energies(energy_key, beam.energy, _each(amount.energy, batch))
        beam = dataclasses.replace(beam, energy=energy)
    b_iso = b_iso + amount.b_more * jax.random.uniform(b_key, (batch,))
    seen = dataclasses.replace(conditions, radiation=beam)
    q, intensity = both_sides(crystal, hk, seen, b_iso, tilt)
    intensity = microscope.stack_layers(
        layers_key, crystal, hk, intensity, beam.wavelength, tilt, _each(amount.layers, batch)
    )
    intensity = microscope.slope(slope_key, q, intensity, _each(amount.slope, batch))
    intensity = microscope.part_mates(mates_key, intensity, _each(amount.friedel, batch))
    there = (hk != 0).any(-1, keepdims=True)
    return q, microscope.light_up(false_key, intensity, there, _each(amount.false, batch))


def _each(value: float | jax.Array, batch: int) -> jax.Array:
    return jnp.broadcast_to(jnp.asarray(value, jnp.float32), (batch,))


def _direction(turns: jax.Array) -> jax.Array:
    """Unit vectors (..., 2) at so many turns (...)."""
    angle = 2 * jnp.pi * turns
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)


def clean_spots(crystal: dx.Crystal, hk: jax.Array, conditions: Conditions) -> Spots:
    """Spots (B, T) of the crystals as they are, without any randomness."""
    q, intensity = pair_intensities(crystal, hk, conditions)
    return select(q, hk, intensity, intensity > 0, conditions.tokens)
