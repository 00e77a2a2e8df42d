"""From a diffraction image to spots: centre, background, peaks, integrated intensities.

Coordinates are pixels (column, row) with the middle of the first pixel at (0, 0).
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.measure import block_reduce

from dd2d_jax.images import background, discs, peaks, pixel_values, response
from dd2d_jax.images.background import Background
from dd2d_jax.images.centre import Centre, find_centre
from dd2d_jax.images.grey_levels import MAY_BE_POWER, Pixels, prepared, straightened
from dd2d_jax.images.peaks import Peaks
from dd2d_jax.util.errors import PatternError

# A spot stands so many standard deviations of the filtered noise above its surroundings: of pure
# noise, 512 x 512 pixels have about three such maxima in a thousand images.
THRESHOLD = 5.5
# The filter that the spots' own width is found with, pixels.
_FIRST_WIDTH = 1.5
# The power of counts that grey levels are is known as well as that where spots' shape tells it.
_TOLD = 0.1
# Any three spots lie on some lattice.
_FEWEST = 4
# Of the strongest spots so many have one opposite of them in any diffraction pattern.
_PAIRED = 0.4
# Where they have not, noise may look like spots: so many of the brightest are tried alone, and then
# so many of them have one opposite.
_BRIGHTEST, _PAIRED_BRIGHTEST = (40, 20, 12), 0.7
# In images of so few pixels a side spots may be as narrow as this, pixels, and nearly touch each
# other: they are searched with finer pixels, too. That is kept if so many times as many spots, and
# so many more, have one opposite.
_FEW, _NARROW, _BETTER = 300, 0.6, (1.3, 5.0)
# Where more of its spots are saturated, a narrow filter sees several in each.
_CLIPPED = 0.5
# Mates are opposite but for this share of the distance from the centre: distortions of the camera
# grow with it. Those of single bright pixels, which are many, are to be closer.
_DISTORTED, _EXACT = 0.03, 0.01
# Of discs so many more have one opposite than have none.
_MATED = 2.5
# Of spots that are parts of discs this share lies within so many radii of a disc's middle: all of
# abTEM's, and 0.8 to 0.9 where spots of large cells look like discs.
_ON_DISCS, _RIM = 0.97, 1.2


@dataclasses.dataclass(frozen=True)
class Searched:
    """What spots were looked for in: an image, averaged down by `factor`.

    Attributes:
        residual: (h, w) the image less its background, 0 where it is not measured.
        measured: (h, w) pixels that are used.
        under: background and noise.
        width: standard deviation of a spot, averaged pixels.
        factor: pixels that were averaged in either direction, a half where they were halved.
    """

    residual: np.ndarray
    measured: np.ndarray
    under: Background
    width: float
    factor: float = 1


@dataclasses.dataclass(frozen=True)
class SpotList:
    """Spots of an image, and how they were found.

    Attributes:
        position: (K, 2) column and row, pixels.
        intensity: (K,) counts above the local background, summed over the spot; of saturated ones
            what their flanks say.
        sigma: (K,) standard uncertainty of the intensity from counting, background and saturation;
            as large as the intensity where saturation leaves no flank.
        centre: (2,) column and row of the central beam, pixels.
        width: standard deviation of a spot, pixels.
        saturated: (K,) True where part of the spot is at the image's upper limit.
        rejected: (R, 2) column and row of maxima that are no spots that can be measured: at the
            beam, the beam stop, the image's edge or a gap, or of another shape.
        measured: (H, W) False behind the beam stop, in gaps and in hot pixels.
        level: (H, W) background.
        searched: what the spots were looked for in.
        power_error: as in `dx.Pattern`.
        notes: lines that the user should read, such as that the centre is uncertain.
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
    searched: Searched
    power_error: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def residual(self) -> np.ndarray:
        """(H, W) counts less the background, 0 where they are not measured.

        Where grey levels are no counts, or the image is a negative, not the image less `level`.
        """
        return _resized(self.searched.residual, self.searched.factor, self.measured.shape)


