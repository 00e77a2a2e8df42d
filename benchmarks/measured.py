"""From images that other programs and microscopes made to spots, centre and lattice.

    python benchmarks/measured.py ../shared/data --out failures --json measured.json

Scores `abtem/` (a folder with images and `truth.csv`) and `experiment/` with default options and
the scale told. What is true of an image is found with the answer in hand: the crystal's lattice is
laid over the image and fitted to the maxima at its places; of abTEM's images the simulated
intensities say which of the places is the centre. A place counts as a spot that can be seen where
a matched filter stands `VISIBLE` robust standard deviations above that filter's response around
it. Each failure is drawn into the folder --out.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import functools
import json
import sys
import time
from pathlib import Path

import numpy as np
from ase.db import connect
from scipy import fft, ndimage

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import diffraction as dx  # noqa: E402
from dd2d_jax.images.measurement import Measured, measure  # noqa: E402
from dd2d_jax.images.patterns import read_mask  # noqa: E402
from dd2d_jax.images.readers import read_image  # noqa: E402
from dd2d_jax.lattices import lattice  # noqa: E402
from dd2d_jax.util.errors import PatternError  # noqa: E402
from dd2d_jax.util.files import new_file  # noqa: E402

TOLERANCE, ANGLE = 0.02, 1.0
VISIBLE = 7.0
# How far a spot may lie from its place, pixels, and the error of a centre that counts as right.
NEAR, CENTRE = 2.0, 0.5
Q_MAX = 2.2  # the images' corners
# Name: scale told (1/angstrom per pixel), cells (a, b, gamma, rotation) as they are seen, roughly
# the beam's column and row, and a spot's width in pixels. SnSe and MoO3 are seen along [100] and
# [010]; the picture of SnSe is not to scale: its cell is the
# picture's, as is that of the tilted MoSe2. Other lengths are from the literature.
EXPERIMENT = {
    "graphene_18.tif": (0.00204, [(2.46, 2.46, 120, 54.5)], (508, 482), 3),
    "graphene_1359.tif": (0.0035, [(2.46, 2.46, 120, 45.0)], (485, 492), 2.5),
    "graphite_ued.tif": (0.008645, [(2.461, 2.461, 120, 52.5)], (165, 183), 2),
    "snse_ued.tif": (0.00503, [(4.35, 4.58, 91.3, 25.5)], (159, 170), 2.5),
    "mose2_flat.tif": (0.012689, [(3.29, 3.29, 120, 0.5)], (63.5, 63.8), 1.5),
    "mose2_tilt_left.tif": (0.012689, [(3.18, 3.25, 118.6, 0.5)], (64, 63.8), 1.5),
    "ws2_hanlab.tif": (0.012065, [(3.153, 3.153, 120, 45.5)], (63.2, 63.5), 1.5),
    "moo3_20cm.tif": (0.0105, [(3.70, 3.96, 90, 102.5)], (129.5, 128), 2),
    "tblg_hbn_0806.tif": (
        0.00511,
        [(2.504, 2.504, 120, 24.5), (2.46, 2.46, 120, 29.0), (2.46, 2.46, 120, 35.7)],
        (266.5, 258), 4.5,
    ),  # fmt: skip
}


@dataclasses.dataclass(frozen=True)
class Truth:
    """What is true of an image.

    Attributes:
        path: of the image.
        told: the scale that is told, 1/angstrom per pixel.
        error: told scale over true scale.
        cells: (2, 2) angstrom each, in the image's frame; any of them is right.
        q: (N, 2) places of the lattices, true 1/angstrom, y up.
        intensity: (N,) simulated, or None.
        start: column and row near which the centre lies, or None.
        mask: file of pixels that are not to be used, or None.
        width: standard deviation of a spot, pixels, roughly.
    """

    path: Path
    told: float
    error: float
    cells: list[np.ndarray]
    q: np.ndarray
    intensity: np.ndarray | None = None
    start: tuple[float, float] | None = None
    mask: Path | None = None
    width: float = 1.7


def turn(degrees: float) -> np.ndarray:
    """Turns row vectors (..., 2) counter-clockwise when multiplied from the right."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, s], [-s, c]])


