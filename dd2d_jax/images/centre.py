"""The centre of a diffraction pattern by its symmetry under inversion.

Coordinates are pixels (column, row) with the middle of the first pixel at (0, 0).
"""

from __future__ import annotations

import numpy as np
from scipy import fft, ndimage

from dd2d_jax.images.background import mad


def symmetry_centre(image: np.ndarray) -> np.ndarray:
    """Column and row (2,) of the point through which inversion maps an image best onto itself.

    The image's convolution with itself peaks at twice that point. The diffuse halo says roughly
    where it is, the spots then say exactly; neither needs the central beam.
    """
    floor = np.median(image)
    noise = mad(image) + 1e-9 * np.ptp(image)
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
