"""The lattice behind a list of spots, and every setting in which it may have been indexed."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import numpy as np

import diffraction as dx
from dd2d_jax.lattices.choice import best_explanation, refusal, symmetric
from dd2d_jax.lattices.indexed import Indexed
from dd2d_jax.lattices.members import settle
from dd2d_jax.lattices.notes import notes
from dd2d_jax.lattices.origin import CERTAIN, Rival, rival
from dd2d_jax.lattices.parents import with_alternatives, with_parent
from dd2d_jax.lattices.reduction import reduce
from dd2d_jax.lattices.sets import parent
from dd2d_jax.lattices.warp import Warp
from dd2d_jax.spots import Spots, power_of_two, select
from dd2d_jax.util.errors import PatternError

# Spots weaker than this, relative to the strongest, say nothing about the lattice.
_FAINT = 1e-5
# The strongest of so many spots say what the lattice is; more take minutes.
_MOST = 1500
# Fewer spots have no lattice that chance would not give.
_FEWEST = 4
# A further lattice has so many spots of its own at least.
_OWN = 5
# Bases whose lengths differ by less than this, or angles by less than this, are all tried.
_LENGTH_TOLERANCE = 0.03
_ANGLE_TOLERANCE = 2.5
# Integer changes of basis, of entries -1, 0 and 1.
_CHANGES = np.array(list(itertools.product((-1, 0, 1), repeat=4))).reshape(-1, 2, 2)
_CHANGES = _CHANGES[np.abs(np.linalg.det(_CHANGES)).round() == 1]


def check(pattern: dx.Pattern) -> tuple[np.ndarray, np.ndarray]:
    """Spots q (K, 2) and intensities (K,) of a single pattern, relative to the strongest.

    The central beam (|q| < 0.02 1/angstrom) is left out.

    Raises:
        PatternError: not a single pattern, no spots, all masked, or values that are not finite
            or negative.
    """
    return checked(pattern)[:2]


def checked(pattern: dx.Pattern) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray]:
    """q, intensity, its uncertainty and the rows among the unmasked spots, see `check`."""
    mask = np.asarray(pattern.mask, bool)
    if mask.ndim != 1:
        raise PatternError(f"a single pattern is needed, got a batch of shape {mask.shape}")
    if mask.size == 0 or not mask.any():
        raise PatternError("the pattern is empty: every spot is masked, or there is none")
    q = np.asarray(pattern.q, float)[mask]
    intensity = np.asarray(pattern.intensity, float)[mask]
    named = {"q": q, "intensity": intensity}
    if pattern.sigma is not None:
        named["sigma"] = np.asarray(pattern.sigma, float)[mask]
    for name, values in named.items():
        bad = ~np.isfinite(values).reshape(len(values), -1).all(1)
        if bad.any():
            raise PatternError(f"spot {int(np.argmax(bad))}: {name} is not a finite number")
    for name in ("intensity", "sigma"):
        values = named.get(name, np.zeros(1))
        if (values < 0).any():
            row = int(np.argmax(values < 0))
            hint = "; subtract less background" if name == "intensity" else ""
            raise PatternError(f"spot {row}: {name} {values[row]:g} is negative{hint}")
    rows = np.flatnonzero(np.linalg.norm(q, axis=1) > 0.02)
    if len(rows) == 0 or intensity[rows].max() <= 0:
        raise PatternError("the pattern has no spot with an intensity except the central beam")
    strongest = intensity[rows].max()
    sigma = named["sigma"][rows] / strongest if "sigma" in named else None
    return q[rows], intensity[rows] / strongest, sigma, rows


def find(pattern: dx.Pattern, tolerance: float = 0.02) -> Indexed:
    """The coarsest reciprocal lattice through the central beam that explains the spots.

    The first of `find_all`, which see for the arguments and errors.
    """
    return find_all(pattern, tolerance)[0]


def find_all(pattern: dx.Pattern, tolerance: float = 0.02, most: int = 4) -> list[Indexed]:
    """All reciprocal lattices through the central beam that the spots need, most spots first.

    Several for twisted layers, heterostructures and grains; one for a crystal, its superstructure
    included. Spots at which lattices coincide belong to each of them. Spots at sums of two
    lattices' vectors are double diffraction and make no lattice of their own.

    Args:
        pattern: a single pattern.
        tolerance: how far a spot may lie from its place at most, 1/angstrom, or 15 % of the
            shortest reciprocal vector, if that is less; where the spots lie closer, so do those
            that are taken.
        most: number of lattices at most.

    Raises:
        PatternError: see `check`; or fewer than two thirds of the spots lie on lattices, or random
            spots would lie on one as well.
        ValueError: `tolerance` or `most` is not positive.
    """
    if tolerance <= 0 or most < 1:
        raise ValueError(f"tolerance and most must be positive, got {tolerance} and {most}")
    found = _found(pattern, tolerance, most, np.zeros(2))
    if len(found) == 1:
        return [_at_its_origin(pattern, *found[0], tolerance)]
    return [one for one, _ in found]


def _at_its_origin(
    pattern: dx.Pattern, found: Indexed, other: Rival | None, tolerance: float
) -> Indexed:
    """The lattice about the other point, where its intensities are clearly symmetric about that."""
    if other is None or other.significance < CERTAIN:
        return found
    shift = found.warp.measured(other.hk @ np.linalg.inv(found.lattice).T)
    try:
        again, _ = _found(pattern, tolerance, 1, shift)[0]
    except PatternError:
        return found
    return again if again.explained > found.explained - 0.05 else found


def _found(
    pattern: dx.Pattern, tolerance: float, most: int, origin: np.ndarray
) -> list[tuple[Indexed, Rival | None]]:
    """What `find_all` finds about an origin (2,), 1/angstrom, and each lattice's other origin."""
    pattern = dataclasses.replace(pattern, q=np.asarray(pattern.q, float) - origin)
    q, intensity, sigma, rows = checked(pattern)
    keep = np.flatnonzero(intensity > _FAINT)
    order = keep[np.argsort(-intensity[keep], kind="stable")][:_MOST]
    q, intensity, rows = q[order], intensity[order], rows[order]
    sigma = sigma if sigma is None else sigma[order]
    if len(q) < _FEWEST:
        raise PatternError(
            f"{len(q)} spots are too few to find a lattice; at least {_FEWEST} are needed"
        )
    if np.linalg.svd(q, compute_uv=False)[1] < 0.02:
        raise PatternError("the spots lie on a line: they span no 2D lattice")
    found, warp = best_explanation(q, intensity, tolerance, most)
    if not found.fits:
        raise PatternError(refusal(q, intensity, tolerance))
    noise = np.ones(len(q))
    if sigma is not None:
        noise = sigma / np.maximum(intensity, 1e-12)
        noise = np.clip(noise / max(float(np.median(noise)), 1e-12), 0.7, 3.0)
    settled = []
    for i, fit in enumerate(found.fits):
        others = np.any([f.good for j, f in enumerate(found.fits) if j != i], axis=0)
        others = np.broadcast_to(others, len(q))
        basis, hk, good, own = settle(fit, warp(q), noise, others, tolerance)
        settled.append((basis, hk, good, warp.then(own)))
    settled = _distinct(settled)
    if len(settled) == 1:
        basis, hk, good, whole = settled[0]
        furthest = float(np.linalg.norm(hk[good] @ basis, axis=1).max())
        basis, whole = symmetric(basis, whole, furthest)
        settled = [(basis, hk, good, whole)]
    out = [_indexed(one, q, intensity, sigma, rows, origin) for one in settled]
    if len(keep) > _MOST:
        note = f"of {len(keep)} spots the strongest {_MOST} were used"
        out = [(dataclasses.replace(one, notes=(note, *one.notes)), other) for one, other in out]
    return out


