"""What was found, as tables for the terminal, as JSON and as files; progress on the way.

Names and formulas come from strangers' files: they are shown as they are, never as markup, and
make no path of their own.
"""

from __future__ import annotations

import csv
import json
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from rich.markup import escape
from rich.table import Table

from dd2d_jax.files import new_folder
from dd2d_jax.ranks import TOP

if TYPE_CHECKING:
    import diffraction as dx
    from dd2d_jax.calibrate import Calibration
    from dd2d_jax.lattice import Indexed
    from dd2d_jax.measure import Measured
    from dd2d_jax.retrieval import Candidate, Found


T = TypeVar("T")


def progress(
    items: Iterable[T],
    total: int | None,
    what: str,
    per: str = "s",
    weight: Callable[[T], int] = lambda _: 1,
) -> Iterator[T]:
    """`items`, with a bar, the rate per "s" or "min" and the time left on stderr.

    weight: how many of `total` an item counts for.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.0f}/s" if per == "s" else "{task.fields[rate]:.1f}/min"),
        TimeRemainingColumn(),
    )
    unit = {"s": 1, "min": 60}[per]
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total, rate=0)
        start, done = time.monotonic(), 0
        for item in items:
            yield item
            done += weight(item)
            bar.update(task, completed=done, rate=unit * done / (time.monotonic() - start))


def printable(text: str) -> str:
    """Without control characters: names from files must not move the cursor or add lines."""
    return "".join(c for c in text if c.isprintable())


def cell(lattice: np.ndarray) -> tuple[float, float, float]:
    """a and b in angstrom and gamma in degrees of a cell (2, 2)."""
    a, b = (float(np.linalg.norm(v)) for v in np.asarray(lattice, float))
    cosine = float(np.dot(*np.asarray(lattice, float))) / (a * b)
    return a, b, math.degrees(math.acos(max(-1.0, min(1.0, cosine))))


def candidate_table(found: Found) -> Table:
    """The candidates, best first; lengths in angstrom, angles in degrees."""
    a, b, gamma = cell(found.indexed.lattice)
    caption = (
        f"measured cell {a:.3f} x {b:.3f} A, {gamma:.1f} deg, on which "
        f"{100 * found.indexed.explained:.0f} % of the spots lie; {found.searched} searched"
    )
    table = Table(caption=caption, caption_justify="left")
    for name in ("", "uid", "formula", "prototype", "origin"):
        table.add_column(name, justify="right" if not name else "left", overflow="fold")
    for name in ("score", "similarity", "R1", "a", "b", "gamma"):
        table.add_column(name, justify="right", no_wrap=True)
    for rank, candidate in enumerate(found.candidates, 1):
        a, b, gamma = cell(candidate.structure.cell.array[:2, :2])
        table.add_row(
            str(rank),
            escape(printable(candidate.uid)),
            escape(printable(candidate.formula)),
            escape(printable(candidate.prototype) or "-"),
            _origin(candidate),
            f"{candidate.score:.4f}",
            f"{candidate.similarity:.3f}" if math.isfinite(candidate.similarity) else "-",
            r1_text(candidate),
            f"{a:.3f}",
            f"{b:.3f}",
            f"{gamma:.1f}",
        )
    return table


def r1_text(candidate: Candidate) -> str:
    """R1, before and after where it was refined."""
    if candidate.r_before == candidate.r_factor:
        return f"{candidate.r_factor:.3f}"
    return f"{candidate.r_before:.3f} -> {candidate.r_factor:.3f}"


def _origin(candidate: Candidate) -> str:
    if parent := getattr(candidate, "parent", None):
        return f"proposed: {escape(printable(parent))}, {candidate.substitution}"
    if candidate.known:
        return "known"
    # Only the project's own crystals come with a prototype; of others nothing is claimed.
    return "made up" if candidate.prototype else "-"


def found_dict(found: Found) -> dict[str, Any]:
    """All that was found as JSON: cells in angstrom and degrees, positions in angstrom."""
    return {
        "searched": found.searched,
        "lattice": lattice_dict(found.indexed),
        "candidates": [
            {"rank": rank, **_candidate_dict(candidate)}
            for rank, candidate in enumerate(found.candidates, 1)
        ],
    }


def lattice_dict(found: Indexed) -> dict[str, Any]:
    """A pattern's lattice as JSON: angstrom and degrees."""
    a, b, gamma = cell(found.lattice)
    return {
        "a": a,
        "b": b,
        "gamma": gamma,
        "vectors": found.lattice.tolist(),
        "explained": found.explained,
        "residual": found.residual,
        "spots": len(found.q),
    }


