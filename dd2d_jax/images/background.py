"""What lies under the spots of a diffraction image: halo, noise, beam, beam stop.

The noise is taken from the image itself, as it is after the filter that spots are sought with:
the scatter of the filter's response, by its quantiles, in squares of the image and at like
radius. Gain, offset, readout and the blur of a scintillator are all in it. (Source extraction in
astronomy does likewise: Bertin and Arnouts, A&AS 117, 393, 1996; matched filters: Vio and
Andreani, A&A 589, A20, 2016.)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from scipy import fft, ndimage, stats

# Peaks are measured against their surroundings, a Gaussian so many times as wide.
WIDER = 2.5
# Below so many counts under a Gaussian the median of Poisson noise is no measure of its mean.
_COUNTS = 10.0
# A stop is darker than its surroundings by so many standard deviations, and by this share.
_DARK, _DARKER = 20.0, 0.4
# Without a halo nothing shows a stop: where the level is so small a share of what is bright, it is
# what spots leave between them.
_DUST = 1e-4
# The power of the radius with which a beam's flank falls at least.
_STEEP = 3.5
# Where opposite places differ by so much less than the scatter at like radius, this is of spots.
_ALIKE = 0.5
# Scatter is taken over squares of so many widths of a spot.
_SQUARE = 16
# Where so many standard deviations are exceeded, there is a spot and not noise; a bright one
# where so many are.
_SPOT, _BRIGHT = 6.0, 40.0
# Where noise is less than a step between grey levels, of which there are not more than so many,
# the scatter is at least this share of it.
_LEVELS, _STEP = 5000, 0.2
# The least scatter anywhere, relative to the middle one.
_LEAST = 0.5


@dataclasses.dataclass(frozen=True)
class Background:
    """What is left of an image without its spots.

    Attributes:
        level: (H, W) smooth, by radius.
        variance: (H, W) of a pixel's noise, as white noise that scatters as much under a spot.
        gain: variance per unit of the image, 1 for counts; 0 where it cannot be told.
        few: whether the image is of few counts, each of them as large as `gain`.
        skew: (H, W) skewness of the filtered noise: of single electrons that a scintillator makes
            blobs of, or of a clipped floor, more than of a Gaussian stands far above the middle.
    """

    level: np.ndarray
    variance: np.ndarray
    gain: float
    few: bool = False
    skew: np.ndarray | float = 0.0

    def above(self) -> np.ndarray:
        """(H, W) the level above that of the darkest places."""
        return np.maximum(self.level - np.quantile(self.level, 0.05), 0)


def mad(values: np.ndarray) -> float:
    """Standard deviation by the median absolute deviation."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def passed(width: float) -> float:
    """Share of white noise that a Gaussian of `width` less one `WIDER` leaves."""
    wide = WIDER * width
    return np.sqrt(1 / width**2 + 1 / wide**2 - 4 / (width**2 + wide**2)) / (2 * np.sqrt(np.pi))


def level_of(
    image: np.ndarray, measured: np.ndarray, radius: np.ndarray, gain: float | None
) -> np.ndarray:
    """(H, W) the median at like radius.

    Args:
        image: (H, W), finite everywhere.
        measured: (H, W) pixels to be used.
        radius: (H, W) distance from the centre, pixels.
        gain: of an image of few counts, whose median is no measure of their mean; else None.
    """
    mean = float(np.clip(image[measured], None, np.quantile(image[measured], 0.99)).mean())
    # Few counts: whole numbers have no median in between, the mean over some pixels has.
    if gain and 0 < mean < _COUNTS * gain:
        width = min(np.sqrt(_COUNTS * gain / (4 * np.pi * mean)), max(image.shape) / 40)
        image = blurred(image, measured, width)
    return radial(image, measured, radius, 2.0)


