"""Ranks and top-k accuracy, as the design measures them."""

from __future__ import annotations

import numpy as np

TOP = (1, 3, 5, 10, 50, 100)
# Products of equal float32 vectors differ by so much with their place in a matrix.
ROUNDING = 1e-6


def rank(scores: np.ndarray, truth: int) -> int:
    """1 + the number of other candidates that score at least as high as the true one.

    Args:
        scores: (n,), higher is better.
        truth: the true candidate's place.

    A score that is not a number never wins, neither for the true candidate nor for another.
    """
    scores = np.nan_to_num(scores, nan=-np.inf)
    return int((scores >= scores[truth]).sum())


def row_ranks(cosines: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Ranks (m,) of the true candidates (m,) in each row of cosines (m, n)."""
    pairs = zip(cosines, truth, strict=True)
    return np.array([rank(_tied(row, t), t) for row, t in pairs], np.int64)


def row_orders(cosines: np.ndarray, truth: np.ndarray, count: int) -> np.ndarray:
    """The first candidates (m, count) of each row, the true one where `row_ranks` says."""
    places = np.arange(cosines.shape[1])
    return np.array([
        np.lexsort((places == t, -_tied(row, t)))[:count]
        for row, t in zip(cosines, truth, strict=True)
    ])  # fmt: skip


def _tied(cosines: np.ndarray, truth: int) -> np.ndarray:
    """Cosines (n,): what ties with the true one made equal, what is not a number made least."""
    known = np.nan_to_num(cosines, nan=-np.inf)
    true = known[truth]
    return np.where((known >= true - ROUNDING) & (known <= true + ROUNDING), true, known)


def embedding_ranks(queries: np.ndarray, gallery: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Ranks (m,) of the true rows of a gallery by cosine.

    Args:
        queries: (m, D) unit vectors.
        gallery: (n, D) unit vectors.
        truth: (m,) rows of the gallery.
    """
    out = np.empty(len(queries), np.int64)
    for start in range(0, len(queries), 256):
        part = slice(start, start + 256)
        out[part] = row_ranks(queries[part] @ gallery.T, truth[part])
    return out


def accuracy(ranks: np.ndarray) -> dict[str, float]:
    """Top-1/3/5/10/50 accuracies in percent."""
    return {f"top{k}": 100 * float(np.mean(ranks <= k)) for k in TOP}
