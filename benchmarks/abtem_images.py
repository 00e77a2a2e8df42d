"""Diffraction images of 2D crystals by abTEM and this script's cameras; nothing else made them.

    pip install abtem imageio tifffile
    python benchmarks/abtem_images.py --source c2db.db --out DIR --count 30 --seed 77
    python benchmarks/measured_retrieval.py --data DIR --c2db LIBRARY --kinds image

Multislice with frozen phonons (rms displacements of each element, 60 to 300 kV, tilt about 0.7
degrees), then an image: any rotation and side, ellipticity, halo, beam stop, one of three cameras.

- counting: single electrons
- ccd: a point spread with long tails, readout noise and an offset
- 8bit: as exported for a slide, the strongest spots saturated, with a gamma of 1 or 0.6

With --cameras also

- log: an 8-bit picture on a logarithmic scale
- dark: an 8-bit picture with a gamma of 0.4 to 0.8 whose background was made black

With --stacks of 3 to 9 layers of hexagonal crystals, each shifted by a third of the cell's
diagonal against the one below, as in rhombohedral Bi2Se3: most rods of a layer's cell cancel.

With --lean of hexagonal and square layers that are tilted by 10 to 20 degrees.

With --discs as of a convergent beam: spots are discs of 0.15 to 0.35 of their least distance.

DIR/abtem holds the images and truth.csv; `told` is the scale that the program is told, up to 2 %
off, in 1/angstrom per pixel.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import abtem
import ase.db
import imageio.v3 as iio
import numpy as np
from abtem.core.energy import energy2wavelength
from ase import Atoms
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

SIZE = 1024
Q_MAX = 1.15
# Electrons that each camera sees behind the beam stop.
CAMERAS = {"counting": 3e5, "ccd": 2e6, "8bit": 5e6, "log": 3e6, "dark": 5e6}
_USUAL, _SCREEN = ("counting", "ccd", "8bit"), ("8bit", "log", "dark")
ENERGIES = (60.0, 80.0, 120.0, 200.0, 300.0)
_CONFIGURATIONS = 8
# Largest cells: atoms of the crystal, and of the rectangular one that is computed; of stacks.
_LAYER, _STACK = (14, 900), (45, 2500)
# Atoms of a layer in a stack, and the gap between two, angstrom.
_IN_STACKS, _GAP = 5, 3.0
# Tilt, degrees: usual, a component's standard deviation, and of layers that lean.
_TILT, _LEANS = 0.7, (10.0, 20.0)
# Rods fall this near to the pixels of the reciprocal grid.
_OFF = 0.03


class Exposure(NamedTuple):
    """Bragg intensities (K,), relative to the incident beam, at q (K, 2) in 1/angstrom."""

    q: np.ndarray
    intensity: np.ndarray
    energy: float
    rms: dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", required=True, help="ASE database of crystals with uid")
    parser.add_argument("--out", type=Path, required=True, help="folder, new")
    parser.add_argument("--count", type=int, default=30, help="crystals")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--avoid", type=Path, help="truth.csv whose crystals are not taken")
    parser.add_argument("--stacks", action="store_true", help="of shifted layers")
    parser.add_argument("--lean", action="store_true", help="tilted by 10 to 20 degrees")
    parser.add_argument("--discs", action="store_true", help="spots are discs")
    parser.add_argument("--cameras", nargs="+", choices=CAMERAS, default=_USUAL)
    args = parser.parse_args()
    folder = args.out / "abtem"
    new_folder(parser, folder)
    random = np.random.default_rng(args.seed)
    used = set()
    if args.avoid:
        with args.avoid.open(newline="") as file:
            used = {row["uid"] for row in csv.DictReader(file)}
    database = ase.db.connect(args.source)
    truth: list[dict[str, Any]] = []
    left = iter(random.permutation(len(database)) + 1)
    while len(truth) < args.count * len(args.cameras):
        row = next(left, None)
        if row is None:
            sys.exit(f"{args.source} has too few crystals of the kind for --count {args.count}")
        entry = database.get(int(row))
        layer = None if entry.uid in used else entry.toatoms()
        if layer is not None and args.stacks:
            layer = stacked(layer, random)
        if layer is not None and args.lean and not symmetric(layer):
            layer = None
        most = _STACK if args.stacks else _LAYER
        exposed = None if layer is None else expose(layer, random, most, args.lean)
        if exposed is None:
            continue
        number = len(truth) // len(args.cameras)
        truth += images(entry.uid, exposed, folder, number, args.cameras, random, args.discs)
        print(f"{number + 1} of {args.count}: {entry.uid}", flush=True)
    write_truth(folder, truth)


def new_folder(parser: argparse.ArgumentParser, folder: Path) -> None:
    """Make the folder of the images, and have abTEM compute quietly."""
    if folder.exists():
        parser.error(f"{folder} exists; name a new folder with --out")
    folder.mkdir(parents=True)
    abtem.config.set({"device": "cpu", "diagnostics.progress_bar": False})


def write_truth(folder: Path, truth: Sequence[dict[str, Any]]) -> None:
    """What the images show, a row for each."""
    with (folder / "truth.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, truth[0])
        writer.writeheader()
        writer.writerows(truth)


def stacked(layer: Atoms, random: np.random.Generator) -> Atoms | None:
    """A rhombohedral stack of a layer; None where its cell is not hexagonal or not small."""
    cosine = cosine_of_equal_sides(layer)
    if not np.isclose(abs(cosine), 0.5, atol=1e-3) or len(layer) > _IN_STACKS:
        return None
    a, b = layer.cell.array[:2, :2]
    shift = (a + 2 * b if cosine < 0 else a + b) / 3
    step = [*shift, np.ptp(layer.positions[:, 2]) + _GAP]
    out = layer.copy()
    for number in range(1, int(random.integers(3, 10))):
        above = layer.copy()
        above.positions += number * np.array(step)
        out += above
    out.wrap(pbc=(True, True, False))
    return out


def cosine_of_equal_sides(layer: Atoms) -> float:
    """Of the angle between a and b; NaN where these are not of one length."""
    a, b = layer.cell.array[:2, :2]
    lengths = np.linalg.norm(a), np.linalg.norm(b)
    return float(a @ b / np.prod(lengths)) if np.isclose(*lengths, rtol=1e-3) else np.nan


def symmetric(layer: Atoms) -> bool:
    """Whether the cell is hexagonal or square."""
    return bool(np.isclose(abs(cosine_of_equal_sides(layer)), [0.0, 0.5], atol=1e-3).any())


def across(q: np.ndarray, tilt: np.ndarray, energy: float) -> np.ndarray:
    """Where the beam's cross section, along x and y of the layer turned with it, has the spots q
    (K, 2) of the layer's plane; the beam is tilted by `tilt` (2,), radians."""
    k = 1 / energy2wavelength(1000 * energy)
    turn = Rotation.from_rotvec([tilt[1], -tilt[0], 0.0]).as_matrix()
    beam = k * turn[:, 2]
    flat = beam[:2] + q
    scattered = np.c_[flat, np.sqrt(k**2 - (flat**2).sum(1))] - beam
    return (scattered @ turn)[:, :2]