def estimate(
    image: np.ndarray,
    level: np.ndarray,
    measured: np.ndarray,
    width: float,
    centre: np.ndarray | None,
    gain: float | None,
) -> Background:
    """Background and noise of an image, from what is no spot in it.

    Args:
        image: (H, W), finite everywhere.
        level: (H, W) a first background, from `level_of` or `level_anywhere`.
        measured: (H, W) pixels to be used.
        width: of the filter, pixels.
        centre: (2,) column and row; None before it is known.
        gain: of an image of few counts; None finds it where the noise grows with the level.
    """
    radius = None if centre is None else distance(image.shape, centre)
    share = passed(width)
    residual = np.where(measured, image - level, 0.0)
    if gain:
        floor = share * np.sqrt(np.maximum(level, 0) * gain)
    else:
        floor = _quantised(image, measured)
    narrow = ndimage.gaussian_filter(residual, width)
    least, used = 0.0, measured
    for last in (False, False, True):
        around = _filled(residual, used, WIDER * width)
        filtered = narrow - around
        spread = np.maximum(_scatter(filtered, used, width, radius, last), floor)
        # A floor of one value has no scatter, but where it has, that is what counts.
        some = spread > 1e-7 * np.ptp(filtered)
        least = max(_LEAST * np.median(spread[some]) if some.any() else 0.0, 1e-12)
        above = filtered / np.maximum(spread, least)
        if centre is not None and not last:
            above = np.maximum(above, _paired(filtered, used, width, centre, radius, spread))
        # Of what is bright the wings reach farther.
        used = measured & ~grown(above > _SPOT, 2 * width) & ~grown(above > _BRIGHT, 4 * width)
    variance = (np.maximum(spread, least) / share) ** 2
    level = level + around
    if gain:
        return Background(level, variance, gain, True)
    if not used.any():
        return Background(level, variance, 0.0)
    skew = _skew(filtered, used, width, radius)
    return Background(level, variance, _gain(level[used], variance[used]), False, skew)


def distance(shape: tuple[int, ...], centre: np.ndarray) -> np.ndarray:
    """(H, W) from a column and row, pixels."""
    rows, columns = np.indices(shape)
    return np.hypot(columns - centre[0], rows - centre[1])


def _paired(
    filtered: np.ndarray,
    used: np.ndarray,
    width: float,
    centre: np.ndarray,
    radius: np.ndarray,
    spread: np.ndarray,
) -> np.ndarray:
    """(H, W) standard deviations of what differs between opposite places, by which both stand out.

    Spots that crowd a ring are most of its `spread`; as they come in pairs, they are none of this.
    0 where it is not much less.
    """
    there = {"matrix": [-1, -1], "offset": 2 * centre[::-1], "output_shape": used.shape}
    both = used & ndimage.affine_transform(used, **there, order=0, cval=False)
    mirrored = ndimage.affine_transform(filtered, **there, order=1)
    odd = _scatter((filtered - mirrored) / np.sqrt(2), both, width, radius, False)
    alike = both & (odd < _ALIKE * spread)
    return np.where(alike, np.minimum(filtered, mirrored) / np.maximum(odd, 1e-300), 0.0)


