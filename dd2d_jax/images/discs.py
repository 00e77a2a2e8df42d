"""Spots that are discs, as a convergent beam makes them (nanobeam diffraction, 4D-STEM).

What lies in a disc about a point, less what lies around it, is a peak where the point is the disc's
middle, narrow and as strong as the disc: such an image is searched like any other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from scipy import fft, ndimage
from skimage.feature import peak_local_max
from skimage.measure import block_reduce

from dd2d_jax.images import background
from dd2d_jax.images.background import Background
from dd2d_jax.images.grey_levels import MAY_BE_POWER, Pixels, averaged_down

# A peak's standard deviation, in radii of the disc.
PEAK = 0.2
# The ring around a disc that is subtracted, in radii.
_RING = 1.15, 1.6
# Radii are looked for in an image of so many pixels a side: from the least that is no spot like
# any other up to this share of the image, in steps.
_SIDE, _LEAST, _MOST, _STEP = 256, 3.0, 0.1, 1.15
# So many of the strongest tell the radius, and of so many that stand this far above the noise the
# flatness is looked at.
_TELL, _LOOKED, _ABOVE = 8, 40, 5.0
# The share of the pixels that are not brighter than what is taken for the brightest.
_TOP = 0.98
# A disc is nearly as bright towards its rim as in its middle, out of focus brighter: beyond so much
# of the radius, and up to so much. A Gaussian has 0.58 there.
_INNER, _RIM, _FLAT, _FEWEST = 0.5, 0.8, 0.7, 6
# Noise is that of means over so many pixels: a scintillator's is not white.
_MEANS = 2


def radius(pixels: Pixels) -> float | None:
    """The radius of an image's discs, pixels; None where its spots are none."""
    factor = -(-max(pixels.image.shape) // _SIDE)
    image, measured = averaged_down(pixels.image, pixels.measured, factor)
    full = block_reduce(pixels.full, factor, np.max)
    gain = pixels.gain and pixels.gain / factor**2
    # Where the beam is far brighter than its discs, its rim would tell.
    for top in (np.quantile(image[measured], _TOP), image.max()):
        best = _likeliest(np.minimum(image, top), measured)
        if best is None:
            continue
        r, light, around, found = best
        noise = np.sqrt(_variance(image, measured, r, around, gain))
        bright = found[(light > _ABOVE * noise)[tuple(found.T)]]
        rims = _rims(image, measured & ~full, bright, r)
        if len(rims) >= _FEWEST and np.median(rims) > _FLAT:
            return float(r * factor)
    return None


def _likeliest(
    image: np.ndarray, measured: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray, np.ndarray] | None:
    """The radius of discs that are strongest as a matched filter has it, what `_summing` makes of
    it and the places (n, 2), row and column, of the maxima; None where there are too few.
    """
    strength, best, most = 0.0, None, _MOST * min(image.shape)
    summed = _summing(image, measured, most)
    for r in np.exp(np.arange(np.log(_LEAST), np.log(most), np.log(_STEP))):
        light, around = summed(r)
        reach = int(np.ceil(1.5 * r))
        found = peak_local_max(
            light, min_distance=reach, exclude_border=reach, num_peaks=_LOOKED
        )
        if len(found) <= _TELL:
            break
        told = np.median(light[tuple(found.T)][: _TELL + 1]) * r
        if told > strength:
            strength, best = told, (float(r), light, around, found)
    # The least may be any other spot.
    return best if best is not None and best[0] > _LEAST * 1.001 else None


def _rims(
    image: np.ndarray, usable: np.ndarray, places: np.ndarray, radius: float
) -> list[float]:
    """How bright spots at places (row, column) are towards their rim, relative to their middle."""
    away = _away(_RING[1] * radius)
    n = away.shape[0] // 2
    rims = []
    for row, column in places:
        part = np.s_[row - n : row + n + 1, column - n : column + n + 1]
        if image[part].shape != away.shape or not usable[part][away < radius].all():
            continue
        values = image[part] - np.median(image[part][away > _RING[0] * radius])
        inner = values[away < _INNER * radius].mean()
        rim = values[(away > _INNER * radius) & (away < _RIM * radius)].mean()
        rims.append(rim / inner if inner > 0 else np.inf if rim > 0 else 0.0)
    return rims


def summed(pixels: Pixels, radius: float) -> Pixels:
    """An image whose discs have become peaks of a standard deviation of `PEAK` radii."""
    # The flanks of a disc do not tell what its flat top was.
    full = background.grown(pixels.full, radius)
    notes = [*pixels.notes]
    if pixels.step is not None and pixels.power_error is not None:
        notes.append(MAY_BE_POWER)
    notes.append(
        f"the spots are discs of a radius of {radius * pixels.factor:.0f} pixels, as of a "
        "convergent beam or out of focus: they were summed over these"
    )
    image, around = _summing(pixels.image, pixels.measured, radius)(radius)
    variance = _variance(pixels.image, pixels.measured, radius, around, pixels.gain)
    under = Background(
        np.zeros(image.shape), variance / background.passed(PEAK * radius) ** 2, 0.0
    )
    # The search takes hot pixels out of what it is given.
    return dataclasses.replace(
        pixels, image=image, measured=pixels.measured.copy(), full=full, gain=None, step=None,
        notes=notes, under=under,
    )  # fmt: skip


def _variance(
    image: np.ndarray,
    measured: np.ndarray,
    radius: float,
    around: np.ndarray,
    gain: float | None,
) -> np.ndarray:
    """(H, W) of the noise in an image that was summed over discs; `around` as `_summing` has it."""
    disc, ring = (np.pi * radius**2 * x for x in (1, _RING[1] ** 2 - _RING[0] ** 2))
    if gain:  # few counts: as many as around, and one
        return gain * (around + gain / ring) * (1 / disc + 1 / ring)
    # Differences between places nearby: few lie across a disc's rim.
    smooth = ndimage.uniform_filter(image, _MEANS)
    known = measured & np.roll(measured, 2 * _MEANS, 1)
    apart = np.abs(smooth - np.roll(smooth, 2 * _MEANS, 1)) / np.sqrt(2)
    side = int(np.clip(4 * radius, 24, max(min(image.shape) // 4, 24)))
    typical = background.tiled(apart, known, side, lambda v: float(np.median(v)) ** 2, 0.8)
    white = (1.4826 * _MEANS) ** 2 * np.maximum(typical, 1e-12)
    return white * (1 / disc + 1 / ring)


def _summing(
    image: np.ndarray, measured: np.ndarray, most: float
) -> Callable[[float], tuple[np.ndarray, np.ndarray]]:
    """What makes of a radius up to `most`, for each pixel of an image (H, W), the mean in a disc
    about it less that in a ring around it, at least 0; and the mean in the ring.
    """
    height, width = image.shape
    reach = len(_away(_RING[1] * most)) // 2
    shape = [fft.next_fast_len(n + 2 * reach, real=True) for n in image.shape]
    light, share = (
        fft.rfft2(x, shape) for x in (np.where(measured, image, 0.0), measured.astype(float))
    )

    def mean(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of the measured pixels under it, and the share of it that was measured."""
        n = len(kernel) // 2
        there = fft.rfft2(kernel / kernel.sum(), shape)
        total, seen = (
            fft.irfft2(x * there, shape)[n : n + height, n : n + width] for x in (light, share)
        )
        return total / np.maximum(seen, 1e-6), seen

    def summed(radius: float) -> tuple[np.ndarray, np.ndarray]:
        away = _away(_RING[1] * radius)
        disc, inner, outer = (
            np.clip(x * radius + 0.5 - away, 0, 1) for x in (1.0, *_RING)
        )
        inside, whole = mean(disc)
        around, some = mean(outer - inner)
        usable = (whole > 0.8) & (some > 0.3)
        return np.where(usable, np.maximum(inside - around, 0), 0.0), np.maximum(around, 0)

    return summed


def _away(reach: float) -> np.ndarray:
    """(2n + 1, 2n + 1) distances from the middle, up to `reach` and a pixel along the axes."""
    n = int(np.ceil(reach)) + 1
    return np.hypot(*np.mgrid[-n : n + 1, -n : n + 1])
