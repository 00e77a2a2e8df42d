"""What lies under the spots of a diffraction image: halo, noise, beam, beam stop, dead pixels."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import fft, ndimage, stats

# Peaks are measured against their surroundings, a Gaussian so many times as wide.
WIDER = 2.5
# Below so many counts under a Gaussian the median of Poisson noise is no measure of its mean.
_COUNTS = 10.0
# Pixels at the image's maximum that touch each other: fewer are chance. Fewer grey levels than
# this are a picture of few counts, not a saturated one.
_PLATEAU, _GREYS = 6, 60
# A stop is darker than its surroundings by so many standard deviations, and by this share.
_DARK, _DARKER = 20.0, 0.4
# The power of the radius with which a beam's flank falls at least.
_STEEP = 3.5


@dataclasses.dataclass(frozen=True)
class Background:
    """What is left of an image without its spots.

    Attributes:
        level: (H, W) smooth, by radius.
        variance: (H, W) of a pixel's noise, by radius.
        gain: variance per unit of the image, 1 for counts; 0 where it cannot be told.
    """

    level: np.ndarray
    variance: np.ndarray
    gain: float


def mad(values: np.ndarray) -> float:
    """Standard deviation by the median absolute deviation."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def unmeasured(image: np.ndarray) -> np.ndarray:
    """(H, W) True where a pixel is no number, or is negative in an image of whole numbers.

    Detectors mark their gaps and dead pixels with -1 or -2; in images of fractions negative
    values are noise about a background that was subtracted.
    """
    bad = ~np.isfinite(image)
    good = image[~bad]
    if good.size and (good == np.rint(good)).all():
        bad |= np.where(bad, 0, image) < 0
    return bad


def saturated(image: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """(H, W) True in plateaus at the image's maximum."""
    top = image[measured].max()
    at_top, count = ndimage.label((image == top) & measured)
    if not count or len(np.unique(image[measured])) < _GREYS:
        return np.zeros(image.shape, bool)
    sizes = np.bincount(at_top.ravel())
    sizes[0] = 0
    return (sizes >= _PLATEAU)[at_top]


def estimate(
    image: np.ndarray, measured: np.ndarray, radius: np.ndarray, gain: float | None
) -> Background:
    """Background and noise at like radius.

    Args:
        image: (H, W), finite everywhere.
        measured: (H, W) pixels to be used.
        radius: (H, W) distance from the centre, pixels.
        gain: of an image of counts; None finds it where the halo's noise grows with the halo.
    """
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]]) / 6.0
    # Second differences: whatever is wider than a pixel or two, spots or halo, cancels. Noise
    # that is smeared over several pixels (JPEG, resampled images) is underestimated.
    rough = np.abs(ndimage.convolve(image, kernel, mode="nearest"))
    # Few counts: whole numbers have no median in between, the mean over some pixels has.
    mean = float(np.clip(image[measured], None, np.quantile(image[measured], 0.99)).mean())
    smooth = image
    if gain and 0 < mean < _COUNTS * gain:
        width = min(np.sqrt(_COUNTS * gain / (4 * np.pi * mean)), max(image.shape) / 40)
        smooth = blurred(image, measured, width)
    level = radial(smooth, measured, radius, 2.0)
    variance = (1.4826 * radial(rough, measured, radius, 4.0)) ** 2
    if gain:
        variance = np.maximum(variance, gain * np.maximum(level, 0))
        return Background(level, variance, gain)
    return Background(level, variance, _gain(level[measured], variance[measured]))


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


def passed(width: float) -> float:
    """Share of white noise that a Gaussian of `width` less one `WIDER` leaves."""
    wide = WIDER * width
    return np.sqrt(1 / width**2 + 1 / wide**2 - 4 / (width**2 + wide**2)) / (2 * np.sqrt(np.pi))


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
    image: np.ndarray, measured: np.ndarray, under: Background, radius: np.ndarray, width: float
) -> np.ndarray:
    """(H, W) True behind the beam stop, and near its edge: far darker than like radii."""
    level = under.level - np.quantile(image[measured], 0.001)
    residual = ndimage.gaussian_filter(np.where(measured, image - under.level, 0), width)
    noise = np.sqrt(under.variance) * passed(width)
    # Where the beam falls off steeply, radii of half a pixel more are darker, too.
    slope = np.hypot(*np.gradient(under.level))
    dark = residual < -np.maximum(_DARK * noise, _DARKER * level + 2 * slope)
    dark &= level > 0
    # Single dead pixels are no beam stop.
    dark = ndimage.binary_opening(dark, iterations=int(np.ceil(width)))
    # At the radii of its disc hardly anything is bright.
    dark |= radius < disc_radius(level, under.variance, radius)
    return ndimage.binary_dilation(dark, iterations=int(np.ceil(4 * width)))


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
    if inside > _DARKER * profile[peak] or profile[peak] - inside < 3 * spread[peak]:
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