def abtem(folder: Path, database: Path) -> list[Truth]:
    """Truths of the images that `truth.csv` names."""
    out = []
    with (folder / "truth.csv").open() as file:
        for row in csv.DictReader(file):
            made = _simulated(str(database), row["uid"], float(row["energy"]))
            frame = np.diag([1, -1 if int(row["flip"]) else 1]) @ turn(float(row["rotation"]))
            scale, told = float(row["scale"]), float(row["told"])
            out.append(
                Truth(folder / row["image"], told, told / scale, [made[0] @ frame],
                      made[1] @ frame, made[2])
            )  # fmt: skip
    return out


@functools.cache
def _simulated(database: str, uid: str, energy: float) -> tuple[np.ndarray, ...]:
    with connect(database) as db:
        atoms = db.get(uid=uid).toatoms()
    crystal = dx.Crystal.from_ase(atoms)
    pattern = dx.simulate(crystal, dx.Electrons(energy), Q_MAX, 0.8)
    mask = np.asarray(pattern.mask)
    q, intensity = np.asarray(pattern.q, float)[mask], np.asarray(pattern.intensity, float)[mask]
    return np.asarray(crystal.lattice, float), q, intensity


def experiment(folder: Path) -> list[Truth]:
    """Truths of the measured images of `EXPERIMENT` that are in the folder."""
    out = []
    for name, (scale, cells, start, width) in EXPERIMENT.items():
        made = []
        for a, b, gamma, rotation in cells:
            second = b * np.array([np.cos(np.radians(gamma)), np.sin(np.radians(gamma))])
            made.append(np.array([[a, 0.0], second]) @ turn(rotation))
        hk = np.stack(np.meshgrid(*(np.arange(-12, 13),) * 2), -1).reshape(-1, 2)
        q = np.concatenate([hk[(hk != 0).any(1)] @ np.linalg.inv(c).T for c in made])
        mask = folder / name.replace(".tif", "_mask.png")
        mask = mask if mask.exists() else None
        if (folder / name).exists():
            out.append(Truth(folder / name, scale, 1.0, made, q, None, start, mask, width))
    return out


def matched(pixels: np.ndarray, width: float) -> np.ndarray:
    """A matched filter's response to the square root of an image."""
    good = np.isfinite(pixels)
    floor = np.quantile(pixels[good], 0.01)
    root = np.sqrt(np.maximum(np.where(good, pixels, floor) - floor, 0))
    narrow, wide = (ndimage.gaussian_filter(root, w * width) for w in (1, 3))
    return narrow - wide


def registered(pixels: np.ndarray, truth: Truth) -> tuple[np.ndarray, np.ndarray]:
    """Places (N, 2), column and row, of the true lattice in an image, and its centre (2,)."""
    response = matched(pixels, truth.width)
    clipped = np.clip(response, 0, np.quantile(response, 0.999))
    offset = truth.q * [1, -1] * truth.error / truth.told
    if truth.intensity is None:
        start = np.array(truth.start, float)
    else:
        start = _correlated(clipped, offset, np.sqrt(truth.intensity))
    # The camera's distortion is fitted from the middle outwards.
    length = np.linalg.norm(offset, axis=1)
    near = min(0.25 * length.min(), 8.0)
    cubic = offset * (length / max(pixels.shape))[:, None] ** 2
    design = np.c_[offset, np.ones(len(offset)), cubic]
    fit = np.r_[np.eye(2), start[None], np.zeros((2, 2))]
    snapped = np.full(offset.shape, np.nan)
    summits = ndimage.maximum_filter(response, 5) == response
    row, column = np.nonzero(summits & (response > 6 * 1.48 * np.median(np.abs(response))))
    peaks = np.stack([column, row], 1).astype(float)
    for share in (0.3, 0.45, 0.6, 0.8, 1.0, 1.0):
        places = design @ fit
        distance = np.linalg.norm(places[:, None] - peaks[None], axis=-1)
        which, away = distance.argmin(1), distance.min(1)
        # A place takes a maximum that is nearest to it from both sides.
        mutual = distance.argmin(0)[which] == np.arange(len(places))
        good = mutual & (away < near) & (length < share * max(pixels.shape) / 1.4)
        if good.sum() < 6:
            continue
        good &= away < 3 * np.median(away[good]) + 0.7
        fine = np.array([_summit(response, p) for p in peaks[which[good]]])
        used = 5 if good.sum() > 20 else 3
        fit[:used] = np.linalg.lstsq(design[good][:, :used], fine, rcond=None)[0]
        fit[used:] = 0
        snapped[:] = np.nan
        snapped[good] = fine
    return np.where(np.isfinite(snapped), snapped, design @ fit), fit[2]


