"""What became of strong spots: widened by a gamma or a logarithm, or saturated.

Both show in the shape of spots, which is the same for weak and for strong ones where grey levels
are proportional to counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq

from dd2d_jax.images import peaks
from dd2d_jax.images.background import mad
from dd2d_jax.images.pixel_values import between

# Powers that undo a gamma; nearer to 1 than the first it is no gamma but errors of a fit.
_POWERS = (1.3, 3.0)
# Natural logarithms that a logarithmic scale may have from its darkest level to its brightest.
_LOGS = (1.5, 12.0)
# A logarithm widens strong spots so much that the scatter falls by this factor without it.
_BETTER = 3.0
# So many spots say it, by so many standard deviations.
_SPOTS, _SURE = 16, 5.0
# A power is known where one that differs by this factor shows by so many.
_SHIFT, _SEEN = 1.15, 2.0
# These stand so many levels above what is around them, with this share of the top level at most.
_STEPS, _UNDER = 16.0, 0.98
# What is around them scatters by less than this share of their height.
_EVEN = 0.1
# The profile that saturated spots are compared with: of so many strong others, at least of so few.
_STACK, _FEWEST = 16, 3
# It counts to so many widths, and where it has this share of its top; saturated spots, once they
# are known, tell more of it.
_REACH, _FLANK, _ROUNDS = 3.5, 0.002, 4
# A flank of fewer pixels says nothing.
_PIXELS = 6
# The uncertainty of what is inferred beyond the sum, relative to it.
_INFERRED = 0.15


class _Stamps:
    """Squares of an image about spots, `radius` (S, S) pixels from them."""

    def __init__(self, position: np.ndarray, width: float) -> None:
        reach = int(np.ceil(4 * width)) + 1
        y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
        self.place = position[:, None, None] + np.stack([x, y], -1)
        self.radius = np.hypot(x, y)
        self.disc, self.ring = peaks.disc(self.radius, width), peaks.ring(self.radius, width)

    def of(self, image: np.ndarray) -> np.ndarray:
        """(K, S, S) what an image has there, between pixels."""
        return between(image, self.place)

    def above(self, stamps: np.ndarray) -> np.ndarray:
        """(K, S, S) less the median of each one's ring."""
        return stamps - np.median(stamps[:, self.ring], axis=1)[:, None, None]


class Tone(NamedTuple):
    """What grey levels are of counts: their power, or a logarithm.

    Attributes:
        power: of the counts.
        logs: levels are log(1 + counts / c), and this is that logarithm at the top level; 0 where
            they are a power.
        sure: whether the spots' shape tells it, so that the power is known as well as `_SHIFT`.
    """

    power: float = 1.0
    logs: float = 0.0
    sure: bool = False

    @property
    def linear(self) -> bool:
        """Whether levels are counts."""
        return self.power == 1 and not self.logs

    def counts(self, image: np.ndarray) -> np.ndarray:
        """(H, W) counts, the same at the top level, of grey levels that are none below 0."""
        top = image.max()
        if self.logs:
            return top * np.expm1(self.logs * image / top) / np.expm1(self.logs)
        return top * (image / top) ** (1 / self.power)


def tone(image: np.ndarray, step: float, position: np.ndarray, width: float) -> Tone:
    """What grey levels are of counts; the counts themselves where nothing shows another.

    With a gamma below 1 or a logarithm strong spots become wide, and weak ones, on their
    background, do not. The inverse is searched for that makes the light's concentration
    independent of its strength.

    Args:
        image: (H, W) grey levels, none below 0.
        step: from one grey level to the next.
        position: (K, 2) column and row of spots, pixels.
        width: standard deviation of a spot, pixels.
    """
    if len(position) < _SPOTS:
        return Tone()
    top, stamps = image.max(), _Stamps(position, width)
    seen, core = stamps.of(image), stamps.radius <= width
    light = stamps.above(seen)
    # The shape of weaker ones is that of rounding, of noise or of the halo's slope.
    above = light[:, stamps.disc].max(1)
    clear = (seen[:, stamps.disc].max(1) < _UNDER * top) & (above > _STEPS * step)
    clear &= seen[:, stamps.ring].std(1) < _EVEN * above
    inside, whole = light[:, core].sum(1), light[:, stamps.disc].sum(1)
    clear &= (inside > 0) & (whole > inside)
    if clear.sum() < _SPOTS:
        return Tone()
    seen = seen[clear] / top
    # Spots may be wider farther out.
    away = np.linalg.norm(position - position.mean(0), axis=1)[clear]

    def trend(levels: np.ndarray) -> _Trend:
        """How the concentration of levels that stand for counts grows with their strength."""
        light = stamps.above(levels)
        inside = np.maximum(light[:, core].sum(1), 1e-30)
        share = inside / np.maximum(light[:, stamps.disc].sum(1), inside)
        terms = np.stack([np.ones_like(away), np.log(inside), (away / away.max()) ** 2], 1)
        return _slope(terms, np.log(share))

    def power(x: float) -> _Trend:
        return trend(seen**x)

    def logs(x: float) -> _Trend:
        return trend(np.expm1(x * seen))

    plain = power(1.0)
    if plain.over > -_SURE:
        return Tone(sure=_between(power, 1.0))
    found = []
    for of, limits in ((power, _POWERS), (logs, _LOGS)):
        if of(limits[0]).slope < 0 < of(limits[1]).slope:
            x = brentq(lambda x, of=of: of(x).slope, *limits, xtol=0.01)
            left, sure = of(x).scatter, _between(of, x)
            if of is power:
                found.append((left, Tone(1 / x, sure=sure)))
            elif left < plain.scatter / _BETTER:
                found.append((left, Tone(logs=x, sure=sure)))
    return min(found)[1] if found else Tone()


