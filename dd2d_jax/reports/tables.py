"""What was found, as tables for the terminal and as JSON; progress on the way.

Names and formulas come from strangers' files: they are shown as they are, never as markup.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from dd2d_jax.crystals.cell import cell
from dd2d_jax.evaluation.ranks import TOP
from dd2d_jax.lattices.lattice import twist
from dd2d_jax.lattices.notes import notes_of_all
from dd2d_jax.matching.absent import NONE
from dd2d_jax.util.text import change, number, percent, printable

if TYPE_CHECKING:
    import diffraction as dx
    from dd2d_jax.images.calibration import Calibration
    from dd2d_jax.images.measurement import Measured
    from dd2d_jax.lattices.indexed import Indexed
    from dd2d_jax.matching.found import Candidate, Found


def found_table(found: Found, every: bool = False) -> RenderableType:
    """The candidates for each lattice; `every` also those of less than 0.1 %."""
    if not found.others:
        return CandidateTable(found, every=every)
    lattices = (found, *found.others)
    return Group(
        *(CandidateTable(one, lattice_title(found, i), every) for i, one in enumerate(lattices))
    )


def lattice_title(found: Found, i: int) -> str:
    """What the i-th lattice of a pattern is called; the first is 0."""
    if i == 0:
        return "lattice 1"
    degrees, sigma = twist(found.indexed, found.others[i - 1].indexed)
    turned = f"rotated by {degrees:.2f} +- {sigma:.2f} deg from the first"
    return f"lattice {i + 1}, {turned}"


def lattice_heading(found: Found, i: int) -> str:
    """The same for a page, which has the signs."""
    return lattice_title(found, i).replace("+-", "±").replace(" deg", "°")


@dataclasses.dataclass(frozen=True)
class CandidateTable:
    """The candidates for one lattice, best first; lengths in angstrom, angles in degrees.

    Rank, uid, formula, probability and origin are shown at any width; further columns as far as
    there is room for them.
    """

    found: Found
    title: str | None = None
    every: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        found = self.found
        if self.title:
            yield Text(self.title)
        if headline := not_in_library(found):
            yield Text(headline)
        shown = [c for c in found.candidates if self.every or not c.probability < _LEAST]
        rows = [_cells(rank, c) for rank, c in enumerate(shown, 1)]
        names = [n for n in _COLUMNS if any(row[n] not in ("", "-") for row in rows)]
        table = _table_of(rows, names)
        # The least important go first, until the rest fits.
        for name in _DISPENSABLE:
            if Measurement.get(console, options.update(width=1000), table).maximum <= (
                options.max_width
            ):
                break
            names = [n for n in names if n != name]
            table = _table_of(rows, names)
        if rows:
            yield table
        for line in _caption(found, shown):
            yield Text(line, style="italic")


# In this order from left to right; those that may go, the first of them first.
_COLUMNS = (
    "", "uid", "formula", "%", "origin", "score", "R1", "strain %", "entries", "cell",
    "library's cell", "prototype", "ehull", "wR2", "cosine",
)  # fmt: skip
_DISPENSABLE = (
    "cosine", "wR2", "ehull", "prototype", "library's cell", "cell", "entries", "strain %", "R1",
    "score",
)  # fmt: skip
# Candidates of a lower probability are not shown unless asked for.
_LEAST = 0.001


def _cells(rank: int, candidate: Candidate) -> dict[str, str]:
    """Text of each column."""
    count = len(candidate.entries)
    over = f", {candidate.superlattice} superlattice" if candidate.superlattice else ""
    over += ", shifted layers" if candidate.stacked else ""
    over += f", {candidate.flake.layers} layers" if candidate.flake else ""
    over += f", tilted by {candidate.leans:.0f} degrees" if candidate.leans else ""
    return {
        "": str(rank),
        "uid": printable(candidate.uid),
        "formula": printable(candidate.formula),
        "%": percent(candidate.probability),
        "origin": origin(candidate) + over,
        "score": number(candidate.score, 2),
        "R1": change(candidate.r_before, candidate.r_factor),
        "strain %": f"{100 * candidate.strain:+.1f}",
        "entries": f"{count} entries" if count > 1 else "",
        "cell": _cell(candidate.structure.cell.array[:2, :2]),
        "library's cell": _cell(candidate.lattice),
        "prototype": printable(candidate.prototype) or "-",
        "ehull": number(candidate.ehull, 3),
        "wR2": change(candidate.wr2_before, candidate.wr2),
        "cosine": number(candidate.similarity, 3),
    }


def _cell(lattice: np.ndarray) -> str:
    a, b, gamma = cell(lattice)
    return f"{a:.3f} x {b:.3f}, {gamma:.1f}"


def _table_of(rows: list[dict[str, str]], names: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in names:
        right = name in ("", "%", "score", "R1", "strain %", "ehull", "wR2", "cosine")
        fold = name in ("uid", "formula", "origin", "prototype")
        table.add_column(
            name, justify="right" if right else "left", overflow="fold", no_wrap=not fold
        )
    for row in rows:
        table.add_row(*(escape(row[name]) for name in names))
    return table


def not_in_library(found: Found) -> str:
    """What stands above the candidates: that none of the library's crystals made the pattern."""
    if not math.isfinite(found.none):
        return ""
    return f"not in the library: {percent(found.none)} %"


