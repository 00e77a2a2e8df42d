"""A report on a checkpoint: the tables and figures of Fu et al. (2025), from any data set.

`make` gathers every number and writes a folder: report.html (one file, nothing from the net),
report.json and the figures.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import io
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from dd2d_jax.crystals.cell import cell
from dd2d_jax.crystals.point_groups import TOLERANCE, counts, distance, point_group, tree
from dd2d_jax.data.crystal_set import CrystalSet
from dd2d_jax.evaluation.evaluate import PATTERNS, THERMAL, evaluate, make_queries, places, prepare
from dd2d_jax.evaluation.ranks import accuracy, row_orders, row_ranks
from dd2d_jax.evaluation.snapshots import read_snapshots
from dd2d_jax.networks.attention import Attention, attention
from dd2d_jax.networks.disturbances import LEVELS, Disturbance
from dd2d_jax.networks.trained import Model
from dd2d_jax.spots import Spots, strongest
from dd2d_jax.util.files import new_folder
from dd2d_jax.util.progress import progress

# Candidates that are drawn, and after how many the point groups are counted.
CANDIDATES = 10
ATTEMPTS = (1, 3, 5)
# The level of the figures, and how many wrong answers are listed.
LEVEL = "perturbed"
WORST = 10
# Ranks of queries that were not found at once: (first, last).
BINS = ((2, 2), (3, 3), (4, 5), (6, 10), (11, 20), (21, 50), (51, 100), (101, None))
_PACKAGES = ("dd2d-jax", "jax", "flax")
# Table 1 of the paper: top-1/3/5/10 in percent.
PUBLISHED = {
    "source": "Fu et al., Communications Physics 8, 221 (2025)",
    "library": 796,
    "clean": {"top1": 62.0, "top3": 92.0, "top5": 95.0, "top10": 99.0},
    "perturbed": {"top1": 55.0, "top3": 83.0, "top5": 94.0, "top10": 99.0},
}


@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
    """What the network alone answers to m queries.

    Attributes:
        level: of the queries.
        spots: (m, T) the queries' patterns.
        truth: (m,) rows of the library.
        cosines: (m, n) with every crystal of the library.
        ranks: (m,) of the true crystals; a tie counts against.
        order: (m, k) rows of the library, best first; the true crystal comes last among equals,
            and so stands at its rank.
    """

    level: str
    spots: Spots
    truth: np.ndarray
    cosines: np.ndarray
    ranks: np.ndarray
    order: np.ndarray


def answer(
    model: Model,
    gallery: np.ndarray,
    queries: CrystalSet,
    library: CrystalSet,
    level: str,
    seed: int = 0,
) -> Answers:
    """Ask the network for queries that are made as `evaluate` makes them.

    Args:
        model: the trained model.
        gallery: (n, D) embeddings of the library.
        queries: m crystals, or for "thermal" their snapshots; uids as in the library.
        library: n crystals.
        level: "clean", "perturbed" or "thermal".
        seed: of the disturbance.
    """
    amount = LEVELS.get(level, Disturbance())
    spots = make_queries(queries, model.conditions, amount, seed)
    cosines = model.embed_patterns(strongest(spots, model.conditions.tokens)) @ gallery.T
    truth = places(queries, library)
    ranks = row_ranks(cosines, truth)
    order = row_orders(cosines, truth, CANDIDATES)
    return Answers(level, spots, truth, cosines, ranks, order)


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
    say: Callable[[str], None] = lambda _: None,
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
        say: called with a line at each stage.

    Returns:
        What report.json holds.

    Raises:
        FileExistsError: something is at `out` already.
        ValueError: see `evaluate`; or no query has the uid `crystal`.
    """
    from dd2d_jax.reports import report_figures, report_page
    from dd2d_jax.reports.figures import save

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
            if level != PATTERNS
        }
        main = answers[LEVEL]
        groups = np.array(
            [point_group(library.atoms(i))
             for i in progress(range(len(library)), len(library), "point groups")]
        )  # fmt: skip
        seen = attention(model, queries.crystal[looked_at])
        shown = _shown(main.ranks)
        numbers = {
            "about": {**about, **_about(model), "seed": seed},
            "accuracy": {
                "levels": results,
                "chance": {f"top{k}": min(100.0, 100 * k / len(library)) for k in (1, 3, 5, 10)},
                "published": PUBLISHED,
            },
            "attention": _attention(queries, looked_at, seen),
            "point_groups": _point_groups(main, groups),
            "candidates": _candidates(main, shown, library, groups),
            "ablation": _ablation(model, answers, queries, library, seed, about, others or {}, say),
            "failures": {
                "ranks": {level: _failed(a.ranks) for level, a in answers.items()},
                "level": LEVEL,
                "worst": _worst(main, library, groups),
            },
        }
        say("drawing")
        figures = {"attention": report_figures.plot_attention(seen)}
        figures["point_groups"] = report_figures.plot_point_groups(numbers["point_groups"])
        figures["candidates"] = report_figures.plot_candidates(
            numbers["candidates"], main, shown, library, model.conditions
        )
        figures["ranks"] = report_figures.plot_ranks(numbers["failures"]["ranks"])
        images = {}
        for name, figure in figures.items():
            save(figure, part / f"{name}.png")
            images[name] = _svg(figure)
        text = json.dumps(numbers, indent=1, allow_nan=False)
        (part / "report.json").write_text(text + "\n")
        (part / "report.html").write_text(report_page.page(numbers, images), "utf-8")
    return numbers


def _svg(figure: Figure) -> bytes:
    """A figure that stays sharp at any size."""
    out = io.BytesIO()
    figure.savefig(out, format="svg")
    return out.getvalue()


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


