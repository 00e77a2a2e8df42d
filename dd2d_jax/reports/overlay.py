"""The spots that were found and those that a candidate predicts, laid over each other."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Circle

import diffraction as dx
from dd2d_jax.reports.diagnostics import logarithm, show
from dd2d_jax.reports.figures import DARK, MEASURED, SIMULATED
from dd2d_jax.spots import Conditions, both_sides, half_plane, power_of_two

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from dd2d_jax.images.measurement import Measured
    from dd2d_jax.lattices.lattice import Indexed
    from dd2d_jax.matching.found import Candidate

# Predicted spots weaker than this share of the strongest are left out.
FAINT = 0.01
_LOST, _OTHER = "#ff6b6b", "#b7a6ff"


@dataclasses.dataclass(frozen=True)
class Predicted:
    """A candidate's spots on the measured lattice.

    Attributes:
        q: (M, 2) 1/angstrom, as the pattern lies.
        intensity: (M,) on the scale of the pattern's strongest spot.
        seen: (M,) True where a spot was found.
        hidden: (M,) True where none was found and the image was not measured.
    """

    q: np.ndarray
    intensity: np.ndarray
    seen: np.ndarray
    hidden: np.ndarray


def predict(
    candidate: Candidate, indexed: Indexed, measured: Measured | None = None
) -> Predicted:
    """The spots of a candidate on the image and out to the last found one, `FAINT` ones left out.

    They are simulated for electrons of 80 keV without tilt, as relative intensities of a layer
    hardly depend on the energy, and scaled to those in `candidate.simulated`.
    """
    reach = 1.01 * np.linalg.norm(indexed.q, axis=1).max()
    query = candidate.query
    reciprocal = np.linalg.inv(np.asarray(query.lattice, float)).T @ candidate.axes
    crystal = dx.Crystal.from_ase(candidate.structure)
    # On the measured lattice, and of a size that others have too.
    flat = np.linalg.inv(reciprocal).T
    hk = half_plane(flat[None], reach)[0]
    room = power_of_two(max(len(hk), 32)) - len(hk)
    atoms = power_of_two(max(len(crystal.numbers), 4)) - len(crystal.numbers)
    padded = dx.Crystal(
        crystal.lattice,
        jnp.pad(crystal.positions, [(0, atoms), (0, 0)]),
        jnp.pad(crystal.numbers, (0, atoms)),
    )
    conditions = Conditions(dx.Electrons(80.0), reach, candidate.b_iso, 1)
    _, pairs = both_sides(padded, jnp.asarray(np.pad(hk, [(0, room), (0, 0)])), conditions)
    pairs = np.asarray(pairs, float)[: len(hk)]
    hk, intensity = np.concatenate([hk, -hk]), np.concatenate([pairs[:, 0], pairs[:, 1]])
    by_hk = dict(zip(map(tuple, hk.tolist()), intensity.tolist(), strict=True))
    intensity = intensity * _factor(candidate, by_hk)
    strong = intensity > FAINT * intensity.max()
    q, intensity = hk[strong] @ reciprocal, intensity[strong]
    near = 0.25 * np.linalg.norm(np.linalg.inv(indexed.lattice), axis=0).min()
    seen = np.linalg.norm(q[:, None] - indexed.q[None], axis=-1).min(1) < near
    hidden = np.zeros(len(q), bool)
    if measured is not None:
        pixel = np.rint(_pixels(measured, q)[:, ::-1]).astype(int)
        area = measured.spots.measured
        inside = ((pixel >= 0) & (pixel < area.shape)).all(1)
        q, intensity, seen, pixel = (x[inside] for x in (q, intensity, seen, pixel))
        hidden = ~area[tuple(pixel.T)]
    return Predicted(q, intensity, seen, hidden & ~seen)


def _factor(candidate: Candidate, by_hk: dict[tuple[int, int], float]) -> float:
    """By which intensities of rods are those that the candidate was compared with."""
    query = candidate.query
    hk, measured = np.asarray(query.hk), np.asarray(query.measured, bool)
    mine, theirs = [], []
    for side, sign in enumerate((1, -1)):
        for place in np.flatnonzero(measured[:, side]):
            value = by_hk.get(tuple((sign * hk[place]).tolist()))
            if value is not None:
                mine.append(value)
                theirs.append(candidate.simulated[place, side])
    norm = float(np.dot(mine, mine))
    return float(np.dot(mine, theirs)) / norm if norm > 0 else 1.0


def _pixels(measured: Measured, q: np.ndarray) -> np.ndarray:
    return measured.spots.centre + measured.mapping.pixels(q)


def plot_overlay(
    indexed: Indexed, predicted: Predicted, measured: Measured | None = None
) -> Figure:
    """Found and predicted spots over the image, or over each other where there is no image.

    Predicted spots are rings whose radius grows with the amplitude.

    Args:
        indexed: the spots of one lattice.
        predicted: from `predict`.
        measured: the image, and spots that are not on this lattice.
    """
    figure = Figure(figsize=(7.5, 7.5), layout="constrained")
    ax = figure.add_subplot()
    reach = np.linalg.norm(indexed.q, axis=1).max()
    places, others = indexed.q, np.zeros((0, 2))
    marks, limit = predicted.q, 1.08 * reach
    if measured is None:
        ax.set_facecolor(DARK)
        ax.set(xlim=(-limit, limit), ylim=(-limit, limit))
        ax.set_xlabel("$q_x$ (1/Å)")
        ax.set_ylabel("$q_y$ (1/Å)")
    else:
        show(ax, logarithm(measured.image.pixels), "gray")
        marks, every = _pixels(measured, marks), measured.spots.position
        places = every[indexed.spots]
        others = np.delete(every, indexed.spots, axis=0)
        limit = 1.12 * np.linalg.norm(every - measured.spots.centre, axis=1).max()
        x, y = measured.spots.centre
        rows, columns = measured.image.pixels.shape
        ax.set(
            xlim=(max(x - limit, -0.5), min(x + limit, columns - 0.5)),
            ylim=(min(y + limit, rows - 0.5), max(y - limit, -0.5)),
        )
    ax.set_aspect("equal")
    amplitude = np.sqrt(np.clip(indexed.intensity, 0, 1))
    sizes = _radius(limit, amplitude) if measured is None else np.full(len(places), 0.014 * limit)
    for place, size in zip(places, sizes, strict=True):
        ax.add_patch(Circle(place, size, fill=measured is None, color=MEASURED, alpha=0.8, lw=1.2))
    for place in others:
        ax.add_patch(Circle(place, 0.014 * limit, fill=False, ec=_OTHER, lw=1.4))
    radius = _radius(limit, np.sqrt(np.clip(predicted.intensity, 0, 1)))
    lost = ~predicted.seen & ~predicted.hidden
    for place, size, gone, blind in zip(marks, radius, lost, predicted.hidden, strict=True):
        colour = _LOST if gone else SIMULATED
        ring = Circle(place, size, fill=False, ec=colour, lw=1.6, ls="--" if blind else "-")
        ax.add_patch(ring)
    _legend(ax, len(places), len(others), predicted, lost)
    return figure


def _radius(limit: float, amplitude: np.ndarray) -> np.ndarray:
    return 0.035 * limit * np.sqrt(0.15 + 0.85 * amplitude)


def _legend(ax: Axes, found: int, others: int, predicted: Predicted, lost: np.ndarray) -> None:
    names = [
        ("found", found, MEASURED, "-"),
        ("found, not on this lattice", others, _OTHER, "-"),
        ("predicted and found", int(predicted.seen.sum()), SIMULATED, "-"),
        ("predicted where nothing was measured", int(predicted.hidden.sum()), SIMULATED, "--"),
        ("predicted, not found", int(lost.sum()), _LOST, "-"),
    ]
    for name, count, colour, style in names:
        if count:
            ax.plot([], [], style, color=colour, lw=2, label=f"{name} ({count})")
    ax.legend(loc="lower left", fontsize=8, framealpha=0.85)