def _caption(found: Found, shown: Sequence[Candidate]) -> list[str]:
    lines = [
        f"measured cell {_cell(found.indexed.lattice)} (A, degrees), on which "
        f"{100 * found.indexed.explained:.0f} % of the spots lie; {found.searched} searched"
    ]
    over = found.superlattice
    if over is not None and shown:
        name, count = printable(shown[0].uid), over.satellites
        lines.append(
            f"spots between the rods of {name}: {count}; false, or of a {over.name} superlattice"
            if over.may_be_false
            else f"{over.name} superlattice of {name}, {count} weak spots"
        )
    if any(one.stacked for one in shown):
        lines.append(
            "shifted layers: read as a stack of layers, each shifted against the next, which show "
            "only some of their cell's spots"
        )
    if any(one.leans for one in shown):
        lines.append(
            "tilted: the cell looks shorter in one direction, as that of a tilted hexagonal or "
            "square crystal does; it was compared at this tilt, in both senses"
        )
    for rank, one in enumerate(shown[:1], 1):
        if one.flake:
            lines.append(f"{rank}: {one.flake}")
    hidden = len(found.candidates) - len(shown)
    if hidden:
        noun, verb = ("candidates", "are") if hidden > 1 else ("candidate", "is")
        lines.append(f"{hidden} further {noun} of less than 0.1 % {verb} not shown (--all)")
    return lines + undetermined(shown)


def undetermined(candidates: Iterable[Candidate]) -> list[str]:
    """Lines that say what refinement left undetermined, what trades off, and what is in doubt:
    for all of these candidates alike, or by rank."""
    lines: dict[str, list[str]] = {}
    for rank, candidate in enumerate(candidates, 1):
        said = []
        if candidate.undetermined:
            names = _gathered(candidate.undetermined)
            said.append(f"not determined by the pattern, of {{}}: {names}")
        if candidate.correlations:
            pairs = (f"{a} with {b} ({value:+.2f})" for a, b, value in candidate.correlations)
            said.append(f"correlated, of {{}}: {', '.join(pairs)}")
        said += [f"in doubt, of {{}}: {doubt}" for doubt in candidate.doubts]
        for line in said:
            lines.setdefault(line, []).append(str(rank))
    return [line.replace("{}", ", ".join(ranks)) for line, ranks in lines.items()]


def _gathered(names: Sequence[str]) -> str:
    """Such as "z of O1, O2; B" of "z of O1", "z of O2" and "B"."""
    by_what: dict[str, list[str]] = {}
    for name in names:
        what, _, of = name.partition(" of ")
        by_what.setdefault(what, []).append(of)
    return "; ".join(
        f"{what} of {', '.join(of)}" if any(of) else what for what, of in by_what.items()
    )


def origin(candidate: Candidate) -> str:
    """Where a candidate comes from."""
    if parent := getattr(candidate, "parent", None):
        return f"proposed: {printable(parent)}, {candidate.substitution}"
    if candidate.known:
        return "known"
    # Only the project's own crystals come with a prototype; of others nothing is claimed.
    return "hypothetical" if candidate.prototype else "-"