def find_spots(
    image: np.ndarray,
    centre: tuple[float, float] | None = None,
    mask: np.ndarray | None = None,
    width: float | None = None,
    threshold: float = THRESHOLD,
    max_radius: float | None = None,
    beam_stop: bool = True,
    brightest: int | None = None,
    gamma: float | None = None,
) -> SpotList:
    """The spots of a diffraction image; whether they lie on a lattice is not asked here.

    Args:
        image: (H, W) counts; pixels that are not finite count as not measured, and so do
            negative numbers that mark gaps, see `pixel_values.unmeasured`.
        centre: column and row of the central beam in pixels, outside of the image if need be;
            None finds it, see `centre.find_centre`.
        mask: (H, W) False where a pixel is not to be used.
        width: standard deviation of a spot, pixels; None takes that of the strongest spots.
        threshold: how many standard deviations of the noise a spot stands above it.
        max_radius: spots farther from the centre are left out, pixels.
        beam_stop: whether areas far darker than others at like radius count as not measured.
        brightest: so many spots alone are used, as where noise looks like spots; None uses all,
            or fewer where all have no symmetry.
        gamma: the power of the counts that the grey levels are, as in an export for the screen;
            None looks whether the spots' shape shows one, or a logarithm, see `response.tone`.

    Raises:
        PatternError: too small, nothing but one value, mostly not measured or saturated, a mask
            that does not fit the image, fewer than four spots above the noise, or spots without
            symmetry.
    """
    options = (threshold, max_radius, beam_stop, brightest)
    # A negative's beam stop and frame are brighter than all else, and may hide what it is.
    found, errors = [], []
    for negative in (None, True) if pixel_values.light(np.asarray(image)) else (None,):
        try:
            pixels = prepared(image, mask, negative, gamma)
        except PatternError as error:
            errors.append(error)
            continue
        # The search takes hot pixels out of what it is given.
        finer, before = _finer(pixels) if width is None else [], _copied(pixels)
        try:
            found.append(first := _found(pixels, centre, width, *options))
        except PatternError as error:
            errors.append(error)
            first = None
        hot = before.measured & ~pixels.measured
        if hot.any():
            found += _with_narrow(before, hot, first, centre, width, *options)
        share, more = _BETTER
        better = share * max(map(_symmetry, found), default=0.0) + more
        for one, wide in finer:
            with contextlib.suppress(PatternError):
                new = _found(one, centre, wide, *options)
                if _symmetry(new) > better and new.saturated.mean() <= _CLIPPED:
                    found.append(new)
        if width is None and (radius := discs.radius(pixels)):
            summed, radius = discs.summed(pixels, radius), radius * pixels.factor
            with contextlib.suppress(PatternError):
                new = _found(summed, centre, discs.PEAK * radius, *options)
                # A photograph has round spots of light, too.
                if _symmetry(new) > _MATED:
                    found = [one for one in found if not _parts(one, new, radius)] + [new]
        if found and pixels.negative:
            break
    if not found:
        raise errors[0]
    return max(found, key=_symmetry)


def _parts(found: SpotList, whole: SpotList, radius: float) -> bool:
    """Whether spots are parts of discs of a radius, such as their rims; where some lie beside what
    looks like a disc, several spots of a large cell do."""
    distance, _ = cKDTree(whole.position).query(found.position)
    return bool((distance < _RIM * radius).mean() > _ON_DISCS)


def _copied(pixels: Pixels) -> Pixels:
    return dataclasses.replace(
        pixels, image=pixels.image.copy(), measured=pixels.measured.copy()
    )


def _finer(pixels: Pixels) -> list[tuple[Pixels, float | None]]:
    """An image of few pixels with half as large ones, and the width of spots to look for."""
    if max(pixels.image.shape) > _FEW:
        return []
    image = ndimage.zoom(pixels.image, 2, order=3, mode="nearest", grid_mode=True)
    image = np.maximum(image, pixels.image.min())
    measured, full = (x.repeat(2, 0).repeat(2, 1) for x in (pixels.measured, pixels.full))
    one = dataclasses.replace(
        pixels, image=image, measured=measured, full=full, gain=None, factor=pixels.factor / 2
    )
    return [(one, None), (_copied(one), _NARROW)]


def _with_narrow(
    pixels: Pixels, hot: np.ndarray, found: SpotList | None, *how: Any
) -> list[SpotList]:
    """What is found where bright single pixels with mates are spots; [] where there are none.

    `pixels` with those that are `hot`, and what was `found` without them; `how` as of `_found`.
    """
    with contextlib.suppress(PatternError):
        if found is None:
            found = _found(dataclasses.replace(_copied(pixels), narrow=hot), *how)
        narrow = _narrow(hot, found)
        if narrow.any():
            return [_found(dataclasses.replace(pixels, narrow=narrow), *how)]
    return []