def _distinct(settled: list[tuple]) -> list[tuple]:
    """Without further lattices that have become one before them, or have few spots of their own."""
    out: list[tuple] = []
    for one in sorted(settled, key=lambda s: -int(s[2].sum())):
        new = one[2] & ~np.any([s[2] for s in out], axis=0) if out else one[2]
        if not out or new.sum() >= _OWN:
            out.append(one)
    return out


def _indexed(
    settled: tuple[np.ndarray, np.ndarray, np.ndarray, Warp],
    q: np.ndarray,
    intensity: np.ndarray,
    sigma: np.ndarray | None,
    rows: np.ndarray,
    origin: np.ndarray,
) -> tuple[Indexed, Rival | None]:
    basis, hk, good, warp = settled
    coarse, _ = parent(hk[good], basis)
    good = np.flatnonzero(good)
    good = good[np.argsort(rows[good])]
    direct = np.linalg.inv(basis).T
    change = reduce(direct)
    lattice, hk = change @ direct, hk[good] @ change.T
    straight = warp(q[good])
    misfit = straight - hk @ np.linalg.inv(lattice).T
    out = Indexed(
        lattice,
        straight,
        hk,
        intensity[good],
        len(good) / len(q),
        float(np.sqrt((misfit**2).sum(1).mean())),
        rows[good],
        _uncertainties(lattice, hk, misfit),
        None if sigma is None else sigma[good],
        float(intensity[good].sum() / intensity.sum()),
        warp=Warp(origin).then(warp),
    )
    if coarse is not None:
        out = with_parent(out, np.linalg.inv(coarse @ basis).T)
    out = with_alternatives(out)
    other = rival(out.hk, np.linalg.inv(out.lattice).T, out.intensity)
    return dataclasses.replace(out, notes=notes(out, len(rows), other)), other


