"""A candidate against the measured pattern, spot by spot."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

import diffraction as dx
from dd2d_jax.refinement.refine import tilt_in_setting
from dd2d_jax.spots import Conditions, both_sides, half_plane, power_of_two, root

if TYPE_CHECKING:
    from dd2d_jax.images.measurement import Measured
    from dd2d_jax.lattices.indexed import Indexed
    from dd2d_jax.matching.found import Candidate

# Predicted spots weaker than this share of the strongest are left out where none was found.
FAINT = 0.01
# Bases that differ less than this, relative to squared lengths, are equivalent by symmetry.
_ALIKE = 0.03


@dataclasses.dataclass(frozen=True)
class Difference:
    """Measured less calculated, at the spots that the candidate was compared with.

    Attributes:
        q: (M, 2) 1/angstrom, as the pattern lies.
        amplitude: (M,) sqrt(I_observed) - sqrt(I_calculated), of the strongest spot's amplitude.
    """

    q: np.ndarray
    amplitude: np.ndarray


@dataclasses.dataclass(frozen=True)
class Predicted:
    """A candidate's spots on the measured lattice, those found and those predicted.

    Attributes:
        hk: (M, 2) indices in the candidate's cell.
        q: (M, 2) 1/angstrom, as the pattern lies.
        calculated: (M,) intensity on the scale of the pattern's strongest spot.
        spot: (M,) rows of the found spots in the pattern's `Indexed`; -1 where none was found.
        observed: (M,) their intensities on the same scale, straightened; NaN where none was found.
        sigma: (M,) standard uncertainty of `observed`; NaN where it is not known.
        hidden: (M,) True where none was found and the image was not measured.
    """

    hk: np.ndarray
    q: np.ndarray
    calculated: np.ndarray
    spot: np.ndarray
    observed: np.ndarray
    sigma: np.ndarray
    hidden: np.ndarray

    @property
    def seen(self) -> np.ndarray:
        """(M,) True where a spot was found."""
        return self.spot >= 0


@dataclasses.dataclass(frozen=True)
class Family:
    """Spots that the symmetry of the lattice makes equivalent; intensities as in `Predicted`.

    Attributes:
        hk: of the one that names it.
        q: mean length, 1/angstrom.
        rows: (n,) of the predicted spots.
        observed: mean, lowest and highest of those found; None where none was.
        calculated: mean, lowest and highest.
    """

    hk: tuple[int, int]
    q: float
    rows: np.ndarray
    observed: tuple[float, float, float] | None
    calculated: tuple[float, float, float]


def difference(candidate: Candidate) -> Difference:
    """What is left of the pattern when the candidate is taken away, as its R1 has it."""
    query = candidate.query
    pair, measured = np.asarray(query.q, float), np.asarray(query.measured, bool)
    q = np.concatenate([pair, -pair]) @ candidate.axes
    seen = np.concatenate([measured[:, 0], measured[:, 1]])
    observed, calculated = (
        np.sqrt(np.clip(np.concatenate([side[:, 0], side[:, 1]]), 0, None))
        for side in (np.asarray(query.intensity), np.asarray(candidate.simulated))
    )
    return Difference(q[seen], (observed - calculated)[seen])


def predict(
    candidate: Candidate,
    indexed: Indexed,
    measured: Measured | None = None,
    energy: float | None = None,
) -> Predicted:
    """The spots of a candidate: those that were found, and those that are missing.

    Intensities at the spots that the candidate was compared with are those of the comparison; all
    others are simulated at the tilt that it is read at for electrons of this energy (80 keV where
    it is not known: relative intensities of a layer hardly depend on it) and brought to the same
    scale. Those of a power of counts are straightened with the candidate's. Spots that were not
    found are left out where they are faint (`FAINT`) or not on the image.
    """
    query = candidate.query
    reciprocal = np.linalg.inv(np.asarray(query.lattice, float)).T @ candidate.axes
    hk, intensity = _simulated(candidate, indexed, reciprocal, energy or 80.0)
    by_hk = {tuple(i): value for i, value in zip(hk.tolist(), intensity.tolist(), strict=True)}
    compared = _compared(candidate)
    factor = _factor(compared, by_hk)
    by_hk = {i: factor * value for i, value in by_hk.items()} | compared
    found = _found(indexed, reciprocal)
    strongest = max(by_hk.values(), default=0.0)
    spots = [i for i, value in by_hk.items() if i in found or value > FAINT * strongest]
    hk = np.array(spots, int).reshape(-1, 2)
    rows = np.array([found.get(i, -1) for i in spots], int)
    seen, q = rows >= 0, hk @ reciprocal
    observed, sigma = (
        np.full(len(rows), np.nan) if values is None else np.where(seen, values[rows], np.nan)
        for values in root(indexed.intensity, indexed.intensity_sigma, candidate.power)
    )
    calculated = np.array([by_hk[i] for i in spots])
    inside, hidden = _on_image(measured, indexed, q)
    kept = inside | seen
    return Predicted(
        *(x[kept] for x in (hk, q, calculated, rows, observed, sigma, hidden & ~seen))
    )


def _on_image(
    measured: Measured | None, indexed: Indexed, q: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Which places q (M, 2) are on the image, and which of these it does not measure."""
    inside, hidden = np.ones(len(q), bool), np.zeros(len(q), bool)
    if measured is not None:
        pixel = np.rint(pixels(measured, indexed, q)[:, ::-1]).astype(int)
        area = measured.spots.measured
        inside = ((pixel >= 0) & (pixel < area.shape)).all(1)
        hidden[inside] = ~area[tuple(pixel[inside].T)]
    return inside, hidden


