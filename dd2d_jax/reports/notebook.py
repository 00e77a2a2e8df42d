"""What notebooks show of `Found`: its conclusion and the first candidates, without scripts."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from dd2d_jax.crystals.cell import cell
from dd2d_jax.reports.conclusion import conclusion
from dd2d_jax.reports.tables import lattice_heading, not_in_library, origin
from dd2d_jax.util.text import change, percent, printable

if TYPE_CHECKING:
    from dd2d_jax.matching.found import Candidate, Found

_HEAD = ("", "formula", "uid", "origin", "probability (%)", "R1", "a (Å)", "b (Å)", "γ (°)")


def found_html(found: Found) -> str:
    """A table for each lattice; texts from files are escaped."""
    parts = []
    for i, one in enumerate((found, *found.others)):
        if found.others:
            parts.append(f"<p>{escape(lattice_heading(found, i))}</p>")
        rows = "".join(_row(_cells(rank, c)) for rank, c in enumerate(one.candidates, 1))
        head = "".join(f"<th>{name}</th>" for name in _HEAD)
        parts.append(
            f"<p><b>{escape(conclusion(one))}</b> {escape(not_in_library(one))}</p>"
            f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        )
    return "".join(parts)


def _row(cells: list[str]) -> str:
    return f"<tr>{''.join(f'<td>{escape(printable(one))}</td>' for one in cells)}</tr>"


def _cells(rank: int, candidate: Candidate) -> list[str]:
    a, b, gamma = cell(candidate.structure.cell.array[:2, :2])
    return [
        str(rank), candidate.formula, candidate.uid, origin(candidate),
        percent(candidate.probability), change(candidate.r_before, candidate.r_factor),
        f"{a:.3f}", f"{b:.3f}", f"{gamma:.1f}",
    ]  # fmt: skip