def _about(model: Model) -> dict[str, Any]:
    return {
        "config": json.loads(model.config.to_json()),
        "fingerprint": model.fingerprint,
        "parameters": _parameters(model),
        "device": jax.devices()[0].device_kind,
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def _parameters(model: Model) -> int:
    return sum(x.size for x in jax.tree.leaves(model.params))


def _attention(queries: CrystalSet, row: int, seen: Attention) -> dict[str, Any]:
    return {
        "uid": str(queries.uid[row]),
        "formula": str(queries.formula[row]),
        "encoder": seen.encoder,
        "layers": seen.layers,
        "tokens": seen.tokens,
        "kinds": seen.kinds,
        "shares": {kind: share.tolist() for kind, share in seen.shares().items()},
        "effective": seen.effective().tolist(),
        "weights": np.round(seen.weights, 5).tolist(),
    }


def _point_groups(answers: Answers, groups: np.ndarray) -> dict[str, Any]:
    """Counts of true against predicted groups, and how many candidates have the right one."""
    true = groups[answers.truth]
    first = answers.order[:, : max(ATTEMPTS)]
    symbols = sorted({*true.tolist(), *groups[first].ravel().tolist()})
    links = tree(symbols) if len(symbols) > 1 else np.zeros((0, 4))
    in_library = np.array([(groups == g).sum() for g in true])
    size = len(groups)
    attempts = []
    for k in ATTEMPTS:
        rows = answers.order[:, :k]
        right = groups[rows] == true[:, None]
        # The crystal itself has the right group, of course: the others say more.
        wrong = rows != answers.truth[:, None]
        others = ((in_library - 1) / max(size - 1, 1))[:, None] * wrong
        attempts.append(
            {
                "attempts": k,
                "counts": counts(true, groups[rows], symbols).tolist(),
                "right": _percent(right.sum(), right.size),
                "chance": 100 * float(np.mean(in_library / size)),
                "others": int(wrong.sum()),
                "others_right": _percent((right & wrong).sum(), wrong.sum()),
                "others_chance": _percent(others.sum(), wrong.sum()),
            }
        )
    return {
        "level": answers.level,
        "tolerance": TOLERANCE,
        "symbols": symbols,
        "library": {g: int((groups == g).sum()) for g in sorted(set(groups.tolist()))},
        "distances": [[distance(a, b) for b in symbols] for a in symbols],
        "tree": links.tolist(),
        "attempts": attempts,
    }


def _percent(part: float, whole: float) -> float | None:
    return 100 * float(part) / float(whole) if whole else None


def _crystal(library: CrystalSet, row: int, groups: np.ndarray) -> dict[str, Any]:
    a, b, gamma = cell(library.lattice[row])
    return {
        "uid": str(library.uid[row]),
        "formula": str(library.formula[row]),
        "point_group": str(groups[row]),
        "a": a,
        "b": b,
        "gamma": gamma,
    }


def _candidates(
    answers: Answers, query: int, library: CrystalSet, groups: np.ndarray
) -> dict[str, Any]:
    truth = int(answers.truth[query])
    return {
        "level": answers.level,
        "truth": _crystal(library, truth, groups),
        "rank": int(answers.ranks[query]),
        "candidates": [
            {
                "rank": place,
                **_crystal(library, row, groups),
                "cosine": finite(answers.cosines[query, row]),
                "true": row == truth,
            }
            for place, row in enumerate(answers.order[query].tolist(), 1)
        ],
    }


def finite(value: float) -> float | None:
    """JSON has no NaN."""
    return float(value) if math.isfinite(value) else None


def _ablation(
    model: Model,
    answers: Mapping[str, Answers],
    queries: CrystalSet,
    library: CrystalSet,
    seed: int,
    about: Mapping[str, Any],
    others: Mapping[str, tuple[Model, int]],
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """A row for each model: its size, its steps, and what its network alone finds."""
    if not others:
        return []
    rows = [_network(about["checkpoint"], model, about["steps"], answers)]
    for name, (other, steps) in others.items():
        say(f"comparing {name}")
        gallery = other.embed_crystals(library.crystal)
        found = {
            level: answer(other, gallery, queries, library, level, seed)
            for level in LEVELS
            if level != PATTERNS
        }
        rows.append(_network(name, other, steps, found))
    return rows


def _network(
    name: str, model: Model, steps: int, answers: Mapping[str, Answers]
) -> dict[str, Any]:
    sizes = model.config.model
    return {
        "checkpoint": name,
        "network": sizes.get("name", "default"),
        "heads": sizes.heads,
        "layers": sizes.layers,
        "width": sizes.width,
        "parameters": _parameters(model),
        "steps": steps,
        "diffraction": model.config.diffraction.to_dict(),
        **{level: accuracy(x.ranks) for level, x in answers.items() if level in LEVELS},
    }


def _failed(ranks: np.ndarray) -> dict[str, int]:
    """How many queries have a rank in each of `BINS`."""
    out = {}
    for first, last in BINS:
        name = f"{first}" if first == last else f"{first}-{last}" if last else f"> {first - 1}"
        out[name] = int(((ranks >= first) & (ranks <= (last or np.inf))).sum())
    return out


def _worst(answers: Answers, library: CrystalSet, groups: np.ndarray) -> list[dict[str, Any]]:
    """The queries with the worst ranks and what was taken for them."""
    order = np.argsort(-answers.ranks, kind="stable")
    return [
        {
            "rank": int(answers.ranks[i]),
            "true": _crystal(library, answers.truth[i], groups),
            "predicted": _crystal(library, answers.order[i, 0], groups),
            "cosine_true": finite(answers.cosines[i, answers.truth[i]]),
            "cosine_predicted": finite(answers.cosines[i, answers.order[i, 0]]),
        }
        for i in order[:WORST]
        if answers.ranks[i] > 1
    ]
