"""Accuracy and speed of the three methods side by side: neural, physics, neural+rerank."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dd2d_jax.corrupt import LEVELS, Disturbance, observe
from dd2d_jax.datasets import CrystalSet
from dd2d_jax.dynamics import read_snapshots
from dd2d_jax.evidence import log_evidence
from dd2d_jax.ranks import accuracy, rank, row_ranks
from dd2d_jax.score import Table, score, simulate_table, strain_between
from dd2d_jax.spots import Conditions, Spots, power_of_two, strongest, strongest_rods
from dd2d_jax.trained import Model

METHODS = ("neural", "physics", "neural+rerank")
# A level beside those of LEVELS: its queries are snapshots of molecular dynamics.
THERMAL = "thermal"
# The first candidates, whose probability is computed.
RERANK = 100
# Spot pairs of a query that the physics sees; the network sees the strongest `tokens` of them.
QUERY_PAIRS = 128
# Rods are sought a little beyond q_max: strain may bring them in.
_MARGIN = 1.04


def make_queries(
    crystals: CrystalSet, conditions: Conditions, amount: Disturbance, seed: int
) -> Spots:
    """A pattern (n, QUERY_PAIRS) of each crystal, disturbed, in the crystal's own setting."""
    wide = dataclasses.replace(conditions, q_max=conditions.q_max * _MARGIN)
    count = QUERY_PAIRS * 5 // 4
    hk = jnp.asarray(strongest_rods(crystals.crystal, wide, count), jnp.int32)
    many = dataclasses.replace(conditions, tokens=QUERY_PAIRS)
    batch, parts = crystals.crystal, []
    look = jax.jit(observe)
    for number, start in enumerate(range(0, len(crystals), 256)):
        rows = np.minimum(np.arange(start, start + 256), len(crystals) - 1)
        key = jax.random.fold_in(jax.random.key(seed), number)
        spots = look(key, batch[rows], hk[rows], many, amount)
        real = min(256, len(crystals) - start)
        parts.append(jax.tree.map(lambda x, n=real: np.asarray(x)[:n], spots))
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


@dataclasses.dataclass(frozen=True, eq=False)
class Gallery:
    """A library made ready for a model.

    Attributes:
        embeddings: (n, D).
        table: the clean patterns.
        setup_s: {"embed", "simulate"}, seconds that this took.
    """

    embeddings: np.ndarray
    table: Table
    setup_s: dict[str, float]


def prepare(
    model: Model, library: CrystalSet, report: Callable[[str], None] = lambda _: None
) -> Gallery:
    """Embed and simulate every crystal; `report` is called with a line at each stage."""
    report(f"embedding {len(library)} crystals")
    begin = time.perf_counter()
    embeddings = model.embed_crystals(library.crystal)
    embed_s = time.perf_counter() - begin
    report(f"simulating {len(library)} crystals")
    begin = time.perf_counter()
    table = simulate_table(library.crystal, model.conditions)
    return Gallery(
        embeddings, table, {"embed": embed_s, "simulate": time.perf_counter() - begin}
    )


def evaluate(
    model: Model,
    queries: CrystalSet,
    library: CrystalSet,
    level: str,
    seed: int = 0,
    report: Callable[[str], None] = lambda _: None,
    snapshots: str | Path | None = None,
    gallery: Gallery | None = None,
) -> dict:
    """Accuracies in percent and milliseconds a query of the three methods.

    Args:
        model: the trained model.
        queries: crystals whose patterns are looked for; each uid must be in the library.
        library: the gallery.
        level: "clean", "perturbed" or "thermal".
        seed: of the disturbance.
        report: called with a line at each stage.
        snapshots: database of `dynamics.make`, for "thermal": its snapshots of the queries'
            crystals are looked for, those of other crystals are not; the true answer is the
            crystal itself.
        gallery: from `prepare`, of this model and library; None makes it.

    Returns:
        {"level", "library", "queries", "methods": {name: {"top1", ..., "top50",
        "ms_per_query"}}, "cell_alone": {"top1", ...}, "setup_s": {"embed", "simulate"}}; of
        "thermal" also "snapshots": what made them, how many crystals have one and which have none
        (`dynamics.read_snapshots`).
        The milliseconds of the network are the mean of a batch, the others the median.
        "cell_alone" ranks by the nearest cell and no intensity: what a level gives away.

    Raises:
        FileNotFoundError: no file of snapshots.
        ValueError: an unknown level, no queries, a query that is not in the library, or
            snapshots that are unusable or not asked for by the level.
    """
    if level not in (*LEVELS, THERMAL):
        raise ValueError(f"level must be one of {', '.join(LEVELS)}, {THERMAL}, got {level!r}")
    if (level == THERMAL) != (snapshots is not None):
        raise ValueError(f"snapshots and level {THERMAL!r} need each other, got level {level!r}")
    if snapshots is not None:
        queries = read_snapshots(snapshots, queries)
        made, without = queries.report, queries.report["without"]
        report(
            f"{snapshots}: crystals with snapshots: {made['crystals']}, without: {len(without)}"
            + (f", the first is {without[0]!r}" if without else "")
        )
    truth = places(queries, library)
    conditions = model.conditions
    # A snapshot is disturbed already.
    spots = make_queries(queries, conditions, LEVELS.get(level, Disturbance()), seed)
    few = strongest(spots, conditions.tokens)

    gallery = prepare(model, library, report) if gallery is None else gallery
    table = gallery.table
    report(f"{len(queries)} queries")
    methods = {}
    model.embed_patterns(few)  # compiled, so that the times are the methods' own
    begin = time.perf_counter()
    cosines = model.embed_patterns(few) @ gallery.embeddings.T
    ranks = row_ranks(cosines, truth)
    neural_ms = 1000 * (time.perf_counter() - begin) / len(queries)
    methods["neural"] = {**accuracy(ranks), "ms_per_query": neural_ms}

    for name, find in (
        ("physics", lambda i: physics_rank(table, library, _row(spots, i), conditions, truth[i])),
        (
            "neural+rerank",
            lambda i: rerank_rank(cosines[i], library, _row(spots, i), conditions, truth[i]),
        ),
    ):
        ranks, ms = _timed(find, len(queries))
        methods[name] = {**accuracy(ranks), "ms_per_query": ms}
    methods["neural+rerank"]["ms_per_query"] += neural_ms
    cells = np.array([_nearness(table.lattice, lattice) for lattice in spots.lattice])
    return {
        "level": level,
        "library": len(library),
        "queries": len(queries),
        "methods": methods,
        "cell_alone": accuracy(row_ranks(cells, truth)),
        "setup_s": gallery.setup_s,
        **({} if snapshots is None else {"snapshots": queries.report}),
    }


