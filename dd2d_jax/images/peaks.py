"""Maxima of a diffraction image: which are spots by their height and shape, and how strong.

Coordinates are pixels (column, row) with the middle of the first pixel at (0, 0).
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import ndimage
from skimage.feature import peak_local_max

from dd2d_jax.images import background
from dd2d_jax.images.background import Background

# The halo's own unevenness, relative to it.
_CONTRAST = 0.003
# More local maxima than this are texture; the strongest are kept.
_MOST = 1000
# Curvature across over along, of a maximum that is no ridge.
_ROUND = 0.2
# A spot is at most so many times as wide as others.
_WIDE = 2.0
# The spots' width is that of the strongest, so many of them, if they stand this far above noise.
_STACK, _SURE, _FEWEST = 60, 8.0, 6
# A spot that stands so many standard deviations above noise is cut where it is so much narrower
# than others, or so many of their spreads, along one axis, and not along the other. An edge that
# hides 5 % of a Gaussian's light leaves 0.9 of its width, one that hides 30 % 0.7.
_BRIGHT, _SHORT, _SPREADS, _LONG = 30.0, 0.1, 5.0, 0.85
# Of a spot's disc so much must have been measured.
_WHOLE = 0.8


@dataclasses.dataclass(frozen=True)
class Peaks:
    """Maxima that stand above the noise.

    Attributes:
        position: (K, 2) column and row, pixels.
        intensity: (K,) counts above the local background, summed over the spot.
        sigma: (K,) standard uncertainty of the intensity.
        height: (K,) standard deviations of the noise.
        spot: (K,) True where the shape is a spot's, and enough of it was measured.
    """

    position: np.ndarray
    intensity: np.ndarray
    sigma: np.ndarray
    height: np.ndarray
    spot: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> Peaks:
        return Peaks(*(getattr(self, f.name)[rows] for f in dataclasses.fields(self)))


def spot_width(image: np.ndarray, measured: np.ndarray, under: Background, first: float) -> float:
    """Standard deviation of a pattern's spots, pixels: the median of its most significant maxima.

    Half of a spot's light lies within 1.18 standard deviations of a Gaussian.

    Args:
        image: (H, W), finite everywhere.
        measured: (H, W) pixels to be used.
        under: the background and its noise as a filter of width `first` sees it.
        first: width of the filter, pixels.
    """
    residual = np.where(measured, image - under.level, 0.0)
    height = np.where(measured, significance(residual, under, first), 0.0)
    reach = max(min(image.shape) // 25, 5)
    found = peak_local_max(
        height, min_distance=3, threshold_abs=_SURE, exclude_border=reach, num_peaks=_STACK
    )
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    ring = np.rint(np.hypot(rows, columns)).astype(int)
    number = np.bincount(ring.ravel())[: reach + 1]
    widths = []
    for row, column in found:
        part = np.s_[row - reach : row + reach + 1, column - reach : column + reach + 1]
        if not measured[part][ring <= 3].all():
            continue
        profile = np.bincount(ring.ravel(), image[part].ravel())[: reach + 1] / number
        # To where it is lowest, or no longer falls.
        end = int(np.argmax(np.append(np.diff(profile) > 0, True)[1:])) + 2
        light = np.cumsum((profile - profile[: end + 1].min())[: end + 1] * number[: end + 1])
        if light[-1] > 0:
            inside = np.interp(0.5 * light[-1], light, np.arange(len(light)) + 0.5)
            widths.append((light[-1], inside / 1.18))
    if len(widths) < _FEWEST:
        return background.spot_width(residual, measured)
    light, width = np.array(widths).T
    # Specks are many, and weak.
    width = width[light > 0.05 * np.sort(light)[-_FEWEST]]
    return float(np.clip(np.median(width), 0.7, max(image.shape) / 60))


def significance(residual: np.ndarray, under: Background, width: float) -> np.ndarray:
    """(H, W) standard deviations of the noise by which a spot at a pixel stands above it."""
    excess = ndimage.gaussian_filter(residual, width)
    # Where the halo is steep, what half a pixel's shift explains is no spot.
    slope = np.hypot(*np.gradient(under.level))
    excess = np.maximum(excess - 0.5 * slope, 0.0)
    out = excess / error(residual, under, width)
    if under.few:
        # Counts under the matched filter, and those that the background's variance stands for.
        area = 4 * np.pi * width**2
        expected = under.variance * area / under.gain**2 + 1e-3
        counts = expected + excess * area / under.gain
        likelihood = counts * np.log(counts / expected) - (counts - expected)
        return np.minimum(out, np.sqrt(2 * np.maximum(likelihood, 0)))
    # As rare as that many standard deviations of a Gaussian (Wilson and Hilferty, PNAS 17, 684,
    # 1931, of gamma variates).
    skew = np.maximum(under.skew, 1e-3)
    return (np.cbrt(1 + skew * out / 2) - 1) * 6 / skew + skew / 6


def error(residual: np.ndarray, under: Background, width: float) -> np.ndarray:
    """(H, W) one standard deviation of the noise in the light of a spot at a pixel."""
    noise = np.hypot(np.sqrt(under.variance) * background.passed(width), _CONTRAST * under.above())
    return noise + 1e-9 * np.ptp(residual) + 1e-30


def find(
    residual: np.ndarray,
    measured: np.ndarray,
    under: Background,
    width: float,
    threshold: float,
) -> Peaks:
    """Maxima of the matched filter above the noise, measured and judged by their shape.

    Args:
        residual: (H, W) the image less its background, 0 where it is not measured.
        measured: (H, W) pixels to be used.
        under: the background and its noise.
        width: standard deviation of a spot, pixels.
        threshold: standard deviations of the noise.
    """
    height = significance(residual, under, width)
    # Maxima of the light, not of its significance: the noise varies from place to place.
    light = ndimage.gaussian_filter(residual, width)
    found = peak_local_max(
        np.where(measured & (height > threshold), light, 0.0),
        min_distance=max(2, round(2 * width)),
        threshold_abs=0.0,
        exclude_border=max(2, round(1.5 * width)),
        num_peaks=_MOST,
    )
    places = tuple(found.T)
    table = np.array(
        [_integrate(residual, measured, under, row, column, width) for row, column in found]
    ).reshape(-1, 5)
    spot = (table[:, 2] > 0) & (table[:, 4] > _WHOLE)
    spot &= _roundness(residual, places, width) > _ROUND
    spot &= ~_cut(residual, table, spot, width)
    return Peaks(table[:, :2], table[:, 2], table[:, 3], height[places], spot)


def _roundness(
    residual: np.ndarray, places: tuple[np.ndarray, ...], width: float
) -> np.ndarray:
    """(K,) the smaller over the larger curvature at maxima (rows, columns); 0 on a ridge."""
    if not len(places[0]):
        return np.zeros(0)
    rr, cc, rc = (
        ndimage.gaussian_filter(residual, width, order=order)[places]
        for order in ((2, 0), (0, 2), (1, 1))
    )
    mean, apart = (rr + cc) / 2, np.hypot((rr - cc) / 2, rc)
    # Of a maximum both are negative.
    return np.where(mean < 0, np.maximum(mean + apart, -np.inf) / (mean - apart - 1e-30), 0.0)


def _cut(residual: np.ndarray, table: np.ndarray, spot: np.ndarray, width: float) -> np.ndarray:
    """(K,) True where part of a spot is hidden: it is narrower than others, along one axis alone.

    Optics make no spot narrower than the others; the edge of a beam stop does, which cannot be seen
    where there is no halo behind it. `table` (K, 5) as `_integrate` has it.
    """
    out = np.zeros(len(table), bool)
    bright = np.flatnonzero(spot & (table[:, 2] > _BRIGHT * table[:, 3]))
    if len(bright) < _FEWEST:
        return out
    axes = np.array([_axes(residual, x, y, width) for x, y in table[bright, :2]])
    # Of the strongest: the halo's remains widen weak ones.
    usual = np.median(axes[np.argsort(-table[bright, 2])[:_STACK]], axis=0)
    short, long = (axes / usual).T
    narrow = max(_SHORT, _SPREADS * background.mad(short))
    out[bright] = (short < 1 - narrow) & (long > _LONG)
    return out


def _axes(residual: np.ndarray, x: float, y: float, width: float) -> tuple[float, float]:
    """Standard deviations of a spot's light along its shorter and its longer axis, pixels."""
    part, top, left = _about(round(y), round(x), width)
    window = residual[part]
    rows, columns = np.indices(window.shape)
    dy, dx = rows - (y - top), columns - (x - left)
    distance = np.hypot(dy, dx)
    around = ring(distance, width)
    above = window - (np.median(window[around]) if around.any() else 0.0)
    light = np.where(disc(distance, width), np.maximum(above, 0), 0) + 1e-30
    yy, xx, xy = ((light * part).sum() / light.sum() for part in (dy * dy, dx * dx, dx * dy))
    mean, apart = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    return float(np.sqrt(max(mean - apart, 0.0))), float(np.sqrt(mean + apart))


