"""Equations 1 and 2 of the DD2D paper (Fu et al., Communications Physics 8, 221, 2025)."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from diffraction.crystal import Crystal
from diffraction.kinematic import amplitudes, b_values, check_concrete, lorentz_polarisation
from diffraction.radiation import Radiation


def paper_structure_function(crystal: Crystal, q: jax.Array) -> jax.Array:
    """Eq. 2: S(q) = (1/N) sum_ij exp(-2 pi i q . (R_i - R_j)), for one element.

    Args:
        crystal: a single crystal.
        q: (K, 3) in 1/angstrom; the paper's q is 2 pi times ours.

    Returns:
        (K,) real.
    """
    present = (crystal.numbers > 0).astype(q.dtype)
    return _pair_sum(crystal, q, jnp.broadcast_to(present, (q.shape[0], present.shape[0])))


def paper_intensity(
    crystal: Crystal,
    q: jax.Array,
    radiation: Radiation,
    b_iso: float | jax.Array | Mapping[str, float] = 0.0,
    i0: float = 1.0,
) -> jax.Array:
    """Eq. 1: I = I0 (A P / sin 2theta) |AFF(q)|^2 S(q), with f_j inside the sum.

    A = exp(-B |q|^2 / 2) is the Debye-Waller factor; P = (1 + cos^2 2theta) / 2 polarises, and
    1 / sin 2theta is the Lorentz factor. For one element this is the equation as printed; for
    several, A AFF^2 S becomes (1/N) sum_ij f_i f_j exp(-2 pi i q . (R_i - R_j)) with occupancy
    and Debye-Waller factor in each f.

    Args:
        crystal: a single crystal.
        q: (K, 3) in 1/angstrom, none of them zero.
        radiation: electrons or X-rays.
        b_iso: B in angstrom^2; a number, (N,), or by element, as in `simulate`.
        i0: incident intensity.

    Returns:
        (K,) in units of i0 f^2.

    Raises:
        ValueError: an element without a form factor.
    """
    check_concrete(radiation, crystal)
    squared = jnp.sum(q * q, -1)
    weights = amplitudes(crystal, q, radiation, b_values(b_iso, crystal.numbers))
    factor = lorentz_polarisation(squared, radiation.wavelength)
    return i0 * factor * _pair_sum(crystal, q, weights)


def _pair_sum(crystal: Crystal, q: jax.Array, weights: jax.Array) -> jax.Array:
    """(1/N) sum_ij w_i w_j cos(2 pi q . (R_i - R_j)), (K,)."""
    difference = crystal.positions[:, None, :] - crystal.positions[None, :, :]
    turns = jnp.einsum("kd,ijd->kij", q, difference, precision="highest")
    pairs = weights[:, :, None] * weights[:, None, :] * jnp.cos(2 * jnp.pi * turns)
    return pairs.sum((1, 2)) / jnp.sum(crystal.numbers > 0)
