"""Accuracy and speed of the three methods side by side: neural, physics, neural+rerank."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ase.data import chemical_symbols

import diffraction as dx
from dd2d_jax.data.crystal_set import CrystalSet
from dd2d_jax.evaluation.answers import answer, leaving_out, present_and_absent
from dd2d_jax.evaluation.asked import Asked
from dd2d_jax.evaluation.physics import physics_rank
from dd2d_jax.evaluation.ranks import accuracy, rank, row_ranks
from dd2d_jax.evaluation.snapshots import read_snapshots
from dd2d_jax.lattices import lattice as lattices
from dd2d_jax.libraries.elements import allowed_rows
from dd2d_jax.libraries.library import Library
from dd2d_jax.matching.hypotheses import measured
from dd2d_jax.matching.rerank import Query
from dd2d_jax.matching.score import Table, simulate_table
from dd2d_jax.networks.disturbances import LEVELS, PATTERNS, Disturbance, measure, observe
from dd2d_jax.networks.trained import Model
from dd2d_jax.spots import Conditions, Spots, sized, strongest_rods
from dd2d_jax.util.errors import PatternError
from dd2d_jax.util.progress import progress

METHODS = ("neural", "physics", "neural+rerank")
# A level beside those of LEVELS: its queries are snapshots of molecular dynamics.
THERMAL = "thermal"
# The first candidates, whose probability is computed.
RERANK = 100
# Spot pairs of a query that the physics sees; the network sees the strongest `tokens` of them.
QUERY_PAIRS = 128
# Crystals are weighed as those of a microscope's patterns: at these levels in their own cell.
_OWN_CELL = ("clean", THERMAL)
# Rods are sought a little beyond q_max: strain may bring them in.
_MARGIN = 1.04


def make_patterns(
    crystals: CrystalSet, conditions: Conditions, amount: Disturbance, seed: int
) -> list[dx.Pattern]:
    """A pattern of each of n crystals as a microscope gives it: neither setting nor indices."""
    return list(_observed(measure, crystals, conditions, amount, seed))


def make_queries(
    crystals: CrystalSet, conditions: Conditions, amount: Disturbance, seed: int
) -> Spots:
    """A pattern (n, QUERY_PAIRS) of each crystal, disturbed, in the crystal's own setting."""
    return _observed(observe, crystals, conditions, amount, seed)


def _observed(look, crystals, conditions, amount, seed):
    """What `look`, of `corrupt`, makes of each crystal, one after another."""
    wide = dataclasses.replace(conditions, q_max=conditions.q_max * _MARGIN)
    count = QUERY_PAIRS * 5 // 4
    hk = jnp.asarray(strongest_rods(crystals.crystal, wide, count), jnp.int32)
    many = dataclasses.replace(conditions, tokens=QUERY_PAIRS)
    batch, parts = crystals.crystal, []
    look = jax.jit(look)
    for number, start in enumerate(range(0, len(crystals), 256)):
        rows = np.minimum(np.arange(start, start + 256), len(crystals) - 1)
        key = jax.random.fold_in(jax.random.key(seed), number)
        seen = look(key, batch[rows], hk[rows], many, amount)
        real = min(256, len(crystals) - start)
        parts.append(jax.tree.map(lambda x, n=real: np.asarray(x)[:n], seen))
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


