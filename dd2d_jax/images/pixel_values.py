"""What the numbers of an image are: gaps, negatives, saturated and single bright pixels."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.measure import regionprops

# So many equal negative whole numbers in a row or column are a detector's mark, not noise.
_RUN = 16
# Rarer ones are marks, too, where they are of one or two values.
_RARE = 0.01
# What more pixels have is no mark but the floor of an image whose background was subtracted.
_FLOOR = 0.5
# An area of one value that is larger than this share of the image is its background.
_BLANK = 0.4
# Pixels at the image's maximum that touch each other: fewer are chance. Fewer grey levels than
# this are a picture of few counts, not a saturated one.
_PLATEAU, _GREYS = 6, 60
# Where there is a plateau, this share of its height is one.
_NEARLY = 0.97
# Shares of the pixels that are darker than the darkest, the middle and the brightest level.
_EXTREMES = (0.001, 0.5, 0.999)
# The middle of a negative is so much farther from its darkest pixels than from its brightest, and
# so much more of what is narrow is darker than its surroundings; less so where the middle is all
# but at the brightest, as dark halos leave bright rings about spots and stop.
_DARK = ((2.0, 10.0), (10.0, 2.0))
# Of counts the variance over the mean lies between these, in squares of so many pixels along a
# side; fewer squares that hold any say nothing.
_POISSON, _SQUARE, _SQUARES = (0.8, 1.25), 8, 16
# The brightest pixel of an export.
_WHITE = 255
# Letters have at least so many pixels brighter than this share of the brightest, and are less than
# this share as bright three pixels farther. Spots fill this share of their convex hull, and are not
# longer than wide by this factor. Lossy files leave traces in blocks of 8 pixels around letters.
_LETTER, _STROKE, _SHARP, _ROUND, _HALO = 8, 0.5, 0.3, (0.8, 2.5), 8
# A bright pixel is alone when its neighbours have less than this share of what a spot would give
# them, and differ from that by so many standard deviations.
_ALONE, _SURE = 0.4, 5.0


def whole(values: np.ndarray) -> bool:
    """Whether all values are whole numbers."""
    return bool((values == np.rint(values)).all())


def unmeasured(image: np.ndarray) -> np.ndarray:
    """(H, W) True where a pixel is no number, or has a negative number that marks gaps.

    Detectors mark gaps and dead pixels with -1 or -2: such numbers come in lines, or are rare.
    Other negative values, whole ones too, are noise about a background that was subtracted, and
    one that most pixels have is its floor. An area of one value, neither the lowest nor the
    highest, was masked by whoever wrote the file; so is a white frame.
    """
    bad = ~np.isfinite(image)
    good = image[~bad]
    if not good.size:
        return bad
    filled = np.where(bad, 0, image)
    if (good < 0).any() and whole(good):
        below = np.unique(good[good < 0])
        rare = len(below) <= 2 and (good < 0).mean() < _RARE
        for value in below if len(below) <= 64 else below[:: len(below) - 1]:
            marked = filled == value
            if rare or _runs(marked) and marked.mean() < _FLOOR:
                bad |= marked
    return bad | _blank(filled, good) | _frame(filled == good.max())


def _frame(white: np.ndarray) -> np.ndarray:
    """(H, W) True in rows and columns at the edges that are white throughout."""
    out = np.zeros(white.shape, bool)
    for view, lines in ((out, white.all(1)), (out.T, white.all(0))):
        # Both ends: until the first line that is not.
        view[np.logical_and.accumulate(lines)] = True
        view[np.logical_and.accumulate(lines[::-1])[::-1]] = True
    # What is larger is the background of a negative.
    return out & (out.mean() < _BLANK)


def _runs(marked: np.ndarray) -> bool:
    """Whether pixels form a line of `_RUN` along a row or column."""
    if marked.sum() < _RUN:
        return False
    return any(
        ndimage.minimum_filter1d(marked, _RUN, axis=axis, mode="constant").any() for axis in (0, 1)
    )


def _blank(image: np.ndarray, good: np.ndarray) -> np.ndarray:
    """(H, W) True in areas of one value between the lowest and the highest."""
    side = max(9, min(image.shape) // 20)
    flat = ndimage.maximum_filter(image, side) == ndimage.minimum_filter(image, side)
    flat &= (image > good.min()) & (image < good.max())
    if not flat.any():
        return flat
    values, counts = np.unique(image[flat], return_counts=True)
    value = values[counts.argmax()]
    if value <= np.quantile(good, 0.3) and whole(good):
        return np.zeros(image.shape, bool)  # few counts: dark areas without any
    flat = ndimage.binary_propagation(flat & (image == value), mask=image == value)
    return flat & (flat.mean() < _BLANK)


def counted(image: np.ndarray, measured: np.ndarray) -> bool:
    """Whether an image (H, W) holds single electrons: whole numbers that scatter as counts do.

    Where hardly any square has one, so do zeros and ones of any power: then an export, whose
    brightest pixel is white, is told by that.
    """
    if not whole(image) or image.min() < 0 or image.max() == _WHITE:
        return False
    rows, columns = (n - n % _SQUARE for n in image.shape)
    image, measured = (
        x[:rows, :columns].reshape(rows // _SQUARE, _SQUARE, -1, _SQUARE).swapaxes(1, 2)
        for x in (image, measured)
    )
    squares = image[measured.all((2, 3))]
    # Of neighbours' differences: a halo's slope is no noise.
    mean, variance = squares.mean((1, 2)), (np.diff(squares, axis=2) ** 2).mean((1, 2)) / 2
    some = mean > 0
    if some.sum() < _SQUARES:
        return False
    ratio = (variance[some] / mean[some])[np.argsort(mean[some])]
    # The darkest and brighter ones, without those of spots: a power of counts has it at one
    # brightness at most.
    each = [np.median(part) for part in np.array_split(ratio[: -len(ratio) // 4], 2)]
    return _POISSON[0] < min(each) and max(each) < _POISSON[1]


def light(image: np.ndarray) -> bool:
    """Whether the middle of an image is nearer to its brightest pixels than to its darkest."""
    values = image[np.isfinite(image)]
    if not values.size:
        return False
    low, middle, high = np.quantile(values, _EXTREMES)
    return bool(middle - low > high - middle)


def negative(image: np.ndarray, measured: np.ndarray, width: float = 2.0) -> bool:
    """Whether the spots are darker than their surroundings, as on film or in a negative."""
    values = image[measured]
    low, middle, high = np.quantile(values, _EXTREMES)
    limits = [darker for far, darker in _DARK if middle - low > far * (high - middle)]
    if not limits:
        return False
    filled = np.where(measured, image, middle)
    response = ndimage.gaussian_filter(filled, width) - ndimage.gaussian_filter(filled, 3 * width)
    response = response[measured]
    spread = 1.4826 * np.median(np.abs(response - np.median(response))) + 1e-9 * (high - low)
    # Cubes: the rings that the filter leaves around spots have the other sign, and are weak.
    below, above = (np.abs(response[sign * response > 8 * spread] ** 3).sum() for sign in (-1, 1))
    return bool(below > min(limits) * above)


def saturated(image: np.ndarray, measured: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """(H, W) True in plateaus at the image's maximum.

    Where there is one, others that are nearly as high count, too: a lossy or resampled file has no
    longer one value on all of them.

    Args:
        image: (H, W), finite everywhere.
        measured: (H, W) pixels to be used.
        levels: (L,) their values, sorted, each once.
    """
    top = levels[-1]
    if len(levels) < _GREYS or not _plateaus((image == top) & measured).any():
        return np.zeros(image.shape, bool)
    return _plateaus((image > _NEARLY * top) & measured)


def writing(image: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """(H, W) True in letters, lines and scale bars: bright, with sharp edges, and no blobs.

    Args:
        image: (H, W), finite everywhere.
        measured: (H, W) pixels to be used.
    """
    level = np.where(measured, image - np.median(image[measured]), 0.0)
    which, _ = ndimage.label(level > _STROKE * level.max(), np.ones((3, 3)))
    out = np.zeros(image.shape, bool)
    for area in regionprops(which, level):
        if area.area < _LETTER:
            continue
        long, short = area.axis_major_length, area.axis_minor_length
        if area.solidity > _ROUND[0] and long < _ROUND[1] * max(short, 1.0):
            continue
        place = tuple(slice(max(x.start - 4, 0), x.stop + 4) for x in area.slice)
        own = which[place] == area.label
        blurred = ndimage.binary_dilation(which[place] > 0, iterations=2)
        around = ndimage.binary_dilation(own, iterations=4) & ~blurred
        # What is smooth is a halo.
        if around.any() and np.median(level[place][around]) < _SHARP * area.intensity_mean:
            out[area.slice] |= area.image
    return ndimage.binary_dilation(out, iterations=_HALO)


def _plateaus(marked: np.ndarray) -> np.ndarray:
    """(H, W) True where enough marked pixels touch each other."""
    which, _ = ndimage.label(marked)
    sizes = np.bincount(which.ravel())
    sizes[0] = 0
    return (sizes >= _PLATEAU)[which]


def between(values: np.ndarray, place: np.ndarray) -> np.ndarray:
    """(...,) between pixels, at column and row (..., 2)."""
    at = [place[..., 1], place[..., 0]]
    return ndimage.map_coordinates(values, at, order=1, mode="nearest")


def within(shape: tuple[int, ...], places: np.ndarray, radius: float) -> np.ndarray:
    """(H, W) True for pixels within `radius` of any of the columns and rows (K, 2)."""
    away = np.ones(shape, bool)
    if not len(places):
        return ~away
    rows = np.rint(places)[:, ::-1].astype(int)
    away[tuple(np.clip(rows, 0, np.array(shape) - 1).T)] = False
    return ndimage.distance_transform_edt(away) <= radius


def single(image: np.ndarray, measured: np.ndarray, width: float) -> np.ndarray:
    """(H, W) True for hot pixels: bright ones whose neighbours do not share the light of a spot.

    Args:
        image: (H, W), finite everywhere.
        measured: (H, W) pixels to be used.
        width: standard deviation of a spot, pixels.
    """
    filled = np.where(measured, image, 0.0)
    nine, all_ = (n**2 * ndimage.uniform_filter(filled, n, mode="nearest") for n in (3, 5))
    mates, ring = (nine - filled) / 8, (all_ - nine) / 16
    excess, mates = image - ring, mates - ring
    spread = _local(excess, measured)
    few = np.unique(np.quantile(image[measured], np.linspace(0, 1, 512)))
    spread = np.maximum(spread, np.median(np.diff(few)) if len(few) > 1 else 0.0)
    # What a Gaussian has in the pixel's neighbours and the ring around them.
    profile = np.exp(-0.5 * (np.arange(-2, 3) / width) ** 2)
    square = np.outer(profile, profile)
    inner = square[1:4, 1:4].sum()
    outside = (square.sum() - inner) / 16
    share = ((inner - 1) / 8 - outside) / (1 - outside)
    # The noise of counting grows with the light, at least as that of the surroundings.
    level = np.maximum(ring - np.quantile(image[measured], 0.01), 0) + spread
    expected = share * excess
    light = spread**2 / level * np.maximum(expected, 0)
    error = np.sqrt(spread**2 * (share**2 + 1 / 8) + light / 8)
    alone = (excess > 6 * spread) & (mates < _ALONE * expected)
    return alone & (expected - mates > _SURE * error) & measured


def _local(excess: np.ndarray, measured: np.ndarray, side: int = 16) -> np.ndarray:
    """The scatter of single pixels in squares of the image, (H, W), the largest of neighbours'.

    By the median, and by the brightest fiftieth: few counts are single bright pixels, too.
    """
    padded = np.where(measured, excess, -np.inf)
    grow = [(0, -n % side) for n in excess.shape]
    padded = np.pad(padded, grow, constant_values=-np.inf)
    rows, columns = (n // side for n in padded.shape)
    tiles = padded.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(rows, columns, -1)
    tiles = np.sort(tiles, -1)
    deviation = np.sort(np.abs(tiles), -1)[..., side**2 // 2]
    spread = np.maximum(1.4826 * deviation, tiles[..., -side**2 // 50] / 2.05)
    spread = ndimage.maximum_filter(np.where(np.isfinite(spread), spread, 0.0), 3)
    return spread.repeat(side, 0).repeat(side, 1)[: excess.shape[0], : excess.shape[1]]