class _Trend(NamedTuple):
    """A linear fit: one slope, that over its uncertainty, and the scatter of what was fitted."""

    slope: float
    over: float
    scatter: float


def _between(of: Callable[[float], _Trend], x: float) -> bool:
    """Whether somewhat less shows as too little and somewhat more as too much."""
    return of(x / _SHIFT).over < -_SEEN and of(x * _SHIFT).over > _SEEN


def _slope(terms: np.ndarray, values: np.ndarray) -> _Trend:
    """Of the second of the terms (N, 3), robustly."""
    weight = np.ones(len(values))
    for _ in range(6):
        root = np.sqrt(weight)[:, None]
        fit = np.linalg.lstsq(terms * root, values * root[:, 0], rcond=None)[0]
        left = values - terms @ fit
        scatter = mad(left) + 1e-6
        weight = 1 / np.maximum(np.abs(left) / scatter / 1.5, 1)
    error = scatter * np.sqrt(np.linalg.pinv(terms.T @ terms)[1, 1])
    return _Trend(float(fit[1]), float(fit[1] / error), float(mad(values)))


def unsaturated(
    residual: np.ndarray,
    full: np.ndarray,
    position: np.ndarray,
    intensity: np.ndarray,
    sigma: np.ndarray,
    over: np.ndarray,
    width: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Intensities (K,) and uncertainties (K,) of spots, saturated ones by what their flanks say.

    Args:
        residual: (H, W) the image less its background.
        full: (H, W) saturated pixels.
        position: (K, 2) column and row, pixels.
        intensity: (K,) sums over the spots.
        sigma: (K,) their standard uncertainties.
        over: (K,) which of them are saturated.
        width: standard deviation of a spot, pixels.

    Returns:
        Intensities, never below the sums, and uncertainties; as large as the intensity where
        nothing of a saturated spot's flank is left, or no other spot shows the profile.
    """
    sigma = np.where(over, intensity, sigma)
    like = np.flatnonzero(~over)
    like = like[np.argsort(-intensity[like])][:_STACK]
    if not over.any() or len(like) < _FEWEST:
        return intensity, sigma
    rows, known = np.concatenate([like, np.flatnonzero(over)]), len(like)
    stamps = _Stamps(position[rows], width)
    light = stamps.above(stamps.of(residual))
    free = (stamps.of(full.astype(np.float32)) == 0) & (stamps.radius <= _REACH * width)
    whole = np.where(over[rows], 0.0, intensity[rows])
    for _ in range(_ROUNDS):
        told = (free * whole[:, None, None]).sum(0)
        profile = ((whole > 0)[:, None, None] * free * light).sum(0) / np.maximum(told, 1e-30)
        weight = free * np.where(profile > _FLANK * profile.max(), profile, 0.0)
        power = np.maximum((weight * profile).sum((1, 2)), 1e-30)
        fitted = (weight * light).sum((1, 2)) / power
        fitted = np.where((weight > 0).sum((1, 2)) >= _PIXELS, np.maximum(fitted, 0.0), 0.0)
        whole[known:] = fitted[known:]
    left = weight * (light - whole[:, None, None] * profile)
    # Neighbouring pixels err together, over a spot's width.
    scatter = np.sqrt((left**2).sum((1, 2)) * 4 * np.pi * width**2) / power
    more = whole - intensity[rows]
    more[:known] = 0.0
    rows, more, scatter = (x[more > 0] for x in (rows, more, scatter))
    out = intensity.copy()
    out[rows] += more
    sigma[rows] = np.minimum(np.hypot(scatter, _INFERRED * more), out[rows])
    return out, sigma
