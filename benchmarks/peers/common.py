"""What the workers share: crystals in, clock, patterns out.

A worker is one small program for one peer; `benchmarks/simulator.py` runs it in the peer's own
environment as `python WORKER IN.npz OUT.npz`. This module needs numpy only.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Layer:
    """A layer in a vacuum cell."""

    cell: np.ndarray
    """(3, 3) in angstrom, rows; c is normal to the layer."""
    fractions: np.ndarray
    """(N, 3)"""
    numbers: np.ndarray
    """(N,)"""
    symbols: list[str]
    """Of the elements, for each atom."""

    @property
    def parameters(self) -> list[float]:
        """a, b, c in angstrom, alpha, beta, gamma in degrees."""
        a, b, c = np.linalg.norm(self.cell, axis=1)
        gamma = np.degrees(np.arccos(self.cell[0] @ self.cell[1] / (a * b)))
        return [a, b, c, 90.0, 90.0, gamma]

    def rods(self, q_max: float) -> np.ndarray:
        """(K, 3) indices (h, k, 0) with 0 < q <= q_max (1/angstrom)."""
        h_max, k_max = np.ceil(q_max * np.linalg.norm(self.cell[:2], axis=1)).astype(int)
        h, k = np.mgrid[-h_max : h_max + 1, -k_max : k_max + 1]
        hkl = np.stack([h.ravel(), k.ravel(), np.zeros(h.size, int)], -1)
        q = np.linalg.norm(hkl @ np.linalg.inv(self.cell).T, axis=-1)
        return hkl[(q > 0) & (q <= q_max)]


@dataclass
class Job:
    """What to compute, and what came out.

    Two sets of intensities go back: `zone`, |F|^2 at (h, k, 0), which is the same quantity in
    every program; and `pattern`, what the program gives as a pattern, spots of one rod added.
    """

    layers: list[Layer]
    timed: int
    """The first so many are timed, the others are for their intensities only."""
    energy: float
    """keV"""
    q_max: float
    """1/angstrom"""
    ways: list[dict[str, Any]] = field(default_factory=list)
    failed: dict[str, int] = field(default_factory=dict)
    spots: dict[str, list[np.ndarray]] = field(default_factory=lambda: {"zone": [], "pattern": []})

    @classmethod
    def read(cls) -> Job:
        data = np.load(sys.argv[1])
        cuts = np.cumsum(data["count"])[:-1]
        atoms = [np.split(data[name], cuts) for name in ("fractions", "numbers", "symbols")]
        layers = [
            Layer(cell, fractions, numbers, symbols.tolist())
            for cell, fractions, numbers, symbols in zip(data["cell"], *atoms, strict=True)
        ]
        return cls(layers, int(data["timed"]), float(data["energy"]), float(data["q_max"]))

    def each(self, function: Callable, items: Iterable) -> list:
        """`function` of each item; what it cannot do is counted and becomes None."""
        out = []
        for item in items:
            try:
                out.append(None if item is None else function(item))
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"[:80]
                self.failed[reason] = self.failed.get(reason, 0) + 1
                out.append(None)
        return out

    def clock(
        self, way: str, setup: Callable, patterns: Callable, factors: Callable
    ) -> tuple[list, list]:
        """Time set-up and patterns of the layers to be timed, after a pass over a few of them.

        `factors(made, found)` is how many structure factors one layer took. Returns what
        `setup` made of all layers, timed or not, and what `patterns` found.
        """
        patterns(setup(self.layers[: min(8, self.timed)]))
        self.failed.clear()  # that pass is not part of the count
        start = time.perf_counter()
        made = list(setup(self.layers[: self.timed]))
        middle = time.perf_counter()
        found = list(patterns(made))
        end = time.perf_counter()
        pairs = [x for x in zip(made, found, strict=True) if x[1] is not None]
        self.ways.append(
            {
                "way": way,
                "patterns": len(pairs),
                "setup_s": middle - start,
                "pattern_s": end - middle,
                "factors": float(np.mean([factors(*x) for x in pairs])),
            }
        )
        others = list(setup(self.layers[self.timed :]))
        return made + others, found + list(patterns(others))

    def add(self, kind: str, index: int, hkl: np.ndarray, intensity: np.ndarray) -> None:
        """Intensities of one layer; spots of one rod are added."""
        hkl = np.rint(np.asarray(hkl)).astype(int).reshape(-1, 3)
        rods, where = np.unique(hkl[:, :2], axis=0, return_inverse=True)
        total = np.bincount(where.ravel(), np.asarray(intensity, float), len(rods))
        real = (rods != 0).any(-1)
        rows = np.column_stack([np.full(len(rods), index), rods, total])
        self.spots[kind].append(rows[real])

    def write(self, package: str) -> None:
        empty = np.zeros((0, 4))
        meta = {"version": version(package), "ways": self.ways, "failed": self.failed}
        np.savez(
            sys.argv[2],
            meta=json.dumps(meta),
            **{kind: np.concatenate(rows or [empty]) for kind, rows in self.spots.items()},
        )
