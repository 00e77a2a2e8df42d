"""From a pattern to a ranked list of crystals."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from dd2d_jax.data.crystal_set import CrystalSet
from dd2d_jax.images.patterns import as_pattern
from dd2d_jax.lattices import lattice as lattices
from dd2d_jax.lattices.tilts import from_tilts, least_tilt, untilted
from dd2d_jax.libraries.elements import allowed_rows
from dd2d_jax.libraries.library import Library
from dd2d_jax.matching.candidates import candidate
from dd2d_jax.matching.evidence import measured
from dd2d_jax.matching.found import Found
from dd2d_jax.matching.rerank import (
    TEMPERATURE,
    Query,
    compare,
    first_candidates,
    log_none,
    probabilities,
    weigh,
)
from dd2d_jax.matching.score import Table, simulate_table
from dd2d_jax.networks.trained import Model, load
from dd2d_jax.refinement.refine import fit, r_factors, tilt_in_setting
from dd2d_jax.spots import Conditions, Spots, power_of_two, sized

if TYPE_CHECKING:

    pass

# Spot pairs that the refinement sees.
_PAIRS = 128
# That a pattern is of a crystal that was made, where the library also holds made-up ones.
_KNOWN = 0.999
# Scales that are tried one by one lie two of these apart.
_SCALE_STEP = 0.03


def retrieve(
    pattern: Any,
    library: Library | str | Path | None = None,
    model: Model | None = None,
    k: int = 10,
    elements: Sequence[str] | None = None,
    rerank: int = 100,
    refine: bool | str = False,
    propose: bool = False,
    tilts: Sequence[Sequence[float]] | None = None,
    scale_error: float = 0.02,
) -> Found:
    """Rank the crystals of a library by how well each explains a pattern.

    The lattice is found from the spots; the pattern may have any in-plane rotation and either
    side up. The network proposes, simulation decides. Of several lattices each is retrieved on its
    own (`Found.others`).

    Args:
        pattern: a `dx.Pattern`, a path (see `read_pattern`), an array of (qx, qy, intensity) rows
            in 1/angstrom, or a calibrated hyperspy signal; with `tilts` a list of these.
        library: a `Library` or its folder; None takes the one in the package.
        model: from `dd2d_jax.load`; None takes the weights in the package.
        k: number of candidates to return.
        elements: keep candidates made only of these, e.g. ["Mo", "S"].
        rerank: number of the network's candidates that are simulated and compared; 0 leaves the
            network's order.
        refine: fit the first k candidates' cell, atoms, B and tilt to the pattern. The order
            stays: a fit that is free enough explains anything. "multislice": then the first one
            to intensities of electrons that scatter more than once.
        propose: also make crystals that the library does not hold, see `dd2d_jax.matching.propose`.
        tilts: of several patterns of one crystal, degrees about x and y as in `dx.simulate`. The
            one of least tilt, which should be small, is searched with; all are refined together.
        scale_error: how wrong the pattern's scale may be, relative. Beyond 0.05 many scales between
            1 / (1 + scale_error) and 1 + scale_error are tried; 1 is one known to a factor 2.

    Raises:
        PatternError: the pattern is empty, not finite, or has no lattice.
        LibraryError: the library is damaged or was built by another model.
        ValueError: k, rerank, scale_error or tilts out of range, an unknown element, or no crystal
            of these elements.
    """
    if k < 1 or rerank < 0:
        raise ValueError(f"k must be at least 1 and rerank at least 0, got k={k}, rerank={rerank}")
    if refine not in (False, True, "multislice"):
        raise ValueError(f"refine must be True, False or 'multislice', got {refine!r}")
    if not 0 <= scale_error <= 3:
        raise ValueError(f"scale_error must be between 0 and 3, 0.02 for 2 %; got {scale_error}")
    if tilts is not None and scale_error > 0.05:
        raise ValueError("several tilts need a scale that is known: scale_error of 0.05 at most")
    if propose and not rerank:
        raise ValueError("proposals are weighed by simulation: rerank must be at least 1")
    if tilts is None:
        seen = [[one] for one in lattices.find_all(as_pattern(pattern))]
    else:
        seen = [from_tilts([as_pattern(one) for one in pattern], tilts)]
    model = load() if model is None else model
    if not isinstance(library, Library):
        library = _default_library() if library is None else Library.load(library)
    library.check(model)
    if not propose:
        allowed = allowed_rows(library, elements)
        found = [
            _search(indexed, library, model, k, allowed, rerank, refine, tilts, scale_error)
            for indexed in seen
        ]
    else:
        from dd2d_jax.matching.propose import PARENTS
        from dd2d_jax.matching.propose import propose as made

        # Of any elements: what the library's crystals show is the structure type.
        every = np.ones(len(library), bool)
        found = [
            made(
                _search(indexed, library, model, PARENTS, every, rerank, False, tilts, scale_error),
                library, model, k, elements, refine=refine,
            )
            for indexed in seen
        ]  # fmt: skip
    return dataclasses.replace(found[0], others=tuple(found[1:]))


def _search(
    indexed: Sequence[lattices.Indexed],
    library: Library,
    model: Model,
    k: int,
    allowed: np.ndarray,
    rerank: int,
    refine: bool | str,
    tilts: Sequence[Sequence[float]] | None,
    scale_error: float,
) -> Found:
    """Candidates among the `allowed` (n,) for one lattice, seen at one tilt or at several."""
    first = 0 if tilts is None else least_tilt(tilts)
    conditions = model.conditions
    at = indexed[first] if tilts is None else untilted(indexed[first], tilts[first], conditions)
    frames = lattices.frames(at)
    scales = _scales(scale_error)
    # The same spots at every scale: else their probabilities could not be compared.
    query = Query.joined(
        [
            Query.indexed(lattices.rescaled(at, scale), conditions.q_max * scale)
            for scale in scales
        ]
    )
    few = sized(query.settings, conditions.tokens)
    rows, cosines = _proposed(library, model.embed_patterns(few), query, k, rerank, allowed)
    similarity, setting = cosines.max(0), cosines.argmax(0)
    value, order, none = similarity, np.arange(len(rows)), float("nan")
    probability = np.full(len(rows), np.nan)
    if rerank:
        chosen = library.crystals.take(rows)
        furthest = _reach(query.settings, conditions.q_max * scales.max())
        reach = dataclasses.replace(conditions, q_max=furthest)
        scores = compare(_table(chosen, reach), query.settings)
        step = scale_error if len(scales) == 1 else _SCALE_STEP
        tilted = None
        if tilts is not None:
            tilted = np.array([tilt_in_setting(tilts[first], x) for x in frames])
        value, setting = weigh(
            chosen, scores, query, conditions, measured(step), tilted, len(scales)
        )
        nothing = log_none(query) + math.log(len(scales))
        prior = _log_prior(library.crystals.known, allowed)[rows]
        probability, none = probabilities(value, nothing, prior)
        # The order of the probabilities, also where these are too small for a number.
        again = np.argsort(-(value / TEMPERATURE + prior), kind="stable")
        order, value, setting = order[again], value[again] - nothing, setting[again]
        probability = probability[again]
    order, value, setting = order[:k], value[:k], setting[:k]
    chosen = library.crystals.take(rows[order])
    queries, options = _queries(indexed, setting, query, conditions, tilts)
    fits = (fit if refine else r_factors)(chosen, queries, conditions, **options)
    shown = jax.tree.map(lambda x: x[setting], query.settings)
    axes = np.concatenate([frames / scale for scale in scales])[setting]
    candidates = [
        candidate(chosen, i, value[i], probability[i], similarity[order[i]], fits, shown, axes)
        for i in range(len(order))
    ]
    if refine == "multislice":
        alone = jax.tree.map(lambda x: x[:1], (queries, options))
        best = fit(chosen.take([0]), alone[0], conditions, **alone[1], method=refine)
        candidates[0] = candidate(
            chosen, 0, value[0], probability[0], similarity[order[0]], best, shown, axes
        )
    return Found(tuple(candidates), at, int(allowed.sum()), none)


def _proposed(
    library: Library,
    embedded: np.ndarray,
    query: Query,
    k: int,
    rerank: int,
    allowed: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """What the network proposes: rows (n,), and their cosines (S, n) with each setting."""
    if not rerank:
        return library.search(embedded, k, allowed)
    count = max(k, rerank)
    # Two queries of like size: the library is read once.
    groups = [np.flatnonzero(x) for x in (query.found, ~query.found) if x.any()]
    size = max(map(len, groups))
    queries = np.stack([embedded[np.resize(group, size)] for group in groups])
    each, _ = library.search(queries, count, allowed)
    every = np.unique(each)
    cosines = embedded @ np.asarray(library.embeddings[every], np.float32).T
    order = every[np.argsort(-cosines.max(0), kind="stable")]
    rows = first_candidates(each[0], order, count)
    return rows, cosines[:, np.searchsorted(every, rows)]


def _scales(scale_error: float) -> np.ndarray:
    """Factors that the pattern's q are multiplied by: 1, or a series where little is known."""
    if scale_error <= 0.05:
        return np.ones(1)
    most = math.log1p(scale_error)
    count = math.ceil(most / (2 * _SCALE_STEP))
    return np.exp(np.linspace(-most, most, 2 * count + 1))


