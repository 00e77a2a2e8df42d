"""Whether stated probabilities come true: ten bins, Brier score, expected calibration error."""

from __future__ import annotations

from typing import Any

import numpy as np

from dd2d_jax.matching.absent import NONE

BINS = 10
# Probabilities are never taken for nearer to 0 or 1 than this in a logarithm.
_LEAST = 1e-12


def as_expected(absent: np.ndarray) -> np.ndarray:
    """Weights (n,) of queries, 1 in all: a share `NONE` of them for those `absent` (n,) bool from
    the library, which is what stated probabilities expect. Some are, and some are not.
    """
    return np.where(absent, NONE / absent.sum(), (1 - NONE) / (~absent).sum())


def reliability(
    stated: np.ndarray, true: np.ndarray, weight: np.ndarray | None = None
) -> dict[str, Any]:
    """How stated probabilities (n,) compare with what was true (n,) bool.

    Args:
        stated, true: of each query.
        weight: (n,) that each query counts for, but in "count"; None is all alike.

    Returns:
        {"count", "brier": mean (p - t)^2, "log_loss": mean -log of what was given to the truth,
        "ece": sum over bins of the share of queries times |mean stated - share true|, "bins": for
        each of ten equal ranges that holds any {"from", "to", "count", "stated", "true"}}.
        Brier, Mon. Weather Rev. 78, 1 (1950); expected calibration error as in Guo et al., ICML
        2017.
    """
    stated, true = np.asarray(stated, float), np.asarray(true, float)
    if not len(stated):
        return {"count": 0, "brier": None, "log_loss": None, "ece": None, "bins": []}
    weight = np.ones(len(stated)) if weight is None else np.asarray(weight, float)
    weight = weight / weight.sum()
    place = np.clip((stated * BINS).astype(int), 0, BINS - 1)
    bins, gap = [], 0.0
    for b in np.unique(place):
        here = place == b
        share = weight[here].sum()
        said, was = ((weight * x)[here].sum() / share for x in (stated, true))
        gap += share * abs(said - was)
        bins.append(
            {
                "from": b / BINS,
                "to": (b + 1) / BINS,
                "count": int(here.sum()),
                "stated": float(said),
                "true": float(was),
            }
        )
    given = np.where(true > 0, stated, 1 - stated)
    return {
        "count": len(stated),
        "brier": float((weight * (stated - true) ** 2).sum()),
        "log_loss": float(-(weight * np.log(np.maximum(given, _LEAST))).sum()),
        "ece": float(gap),
        "bins": bins,
    }
