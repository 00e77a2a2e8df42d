"""Whether stated probabilities come true: ten bins, Brier score, expected calibration error."""

from __future__ import annotations

from typing import Any

import numpy as np

BINS = 10
# Probabilities are never taken for nearer to 0 or 1 than this in a logarithm.
_LEAST = 1e-12


def reliability(stated: np.ndarray, true: np.ndarray) -> dict[str, Any]:
    """How stated probabilities (n,) compare with what was true (n,) bool.

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
    place = np.clip((stated * BINS).astype(int), 0, BINS - 1)
    bins = []
    for b in np.unique(place):
        here = place == b
        bins.append(
            {
                "from": b / BINS,
                "to": (b + 1) / BINS,
                "count": int(here.sum()),
                "stated": float(stated[here].mean()),
                "true": float(true[here].mean()),
            }
        )
    given = np.where(true > 0, stated, 1 - stated)
    gap = sum(b["count"] * abs(b["stated"] - b["true"]) for b in bins)
    return {
        "count": len(stated),
        "brier": float(((stated - true) ** 2).mean()),
        "log_loss": float(-np.log(np.maximum(given, _LEAST)).mean()),
        "ece": float(gap / len(stated)),
        "bins": bins,
    }