@dataclasses.dataclass(frozen=True, eq=False)
class Gallery:
    """A library made ready for a model.

    Attributes:
        embeddings: (n, D).
        table: the clean patterns.
        setup_s: {"embed", "simulate"}, seconds that this took; of a library "embed" is reading.
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
    return _simulated(model, library, embeddings, time.perf_counter() - begin, report)


def stored(
    model: Model, library: Library, report: Callable[[str], None] = lambda _: None
) -> tuple[CrystalSet, Gallery]:
    """A library's crystals, and the gallery: embeddings are its own, patterns are simulated.

    Raises:
        LibraryError: another model made the library.
    """
    library.check(model)
    report(f"reading {len(library)} crystals")
    begin = time.perf_counter()
    crystals = library.crystals
    crystals = crystals if isinstance(crystals, CrystalSet) else crystals.whole
    embeddings = np.asarray(library.embeddings, np.float32)
    seconds = time.perf_counter() - begin
    return crystals, _simulated(model, crystals, embeddings, seconds, report)


def _simulated(
    model: Model,
    crystals: CrystalSet,
    embeddings: np.ndarray,
    seconds: float,
    report: Callable[[str], None],
) -> Gallery:
    """The gallery of crystals whose embeddings took so many seconds."""
    report(f"simulating {len(crystals)} crystals")
    begin = time.perf_counter()
    table = simulate_table(crystals.crystal, model.conditions)
    took = {"embed": seconds, "simulate": time.perf_counter() - begin}
    return Gallery(embeddings, table, took)


def evaluate(
    model: Model,
    queries: CrystalSet,
    library: CrystalSet,
    level: str,
    seed: int = 0,
    report: Callable[[str], None] = lambda _: None,
    snapshots: str | Path | None = None,
    gallery: Gallery | None = None,
    leave_out: bool = False,
    elements: bool = False,
) -> dict:
    """Accuracies in percent and milliseconds per query of the three methods.

    Args:
        model: the trained model.
        queries: crystals whose patterns are looked for; each uid must be in the library.
        library: the gallery.
        level: "clean", "perturbed", "measured", "microscope" or "thermal".
        seed: of the disturbance.
        report: called with a line at each stage.
        snapshots: database of `dynamics.make`, for "thermal": its snapshots of the queries'
            crystals are looked for, those of other crystals are not; the true answer is the
            crystal itself.
        gallery: from `prepare` or `stored`, of this model and library; None makes it.
        leave_out: ask again with each query's crystal, and its structural twins, left out.
        elements: each query's elements are known: only crystals made of them are searched.

    Returns:
        {"level", "library", "queries", "methods": {name: {"top1", ..., "top100",
        "ms_per_query"}}, "cell_alone": {"top1", ...}, "no_lattice": uids whose pattern showed
        none and which come last, "setup_s": {"embed", "simulate"},
        "reliability": of neural+rerank, see `answers.present_and_absent`, "elements"}; of
        "thermal" also "snapshots": what made them, how many crystals have one and which have none
        (`dynamics.read_snapshots`).
        The milliseconds of the network are the mean of a batch, the others the median.
        "cell_alone" ranks by the nearest cell and no intensity: what a level gives away.

    Raises:
        FileNotFoundError: no file of snapshots.
        ValueError: an unknown level, no queries, a query that is not in the library, or
            snapshots that are unusable or not asked for by the level.
    """
    queries = _queries(queries, level, snapshots, report)
    truth = places(queries, library)
    conditions = model.conditions
    hypotheses = measured(0.0, 0.0) if level in _OWN_CELL else measured(strain=0.01)
    gallery = prepare(model, library, report) if gallery is None else gallery
    table = gallery.table
    report(f"{len(queries)} queries")
    asked, lattice_ms = _asked(queries, level, conditions, seed)
    there = [i for i, its in enumerate(asked) if its is not None]
    if not there:
        raise ValueError(
            f"no lattice was found in any of the {len(queries)} patterns: nothing to rank"
        )
    embedded, cosines, neural_ms = _embedded(model, [asked[i] for i in there], gallery)
    searched = Library(library, gallery.embeddings, model.fingerprint)

    def embed(spots: Spots) -> np.ndarray:
        return model.embed_patterns(sized(spots, conditions.tokens))

    # Whose lattice is not found comes last.
    ranks = {name: np.full(len(queries), len(library)) for name in METHODS}
    times = {"neural": neural_ms + lattice_ms}
    seconds = {name: np.zeros(len(there)) for name in METHODS[1:]}
    present, absent = [], []
    for place, i in enumerate(progress(there, len(there), "queries")):
        allowed = allowed_rows(searched, formula_elements(queries, i) if elements else None)
        likes = np.where(allowed, cosines[place], -np.inf)
        ranks["neural"][i] = row_ranks(likes[None], truth[[i]])[0]
        about = (conditions, truth[i])
        ask = functools.partial(
            answer, searched, asked[i], embedded[place], *about, likes, embed, hypotheses,
            count=RERANK,
        )  # fmt: skip
        begin = time.perf_counter()
        ranks["physics"][i] = physics_rank(table, library, asked[i], *about, hypotheses, allowed)
        middle = time.perf_counter()
        present.append(ask(allowed=allowed))
        ranks["neural+rerank"][i] = present[-1].rank
        seconds["physics"][place] = middle - begin
        seconds["neural+rerank"][place] = time.perf_counter() - middle
        if leave_out:
            left = leaving_out(library, truth[i], allowed)
            if left.any():
                absent.append(ask(allowed=left))
    for name, spent in seconds.items():
        # The median: new sizes are compiled on the way.
        times[name] = 1000 * float(np.median(spent)) + lattice_ms
    times["neural+rerank"] += neural_ms
    return {
        "level": level,
        "library": len(library),
        "queries": len(queries),
        "methods": {
            name: {**accuracy(ranks[name]), "ms_per_query": times[name]} for name in METHODS
        },
        "cell_alone": accuracy(_cell_ranks(table, asked, truth)),
        "no_lattice": [str(queries.uid[i]) for i, one in enumerate(asked) if one is None],
        "setup_s": gallery.setup_s,
        "elements": "known" if elements else "unknown",
        "reliability": present_and_absent(present, absent if leave_out else None),
        **({} if snapshots is None else {"snapshots": queries.report}),
    }


def _queries(
    queries: CrystalSet, level: str, snapshots: str | Path | None, report: Callable[[str], None]
) -> CrystalSet:
    """What is asked for at a level: the crystals, or snapshots of them."""
    if level not in (*LEVELS, THERMAL):
        raise ValueError(f"level must be one of {', '.join(LEVELS)}, {THERMAL}, got {level!r}")
    if (level == THERMAL) != (snapshots is not None):
        raise ValueError(
            f"snapshots and level {THERMAL!r} must be given together, got level {level!r}"
        )
    if snapshots is None:
        return queries
    queries = read_snapshots(snapshots, queries)
    made, without = queries.report, queries.report["without"]
    report(
        f"{snapshots}: crystals with snapshots: {made['crystals']}, without: {len(without)}"
        + (f", the first is {without[0]!r}" if without else "")
    )
    return queries


def _embedded(
    model: Model, asked: Sequence[Asked], gallery: Gallery
) -> tuple[list[list[np.ndarray]], np.ndarray, float]:
    """Embeddings (S, D) of each reading's settings, cosines (m, n), milliseconds of a query."""
    spots = [[sized(one.settings, model.conditions.tokens) for one in its.queries] for its in asked]
    sizes = [[len(one.lattice) for one in its] for its in spots]
    edges = np.cumsum([0, *map(sum, sizes)])
    spots = jax.tree.map(lambda *x: np.concatenate(x), *(one for its in spots for one in its))
    model.embed_patterns(spots)  # compiled, so that the times are the methods' own
    begin = time.perf_counter()
    embedded = model.embed_patterns(spots)
    cosines = _best_cosines(embedded, edges, gallery.embeddings)
    spent = 1000 * (time.perf_counter() - begin) / len(asked)
    each = np.split(embedded, edges[1:-1])
    each = [np.split(x, np.cumsum(n)[:-1]) for x, n in zip(each, sizes, strict=True)]
    return each, cosines, spent


