"""What an atom's motion does to electrons that it scatters strongly.

An atom is met at another place by every electron. What these have in common, the wave of the Bragg
beams, is multiplied by the mean of exp(i phase) over the places. That is not exp(i mean phase), the
mean potential's, which weak scattering sees: the strong scattering at the core outlives the motion,
and electrons are lost to the diffuse scattering between the spots. Here is what the phase of the
mean potential lacks, a complex one. At 300 kV Friedel mates of TaP2 differ by 35 %, by its mean
potential by 20 %.

Atoms move independently of each other (Einstein's model): the mean wave of frozen phonons over many
configurations is this one.

Source: Hall and Hirsch, Proc. R. Soc. A 286, 158 (1965); Loane, Xu and Silcox, Acta Cryst. A 47,
267 (1991).
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from diffraction.form_factors import coefficients, form_factor
from diffraction.radiation import Electrons

# The integrals over the distance from an atom (angstrom) and over q (1/angstrom), and their nodes.
_FAR, _RADII = 1.5, 48
_SHARP, _WAVES = 16.0, 64
# angstrom^2: of less u^2, B = 0.05 angstrom^2, they do not resolve the motion, and what it does is
# taken as proportional to it.
_COLD = 0.05 / (8 * np.pi**2)
# Variances of the Gaussians that the phase is told by, angstrom^2.
_WIDTHS = 0.03**2 * 2.0 ** np.arange(10)


def gaussians(q_squared: jax.Array) -> jax.Array:
    """(K, ...) transforms of the Gaussians that `heat` tells a phase by, at |q|^2 (...,)."""
    widths = jnp.asarray(_WIDTHS, q_squared.dtype).reshape(-1, *[1] * q_squared.ndim)
    return jnp.exp(-2 * jnp.pi**2 * widths * q_squared) * (2 * jnp.pi * widths)


def heat(
    radiation: Electrons, numbers: jax.Array, u_squared: jax.Array, strength: jax.Array
) -> jax.Array:
    """What atoms' motion adds to their damped form factors, where these tell a phase.

    Args:
        radiation: chooses the table.
        numbers: (N,) atomic numbers.
        u_squared: (N,) mean squared displacement along one direction across the beam, angstrom^2.
        strength: () phase of a projected potential of 1/angstrom, `multislice.interaction`.

    Returns:
        (N, 2, K) coefficients of `gaussians`, angstrom: of the phase, and of the logarithm of what
        is lost of the amplitude.
    """
    dtype = u_squared.dtype
    _, r_weight, q, q_weight = (jnp.asarray(x, dtype) for x in _nodes())
    bessel, told = jnp.asarray(_bessel(), dtype), jnp.asarray(_in_gaussians(), dtype)
    u_squared = u_squared[:, None]
    damping = jnp.exp(-2 * jnp.pi**2 * jnp.maximum(u_squared, _COLD) * q**2) * q_weight
    mean = strength * form_factor(radiation, numbers[:, None], q**2)
    mean = _product(mean * damping, bessel)
    # exp(i phase) but for its first order, at rest and then smeared by the motion.
    still = strength * jnp.asarray(_potentials(radiation.table), dtype)[numbers]
    beyond = jax.lax.complex(jnp.cos(still) - 1, jnp.sin(still) - still)
    beyond = _product(_product(beyond * r_weight, bessel.T) * damping, bessel)
    # Turned back by the mean phase: what is left is far from half a turn, where logarithms jump.
    added = -1j * jnp.log((1 + 1j * mean + beyond) * jnp.exp(-1j * mean))
    out = _product(added, told) * jnp.minimum(u_squared / _COLD, 1.0) / strength
    return jnp.stack([jnp.real(out), jnp.imag(out)], 1)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b.astype(a.dtype), precision="highest")


@functools.cache
def _nodes() -> tuple[np.ndarray, ...]:
    """Distances and q, each with the weights of integrals over the plane."""
    x, weight = np.polynomial.legendre.leggauss(_RADII)
    root = (x + 1) / 2
    r, r_weight = _FAR * root**2, weight * _FAR * root
    x, weight = np.polynomial.legendre.leggauss(_WAVES)
    q, q_weight = _SHARP * (x + 1) / 2, weight * _SHARP / 2
    return r, 2 * np.pi * r * r_weight, q, 2 * np.pi * q * q_weight


@functools.cache
def _bessel() -> np.ndarray:
    """(_WAVES, _RADII) of the transform of what is round."""
    r, _, q, _ = _nodes()
    # Bessel's integral. Of a whole period, the midpoint rule is exact.
    turns = np.sin(np.pi * (np.arange(256) + 0.5) / 256)
    return np.cos(2 * np.pi * np.outer(q, r)[..., None] * turns).mean(-1)


@functools.cache
def _in_gaussians() -> np.ndarray:
    """(_RADII, K) a round function's coefficients, by least squares over the plane."""
    r, weight, _, _ = _nodes()
    each = np.exp(-(r[:, None] ** 2) / (2 * _WIDTHS))
    square = each.T @ (each * weight[:, None])
    return np.linalg.solve(square + 1e-8 * np.diag(np.diagonal(square)), each.T * weight).T


@functools.cache
def _potentials(table: str) -> np.ndarray:
    """(104, _RADII) atoms' potentials projected along the beam, 1/angstrom: f(q) transformed."""
    c = coefficients(Electrons(table=table))
    r = _nodes()[0]
    if table == "lobato":
        a, b = c[:, :5, None], c[:, 5:, None]
        w = 2 * np.pi * r / np.sqrt(b)
        k0, k1 = _modified_bessel(w)
        return (2 * np.pi * a / b * (k0 + w / 2 * k1)).sum(1)
    if table == "kirkland":
        a, b = c[:, 0:6:2, None], c[:, 1:6:2, None]
        lorentzians = (2 * np.pi * a * _modified_bessel(2 * np.pi * np.sqrt(b) * r)[0]).sum(1)
        return lorentzians + _of_gaussians(c[:, 6::2], c[:, 7::2], r)
    return _of_gaussians(c[:, :5], c[:, 5:] / 4, r)


def _modified_bessel(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """K0 and K1: the integrals of exp(-x cosh t) and of that times cosh t, for t above 0."""
    k0, k1 = np.zeros_like(x), np.zeros_like(x)
    step = 0.05
    for t in step * (np.arange(450) + 0.5):
        part = step * np.exp(-x * np.cosh(t))
        k0 += part
        k1 += part * np.cosh(t)
    return k0, k1


def _of_gaussians(a: np.ndarray, b: np.ndarray, r: np.ndarray) -> np.ndarray:
    """(n, R) transforms of sums of a exp(-b q^2)."""
    a, b = a[..., None], b[..., None]
    return (np.pi * a / b * np.exp(-((np.pi * r) ** 2) / b)).sum(1)
