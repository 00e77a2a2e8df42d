"""From a diffraction image to spots: centre, background, peaks, integrated intensities.

Coordinates are pixels (column, row) with the middle of the first pixel at (0, 0).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from scipy import fft, ndimage
from skimage.feature import peak_local_max
from skimage.measure import block_reduce

from dd2d_jax.files import new_file
from dd2d_jax.lattice import PatternError

MAX_PIXELS = 64_000_000
# Larger images are averaged down to this many pixels along the longer side.
_SIDE = 1024
# A spot stands so many standard deviations of the noise above its surroundings.
_SIGNIFICANT = 7.0
# Where the noise is small, the halo's own unevenness, relative to it, takes its place.
_CONTRAST = 0.005
# The same for what is not radial, relative to the local mean above the radial background.
_UNEVEN = 0.05
# Peaks are measured against their surroundings, a Gaussian so many times as wide.
_WIDER = 2.5
# More local maxima than this are texture; the strongest are kept.
_MOST = 1000


@dataclasses.dataclass(frozen=True)
class SpotList:
    """Spots of an image.

    Attributes:
        position: (K, 2) column and row, pixels.
        intensity: (K,) counts above the local background, summed over the spot.
        centre: (2,) column and row of the central beam, pixels.
    """

    position: np.ndarray
    intensity: np.ndarray
    centre: np.ndarray


def read_image(path: Path) -> np.ndarray:
    """Grey levels (H, W) of a PNG, JPEG or TIFF of any depth; colours are averaged.

    Raises:
        PatternError: not such an image, more than one, or more than 64 million pixels.
    """
    try:
        if path.suffix.lower() in (".tif", ".tiff"):
            image = _read_tiff(path)
        else:
            image = _read_picture(path)
    except PatternError:
        raise
    except Exception as error:  # the decoders raise anything, also struct.error and SyntaxError
        detail = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise PatternError(f"{path}: cannot be read as an image ({detail})") from error
    if image.ndim == 3 and image.shape[2] in (2, 3, 4):
        image = image[..., : 1 if image.shape[2] == 2 else 3].mean(-1)
    if image.ndim != 2:
        raise PatternError(f"{path}: an image of shape {image.shape}; one single image is needed")
    return image.astype(float)


def _check_pixels(path: Path, shape: tuple[int, ...]) -> None:
    if np.prod([float(n) for n in shape]) > MAX_PIXELS:
        size = " x ".join(map(str, shape))
        raise PatternError(f"{path}: {size} pixels; at most {MAX_PIXELS // 10**6} million")


def _read_tiff(path: Path) -> np.ndarray:
    import tifffile

    with tifffile.TiffFile(path) as file:
        if len(file.pages) > 1:
            raise PatternError(f"{path}: holds {len(file.pages)} images; save the one to be used")
        _check_pixels(path, file.pages[0].shape[:2])
        image = file.pages[0].asarray()
    if image.dtype.kind not in "fiub":
        raise PatternError(f"{path}: pixels of type {image.dtype}; real numbers are needed")
    return image


def _read_picture(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path, formats=("PNG", "JPEG")) as picture:
        _check_pixels(path, picture.size)
        if picture.mode == "P" or picture.mode == "CMYK":
            picture = picture.convert("RGB")
        return np.asarray(picture)


def write_image(image: np.ndarray, path: str | Path, scale: float) -> None:
    """Write an image (H, W) as .tif or .npy, moved into place once it is whole.

    `scale`, 1/angstrom per pixel, is kept in the description of a .tif.

    Raises:
        OSError: the file cannot be written.
    """
    import tifffile

    path = Path(path)
    with new_file(path) as part:
        if path.suffix.lower() == ".npy":
            np.save(part, image, allow_pickle=False)
        else:
            tifffile.imwrite(part, image, description=f"{scale:g} 1/angstrom per pixel")


def find_spots(image: np.ndarray, centre: tuple[float, float] | None = None) -> SpotList:
    """The spots of a diffraction image; whether they lie on a lattice is not asked here.

    Args:
        image: (H, W) counts; pixels that are not finite count as not measured.
        centre: column and row of the central beam in pixels; None finds it by the pattern's
            symmetry under inversion.

    Raises:
        PatternError: too small, nothing but one value, mostly not finite, the centre outside of
            the image, or no spot above the noise.
    """
    image = np.asarray(image, float)
    if image.ndim != 2 or min(image.shape) < 16:
        raise PatternError(f"an image of shape {image.shape}; at least 16 x 16 pixels are needed")
    finite = np.isfinite(image)
    if finite.mean() < 0.5:
        raise PatternError("more than half of the image's pixels are not finite numbers")
    image = np.where(finite, image, np.median(image[finite]))
    if np.ptp(image) == 0:
        raise PatternError(f"the image has no spots: every pixel is {image.flat[0]:g}")
    factor = -(-max(image.shape) // _SIDE)
    small = block_reduce(image, factor, np.mean, cval=float(np.median(image)))
    offset = (factor - 1) / 2
    if centre is None:
        middle = symmetry_centre(small)
    else:
        middle = (np.asarray(centre, float) - offset) / factor
        if not ((middle >= 0) & (middle <= np.array(small.shape[::-1]) - 1)).all():
            raise PatternError(f"the centre {tuple(centre)} lies outside of the image")
    position, intensity = _peaks(small, middle)
    if not len(position):
        raise PatternError("no spot in the image stands above the noise")
    return SpotList(position * factor + offset, intensity * factor**2, middle * factor + offset)


def symmetry_centre(image: np.ndarray) -> np.ndarray:
    """Column and row (2,) of the point through which inversion maps an image best onto itself.

    The image's convolution with itself peaks at twice that point. The diffuse halo says roughly
    where it is, the spots then say exactly; neither needs the central beam.
    """
    floor = np.median(image)
    noise = _mad(image) + 1e-9 * np.ptp(image)
    soft = np.log1p(np.maximum(image - floor, 0) / (5 * noise))
    rough = _self_convolution(soft - soft.mean())
    size = max(image.shape)
    sharp = soft - ndimage.gaussian_filter(soft, max(size / 60, 1.5))
    exact = _self_convolution(sharp)
    # Every lattice point is nearly a centre of inversion: only those near the halo's count.
    row, column = np.unravel_index(np.argmax(rough), rough.shape)
    rows, columns = np.ogrid[: rough.shape[0], : rough.shape[1]]
    near = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * (0.03 * size) ** 2))
    weighted = ndimage.gaussian_filter(exact, 1.0) * near
    return _summit(weighted) / 2


def points_centre(points: np.ndarray) -> np.ndarray:
    """The point (2,) through which inversion maps most points (K, 2) onto others, to 1.5 pixels."""
    some = points[:: max(1, len(points) // 400)]
    sums = (some[:, None] + some[None]).reshape(-1, 2)
    places, votes = np.unique(np.rint(sums), axis=0, return_counts=True)
    offsets = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1]), -1).reshape(-1, 2)
    table = {tuple(p): v for p, v in zip(places.tolist(), votes.tolist(), strict=True)}
    total = [sum(table.get((a + u, b + v), 0) for u, v in offsets.tolist())
             for a, b in places.tolist()]  # fmt: skip
    best = places[int(np.argmax(total))]
    near = np.abs(sums - best).max(1) <= 1.5
    return sums[near].mean(0) / 2


def _self_convolution(image: np.ndarray) -> np.ndarray:
    shape = [fft.next_fast_len(2 * n - 1, real=True) for n in image.shape]
    full = fft.irfft2(fft.rfft2(image, shape) ** 2, shape)
    return full[: 2 * image.shape[0] - 1, : 2 * image.shape[1] - 1]


def _summit(values: np.ndarray) -> np.ndarray:
    """Column and row (2,) of the maximum, by a parabola through its neighbours."""
    place = np.unravel_index(np.argmax(values), values.shape)
    out = []
    for axis in (1, 0):
        i = place[axis]
        line = np.take(values, place[1 - axis], axis=1 - axis)
        shift = 0.0
        if 0 < i < len(line) - 1:
            left, top, right = line[i - 1 : i + 2]
            curvature = left - 2 * top + right
            shift = 0.5 * (left - right) / curvature if curvature < 0 else 0.0
        out.append(i + shift)
    return np.array(out)


def _mad(values: np.ndarray) -> float:
    """Standard deviation by the median absolute deviation."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def _radial(values: np.ndarray, radius: np.ndarray, width: float) -> np.ndarray:
    """Median of `values` at like radius, (H, W); rings of `width` pixels, interpolated."""
    ring = (radius / width).astype(int)
    count = int(ring.max()) + 1
    median = ndimage.median(values, ring, np.arange(count))
    # Rings with few pixels, in the corners, take the value of their inner neighbour.
    few = np.bincount(ring.ravel(), minlength=count) < 12
    for i in np.flatnonzero(few):
        median[i] = median[i - 1] if i else median[i]
    middle = (np.arange(count) + 0.5) * width
    return np.interp(radius, middle, ndimage.gaussian_filter1d(median, 1.0, mode="nearest"))


