"""Spots too weak to be found without knowing where to look, and a superlattice's, found together.

Once a lattice stands, its places are known, and those of its small supercells. What an image holds
at them is compared with what lies at places of no lattice. A single place of the lattice needs far
less light then than a maximum anywhere; a supercell needs many places that have some.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from scipy import ndimage
from scipy.special import log_ndtr
from scipy.stats import norm

from dd2d_jax.images import background, peaks
from dd2d_jax.images.distortion import Mapping
from dd2d_jax.images.pixel_values import between, within
from dd2d_jax.images.spot_finding import SpotList, averaged, full_size
from dd2d_jax.lattices.indexed import Indexed
from dd2d_jax.lattices.search import FRACTIONS, INDEX

# Supercells of up to so many cells are asked for, and once more those of what was found.
_LARGEST, _STEPS = 4, 2
# By so much, in logarithms, light at the places is likelier than none. Of abTEM's 120 images ten
# come to 21 and more, all with such a supercell, and the others, but for streaks, to 4 at most.
_EVIDENCE = 10.0
# Mean intensities of a superlattice's spots, in standard deviations of the noise.
_MEANS = (0.5, 1.0, 2.0, 4.0)
# No single place counts for more than so many standard deviations.
_MOST = 5.0
# Draws of places of no lattice, how many of these the noise is known by at least, and how many of
# the largest are its tail.
_DRAWS, _NULL, _TAIL = 30, 300, 30
# A floor of one value has no scatter, but what it hides; of other images it is 0.7 to 1.05.
_LEAST = 0.7
# A place is clear so many widths from any spot that was found, and so many from the beam.
_CLEAR, _BEAM = 5.5, 12.0
# The ring that tells the surroundings: its radius in widths, and its points.
_RING, _POINTS = 4.0, 12
# Of a supercell's places so many, and this share, are clear.
_FEWEST, _SHARE = 8, 0.3
# Streaks have this share of the light beside their places, so many widths away, too.
_STREAK, _STREAK_AT = 0.5, 5.0
# So many standard deviations above the noise stand spots at the lattice's own places, of which
# noise then makes one in ten images, and those of a superlattice that is there.
_OWN, _SEEN = 3.5, 2.0


@dataclasses.dataclass(frozen=True)
class _Light:
    """Light as of a spot at any place of an image, less that around it.

    Attributes:
        height: (H, W) at a pixel, in units of `noise`.
        noise: (H, W) of the same, in the image's unit.
        width: of a spot, pixels.
        clear: (H, W) True where a spot could be measured and no known one is near.
    """

    height: np.ndarray
    noise: np.ndarray
    width: float
    clear: np.ndarray

    @classmethod
    def of(cls, spots: SpotList) -> _Light:
        found, factor = spots.searched, spots.searched.factor
        noise = peaks.error(found.residual, found.under, found.width)
        height = ndimage.gaussian_filter(found.residual, found.width) / noise
        known = averaged(np.concatenate([spots.position, spots.rejected]), factor)
        clear = found.measured & ~within(height.shape, known, _CLEAR * found.width)
        middle = averaged(spots.centre, factor)
        clear &= background.distance(clear.shape, middle) > _BEAM * found.width
        edge = int(np.ceil((_RING + 1) * found.width))
        clear[:edge] = clear[-edge:] = clear[:, :edge] = clear[:, -edge:] = False
        return cls(height, noise, found.width, clear)

    def at(self, place: np.ndarray) -> np.ndarray:
        """(N,) at column and row (N, 2)."""
        ring = _RING * self.width * _circle(_POINTS)
        around = between(self.height, place[:, None] + ring)
        return between(self.height, place) - np.median(around, 1)

    def only_clear(self, place: np.ndarray) -> np.ndarray:
        """Those of the places (N, 2) that are in the image, and clear."""
        whole = np.rint(place[:, ::-1]).astype(int)
        inside = ((whole >= 0) & (whole < self.clear.shape)).all(1)
        inside[inside] = self.clear[tuple(whole[inside].T)]
        return place[inside]


@dataclasses.dataclass(frozen=True)
class _Noise:
    """Light at places of no lattice.

    Attributes:
        values: (N,) sorted.
        middle: their median.
        spread: their robust standard deviation.
    """

    values: np.ndarray
    middle: float
    spread: float

    def score(self, light: np.ndarray) -> np.ndarray:
        """(N,) standard deviations of a Gaussian for which so much light is as rare."""
        rank = (np.searchsorted(self.values, light) + 0.5) / (len(self.values) + 1)
        # Of what is rarer than the tail that is known, the tail's own unit is taken.
        start = self.values[-_TAIL]
        last = norm.ppf(1 - _TAIL / len(self.values))
        beyond = last * (light - self.middle) / max(start - self.middle, 1e-12)
        score = np.where(light < start, norm.ppf(np.clip(rank, 1e-4, 1 - 1e-9)), beyond)
        return np.minimum(score, np.maximum(light - self.middle, 0) / _LEAST)


def weak_spots(
    spots: SpotList, mapping: Mapping, found: Indexed
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Spots at places of a lattice or of its supercell, beside those that were found.

    For a supercell, the light at all of its places is compared with that of intensities by
    Wilson's law, of a few means, and with none.

    Args:
        spots: of an image, as `find_spots` gives them.
        mapping: from its pixels to 1/angstrom.
        found: their lattice.

    Returns:
        Column and row (W, 2), intensity (W,) and its standard uncertainty (W,), in the units of
        `spots`; empty where there are none.
    """
    nothing = np.zeros((0, 2)), np.zeros(0), np.zeros(0)
    if len(found.hk) < _FEWEST:
        return nothing
    light, factor = _Light.of(spots), spots.searched.factor
    reciprocal = np.linalg.inv(found.lattice).T
    corners = _corners(spots, mapping, found)
    reach = np.linalg.norm(corners, axis=1).max()

    def place(hk: np.ndarray) -> np.ndarray:
        """Column and row (N, 2), averaged, of indices (N, 2), also broken ones."""
        q = hk @ reciprocal
        # Farther out a distortion may have no inverse; (-1, -1) is outside of any image.
        near = np.linalg.norm(q, axis=1) <= reach
        out = np.full(q.shape, -1.0)
        pixels = mapping.pixels(found.warp.measured(q[near]))
        out[near] = averaged(spots.centre + pixels, factor)
        return out

    indices = _indices(corners @ found.lattice.T)
    noise = _noise(light, place, indices)
    if noise is None:
        return nothing
    whole = np.eye(2)
    for _ in range(_STEPS):
        value, finer = _EVIDENCE, None
        for part in FRACTIONS[INDEX <= _LARGEST]:
            new = place(_between(indices, whole, part @ whole))
            at = light.only_clear(new)
            if len(at) < max(_FEWEST, _SHARE * len(new)):
                continue
            here = _evidence(light, noise, at)
            if here > value and not _streaked(light, noise, at):
                value, finer = here, part @ whole
        if finer is None:
            break
        whole = finer
    at = []
    for places, least in ((indices, _OWN), (_between(indices, np.eye(2), whole), _SEEN)):
        clear = light.only_clear(place(places))
        at.append(clear[noise.score(light.at(clear)) > least])
    at = np.concatenate(at)
    if not len(at):
        return nothing
    # As the others' were summed.
    position = averaged(spots.position, factor)
    unit = np.median(spots.intensity / between(light.height * light.noise, position))
    one = unit * between(light.noise, at)
    return full_size(at, factor), one * light.at(at), one * noise.spread


