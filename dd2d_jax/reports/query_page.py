"""The page of a query: one HTML file with all that was found for a pattern.

It loads nothing and can be read without scripts; with them, structures turn, tables sort and the
overlay zooms. Texts from files are escaped; what is not known is shown as a dash.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from dd2d_jax.crystals.cell import cell
from dd2d_jax.lattices.lattice import reduce
from dd2d_jax.lattices.notes import of_cells
from dd2d_jax.reports import query_drawings as drawings
from dd2d_jax.reports import tables
from dd2d_jax.reports.comparison import FAINT, Family, Predicted, families, predict
from dd2d_jax.reports.conclusion import conclusion
from dd2d_jax.reports.html_page import Link, data_link, render, table
from dd2d_jax.reports.layer_view import common_window, side_view, top_view
from dd2d_jax.reports.structure_texts import cif, is_mixed, poscar
from dd2d_jax.util import text

if TYPE_CHECKING:
    from dd2d_jax.images.measurement import Measured
    from dd2d_jax.matching.found import Candidate, Found

# Candidates of a lattice that are drawn, the table has all of them; and spots and atoms of a page
# in all, so that it stays below 5 MB.
DRAWN, _MARKS = 12, 15_000
_HEAD = (
    "", "formula", "uid", "origin", "probability (%)", "score", "R1", "wR2", "a (Å)", "b (Å)",
    "γ (°)", "Δa, Δb (%)", "Δγ (°)",
)  # fmt: skip


def page(
    found: Found,
    measured: Measured | None = None,
    about: Mapping[str, str] | None = None,
) -> str:
    """What was found, as HTML.

    Args:
        found: from `retrieve`.
        measured: the image that the pattern was seen in; None where there is none.
        about: "file", "command", "library" and "note" for the head of the page, what is known of
            them.
    """
    about = dict(about or {})
    every = (found, *found.others)
    names = [
        tables.lattice_heading(found, i) if found.others else "" for i in range(len(every))
    ]
    names = [name[:1].upper() + name[1:] for name in names]
    lattices = [_lattice(one, i, name, measured, _MARKS // len(every))
                for i, (one, name) in enumerate(zip(every, names, strict=True), 1)]  # fmt: skip
    return render(
        "query.html",
        f"Crystals that may have made {about.get('file', 'a pattern')}",
        scripts=["3Dmol-min.js", "solid.js", "query.js"],
        lattices=lattices,
        facts=_facts(found, measured, about),
        faint=100 * FAINT,
    )


def _facts(
    found: Found, measured: Measured | None, about: Mapping[str, str]
) -> list[tuple[str, str]]:
    """The head of the page: where all of this comes from."""
    rows = [(name, about[name]) for name in ("file", "command", "note") if about.get(name)]
    if measured is not None:
        scale = " × ".join(f"{x:.6g}" for x in np.atleast_1d(measured.mapping.scale))
        rows.append(("scale", f"{scale} 1/Å per pixel"))
    energy = found.energy
    if energy is None and measured is not None:
        energy = measured.image.energy
    rows.append(("energy", "not given" if energy is None else f"{energy:g} keV"))
    library = about.get("library", "")
    count = f"{found.searched:,} crystals searched"
    rows.append(("library", f"{library}; {count}" if library else count))
    return rows


def _drawn(found: Found, measured: Measured | None, marks: int) -> list[Predicted]:
    """The spots of the first candidates, as many as so many marks show; of one at least."""
    out: list[Predicted] = []
    for candidate in found.candidates[:DRAWN]:
        one = predict(candidate, found.indexed, measured, found.energy)
        atoms, cell_area = candidate.structure, abs(np.linalg.det(candidate.structure.cell[:2, :2]))
        window = common_window([atoms])[0]
        marks -= 3 * min(len(one.hk), drawings.SPOTS) + int(2 * len(atoms) * window**2 / cell_area)
        if out and marks < 0:
            break
        out.append(one)
    return out


def _lattice(
    found: Found, number: int, name: str, measured: Measured | None, marks: int
) -> dict[str, Any]:
    """Everything that the template says of one lattice."""
    frame = drawings.Frame(found.indexed, measured)
    predicted = _drawn(found, measured, marks)
    shown = found.candidates[: len(predicted)]
    differences = [np.abs(drawings.amplitudes(one)) for one in predicted]
    most = max([1e-3, *(float(np.nanmax(one)) for one in differences if np.isfinite(one).any())])
    limit = max(
        [1e-6, *(float(np.linalg.norm(one.q, axis=1).max(initial=0)) for one in predicted)]
    )
    window = common_window([candidate.structure for candidate in shown])
    spots = drawings.found_spots(found.indexed, measured, frame)
    place = f"lattice {number}, " if name else ""
    return {
        "number": number,
        "name": name,
        "conclusion": conclusion(found),
        "cell": _measured_cell(found),
        "further": _further_cells(found),
        "none": _none(found),
        "table": table(
            f"{place}candidates, the most probable first".capitalize(),
            _HEAD,
            [_row(rank, c, number if rank <= len(shown) else None)
             for rank, c in enumerate(found.candidates, 1)],
        ),
        "undetermined": tables.undetermined(found.candidates),
        "frame": frame,
        **spots,
        "most": 100 * most,
        "left_out": len(found.candidates) - len(shown),
        "candidates": [
            {
                **_described(rank, candidate),
                "rings": drawings.rings(one, frame),
                "counts": _counts(one),
                "differences": drawings.difference_map(one, most, limit),
                "tells": _tells(one, predicted[0]) if rank > 1 else "",
                "top": drawings.drawn(top_view(candidate.structure, window[0])),
                "side": drawings.drawn(side_view(candidate.structure, *window)),
                "model": drawings.model(candidate.structure, window[0]),
                **_intensities(f"{place}candidate {rank}", candidate, one),
            }
            for rank, (candidate, one) in enumerate(zip(shown, predicted, strict=True), 1)
        ],
    }


def _measured_cell(found: Found) -> str:
    indexed = found.indexed
    values = (*cell(indexed.lattice), indexed.rotation)
    a, b, gamma, turn = (
        f"{value:z.{digits}f} ± {text.number(float(sigma), digits)}"
        for value, digits, sigma in zip(values, (4, 4, 2, 2), indexed.sigma, strict=True)
    )
    return (
        f"Measured cell: a = {a} Å, b = {b} Å, γ = {gamma}°; a lies at {turn}° to the x axis of "
        f"the pattern. {len(indexed.q)} spots ({100 * indexed.explained:.0f} % of all) lie on this "
        f"lattice; their rms distance from it is {indexed.residual:.4f} 1/Å. The uncertainties do "
        "not include an error of the scale."
    )


def _further_cells(found: Found) -> str:
    """What else is said of the measured cell: a superlattice, other cells, further notes."""
    indexed, lines = found.indexed, []
    satellites, main, name = 0, indexed.main, "superlattice"
    kind = "weak satellites"
    if found.superlattice is not None:
        satellites, main = found.superlattice.satellites, found.superlattice.parent.lattice
        name = f"{found.superlattice.name} superlattice"
        if found.superlattice.may_be_false:
            kind = "false, or weak satellites"
    elif indexed.satellites is not None:
        satellites, main = int(indexed.satellites.sum()), reduce(main) @ main
    if satellites:
        a, b, gamma = cell(main)
        lines.append(
            f"{satellites} of its spots are {kind}: the cell is a {name} of a main cell "
            f"{a:.3f} × {b:.3f} Å, {gamma:.1f}°"
        )
    if indexed.alternatives:
        cells = (f"{a:.3f} × {b:.3f} Å, {gamma:.1f}°" for a, b, gamma in
                 map(cell, indexed.alternatives))  # fmt: skip
        lines.append(f"Other cells that the spots do not rule out: {'; '.join(cells)}")
    told = of_cells(indexed)
    lines += [note for note in indexed.notes if note not in told]
    return " ".join(f"{line[:1].upper()}{line[1:]}." for line in lines)


def _none(found: Found) -> str:
    if math.isnan(found.none):
        return "The candidates were not compared by simulation, so there are no probabilities."
    return (
        f"Probability that no crystal of the library made this pattern: {text.percent(found.none)} "
        "%."
    )


def _described(rank: int, candidate: Candidate) -> dict[str, Any]:
    return {
        "rank": rank,
        "formula": candidate.formula,
        "uid": candidate.uid,
        "prototype": candidate.prototype,
        "origin": tables.origin(candidate),
        "probability": text.percent(candidate.probability),
        "r1": _arrow(candidate.r_before, candidate.r_factor),
        "further": _further(candidate),
        "legend": drawings.legend(candidate.structure),
        "files": _files(rank, candidate),
    }


def _further(candidate: Candidate) -> list[str]:
    """What else is known of a candidate; nothing is said of what is not."""
    out = [f"B {text.number(candidate.b_iso, 2)} Å²"] if math.isfinite(candidate.b_iso) else []
    if candidate.power != 1:
        out.append(f"intensities as counts to the power {text.number(candidate.power, 2)}")
    if candidate.layer_group:
        out.append(f"layer group {candidate.layer_group}")
    if math.isfinite(candidate.ehull):
        out.append(f"{candidate.ehull:.3f} eV/atom above the convex hull")
    if math.isfinite(candidate.strain):
        out.append(f"strained by {_signed(100 * candidate.strain)} % from the library's cell")
    if is_mixed(candidate):
        out.append("mixed sites, which are not refined")
    if candidate.superlattice:
        out.append(f"with a weak {candidate.superlattice} superlattice")
    if candidate.stacked:
        out.append("as a stack of shifted layers, which show only some of their cell's spots")
    if candidate.flake:
        out.append(f"as {candidate.flake}")
    if candidate.leans:
        out.append(f"tilted by {candidate.leans:.1f} degrees")
    if len(candidate.entries) > 1:
        out.append(f"{len(candidate.entries)} entries: {', '.join(candidate.entries)}")
    return out


def _files(rank: int, candidate: Candidate) -> list[Link]:
    stem = f"{rank:02d}_{text.safe_name(candidate.formula)}"
    links = [Link("CIF", data_link(cif(candidate), "chemical/x-cif"), f"{stem}.cif")]
    if not is_mixed(candidate):
        links.append(Link("POSCAR", data_link(poscar(candidate), "text/plain"), f"{stem}.vasp"))
    return links


def _row(rank: int, candidate: Candidate, number: int | None) -> list[Any]:
    """A row of the table; with a link to the pictures on lattice `number`, where there are any."""
    a, b, gamma = cell(candidate.structure.cell.array[:2, :2])
    # In the candidate's setting, at the pattern's own scale.
    scale = 1 / math.sqrt(abs(np.linalg.det(candidate.axes)))
    seen = cell(scale * np.asarray(candidate.query.lattice, float))
    return [
        rank if number is None else Link(str(rank), f"#candidate-{number}-{rank}"),
        candidate.formula,
        candidate.uid,
        tables.origin(candidate),
        text.percent(candidate.probability),
        text.number(candidate.score, 2),
        _arrow(candidate.r_before, candidate.r_factor),
        _arrow(candidate.wr2_before, candidate.wr2),
        f"{a:.3f}",
        f"{b:.3f}",
        f"{gamma:.1f}",
        f"{_signed(100 * (a / seen[0] - 1))}, {_signed(100 * (b / seen[1] - 1))}",
        _signed(gamma - seen[2]),
    ]


def _signed(value: float) -> str:
    """With two decimals and no sign where nothing is left to sign."""
    return f"{value:+.2f}" if abs(value) >= 0.005 else "0.00"


def _arrow(before: float, after: float) -> str:
    return text.change(before, after).replace("->", "→")


def _counts(predicted: Predicted) -> dict[str, int]:
    lost = ~predicted.seen & ~predicted.hidden
    return {
        "both": int(predicted.seen.sum()),
        "lost": int(lost.sum()),
        "blind": int(predicted.hidden.sum()),
    }


def _tells(one: Predicted, first: Predicted) -> str:
    """The spot at which a candidate differs most from the first one."""
    there = {spot: j for j, spot in enumerate(first.spot.tolist()) if spot >= 0}
    pairs = [(i, there[spot]) for i, spot in enumerate(one.spot.tolist()) if spot in there]
    if not pairs:
        return ""
    apart = [abs(math.sqrt(max(one.calculated[i], 0)) - math.sqrt(max(first.calculated[j], 0)))
             for i, j in pairs]  # fmt: skip
    i, j = pairs[int(np.argmax(apart))]
    if max(apart) < 0.01:
        return "Its pattern is the same as that of the first candidate."
    h, k = one.hk[i]
    observed, mine, other = (
        f"{100 * value:.1f}" for value in (one.observed[i], one.calculated[i], first.calculated[j])
    )
    return (
        f"Differs most from the first candidate at {h} {k}: measured {observed}, this crystal "
        f"{mine}, the first {other}."
    )


def _intensities(of: str, candidate: Candidate, predicted: Predicted) -> dict[str, Any]:
    """Tables of a candidate's families and spots."""
    lattice = candidate.structure.cell.array[:2, :2]
    made = families(predicted, lattice)
    name_of = {row: _family_name(one) for one in made for row in one.rows.tolist()}
    order = np.argsort(np.linalg.norm(predicted.q, axis=1), kind="stable")[: drawings.SPOTS]
    return {
        "families": table(
            f"Families {{h k}} of spots that the symmetry of the lattice makes equivalent, {of}",
            ("family", "q (1/Å)", "d (Å)", "found", "observed", "observed range", "calculated",
             "calculated range"),
            [_family_row(one, predicted) for one in made[: drawings.SPOTS]],
        ),
        "spots": table(
            f"Every spot, intensities in percent of the strongest, {of}",
            ("h", "k", "family", "q (1/Å)", "observed", "± (σ)", "calculated",
             "observed − calculated"),
            [_spot_row(predicted, i, name_of[i]) for i in order.tolist()],
        ),
    }  # fmt: skip