def _uncertainties(lattice: np.ndarray, hk: np.ndarray, misfit: np.ndarray) -> np.ndarray:
    """Of a, b (angstrom), the angle and the rotation (degrees), by propagation of errors."""
    variance = (misfit**2).sum() / (2 * len(hk) - 4)
    # Of a column of the reciprocal basis; both columns alike, and independent of each other.
    covariance = variance * np.linalg.inv(hk.T @ hk)
    # A change d of the reciprocal basis changes the lattice L by -L d^T L.
    length = np.linalg.norm(lattice, axis=1)
    along = lattice / length[:, None]
    across = np.stack([-along[:, 1], along[:, 0]], 1) / length[:, None]
    terms = []
    for i in range(2):
        for j in range(2):
            unit = np.zeros((2, 2))
            unit[i, j] = 1
            step = -lattice @ unit.T @ lattice
            turns = (across * step).sum(1)
            terms.append([*(along * step).sum(1), turns[1] - turns[0], turns[0]])
    jacobian = np.array(terms).reshape(2, 2, 4)
    out = np.sqrt(np.einsum("ijn,ik,kjn->n", jacobian, covariance, jacobian))
    return out * [1, 1, np.rad2deg(1), np.rad2deg(1)]


def twist(first: Indexed, second: Indexed) -> tuple[float, float]:
    """The angle between two lattices and its standard uncertainty, degrees.

    Modulo the lattices' own rotations and in either sense: 0 to 30 for two hexagonal lattices, to
    45 for square ones, to 90 for others; to 15 for a hexagonal one on a square one. Lattices count
    as hexagonal or square within the tolerance of `settings`.
    """
    angles, variances, periods = zip(*(_orientation(i) for i in (first, second)), strict=True)
    period = int(np.gcd(*periods))
    apart = (angles[1] - angles[0] + period / 2) % period - period / 2
    return float(abs(apart)), float(np.sqrt(sum(variances)))


def _orientation(indexed: Indexed) -> tuple[float, float, int]:
    """A lattice's angle (degrees), its variance and the rotation that repeats the lattice."""
    a, b = indexed.lattice
    count = len(settings(indexed.lattice))
    if count not in (8, 12):
        return indexed.rotation, float(indexed.sigma[3]) ** 2, 180
    period = 60 if count == 12 else 90
    # The mean over the vectors that symmetry makes equal does not know a strain.
    vectors = np.array([a, b, a + b] if count == 12 else [a, b])
    phases = np.exp(2j * np.pi * np.arctan2(vectors[:, 1], vectors[:, 0]) / np.deg2rad(period))
    angle = np.angle(phases.mean()) / (2 * np.pi) * period
    # Of a turn of all spots together.
    spread = indexed.residual**2 * len(indexed.q) / (2 * len(indexed.q) - 4)
    return float(angle), float(np.rad2deg(1) ** 2 * spread / (indexed.q**2).sum()), period


def rescaled(indexed: Indexed, scale: float) -> Indexed:
    """The same with every q multiplied by `scale`."""
    return dataclasses.replace(
        indexed, lattice=indexed.lattice / scale, q=indexed.q * scale
    )


def settings(lattice: np.ndarray) -> list[np.ndarray]:
    """Integer matrices (2, 2) of all bases that could be the canonical one, within tolerance.

    Both hands are among them: a layer seen from below shows the mirrored pattern.
    """
    cells = _CHANGES @ np.asarray(lattice, float)
    length = np.linalg.norm(cells, axis=2)
    cosine = (cells[:, 0] * cells[:, 1]).sum(1) / length.prod(1)
    right, wide = np.cos(np.deg2rad([90 - _ANGLE_TOLERANCE, 120 + _ANGLE_TOLERANCE]))
    some = (wide <= cosine) & (cosine <= right)
    return list(_CHANGES[some & (length[:, 0] <= length[:, 1] * (1 + _LENGTH_TOLERANCE))])


