"""Computes the multislice reference of the tests with abTEM: writes `tests/abtem.json`.

    pip install abtem                       # 1.0.11; GPL, so it stays in an environment of its own
    python benchmarks/abtem_reference.py    # about twenty minutes on one core

Thin slices of the atoms' potentials in three dimensions (abTEM's projection "finite"), Lobato's
parametrisation, no phonons (B = 0); and the mean wave of frozen phonons, in single layers. Crystals
are written as `diffraction.Crystal` has them, with the beam against z; abTEM's beam runs along z,
so it gets them with the sign of z changed. Tilt: the incident wave has an in-plane wavevector that
is periodic in abTEM's rectangular cell, so that no approximation of abTEM's own for tilts enters.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import abtem
import ase
import dask
import numpy as np
from abtem.core.energy import energy2wavelength
from abtem.integrals import QuadratureProjectionIntegrals

OUTPUT = Path(__file__).resolve().parents[1] / "tests" / "abtem.json"
SAMPLING = 0.016
"""Angstrom; the wave is limited to 2/3 of the grid's band: 20.8 1/angstrom."""
SLICE = 0.05
"""Angstrom."""
PADDING = 4.0
"""Angstrom of space on either side of the outermost atoms, for their tails."""
CUTOFF_TOLERANCE = 1e-5
"""Where the tail of a potential is cut (abTEM's unit)."""
Q_MAX = 1.5
"""1/angstrom; rods up to here are compared."""
RODS = 14
"""The strongest are written, whole groups of equal intensity."""

A, B = (1 / 3, 2 / 3), (2 / 3, 1 / 3)


def layers(count: int, spacing: float, metal: int, chalcogen: int, height: float) -> list[tuple]:
    """(number, place in the cell, z) of 2H-stacked trigonal prismatic layers."""
    atoms = []
    for i in range(count):
        here, there = (A, B) if i % 2 == 0 else (B, A)
        atoms += [(metal, here, i * spacing)]
        atoms += [(chalcogen, there, i * spacing + s * height) for s in (1, -1)]
    return atoms


GRAPHENE = (2.46, [(6, A, 0.0), (6, B, 0.0)])
MOS2 = (3.18, layers(1, 0.0, 42, 16, 1.57))
PTS2 = (3.54, [(78, (0.0, 0.0), 0.0), (16, A, 1.23), (16, B, -1.23)])
CASES = {
    # name: ((a, atoms), energy in keV, periods of the incident wave along the rectangle's b)
    "graphene, 80 kV": (GRAPHENE, 80.0, 0),
    "1H-MoS2, 80 kV": (MOS2, 80.0, 0),
    "1H-MoS2, 200 kV": (MOS2, 200.0, 0),
    "1H-MoS2, 80 kV, tilted": (MOS2, 80.0, 5),
    "1T-PtS2, 80 kV": (PTS2, 80.0, 0),
    "1T-PtS2, 200 kV": (PTS2, 200.0, 0),
    "3 layers of 2H-WSe2, 80 kV": ((3.28, layers(3, 6.49, 74, 34, 1.67)), 80.0, 0),
    "6 layers of 2H-MoS2, 80 kV": ((3.18, layers(6, 6.15, 42, 16, 1.57)), 80.0, 0),
}

WARM = {
    # name: ((a, atoms), energy in keV, B in angstrom^2)
    "1T-PtS2, 80 kV": (PTS2, 80.0, {"Pt": 0.4, "S": 0.7}),
    "1H-MoS2, 60 kV": (MOS2, 60.0, {"Mo": 0.5, "S": 0.9}),
    "1H-TaP2, 300 kV": ((2.98, layers(1, 0.0, 73, 15, 1.97)), 300.0, {"Ta": 0.9, "P": 0.6}),
    "1T-PbI2, 120 kV": ((4.56, [(82, (0.0, 0.0), 0.0), (53, A, 1.83), (53, B, -1.83)]), 120.0,
                        {"Pb": 1.8, "I": 2.4}),
}  # fmt: skip
WARM_POTENTIAL = {"sampling": 0.04, "slice_thickness": 0.25}
"""Angstrom; abTEM's projection "infinite"."""
CONFIGURATIONS, SEED = 120, 1
"""Of a cell of 48 unit cells: a spot's intensity errs by 0.3 % at most."""


def hexagonal(a: float, atoms: list[tuple]) -> tuple[dict, ase.Atoms]:
    """A crystal as it is written, and its rectangular cell as abTEM gets it."""
    lattice = a * np.array([[1, 0], [-1 / 2, np.sqrt(3) / 2]])
    numbers, places, z = zip(*atoms, strict=True)
    positions = np.column_stack([np.array(places) @ lattice, z])
    both = np.concatenate([positions, positions + [a / 2, a * np.sqrt(3) / 2, 0]])
    both[:, 2] = PADDING + max(z) - both[:, 2]
    height = np.ceil((np.ptp(z) + 2 * PADDING) / SLICE) * SLICE
    cell = ase.Atoms(numbers * 2, both, cell=[a, a * np.sqrt(3), height], pbc=True)
    cell.wrap()
    crystal = {"lattice": lattice.tolist(), "positions": positions.tolist()}
    return {**crystal, "numbers": list(numbers)}, cell


