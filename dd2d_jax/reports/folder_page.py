"""The overview of a folder of patterns: a line for each, with a link to its own page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from dd2d_jax.reports.conclusion import VERDICTS, verdict
from dd2d_jax.reports.html_page import Link, render, table
from dd2d_jax.util.text import number, percent

_UNREAD = "could not be used"


def page(rows: Sequence[Mapping[str, Any]], about: Mapping[str, str] | None = None) -> str:
    """The overview as HTML, to stand beside the folders of the patterns.

    Args:
        rows: of `retrieve_folder`.
        about: "folder", "command" and "library" for the head of the page, what is known of them.
    """
    about = dict(about or {})
    verdicts = [
        _UNREAD if row["error"] else verdict(row["probability"], row["none"]) for row in rows
    ]
    counts = Counter(verdicts)
    told = ", ".join(f"{counts[name]} {name}" for name in (*VERDICTS, _UNREAD) if counts[name])
    several = "1 pattern" if len(rows) == 1 else f"{len(rows):,} patterns"
    return render(
        "folder.html",
        f"Patterns in {about.get('folder', 'a folder')}",
        conclusion=f"{several}: {told}.",
        facts=[(name, about[name]) for name in ("command", "library") if name in about],
        table=table(
            "Each pattern and its first candidate",
            ("file", "verdict", "formula", "uid", "probability (%)", "not in library (%)", "R1",
             "a (Å)", "b (Å)", "γ (°)", "lattices", "note"),
            [_row(row, said) for row, said in zip(rows, verdicts, strict=True)],
        ),
    )  # fmt: skip


def _row(row: Mapping[str, Any], said: str) -> list[Any]:
    nothing = float("nan")
    probability, none, r1, a, b, gamma = (
        nothing if row[name] is None else row[name]
        for name in ("probability", "none", "r1", "a", "b", "gamma")
    )
    # Names are a stranger's: quoted whole, a link leads nowhere but into the folder beside.
    place = f"./{quote(row['folder'], safe='')}/page.html" if row["folder"] else None
    return [
        Link(row["file"], place) if place else row["file"],
        said,
        row["formula"] or "-",
        row["uid"] or "-",
        percent(probability),
        percent(none),
        number(r1, 3),
        number(a, 3),
        number(b, 3),
        number(gamma, 1),
        row["lattices"] or "-",
        row["error"] or "",
    ]