def _candidate_dict(candidate: Candidate) -> dict[str, Any]:
    atoms = candidate.structure
    a, b, gamma = cell(atoms.cell.array[:2, :2])
    return {
        "uid": candidate.uid,
        "formula": candidate.formula,
        "prototype": candidate.prototype,
        "known": candidate.known,
        # Of crystals that are in no library (`propose.Proposed`).
        "parent": getattr(candidate, "parent", ""),
        "substitution": getattr(candidate, "substitution", ""),
        "score": _finite(candidate.score),
        "similarity": _finite(candidate.similarity),
        "r_factor": _finite(candidate.r_factor),
        "r_before": _finite(candidate.r_before),
        "b_iso": _finite(candidate.b_iso),
        "a": a,
        "b": b,
        "gamma": gamma,
        "structure": {
            "cell": atoms.cell.array.tolist(),
            "symbols": atoms.get_chemical_symbols(),
            "positions": atoms.positions.tolist(),
        },
    }


def _finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None


def write_found(found: Found, directory: Path) -> None:
    """Write structures, found.json, found.csv and found.png as a new folder, all or nothing.

    Raises:
        FileExistsError: something is there already.
        OSError: the folder cannot be written.
    """
    from dd2d_jax.figures import plot_found, save

    with new_folder(directory) as part:
        for rank, candidate in enumerate(found.candidates, 1):
            _write_structure(candidate, part / f"{rank:02d}_{safe_name(candidate.formula)}")
        text = json.dumps(found_dict(found), indent=2, allow_nan=False)
        (part / "found.json").write_text(text + "\n")
        _write_csv(found, part / "found.csv")
        save(plot_found(found), part / "found.png")


def _write_structure(candidate: Candidate, stem: Path) -> None:
    import ase.io

    atoms = candidate.structure.copy()
    # Writers put `info` into their comments; a stranger's text has no place there.
    atoms.info = {}
    # Files of both kinds say nothing of open axes; the vacuum does.
    atoms.pbc = True
    ase.io.write(stem.with_name(stem.name + ".cif"), atoms, format="cif")
    ase.io.write(
        stem.with_name(stem.name + ".vasp"), atoms, format="vasp", direct=True, sort=True
    )


