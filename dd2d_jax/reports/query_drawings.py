"""What the page of a query draws: overlays, differences and layers, as numbers for its templates.

Overlays are SVG of 1000 units across, in the frame of the image or, without one, of the pattern.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import chemical_symbols
from ase.data.colors import jmol_colors
from scipy.spatial import cKDTree

from dd2d_jax.reports.comparison import Predicted, pixels
from dd2d_jax.reports.image_view import around_spots, embedded
from dd2d_jax.reports.layer_view import View, solid

if TYPE_CHECKING:
    import ase

    from dd2d_jax.images.measurement import Measured
    from dd2d_jax.lattices.indexed import Indexed

# Predicted spots of one candidate that are drawn, the strongest.
SPOTS = 500
_ACROSS = 1000.0
# Units an angstrom of a layer, and of a map of differences.
_UNITS, _MAP = 20.0, 200.0


class Frame:
    """Where q lies in an overlay.

    Attributes:
        height: of the overlay, whose width is 1000.
        pictures: data links of the image and of what was not measured; () without an image.
    """

    def __init__(self, indexed: Indexed, measured: Measured | None):
        self._measured, self._indexed = measured, indexed
        if measured is None:
            self._limit = 1.08 * float(np.linalg.norm(indexed.q, axis=1).max())
            self.height, self.pictures = _ACROSS, ()
            return
        box = around_spots(measured)
        self._corner, self._scale = np.array(box[:2]), _ACROSS / (box[2] - box[0])
        self.height = self._scale * (box[3] - box[1])
        image, hidden = embedded(measured, box)
        self.pictures = (image,) if hidden is None else (image, hidden)

    def of_pixels(self, position: np.ndarray) -> np.ndarray:
        """Columns and rows (M, 2), counted from the middle of the first pixel, in the overlay."""
        return (position + 0.5 - self._corner) * self._scale

    def of_q(self, q: np.ndarray) -> np.ndarray:
        """Places q (M, 2) in the overlay."""
        if self._measured is None:
            return _ACROSS / 2 * (1 + np.asarray(q) / self._limit * [1, -1])
        return self.of_pixels(pixels(self._measured, self._indexed, q))


def found_spots(indexed: Indexed, measured: Measured | None, frame: Frame) -> dict[str, Any]:
    """Circles of the spots that were found: on the lattice, and the others of the image."""
    if measured is None:
        places, others = frame.of_q(indexed.q), np.zeros((0, 2))
        radii = 0.7 * ring_radius(indexed.intensity)
    else:
        every = frame.of_pixels(measured.spots.position)
        places, others = every[indexed.spots], np.delete(every, indexed.spots, axis=0)
        radii = np.full(len(places), 9.0)
    return {
        "found": [_circle(*one) for one in zip(places, radii, strict=True)],
        "others": [_circle(place, 9.0) for place in others],
    }


def rings(predicted: Predicted, frame: Frame) -> list[dict[str, Any]]:
    """A candidate's spots as rings, the strongest, with what is said of each."""
    strongest = np.argsort(-predicted.calculated, kind="stable")[:SPOTS]
    places, radii = frame.of_q(predicted.q), ring_radius(predicted.calculated)
    return [
        {**_circle(places[i], radii[i]), "kind": spot_kind(predicted, i), "tip": tip(predicted, i)}
        for i in strongest
    ]


def tip(predicted: Predicted, i: int) -> str:
    """What is said of a spot: h, k, q, and both intensities in percent of the strongest."""
    h, k = predicted.hk[i]
    observed = "not found"
    if predicted.hidden[i]:
        observed = "not measured"
    elif predicted.seen[i]:
        observed = f"{100 * predicted.observed[i]:.2f}"
    q = np.linalg.norm(predicted.q[i])
    return (
        f"h k = {h} {k}; q = {q:.4f} 1/Å; I observed = {observed}; "
        f"I calculated = {100 * predicted.calculated[i]:.2f}"
    )


def amplitudes(predicted: Predicted) -> np.ndarray:
    """sqrt(I_observed) - sqrt(I_calculated) (M,); NaN where no spot was found."""
    return np.sqrt(np.clip(predicted.observed, 0, None)) - np.sqrt(
        np.clip(predicted.calculated, 0, None)
    )


