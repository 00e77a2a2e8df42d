"""A structure that turns, as a page of its own for a frame within another page."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from dd2d_jax.reports.html_page import render
from dd2d_jax.reports.layer_view import common_window
from dd2d_jax.reports.query_drawings import model

if TYPE_CHECKING:
    from dd2d_jax.matching.found import Candidate


def solid_frame(candidate: Candidate, height: int) -> str:
    """An <iframe>, `height` pixels high, with a candidate's structure; only its own scripts run."""
    atoms = candidate.structure
    page = render(
        "solid.html",
        f"Structure of {candidate.formula}",
        scripts=["3Dmol-min.js", "solid.js", "alone.js"],
        model=model(atoms, common_window([atoms])[0]),
    )
    # Turned by mouse alone: the Tab key passes it by.
    return (
        f'<iframe sandbox="allow-scripts" title="{escape(candidate.formula)} in three dimensions" '
        f'tabindex="-1" srcdoc="{escape(page)}" '
        f'style="width: 100%; height: {height}px; border: 0"></iframe>'
    )