def run(a: float, atoms: list[tuple], energy: float, periods: int) -> dict:
    """Intensities of the strongest rods, as a fraction of the incident beam."""
    crystal, cell = hexagonal(a, atoms)
    rectangle = cell.cell.lengths()[:2]
    grid = tuple(int(2 * np.ceil(x / SAMPLING / 2)) for x in rectangle)
    potential = abtem.Potential(
        cell,
        gpts=grid,
        slice_thickness=SLICE,
        parametrization="lobato",
        projection="finite",
        integrator=QuadratureProjectionIntegrals(cutoff_tolerance=CUTOFF_TOLERANCE),
    )
    along_b = np.exp(2j * np.pi * periods * np.arange(grid[1]) / grid[1])
    incident = abtem.Waves(
        np.ones(grid) * along_b, energy=1e3 * energy, extent=tuple(map(float, rectangle))
    )
    wave = incident.multislice(potential).compute().array
    amplitude = np.fft.fft2(wave) / wave.size

    # R (0, 0, k) of the crystal turned about x by the tilt has the in-plane part -k sin(tilt).
    wavelength = energy2wavelength(1e3 * energy)
    tilt = 0.0 - np.rad2deg(np.arcsin(wavelength * periods / rectangle[1]))
    spots = []
    reach = int(Q_MAX * rectangle.max()) + 1
    for m in range(-reach, reach + 1):
        for n in range(-reach, reach + 1):
            q = np.hypot(*(np.array([m, n]) / rectangle))
            if (m + n) % 2 == 0 and 0 < q <= Q_MAX:
                spots.append(((m, (n - m) // 2), abs(amplitude[m, n + periods]) ** 2))
    spots.sort(key=lambda s: -s[1])
    least = spots[RODS - 1][1] * 0.999
    spots = [s for s in spots if s[1] >= least]
    return {
        **crystal,
        "energy": energy,
        "tilt": [tilt, 0.0],
        "grid": grid,
        "direct_beam": float(abs(amplitude[0, periods]) ** 2),
        "total": float((np.abs(amplitude) ** 2).sum()),
        "hk": [hk for hk, _ in spots],
        "intensity": [float(f"{i:.6g}") for _, i in spots],
    }


def run_warm(a: float, atoms: list[tuple], energy: float, b: dict[str, float]) -> dict:
    """Intensities of the mean wave of frozen phonons, means over the three-fold axis."""
    crystal, cell = hexagonal(a, atoms)
    cell *= (6, 4, 1)
    rms = {x: float(np.sqrt(value / 8) / np.pi) for x, value in b.items()}
    amplitude, step = 0.0, 20
    for i in range(CONFIGURATIONS // step):
        phonons = abtem.FrozenPhonons(cell, step, rms, seed=1000 * SEED + i)
        potential = abtem.Potential(phonons, **WARM_POTENTIAL)
        wave = abtem.PlaneWave(energy=1e3 * energy).multislice(potential).compute().array
        amplitude = amplitude + (np.fft.fft2(wave) / wave[0].size).mean(0) * step / CONFIGURATIONS
    spots: dict[tuple[int, int], float] = {}
    for h, k in itertools.product(range(-6, 7), repeat=2):
        equal = [(h, k), (k, -h - k), (-h - k, h)]
        q = np.array(equal) @ np.linalg.inv(crystal["lattice"]).T
        if 0 < np.linalg.norm(q[0]) <= Q_MAX and max(equal) == (h, k):
            at = np.rint(q * cell.cell.lengths()[:2]).astype(int)
            spots[h, k] = float((np.abs(amplitude[at[:, 0], at[:, 1]]) ** 2).mean())
    order = sorted(spots, key=lambda hk: -spots[hk])[:RODS]
    return {
        **crystal,
        "energy": energy,
        "b_iso": b,
        "hk": order,
        "intensity": [float(f"{spots[hk]:.6g}") for hk in order],
    }


def main() -> None:
    """Run all cases and write them."""
    abtem.config.set({"precision": "float64"})
    dask.config.set(scheduler="synchronous")
    parameters = {
        "program": f"abTEM {abtem.__version__}",
        "parametrisation": "lobato",
        "projection": "finite",
        "sampling": SAMPLING,
        "slice_thickness": SLICE,
        "padding": PADDING,
        "cutoff_tolerance": CUTOFF_TOLERANCE,
        "warm": {**WARM_POTENTIAL, "configurations": CONFIGURATIONS, "seed": SEED},
        "units": "angstrom, keV, degrees; intensities as a fraction of the incident beam",
    }
    cases = {}
    for name, (crystal, energy, periods) in CASES.items():
        cases[name] = run(*crystal, energy, periods)
        print(name, cases[name]["grid"], cases[name]["total"], flush=True)
    warm = {}
    abtem.config.set({"precision": "float32"})
    for name, (crystal, energy, b) in WARM.items():
        warm[name] = run_warm(*crystal, energy, b)
        print(name, flush=True)
    OUTPUT.write_text(_dumps({"parameters": parameters, "cases": cases, "warm": warm}))


def _dumps(data: dict) -> str:
    """JSON with one line a field: long lists stay on one line."""
    parts = [f' "parameters": {json.dumps(data["parameters"])}']
    for part in ("cases", "warm"):
        cases = []
        for name, case in data[part].items():
            fields = ",\n".join(f"   {json.dumps(k)}: {json.dumps(v)}" for k, v in case.items())
            cases.append(f"  {json.dumps(name)}: {{\n{fields}\n  }}")
        parts.append(f' "{part}": {{\n' + ",\n".join(cases) + "\n }")
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    main()
