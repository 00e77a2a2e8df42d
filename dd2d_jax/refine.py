"""Agreement of candidates with a pattern, and its improvement by gradient."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

import diffraction as dx
from dd2d_jax.datasets import CrystalSet
from dd2d_jax.score import r1
from dd2d_jax.spots import Conditions, Spots, pair_intensities

# Expected departure of atoms (angstrom) and of the logarithm of B from the candidate's.
_DISPLACEMENT = 0.1
_LOG_B = 1.0
# Expected relative error of a measured amplitude, and the error of a weak one.
_RELATIVE, _ABSOLUTE = 0.05, 0.01
_STEPS = 300


@dataclasses.dataclass(frozen=True)
class Fit:
    """How n candidates agree with a pattern.

    Attributes:
        crystals: a batch of n, on the pattern's lattice where refined.
        intensity: (n, T, 2) simulated at the pattern's spots, on the pattern's scale.
        r_factor: (n,) R1.
        r_before: (n,) R1 before refinement.
        b_iso: (n,) angstrom^2.
    """

    crystals: dx.Crystal
    intensity: np.ndarray
    r_factor: np.ndarray
    r_before: np.ndarray
    b_iso: np.ndarray


def r_factors(crystals: CrystalSet, queries: Spots, conditions: Conditions) -> Fit:
    """Simulate n candidates as they are at the spots of n queries (batch axis in front).

    R1 = sum |sqrt(I_o) - s sqrt(I_c)| / sum sqrt(I_o), s by least squares.
    """
    batch = crystals.crystal
    b_iso = jnp.full(len(crystals), conditions.b_iso)
    amplitude, scale = _scaled(batch, b_iso, queries, conditions)
    r = np.asarray(r1(jnp.sqrt(queries.intensity), amplitude, queries.measured))
    intensity = np.asarray((amplitude * scale[:, None, None]) ** 2)
    return Fit(batch, intensity, r, r, np.asarray(b_iso))


def fit(crystals: CrystalSet, queries: Spots, conditions: Conditions) -> Fit:
    """Refine n candidates against n queries: the lattice is the pattern's, atoms and B are fitted.

    Minimises the weighted squares of the amplitudes' differences, with Gaussian priors on the
    atoms' displacements (0.1 A) and on log B, by Adam, all candidates at once. Heights are held
    by the prior alone where the pattern says nothing of them.
    """
    before = r_factors(crystals, queries, conditions)
    start = on_lattice(before.crystals, queries.lattice)
    refined, b_iso = _descend(start, queries, conditions)
    amplitude, scale = _scaled(refined, b_iso, queries, conditions)
    return Fit(
        refined,
        np.asarray((amplitude * scale[:, None, None]) ** 2),
        np.asarray(r1(jnp.sqrt(queries.intensity), amplitude, queries.measured)),
        before.r_factor,
        np.asarray(b_iso),
    )


def on_lattice(crystal: dx.Crystal, lattice: jax.Array) -> dx.Crystal:
    """The same fractional coordinates on other cells (n, 2, 2)."""
    fractional = jnp.einsum(
        "...nd,...ed->...ne", crystal.positions[..., :2], crystal.reciprocal, precision="highest"
    )
    in_plane = jnp.einsum("...nd,...de->...ne", fractional, lattice, precision="highest")
    positions = jnp.concatenate([in_plane, crystal.positions[..., 2:]], -1)
    return dataclasses.replace(crystal, lattice=lattice, positions=positions)


@jax.jit
def _scaled(
    crystal: dx.Crystal, b_iso: jax.Array, queries: Spots, conditions: Conditions
) -> tuple[jax.Array, jax.Array]:
    """Simulated amplitudes (n, T, 2) and the scale (n,) that fits the measured ones best."""
    # The query's spots are compared also where strain has moved them beyond q_max.
    wide = dataclasses.replace(conditions, q_max=conditions.q_max * 1.2)
    _, intensity = pair_intensities(crystal, queries.hk, wide, b_iso)
    weight = queries.measured.astype(intensity.dtype)
    # The square root's slope at zero is not finite.
    amplitude = jnp.sqrt(intensity + 1e-12) * weight
    measured = jnp.sqrt(queries.intensity) * weight
    scale = (amplitude * measured).sum((1, 2)) / ((amplitude**2).sum((1, 2)) + 1e-12)
    return amplitude, scale


@jax.jit
def _descend(
    start: dx.Crystal, queries: Spots, conditions: Conditions
) -> tuple[dx.Crystal, jax.Array]:
    present = (start.numbers > 0)[..., None]
    measured = jnp.sqrt(queries.intensity)
    sigma = jnp.sqrt((_RELATIVE * measured) ** 2 + _ABSOLUTE**2)
    first_b = jnp.maximum(conditions.b_iso, 0.1)

    def model(parameters: dict) -> tuple[dx.Crystal, jax.Array]:
        moves = jnp.where(present, parameters["moves"], 0.0) * _DISPLACEMENT
        crystal = dataclasses.replace(start, positions=start.positions + moves)
        return crystal, first_b * jnp.exp(_LOG_B * parameters["log_b"])

    def loss(parameters: dict) -> jax.Array:
        crystal, b_iso = model(parameters)
        amplitude, scale = _scaled(crystal, b_iso, queries, conditions)
        misfit = (measured - scale[:, None, None] * amplitude) / sigma * queries.measured
        prior = sum(jnp.sum(p**2) for p in parameters.values())
        return jnp.sum(misfit**2) + prior

    parameters = {
        "moves": jnp.zeros_like(start.positions),
        "log_b": jnp.zeros(start.numbers.shape[0]),
    }
    optimiser = optax.adam(optax.cosine_decay_schedule(0.05, _STEPS))

    def step(carry, _):
        parameters, state = carry
        updates, state = optimiser.update(jax.grad(loss)(parameters), state)
        return (optax.apply_updates(parameters, updates), state), None

    (parameters, _), _ = jax.lax.scan(
        step, (parameters, optimiser.init(parameters)), length=_STEPS
    )
    return model(parameters)