def _correlated(image: np.ndarray, offset: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Column and row at which places of such weights explain the image best."""
    size = [fft.next_fast_len(2 * n) for n in image.shape]
    template = np.zeros(size)
    place = np.rint(offset[:, ::-1]).astype(int)
    inside = (np.abs(place) < np.array(image.shape)).all(1)
    np.add.at(template, tuple(place[inside].T), weight[inside])
    found = fft.irfft2(fft.rfft2(image, size) * np.conj(fft.rfft2(template)), size)
    found = found[: image.shape[0], : image.shape[1]]
    return np.array(np.unravel_index(found.argmax(), found.shape)[::-1], float)


def _summit(values: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Column and row of a maximum by parabolas through its neighbours."""
    limits = np.array(values.shape[::-1]) - 2
    column, row = np.clip(place, 1, limits).astype(int)
    out = []
    for at, line in (
        (column, values[row, column - 1 : column + 2]), (row, values[row - 1 : row + 2, column])
    ):  # fmt: skip
        curve = line[0] - 2 * line[1] + line[2]
        out.append(at + (0.5 * (line[0] - line[2]) / curve if curve < 0 else 0.0))
    return np.array(out)


def visible(pixels: np.ndarray, places: np.ndarray, width: float) -> np.ndarray:
    """(N,) True for places with a maximum above the scatter around it."""
    response = matched(pixels, width)
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    ring = np.stack([np.cos(angles), np.sin(angles)], -1)
    reach = np.concatenate([5 * width * ring, 7 * width * ring])

    def at(points: np.ndarray, values: np.ndarray) -> np.ndarray:
        return ndimage.map_coordinates(values, [points[..., 1], points[..., 0]], order=1)

    around = at(places[:, None] + reach, response)
    # Without the brightest fifth of the surroundings, which neighbours may have; in units of a
    # Gaussian's.
    around = np.sort(around, 1)[:, :26]
    spread = around.std(1) / 0.76
    base = around.mean(1) + 0.35 * spread
    spread = np.maximum(spread, 0.3 * np.median(spread) + 1e-9 * np.ptp(response))
    inside = ((places > 4) & (places < np.array(pixels.shape[::-1]) - 5)).all(1)
    top = ndimage.maximum_filter(response, 3)
    peak = ndimage.maximum_filter(response, 5) == top
    above = at(places, top) - base
    whole = np.rint(np.where(inside[:, None], places, 4)).astype(int)
    return inside & (above > VISIBLE * spread) & peak[whole[:, 1], whole[:, 0]]


def shape(cell: np.ndarray) -> tuple[float, float, float]:
    """Lengths (angstrom) and angle (degrees) of the reduced cell."""
    cell = lattice.reduce(cell) @ cell
    a, b = np.linalg.norm(cell, axis=1)
    return a, b, float(np.degrees(np.arccos(np.clip(cell[0] @ cell[1] / (a * b), -1, 1))))


def same(found: np.ndarray, true: np.ndarray) -> bool:
    """Whether a cell, or its mirror image, is the true one to 2 % and 1 degree."""
    want = shape(true)
    for change in lattice.settings(lattice.reduce(found) @ found):
        cell = change @ lattice.reduce(found) @ found
        a, b = np.linalg.norm(cell, axis=1)
        angle = np.degrees(np.arccos(np.clip(cell[0] @ cell[1] / (a * b), -1, 1)))
        for gamma in (angle, 180 - angle):
            lengths = abs(a / want[0] - 1) < TOLERANCE and abs(b / want[1] - 1) < TOLERANCE
            if lengths and abs(gamma - want[2]) < ANGLE:
                return True
    return False


def relation(found: np.ndarray, true: np.ndarray) -> str:
    """own, half, double, multiple (of either in the other, up to five times), or wrong."""
    if same(found, true):
        return "own"
    for index in range(2, 6):
        for d in (d for d in range(1, index + 1) if index % d == 0):
            for shift in range(d):
                change = np.array([[index // d, shift], [0, d]])
                if same(change @ found, true):
                    return "half" if index == 2 else "multiple"
                if same(found, change @ true):
                    return "double" if index == 2 else "multiple"
    return "wrong"


def score(truth: Truth, reference: tuple[np.ndarray, np.ndarray] | None = None) -> dict:
    """Everything that is measured of one image; `reference` is `registered` of a better one."""
    image = read_image(truth.path)
    mask = None if truth.mask is None else read_mask(truth.mask)
    options = {} if mask is None else {"mask": mask}
    out = {"image": truth.path.name, "refused": "", "lattice": "refused", "cell": None}
    measured, found = None, []
    start = time.perf_counter()
    try:
        measured = measure(image, truth.told, **options)
        found = lattice.find_all(measured.pattern)
    except PatternError as error:
        out["refused"] = str(error)
    out["seconds"] = round(time.perf_counter() - start, 3)
    places, centre = reference or registered(image.pixels, truth)
    seen = visible(image.pixels, places, truth.width)
    if mask is not None:
        whole = np.rint(np.where(seen[:, None], places, 0)).astype(int)
        seen &= mask[whole[:, 1], whole[:, 0]]
    out |= {"visible": int(seen.sum()), "reference": centre.round(2).tolist()}
    if found:
        cells = [f.lattice * truth.error for f in found]
        order = ("own", "half", "double", "multiple", "wrong")
        kinds = [min((relation(c, t) for t in truth.cells), key=order.index) for c in cells]
        out |= {"lattice": kinds[0], "lattices": len(found)}
        out["cell"] = [round(float(x), 3) for x in shape(cells[0])]
        out["true"] = [round(float(x), 3) for x in shape(truth.cells[0])]
    if measured is not None:
        spots = measured.spots
        distance = np.linalg.norm(places[:, None] - spots.position[None], axis=-1)
        reach = max(NEAR, spots.width)
        out |= {
            "spots": len(spots.position),
            "missed": int((distance[seen].min(1) > reach).sum()) if seen.any() else 0,
            "false": int((distance.min(0) > reach).sum()),
            "centre": round(float(np.linalg.norm(spots.centre - centre)), 2),
        }
    draw.last = (image.pixels, places[seen], centre, measured, out)
    return out


def good(row: dict) -> bool:
    """Whether nothing is wrong with a row."""
    return row["lattice"] == "own" and row["centre"] <= CENTRE


def draw(path: Path) -> None:
    """The image scored last: spots that can be seen and spots found, true centre and found one."""
    from matplotlib.figure import Figure

    pixels, places, centre, measured, row = draw.last
    figure = Figure(figsize=(9, 9.6), layout="constrained")
    axes = figure.add_subplot()
    low, high = np.nanquantile(pixels, [0.01, 0.999])
    axes.imshow(np.log1p(np.clip((pixels - low) / (high - low + 1e-30), 0, 1) * 100), cmap="gray")
    axes.plot(*places.T, "s", ms=14, mfc="none", mec="#9dff70", mew=0.7, label="can be seen")
    axes.plot(*centre, "x", color="#9dff70", ms=12)
    if measured is not None:
        spots: Measured = measured.spots
        axes.plot(*spots.position.T, "o", ms=9, mfc="none", mec="#7fe3ff", mew=0.8, label="found")
        axes.plot(*spots.rejected.T, "o", ms=5, mfc="none", mec="#ff6b6b", label="rejected")
        axes.plot(*spots.centre, "+", color="#7fe3ff", ms=14)
    axes.set(xlim=(0, pixels.shape[1]), ylim=(pixels.shape[0], 0))
    axes.legend(loc="upper right", fontsize=8)
    words = {k: v for k, v in row.items() if k not in ("image", "reference")}
    figure.suptitle(f"{row['image']}\n{words}", fontsize=8, wrap=True, parse_math=False)
    figure.savefig(path, dpi=80)


def table(rows: list[dict], group: str) -> str:
    """A line of the markdown table: of a group of images."""
    count = len(rows)

    def share(*kinds: str) -> str:
        return f"{100 * sum(r['lattice'] in kinds for r in rows) / count:.0f}"

    measured = [r for r in rows if "spots" in r]
    seen = max(sum(r["visible"] for r in measured), 1)
    spots = max(sum(r["spots"] for r in measured), 1)
    cells = [
        group, str(count), share("own"), share("own", "half"), share("double", "multiple"),
        share("wrong"), share("refused"),
        f"{100 * sum(r['missed'] for r in measured) / seen:.1f}",
        f"{100 * sum(r['false'] for r in measured) / spots:.1f}",
        f"{100 * sum(r['centre'] <= CENTRE for r in measured) / count:.0f}",
        f"{np.median([r['centre'] for r in measured]) if measured else np.nan:.2f}",
        f"{np.mean([r['seconds'] for r in rows]):.2f}",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


HEAD = (
    "| images | number | own cell (%) | own or half (%) | other multiple (%) | wrong (%) | "
    "refused (%) | spots missed (%) | false spots (%) | centre within 0.5 pixel (%) | "
    "median error of the centre (pixels) | s an image |\n" + "| --- " * 12 + "|"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with abtem/, experiment/ and c2db.db")
    parser.add_argument("--only", default="", help="images whose name contains this text")
    parser.add_argument("--limit", type=int, help="crystals of abTEM's images to take")
    parser.add_argument("--out", type=Path, help="folder for pictures of what failed")
    parser.add_argument("--json", type=Path, help="file for all that was measured")
    args = parser.parse_args()
    truths = abtem(args.data / "abtem", args.data / "c2db.db")
    names = sorted({t.path.name.split("_")[0] for t in truths})[: args.limit]
    truths = [t for t in truths if t.path.name.split("_")[0] in names]
    truths = [t for t in truths + experiment(args.data / "experiment") if args.only in t.path.name]
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
    groups: dict[str, list[dict]] = {}
    for truth in truths:
        reference = None
        if truth.intensity is not None:
            crystal = truth.path.name[: truth.path.name.index("_1e+")]
            best = truth.path.with_name(f"{crystal}_1e+06_counting.tif")
            if best.exists():
                reference = registered(read_image(best).pixels, truth)
        row = score(truth, reference)
        group = "measured"
        if truth.intensity is not None:
            group = "abTEM, " + ", ".join(truth.path.stem.split("_")[:-3:-1])
        groups.setdefault(group, []).append(row)
        right = good(row)
        words = row["refused"] or " ".join(
            f"{k} {row.get(k)}" for k in
            ("lattice", "cell", "true", "visible", "spots", "missed", "false", "centre")
        )  # fmt: skip
        print(f"{'    ' if right else 'FAIL'} {row['image']} {row['seconds']:.1f} s: {words}",
              flush=True)  # fmt: skip
        if args.out and not right:
            draw(args.out / f"{truth.path.stem}.png")
    print("\n" + HEAD)
    for group in sorted(groups):
        print(table(groups[group], group))
    if args.json:
        with new_file(args.json) as part:
            part.write_text(json.dumps(groups, indent=1) + "\n")


if __name__ == "__main__":
    main()