def _log_prior(known: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Log-probability (n,) of each crystal that is allowed, before anything was seen.

    Where a library holds both, a crystal that was made is the answer in all but one of a thousand
    cases; the many that were made up are guesses.
    """
    known = np.asarray(known, bool)
    made, made_up = (known & allowed).sum(), (~known & allowed).sum()
    groups = np.maximum(np.where(known, made, made_up), 1)
    share = np.where(known, _KNOWN, 1 - _KNOWN) if made and made_up else 1.0
    return np.log(share / groups)


def _table(crystals: CrystalSet, conditions: Conditions) -> Table:
    """Simulated patterns, made of a power of two of crystals: few shapes are compiled."""
    size = power_of_two(len(crystals))
    filled = crystals.take(np.minimum(np.arange(size), len(crystals) - 1))
    table = simulate_table(filled.crystal, conditions, together=True)
    return table.take(np.arange(len(crystals)))


def _queries(
    indexed: Sequence[lattices.Indexed],
    setting: np.ndarray,
    query: Query,
    conditions: Conditions,
    tilts: Sequence[Sequence[float]] | None,
) -> tuple[Spots | list[Spots], dict[str, Any]]:
    """What each candidate is compared with, and further arguments of `fit`."""
    if tilts is None:
        return jax.tree.map(lambda x: x[setting], query.settings), {}
    every = [lattices.canonical_spots(one, conditions.q_max, _PAIRS) for one in indexed]
    frames = lattices.frames(indexed[0])
    turned = [[tilt_in_setting(tilt, frames[s]) for tilt in tilts] for s in setting]
    cut = [jax.tree.map(lambda x: np.asarray(x)[setting], spots) for spots in every]
    return cut, {"tilts": np.array(turned)}


@functools.cache
def _default_library() -> Library:
    return Library.load()


def _reach(settings: Spots, q_max: float) -> float:
    """How far candidates are simulated: nothing is known beyond a pattern's last spot."""
    last = float(np.linalg.norm(np.asarray(settings.q), axis=-1).max())
    # A little beyond, as lattices differ a little; and never without any rod.
    return min(q_max, max(1.01 * last, 0.5 * q_max))


