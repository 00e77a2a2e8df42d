"""A report on a checkpoint: the tables and figures of Fu et al. (2025), from any data set.

`make` gathers every number and writes a folder: report.html (one file, nothing from the net),
report.json and the figures.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from dd2d_jax.crystals.point_groups import point_group
from dd2d_jax.data.crystal_set import CrystalSet, concatenate
from dd2d_jax.evaluation.evaluate import THERMAL, evaluate, prepare
from dd2d_jax.evaluation.snapshots import read_snapshots
from dd2d_jax.networks.attention import Attention, attention
from dd2d_jax.networks.disturbances import LEVELS, PATTERNS
from dd2d_jax.networks.trained import Model
from dd2d_jax.reports import report_figures, report_numbers, report_page
from dd2d_jax.reports.figures import save
from dd2d_jax.reports.html_page import data_link
from dd2d_jax.reports.network_answers import CANDIDATES, Answers, answer
from dd2d_jax.util.files import new_folder
from dd2d_jax.util.progress import progress

# The level of the figures.
LEVEL = "perturbed"
# An SVG larger than this, in bytes, is replaced by pixels.
_LARGE = 400_000
# Figures for dark screens, in the colours of page.css.
_DARK = {
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "#14171c"),
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"),
        "#e4e7ec",
    ),
    "grid.color": "#363c46",
}


def make(
    model: Model,
    queries: CrystalSet,
    library: CrystalSet,
    out: str | Path,
    about: Mapping[str, Any],
    others: Mapping[str, tuple[Model, int]] | None = None,
    snapshots: str | Path | None = None,
    seed: int = 0,
    crystal: str | None = None,
    records: Sequence[Mapping[str, Any]] = (),
    say: Callable[[str], None] = lambda _: None,
    drawn: CrystalSet | None = None,
) -> dict[str, Any]:
    """Gather everything and write the folder `out`.

    Args:
        model: the trained model.
        queries: crystals whose patterns are looked for; each uid must be in the library.
        library: the gallery.
        out: a new folder.
        about: "checkpoint", "queries" and "library", names for the page, and "steps" (int)
            that the weights have seen.
        others: models that are compared with it by name, with their steps.
        snapshots: for the level "thermal", see `evaluate`.
        seed: of the disturbance.
        crystal: uid of the query whose attention is drawn; None takes the first with 3 to 6
            atoms.
        records: of its training, from `checkpoint.read_records`; without any, the page has no
            learning curves.
        say: called with a line at each stage.
        drawn: one crystal, added to the gallery, whose pattern's candidates are drawn; None takes
            the first query that is found within ten candidates but not first.

    Returns:
        What report.json holds.

    Raises:
        FileExistsError: something is at `out` already.
        ValueError: see `evaluate`; or no query has the uid `crystal`.
    """
    looked_at = _pick(queries, crystal)
    with new_folder(out) as part:
        asked = {level: queries for level in LEVELS}
        if snapshots is not None:
            asked[THERMAL] = read_snapshots(snapshots, queries)
        gallery = prepare(model, library, say)
        results = []
        for level in asked:
            say(f"level {level}")
            shots = snapshots if level == THERMAL else None
            results.append(evaluate(model, queries, library, level, seed, say, shots, gallery))
        answers = {
            level: answer(model, gallery.embeddings, made, library, level, seed)
            for level, made in asked.items()
            if level not in PATTERNS
        }
        seen = attention(model, queries.crystal[looked_at])
        example = _Example(answers[LEVEL], _shown(answers[LEVEL].ranks), library)
        if drawn is not None:
            embeddings = np.concatenate([gallery.embeddings, prepare(model, drawn, say).embeddings])
            crystals = concatenate([library, drawn])
            asked_for = answer(model, embeddings, drawn, crystals, LEVEL, seed)
            example = _Example(asked_for, 0, crystals)
        numbers = _numbers(queries, library, results, answers, looked_at, seen, example)
        numbers["candidates"]["chosen"] = drawn is not None
        numbers["about"] = {**about, **report_numbers.about_model(model), "seed": seed}
        numbers["ablation"] = report_numbers.compared_networks(
            model, answers, queries, library, seed, about, others or {}, say
        )
        numbers["learning"] = report_numbers.learning_numbers(records)
        say("drawing")
        images = _draw(part, numbers, seen, example, model)
        text = json.dumps(numbers, indent=1, allow_nan=False)
        (part / "report.json").write_text(text + "\n")
        (part / "report.html").write_text(report_page.page(numbers, images), "utf-8")
    return numbers


@dataclasses.dataclass(frozen=True)
class _Example:
    """The query whose candidates are drawn: row `row` of the answers, from a gallery."""

    answers: Answers
    row: int
    gallery: CrystalSet


def _numbers(
    queries: CrystalSet,
    library: CrystalSet,
    results: list[dict[str, Any]],
    answers: Mapping[str, Answers],
    looked_at: int,
    seen: Attention,
    example: _Example,
) -> dict[str, Any]:
    """What the report says of one network."""
    main, crystals = answers[LEVEL], example.gallery  # the library comes first in it
    rows = progress(range(len(crystals)), len(crystals), "point groups")
    groups = np.array([point_group(crystals.atoms(i)) for i in rows])
    return {
        "accuracy": {
            "levels": results,
            "chance": {f"top{k}": min(100.0, 100 * k / len(library)) for k in (1, 3, 5, 10)},
            "published": report_numbers.PUBLISHED,
        },
        "attention": report_numbers.attention_numbers(queries, looked_at, seen),
        "point_groups": report_numbers.point_group_numbers(main, groups[: len(library)]),
        "candidates": report_numbers.candidate_numbers(
            example.answers, example.row, crystals, groups
        ),
        "failures": {
            "ranks": {level: report_numbers.failed(a.ranks) for level, a in answers.items()},
            "level": LEVEL,
            "worst": report_numbers.worst(main, library, groups),
        },
    }


def _draw(
    folder: Path,
    numbers: dict[str, Any],
    seen: Attention,
    example: _Example,
    model: Model,
) -> dict[str, dict[str, str]]:
    """Every figure as PNG in the folder, and as data links for light and dark screens."""
    draw: dict[str, Callable[[], Figure]] = {
        "attention": lambda: report_figures.plot_attention(seen),
        "point_groups": lambda: report_figures.plot_point_groups(numbers["point_groups"]),
        "candidates": lambda: report_figures.plot_candidates(
            numbers["candidates"], example.answers, example.row, example.gallery, model.conditions
        ),
        "ranks": lambda: report_figures.plot_ranks(numbers["failures"]["ranks"]),
    }
    if numbers["learning"] is not None:
        draw["learning"] = lambda: report_figures.plot_learning(numbers["learning"])
    images: dict[str, dict[str, str]] = {}
    for name, make_figure in draw.items():
        figure = make_figure()
        save(figure, folder / f"{name}.png")
        images[name] = {"light": _link(figure)}
        with matplotlib.rc_context(_DARK):
            images[name]["dark"] = _link(make_figure())
    return images


def _link(figure: Figure) -> str:
    """A figure as a data link: sharp at any size, but for those of very many parts."""
    out = io.BytesIO()
    figure.savefig(out, format="svg")
    if out.tell() < _LARGE:
        return data_link(out.getvalue(), "image/svg+xml")
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=130, pil_kwargs={"optimize": True})
    return data_link(out.getvalue(), "image/png")


def _pick(queries: CrystalSet, uid: str | None) -> int:
    """The query whose attention is drawn."""
    if uid is not None:
        found = np.flatnonzero(queries.uid == uid)
        if not len(found):
            raise ValueError(f"no query has the uid {uid!r}; the first is {str(queries.uid[0])!r}")
        return int(found[0])
    atoms = (queries.numbers > 0).sum(1)
    small = np.flatnonzero((atoms >= 3) & (atoms <= 6))
    return int(small[0]) if len(small) else 0


def _shown(ranks: np.ndarray) -> int:
    """The first query that is found within ten candidates but not first, or else the first."""
    near = np.flatnonzero((ranks > 1) & (ranks <= CANDIDATES))
    return int(near[0]) if len(near) else 0
