"""Prints how often the lattice and the crystal are found in rendered images, over the dose.

    dd2d index ../shared/data/c2db.db library
    python benchmarks/images.py ../shared/data/c2db.db --crystals 100 --library library

Each image: a crystal at random, any rotation, a centre off the middle, a halo that holds as many
electrons as all spots, a beam stop with its bar, Poisson noise. The dose is of spots and halo, the
central beam is not counted. The scale that the program is told is wrong by up to 2 %. Two shares:
of crystals whose own cell was found; and, of those with spots that span a lattice and can be seen
(`of`), where their cell or the own one was found: a superstructure that nobody could see is no
failure there. Cells agree to 2 % and 2 degrees once the scale is put right. With a library also
the shares of all images in which `retrieve` has the crystal itself first and among the first ten.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ase.db import connect
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import diffraction as dx  # noqa: E402
from dd2d_jax.crystals.structures import layer  # noqa: E402
from dd2d_jax.images.measurement import measure  # noqa: E402
from dd2d_jax.images.readers import Image  # noqa: E402
from dd2d_jax.lattices import lattice  # noqa: E402
from dd2d_jax.libraries.library import Library  # noqa: E402
from dd2d_jax.matching.retrieval import retrieve  # noqa: E402
from dd2d_jax.util.errors import PatternError, StructureError  # noqa: E402

SHAPE, SCALE, Q_MAX = (512, 512), 0.0055, 1.25
FWHM, HALO_WIDTH = 0.02, 0.15
# How wrong the scale may be.
SCALE_ERROR = 0.02
FIRST = 10
# A spot can be seen from so many electrons, and so many standard deviations of the halo under it.
VISIBLE, ABOVE = 10.0, 7.0
TOLERANCE, ANGLE = 0.02, 2.0


def crystals(path: str, count: int, seed: int) -> list[tuple[str, dx.Crystal]]:
    """`count` crystals at random, with their uids; what is no layer is left out."""
    with connect(path) as database:
        rows = np.random.default_rng(seed).permutation(database.count()) + 1
        out = []
        for row in rows:
            found = database.get(int(row))
            try:
                made = layer(found.toatoms())
            except StructureError:
                continue
            name = found.key_value_pairs["uid"]
            out.append((name, dx.Crystal(*(jnp.asarray(x) for x in made[:3]))))
            if len(out) == count:
                return out
    return out


def turned(pattern: dx.Pattern, angle: float, q_max: float = Q_MAX) -> dx.Pattern:
    """The spots of a simulated pattern, turned, on NumPy and padded to one of few lengths."""
    mask = np.asarray(pattern.mask)
    c, s = np.cos(angle), np.sin(angle)
    q = np.asarray(pattern.q)[mask] @ np.array([[c, s], [-s, c]])
    size = 64 * 2 ** int(np.ceil(np.log2(max(len(q) / 64, 1))))
    pad = size - len(q)
    return dx.Pattern(
        jnp.asarray(np.pad(q, ((0, pad), (0, 0)))),
        jnp.asarray(np.pad(np.asarray(pattern.intensity)[mask], (0, pad))),
        jnp.zeros((size, 2), int),
        jnp.asarray(np.arange(size) < len(q)),
    )


def picture(
    pattern: dx.Pattern, dose: float, rng: np.random.Generator
) -> tuple[np.ndarray, dx.Pattern]:
    """Counts (H, W), and the pattern in electrons, its mask True for what can be seen."""
    centre = tuple(np.array([255.5, 255.5]) + rng.uniform(-15, 15, 2))
    key = jax.random.key(int(rng.integers(2**31)))
    flux = float(pattern.intensity.sum())
    rows, columns = np.indices(SHAPE)
    radius = np.hypot(columns - centre[0], rows - centre[1]) * SCALE
    height = flux / float((1 / (1 + (radius / HALO_WIDTH) ** 2)).sum())
    expected = dx.render(
        pattern, SHAPE, SCALE, centre, FWHM, halo=(height, HALO_WIDTH), beam=20 * flux
    )
    seen = np.asarray(dx.beam_stop(SHAPE, SCALE, centre, 0.08, rng.uniform(0, 360), 0.05))
    # The beam hits the stop, and what it leaves beside it is part of the image.
    total = float(expected.sum()) / (2 * flux) * dose
    image = np.asarray(dx.counts(key, expected, total)) * seen
    place = np.rint(np.asarray(pattern.q) * [1, -1] / SCALE + centre).astype(int)
    place = np.clip(place, 0, 511)
    open_ = seen[place[:, 1], place[:, 0]]
    electrons = np.asarray(pattern.intensity) * open_ * dose / (2 * flux)
    length = np.linalg.norm(np.asarray(pattern.q), axis=1)
    halo = height / (1 + (length / HALO_WIDTH) ** 2) * dose / (2 * flux)
    under = halo * 4 * np.pi * (FWHM / 2.355 / SCALE) ** 2
    seen = np.asarray(pattern.mask) & (electrons > VISIBLE + ABOVE * np.sqrt(under))
    pattern = dx.Pattern(pattern.q, jnp.asarray(electrons), pattern.hk, jnp.asarray(seen))
    return image.astype(float), pattern


def same(found: np.ndarray, true: np.ndarray) -> bool:
    """Whether two reduced cells (2, 2) agree to 2 % and 2 degrees."""
    shapes = []
    for cell in (found, true):
        cell = lattice.reduce(cell) @ cell
        lengths = np.linalg.norm(cell, axis=1)
        shapes.append((*lengths, np.degrees(np.arccos(cell[0] @ cell[1] / lengths.prod()))))
    (a, b, gamma), (a0, b0, gamma0) = shapes
    close = abs(a / a0 - 1) < TOLERANCE and abs(b / b0 - 1) < TOLERANCE
    return close and abs(gamma - gamma0) < ANGLE


def visible_cell(pattern: dx.Pattern) -> np.ndarray | None:
    """The cell of the spots that can be seen, at their true places; None where they span none."""
    if int(pattern.mask.sum()) < 4:
        return None
    try:
        return lattice.find(pattern).lattice
    except PatternError:
        return None


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("database")
    parser.add_argument("--crystals", type=int, default=100)
    parser.add_argument("--doses", type=float, nargs="+", default=[1e4, 3e4, 1e5, 3e5, 1e6])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--library", help="folder from `dd2d index`: also retrieve")
    parser.add_argument("--show", action="store_true", help="name what was not found")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    some = crystals(args.database, args.crystals, args.seed)
    library = Library.load(args.library) if args.library else None
    rng = np.random.default_rng(args.seed)
    patterns = [
        turned(dx.simulate(c, dx.Electrons(80.0), Q_MAX, 0.8), rng.uniform(0, 2 * np.pi))
        for _, c in some
    ]
    table = Table("dose", "own cell (%)", "visible cell (%)", "of", "spurious (%)", "s an image")
    if library:
        for column in ("first (%)", f"first {FIRST} (%)", "s a query"):
            table.add_column(column)
    for dose in args.doses:
        own, visible, tried, spurious, seconds, ranks, search = 0, 0, 0, [], 0.0, [], 0.0
        for (uid, crystal), pattern in zip(some, patterns, strict=True):
            image, counts = picture(pattern, dose, rng)
            error = rng.uniform(-SCALE_ERROR, SCALE_ERROR)
            true = np.asarray(crystal.lattice)
            target = visible_cell(counts)
            tried += target is not None
            start, why, found, rank = time.perf_counter(), "", None, np.inf
            try:
                measured = measure(Image(image), SCALE * (1 + error))
                found = lattice.find(measured.pattern)
            except PatternError as failure:
                why = str(failure)
            seconds += time.perf_counter() - start
            if found is not None:
                cell = found.lattice * (1 + error)
                own += same(cell, true)
                q = np.asarray(measured.pattern.q) / (1 + error)
                away = np.linalg.norm(q[:, None] - np.asarray(counts.q)[None], axis=-1).min(1)
                spurious.append((away > 2 * SCALE).mean())
                why = f"found {np.linalg.norm(cell, axis=1).round(2)}"
                if library:
                    start = time.perf_counter()
                    best = [c.uid for c in retrieve(measured.pattern, library, k=FIRST)]
                    search += time.perf_counter() - start
                    rank = best.index(uid) + 1 if uid in best else np.inf
            ranks.append(rank)
            good = (
                found is not None
                and target is not None
                and (same(cell, target) or same(cell, true))
            )
            visible += good
            if args.show and (library and rank > FIRST or target is not None and not good):
                seen = None if target is None else np.linalg.norm(target, axis=1).round(2)
                print(f"{dose:g} {uid}: {why}; can be seen {seen}, own "
                      f"{np.linalg.norm(true, axis=1).round(2)}")  # fmt: skip
        row = [
            f"{dose:g}",
            f"{100 * own / len(some):.0f}",
            f"{100 * visible / max(tried, 1):.1f}",
            str(tried),
            f"{100 * np.mean(spurious) if spurious else 0:.1f}",
            f"{seconds / len(some):.2f}",
        ]
        if library:
            row += [f"{100 * np.mean(np.array(ranks) <= n):.0f}" for n in (1, FIRST)]
            row.append(f"{search / len(some):.2f}")
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    main()