def _narrow(hot: np.ndarray, found: SpotList) -> np.ndarray:
    """(h, w) True for single bright pixels with a spot, or another of them, opposite.

    Spots are as narrow as that where an image was made smaller by leaving pixels out.
    """
    narrow = np.zeros_like(hot)
    rows, columns = np.nonzero(hot)
    places = full_size(np.stack([columns, rows], 1).astype(float), found.searched.factor)
    others = np.concatenate([places, found.position])
    near, _ = _near(2 * found.centre - places, others, found, _EXACT)
    # Pixels at the beam are their own.
    paired = near & (np.linalg.norm(places - found.centre, axis=1) > 4 * found.width)
    narrow[rows[paired], columns[paired]] = True
    return narrow


def _found(
    pixels: Pixels,
    centre: tuple[float, float] | None,
    width: float | None,
    threshold: float,
    max_radius: float | None,
    beam_stop: bool,
    brightest: int | None,
) -> SpotList:
    """See `find_spots`."""
    if width is not None:
        width = width / pixels.factor
    middle = None if centre is None else averaged(np.asarray(centre, float), pixels.factor)
    pixels, first, width = _linear(pixels, width, threshold)
    reach = np.inf if max_radius is None else max_radius / pixels.factor
    unsymmetric = None
    for most in (None, *_BRIGHTEST) if brightest is None else (brightest,):
        try:
            found = _about_centre(pixels, first, middle, width, threshold, reach, beam_stop, most)
        except PatternError as error:
            unsymmetric = unsymmetric or error
            if unsymmetric.step != "symmetry":
                raise
            continue
        return _full_size(found, pixels)
    raise unsymmetric


def _about_centre(
    pixels: Pixels,
    first: Peaks,
    middle: np.ndarray | None,
    width: float,
    threshold: float,
    reach: float,
    beam_stop: bool,
    most: int | None,
) -> SpotList:
    """Spots about a centre that is given or found from the peaks, or why there are none.

    Of the brightest `most` alone, where it is given; then more must be symmetric, and it is told.
    """
    if most is not None:
        first = first[first.spot]
        first = first[np.argsort(-first.intensity)[:most]]
    place = None
    if middle is None:
        place = find_centre(
            pixels.image, pixels.measured, first.position[first.spot],
            first.intensity[first.spot], width,
        )  # fmt: skip
        middle = place.place
    found = _around(pixels, middle, width, threshold, reach, beam_stop)
    seen = len(found.position)
    if most is not None:
        found = _rows(found, np.sort(np.argsort(-found.intensity)[:most]))
    if not len(found.position):
        raise _refused(
            "no spot in the image stands above the noise; a lower --threshold finds weaker ones",
            "spots", found, pixels,
        )  # fmt: skip
    if len(found.position) < _FEWEST:
        raise _refused(
            f"too few spots in the image for a lattice: {len(found.position)} stand above the "
            f"noise, at least {_FEWEST} are needed; a lower --threshold finds weaker ones",
            "spots", found, pixels,
        )  # fmt: skip
    problem = _asymmetry(found, _PAIRED if most is None else _PAIRED_BRIGHTEST)
    if problem:
        raise _refused(problem, "symmetry", found, pixels)
    notes = [] if place is None else _doubts(place, pixels)
    if most is not None:
        notes.append(
            f"noise of this image looks like spots: of {seen} only the brightest "
            f"{len(found.position)} were used; a higher --threshold leaves out more"
        )
    return dataclasses.replace(found, notes=(*found.notes, *notes))


def _refused(message: str, step: str, found: SpotList, pixels: Pixels) -> PatternError:
    error = PatternError(message)
    error.step, error.seen = step, _full_size(found, pixels)
    return error


def _doubts(place: Centre, pixels: Pixels) -> list[str]:
    """What the user should know of a centre that others are nearly as good as."""
    if not len(place.others):
        return []
    here, other = (full_size(p, pixels.factor) for p in (place.place, place.others[0]))
    return [
        f"the centre is uncertain: column {here[0]:.1f}, row {here[1]:.1f} is taken, but column "
        f"{other[0]:.1f}, row {other[1]:.1f} fits nearly as well; give --centre"
    ]