def _cell_ranks(table: Table, asked: Sequence[Asked | None], truth: np.ndarray) -> np.ndarray:
    """Ranks (m,) by the nearest cell and no intensity; whose lattice is not found comes last."""
    return np.array(
        [
            len(table.lattice) if its is None else rank(its.nearness(table.lattice), row)
            for its, row in zip(asked, truth, strict=True)
        ]
    )


def _best_cosines(embedded: np.ndarray, edges: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Cosines (m, n) of m queries, each the best of its rows edges[i] to edges[i + 1]."""
    out = np.empty((len(edges) - 1, len(gallery)), np.float32)
    # Many at once, but never all: a query may have dozens of settings.
    for first in range(0, len(out), 32):
        ends = edges[first : first + 33]
        block = embedded[ends[0] : ends[-1]] @ gallery.T
        out[first : first + 32] = np.maximum.reduceat(block, ends[:-1] - ends[0], axis=0)
    return out


def _asked(
    queries: CrystalSet, level: str, conditions: Conditions, seed: int
) -> tuple[list[Asked | None], float]:
    """What is asked of each crystal, None where no lattice was found, and the milliseconds that
    finding it took."""
    # A snapshot is disturbed already.
    amount = LEVELS.get(level, Disturbance())
    if level not in PATTERNS:
        spots = make_queries(queries, conditions, amount, seed)
        rows = (jax.tree.map(lambda x, i=i: x[i], spots) for i in range(len(queries)))
        return [Asked([Query.known(row)]) for row in rows], 0.0
    patterns = make_patterns(queries, conditions, amount, seed)
    asked, begin = [], time.perf_counter()
    for pattern in progress(patterns, len(patterns), "lattices"):
        try:
            asked.append(Asked.of(lattices.find(pattern), conditions.q_max))
        except PatternError:
            asked.append(None)
    return asked, 1000 * (time.perf_counter() - begin) / len(patterns)


def formula_elements(crystals: CrystalSet, i: int) -> list[str]:
    """Symbols of crystal i's elements."""
    numbers = crystals.numbers[i]
    return [chemical_symbols[z] for z in np.unique(numbers[numbers > 0])]


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
