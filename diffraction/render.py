"""Patterns as images, with the noise and the beam stop of a detector.

Pixels are (column, row) with the middle of the first pixel at (0, 0); rows count downwards, q_y
upwards.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from diffraction.kinematic import detector_positions
from diffraction.pattern import Pattern
from diffraction.radiation import Radiation

# FWHM of a Gaussian of integral breadth 1 / D, times D: the constant of Scherrer's equation.
SCHERRER = 2 * np.sqrt(np.log(2) / np.pi)
_FWHM = 2 * np.sqrt(2 * np.log(2))
# In pixels, added in quadrature: a spot without any width has finite gradients, too.
_LEAST_SIGMA = 1e-3


def render(
    pattern: Pattern,
    shape: tuple[int, int] = (512, 512),
    scale: float | jax.Array = 0.01,
    centre: tuple[float, float] | jax.Array | None = None,
    fwhm: float | jax.Array = 0.02,
    domain_size: float | jax.Array = np.inf,
    beam: float | jax.Array = 0.0,
    halo: tuple[float, float] | jax.Array = (0.0, 0.1),
    background: float | jax.Array = 0.0,
    radiation: Radiation | None = None,
) -> jax.Array:
    """The expected image of a pattern: Gaussian spots on a smooth background, without noise.

    Spots are integrated over each pixel, so that each keeps its flux however narrow it is.

    Args:
        pattern: batch axes (...).
        shape: rows H and columns W.
        scale: 1/angstrom per pixel.
        centre: column and row of the central beam, pixels; None is the middle of the image.
        fwhm: full width at half maximum of all spots and of the beam, 1/angstrom; a number or
            (...).
        domain_size: of the crystal, angstrom; a number or (...). It widens the spots, not the
            beam, by 0.94 / domain_size in quadrature: Scherrer's equation with the constant
            2 sqrt(ln 2 / pi) of Gaussian spots, whose integral breadth is 1 / domain_size.
        beam: flux of the central beam in the units of the intensities; a number or (...).
        halo: height and half width at half height (1/angstrom) of what inelastic scattering adds
            around the beam, height / (1 + (|q| / width)^2) a pixel, the angular distribution of
            single inelastic scattering (Egerton, Electron Energy-Loss Spectroscopy in the
            Electron Microscope, 3rd ed., chapter 3).
        background: added to each pixel.
        radiation: None puts a spot at q / scale, an image in q. A beam puts it where a flat
            detector across that beam sees it: the gnomonic projection, k_perp / k_z in place of
            q lambda, moves spots out by 1 / sqrt(1 - (lambda |q|)^2). `scale` is then that of the
            centre, and q that the beam cannot reach, lambda |q| >= 1, are left out.

    Returns:
        (..., H, W); row 0 is the top, where q_y is largest.

    Raises:
        ValueError: scale, domain_size or the halo's width is not positive, or fwhm is negative.
    """
    _check(scale > 0, "scale", "positive, in 1/angstrom per pixel", scale)
    _check(fwhm >= 0, "fwhm", "0 or more, in 1/angstrom", fwhm)
    _check(domain_size > 0, "domain_size", "positive, in angstrom", domain_size)
    _check(halo[1] > 0, "the halo's width", "positive, in 1/angstrom", halo[1])
    centre = _middle(shape) if centre is None else centre
    return _render(
        pattern, tuple(shape), scale, centre, fwhm, domain_size, beam, halo, background, radiation
    )


@functools.partial(jax.jit, static_argnums=1)
def _render(
    pattern, shape, scale, centre, fwhm, domain_size, beam, halo, background, radiation
) -> jax.Array:
    dtype = pattern.q.dtype
    centre, scale = jnp.asarray(centre, dtype), jnp.asarray(scale, dtype)
    intensity = jnp.where(pattern.mask, pattern.intensity, 0.0)
    q = jnp.where(pattern.mask[..., None], pattern.q, 0.0)
    if radiation is not None:
        wavelength = jnp.asarray(radiation.wavelength, dtype)
        reached = jnp.sum(q * q, -1) * wavelength[..., None] ** 2 < 1
        intensity = jnp.where(reached, intensity, 0.0)
        forward = dataclasses.replace(pattern, mask=pattern.mask & reached)
        q = detector_positions(forward, radiation, 1 / wavelength)

    # The central beam is one spot more, at q = 0 and as wide as the instrument makes it.
    batch = intensity.shape[:-1]
    fwhm, domain_size, beam = (
        jnp.broadcast_to(jnp.asarray(x, dtype), batch)[..., None] for x in (fwhm, domain_size, beam)
    )
    q = jnp.concatenate([q, jnp.zeros((*batch, 1, 2), dtype)], -2)
    intensity = jnp.concatenate([intensity, beam], -1)
    squared = fwhm**2 + (SCHERRER / domain_size) ** 2
    squared = jnp.concatenate([jnp.broadcast_to(squared, pattern.mask.shape), fwhm**2], -1)
    sigma = jnp.sqrt(squared / (_FWHM * scale) ** 2 + _LEAST_SIGMA**2)

    place = centre + q / scale * jnp.array([1, -1], dtype)
    columns, rows = jnp.arange(shape[1], dtype=dtype), jnp.arange(shape[0], dtype=dtype)
    image = jnp.einsum(
        "...kh,...kw->...hw",
        intensity[..., None] * _pixel_shares(rows, place[..., 1], sigma),
        _pixel_shares(columns, place[..., 0], sigma),
        precision="highest",
    )
    height, width = (jnp.asarray(x, dtype) / y for x, y in zip(halo, (1, scale), strict=True))
    squared = (columns - centre[0]) ** 2 + (rows[:, None] - centre[1]) ** 2
    return image + height / (1 + squared / width**2) + background


def _pixel_shares(pixels: jax.Array, place: jax.Array, sigma: jax.Array) -> jax.Array:
    """Shares (..., K, P) of Gaussians at `place` (..., K) that fall into each of the pixels (P)."""
    # By distance, on the side where erfc is small: differences of erf lose the tails' digits.
    distance = jnp.abs(pixels - place[..., None])
    width = np.sqrt(2) * sigma[..., None]
    erfc = jax.scipy.special.erfc
    return (erfc((distance - 0.5) / width) - erfc((distance + 0.5) / width)) / 2


def counts(key: jax.Array, image: jax.Array, dose: float | jax.Array) -> jax.Array:
    """Electrons or photons that a counting detector records: Poisson noise on an expected image.

    Args:
        key: `jax.random` key.
        image: (..., H, W) expected intensities, none negative, in any unit.
        dose: counts expected in the whole of each image; a number or (...).

    Returns:
        (..., H, W) integers, int32 or in double precision int64; zero everywhere where the image
        is.

    Raises:
        ValueError: the dose is not positive and finite, a pixel is negative or not finite, or one
            expects more counts than the integers hold (where the values are known, not traced).
    """
    _check(dose > 0, "dose", "positive, in counts per image", dose)
    image = jnp.asarray(image)
    image = image.astype(jnp.promote_types(image.dtype, jnp.float32))  # whole numbers, too
    if not isinstance(image, jax.core.Tracer):
        wrong = ~(np.isfinite(image) & (np.asarray(image) >= 0))
        if wrong.any():
            where = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise ValueError(
                f"the expected image must be finite and 0 or more; pixel {where} is {image[where]}"
            )
    total = jnp.sum(image, (-2, -1), keepdims=True)
    dose = jnp.asarray(dose, image.dtype)[..., None, None]
    expected = image * (dose / jnp.where(total > 0, total, 1.0))
    integers = jax.dtypes.canonicalize_dtype(int)
    # Ten standard deviations of the brightest pixel are left free.
    most = jnp.iinfo(integers).max
    most = most - 10 * most**0.5
    if not isinstance(expected, jax.core.Tracer) and not (np.asarray(expected) < most).all():
        raise ValueError(
            f"a pixel expects {np.max(expected):.3g} counts, more than {integers.name} holds; "
            "take a smaller dose"
        )
    return jax.random.poisson(key, expected, dtype=integers)


def beam_stop(
    shape: tuple[int, int] = (512, 512),
    scale: float | jax.Array = 0.01,
    centre: tuple[float, float] | jax.Array | None = None,
    radius: float | jax.Array = 0.1,
    angle: float | jax.Array = -90.0,
    width: float | jax.Array = 0.05,
) -> jax.Array:
    """What a beam stop leaves to be seen: a disc on the beam, held by a bar from the image's edge.

    Args:
        shape: rows H and columns W.
        scale: 1/angstrom per pixel.
        centre: column and row of the central beam, pixels; None is the middle of the image.
        radius: of the disc, 1/angstrom.
        angle: at which the bar leaves the centre, degrees from +q_x towards +q_y.
        width: of the bar, 1/angstrom; 0 is a disc without a bar.

    Returns:
        (H, W) True where the detector sees, False where the middle of a pixel is hidden; an image
        is multiplied by it.

    Raises:
        ValueError: scale is not positive, or radius or width is negative.
    """
    _check(scale > 0, "scale", "positive, in 1/angstrom per pixel", scale)
    _check(radius >= 0, "radius", "0 or more, in 1/angstrom", radius)
    _check(width >= 0, "width", "0 or more, in 1/angstrom", width)
    centre = _middle(shape) if centre is None else centre
    qx = (jnp.arange(shape[1]) - centre[0]) * scale
    qy = (centre[1] - jnp.arange(shape[0])[:, None]) * scale
    cos, sin = jnp.cos(jnp.deg2rad(angle)), jnp.sin(jnp.deg2rad(angle))
    along, across = cos * qx + sin * qy, cos * qy - sin * qx
    bar = (along >= 0) & (jnp.abs(across) < width / 2)
    return ~(bar | (qx**2 + qy**2 < radius**2))


def image_axes(
    shape: tuple[int, int] = (512, 512),
    scale: float = 0.01,
    centre: tuple[float, float] | None = None,
) -> list[dict]:
    """The axes of an image as hyperspy describes them: `hs.signals.Signal2D(image, axes=...)`.

    Args:
        shape: rows H and columns W.
        scale: 1/angstrom per pixel.
        centre: column and row of the central beam, pixels; None is the middle of the image.

    Returns:
        Rows, then columns: name, units, size, the value at the first pixel ("offset") and the
        step ("scale"), which is negative along the rows as q_y points up.
    """
    centre = _middle(shape) if centre is None else centre
    return [
        {
            "name": name,
            "units": "1/Å",
            "size": int(size),
            "offset": float(-step * middle),
            "scale": float(step),
            "navigate": False,
        }
        for name, size, step, middle in (
            ("qy", shape[0], -scale, centre[1]),
            ("qx", shape[1], scale, centre[0]),
        )
    ]


def _middle(shape: tuple[int, int]) -> tuple[float, float]:
    return (shape[1] - 1) / 2, (shape[0] - 1) / 2


def _check(holds: bool | np.ndarray | jax.Array, name: str, right: str, value: object) -> None:
    if not isinstance(holds, jax.core.Tracer) and not np.all(holds):
        raise ValueError(f"{name} must be {right}, got {value}")
