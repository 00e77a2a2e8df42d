"""What the network alone answers to queries: below the report's numbers and its figures."""

from __future__ import annotations

import dataclasses

import numpy as np

from dd2d_jax.data.crystal_set import CrystalSet
from dd2d_jax.evaluation.evaluate import make_queries, places
from dd2d_jax.evaluation.ranks import row_orders, row_ranks
from dd2d_jax.networks.disturbances import LEVELS, Disturbance
from dd2d_jax.networks.trained import Model
from dd2d_jax.spots import Spots, strongest

# Candidates that are drawn.
CANDIDATES = 10


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