def summary_table(rows: Sequence[dict[str, Any]]) -> Table:
    """A line for each pattern of a folder, see `batch.retrieve_folder`."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("file", "cell (A, deg)", "first", "uid"):
        table.add_column(name, overflow="fold")
    for name in ("%", "none %", "R1"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    nothing = math.nan
    for row in rows:
        further = row["lattices"] - 1
        lengths = f"{row['a']:.3f} x {row['b']:.3f}, {row['gamma']:.1f}" if row["a"] else "-"
        probability, none, r1 = (
            nothing if row[name] is None else row[name] for name in ("probability", "none", "r1")
        )
        note = row["error"] or (f"and {further} further lattices" if further else "")
        texts = (row["file"], lengths, row["formula"] or "-", row["uid"] or "-")
        table.add_row(
            *(escape(printable(text)) for text in texts),
            percent(probability),
            percent(none),
            number(r1, 3),
            escape(printable(note)),
        )
    return table


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


def measured_table(measured: Measured, lattices: Sequence[Indexed]) -> Table:
    """What was found in an image: lattices, spots, centre, scale; angstrom, degrees, pixels."""
    spots, mapping = measured.spots, measured.mapping
    found = lattices[0]
    a, b, gamma = cell(found.lattice)
    scale = " x ".join(f"{x:.6g}" for x in np.atleast_1d(mapping.scale))
    energy = measured.image.energy
    rows = {
        "a, b (A)": f"{a:.3f}, {b:.3f}",
        "gamma (degrees)": f"{gamma:.2f}",
        "spots": f"{len(spots.position)}, {100 * found.explained:.0f} % of them on the lattice",
        "intensity on it": f"{100 * found.strength:.0f} %",
        "rms distance from it (1/A)": f"{found.residual:.4f}",
        "saturated, rejected": f"{spots.saturated.sum()}, {len(spots.rejected)}",
        "centre (pixels)": f"{spots.centre[0]:.2f}, {spots.centre[1]:.2f}",
        "scale (1/A per pixel)": scale,
        "not measured": f"{100 * (1 - spots.measured.mean()):.1f} % of the image",
    }
    for i, other in enumerate(lattices[1:], 2):
        a, b, gamma = cell(other.lattice)
        degrees, sigma = twist(found, other)
        rows[f"lattice {i}"] = (
            f"{a:.3f} x {b:.3f} A, {gamma:.2f} degrees, {100 * other.explained:.0f} % of spots; "
            f"rotated by {degrees:.2f} +- {sigma:.2f}"
        )
    if mapping.stretch or mapping.radial:
        rows["ellipticity"] = f"{100 * mapping.ellipticity:.2f} % along {mapping.axis:.0f} degrees"
        rows["radial term (1/pixel^2)"] = f"{mapping.radial:.3g}"
    if energy is not None:
        rows["energy (keV)"] = f"{energy:g}"
    if notes := notes_of_all(lattices):
        rows["note"] = "\n".join(notes)
    return _facts(rows)


def calibration_table(made: Calibration) -> Table:
    """A calibration and its standard uncertainties."""
    m, sigma = made.mapping, made.sigma
    return _facts(
        {
            "material": printable(made.material),
            "scale (1/A per pixel)": f"{m.scale:.7f} +- {sigma['scale']:.2g}",
            "centre (pixels)": ", ".join(
                f"{x:.2f} +- {s:.2f}" for x, s in zip(made.centre, sigma["centre"], strict=True)
            ),
            "ellipticity (%)": f"{100 * m.ellipticity:.2f} +- {100 * sigma['ellipticity']:.2f}",
            "its long axis (degrees)": f"{m.axis:.1f} +- {sigma['axis']:.1f}",
            "radial term (1/pixel^2)": f"{m.radial:.3g} +- {sigma['radial']:.2g}",
            "rings, or families of spots": f"{len(made.rings)}, which explain "
            f"{100 * made.explained:.0f} % of what was found",
        }
    )


def _facts(rows: dict[str, str]) -> Table:
    table = Table(show_header=False)
    for name, text in rows.items():
        table.add_row(name, escape(text))
    return table


def evaluation_table(result: dict[str, Any]) -> Table:
    """Accuracies in percent and milliseconds per query of the three methods (see `evaluate`)."""
    cell = "/".join(f"{result['cell_alone'][f'top{n}']:.1f}" for n in TOP)
    setup = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in result["setup_s"].items())
    table = Table(
        title=f"{result['level']}: {result['queries']} queries, {result['library']} crystals",
        title_justify="left",
        caption=f"the nearest cell alone, no intensities: {cell}\nset-up: {setup}",
        caption_justify="left",
    )
    table.add_column("method")
    for name in (*(f"top-{n} (%)" for n in TOP), "ms per query"):
        table.add_column(name, justify="right")
    for method, values in result["methods"].items():
        shown = [f"{values[f'top{n}']:.1f}" for n in TOP]
        table.add_row(method, *shown, f"{values['ms_per_query']:.2f}")
    return table


def reliability_tables(result: dict[str, Any]) -> list[Table]:
    """Stated probabilities against what was true, see `answers.present_and_absent`."""
    tables = []
    titles = {
        "present": "crystal present",
        "absent": "crystal absent",
        "mixed": f"{NONE:.0%} absent, which is what the probabilities expect",
    }
    for kind in titles:
        if kind not in result:
            continue
        said = result[kind]
        lines = [
            f"a wrong crystal above 90 %: {said['wrong_above_90']:.1f} % of the queries, above "
            f"99 %: {said['wrong_above_99']:.1f} %; the right one above 90 %: "
            f"{said['right_above_90']:.1f} %; none of them first: {said['none_first']:.1f} %"
        ]
        table = Table(
            title=f"{titles[kind]}: {said['queries']} queries",
            title_justify="left",
            caption_justify="left",
        )
        table.add_column("stated (%)")
        for what in ("first", "none"):
            for name in ("queries", "stated", "true"):
                table.add_column(f"{what}: {name}", justify="right")
            its = said[what]
            if its["count"]:
                lines.append(
                    f"{what}: Brier score {its['brier']:.3f}, log-loss {its['log_loss']:.3f}, "
                    f"expected calibration error {100 * its['ece']:.1f} %"
                )
        bins = {w: {b["from"]: b for b in said[w]["bins"]} for w in ("first", "none")}
        for start in sorted({*bins["first"], *bins["none"]}):
            cells = [f"{100 * start:.0f} to {100 * start + 10:.0f}"]
            for what in ("first", "none"):
                one = bins[what].get(start, {"count": 0, "stated": math.nan, "true": math.nan})
                shares = (number(100 * one[name], 1) for name in ("stated", "true"))
                cells += [str(one["count"]), *shares]
            table.add_row(*cells)
        table.caption = "\n".join(lines)
        tables.append(table)
    return tables
