"""How probable it is that a pattern's crystal is not in the library.

What a library lacks is nearly always the unseen isotype of something that it holds: the wrong
crystal that then comes first fits well, too, only not as well as a true one does. How well true
ones and the best wrong ones fit was learnt: a logistic function of a few numbers about the first
candidate (`features`) and of their products, fitted to patterns of C2DB's training part with their
crystal in the library and without it, by `benchmarks/fit_absent.py`, which wrote `absent.json`.

One of the numbers is how well such isotypes of the first candidate explain the pattern, elements
exchanged one at a time, another how much better multiple scattering makes the first one, a third
how likely a structure of any kind is, random intensities about a smooth envelope
(`log_odds_of_any`): it rules where nothing in the library is like the crystal.
Where the elements are known, few candidates are left and no isotypes: other weights.

Beside that stands what never happened: a crystal whose R1, strain or shear is larger than that of
any true crystal among these patterns has a few per cent at most.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from importlib import resources
from typing import Any

import jax
import numpy as np

from dd2d_jax.matching.hypotheses import TEMPERATURE
from dd2d_jax.matching.rerank import LOG_ANY_CELL, Query, Weighing, log_none

# That a pattern's crystal is not in the library, before the pattern was seen.
NONE = 0.1
# Added to the logarithm of the odds where the elements are not known, as if not 10 but 14 % of the
# crystals were absent: one in four of those that are no longer gets a wrong crystal above 90 %,
# for one in 17 sure right answers and nearly the same log-loss (docs/retrieval.md).
DOUBT = 0.4
# Natural logarithm of the odds where a flake of several layers comes first: how well it fits does
# not tell whether its crystal is in the library, as stacking, thickness and tilt make up for the
# wrong elements (docs/retrieval.md).
LOG_ODDS_OF_FLAKES = math.log(NONE / (1 - NONE)) + DOUBT
# Strain and shear within which crystals count as of the pattern's cell.
NEAR = 0.03, 0.01
# What a crystal that fits as no true one ever did has at most.
_AT_MOST = 0.03
NAMES = (
    "one", "evidence", "evidence_per_spot", "log_r1", "log_spots", "gap", "log_r1_mates",
    "log_r1_ratio", "stretch", "shear", "log_near", "any", "isotypes", "again",
)  # fmt: skip
# R1 and its like are never taken for smaller.
_LEAST = 3e-3
# Spreads beyond which a number counts as no farther: few patterns were there to learn from.
_FAR = 2.5


def features(
    weighing: Weighing,
    log_prior: np.ndarray,
    formula: np.ndarray,
    query: Query,
    near: float,
    any_kind: float,
    isotypes: float,
    strain: float,
) -> np.ndarray:
    """Numbers (len(NAMES),) about the first of n candidates.

    Args:
        weighing: of the candidates, at `TEMPERATURE`.
        log_prior: (n,) of each.
        formula: (n,) of each; a rival is one of another formula.
        query: the pattern.
        near: crystals of the library whose cell fits, those that are unlikely beforehand for less.
        any_kind: from `log_odds_of_any`.
        isotypes: of the first candidate, from `isotypes.log_isotypes`; -inf where the elements are
            known.
        strain: standard deviation of the strain that crystals may have, the scale's error included.
    """
    total = weighing.value + log_prior
    order = np.argsort(-total, kind="stable")
    first = order[0]
    others = order[formula[order] != formula[first]][:20]
    spots, mates = likeness(query)
    value = weighing.value[first] - log_none(query) / TEMPERATURE
    gap = total[first] - total[others].max(initial=-np.inf)
    r1 = max(float(weighing.r1[first]), _LEAST)
    ratio = np.log(max(weighing.r1[others].min(initial=1.0), _LEAST) / r1)
    return np.array(
        [
            1.0,
            np.clip(value / 20, -2, 5),
            np.clip(5 * value / spots, -2, 5),
            np.log(r1),
            np.log(spots),
            np.clip(gap, 0, 12) / 4,
            np.log(mates),
            np.clip(ratio, -1, 2),
            min(abs(weighing.stretch[first]) / strain, 4.0),
            min(weighing.shear[first] / 0.01, 4.0),
            np.log1p(near) / 4,
            np.clip(any_kind, -15, 30) / 5,
            np.clip(isotypes - weighing.value[first], -12, 6) / 4,
            np.clip(weighing.value[first] - weighing.once[first], -1, 20) / 5,
        ]
    )


def likeness(query: Query) -> tuple[int, float]:
    """Spots of a pattern, and R1 of the amplitudes of Friedel mates against each other."""
    spots = jax.tree.map(lambda x: np.asarray(x[0]), query.whole)
    measured = spots.measured > 0
    both = measured.all(-1)
    amplitude = np.sqrt(np.maximum(spots.intensity[both], 0.0))
    apart = np.abs(np.diff(amplitude, axis=-1)).sum() / max(amplitude.sum(), 1e-9)
    # Where hardly any mates are seen: as they are in the middle.
    return int(measured.sum()), float(max(apart, _LEAST)) if both.sum() > 2 else 0.05


def log_odds(
    features: np.ndarray, restricted: bool, weights: dict[str, dict[str, Any]] | None = None
) -> float:
    """Natural logarithm of P(not in the library) / P(in it).

    Args:
        features: of the first candidate.
        restricted: only crystals of some elements may be returned.
        weights: {"all", "elements"}: what `terms` needs and the weight of each term; None takes
            those of `absent.json`.
    """
    own = (weights or _told()["weights"])["elements" if restricted else "all"]
    odds = float(terms(features, own["centre"], own["spread"]) @ np.array(own["terms"]))
    return odds if restricted else odds + DOUBT


def terms(features: np.ndarray, centre: Sequence[float], spread: Sequence[float]) -> np.ndarray:
    """(..., M (M + 1) / 2) what is weighed: 1, features (..., M), their squares and products.

    Args:
        features: in the order of `NAMES`, the first of which is 1.
        centre, spread: (M,) what is subtracted from each, and what it is divided by then.
    """
    scaled = np.clip((np.asarray(features) - centre) / spread, -_FAR, _FAR)
    first, second = np.triu_indices(len(NAMES))
    return scaled[..., first] * scaled[..., second]


def log_odds_of_any(
    weighing: Weighing, log_prior: np.ndarray, log_none: float, near: float, size: float
) -> float:
    """`log_odds` of a structure of any kind alone, of a cell as frequent as in the library.

    Args:
        weighing: of the candidates.
        log_prior: (n,) of each.
        log_none: from `rerank.log_none`.
        near: crystals of the library that may be returned and whose cell lies within `NEAR`, and
        size: all that may be returned, see `nearly`.
    """
    stretch, shear = NEAR
    density = (near + 1) / (size + 1) / (2 * stretch * np.pi * shear**2)
    # The crystals' densities lack this factor, too.
    cell = 1.5 * np.log(2 * np.pi) + np.log(density)
    crystals = np.log1p(-NONE) + np.logaddexp.reduce(weighing.value + log_prior)
    return float((log_none - LOG_ANY_CELL) / TEMPERATURE + cell + np.log(NONE) - crystals)


def nearly(log_prior: np.ndarray, near: np.ndarray) -> tuple[float, float]:
    """Crystals near a cell, and all of a library, as many as are likely before a pattern is seen.

    Args:
        log_prior: (n,) from `prior.log_prior`.
        near: rows of those near.
    """
    share = np.exp(log_prior)
    some = share > 0
    size = float(np.exp(-(share[some] * log_prior[some]).sum()))
    return size * float(share[near].sum()), size


def possible(weighing: Weighing, strain: float, mates: float) -> np.ndarray:
    """(n,) False where a crystal fits as no true one ever did.

    `strain` as in `features`; `mates` is the R1 between Friedel mates, from `likeness`: a crystal
    whose own mates are alike has no less of a pattern whose mates differ, as a thick flake's do.
    """
    most = _told()["limits"]
    return (
        (weighing.r1 <= np.hypot(most["r1"], mates))
        & (np.abs(weighing.stretch) <= most["stretch"] * strain)
        & (weighing.shear <= most["shear"])
    )


def log_probabilities(
    weighing: Weighing, log_prior: np.ndarray, log_odds_none: float, strain: float, mates: float
) -> tuple[np.ndarray, float]:
    """Logarithms (n,) of candidates' probabilities and the probability of none; together 1.

    Args:
        weighing: of the candidates.
        log_prior: (n,) of each.
        log_odds_none: from `log_odds`.
        strain, mates: as in `possible`.
    """
    total = weighing.value + log_prior
    share = total - np.logaddexp.reduce(total)
    none = 1 / (1 + np.exp(-np.clip(log_odds_none, -300, 300)))
    # What cannot be leaves its probability to none, but for a little.
    there = possible(weighing, strain, mates)
    kept = np.where(there, 1 - none, min(1 - none, _AT_MOST))
    lost = float((np.exp(share) * (1 - none - kept)).sum())
    return share + np.log(np.maximum(kept, 1e-300)), float(none + lost)


@functools.cache
def _told() -> dict[str, Any]:
    return json.loads((resources.files(__package__) / "absent.json").read_text())
