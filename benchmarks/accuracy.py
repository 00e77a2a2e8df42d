"""Prints where the simulator stands: against abTEM's multislice, and against measured graphene.

    python benchmarks/accuracy.py

The reference numbers of abTEM (`tests/abtem.json`) come from `benchmarks/abtem_reference.py`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import diffraction as dx  # noqa: E402
from diffraction.multislice import interaction, multislice  # noqa: E402

STRONGEST = 10
# Ratios of ring intensities of measured monolayers: I(11) / I(10) and I(20) / I(10).
MEASURED = "0.91 to 1.05", "0.144 to 0.162"


def against_abtem() -> Table:
    """Largest error of the strongest ten spots, percent: kinematic, and multislice at two bands."""
    table = Table("crystal", "kinematic", "multislice, band 8", "band 12")
    reference = json.loads((ROOT / "tests" / "abtem.json").read_text())
    warm = {f"{name}, atoms in motion": case for name, case in reference["warm"].items()}
    for name, case in {**reference["cases"], **warm}.items():
        crystal = dx.Crystal(*(jnp.array(case[x]) for x in ("lattice", "positions", "numbers")))
        beam, tilt = dx.Electrons(case["energy"]), jnp.array(case.get("tilt", (0.0, 0.0)))
        b = case.get("b_iso", 0.0)
        hk = np.array(case["hk"][:STRONGEST])
        area = abs(np.linalg.det(np.asarray(crystal.lattice)))
        expected = np.array(case["intensity"][:STRONGEST]) / (interaction(beam, tilt) / area) ** 2
        patterns = [
            dx.simulate(crystal, beam, 1.5, b, tilt, hk),
            *(multislice(crystal, beam, 1.5, b, tilt, hk, band) for band in (8.0, 12.0)),
        ]
        errors = [np.abs(np.asarray(p.intensity) / expected - 1).max() for p in patterns]
        table.add_row(name, *(f"{100 * e:.2f}" for e in errors))
    return table


def graphene(layers: int = 1) -> dx.Crystal:
    """AB-stacked graphene, a = 2.46 A, layers 3.35 A apart."""
    lattice = np.array([[2.46, 0.0], [-1.23, 1.23 * np.sqrt(3)]])
    shift = np.array([[1 / 3, 2 / 3], [2 / 3, 1 / 3]])
    fractions = np.concatenate([shift + (i % 2) * np.array([1 / 3, 2 / 3]) for i in range(layers)])
    heights = np.repeat(3.35 * np.arange(layers), 2)
    positions = np.append(fractions @ lattice, heights[:, None], 1)
    return dx.Crystal(jnp.asarray(lattice), jnp.asarray(positions), jnp.full(2 * layers, 6))


def graphene_rings() -> Table:
    """Intensity ratios of graphene's rings, six spots each, by what might change them."""
    cases = {
        "kinematic, 80 kV, B = 0": {},
        "Kirkland's table": {"radiation": dx.Electrons(80.0, "kirkland")},
        "Peng's table": {"radiation": dx.Electrons(80.0, "peng")},
        "200 kV": {"radiation": dx.Electrons(200.0)},
        "multislice": {"method": "multislice"},
        "B = 0.2 A^2": {"b_iso": 0.2},
        "B = 0.4 A^2": {"b_iso": 0.4},
        "tilted by 5 degrees": {"tilt": (5.0, 0.0)},
        "two layers, AB": {"crystal": graphene(2)},
    }
    table = Table("graphene", "I(11) / I(10)", "I(20) / I(10)")
    for name, change in cases.items():
        options = {"crystal": graphene(), "radiation": dx.Electrons(80.0), "q_max": 1.0} | change
        pattern = dx.simulate(**options)
        rods = np.asarray(pattern.hk) @ np.asarray(graphene().reciprocal)
        length = np.linalg.norm(rods, axis=1)
        rings = [
            np.asarray(pattern.intensity)[np.asarray(pattern.mask) & (abs(length - g) < 0.02)]
            for g in np.array([1, np.sqrt(3), 2]) * 2 / 2.46 / np.sqrt(3)
        ]
        assert [len(ring) for ring in rings] == [6, 6, 6]
        first, *others = (ring.mean() for ring in rings)
        table.add_row(name, *(f"{x / first:.3f}" for x in others))
    table.add_row("measured", *MEASURED)
    return table


def main() -> None:
    console = Console()
    console.print("Largest error of the strongest ten spots against abTEM, percent")
    console.print(against_abtem())
    console.print(graphene_rings())


if __name__ == "__main__":
    main()
