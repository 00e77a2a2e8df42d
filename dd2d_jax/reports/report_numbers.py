"""Every number of the report on a checkpoint, as report.json has it."""

from __future__ import annotations

import importlib.metadata
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from dd2d_jax.crystals.cell import cell
from dd2d_jax.crystals.point_groups import TOLERANCE, counts, distance, tree
from dd2d_jax.data.crystal_set import CrystalSet
from dd2d_jax.evaluation.ranks import accuracy
from dd2d_jax.networks.attention import Attention
from dd2d_jax.networks.disturbances import LEVELS, PATTERNS
from dd2d_jax.networks.trained import Model
from dd2d_jax.reports.network_answers import Answers, answer
from dd2d_jax.util.text import finite

# After how many candidates the point groups are counted.
ATTEMPTS = (1, 3, 5)
# How many wrong answers are listed.
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


def about_model(model: Model) -> dict[str, Any]:
    return {
        "config": json.loads(model.config.to_json()),
        "fingerprint": model.fingerprint,
        "parameters": _parameters(model),
        "device": jax.devices()[0].device_kind,
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def _parameters(model: Model) -> int:
    return sum(x.size for x in jax.tree.leaves(model.params))


def attention_numbers(queries: CrystalSet, row: int, seen: Attention) -> dict[str, Any]:
    """The maps of one crystal and what they sum up to."""
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


def learning_numbers(records: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Loss and validation top-1 by step, (step, value) each; None where no step was recorded."""
    losses = [(one["step"], one["loss"]) for one in records if _is_number(one.get("loss"))]
    if not losses:
        return None
    evaluated = [one for one in records if isinstance(one.get("validation"), dict)]
    validation = {
        level: [
            (one["step"], values["top1"])
            for one in evaluated
            if isinstance(values := one["validation"].get(level), dict)
            and _is_number(values.get("top1"))
        ]
        for level in LEVELS
    }
    return {"loss": losses, "validation": {k: v for k, v in validation.items() if v}}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def point_group_numbers(answers: Answers, groups: np.ndarray) -> dict[str, Any]:
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


def candidate_numbers(
    answers: Answers, query: int, library: CrystalSet, groups: np.ndarray
) -> dict[str, Any]:
    """One query: its true crystal and its candidates."""
    truth = int(answers.truth[query])
    return {
        "level": answers.level,
        "truth": _crystal(library, truth, groups),
        "rank": int(answers.ranks[query]),
        "candidates": [
            {
                "rank": place,
                **_crystal(library, row, groups),
                "cosine": finite(float(answers.cosines[query, row])),
                "true": row == truth,
            }
            for place, row in enumerate(answers.order[query].tolist(), 1)
        ],
    }


def compared_networks(
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
            if level not in PATTERNS
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


def failed(ranks: np.ndarray) -> dict[str, int]:
    """How many queries have a rank in each of `BINS`."""
    out = {}
    for first, last in BINS:
        name = f"{first}" if first == last else f"{first}-{last}" if last else f"> {first - 1}"
        out[name] = int(((ranks >= first) & (ranks <= (last or np.inf))).sum())
    return out


def worst(answers: Answers, library: CrystalSet, groups: np.ndarray) -> list[dict[str, Any]]:
    """The queries with the worst ranks and what was taken for them."""
    order = np.argsort(-answers.ranks, kind="stable")
    return [
        {
            "rank": int(answers.ranks[i]),
            "true": _crystal(library, answers.truth[i], groups),
            "predicted": _crystal(library, answers.order[i, 0], groups),
            "cosine_true": finite(float(answers.cosines[i, answers.truth[i]])),
            "cosine_predicted": finite(float(answers.cosines[i, answers.order[i, 0]])),
        }
        for i in order[:WORST]
        if answers.ranks[i] > 1
    ]