def _noise(light: _Light, place: Callable, indices: np.ndarray) -> _Noise | None:
    """From the lattice's own places, all shifted at random; None where too few are clear."""
    rng = np.random.default_rng(0)
    drawn = [light.only_clear(place(indices + rng.random(2))) for _ in range(_DRAWS)]
    values = np.sort(light.at(np.concatenate(drawn)))
    if len(values) < _NULL:
        return None
    return _Noise(values, float(np.median(values)), max(background.mad(values), _LEAST))


def _evidence(light: _Light, noise: _Noise, at: np.ndarray) -> float:
    """Logarithm of how much likelier spots at the places (N, 2) are than none."""
    score = np.clip(noise.score(light.at(at)), -_MOST, _MOST)[:, None]
    m = np.array(_MEANS)
    # Of a Gaussian plus an exponential of mean m, over the Gaussian.
    ratio = 1 / (2 * m**2) - score / m + log_ndtr(score - 1 / m) - np.log(m)
    ratio += score**2 / 2 + np.log(2 * np.pi) / 2
    return float(ratio.sum(0).max())


def _streaked(light: _Light, noise: _Noise, at: np.ndarray) -> bool:
    """Whether it is as bright beside the places (N, 2) in some direction, as along a streak."""
    beside = at[:, None] + _STREAK_AT * light.width * _circle(_POINTS)
    mean = light.at(beside.reshape(-1, 2)).reshape(len(at), -1).mean(0)
    return bool(mean.max() - noise.middle > _STREAK * (light.at(at).mean() - noise.middle))


def _corners(spots: SpotList, mapping: Mapping, found: Indexed) -> np.ndarray:
    """Straight q (4, 2) of an image's corners, 1/angstrom."""
    height, width = spots.measured.shape
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]])
    return found.warp(mapping.q(corners - spots.centre))


def _indices(corners: np.ndarray) -> np.ndarray:
    """(N, 2) whole indices between those (4, 2) of an image's corners."""
    low, high = np.floor(corners.min(0)).astype(int), np.ceil(corners.max(0)).astype(int)
    axes = (np.arange(a, b + 1) for a, b in zip(low, high, strict=True))
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)


def _between(indices: np.ndarray, basis: np.ndarray, finer: np.ndarray) -> np.ndarray:
    """Places (N, 2) of a finer reciprocal lattice that are none of the coarser one's.

    Args:
        indices: all places (M, 2) of the lattice.
        basis: (2, 2) of the coarser one, in terms of the lattice's; its points hold the lattice's.
        finer: (2, 2) of the finer one, whose points hold those of the coarser.
    """
    count = round(1 / abs(np.linalg.det(finer)))
    steps = np.stack(np.meshgrid(*(np.arange(count),) * 2), -1).reshape(-1, 2)
    parts = np.unique(np.round(steps @ finer, 9) % 1, axis=0)
    own = parts @ np.linalg.inv(basis)
    parts = parts[(np.abs(own - np.rint(own)) > 1e-6).any(1)]
    return (indices[:, None] + parts).reshape(-1, 2)


def _circle(count: int) -> np.ndarray:
    angle = np.arange(count) * 2 * np.pi / count
    return np.stack([np.cos(angle), np.sin(angle)], 1)