def pixels(measured: Measured, indexed: Indexed, q: np.ndarray) -> np.ndarray:
    """Column and row (M, 2) of places q (M, 2) on an image, where it is bent, too."""
    return measured.spots.centre + measured.mapping.pixels(indexed.warp.measured(q))


def _simulated(
    candidate: Candidate, indexed: Indexed, reciprocal: np.ndarray, energy: float
) -> tuple[np.ndarray, np.ndarray]:
    """Indices (M, 2) and intensities (M,) out to the last found spot."""
    reach = 1.01 * np.linalg.norm(indexed.q, axis=1).max()
    crystal = dx.Crystal.from_ase(candidate.structure)
    # On the measured lattice, and of a size that others have too.
    flat = np.linalg.inv(reciprocal).T
    hk = half_plane(flat[None], reach)[0]
    room = power_of_two(max(len(hk), 32)) - len(hk)
    padded = dx.stack([crystal], power_of_two(max(len(crystal.numbers), 4)))[0]
    # Its own cell may be smaller, and a tilt moves spots outwards.
    conditions = Conditions(dx.Electrons(energy), 1.2 * reach, candidate.b_iso, 1)
    tilt = (0.0, 0.0)
    if candidate.tilt is not None:
        frame = candidate.axes / np.linalg.norm(candidate.axes[0])
        tilt = tilt_in_setting(candidate.tilt, frame)
    rods = jnp.asarray(np.pad(hk, [(0, room), (0, 0)]))
    _, pairs = both_sides(padded, rods, conditions, tilt=jnp.asarray(tilt, jnp.float32))
    pairs = np.asarray(pairs, float)[: len(hk)]
    return np.concatenate([hk, -hk]), np.concatenate([pairs[:, 0], pairs[:, 1]])


def _compared(candidate: Candidate) -> dict[tuple[int, int], float]:
    """Intensities by hk at the spots that the candidate was compared with."""
    query = candidate.query
    hk, measured = np.asarray(query.hk), np.asarray(query.measured, bool)
    return {
        tuple((sign * hk[place]).tolist()): float(candidate.simulated[place, side])
        for side, sign in enumerate((1, -1))
        for place in np.flatnonzero(measured[:, side])
    }


def _factor(compared: dict, by_hk: dict) -> float:
    """By which intensities of rods are those that the candidate was compared with."""
    both = compared.keys() & by_hk.keys()
    mine = np.array([by_hk[i] for i in both])
    norm = float(mine @ mine)
    theirs = np.array([compared[i] for i in both])
    return float(mine @ theirs) / norm if norm > 0 else 1.0


def _found(indexed: Indexed, reciprocal: np.ndarray) -> dict[tuple[int, int], int]:
    """Rows of the found spots by their indices in the candidate's cell."""
    place = indexed.q @ np.linalg.inv(reciprocal)
    hk = np.rint(place).astype(int)
    near = 0.25 * np.linalg.norm(np.linalg.inv(indexed.lattice), axis=0).min()
    away = np.linalg.norm((place - hk) @ reciprocal, axis=1)
    order = np.argsort(-away, kind="stable")
    return {tuple(hk[i].tolist()): int(i) for i in order if away[i] < near}


def families(predicted: Predicted, lattice: np.ndarray) -> list[Family]:
    """The spots by families {hk} of the lattice (2, 2), those nearest to the centre first."""
    operations = _operations(lattice)
    names: dict[tuple[int, int], list[int]] = {}
    for row, hk in enumerate(predicted.hk):
        name = max(tuple(image) for image in (operations @ hk).tolist())
        names.setdefault(name, []).append(row)
    length = np.linalg.norm(predicted.q, axis=1)
    made = []
    for name, members in names.items():
        rows = np.array(members)
        made.append(
            Family(
                name,
                float(length[rows].mean()),
                rows,
                _spread(predicted.observed[rows]),
                _spread(predicted.calculated[rows]) or (0.0, 0.0, 0.0),
            )
        )
    return sorted(made, key=lambda family: (round(family.q, 4), family.hk))


def _spread(values: np.ndarray) -> tuple[float, float, float] | None:
    known = values[np.isfinite(values)]
    if not len(known):
        return None
    return float(known.mean()), float(known.min()), float(known.max())


def _operations(lattice: np.ndarray) -> np.ndarray:
    """Integer matrices (n, 2, 2) that turn indices hk into equivalent ones."""
    metric = lattice @ lattice.T
    scale = np.sqrt(np.outer(np.diag(metric), np.diag(metric)))
    found = []
    for entries in itertools.product((-1, 0, 1), repeat=4):
        change = np.array(entries).reshape(2, 2)
        alike = np.abs(change @ metric @ change.T - metric) < _ALIKE * scale
        if abs(round(np.linalg.det(change))) == 1 and alike.all():
            found.append(change)
    return np.array(found)