def expose(
    layer: Atoms,
    random: np.random.Generator,
    most: tuple[int, int] = _LAYER,
    lean: bool = False,
) -> Exposure | None:
    """What electrons make of a layer; None where its cell is too large or not near a rectangle."""
    cell = layer.cell.array
    if len(layer) > most[0] or np.abs(cell[:2, 2]).max() > 1e-6:
        return None
    height = np.ptp(layer.positions[:, 2])
    layer.positions[:, 2] += 3 - layer.positions[:, 2].min()
    layer.set_cell([cell[0], cell[1], [0, 0, height + 6]])
    layer.pbc = True
    try:
        whole = abtem.orthogonalize_cell(layer, max_repetitions=6)
    except RuntimeError:
        return None
    times = np.maximum(np.ceil(16 / whole.cell.lengths()[:2]), 1).astype(int)
    whole *= (*times.tolist(), 1)
    size = whole.cell.lengths()[:2]
    hk = np.stack(np.meshgrid(*[np.arange(-60, 61)] * 2), -1).reshape(-1, 2)
    q = hk @ np.linalg.inv(cell[:2, :2]).T
    q = q[(np.linalg.norm(q, axis=1) < Q_MAX) & (hk != 0).any(1)]
    place = np.rint(q * size).astype(int)
    if len(whole) > most[1] or size.max() > 80 or np.abs(q * size - place).max() > _OFF:
        return None
    energy = float(random.choice(ENERGIES))
    elements = sorted(set(whole.get_chemical_symbols()))
    rms = {x: float(np.clip(random.lognormal(np.log(0.08), 0.25), 0.04, 0.16)) for x in elements}
    moving = abtem.FrozenPhonons(
        whole, num_configs=_CONFIGURATIONS, sigmas=rms, seed=int(random.integers(1_000_000))
    )
    tilt = np.deg2rad(random.normal(0.0, _TILT, 2))
    if lean:
        tilt *= np.deg2rad(random.uniform(*_LEANS)) / np.hypot(*tilt)
    # abTEM takes eV and mrad.
    beam = abtem.PlaneWave(energy=1000 * energy, tilt=tuple(1000 * tilt))
    potential = abtem.Potential(moving, sampling=0.1, slice_thickness=0.8)
    waves = beam.multislice(potential).compute().array
    spectrum = np.fft.fft2(waves) / waves[0].size
    mean = (np.abs(spectrum) ** 2).mean(0)
    seen = across(q, tilt, energy) if lean else q
    return Exposure(seen, mean[place[:, 0], place[:, 1]], energy, rms)


