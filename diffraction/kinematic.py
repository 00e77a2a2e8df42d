"""Structure factors on continuous rods and the pattern where the Ewald sphere cuts them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from diffraction.crystal import Crystal, reciprocal
from diffraction.form_factors import check_tabulated, form_factor
from diffraction.pattern import Pattern
from diffraction.radiation import Electrons, Radiation

# Spot slots are padded to multiples of this, so that crystals of like size share a compilation.
_SLOTS = 32
# A ring at q_max is kept as a whole, whichever way its rods are rounded (in float32, too).
_EDGE = 1 + 1e-6


def structure_factor(
    crystal: Crystal,
    q: jax.Array,
    radiation: Radiation,
    b_iso: float | jax.Array = 0.0,
) -> jax.Array:
    """F(q) = sum_j f_j(|q|) exp(-B_j |q|^2 / 4) exp(2 pi i q . r_j) at any 3D q.

    Args:
        crystal: batch axes (...), N atoms.
        q: (..., K, 3) scattering vectors in the crystal's frame, 1/angstrom (no 2 pi).
        radiation: electrons (F in angstrom) or X-rays (F in electrons).
        b_iso: B in angstrom^2; a number, (...) or (..., N).

    Returns:
        (..., K) complex.
    """
    check_concrete(radiation, crystal.numbers)
    f = _amplitudes(crystal.numbers, jnp.sum(q * q, -1), radiation, b_iso)
    turns = jnp.einsum("...kd,...nd->...kn", q, crystal.positions, precision="highest")
    # Whole turns are taken off first: float32 sines lose digits at large arguments.
    angle = 2 * jnp.pi * (turns - jnp.round(turns))
    return jax.lax.complex(jnp.sum(f * jnp.cos(angle), -1), jnp.sum(f * jnp.sin(angle), -1))


def _amplitudes(
    numbers: jax.Array, q_squared: jax.Array, radiation: Radiation, b_iso: float | jax.Array
) -> jax.Array:
    """Form factors with Debye-Waller factors, (..., K, N)."""
    b_iso = jnp.asarray(b_iso, q_squared.dtype)
    if b_iso.ndim < numbers.ndim:
        b_iso = b_iso[..., None]
    x = q_squared[..., :, None]
    f = form_factor(radiation, numbers[..., None, :], x)
    f = jnp.where(numbers[..., None, :] > 0, f, 0.0)
    return f * jnp.exp(-b_iso[..., None, :] * x / 4)


def reflections(lattice: np.ndarray, q_max: float) -> np.ndarray:
    """Miller indices of all rods with 0 < |q_par| <= q_max, sorted by |q_par|.

    Args:
        lattice: (..., 2, 2) concrete, in angstrom.
        q_max: in 1/angstrom.

    Returns:
        (..., K, 2) int32; K is the same for the batch, a multiple of 32, padded with (0, 0).

    Raises:
        ValueError: q_max is not positive, a lattice is not finite or has no area, or nothing is
            within q_max.
    """
    lattice = np.asarray(lattice, float)
    _check_q_max(q_max)
    flat = lattice.reshape(-1, 2, 2)
    area = np.abs(np.linalg.det(flat))
    if not (area > 1e-3).all():
        row = int(np.argmin(np.where(np.isfinite(area), area, -1)))
        raise ValueError(f"lattice {row} has no area: {flat[row].tolist()}")
    lists = [_indices(a, q_max) for a in flat]
    longest = max(len(x) for x in lists)
    if longest == 0:
        raise ValueError(f"no rod lies within q_max = {q_max} 1/angstrom; take a larger one")
    size = -(-longest // _SLOTS) * _SLOTS
    out = np.zeros((len(lists), size, 2), np.int32)
    for row, x in zip(out, lists, strict=True):
        row[: len(x)] = x
    return out.reshape(*lattice.shape[:-2], size, 2)


def _indices(lattice: np.ndarray, q_max: float) -> np.ndarray:
    # |h| = |q . a1| <= q_max |a1| bounds the search.
    h_max, k_max = np.floor(q_max * _EDGE * np.linalg.norm(lattice, axis=1)).astype(int)
    h, k = np.mgrid[-h_max : h_max + 1, -k_max : k_max + 1]
    hk = np.stack([h.ravel(), k.ravel()], -1)
    length = np.linalg.norm(hk @ np.linalg.inv(lattice).T, axis=-1)
    keep = (length > 0) & (length <= q_max * _EDGE)
    hk, length = hk[keep], length[keep]
    # Rounded, so that rods of one ring keep one order on every machine.
    return hk[np.lexsort((hk[:, 1], hk[:, 0], np.round(length, 6)))]


def ewald_qz(
    q_par: jax.Array, wavelength: float | jax.Array, tilt: tuple[float, float] | jax.Array = (0, 0)
) -> jax.Array:
    """Height at which the Ewald sphere cuts a rod, along the layer normal.

    At normal incidence q_z = 1/lambda - sqrt(1/lambda^2 - q_par^2). Under tilt it is the small
    root of |q|^2 = (2/lambda) (R q)_z with q = q_par + q_z n, the exact sphere.

    Args:
        q_par: (..., K, 2) in-plane coordinates of the rods in the crystal's frame, 1/angstrom.
        wavelength: angstrom.
        tilt: degrees, see `simulate`.

    Returns:
        (..., K) in 1/angstrom; NaN where the sphere does not reach the rod.
    """
    k = 1.0 / jnp.asarray(wavelength, q_par.dtype)
    rotation = tilt_matrix(tilt, q_par.dtype)
    squared = jnp.sum(q_par * q_par, -1)
    up = jnp.einsum("...kd,d->...k", q_par, rotation[2, :2], precision="highest")
    linear = k * rotation[2, 2]
    constant = squared - 2 * k * up
    under_root = linear * linear - constant
    reached = under_root > 0
    # The root of what is not reached would make the gradients of all other rods NaN.
    root = jnp.sqrt(jnp.where(reached, under_root, 1.0))
    # Written without the difference of two large numbers.
    return jnp.where(reached, constant / (linear + root), jnp.nan)


def tilt_matrix(tilt: tuple[float, float] | jax.Array, dtype=jnp.float32) -> jax.Array:
    """Rotation (3, 3) of the crystal: about x by tilt[0], then about y by tilt[1] (degrees)."""
    alpha, beta = jnp.deg2rad(jnp.asarray(tilt, dtype))
    ca, sa, cb, sb = jnp.cos(alpha), jnp.sin(alpha), jnp.cos(beta), jnp.sin(beta)
    zero = jnp.zeros((), dtype)
    return jnp.stack(
        [
            jnp.stack([cb, sa * sb, ca * sb]),
            jnp.stack([zero, ca, -sa]),
            jnp.stack([-sb, sa * cb, ca * cb]),
        ]
    )


def simulate(
    crystal: Crystal,
    radiation: Radiation = Electrons(80.0),  # noqa: B008  (frozen)
    q_max: float = 1.25,
    b_iso: float | jax.Array = 0.0,
    tilt: tuple[float, float] | jax.Array = (0.0, 0.0),
    hk: np.ndarray | jax.Array | None = None,
) -> Pattern:
    """The kinematic diffraction pattern of a 2D crystal or a batch of them.

    Rods are cut by the Ewald sphere; the beam runs against the layer normal. Electrons give
    |F|^2; X-rays |F|^2 times the Lorentz-polarisation factor (1 + cos^2 2theta) / (2 sin 2theta).
    The central beam is not part of the pattern.

    Args:
        crystal: batch axes (...).
        radiation: `Electrons` or `Xrays`.
        q_max: rods with in-plane |q_par| <= q_max are kept, 1/angstrom.
        b_iso: B in angstrom^2; a number, (...) or (..., N).
        tilt: degrees; the crystal is turned about x by tilt[0], then about y by tilt[1].
        hk: (..., K, 2) rods from `reflections`, padded with (0, 0). Needed where the lattice is
            traced (under jit, vmap or grad); None finds them.

    Returns:
        Pattern with batch axes (...); spots beyond q_max or out of the sphere's reach are masked.

    Raises:
        ValueError: an element without a form factor, q_max not positive, or a traced lattice
            without `hk`.
    """
    check_concrete(radiation, crystal.numbers)
    if not isinstance(q_max, jax.core.Tracer):
        _check_q_max(q_max)
    if hk is None:
        if isinstance(crystal.lattice, jax.core.Tracer):
            raise ValueError(
                "the lattice is traced, so its rods are unknown: pass "
                "hk=reflections(lattice, q_max) made outside of the transformation"
            )
        hk = reflections(np.asarray(crystal.lattice), q_max)
    return _simulate(crystal, radiation, q_max, b_iso, jnp.asarray(tilt, float), jnp.asarray(hk))


@jax.jit
def _simulate(crystal, radiation, q_max, b_iso, tilt, hk) -> Pattern:
    dtype = crystal.positions.dtype
    q_par = jnp.einsum(
        "...kd,...de->...ke", hk.astype(dtype), reciprocal(crystal.lattice), precision="highest"
    )
    present = jnp.any(hk != 0, -1)
    qz = ewald_qz(q_par, radiation.wavelength, tilt)
    mask = present & (jnp.sum(q_par * q_par, -1) <= (q_max * _EDGE) ** 2) & jnp.isfinite(qz)
    q = jnp.concatenate([q_par, jnp.where(mask, qz, 0.0)[..., None]], -1)
    factor = structure_factor(crystal, q, radiation, b_iso)
    intensity = jnp.real(factor) ** 2 + jnp.imag(factor) ** 2
    if not isinstance(radiation, Electrons):
        squared = jnp.where(mask, jnp.sum(q * q, -1), 2 / radiation.wavelength**2)
        intensity = intensity * lorentz_polarisation(squared, radiation.wavelength)
    lab = jnp.einsum("...kd,ed->...ke", q, tilt_matrix(tilt, dtype), precision="highest")
    return Pattern(
        q=jnp.where(mask[..., None], lab[..., :2], 0.0),
        intensity=jnp.where(mask, intensity, 0.0),
        hk=jnp.where(mask[..., None], hk, 0),
        mask=mask,
    )


def lorentz_polarisation(q_squared: jax.Array, wavelength: float | jax.Array) -> jax.Array:
    """(1 + cos^2 2theta) / (2 sin 2theta) for an unpolarised beam, sin theta = lambda |q| / 2."""
    sin_squared = q_squared * wavelength**2 / 4
    cos_two_theta = 1 - 2 * sin_squared
    sin_two_theta = 2 * jnp.sqrt(sin_squared * (1 - sin_squared))
    return (1 + cos_two_theta**2) / (2 * sin_two_theta)


def check_concrete(radiation: Radiation, numbers: jax.Array) -> None:
    """Check that all elements are tabulated, where the numbers are known (not traced)."""
    if not isinstance(numbers, jax.core.Tracer):
        check_tabulated(radiation, np.asarray(numbers))


def _check_q_max(q_max: float) -> None:
    if not 0 < q_max < np.inf:
        raise ValueError(f"q_max must be positive, in 1/angstrom, got {q_max}")
