"""Which of a library's crystals have a cell, exactly, in libraries of any size.

Cells are sorted by their areas, so that a strain leaves one stretch of them; of these the shear is
computed. Cells are in canonical setting; where several bases may be the canonical one, ask for all
of them (`lattices.settings`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class CellIndex:
    """Cells of n crystals, sorted by area.

    Attributes:
        rows: (n,) the crystals in the order of their areas.
        area: (n,) angstrom^2, rising.
        metric: (n, 3) a.a, a.b and b.b of each, divided by the area: without a scale.
    """

    def __init__(self, parts: Sequence[np.ndarray]):
        """Of lattices (n_i, 2, 2), in angstrom, one part after another."""
        metrics = np.concatenate([_metric(np.asarray(part, np.float32)) for part in parts])
        area = np.sqrt(np.maximum(metrics[:, 0] * metrics[:, 2] - metrics[:, 1] ** 2, 1e-12))
        self.rows = np.argsort(area, kind="stable")
        self.area = area[self.rows]
        self.metric = metrics[self.rows] / self.area[:, None]

    def near(self, cells: np.ndarray, stretch: float, shear: float) -> np.ndarray:
        """Crystals that a strain takes to any of some cells, the least strain first.

        Args:
            cells: (C, 2, 2) angstrom.
            stretch: isotropic strain at most, as in `score.strain_between`.
            shear: shear at most.

        Returns:
            (m,) rows of the library.
        """
        away = np.full(len(self.rows), np.inf, np.float32) if len(cells) else np.zeros(0)
        met = []
        for own in _distinct(_metric(np.asarray(cells, float))):
            area = np.sqrt(own[0] * own[2] - own[1] ** 2)
            # An isotropic strain s changes the area by exp(2 s).
            first, last = np.searchsorted(self.area, area * np.exp([-2 * stretch, 2 * stretch]))
            some = slice(first, last)
            metric, of = self.metric[some], own / area
            # cosh of twice the shear is half the trace of one metric times the other's inverse.
            cosh = 0.5 * (metric[:, 0] * of[2] - 2 * metric[:, 1] * of[1] + metric[:, 2] * of[0])
            sheared = 0.5 * np.arccosh(np.maximum(cosh, 1.0))
            strained = 0.5 * np.log(self.area[some] / area)
            far = (sheared / shear) ** 2 + (strained / stretch) ** 2
            away[some] = np.minimum(away[some], np.where(sheared <= shear, far, np.inf))
            met.append(np.flatnonzero(sheared <= shear) + first)
        places = np.unique(np.concatenate([np.zeros(0, int), *met]))
        return self.rows[places[np.argsort(away[places], kind="stable")]]


def _metric(cells: np.ndarray) -> np.ndarray:
    """a.a, a.b and b.b (n, 3) of cells (n, 2, 2)."""
    a, b = cells[:, 0], cells[:, 1]
    return np.stack([(x * y).sum(1) for x, y in ((a, a), (a, b), (b, b))], 1)


def _distinct(metrics: np.ndarray) -> list[np.ndarray]:
    """Without those that are nearly the same: settings of a symmetrical lattice."""
    out: list[np.ndarray] = []
    for one in metrics:
        if not any(np.abs(one - other).max() < 1e-3 * one[0] for other in out):
            out.append(one)
    return out