def difference_map(predicted: Predicted, most: float, limit: float) -> list[dict[str, Any]]:
    """Discs whose area grows with the difference of amplitudes: the largest of all is `most`.

    Args:
        predicted: of one candidate.
        most: the largest difference of all candidates.
        limit: largest |q| on the map, 1/angstrom.
    """
    value = amplitudes(predicted)
    missing = ~predicted.seen & ~predicted.hidden
    value[missing] = -np.sqrt(np.clip(predicted.calculated[missing], 0, None))
    places = _MAP / 2 * (1 + predicted.q / limit * [1, -1])
    largest = min(12.0, 0.55 * _spacing(places))
    out = []
    for i in np.argsort(-np.abs(np.nan_to_num(value)), kind="stable")[:SPOTS]:
        if math.isnan(value[i]):
            continue
        radius = largest * math.sqrt(min(abs(value[i]) / max(most, 1e-6), 1.0))
        kind = "missing" if missing[i] else "stronger" if value[i] > 0 else "weaker"
        circle = _circle(places[i], max(radius, 0.6))
        out.append({**circle, "kind": kind, "tip": tip(predicted, i)})
    return out


def _spacing(places: np.ndarray) -> float:
    """Usual distance between neighbours; large for a single place."""
    if len(places) < 2:
        return _MAP
    return float(np.median(cKDTree(places).query(places, 2)[0][:, 1]))


def drawn(seen: View) -> dict[str, Any]:
    """A layer's balls and bonds for the macro `layer`, the farthest first."""
    ends = np.searchsorted(seen.owner, np.arange(len(seen.flat) + 1))
    atoms = []
    for i, (place, number) in enumerate(zip(seen.flat, seen.numbers, strict=True)):
        halves = seen.halves[ends[i] : ends[i + 1]] * [_UNITS, -_UNITS]
        atoms.append(
            {
                "x": _short(_UNITS * place[0]),
                "y": _short(-_UNITS * place[1]),
                "r": _short(_UNITS * seen.radii[i]),
                "colour": _hex(jmol_colors[number]),
                "dark": _hex(0.75 * jmol_colors[number]),
                "bonds": "".join(
                    f"M{_short(a[0])} {_short(a[1])}L{_short(b[0])} {_short(b[1])}"
                    for a, b in halves
                ),
            }
        )
    width, height = _UNITS * seen.width, _UNITS * seen.height
    corners = (f"{_short(x)},{_short(y)}" for x, y in seen.cell * [_UNITS, -_UNITS])
    return {
        "box": f"{_short(-width / 2)} {_short(-height / 2)} {_short(width)} {_short(height)}",
        "atoms": atoms,
        "cell": " ".join(corners),
    }


def legend(atoms: ase.Atoms) -> list[tuple[str, str]]:
    """Symbols and colours of the elements."""
    return [(chemical_symbols[z], _hex(jmol_colors[z])) for z in np.unique(atoms.numbers)]


def model(atoms: ase.Atoms, width: float) -> dict[str, Any]:
    """Atoms, bonds and cell as the page's script gives them to 3Dmol.js."""
    numbers, positions, pairs, stubs, cell = solid(atoms, width)
    return {
        "symbols": [chemical_symbols[z] for z in numbers],
        "colours": {chemical_symbols[z]: _hex(jmol_colors[z]) for z in np.unique(numbers)},
        "positions": np.round(positions, 2).tolist(),
        "bonds": pairs.tolist(),
        "stubs": [[int(i), *np.round(end, 2).tolist()] for i, end in stubs],
        "cell": np.round(cell, 3).tolist(),
    }


def spot_kind(predicted: Predicted, i: int) -> str:
    """Whether a predicted spot was found: "both", "lost", or "blind" where none is measured."""
    if predicted.seen[i]:
        return "both"
    return "blind" if predicted.hidden[i] else "lost"


def ring_radius(intensity: np.ndarray) -> np.ndarray:
    """Radii (M,) of rings, growing with the amplitude, of relative intensities (M,)."""
    return 18 * np.sqrt(0.15 + 0.85 * np.sqrt(np.clip(intensity, 0, 1)))


def _circle(place: np.ndarray, radius: float) -> dict[str, str]:
    return {"x": _short(place[0]), "y": _short(place[1]), "r": _short(radius)}


def _short(value: float) -> str:
    """With one decimal: pages stay small."""
    return f"{value:.1f}".removesuffix(".0")


def _hex(colour: np.ndarray) -> str:
    return "#" + "".join(f"{round(255 * float(c)):02x}" for c in colour)
