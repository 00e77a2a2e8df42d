"""The lattice behind a list of spots, and every setting in which it may have been indexed."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import numpy as np

import diffraction as dx
from dd2d_jax.spots import Spots, power_of_two, select

# Spots weaker than this, relative to the strongest, say nothing about the lattice.
_FAINT = 1e-5
# Basis vectors are sought among this many of the strongest and of the nearest spots.
_STRONG = 24
# Cells larger than this (angstrom^2) explain any list of spots.
_MAX_AREA = 900.0
# Bases whose lengths differ by less than this, or angles by less than this, are all tried.
_LENGTH_TOLERANCE = 0.03
_ANGLE_TOLERANCE = 2.5


class PatternError(ValueError):
    """A pattern that cannot be used; the message is one line and says why."""


@dataclasses.dataclass(frozen=True)
class Indexed:
    """A pattern's spots on the lattice that explains them.

    Attributes:
        lattice: (2, 2) angstrom, Gauss-reduced, 90 to 120 degrees, in the pattern's frame.
        q: (K, 2) 1/angstrom.
        hk: (K, 2) integers.
        intensity: (K,) relative to the strongest.
        explained: share of the spots, by number, that lie on the lattice.
        residual: root mean square distance of the spots from the lattice's, 1/angstrom.
    """

    lattice: np.ndarray
    q: np.ndarray
    hk: np.ndarray
    intensity: np.ndarray
    explained: float
    residual: float


def check(pattern: dx.Pattern) -> tuple[np.ndarray, np.ndarray]:
    """Spots q (K, 2) and intensities (K,) of a single pattern, relative to the strongest.

    The central beam (|q| < 0.02 1/angstrom) is left out.

    Raises:
        PatternError: not a single pattern, no spots, all masked, or values that are not finite
            or negative.
    """
    mask = np.asarray(pattern.mask, bool)
    if mask.ndim != 1:
        raise PatternError(f"a single pattern is needed, got a batch of shape {mask.shape}")
    if mask.size == 0 or not mask.any():
        raise PatternError("the pattern is empty: every spot is masked, or there is none")
    q = np.asarray(pattern.q, float)[mask]
    intensity = np.asarray(pattern.intensity, float)[mask]
    for name, values in (("q", q), ("intensity", intensity)):
        bad = ~np.isfinite(values).reshape(len(values), -1).all(1)
        if bad.any():
            raise PatternError(f"spot {int(np.argmax(bad))}: {name} is not a finite number")
    if (intensity < 0).any():
        row = int(np.argmax(intensity < 0))
        raise PatternError(
            f"spot {row}: intensity {intensity[row]:g} is negative; subtract less background"
        )
    outer = np.linalg.norm(q, axis=1) > 0.02
    q, intensity = q[outer], intensity[outer]
    if len(q) == 0 or intensity.max() <= 0:
        raise PatternError("the pattern has no spot with an intensity beside the central beam")
    return q, intensity / intensity.max()


def find(pattern: dx.Pattern, tolerance: float = 0.02) -> Indexed:
    """The coarsest reciprocal lattice through the central beam that explains the spots.

    Bases are taken from the strongest spots and their differences; the one with the largest
    reciprocal cell among those that index nearly as many spots as the best is fitted by least
    squares.

    Args:
        pattern: a single pattern.
        tolerance: how far a spot may lie from its place, 1/angstrom, or 15 % of the shortest
            reciprocal vector, if that is less.

    Raises:
        PatternError: see `check`; or no 2D lattice explains at least two thirds of the spots.
    """
    q, intensity = check(pattern)
    keep = intensity > _FAINT
    q, intensity = q[keep], intensity[keep]
    if len(q) < 3:
        raise PatternError(f"{len(q)} spots are too few to find a lattice; 3 are needed at least")
    bases = _candidate_bases(q, intensity)
    if not len(bases):
        raise PatternError("the spots lie on a line: they span no 2D lattice")
    best = _coarsest(bases, q, intensity, tolerance)
    if best is None:
        raise PatternError(
            "no 2D lattice explains the spots: fewer than two thirds of them lie on any one"
        )
    basis, hk, good = best
    for _ in range(4):
        basis = np.linalg.lstsq(hk[good], q[good], rcond=None)[0]
        hk, good = _index(basis[None], q, tolerance)
        hk, good = hk[0], good[0]
    change = reduce(np.linalg.inv(basis).T)
    lattice, hk = change @ np.linalg.inv(basis).T, hk @ change.T
    misfit = q[good] - hk[good] @ np.linalg.inv(lattice).T
    return Indexed(
        lattice,
        q[good],
        hk[good].astype(int),
        intensity[good],
        float(good.mean()),
        float(np.sqrt((misfit**2).sum(1).mean())),
    )


def _candidate_bases(q: np.ndarray, intensity: np.ndarray) -> np.ndarray:
    """Pairs of short vectors (n, 2, 2) that may span the reciprocal lattice."""
    # Strong spots are surely real; near ones, however weak, tell a superstructure.
    strong = q[np.argsort(-intensity, kind="stable")[:_STRONG]]
    near = q[np.argsort(np.linalg.norm(q, axis=1), kind="stable")[:_STRONG]]
    some = np.unique(np.concatenate([strong, near]), axis=0)
    vectors = np.concatenate([some, (some[:, None] - some[None]).reshape(-1, 2)])
    upper = (vectors[:, 1] > 1e-9) | ((np.abs(vectors[:, 1]) <= 1e-9) & (vectors[:, 0] > 0))
    vectors = vectors[upper & (np.linalg.norm(vectors, axis=1) > 1 / 40)]
    vectors = vectors[np.argsort(np.linalg.norm(vectors, axis=1), kind="stable")]
    distinct: list[np.ndarray] = []
    for v in vectors:
        if all(np.linalg.norm(v - w) > 0.01 for w in distinct):
            distinct.append(v)
        if len(distinct) == 40:
            break
    pairs = np.array(list(itertools.combinations(distinct, 2))).reshape(-1, 2, 2)
    area = np.abs(np.linalg.det(pairs))
    lengths = np.linalg.norm(pairs, axis=-1).prod(-1)
    return pairs[(area > 1 / _MAX_AREA) & (area > 0.2 * lengths)]


def _index(bases: np.ndarray, q: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Nearest indices (n, K, 2) and whether each spot lies there (n, K)."""
    hk = np.rint(np.einsum("kd,nde->nke", q, np.linalg.inv(bases)))
    distance = np.linalg.norm(q - np.einsum("nkd,nde->nke", hk, bases), axis=-1)
    shortest = np.linalg.norm(bases, axis=-1).min(-1)
    limit = np.minimum(tolerance, 0.15 * shortest)[:, None]
    return hk, (distance < limit) & (hk != 0).any(-1)