def images(
    uid: str,
    exposed: Exposure,
    folder: Path,
    number: int,
    cameras: Sequence[str],
    random: np.random.Generator,
    discs: bool = False,
) -> list[dict[str, Any]]:
    scale = random.uniform(0.0024, 0.0032)
    least = float(np.linalg.norm(exposed.q, axis=1).min()) / scale
    radius = least * random.uniform(0.15, 0.35) if discs else None
    electrons, stop = picture(exposed, scale, random, radius)
    told = scale * (1 + random.uniform(-0.02, 0.02))
    rows = []
    for camera in cameras:
        dose = CAMERAS[camera]
        name = f"{number:03d}_{uid}_{camera}.{'png' if camera in _SCREEN else 'tif'}"
        iio.imwrite(folder / name, photograph(electrons * dose, camera, stop, random))
        rows.append(
            {
                "image": name, "uid": uid, "detector": camera, "dose": dose, "scale": scale,
                "told": told, "energy": exposed.energy,
                "rms": " ".join(f"{x}:{u:.3f}" for x, u in exposed.rms.items()),
            }
        )  # fmt: skip
    return rows


def picture(
    exposed: Exposure, scale: float, random: np.random.Generator, disc: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Electrons' density (SIZE, SIZE), 1 in all behind the beam stop, and where that is.

    `disc`: the radius of its spots, pixels; None for Gaussians.
    """
    angle, stretch, axis = random.uniform(0, [2 * np.pi, 0.012, np.pi])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turn = turn @ np.diag([1, random.choice([-1, 1])])
    along = np.array([np.cos(axis), np.sin(axis)])
    ellipse = np.eye(2) + stretch * (np.outer(along, along) - np.eye(2) / 2)
    centre = SIZE / 2 + random.normal(0, 12, 2)
    width = random.uniform(1.5, 2.6)
    y, x = np.mgrid[:SIZE, :SIZE]
    out = np.zeros((SIZE, SIZE))
    total = exposed.intensity.sum()
    at = exposed.q @ turn.T @ ellipse.T / scale + centre
    spots = [*zip(at, exposed.intensity, [width] * len(at), strict=True)]
    for (px, py), value, wide in (*spots, (centre, 1 - total, 1.3 * width)):
        reach = 6 * wide + (disc or 0)
        rows, columns = (
            slice(max(int(p - reach) - 2, 0), max(int(p + reach) + 2, 0)) for p in (py, px)
        )
        far = np.hypot(x[rows, columns] - px, y[rows, columns] - py)
        if disc is None:
            shape = np.exp(-(far**2) / (2 * wide**2)) / (2 * np.pi * wide**2)
        else:
            shape = 1 / (1 + np.exp(np.minimum((far - disc) / 0.7, 500))) / (np.pi * disc**2)
        out[rows, columns] += value * shape
    dx, dy = x - centre[0], y - centre[1]
    radius = np.hypot(dx, dy)
    halo = np.exp(-radius * scale / 0.12) + 0.15 * np.exp(-radius * scale / 0.4)
    out += random.uniform(0.12, 0.6) * total * halo / halo.sum()
    angle = random.uniform(0, 2 * np.pi)
    ahead, aside = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
    stop = (radius < 22) | ((ahead > 0) & (np.abs(aside) < 9))
    out[stop] *= 1e-4
    return out / out[~stop].sum(), stop


def photograph(
    electrons: np.ndarray, camera: str, stop: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """What a camera makes of expected electrons (H, W): uint16, or uint8 for the screen."""
    counts = random.poisson(electrons).astype(float)
    if camera == "counting":
        return counts.astype(np.uint16)
    noise = random.standard_normal(counts.shape)
    if camera == "ccd":
        spread = 0.75 * gaussian_filter(counts, 1.1) + 0.25 * gaussian_filter(counts, 8)
        return np.clip(3 * spread + 100 + 6 * noise, 0, 65535).astype(np.uint16)
    spread = gaussian_filter(counts, 0.8) + 2 + noise
    if camera == "log":
        shown = np.log1p(np.maximum(spread, 0) / random.choice([1.0, 5.0, 30.0]))
        shown /= shown.max()
    elif camera == "dark":
        black, white = np.quantile(spread[~stop], [0.95, 0.9995])
        shown = np.clip((spread - black) / (white - black), 0, 1) ** random.uniform(0.4, 0.8)
    else:
        white = np.quantile(spread[~stop], 0.9992)
        shown = np.clip(spread / white, 0, 1) ** random.choice([1.0, 0.6])
    return np.rint(255 * shown).astype(np.uint8)


if __name__ == "__main__":
    main()