def _cells(indexed: Indexed) -> list[tuple[np.ndarray, np.ndarray]]:
    """The cell found, those of twice its area and its equals, (2, 2), and the spots' indices.

    A superstructure may be too weak to be seen: the crystal's cell is then larger than the one
    that explains the spots.
    """
    out = []
    for change in ([[1, 0], [0, 1]], [[2, 0], [0, 1]], [[1, 0], [0, 2]], [[1, 1], [-1, 1]]):
        cell = np.array(change) @ indexed.lattice
        change = reduce(cell) @ change
        out.append((change @ indexed.lattice, indexed.hk @ change.T))
    for cell in indexed.alternatives:
        hk = np.rint(indexed.q @ cell.T)
        # A main cell, which does not hold all spots, has its own retrieval.
        if abs(np.linalg.det(cell)) > 0.99 * abs(np.linalg.det(indexed.lattice)):
            out.append((cell, hk.astype(int)))
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
        PatternError: nothing within q_max, or spots on a line.
    """
    keep = (np.linalg.norm(indexed.q, axis=1) <= q_max) & (indexed.intensity >= floor)
    if not keep.any():
        raise PatternError(f"no spot lies within q_max = {q_max} 1/angstrom")
    if np.linalg.matrix_rank(indexed.hk[keep]) < 2:
        raise PatternError(
            f"the spots within q_max = {q_max} 1/angstrom lie on a line, which tells no cell"
        )
    sigma = None if indexed.intensity_sigma is None else indexed.intensity_sigma[keep]
    made = [
        _pairs(change, cell, indexed.q[keep], hk[keep], indexed.intensity[keep], sigma)
        for cell, hk in _cells(indexed)
        for change in settings(cell)
    ]
    # Few shapes are compiled: both sizes are powers of two.
    size = power_of_two(max(32, *(len(m[0]) for m in made)))
    count = len(made)
    made += made[-1:] * (power_of_two(count) - count)
    q, hk, intensity, measured, error = (
        np.stack([np.pad(m[i], [(0, size - len(m[i])), (0, 0)]) for m in made]) for i in range(5)
    )
    q, intensity, error = (x.astype(np.float32) for x in (q, intensity, error))
    error = None if sigma is None else error
    chosen = select(q, hk.astype(np.int32), intensity, measured, tokens, error)
    return jax.tree.map(lambda x: np.asarray(x)[:count], chosen)


def frames(indexed: Indexed) -> np.ndarray:
    """Axes (S, 2, 2) of the settings of `canonical_spots`, x and y as rows, in the pattern's."""
    return np.array(
        [_frame(*(change @ cell)) for cell, _ in _cells(indexed) for change in settings(cell)]
    )


def _frame(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    x = a / np.linalg.norm(a)
    y = np.array([-x[1], x[0]])
    return np.stack([x, y if b @ y > 0 else -y])


def _pairs(
    change: np.ndarray,
    lattice: np.ndarray,
    q: np.ndarray,
    hk: np.ndarray,
    intensity: np.ndarray,
    sigma: np.ndarray | None,
) -> tuple[np.ndarray, ...]:
    """q, hk (T, 2) of the upper half plane; intensity, measured and sigma (T, 2); in one setting.

    Spots of the same indices become one, their mean.
    """
    hk = hk @ change.T
    q = q @ _frame(*(change @ lattice)).T
    upper = (hk[:, 0] > 0) | ((hk[:, 0] == 0) & (hk[:, 1] > 0))
    sign = np.where(upper, 1, -1)[:, None]
    unique, place = np.unique(hk * sign, axis=0, return_inverse=True)
    values, weight, variance = np.zeros((3, len(unique), 2))
    mean = np.zeros((len(unique), 2))
    side = np.where(upper, 0, 1)
    np.add.at(values, (place, side), intensity)
    np.add.at(weight, (place, side), 1)
    np.add.at(mean, place, q * sign)
    mean /= weight.sum(1, keepdims=True)
    if sigma is not None:
        np.add.at(variance, (place, side), sigma**2)
    count = np.maximum(weight, 1)
    return mean, unique, values / count, weight > 0, np.sqrt(variance) / count