def _coarsest(
    bases: np.ndarray, q: np.ndarray, intensity: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    # Bases come from single spots: fit each to the near spots first, then count all of them.
    radius = np.linalg.norm(q, axis=1)
    near = q[np.argsort(radius, kind="stable")[: max(8, len(q) // 3)]]
    hk, good = _index(bases, near, tolerance)
    weighted = hk * good[..., None]
    normal = np.einsum("nki,nkj->nij", weighted, hk)
    solvable = np.abs(np.linalg.det(normal)) > 0.5
    fitted = bases.copy()
    mixed = np.einsum("nki,kj->nij", weighted, near)
    fitted[solvable] = np.linalg.solve(normal[solvable], mixed[solvable])
    # A basis far from any lattice can be fitted by one without area.
    flat = np.abs(np.linalg.det(fitted)) < 1 / _MAX_AREA
    fitted[flat] = bases[flat]
    hk, good = _index(fitted, q, tolerance)
    share = good.mean(1)
    if share.max() < 2 / 3:
        return None
    area = np.abs(np.linalg.det(fitted))
    area = np.where(share >= share.max() - 0.05, area, 0)
    # Of all bases of the same lattice the one that fits best.
    distance = np.linalg.norm(q - np.einsum("nkd,nde->nke", hk, fitted), axis=-1)
    misfit = np.where(good, distance, 0).sum(1) / np.maximum(good.sum(1), 1)
    equal = area > 0.9 * area.max()
    best = int(np.argmin(np.where(equal, misfit, np.inf)))
    return fitted[best], hk[best], good[best]


def reduce(lattice: np.ndarray) -> np.ndarray:
    """The integer matrix (2, 2) that takes a lattice to its Gauss-reduced basis, 90 to 120 deg."""
    change = np.eye(2, dtype=int)
    for _ in range(100):
        a, b = change @ lattice
        if a @ a > b @ b * (1 + 1e-9):
            change = change[::-1]
            continue
        steps = int(np.rint(a @ b / (a @ a)))
        if steps == 0:
            break
        change = np.array([change[0], change[1] - steps * change[0]])
    a, b = change @ lattice
    if a @ b > 1e-9:
        change = np.array([change[0], -change[1]])
    return change


def settings(lattice: np.ndarray) -> list[np.ndarray]:
    """Integer matrices (2, 2) of all bases that could be the canonical one, within tolerance.

    Both hands are among them: a layer seen from below shows the mirrored pattern.
    """
    length_max = 1 + _LENGTH_TOLERANCE
    cosine = np.cos(np.deg2rad([90 - _ANGLE_TOLERANCE, 120 + _ANGLE_TOLERANCE]))
    out = []
    for entries in itertools.product((-1, 0, 1), repeat=4):
        change = np.array(entries).reshape(2, 2)
        if abs(round(np.linalg.det(change))) != 1:
            continue
        a, b = change @ lattice
        length_a, length_b = np.linalg.norm(a), np.linalg.norm(b)
        angle = a @ b / (length_a * length_b)
        if length_a <= length_b * length_max and cosine[1] <= angle <= cosine[0]:
            out.append(change)
    return out


def _cells(indexed: Indexed) -> list[tuple[np.ndarray, np.ndarray]]:
    """The cell found and those of twice its area, (2, 2) and the spots' indices there, reduced.

    A superstructure may be too weak to be seen: the crystal's cell is then larger than the one
    that explains the spots.
    """
    out = []
    for change in ([[1, 0], [0, 1]], [[2, 0], [0, 1]], [[1, 0], [0, 2]], [[1, 1], [-1, 1]]):
        cell = np.array(change) @ indexed.lattice
        change = reduce(cell) @ change
        out.append((change @ indexed.lattice, indexed.hk @ change.T))
    return out


def canonical_spots(
    indexed: Indexed, q_max: float, tokens: int, floor: float = _FAINT
) -> Spots:
    """The spots in every canonical setting, batch axis (S,) over the settings.

    Settings of the lattice found come first, then those of the three lattices of twice its area.

    Args:
        indexed: from `find`.
        q_max: spots beyond it are left out, 1/angstrom.
        tokens: number of Friedel pairs to keep.
        floor: spots weaker than this, relative to the strongest, are left out.

    Raises:
        PatternError: nothing within q_max.
    """
    keep = (np.linalg.norm(indexed.q, axis=1) <= q_max) & (indexed.intensity >= floor)
    if not keep.any():
        raise PatternError(f"no spot lies within q_max = {q_max} 1/angstrom")
    made = [
        _pairs(change, cell, indexed.q[keep], hk[keep], indexed.intensity[keep])
        for cell, hk in _cells(indexed)
        for change in settings(cell)
    ]
    # Few shapes are compiled: both sizes are powers of two.
    size = power_of_two(max(32, *(len(m[0]) for m in made)))
    count = len(made)
    made += made[-1:] * (power_of_two(count) - count)
    q, hk, intensity, measured = (
        np.stack([np.pad(m[i], [(0, size - len(m[i])), (0, 0)]) for m in made]) for i in range(4)
    )
    chosen = _select(
        q.astype(np.float32), hk.astype(np.int32), intensity.astype(np.float32), measured, tokens
    )
    return jax.tree.map(lambda x: np.asarray(x)[:count], chosen)


_select = jax.jit(select, static_argnums=4)


def _pairs(
    change: np.ndarray, lattice: np.ndarray, q: np.ndarray, hk: np.ndarray, intensity: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """q, hk (T, 2) of the upper half plane, intensity and measured (T, 2), in one setting."""
    hk = hk @ change.T
    a, b = change @ lattice
    x = a / np.linalg.norm(a)
    y = np.array([-x[1], x[0]])
    y = y if b @ y > 0 else -y
    q = q @ np.stack([x, y], 1)
    upper = (hk[:, 0] > 0) | ((hk[:, 0] == 0) & (hk[:, 1] > 0))
    sign = np.where(upper, 1, -1)[:, None]
    unique, place = np.unique(hk * sign, axis=0, return_inverse=True)
    values, weight = np.zeros((2, len(unique), 2))
    mean = np.zeros((len(unique), 2))
    side = np.where(upper, 0, 1)
    np.add.at(values, (place, side), intensity)
    np.add.at(weight, (place, side), 1)
    np.add.at(mean, place, q * sign)
    mean /= weight.sum(1, keepdims=True)
    return mean, unique, values / np.maximum(weight, 1), weight > 0
