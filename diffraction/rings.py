"""Rings and bands of many layers at random: powders, textured films, polycrystalline films."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from diffraction.crystal import Crystal, reciprocal
from diffraction.form_factors import check_range
from diffraction.kinematic import b_values, check_concrete, reflections, structure_factor
from diffraction.radiation import Radiation, Xrays

# A band is integrated over so many standard deviations on either side of its rod, by so many
# nodes: 1e-7 of the maximum for layers a few angstrom thick.
_REACH = 6.0
_NODES = 24
# Rods are taken in chunks, which bounds the memory.
_CHUNK = 32


def ring_profile(
    crystal: Crystal,
    radiation: Radiation,
    q: np.ndarray | jax.Array,
    domain_size: float | jax.Array,
    b_iso: float | jax.Array | Mapping[str, float] = 0.0,
    texture: str | float | jax.Array = "random",
    hk: np.ndarray | jax.Array | None = None,
) -> jax.Array:
    """Intensity over |q| of many layers of a crystal, each turned at random.

    Per unit cell of area A, in the units of |F|^2 (angstrom^2 for electrons, electrons^2 for
    X-rays),

        I(q) = (P / A) sum_hk int dp R(p; g_hk) <|F_hk(q_z)|^2 M>,    p^2 + q_z^2 = q^2,

    where R is the rod hk smeared by the finite domain and turned about the layer normal: a 2D
    Gaussian of integral breadth 1 / domain_size around the rod at g_hk. F_hk has the phases of
    the rod and the form factors of |q|. The mean over the orientations of the normal is the
    measure M, all of what is known as the Lorentz factor; nothing is to be multiplied to I(q) but
    the solid angle that the detector's pixel or slit sees.

    - "random": layers in all orientations in 3D, as in a powder or turbostratic carbon. M =
      1 / (4 pi q |q_z|) on both sides of the layer gives the asymmetric bands of Warren, Phys.
      Rev. 59, 693 (1941), without his approximations near the head of a band: their maximum lies
      about 0.31 / domain_size above g (0.32 by Warren), their tails fall as
      1 / (q sqrt(q^2 - g^2)).
    - a number r: the same, and the layer normals prefer the direction of the scattering vector,
      as in a Bragg-Brentano scan of a pressed powder: M is multiplied by March's (r^2 cos^2 a +
      sin^2 a / r)^(-3/2), a the angle between normal and scattering vector (Dollase, J. Appl.
      Cryst. 19, 267 (1986)). r = 1 is "random"; r < 1 layers lying flat, whose hk bands are weak.
    - "flat": all layers flat on a film that the beam crosses at right angles, turned about the
      normal only. M = 1 / (2 pi p) where the Ewald sphere, q_z = lambda q^2 / 2, cuts the rods:
      symmetric rings with int I 2 pi p dp = sum |F|^2 / A over the rods of the ring.

    P is (1 + cos^2 2theta) / 2 for X-rays, the mean over the whole ring, which is the same for any
    linear polarisation; 1 for electrons. The rod (0, 0) is not part of the profile: single layers
    add <|F(0, 0, q)|^2> / (2 pi q^2 A) to "random", stacks their own 00l lines.

    Args:
        crystal: batch axes (...).
        radiation: `Electrons` or `Xrays`; one energy or wavelength, or one for each crystal.
        q: (Q,) in 1/angstrom (no 2 pi), positive; zero intensity beyond 2 / lambda.
        domain_size: lateral size L of a layer, angstrom; a number or (...). For a disc of diameter
            D it is 8 D / (3 pi), the mean chord, weighted by area.
        b_iso: B in angstrom^2; a number, (...), (..., N), or by element as {"Mo": 0.3, "S": 0.5}.
        texture: "random", "flat" or r > 0, a number or (...).
        hk: (..., K, 2) rods from `reflections`, padded with (0, 0); both of each pair (h, k) and
            (-h, -k). Needed where lattice, q or domain_size is traced (under jit, vmap or
            grad), with some margin beyond the last q; None finds them.

    Returns:
        (..., Q).

    Raises:
        ValueError: q or domain_size is not positive, q of another shape or beyond the range of
            the form factors, a texture that is none of these, an element without a form factor or
            without a B, no rod within q, or something traced without `hk`.
    """
    check_concrete(radiation, crystal)
    if np.ndim(q) != 1:
        raise ValueError(f"q must be a list (Q,) of |q|, got the shape {np.shape(q)}")
    for name, unit, value in (("q", "1/angstrom", q), ("domain_size", "angstrom", domain_size)):
        if not isinstance(value, jax.core.Tracer):
            value = np.asarray(value)
            if not (np.isfinite(value) & (value > 0)).all():
                raise ValueError(f"{name} must be positive, in {unit}, got {value}")
    if not isinstance(q, jax.core.Tracer):
        check_range(radiation, float(np.max(q)), "q")
    if isinstance(texture, str):
        if texture not in ("random", "flat"):
            raise ValueError(f"texture must be 'random', 'flat' or a number, got {texture!r}")
    elif not isinstance(texture, jax.core.Tracer) and not np.all(np.asarray(texture) > 0):
        raise ValueError(f"texture must be 'random', 'flat' or a positive number, got {texture}")
    if hk is None:
        if any(isinstance(x, jax.core.Tracer) for x in (crystal.lattice, q, domain_size)):
            raise ValueError(
                "the lattice, q or domain_size is traced, so the rods are unknown: pass "
                "hk=reflections(lattice, q_max) made outside of the transformation"
            )
        margin = _REACH * _sigma(np.min(domain_size))
        hk = reflections(np.asarray(crystal.lattice), float(np.max(q) + margin))

    batch = crystal.numbers.shape[:-1]
    dtype = jnp.asarray(crystal.positions).dtype  # of numpy's doubles, too, what JAX makes

    def each(x: object, ndim: int = 0) -> jax.Array:
        """One for each crystal, (*batch, *the last ndim axes of x)."""
        return jnp.broadcast_to(jnp.asarray(x), (*batch, *jnp.shape(x)[jnp.ndim(x) - ndim :]))

    b_iso = jnp.asarray(b_values(b_iso, crystal.numbers), dtype)
    if b_iso.ndim < crystal.numbers.ndim:
        b_iso = b_iso[..., None]
    b_iso = jnp.broadcast_to(b_iso, crystal.numbers.shape)
    flat = isinstance(texture, str) and texture == "flat"
    march = 1.0 if isinstance(texture, str) else texture
    return _profile(
        crystal,
        jax.tree.map(each, radiation),
        jnp.asarray(q, dtype),
        each(jnp.asarray(domain_size, dtype)),
        b_iso,
        each(jnp.asarray(march, dtype)),
        each(hk, 2),
        flat,
    )


def _sigma(domain_size: float | jax.Array) -> float | jax.Array:
    """Standard deviation, 1/angstrom, of a Gaussian of integral breadth 1 / domain_size."""
    return 1 / (np.sqrt(2 * np.pi) * domain_size)


@functools.partial(jax.jit, static_argnames="flat")
def _profile(crystal, radiation, q, domain_size, b_iso, march, hk, flat) -> jax.Array:
    def single(crystal, radiation, domain_size, b_iso, march, hk):
        sigma = _sigma(domain_size)

        def rod(g):
            if flat:
                return _ring(crystal, radiation, q, sigma, b_iso, g)
            return _band(crystal, radiation, q, sigma, b_iso, march, g)

        g = jnp.matmul(hk.astype(q.dtype), reciprocal(crystal.lattice), precision="highest")
        # Rods are computed again for the gradient, which bounds its memory, too.
        rods = jax.lax.map(jax.checkpoint(rod), g, batch_size=_CHUNK)
        lattice = crystal.lattice
        area = jnp.abs(lattice[0, 0] * lattice[1, 1] - lattice[0, 1] * lattice[1, 0])
        profile = jnp.sum(jnp.where(jnp.any(hk != 0, -1)[:, None], rods, 0.0), 0) / area
        wavelength = jnp.asarray(radiation.wavelength, q.dtype)
        if isinstance(radiation, Xrays):
            cos_two_theta = 1 - (q * wavelength) ** 2 / 2
            profile = profile * (1 + cos_two_theta**2) / 2
        return jnp.where(q * wavelength < 2, profile, 0.0)

    for _ in range(domain_size.ndim):
        single = jax.vmap(single)
    return single(crystal, radiation, domain_size, b_iso, march, hk)


def _band(crystal, radiation, q, sigma, b_iso, march, g) -> jax.Array:
    """(Q,) int dp R(p; g) |F(q_z)|^2 / (2 pi q q_z), by p = q - u^2.

    One side of the layer stands for both: the other one is that of (-h, -k).
    """
    length = _length(g)
    # The limits only say where the integrand is not zero, so they carry no gradient.
    above = jax.lax.stop_gradient(q - length)
    reach = _REACH * jax.lax.stop_gradient(sigma)
    low = jnp.sqrt(jnp.maximum(above - reach, 0))[:, None]
    high = jnp.sqrt(jnp.clip(above + reach, 0, q))[:, None]
    nodes, weights = (jnp.asarray(x, q.dtype) for x in np.polynomial.legendre.leggauss(_NODES))
    u = low + (high - low) * (nodes + 1) / 2
    p = q[:, None] - u * u
    root = jnp.sqrt(q[:, None] + p)
    qz = u * root  # sqrt(q^2 - p^2)
    squared = _squared_factor(crystal, radiation, p, qz, b_iso, g, length)
    cos_squared = (qz / q[:, None]) ** 2
    oriented = (march**2 * cos_squared + (1 - cos_squared) / march) ** -1.5
    measure = 2 / (2 * jnp.pi * q[:, None] * root)  # dp / q_z = 2 du / root
    smeared = _smeared(q[:, None] - length - u * u, p, length, sigma)
    return jnp.sum((high - low) / 2 * weights * smeared * measure * oriented * squared, -1)


def _ring(crystal, radiation, q, sigma, b_iso, g) -> jax.Array:
    """(Q,) R(p; g) |F(q_z)|^2 / (2 pi p) on the Ewald sphere, the beam along the normal."""
    length = _length(g)
    half = jnp.asarray(radiation.wavelength, q.dtype) * q / 2
    cos = jnp.sqrt(jnp.where(half < 1, 1 - half * half, 1.0))
    p, qz = q * cos, q * half
    squared = _squared_factor(crystal, radiation, p, qz, b_iso, g, length)
    return _smeared(p - length, p, length, sigma) * squared / (2 * jnp.pi * p)


def _length(g: jax.Array) -> jax.Array:
    """|g|; 1 for padding, which keeps its gradient finite."""
    squared = jnp.sum(g * g)
    return jnp.sqrt(jnp.where(squared > 0, squared, 1.0))


def _smeared(offset: jax.Array, p: jax.Array, length: jax.Array, sigma: jax.Array) -> jax.Array:
    """R(p; g): density of |x| = p for x in a 2D Gaussian around a point at length g (Rice's).

    `offset` is p - g, given apart for its digits.
    """
    bessel = jax.scipy.special.i0e(p * length / sigma**2)
    return p / sigma**2 * jnp.exp(-(offset**2) / (2 * sigma**2)) * bessel


def _squared_factor(crystal, radiation, p, qz, b_iso, g, length) -> jax.Array:
    """|F|^2 at the rod g and heights qz, with the form factors of |q|^2 = p^2 + qz^2.

    A crystal strained in its plane by g / p has this rod at p.
    """

    def point(p, qz):
        stretch = jnp.array([1, 1, 0]) * (length / p) + jnp.array([0, 0, 1])
        strained = dataclasses.replace(crystal, positions=crystal.positions * stretch)
        at = jnp.append(g * (p / length), qz)[None]
        factor = structure_factor(strained, at, radiation, b_iso)[0]
        return jnp.real(factor) ** 2 + jnp.imag(factor) ** 2

    return jnp.vectorize(point)(p, qz)