def _noise(image: np.ndarray, radius: np.ndarray, width: float) -> np.ndarray:
    """Standard deviation (H, W) at like radius of the noise that a filter of `width` leaves.

    From second differences: whatever is wider than a pixel or two, spots or halo, cancels. Noise
    that is smeared over several pixels (JPEG, resampled images) is therefore underestimated.
    """
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]]) / 6.0
    rough = np.abs(ndimage.convolve(image, kernel, mode="nearest"))
    wide = _WIDER * width
    passed = np.sqrt(1 / width**2 + 1 / wide**2 - 4 / (width**2 + wide**2)) / (2 * np.sqrt(np.pi))
    return 1.4826 * passed * _radial(rough, radius, 4.0)


def _spot_width(residual: np.ndarray, outer: np.ndarray) -> float:
    """Standard deviation of a spot, in pixels, from the image's autocorrelation."""
    top = np.quantile(residual[outer], 0.9995)
    clipped = np.where(outer, np.clip(residual, 0, top), 0)
    clipped = clipped - clipped.mean()
    auto = fft.irfft2(np.abs(fft.rfft2(clipped)) ** 2, clipped.shape)
    # The noise stands in the origin alone; the peak's value there comes from its neighbours.
    line = (auto[0, :40] + auto[:40, 0][: len(auto[0, :40])]) / 2 if min(auto.shape) > 80 else None
    if line is None:
        return 1.5
    line = line - line.min()
    below = np.flatnonzero(line < line[1] / 2)
    half = float(below[0]) if below.size else 4.0
    # The autocorrelation of a Gaussian is wider by sqrt 2; half width = 1.18 sigma.
    return float(np.clip(half / (1.18 * np.sqrt(2)), 1.0, max(residual.shape) / 60))


