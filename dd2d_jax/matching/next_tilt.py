"""Which tilt to take next: the one whose pattern tells the first candidates apart best."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

import diffraction as dx
from dd2d_jax.lattices.indexed import Indexed
from dd2d_jax.matching.evidence import SOFT
from dd2d_jax.matching.hypotheses import TEMPERATURE
from dd2d_jax.refinement.fit_model import respond
from dd2d_jax.refinement.refine import tilt_in_setting
from dd2d_jax.spots import atom_slots, power_of_two
from diffraction.crystal import reciprocal
from diffraction.kinematic import ewald_qz


class _Found(Protocol):
    """What is needed of a `found.Found`, which asks this module."""

    candidates: Sequence[Any]
    indexed: Indexed


# Directions of a tilt that are compared.
_DIRECTIONS = 24
# Error of the logarithm of an intensity: structures, scattering and detectors together.
_NOISE = 0.3
# Tilts that tell apart nearly as well as the best are compared by the heights they determine.
_NEARLY = 0.97
# Angstrom, what is not known of a height before.
_HEIGHT = 0.1


@dataclasses.dataclass(frozen=True)
class NextTilt:
    """A proposal.

    Attributes:
        tilt: degrees about x and y of the pattern, as in `dx.simulate`.
        separation: probability that the pattern there tells the true one of two candidates,
            drawn by their probabilities, from the other; NaN where there is one candidate only.
        height_sigma: angstrom, what a second pattern leaves uncertain of the first candidate's
            heights (root mean square); 0.1 is what was not known before.
    """

    tilt: tuple[float, float]
    separation: float
    height_sigma: float


def next_tilt(
    found: _Found, radiation: dx.Electrons | dx.Xrays, size: float = 20.0, q_max: float = 1.25
) -> NextTilt:
    """The tilt of `size` degrees whose pattern would separate the first candidates best.

    Patterns of all candidates are simulated at tilts of this size in every direction. Two are
    confused with the probability exp(-d^2 / 8), d^2 the squared differences of their log
    intensities in units of their errors (Bhattacharyya's bound for normal errors). Of tilts that
    separate nearly alike, the one that determines the first candidate's heights best.

    Args:
        found: from `retrieve`; its candidates' probabilities weigh.
        radiation: of the pattern to be taken.
        size: degrees.
        q_max: how far spots are seen, 1/angstrom.

    Raises:
        ValueError: no candidates, or a size that is not between 0 and 60 degrees.
    """
    if not found.candidates:
        raise ValueError("there are no candidates to tell apart")
    if not 0 < size <= 60:
        raise ValueError(f"size must be above 0 and at most 60 degrees, got {size}")
    rods = dx.reflections(found.indexed.lattice, q_max)
    rods = rods[(rods != 0).any(-1)]
    flat = rods @ np.linalg.inv(found.indexed.lattice).T
    angles = np.arange(_DIRECTIONS) * 2 * np.pi / _DIRECTIONS
    tilts = size * np.stack([np.cos(angles), np.sin(angles)], -1)
    weights = np.array([c.probability for c in found.candidates])
    weights = np.where(np.isfinite(weights), weights, 1.0) + 1e-6
    weights = weights / weights.sum()
    logs, slopes = _patterns(found, radiation, flat, tilts)
    separations = np.array([_separation(weights, one) for one in logs.swapaxes(0, 1)])
    heights = np.array([_height_sigma(one) for one in slopes])
    if len(weights) == 1:
        best = int(heights.argmin())
        return NextTilt(tuple(tilts[best].tolist()), float("nan"), float(heights[best]))
    good = separations >= _NEARLY * separations.max()
    best = int(np.where(good, heights, np.inf).argmin())
    return NextTilt(
        tuple(tilts[best].tolist()), float(separations[best]), float(heights[best])
    )


def _patterns(
    found: _Found, radiation: dx.Electrons | dx.Xrays, flat: np.ndarray, tilts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Log intensities (n, D, K) of all candidates on one scale, at rods `flat` (K, 2) of the
    pattern, and the first one's slopes by its heights (D, K, N), 1/angstrom."""
    crystals = [dx.Crystal.from_ase(c.structure) for c in found.candidates]
    numbers = np.asarray(dx.stack(crystals).numbers)
    batch = dx.stack(crystals, power_of_two(max(int(atom_slots(numbers).max()), 8)))
    hk, turned = [], []
    for c in found.candidates:
        scale = np.linalg.norm(c.axes[0])
        frame = c.axes / scale
        own = flat @ frame.T / scale
        indices = np.rint(own @ np.asarray(c.query.lattice).T).astype(int)
        # A layer seen from below: the mirrored pattern, spots at q and -q exchanged.
        hk.append(indices if np.linalg.det(frame) > 0 else -indices)
        turned.append([tilt_in_setting(tilt, frame) for tilt in tilts])
    b = np.array([c.b_iso for c in found.candidates])
    # Few shapes are compiled: the padding has no spots.
    count = len(flat)
    room = power_of_two(max(count, 64)) - count
    hk = np.pad(np.array(hk), [(0, 0), (0, room), (0, 0)])
    arrays = (jnp.asarray(np.array(x), jnp.float32) for x in (hk, turned, b))
    logs, slopes = _logs(batch, *arrays, radiation)
    present = np.asarray(batch.numbers[0]) > 0
    return np.asarray(logs)[..., :count], np.asarray(slopes[0])[:, :count, present]


@jax.jit
def _logs(batch, hk, tilts, b, radiation) -> tuple[jax.Array, jax.Array]:
    def one(crystal, hk, tilt, b):
        flat = jnp.matmul(hk, reciprocal(crystal.lattice), precision="highest")
        height = jnp.nan_to_num(ewald_qz(flat, radiation.wavelength, tilt))
        q = jnp.concatenate([flat, height[:, None]], 1)
        warm = jnp.where(crystal.numbers > 0, b, 0.0)
        answer = respond(
            crystal.numbers, crystal.positions, warm, q, radiation, crystal.occupancy
        )
        level = SOFT * jnp.max(jnp.where((hk != 0).any(-1), answer.intensity, 0.0))
        slopes = answer.by_position[..., 2] / (answer.intensity + level)[:, None]
        return jnp.log(answer.intensity + level), slopes

    each = jax.vmap(one, (None, None, 0, None))
    return jax.vmap(each)(batch, hk, tilts, b)


def _separation(weights: np.ndarray, logs: np.ndarray) -> float:
    """Of candidates (n,) with log intensities (n, K)."""
    # The scale is not known.
    logs = logs - logs.mean(1, keepdims=True)
    squared = ((logs[:, None] - logs[None]) ** 2).sum(-1) / (2 * _NOISE**2 * TEMPERATURE)
    pairs = np.outer(weights, weights)
    np.fill_diagonal(pairs, 0)
    return float((pairs * (1 - np.exp(-squared / 8))).sum() / max(pairs.sum(), 1e-12))


def _height_sigma(slopes: np.ndarray) -> float:
    """Root mean square uncertainty of heights, of slopes (K, N)."""
    slopes = slopes - slopes.mean(0) - slopes.mean(1, keepdims=True)
    information = slopes.T @ slopes / _NOISE**2 + np.eye(slopes.shape[1]) / _HEIGHT**2
    return float(np.sqrt(np.diagonal(np.linalg.inv(information)).mean()))
