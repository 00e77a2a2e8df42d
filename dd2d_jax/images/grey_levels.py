"""An image made ready for the search: what of it is measured, negatives turned, counts restored."""

from __future__ import annotations

import dataclasses

import numpy as np
from skimage.measure import block_reduce

from dd2d_jax.images import pixel_values
from dd2d_jax.images.background import Background
from dd2d_jax.images.response import Tone
from dd2d_jax.util.errors import PatternError

# Larger images are averaged down to this many pixels along the longer side.
_SIDE = 1024
# Whole numbers are taken for counts where they are fewer than this.
_FEW = 5
# An export for the screen has so few grey levels, also the mean of three colours.
_LEVELS = 3 * 256
# The power of counts that the grey levels of an export are is known as well as that.
_POWER_ERROR = 0.2
# What the user should know of that.
MAY_BE_POWER = (
    "the image has few grey levels, like an export for the screen: they may be a power of the "
    "counts, which is allowed for (--gamma 1 if they are counts); raw counts are better"
)
# A mask leaves at least so many pixels.
_LEAST_PIXELS = 256


@dataclasses.dataclass(frozen=True)
class Pixels:
    """An image made ready, averaged down by `factor`.

    Attributes:
        image: (H, W), finite everywhere, spots bright.
        measured: (H, W) pixels to be used.
        full: (H, W) saturated ones.
        gain: of few counts, else None.
        step: from one grey level of the image to the next where they are few and even, else None.
        power_error: of the intensities, as in `dx.Pattern`.
        factor: pixels that were averaged in either direction, a half where they were halved.
        shape: of the image as it was.
        negative: whether it was turned over.
        notes: what the user should know.
        under: background and noise, where they are known; else None.
        narrow: (H, W) True for spots of a single pixel, which are no hot ones.
    """

    image: np.ndarray
    measured: np.ndarray
    full: np.ndarray
    gain: float | None
    step: float | None
    power_error: float | None
    factor: float
    shape: tuple[int, ...]
    negative: bool
    notes: list[str]
    under: Background | None = None
    narrow: np.ndarray | np.bool_ = np.False_


def prepared(
    image: np.ndarray,
    mask: np.ndarray | None,
    negative: bool | None = None,
    gamma: float | None = None,
) -> Pixels:
    """Check an image, tell what of it is measured, turn negatives over, average it down.

    `gamma`: the power of counts that its grey levels are, if it is told; then it is undone.
    """
    image = np.asarray(image, float)
    if image.ndim != 2 or min(image.shape) < 16:
        raise PatternError(f"an image of shape {image.shape}; at least 16 x 16 pixels are needed")
    if mask is not None and np.shape(mask) != image.shape:
        raise PatternError(f"a mask of shape {np.shape(mask)} for an image of {image.shape}")
    measured = ~pixel_values.unmeasured(image)
    # Around a picture may be anything, as in a figure.
    inside = measured[np.ix_(measured.any(1), measured.any(0))]
    if not inside.size or inside.mean() < 0.5:
        raise PatternError("more than half of the image's pixels are not finite numbers")
    if mask is not None:
        measured &= np.asarray(mask, bool)
    if not measured.any():
        raise PatternError("the mask leaves no pixel of the image")
    if measured.sum() < _LEAST_PIXELS:
        raise PatternError(
            f"the mask leaves {measured.sum()} pixels of the image; it must be True (white) where "
            "the image is used: is it inverted?"
        )
    image = np.where(measured, image, np.median(image[measured]))
    if np.ptp(image[measured]) == 0:
        raise PatternError(f"the image has no spots: every pixel is {image[measured][0]:g}")
    factor = -(-max(image.shape) // _SIDE)
    small, good = averaged_down(image, measured, factor)
    notes = []
    if negative is None:
        negative = pixel_values.negative(small, good)
    if negative:
        image = np.where(measured, image[measured].max() - image, 0.0)
        small, good = averaged_down(image, measured, factor)
        notes.append("the image is a negative, its spots are dark: it was inverted")
    levels = np.unique(image[measured])
    step = float(np.median(np.diff(levels)))
    if len(levels) > _LEVELS or np.ptp(levels) > _LEVELS * step:
        step = None
    exported = step is not None and not pixel_values.counted(image, measured)
    if exported:
        written = pixel_values.writing(image, measured)
        if written.any():
            measured = measured & ~written
            small, good = averaged_down(image, measured, factor)
            notes.append("white letters or lines on the image were left out")
    full = pixel_values.saturated(image, measured, levels)
    if full.mean() > 0.25:
        raise PatternError(
            f"the image is saturated: {full.mean():.0%} of its pixels are {image.max():g}"
        )
    # Where counts are few, whole numbers are taken for counts; elsewhere the noise says what is.
    few = pixel_values.whole(image) and np.median(image[measured]) < _FEW and image.min() >= 0
    full = block_reduce(full, factor, np.max)
    gain = 1 / factor**2 if few else None
    # Film darkens by no fixed power, whatever it was scanned with.
    power = _POWER_ERROR if negative or exported else None
    made = Pixels(small, good, full, gain, step, power, factor, image.shape, negative, notes)
    if gamma is None:
        return made
    return dataclasses.replace(straightened(made, Tone(gamma)), step=None, power_error=None)


def straightened(pixels: Pixels, tone: Tone) -> Pixels:
    """With grey levels that are proportional to counts again."""
    if tone.linear:
        return pixels
    least = pixels.image.min()
    if least < 0:
        raise PatternError(
            f"a gamma is a power of counts, and the image has {least:g}; give none for an image "
            "whose background was subtracted"
        )
    return dataclasses.replace(pixels, image=tone.counts(pixels.image), gain=None)


def averaged_down(
    image: np.ndarray, measured: np.ndarray, factor: int
) -> tuple[np.ndarray, np.ndarray]:
    """Means (h, w) of the measured pixels, and where most were measured."""
    if factor == 1:
        return image, measured
    small, share = (
        block_reduce(x, factor, np.mean, cval=0.0) for x in (image * measured, measured * 1.0)
    )
    good = share > 0.5
    return np.where(good, small / np.maximum(share, 1e-9), np.median(image[measured])), good
