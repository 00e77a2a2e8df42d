"""The page of a query: one HTML file with its pictures inside, that loads nothing.

Texts from files are escaped; what is not known is shown as a dash.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dd2d_jax.crystals import cell
from dd2d_jax.reports import tables
from dd2d_jax.reports.figures import plot_candidate
from dd2d_jax.reports.found_files import cif
from dd2d_jax.reports.html_page import Markup, document, escaped, figure, html_table, link
from dd2d_jax.reports.overlay import FAINT, plot_overlay, predict
from dd2d_jax.util import text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dd2d_jax.images.measurement import Measured
    from dd2d_jax.matching.found import Candidate, Found

_HEAD = (
    "", "formula", "uid", "origin", "probability (%)", "score", "R1", "wR2", "a (Å)", "b (Å)",
    "γ (°)", "Δa (%)", "Δb (%)", "Δγ (°)", "structure",
)  # fmt: skip


_NUMBERS = (
    "Probability: that this crystal made the pattern. Score: natural logarithm of how much more "
    "probable the pattern is if this crystal made it than if none of the library's did. R1 of "
    "amplitudes and wR2 of intensities, over the pattern's spots; with an arrow before and after "
    "refinement. Δ: the crystal's cell (after refinement the refined one) less the measured one "
    "in the same setting. Pictures: from above with the cell, from the side, and measured beside "
    "simulated spots in the crystal's setting."
)


def page(
    found: Found,
    measured: Measured | None = None,
    links: Sequence[Sequence[str]] | None = None,
    title: str = "Crystals that may have made a pattern",
) -> str:
    """What was found, as HTML.

    Args:
        found: from `retrieve`.
        measured: the image that the pattern was seen in; None where there is none.
        links: for each lattice the relative links to its candidates' CIF files; None puts the
            files into the page.
        title: plain text.
    """
    parts = []
    for i, one in enumerate((found, *found.others)):
        name = tables.lattice_title(found, i) if found.others else "What was found"
        name = name.replace("+-", "±").replace(" deg", "°")
        parts.append(f"<h2>{escaped(name[0].upper() + name[1:])}</h2>")
        parts += _section(one, i + 1, measured, None if links is None else links[i])
    return document(title, [*parts, "<h2>What the numbers are</h2>", f"<p>{_NUMBERS}</p>"])


def _section(
    found: Found, number: int, measured: Measured | None, links: Sequence[str] | None
) -> list[str]:
    targets = [
        _embedded(c, rank) if links is None else link("CIF", links[rank - 1])
        for rank, c in enumerate(found.candidates, 1)
    ]
    rows = [
        _row(rank, candidate, target)
        for rank, (candidate, target) in enumerate(
            zip(found.candidates, targets, strict=True), 1
        )
    ]
    parts = [_measured(found), html_table(_HEAD, rows), *_notes(found)]
    if found.candidates:
        parts.append(_overlay(found, number, measured))
    parts.append('<h3>Candidates</h3>\n<div class="row">')
    for rank, (candidate, target) in enumerate(zip(found.candidates, targets, strict=True), 1):
        name = f"candidate_{number}_{rank}"
        caption = f"{_caption(rank, candidate)} {target}"
        parts.append(figure(name, _png(plot_candidate(candidate), 100), "png", caption))
    parts.append("</div>")
    return parts


def _measured(found: Found) -> str:
    indexed = found.indexed
    values = (*cell.cell(indexed.lattice), indexed.rotation)
    a, b, gamma, turn = (
        f"{value:.{digits}f} ± {text.number(float(sigma), digits)}"
        for value, digits, sigma in zip(values, (4, 4, 2, 2), indexed.sigma, strict=True)
    )
    parts = [
        f"Measured cell: a = {a} Å, b = {b} Å, γ = {gamma}°, a at {turn}° to the pattern's x axis; "
        f"{len(indexed.q)} spots ({100 * indexed.explained:.0f} % of the pattern's) lie on it, "
        f"{indexed.residual:.4f} 1/Å from their places (rms). A wrong scale is not in the "
        f"uncertainties. {found.searched:,} crystals were searched."
    ]
    none = (
        "The candidates were not weighed by simulation: there are no probabilities."
        if math.isnan(found.none)
        else f"<b>None of these: {escaped(text.percent(found.none))} %</b>, the probability that "
        "no crystal of the library made the pattern."
    )
    return f"<p>{' '.join(parts)}</p>\n<p>{none}</p>"


def _row(rank: int, candidate: Candidate, target: Markup) -> list[Any]:
    a, b, gamma = cell.cell(candidate.structure.cell.array[:2, :2])
    # In the candidate's setting, at the pattern's own scale.
    scale = 1 / math.sqrt(abs(np.linalg.det(candidate.axes)))
    seen = cell.cell(scale * np.asarray(candidate.query.lattice, float))
    return [
        rank,
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
        f"{100 * (a / seen[0] - 1):+.2f}",
        f"{100 * (b / seen[1] - 1):+.2f}",
        f"{gamma - seen[2]:+.2f}",
        target,
    ]


def _arrow(before: float, after: float) -> str:
    return text.change(before, after).replace("->", "→")


def _notes(found: Found) -> list[str]:
    lines = tables.undetermined(found)
    if not lines:
        return []
    items = "".join(f"<li>{escaped(line)}</li>" for line in lines)
    return [
        "<p>One projection does not determine everything; what the fit left as it was:</p>"
        f"<ul>{items}</ul>"
    ]


def _overlay(found: Found, number: int, measured: Measured | None) -> str:
    first = found.candidates[0]
    predicted = predict(first, found.indexed, measured)
    lost = int((~predicted.seen & ~predicted.hidden).sum())
    caption = (
        f"{'The image' if measured is not None else 'The pattern'}, its found spots and those "
        f"that the first candidate, {escaped(first.formula)} ({escaped(first.uid)}), predicts: "
        f"{len(predicted.q)} above {100 * FAINT:g} % of its strongest, {lost} of which were not "
        "found where they could have been. They stand on the measured lattice; the radius of a "
        "ring grows with the amplitude."
    )
    drawn = plot_overlay(found.indexed, predicted, measured)
    return figure(f"overlay_{number}", _png(drawn, 110), "png", caption)


def _caption(rank: int, candidate: Candidate) -> str:
    parts = [f"<b>{rank}. {escaped(candidate.formula)}</b>", escaped(candidate.uid)]
    if candidate.prototype:
        parts.append(f"prototype {escaped(candidate.prototype)}")
    parts.append(f"{escaped(text.percent(candidate.probability))} %")
    parts.append(f"R1 {_arrow(candidate.r_before, candidate.r_factor)}")
    return ", ".join(parts) + "."


def _embedded(candidate: Candidate, rank: int) -> Markup:
    data = base64.b64encode(cif(candidate)).decode("ascii")
    name = f"{rank:02d}_{text.safe_name(candidate.formula)}.cif"
    return link("CIF", f"data:chemical/x-cif;base64,{data}", name)


def _png(drawn: Figure, dpi: int) -> bytes:
    file = io.BytesIO()
    drawn.savefig(file, format="png", dpi=dpi)
    return file.getvalue()