def _family_name(family: Family) -> str:
    return f"{{{family.hk[0]} {family.hk[1]}}}"


def _family_row(family: Family, predicted: Predicted) -> list[Any]:
    observed, calculated = family.observed, family.calculated
    return [
        _family_name(family),
        f"{family.q:.4f}",
        f"{1 / family.q:.3f}",
        f"{int(predicted.seen[family.rows].sum())} of {len(family.rows)}",
        "-" if observed is None else _percents(observed[0]),
        "-" if observed is None else f"{_percents(observed[1])} to {_percents(observed[2])}",
        _percents(calculated[0]),
        f"{_percents(calculated[1])} to {_percents(calculated[2])}",
    ]


def _spot_row(predicted: Predicted, i: int, family: str) -> list[Any]:
    seen, observed = bool(predicted.seen[i]), float(predicted.observed[i])
    calculated = float(predicted.calculated[i])
    return [
        int(predicted.hk[i, 0]),
        int(predicted.hk[i, 1]),
        family,
        f"{np.linalg.norm(predicted.q[i]):.4f}",
        _percents(observed) if seen else "not measured" if predicted.hidden[i] else "not found",
        _percents(float(predicted.sigma[i])),
        _percents(calculated),
        _percents(observed - calculated) if seen else "-",
    ]


def _percents(value: float) -> str:
    return text.number(100 * value, 2)