def _about(row: int, column: int, width: float) -> tuple[tuple[slice, slice], int, int]:
    """The square about a spot that holds its disc and ring, and the first row and column of it."""
    reach = int(np.ceil(4 * width)) + 1
    top, left = max(row - reach, 0), max(column - reach, 0)
    return np.s_[top : row + reach + 1, left : column + reach + 1], top, left


def disc(distance: np.ndarray, width: float) -> np.ndarray:
    """Where a spot's light is summed: True at distances (...) from its middle, pixels."""
    return distance <= 2.5 * width + 0.5


def ring(distance: np.ndarray, width: float) -> np.ndarray:
    """Where the background is that is subtracted from it."""
    return (distance > 3 * width) & (distance <= 4 * width + 1)


def _integrate(
    residual: np.ndarray,
    measured: np.ndarray,
    under: Background,
    row: int,
    column: int,
    width: float,
) -> tuple[float, float, float, float, float]:
    """Column, row, summed counts, their uncertainty and the measured share of a spot."""
    part, top, left = _about(row, column, width)
    window, seen = residual[part], measured[part]
    rows, columns = np.indices(window.shape)
    y, x = float(row - top), float(column - left)
    for _ in range(3):
        distance = np.hypot(rows - y, columns - x)
        around = ring(distance, width) & seen
        above = window - (np.median(window[around]) if around.any() else 0.0)
        weight = np.where((distance <= 2 * width + 0.5) & seen, np.maximum(above, 0), 0)
        if weight.sum() <= 0:
            break
        y, x = (weight * rows).sum() / weight.sum(), (weight * columns).sum() / weight.sum()
    within = disc(np.hypot(rows - y, columns - x), width)
    total = float(above[within & seen].sum())
    # Counting noise of disc and spot, and that of the ring's median, pi / 2 times a mean's.
    pixel, size = float(under.variance[row, column]), int((within & seen).sum())
    variance = size * pixel + size**2 * np.pi / 2 * pixel / max(int(around.sum()), 1)
    variance += under.gain * max(total, 0)
    share = size / (np.pi * (2.5 * width + 0.5) ** 2) if within.sum() > size else 1.0
    return left + x, top + y, total, float(np.sqrt(variance)), min(share, 1.0)