def safe_name(text: str) -> str:
    """Letters, digits, `_` and `-` of a text, at most 40: never a path, never hidden, never ""."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_-")[:40] or "crystal"


def _write_csv(found: Found, path: Path) -> None:
    rows = [{"rank": rank, **_candidate_dict(c)} for rank, c in enumerate(found.candidates, 1)]
    for row in rows:
        del row["structure"]
        for field in ("uid", "formula", "prototype", "parent"):
            row[field] = _inert(row[field])
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else ["rank"])
        writer.writeheader()
        writer.writerows(rows)


def _inert(text: str) -> str:
    """Spreadsheets run what begins like a formula."""
    return "'" + text if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def pattern_table(pattern: dx.Pattern, count: int = 20) -> Table:
    """The strongest spots of a single pattern: hk, |q| in 1/angstrom, d in angstrom, percent."""
    mask = np.asarray(pattern.mask, bool)
    hk, intensity = np.asarray(pattern.hk)[mask], np.asarray(pattern.intensity)[mask]
    length = np.linalg.norm(np.asarray(pattern.q, float)[mask], axis=1)
    order = np.lexsort((length, -np.round(intensity / max(intensity.max(), 1e-30), 6)))[:count]
    table = Table(
        caption=f"the strongest {len(order)} of {len(hk)} spots", caption_justify="left"
    )
    for name in ("h", "k", "|q| (1/A)", "d (A)", "intensity (%)"):
        table.add_column(name, justify="right")
    strongest = intensity.max() if intensity.max() > 0 else 1.0
    for i in order:
        table.add_row(
            str(hk[i, 0]),
            str(hk[i, 1]),
            f"{length[i]:.4f}",
            f"{1 / length[i]:.4f}",
            f"{100 * intensity[i] / strongest:.3f}",
        )
    return table


def measured_table(measured: Measured, found: Indexed) -> Table:
    """What was found in an image: lattice, spots, centre, scale; angstrom, degrees, pixels."""
    spots, mapping = measured.spots, measured.mapping
    a, b, gamma = cell(found.lattice)
    scale = " x ".join(f"{x:.6g}" for x in np.atleast_1d(mapping.scale))
    energy = measured.image.energy
    rows = {
        "a, b (A)": f"{a:.3f}, {b:.3f}",
        "gamma (degrees)": f"{gamma:.2f}",
        "spots": f"{len(spots.position)}, {100 * found.explained:.0f} % of them on the lattice",
        "from its places (1/A, rms)": f"{found.residual:.4f}",
        "saturated, rejected": f"{spots.saturated.sum()}, {len(spots.rejected)}",
        "centre (pixels)": f"{spots.centre[0]:.2f}, {spots.centre[1]:.2f}",
        "scale (1/A per pixel)": scale,
        "not measured": f"{100 * (1 - spots.measured.mean()):.1f} % of the image",
    }
    if mapping.stretch or mapping.radial:
        rows["ellipticity"] = f"{100 * mapping.ellipticity:.2f} % along {mapping.axis:.0f} degrees"
        rows["radial term (1/pixel^2)"] = f"{mapping.radial:.3g}"
    if energy is not None:
        rows["energy (keV)"] = f"{energy:g}"
    return _facts(rows)


def calibration_table(made: Calibration) -> Table:
    """A calibration and its standard uncertainties."""
    m, sigma = made.mapping, made.sigma
    return _facts(
        {
            "material": printable(made.material),
            "scale (1/A per pixel)": f"{m.scale:.6f} +- {sigma['scale']:.6f}",
            "centre (pixels)": ", ".join(
                f"{x:.2f} +- {s:.2f}" for x, s in zip(made.centre, sigma["centre"], strict=True)
            ),
            "ellipticity (%)": f"{100 * m.ellipticity:.2f} +- {100 * sigma['ellipticity']:.2f}",
            "its long axis (degrees)": f"{m.axis:.1f} +- {sigma['axis']:.1f}",
            "radial term (1/pixel^2)": f"{m.radial:.3g} +- {sigma['radial']:.2g}",
            "rings": f"{len(made.rings)}, which explain {100 * made.explained:.0f} % of what is "
            "above the background",
        }
    )


def _facts(rows: dict[str, str]) -> Table:
    table = Table(show_header=False)
    for name, text in rows.items():
        table.add_row(name, escape(text))
    return table


def evaluation_table(result: dict[str, Any]) -> Table:
    """Accuracies in percent and milliseconds a query of the three methods (see `evaluate`)."""
    cell = "/".join(f"{result['cell_alone'][f'top{n}']:.1f}" for n in TOP)
    setup = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in result["setup_s"].items())
    table = Table(
        title=f"{result['level']}: {result['queries']} queries, {result['library']} crystals",
        title_justify="left",
        caption=f"the nearest cell alone, no intensities: {cell}\nset-up: {setup}",
        caption_justify="left",
    )
    table.add_column("method")
    for name in (*(f"top-{n} (%)" for n in TOP), "ms a query"):
        table.add_column(name, justify="right")
    for method, values in result["methods"].items():
        shown = [f"{values[f'top{n}']:.1f}" for n in TOP]
        table.add_row(method, *shown, f"{values['ms_per_query']:.2f}")
    return table