def _peaks(image: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.indices(image.shape)
    radius = np.hypot(columns - centre[0], rows - centre[1])
    background = _radial(image, radius, 2.0)
    above = background - np.quantile(background, 0.05)
    residual = image - background
    beam = _beam_radius(image, radius)
    width = _spot_width(residual, radius > beam)
    noise = _noise(image, radius, width)
    hidden = _hidden(image, background, noise, width)
    residual = np.where(hidden, 0.0, residual)
    # Where the halo is steep, what half a pixel's shift explains is no spot.
    slope = np.hypot(*np.gradient(background))
    sure = np.sign(residual) * np.maximum(np.abs(residual) - 0.5 * slope, 0)
    # Matched to the spot, blind to what is much wider.
    around = ndimage.gaussian_filter(sure, _WIDER * width)
    matched = ndimage.gaussian_filter(sure, width) - around
    error = noise + _CONTRAST * np.maximum(above, 0) + _UNEVEN * np.abs(around)
    found = peak_local_max(
        np.where(hidden, 0.0, matched / (error + 1e-9 * np.ptp(image))),
        min_distance=max(2, round(2 * width)),
        threshold_abs=_SIGNIFICANT,
        exclude_border=max(2, round(1.5 * width)),
        num_peaks=_MOST,
    )
    near_stop = ndimage.binary_dilation(hidden, iterations=int(np.ceil(2 * width)))
    place = tuple(found.T)
    found = found[(radius[place] > max(beam, 4 * width)) & ~near_stop[place]]
    measured = [_integrate(residual, row, column, width) for row, column in found]
    kept = [m for m in measured if m[2] > 0]
    if not kept:
        return np.zeros((0, 2)), np.zeros(0)
    table = np.array(kept)
    return table[:, :2], table[:, 2]


def _hidden(
    image: np.ndarray, background: np.ndarray, noise: np.ndarray, width: float
) -> np.ndarray:
    """(H, W) True behind the beam stop, and near its edge: far darker than like radii."""
    level = background - np.quantile(image, 0.001)
    residual = ndimage.gaussian_filter(image - background, width)
    dark = residual < -np.maximum(3 * _SIGNIFICANT * noise, 0.4 * level)
    dark &= level > 0
    # Single dead pixels are no beam stop.
    dark = ndimage.binary_opening(dark, iterations=int(np.ceil(width)))
    return ndimage.binary_dilation(dark, iterations=int(np.ceil(4 * width)))


def _beam_radius(image: np.ndarray, radius: np.ndarray) -> float:
    """Radius within which the central beam, or what blocks it, hides spots."""
    limit = min(image.shape) / 8
    rings = np.arange(int(limit) + 2)
    profile = ndimage.median(image, radius.astype(int), rings)
    drop = np.log(np.maximum(profile[:-1], 1e-12)) - np.log(np.maximum(profile[1:], 1e-12))
    peak, floor = profile.max(), np.median(image)
    if peak <= floor or not np.isfinite(drop).all():
        return 0.0
    # The beam ends where it has fallen to a twentieth; a flat halo has no such place.
    top = int(np.argmax(profile))
    fallen = np.flatnonzero(profile[top:] < floor + 0.05 * (peak - floor))
    return float(min(top + fallen[0] + 1, limit)) if fallen.size else float(limit / 2)


def _integrate(
    residual: np.ndarray, row: int, column: int, width: float
) -> tuple[float, float, float]:
    """Column, row and summed counts of the spot at a local maximum."""
    reach = int(np.ceil(4 * width)) + 1
    top, left = max(row - reach, 0), max(column - reach, 0)
    window = residual[top : row + reach + 1, left : column + reach + 1]
    rows, columns = np.indices(window.shape)
    y, x = float(row - top), float(column - left)
    for _ in range(3):
        distance = np.hypot(rows - y, columns - x)
        ring = (distance > 3 * width) & (distance <= 4 * width + 1)
        above = window - (np.median(window[ring]) if ring.any() else 0.0)
        weight = np.where(distance <= 2 * width + 0.5, np.maximum(above, 0), 0)
        if weight.sum() <= 0:
            break
        y, x = (weight * rows).sum() / weight.sum(), (weight * columns).sum() / weight.sum()
    disc = np.hypot(rows - y, columns - x) <= 2.5 * width + 0.5
    return left + x, top + y, float(above[disc].sum())