def _quantised(image: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """(H, W) the least scatter where noise is smaller than the steps between grey levels.

    What such steps hide is not averaged away: neighbours are all rounded alike.
    """
    levels = np.unique(image[measured])
    if not 2 <= len(levels) <= _LEVELS:
        return np.zeros(image.shape)
    alike = (image == np.roll(image, 1, 1)) & (image == np.roll(image, 1, 0))
    share = ndimage.uniform_filter(alike.astype(float), 15)
    return _STEP * np.median(np.diff(levels)) * np.clip((share - 0.2) / 0.2, 0, 1)


def grown(marked: np.ndarray, reach: float) -> np.ndarray:
    """(H, W) True in squares of so many pixels to either side of a marked one."""
    size = 2 * int(np.ceil(reach)) + 1
    return ndimage.maximum_filter(marked.astype(np.uint8), size) > 0


def _filled(residual: np.ndarray, used: np.ndarray, width: float) -> np.ndarray:
    """(H, W) Gaussian mean of the pixels used; 0 far from any."""
    weight = ndimage.gaussian_filter(used.astype(float), width)
    total = ndimage.gaussian_filter(np.where(used, residual, 0), width)
    return total / np.maximum(weight, 0.02)


def _scatter(
    filtered: np.ndarray,
    used: np.ndarray,
    width: float,
    radius: np.ndarray | None,
    tail: bool,
) -> np.ndarray:
    """(H, W) standard deviation of what is left of the response where it is used."""
    if radius is None:
        return _squares(filtered, used, width, tail)
    ring = _rings(filtered, used, radius, max(2.0, 1.5 * width), tail)
    # Where the surroundings are more uneven than others at like radius, theirs counts.
    # A floor without any noise has no unevenness that could be told.
    scale = ring + 1e-3 * np.median(ring) + 1e-7 * np.ptp(filtered) + 1e-30
    relative = filtered / scale
    if not tail:  # spots are still in it: they are not what a square's unevenness is
        relative = np.clip(relative, -_SPOT, _SPOT)
    uneven = _squares(relative, used, width, tail)
    return ring * np.maximum(0.9 * uneven, 1.0)


def _deviation(values: np.ndarray, tail: bool) -> float:
    """Standard deviation of a Gaussian by its quantiles: below the middle, and far above it.

    A clipped floor has no lower half, and few counts have none that is as wide as the upper one;
    far above the middle are spots, as long as they are not left out.
    """
    ordered = np.sort(values)
    low, middle, high, top = (_quantile(ordered, share) for share in (0.1587, 0.5, 0.75, 0.975))
    lower = max(middle - low, 0.5 * (high - middle) / 0.674)
    if not tail:
        return float(lower)
    return float(max(lower, (top - middle) / 1.96, _trimmed(ordered - middle)))


def _quantile(ordered: np.ndarray, share: float) -> float:
    """As `np.quantile` of sorted values, a hundred times faster for those of a small square."""
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return float(ordered[low] + (place - low) * (ordered[high] - ordered[low]))


def _trimmed(values: np.ndarray) -> float:
    """Root mean square without the hundredth farthest from 0."""
    count = max(int(0.99 * values.size), 1)
    squares = np.partition(values**2, min(count, values.size - 1))
    return float(np.sqrt(squares[:count].mean()))


def _skew(
    filtered: np.ndarray, used: np.ndarray, width: float, radius: np.ndarray | None
) -> np.ndarray:
    """(H, W) skewness of the response, by quantiles that few spots do not move."""

    def skewness(values: np.ndarray) -> float:
        ordered = np.sort(values)
        low, middle, high = (_quantile(ordered, share) for share in (0.1, 0.5, 0.9))
        # The second terms of Cornish and Fisher's expansion.
        return 4.7 * (low + high - 2 * middle) / max(high - low, 1e-12)

    side = int(np.clip(4 * _SQUARE * width, 24, max(min(filtered.shape) // 4, 24)))
    if radius is None:
        skew = tiled(filtered, used, side, skewness, 0.8)
    else:
        skew = _by_radius(filtered, used, radius, max(4.0, 4 * width), skewness, 1.5)
    return np.clip(skew, 0.0, 4.0)


def _rings(
    values: np.ndarray, used: np.ndarray, radius: np.ndarray, width: float, tail: bool
) -> np.ndarray:
    return np.sqrt(_by_radius(values, used, radius, width, lambda v: _deviation(v, tail) ** 2, 1.0))


def _by_radius(
    values: np.ndarray,
    used: np.ndarray,
    radius: np.ndarray,
    width: float,
    statistic: Callable[[np.ndarray], float],
    smooth: float,
) -> np.ndarray:
    """(H, W) a statistic of the values used in rings, smoothed over them and interpolated."""
    ring = (radius / width).astype(int)
    number = ring[used]
    order = np.argsort(number, kind="stable")
    count = int(ring.max()) + 1
    bounds = np.searchsorted(number[order], np.arange(count + 1))
    sorted_ = values[used][order]
    # Rings with few pixels follow their neighbours.
    filled = [i for i in range(count) if bounds[i + 1] - bounds[i] >= 80]
    if not filled:
        return np.full(values.shape, statistic(values[used]) if used.any() else 0.0)
    curve = [statistic(sorted_[bounds[i] : bounds[i + 1]]) for i in filled]
    curve = np.interp(np.arange(count), filled, curve)
    curve = ndimage.gaussian_filter1d(curve, smooth, mode="nearest")
    return np.interp(radius, (np.arange(count) + 0.5) * width, curve)


def level_anywhere(image: np.ndarray, measured: np.ndarray, side: int) -> np.ndarray:
    """(H, W) the median of squares, for images whose centre is not known."""
    return tiled(image, measured, side, lambda v: _quantile(np.sort(v), 0.5), 0.5)


def _squares(values: np.ndarray, used: np.ndarray, width: float, tail: bool) -> np.ndarray:
    side = int(np.clip(_SQUARE * width, 12, max(min(values.shape) // 4, 12)))
    # Squared, that smoothing does not make it less where it varies.
    return np.sqrt(tiled(values, used, side, lambda v: _deviation(v, tail) ** 2, 0.8))


def tiled(
    values: np.ndarray,
    used: np.ndarray,
    side: int,
    statistic: Callable[[np.ndarray], float],
    smooth: float,
) -> np.ndarray:
    """(H, W) a statistic of the values used in squares, smoothed over them and interpolated.

    Squares that are mostly hidden follow their neighbours.
    """
    tops = [np.linspace(0, n, max(round(n / side), 1) + 1).astype(int) for n in values.shape]
    grid = np.full([len(t) - 1 for t in tops], np.nan)
    for i, j in np.ndindex(*grid.shape):
        part = np.s_[tops[0][i] : tops[0][i + 1], tops[1][j] : tops[1][j + 1]]
        some = values[part][used[part]]
        if some.size > 0.3 * side**2:
            grid[i, j] = statistic(some)
    known = np.isfinite(grid)
    if not known.any():
        return np.full(values.shape, statistic(values[used]) if used.any() else 0.0)
    weight = ndimage.gaussian_filter(known.astype(float), smooth, mode="nearest")
    total = ndimage.gaussian_filter(np.where(known, grid, 0), smooth, mode="nearest")
    nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    grid = np.where(weight > 0.1, total / np.maximum(weight, 0.1), grid[tuple(nearest)])
    rows, columns = (
        _between(n, (t[1:] + t[:-1] - 1) / 2) for n, t in zip(values.shape, tops, strict=True)
    )
    return rows @ grid @ columns.T


def _between(count: int, knots: np.ndarray) -> np.ndarray:
    """(count, K) matrix that interpolates values at K places linearly to 0, 1, ... count - 1."""
    return np.stack([np.interp(np.arange(count), knots, row) for row in np.eye(len(knots))], 1)


def blurred(image: np.ndarray, measured: np.ndarray, width: float) -> np.ndarray:
    """A Gaussian mean of the measured pixels alone."""
    weight = ndimage.gaussian_filter(measured.astype(float), width)
    total = ndimage.gaussian_filter(np.where(measured, image, 0), width)
    return np.where(weight > 1e-3, total / np.maximum(weight, 1e-3), image)


def _gain(level: np.ndarray, variance: np.ndarray) -> float:
    """Variance per unit of the level: its slope, so that an offset of the detector is no matter."""
    order = np.argsort(level)[:: max(1, level.size // 200)]
    x, y = level[order], variance[order]
    if x[-1] <= 0:
        return 0.0
    if x[-1] > 2 * max(np.median(x), 0):
        with np.errstate(invalid="ignore"):  # of its uncertainty, which is not used
            return max(float(stats.theilslopes(y, x).slope), 0.0)
    return float(np.median(y) / x[-1])


def radial(
    values: np.ndarray, measured: np.ndarray, radius: np.ndarray, width: float
) -> np.ndarray:
    """Median of the measured values at like radius, (H, W); rings of `width` pixels."""
    ring = (radius / width).astype(int)
    count = int(ring.max()) + 1
    used, number = values[measured], ring[measured]
    # Rings with few pixels, in the corners or behind a stop, follow their neighbours.
    filled = np.flatnonzero(np.bincount(number, minlength=count) >= 12)
    median = np.interp(np.arange(count), filled, ndimage.median(used, number, filled))
    # Smoothed as logarithms above a floor: a beam's steep flank is not made wider.
    spare = max(np.median(median) - median.min(), 1e-6 * np.ptp(median))
    spare += 1e-9 * np.abs(median).max() + 1e-30
    floor = median.min() - spare
    level = np.exp(ndimage.gaussian_filter1d(np.log(median - floor), 1.0, mode="nearest")) + floor
    return np.interp(radius, (np.arange(count) + 0.5) * width, level)


def spot_width(residual: np.ndarray, outer: np.ndarray) -> float:
    """Standard deviation of a spot, in pixels, from the image's autocorrelation."""
    if min(residual.shape) <= 80:
        return 1.5
    top = np.quantile(residual[outer], 0.9995)
    clipped = np.where(outer, np.clip(residual, 0, top), 0)
    clipped = clipped - clipped.mean()
    auto = fft.irfft2(np.abs(fft.rfft2(clipped)) ** 2, clipped.shape)
    # The noise stands in the origin alone; the peak's value there comes from its neighbours.
    line = (auto[0, :40] + auto[:40, 0]) / 2
    line = line - line.min()
    below = np.flatnonzero(line < line[1] / 2)
    half = float(below[0]) if below.size else 4.0
    # The autocorrelation of a Gaussian is wider by sqrt 2; half width = 1.18 sigma.
    return float(np.clip(half / (1.18 * np.sqrt(2)), 1.0, max(residual.shape) / 60))


def stopped(
    image: np.ndarray,
    measured: np.ndarray,
    level: np.ndarray,
    radius: np.ndarray,
    width: float,
    gain: float | None,
) -> np.ndarray:
    """(H, W) True behind the beam stop, and near its edge: far darker than like radii."""
    residual = ndimage.gaussian_filter(np.where(measured, image - level, 0), width)
    # Of whole rings: the stop takes a small part of each.
    spread = _rings(residual, measured, radius, max(2.0, 1.5 * width), False)
    if gain:  # where hardly an electron came, none is no sign of a stop
        spread = np.maximum(spread, passed(width) * np.sqrt(np.maximum(level, 0) * gain))
    # Where the beam falls off steeply, radii of half a pixel more are darker, too.
    slope = np.hypot(*np.gradient(level))
    floor, top, highest = np.quantile(image[measured], (0.001, 0.999, 1))
    level = level - floor
    dark = residual < -np.maximum(_DARK * spread, _DARKER * level + 2 * slope)
    dark &= level > _DUST * (top - floor) + 1e-7 * (highest - floor)
    # Single dead pixels are no beam stop.
    dark = ndimage.binary_opening(dark, iterations=int(np.ceil(width)))
    # At the radii of its disc hardly anything is bright.
    dark |= radius < disc_radius(level, (spread / passed(width)) ** 2, radius)
    return grown(dark, 4 * width)


def disc_radius(level: np.ndarray, variance: np.ndarray, radius: np.ndarray) -> float:
    """Radius of a round stop about the centre, 0 without one: dark inside, a bright halo outside.

    Args:
        level: (H, W) the radial level above the detector's own.
        variance: (H, W) of the noise.
        radius: (H, W) pixels.
    """
    r, (profile, spread) = _inner_profiles(radius, level, np.sqrt(variance))
    peak = int(profile.argmax())
    inside = profile[: peak + 1].min()
    if inside > _DARKER * profile[peak] or profile[peak] - inside <= 3 * spread[peak]:
        return 0.0
    return float(r[np.flatnonzero(profile[: peak + 1] < (inside + profile[peak]) / 2)[-1]])


def beam_radius(level: np.ndarray, radius: np.ndarray) -> float:
    """Radius within which the central beam hides spots, from the radial level (H, W).

    A halo falls with the second power of the radius or slower, the flank of a beam much faster.
    """
    r, (profile,) = _inner_profiles(radius, level)
    floor = 1e-9 * np.ptp(level) + 1e-30
    fall = -np.gradient(np.log(np.maximum(profile, floor)), np.log(r))
    steep = np.flatnonzero((fall > _STEEP) & (profile > np.median(level)))
    return float(r[steep[-1]] + 2) if steep.size else 0.0


def _inner_profiles(radius: np.ndarray, *images: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Radii in steps of a pixel to an eighth of the image, and what radial images are there."""
    order = np.argsort(radius, axis=None)[::7]
    r = np.arange(1.0, min(radius.shape) / 8 + 2)
    return r, [np.interp(r, radius.flat[order], image.flat[order]) for image in images]
