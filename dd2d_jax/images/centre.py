"""The centre of a diffraction pattern: of its symmetry under inversion, halo and beam.

Coordinates are pixels (column, row) with the middle of the first pixel at (0, 0).
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import fft, ndimage
from scipy.spatial import cKDTree
from skimage.feature import peak_local_max
from skimage.measure import block_reduce

from dd2d_jax.images.background import mad
from dd2d_jax.images.pixel_values import within
from dd2d_jax.lattices.origin import CHANCE, alike, weights

# The strongest spots vote, and so many of the places with most votes are looked at.
_VOTERS, _CANDIDATES = 150, 24
# What the halo's roundness about a centre is worth beside the spots, and what the brightest spot
# of all is, if the centre lies in it.
_HALO, _BEAM = 0.3, 0.3
# A thick flake that is tilted has like spots about another point than the beam's (the Laue circle's
# centre), but fewer. Of 90 images whose centre is right, one is rounder about another by more than
# 0.02 and rounder than this there, by 0.25; 74 % of its spots have mates of like intensity. About
# the Laue circle's centre at most 81 % have: where nearly all have, a halo that is rounder about
# another point is a slope of the background.
_ROUND, _CERTAIN, _AS_ROUND = 0.5, 0.9, 0.05
# By so much rounder than about the spots' own centre where at most this share has mates about that.
_ROUNDER = (0.12, 0.6), (0.2, 0.7), (0.35, _CERTAIN)
# A second centre that is as good but for this much leaves the first unsure.
_UNSURE = 0.03
# The halo is looked at in an image of so many pixels a side.
_SMALL = 48


@dataclasses.dataclass(frozen=True)
class Centre:
    """Where the beam went through.

    Attributes:
        place: (2,) column and row.
        support: share of the spots' weight, as far as mates of theirs would be on the image, that
            has mates of like intensity; 0 without spots.
        others: (n, 2) places that are nearly as likely, the likeliest first.
    """

    place: np.ndarray
    support: float
    others: np.ndarray


def find_centre(
    image: np.ndarray,
    measured: np.ndarray,
    position: np.ndarray,
    intensity: np.ndarray,
    width: float,
) -> Centre:
    """The centre by votes of pairs of spots, and by the symmetry of the image itself.

    A pair of spots votes for the point midway between them, the more the more alike their
    intensities are. Every lattice point and every point midway between two of them is nearly a
    centre of inversion; like intensities, and the halo about the beam, tell which is the centre.
    Where few spots have mates of like intensity, and the halo is far rounder about another point,
    the halo alone tells.

    Args:
        image: (H, W), finite everywhere.
        measured: (H, W) pixels to be used.
        position: (K, 2) column and row of spots.
        intensity: (K,) of them.
        width: standard deviation of a spot, pixels.
    """
    own = symmetry_centre(np.where(measured, image, np.median(image[measured])))
    halo = _Halo(image, measured, position, 4 * width)
    tried = [own]
    if len(position) >= 4:
        tried += list(_votes(position, intensity))
        second, first = np.sort(intensity)[-2:]
        brightest = position[np.argmax(intensity)]
        # A beam is brighter than any spot, and several times so.
        beam = _BEAM * float(np.clip(np.log10(first / second) - 0.5, 0, 1))
        tried.append(brightest)
    tried = np.array(tried)
    if len(position) < 4:
        return Centre(own, 0.0, np.zeros((0, 2)))
    scores, places, roundness = [], [], []
    for place in tried:
        refined, weight, support = _paired(place, position, intensity, width, measured)
        near = np.linalg.norm(refined - brightest) < 3 * width + 2
        roundness.append(halo.round(refined))
        scores.append((weight + _HALO * roundness[-1] + beam * near, support))
        places.append(refined)
    scores, places, roundness = np.array(scores), np.array(places), np.array(roundness)
    order = np.argsort(-scores[:, 0])
    best = order[0]
    apart = np.linalg.norm(places - places[best], axis=1) > 4 * width + 2
    close = [i for i in order if apart[i] and scores[i, 0] > scores[best, 0] - _UNSURE]
    # Of those that are about as round the one that spots speak for.
    round_ = roundness > roundness.max() - _AS_ROUND
    roundest = int(np.argmax(np.where(round_, scores[:, 0], -np.inf)))
    more = roundness[roundest] - roundness[best]
    support = float(scores[best, 1])
    if roundness[roundest] > _ROUND and more > _ROUNDER[0][0] and support < _CERTAIN:
        if any(more > rounder and support < share for rounder, share in _ROUNDER):
            best, close = roundest, [best, *close]
        else:
            close = [roundest, *close]
    return Centre(places[best], float(scores[best, 1]), places[close])


def _votes(position: np.ndarray, intensity: np.ndarray) -> np.ndarray:
    """Points (n, 2) midway between many pairs of spots of like intensity."""
    some = np.argsort(-intensity)[:_VOTERS]
    first, second = np.triu_indices(len(some), 1)
    a, b = some[first], some[second]
    sums = position[a] + position[b]
    weight = alike(intensity[a], intensity[b]) * np.sqrt(np.minimum(intensity[a], intensity[b]))
    origin = sums.min(0) - 4
    bins = np.rint((sums - origin) / 2).astype(int)
    table = np.zeros(bins.max(0) + 5)
    np.add.at(table, tuple(bins.T), weight)
    table = ndimage.gaussian_filter(table, 1.0)
    peaks = peak_local_max(table, min_distance=2, num_peaks=_CANDIDATES, exclude_border=False)
    return (peaks * 2 + origin) / 2


def _paired(
    place: np.ndarray,
    position: np.ndarray,
    intensity: np.ndarray,
    width: float,
    measured: np.ndarray,
) -> tuple[np.ndarray, float, float]:
    """The centre refined, what the spots say for it, and the share of them that have mates."""
    tree = cKDTree(position)
    shape = np.array(measured.shape)
    root = weights(intensity)
    for _ in range(3):
        opposite = 2 * place - position
        away = np.linalg.norm(position - place, axis=1)
        distance, mate = tree.query(opposite)
        near = distance < 1.5 * width + 0.015 * away + 0.5
        # A camera's distortion is the same on both sides of the centre, and of no other point.
        exact = np.exp(-0.5 * (distance / (0.7 * width + 0.3 + 0.003 * away)) ** 2)
        like = alike(intensity, intensity[mate]) * exact * near
        usable = near & (away > 3 * width)
        if (usable * like).sum() > 0.5:
            weight = (usable * like * root)[:, None]
            middle = (position + position[mate]) / 2
            place = (middle * weight).sum(0) / weight.sum()
    pixel = np.rint(opposite[:, ::-1]).astype(int)
    margin = int(np.ceil(2 * width))
    inside = ((pixel >= margin) & (pixel < shape - margin)).all(1)
    inside[inside] &= measured[tuple(pixel[inside].T)]
    tested = (inside | near) & (away > 3 * width)
    if not tested.any():
        return place, 0.0, 0.0
    for_ = float((root * (like - CHANCE) * tested).sum() / root.sum())
    return place, for_, float((root * like * tested).sum() / (root * tested).sum())


class _Halo:
    """How round an image without its spots is about a point."""

    def __init__(
        self, image: np.ndarray, measured: np.ndarray, spots: np.ndarray, radius: float
    ) -> None:
        self.side = max(-(-max(image.shape) // _SMALL), 1)
        filled = np.where(measured, image, np.nan)
        noise = 0.0
        with np.errstate(all="ignore"):
            import warnings

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                small = block_reduce(filled, self.side, np.nanmedian, cval=np.nan)
                if np.nanmedian(small) == np.nanmin(small):
                    # Single electrons: most medians are 0, and means are to be without spots.
                    filled = np.where(within(image.shape, spots, radius), np.nan, filled)
                    small = block_reduce(filled, self.side, np.nanmean, cval=np.nan)
                    noise = 2 * float(np.nanmedian(np.abs(np.diff(small))))
        good = np.isfinite(small)
        values = small[good]
        floor, top = np.quantile(values, [0.02, 0.98]) if values.size else (0.0, 1.0)
        scale = max(0.02 * (top - floor), noise) + 1e-30
        self.values = np.log1p(np.maximum(values - floor, 0) / scale)
        rows, columns = np.nonzero(good)
        self.places = np.stack([columns, rows], 1) * self.side + (self.side - 1) / 2
        order = np.random.default_rng(0).permutation(len(values))
        self.chance = np.abs(np.diff(self.values[order])).sum() + 1e-30

    def round(self, place: np.ndarray) -> float:
        """1 where the image is a function of the distance from a point, 0 where it is none."""
        radius = np.linalg.norm(self.places - place, axis=1)
        return float(1 - np.abs(np.diff(self.values[np.argsort(radius)])).sum() / self.chance)


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