def _linear(
    pixels: Pixels, width: float | None, threshold: float
) -> tuple[Pixels, Peaks, float]:
    """Pixels in proportion to counts, their spots before the centre is known, and their width."""
    first, wide = _anywhere(pixels, width, threshold)
    if pixels.step is None or pixels.image.min() < 0:
        return pixels, first, wide
    tone = response.tone(pixels.image, pixels.step, first.position[first.spot], wide)
    if tone.sure and pixels.power_error is not None:
        pixels = dataclasses.replace(pixels, power_error=_TOLD)
    if tone.linear:
        note = MAY_BE_POWER if pixels.power_error is not None else None
    else:
        pixels = straightened(pixels, tone)
        scale = "on a logarithmic scale" if tone.logs else f"after a gamma of {tone.power:.2f}"
        note = (
            f"strong spots are wider than weak ones, as {scale}, which was undone (--gamma 1 "
            "leaves the grey levels as they are); raw counts are better"
        )
        first, wide = _anywhere(pixels, width, threshold)
    if note:
        pixels = dataclasses.replace(pixels, notes=[*pixels.notes, note])
    return pixels, first, wide


def _anywhere(pixels: Pixels, width: float | None, threshold: float) -> tuple[Peaks, float]:
    """Spots before the centre is known, and their width; hot pixels are taken out of `pixels`."""
    image, measured = pixels.image, pixels.measured
    level = background.level_anywhere(image, measured, max(min(image.shape) // 24, 8))
    if width is None:
        alike = measured & ~_hot(pixels, _FIRST_WIDTH)
        under = background.estimate(image, level, alike, _FIRST_WIDTH, None, pixels.gain)
        width = peaks.spot_width(image, alike, under, _FIRST_WIDTH)
    hot = _hot(pixels, width)
    if hot.any():
        measured &= ~hot
        image[hot] = ndimage.median_filter(image, 5)[hot]
    under = pixels.under or background.estimate(image, level, measured, width, None, pixels.gain)
    residual = np.where(measured, image - under.level, 0.0)
    return peaks.find(residual, measured, under, width, threshold), width


def _hot(pixels: Pixels, width: float) -> np.ndarray:
    """(h, w) True for hot pixels, see `pixel_values.single`."""
    return pixel_values.single(pixels.image, pixels.measured, width) & ~pixels.narrow


def _around(
    pixels: Pixels,
    centre: np.ndarray,
    width: float,
    threshold: float,
    max_radius: float,
    beam_stop: bool,
) -> SpotList:
    """Spots above a background that is a function of the distance from the centre."""
    image = pixels.image
    if pixels.under is None:
        under, measured, beam = _surroundings(pixels, centre, width, beam_stop)
    else:
        under, measured, beam = pixels.under, pixels.measured, 0.0
    residual = np.where(measured, image - under.level, 0.0)
    found = peaks.find(residual, measured, under, width, threshold)
    away = np.linalg.norm(found.position - centre, axis=1)
    found, away = found[away <= max_radius], away[away <= max_radius]
    place = np.clip(np.rint(found.position[:, ::-1]), 0, np.array(image.shape) - 1).astype(int)
    place = tuple(place.T)
    # Higher than the beam's flank, it is no unevenness of it.
    over_flank = found.intensity / (2 * np.pi * width**2) > under.above()[place]
    clear = found.spot & (away > 4 * width) & ((away > beam) | over_flank)
    spots = found[clear]
    over = background.grown(pixels.full, np.ceil(width))[place][clear]
    intensity, sigma = response.unsaturated(
        residual, pixels.full, spots.position, spots.intensity, spots.sigma, over, width
    )
    return SpotList(
        position=spots.position,
        intensity=intensity,
        sigma=sigma,
        centre=centre,
        width=width,
        saturated=over,
        rejected=found[~clear].position,
        measured=measured,
        level=under.level,
        searched=Searched(residual, measured, under, width),
        power_error=pixels.power_error,
        notes=tuple(pixels.notes),
    )


def _surroundings(
    pixels: Pixels, centre: np.ndarray, width: float, beam_stop: bool
) -> tuple[Background, np.ndarray, float]:
    """Background and noise about a centre, the pixels that no stop hides, and the beam's radius."""
    image, measured = pixels.image, pixels.measured
    radius = background.distance(image.shape, centre)
    level = background.level_of(image, measured, radius, pixels.gain)
    beam = background.beam_radius(level, radius)
    if beam_stop:
        hidden = background.stopped(image, measured, level, radius, width, pixels.gain)
        if hidden.any():
            measured = measured & ~hidden
            level = background.level_of(image, measured, radius, pixels.gain)
    under = background.estimate(image, level, measured, width, centre, pixels.gain)
    return under, measured, beam


def _rows(found: SpotList, rows: np.ndarray) -> SpotList:
    names = ("position", "intensity", "sigma", "saturated")
    return dataclasses.replace(found, **{name: getattr(found, name)[rows] for name in names})


def averaged(position: np.ndarray, factor: float) -> np.ndarray:
    """Columns and rows (..., 2) of an image in pixels that are means of `factor` x `factor`."""
    return (position - (factor - 1) / 2) / factor


def full_size(position: np.ndarray, factor: float) -> np.ndarray:
    """The reverse of `averaged`."""
    return position * factor + (factor - 1) / 2


def _full_size(found: SpotList, pixels: Pixels) -> SpotList:
    """Spots in the pixels of the image as it was before it was averaged down."""
    factor = pixels.factor
    if factor == 1:
        return found
    return dataclasses.replace(
        found,
        position=full_size(found.position, factor),
        intensity=found.intensity * factor**2,
        sigma=found.sigma * factor**2,
        centre=full_size(found.centre, factor),
        width=found.width * factor,
        rejected=full_size(found.rejected, factor),
        measured=_resized(found.measured, factor, pixels.shape),
        level=_resized(found.level, factor, pixels.shape),
        searched=dataclasses.replace(found.searched, factor=factor),
    )


def _resized(values: np.ndarray, factor: float, shape: tuple[int, ...]) -> np.ndarray:
    """An image's values (h, w), of pixels as in `averaged`, in its own pixels, `shape`."""
    if factor < 1:
        return block_reduce(values, round(1 / factor), np.mean).astype(values.dtype)
    times = round(factor)
    return values.repeat(times, 0).repeat(times, 1)[: shape[0], : shape[1]]


def _asymmetry(found: SpotList, least: float) -> str:
    """What is wrong where a smaller share of the strong spots has one opposite, else empty."""
    strong = np.argsort(-found.intensity)[:60]
    near, chance = _mates(found, strong)
    if len(near) < 3:
        return ""
    # Above what as many spots anywhere would give.
    share = (near.mean() - chance.mean()) / max(1 - chance.mean(), 0.05)
    if share >= least:
        return ""
    return (
        f"this is not the diffraction pattern of a lattice: of its {len(near)} strongest spots "
        f"only {near.mean():.0%} have a spot opposite them; if it is one, give "
        "--centre, or hide what does not belong to it with --mask"
    )


def _symmetry(found: SpotList) -> float:
    """How many spots have one opposite, beyond chance, less those that have none."""
    near, chance = _mates(found, np.arange(len(found.position)))
    return float((near - chance).sum() - (~near).sum())


def _mates(found: SpotList, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of spots whose opposite lies on the image: whether one is there, and how likely by chance."""
    opposite = 2 * found.centre - found.position[rows]
    place = np.rint(opposite[:, ::-1]).astype(int)
    inside = ((place >= 4) & (place < np.array(found.measured.shape) - 4)).all(1)
    inside[inside] &= found.measured[tuple(place[inside].T)]
    near, reach = _near(opposite[inside], found.position, found, _DISTORTED)
    spread = len(found.position) / np.prod([float(n) for n in found.measured.shape])
    return near, 1 - np.exp(-np.pi * reach**2 * spread)


def _near(
    opposite: np.ndarray, others: np.ndarray, found: SpotList, share: float
) -> tuple[np.ndarray, np.ndarray]:
    """(K,) whether one of others (n, 2) is at places (K, 2) opposite, and how far off it may be."""
    distance, _ = cKDTree(others).query(opposite)
    away = np.linalg.norm(opposite - found.centre, axis=1)
    reach = np.maximum(2 * found.width, share * away)
    return distance < reach, reach
