"""Disjoint parts of a data set for training, validation and test."""

import numpy as np

from dd2d_jax.data.crystal_set import CrystalSet


def split(
    crystals: CrystalSet,
    kind: str,
    seed: int = 0,
    limit: int | None = None,
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
) -> dict[str, np.ndarray]:
    """Disjoint sorted indices of the parts "train", "validation" and "test".

    limit: so many crystals are drawn at random first; None takes all.
    kind: "random", or "formula": no reduced formula in two of them. Train and validation are
    rounded down, test has the rest (of 7951: 6360, 795, 796); with "formula" the sizes are met as
    nearly as whole formulas allow. The same seed gives the same split. Raises ValueError for
    anything else.
    """
    if kind not in ("random", "formula"):
        raise ValueError(f"split kind {kind!r} is unknown; choose random or formula")
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(
            f"fractions {fractions} must be three numbers, none negative, that add up to 1"
        )
    if limit is not None and not 0 < limit <= len(crystals):
        raise ValueError(
            f"limit {limit} must be between 1 and the number of crystals, {len(crystals)}"
        )
    random = np.random.default_rng(seed)
    drawn = random.permutation(len(crystals))[:limit]
    ends = np.floor(np.cumsum([0, *fractions[:2]]) * len(drawn) + 1e-6).astype(int)
    ends[2] = ends[1] + int(np.floor(fractions[1] * len(drawn) + 1e-6))
    if kind == "formula":
        _, group, sizes = np.unique(
            crystals.formula[drawn], return_inverse=True, return_counts=True
        )
        order = random.permutation(len(sizes))
        rank = np.argsort(order)[group]
        drawn = drawn[np.argsort(rank, kind="stable")]
        edges = np.concatenate([[0], np.cumsum(sizes[order])])
        ends = edges[np.abs(edges[:, None] - ends).argmin(0)]
    parts = np.split(drawn, ends[1:])
    return dict(zip(("train", "validation", "test"), map(np.sort, parts), strict=True))