def physics_rank(
    table: Table, library: CrystalSet, query: Spots, conditions: Conditions, truth: int
) -> int:
    """Rank of the true crystal without the network: every library pattern is compared.

    The probability is computed of the best by `score`, and of those whose cells are nearest: atoms
    that moved far spoil the intensities and leave the cell.
    """
    scores = np.asarray(score(table, query))
    near = _nearness(table.lattice, query.lattice)
    first = np.union1d(_first(scores, RERANK), _first(near, RERANK))
    return _rank(first, scores, library, query, conditions, truth)


def rerank_rank(
    cosines: np.ndarray, library: CrystalSet, query: Spots, conditions: Conditions, truth: int
) -> int:
    """Rank when the network's first candidates are ordered by their probability."""
    first = _first(cosines, RERANK)
    return _rank(first, cosines, library, query, conditions, truth)


_strains = jax.jit(strain_between)


def _nearness(cells: jax.Array, cell: jax.Array) -> np.ndarray:
    """(n,) higher where one of the `cells` (n, 2, 2) is nearer to the query's, (2, 2)."""
    stretch, shear = _strains(cells, cell)
    return -np.asarray(stretch**2 + shear**2)


def _first(scores: np.ndarray, count: int) -> np.ndarray:
    count = min(count, len(scores))
    return np.argpartition(-scores, count - 1)[:count]


def _rank(
    first: np.ndarray,
    scores: np.ndarray,
    library: CrystalSet,
    query: Spots,
    conditions: Conditions,
    truth: int,
) -> int:
    """Rank among the first candidates by their probability; the others keep their order."""
    place = np.flatnonzero(first == truth)
    evidence = log_evidence(library.take(first), query, conditions)
    if len(place):
        return rank(evidence, int(place[0]))
    others = np.setdiff1d(np.arange(len(scores)), first)
    return len(first) + rank(scores[others], int(np.flatnonzero(others == truth)[0]))


def _timed(function: Callable[[int], int], count: int) -> tuple[np.ndarray, float]:
    """Ranks, and the median of the milliseconds each took: new sizes are compiled on the way."""
    ranks, times = np.zeros(count, int), np.zeros(count)
    for i in range(count):
        begin = time.perf_counter()
        ranks[i] = function(i)
        times[i] = time.perf_counter() - begin
    return ranks, 1000 * float(np.median(times))


def _row(spots: Spots, index: int) -> Spots:
    """One query, cut to a power of two of pairs: padding costs time."""
    one = jax.tree.map(lambda x: x[index], spots)
    return strongest(one, power_of_two(int(one.mask.sum())))


def places(queries: CrystalSet, library: CrystalSet) -> np.ndarray:
    """Rows (m,) of the library where the queries' crystals are, by uid.

    Raises:
        ValueError: no queries, or a query that is not in the library.
    """
    if len(queries) == 0:
        raise ValueError("there are no queries")
    where = {uid: i for i, uid in enumerate(library.uid)}
    missing = [str(uid) for uid in queries.uid if uid not in where]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(queries)} queries are not in the library, the first is uid "
            f"{missing[0]!r}; every query needs its crystal there"
        )
    return np.array([where[uid] for uid in queries.uid])
