"""From a diffraction image to spots: centre, background, peaks, integrated intensities.

Coordinates are pixels (column, row) with the middle of the first pixel at (0, 0).
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.feature import peak_local_max
from skimage.measure import block_reduce

from dd2d_jax.images import background
from dd2d_jax.images.background import Background
from dd2d_jax.images.centre import symmetry_centre
from dd2d_jax.util.errors import PatternError

# Larger images are averaged down to this many pixels along the longer side.
_SIDE = 1024
# A spot stands so many standard deviations of the noise above its surroundings.
THRESHOLD = 7.0
# Of the Poisson likelihood so many are enough: it knows the tail of few counts, and nothing else
# than counting disturbs where they are few.
_POISSON = 5.0
# Where the noise is small, the halo's own unevenness, relative to it, takes its place.
_CONTRAST = 0.005
# The same for what is not radial, relative to the local mean above the radial background.
_UNEVEN = 0.05
# More local maxima than this are texture; the strongest are kept.
_MOST = 1000
# Any three spots lie on some lattice.
_FEWEST = 4
# Of the strongest spots so many have one opposite of them in any diffraction pattern.
_PAIRED = 0.4


@dataclasses.dataclass(frozen=True)
class SpotList:
    """Spots of an image, and how they were found.

    Attributes:
        position: (K, 2) column and row, pixels.
        intensity: (K,) counts above the local background, summed over the spot.
        sigma: (K,) standard uncertainty of the intensity from counting and background; as large as
            the intensity where the spot is saturated.
        centre: (2,) column and row of the central beam, pixels.
        width: standard deviation of a spot, pixels.
        saturated: (K,) True where the intensity is a lower bound.
        rejected: (R, 2) column and row of maxima that are no spots that can be measured: at the
            beam, the beam stop, the image's edge or a gap.
        measured: (H, W) False behind the beam stop and in gaps.
        level: (H, W) background.
    """

    position: np.ndarray
    intensity: np.ndarray
    sigma: np.ndarray
    centre: np.ndarray
    width: float
    saturated: np.ndarray
    rejected: np.ndarray
    measured: np.ndarray
    level: np.ndarray


def find_spots(
    image: np.ndarray,
    centre: tuple[float, float] | None = None,
    mask: np.ndarray | None = None,
    width: float | None = None,
    threshold: float = THRESHOLD,
    max_radius: float | None = None,
    beam_stop: bool = True,
) -> SpotList:
    """The spots of a diffraction image; whether they lie on a lattice is not asked here.

    Args:
        image: (H, W) counts; pixels that are not finite count as not measured, and so do
            negative ones in an image of whole numbers.
        centre: column and row of the central beam in pixels; None finds it by the pattern's
            symmetry under inversion.
        mask: (H, W) False where a pixel is not to be used.
        width: standard deviation of a spot, pixels; None finds it by the image's autocorrelation.
        threshold: how many standard deviations of the noise a spot stands above it.
        max_radius: spots farther from the centre are left out, pixels.
        beam_stop: whether areas far darker than others at like radius count as not measured.

    Raises:
        PatternError: too small, nothing but one value, mostly not measured or saturated, centre or
            mask that do not fit the image, fewer than four spots above the noise, or spots
            without symmetry.
    """
    image = np.asarray(image, float)
    if image.ndim != 2 or min(image.shape) < 16:
        raise PatternError(f"an image of shape {image.shape}; at least 16 x 16 pixels are needed")
    if mask is not None and np.shape(mask) != image.shape:
        raise PatternError(f"a mask of shape {np.shape(mask)} for an image of {image.shape}")
    measured = ~background.unmeasured(image)
    if measured.mean() < 0.5:
        raise PatternError("more than half of the image's pixels are not finite numbers")
    if mask is not None:
        measured &= np.asarray(mask, bool)
    if not measured.any():
        raise PatternError("the mask leaves no pixel of the image")
    image = np.where(measured, image, np.median(image[measured]))
    if np.ptp(image[measured]) == 0:
        raise PatternError(f"the image has no spots: every pixel is {image[measured][0]:g}")
    full = background.saturated(image, measured)
    if full.mean() > 0.25:
        raise PatternError(
            f"the image is saturated: {full.mean():.0%} of its pixels are {image.max():g}"
        )
    factor = -(-max(image.shape) // _SIDE)
    small, share = (
        block_reduce(x, factor, np.mean, cval=0.0) for x in (image * measured, measured * 1.0)
    )
    good = share > 0.5
    small = np.where(good, small / np.maximum(share, 1e-9), np.median(image[measured]))
    full = block_reduce(full, factor, np.max)
    offset = (factor - 1) / 2
    # Where counts are few, whole numbers are taken for counts; elsewhere the noise says what is.
    few = (image == np.rint(image)).all() and np.median(image[measured]) < 5
    if centre is None:
        middle = symmetry_centre(small)
    else:
        middle = (np.asarray(centre, float) - offset) / factor
        if not ((middle >= 0) & (middle <= np.array(small.shape[::-1]) - 1)).all():
            raise PatternError(f"the centre {tuple(centre)} lies outside of the image")
    found = _spots(
        small,
        good,
        full,
        middle,
        1 / factor**2 if few else None,
        None if width is None else width / factor,
        threshold,
        np.inf if max_radius is None else max_radius / factor,
        beam_stop,
    )
    if not len(found.position):
        raise PatternError("no spot in the image stands above the noise")
    if len(found.position) < _FEWEST:
        raise PatternError(
            f"too few spots in the image to be a lattice's: {len(found.position)} stand above the "
            f"noise, at least {_FEWEST} are needed"
        )
    try:
        _check_symmetry(found)
    except PatternError as error:
        error.step, error.seen = "symmetry", _full_size(found, factor, image.shape)
        raise
    return _full_size(found, factor, image.shape)


def _full_size(found: SpotList, factor: int, shape: tuple[int, ...]) -> SpotList:
    """Spots of an image (H, W) that was averaged down by `factor`."""
    if factor == 1:
        return found
    offset = (factor - 1) / 2
    return dataclasses.replace(
        found,
        position=found.position * factor + offset,
        intensity=found.intensity * factor**2,
        sigma=found.sigma * factor**2,
        centre=found.centre * factor + offset,
        width=found.width * factor,
        rejected=found.rejected * factor + offset,
        measured=_enlarged(found.measured, factor, shape),
        level=_enlarged(found.level, factor, shape),
    )


def _enlarged(values: np.ndarray, factor: int, shape: tuple[int, ...]) -> np.ndarray:
    return values.repeat(factor, 0).repeat(factor, 1)[: shape[0], : shape[1]]


def _spots(
    image: np.ndarray,
    measured: np.ndarray,
    full: np.ndarray,
    centre: np.ndarray,
    gain: float | None,
    width: float | None,
    threshold: float,
    max_radius: float,
    beam_stop: bool,
) -> SpotList:
    rows, columns = np.indices(image.shape)
    radius = np.hypot(columns - centre[0], rows - centre[1])
    under = background.estimate(image, measured, radius, gain)
    beam = background.beam_radius(under.level, radius)
    if width is None:
        residual = np.where(measured, image - under.level, 0.0)
        width = background.spot_width(residual, radius > beam)
    if beam_stop:
        hidden = background.stopped(image, measured, under, radius, width)
        if hidden.any():
            measured = measured & ~hidden
            under = background.estimate(image, measured, radius, gain)
    residual = np.where(measured, image - under.level, 0.0)
    found = peak_local_max(
        np.where(measured, _significance(residual, under, width), 0.0),
        min_distance=max(2, round(2 * width)),
        threshold_abs=threshold / THRESHOLD,
        exclude_border=max(2, round(1.5 * width)),
        num_peaks=_MOST,
    )
    found = found[radius[tuple(found.T)] <= max_radius]
    clear = radius[tuple(found.T)] > max(beam, 4 * width)
    table = np.array(
        [_integrate(residual, measured, under, row, column, width) for row, column in found]
    ).reshape(-1, 5)
    clear &= (table[:, 2] > 0) & (table[:, 4] > 0.95)
    spots, rejected = table[clear], table[~clear]
    place = tuple(np.clip(np.rint(spots[:, [1, 0]]).T.astype(int), 0, None))
    place = tuple(np.minimum(p, n - 1) for p, n in zip(place, image.shape, strict=True))
    over = ndimage.binary_dilation(full, iterations=int(np.ceil(width)))[place]
    return SpotList(
        position=spots[:, :2],
        intensity=spots[:, 2],
        sigma=np.where(over, spots[:, 2], spots[:, 3]),
        centre=centre,
        width=width,
        saturated=over,
        rejected=rejected[:, :2],
        measured=measured,
        level=under.level,
    )


def _significance(residual: np.ndarray, under: Background, width: float) -> np.ndarray:
    """(H, W) how far a spot at a pixel stands above the noise; 1 is as far as it has to."""
    # Where the halo is steep, what half a pixel's shift explains is no spot.
    slope = np.hypot(*np.gradient(under.level))
    sure = np.sign(residual) * np.maximum(np.abs(residual) - 0.5 * slope, 0)
    # Matched to the spot, blind to what is much wider.
    around = ndimage.gaussian_filter(sure, background.WIDER * width)
    narrow = ndimage.gaussian_filter(sure, width)
    above = np.maximum(under.level - np.quantile(under.level, 0.05), 0)
    error = np.sqrt(under.variance) * background.passed(width)
    error = error + _CONTRAST * above + _UNEVEN * np.abs(around)
    out = (narrow - around) / (error + 1e-9 * np.ptp(residual) + 1e-30) / THRESHOLD
    if under.gain > 0:
        # Counts under the matched filter, and those that the background's variance stands for.
        area = 4 * np.pi * width**2
        expected = under.variance * area / under.gain**2 + 1e-3
        counts = expected + np.maximum(narrow * area / under.gain, 0)
        likelihood = counts * np.log(counts / expected) - (counts - expected)
        out = np.minimum(out, np.sqrt(2 * np.maximum(likelihood, 0)) / _POISSON)
    return out


def _integrate(
    residual: np.ndarray,
    measured: np.ndarray,
    under: Background,
    row: int,
    column: int,
    width: float,
) -> tuple[float, float, float, float, float]:
    """Column, row, summed counts, their uncertainty and the measured share of a spot."""
    reach = int(np.ceil(4 * width)) + 1
    top, left = max(row - reach, 0), max(column - reach, 0)
    part = np.s_[top : row + reach + 1, left : column + reach + 1]
    window, seen = residual[part], measured[part]
    rows, columns = np.indices(window.shape)
    y, x = float(row - top), float(column - left)
    for _ in range(3):
        distance = np.hypot(rows - y, columns - x)
        ring = (distance > 3 * width) & (distance <= 4 * width + 1) & seen
        above = window - (np.median(window[ring]) if ring.any() else 0.0)
        weight = np.where((distance <= 2 * width + 0.5) & seen, np.maximum(above, 0), 0)
        if weight.sum() <= 0:
            break
        y, x = (weight * rows).sum() / weight.sum(), (weight * columns).sum() / weight.sum()
    disc = np.hypot(rows - y, columns - x) <= 2.5 * width + 0.5
    total = float(above[disc & seen].sum())
    # Counting noise of disc and spot, and that of the ring's median, pi / 2 times a mean's.
    pixel, size = float(under.variance[row, column]), int((disc & seen).sum())
    variance = size * pixel + size**2 * np.pi / 2 * pixel / max(int(ring.sum()), 1)
    variance += under.gain * max(total, 0)
    share = size / (np.pi * (2.5 * width + 0.5) ** 2) if disc.sum() > size else 1.0
    return left + x, top + y, total, float(np.sqrt(variance)), min(share, 1.0)


def _check_symmetry(found: SpotList) -> None:
    """Raises PatternError where hardly any strong spot has one opposite of it."""
    strong = np.argsort(-found.intensity)[:60]
    opposite = 2 * found.centre - found.position[strong]
    place = np.rint(opposite[:, ::-1]).astype(int)
    inside = ((place >= 4) & (place < np.array(found.measured.shape) - 4)).all(1)
    inside[inside] &= found.measured[tuple(place[inside].T)]
    if inside.sum() < 3:
        return
    # Distortions of the camera grow with the distance from the centre.
    distance, _ = cKDTree(found.position).query(opposite[inside])
    away = np.linalg.norm(opposite[inside] - found.centre, axis=1)
    near = np.maximum(2 * found.width, 0.03 * away)
    spread = len(found.position) / np.prod([float(n) for n in found.measured.shape])
    chance = 1 - np.exp(-np.pi * near**2 * spread)
    # Above what as many spots anywhere would give.
    share = ((distance < near).mean() - chance.mean()) / max(1 - chance.mean(), 0.05)
    if share < _PAIRED:
        raise PatternError(
            f"this is no diffraction pattern of a lattice: of the {inside.sum()} strongest spots "
            f"in it only {(distance < near).mean():.0%} have one opposite of them"
        )
