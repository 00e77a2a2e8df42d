"""Which of a library's crystals are weighed: by cell, exactly, and what the network proposes.

Every crystal whose cell fits the measured one is simulated and compared quickly (`score`), as far
as there are some hundreds; of more, those that the network likes best. Half of the list are the
first of these, half are the network's; known crystals whose cell fits are always on it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from dd2d_jax.data.crystal_set import CrystalSet
from dd2d_jax.libraries.library import Library
from dd2d_jax.matching import rerank
from dd2d_jax.matching.rerank import Query, compare, first_candidates
from dd2d_jax.matching.score import simulate_table, strains
from dd2d_jax.spots import Conditions, Spots, straightened

# Beyond the scale's error: strain of the crystal against the library's, and shear, which
# ellipticity and a small tilt add to.
STRETCH, SHEAR = 0.025, 0.03
# Crystals whose cell fits that are simulated, or so many for each that is weighed.
_SIMULATED, _EACH = 200, 6
# Of these, at most this share by the cells of twice the area.
_DOUBLES = 0.25
# Known crystals are few: of them, cells further away are weighed, too, by so many of the scale's
# errors, and with any shear that is compared.
_KNOWN = 2.0


class Shortlist(NamedTuple):
    """Crystals to be weighed.

    Attributes:
        rows: (m,) of the library.
        crystals: these.
        cosines: (P * S, m) of the network, with each setting for each of P powers of counts.
        scores: (S, m) of `rerank.compare`.
    """

    rows: np.ndarray
    crystals: CrystalSet
    cosines: np.ndarray
    scores: np.ndarray


def shortlist(
    library: Library,
    query: Query,
    embedded: np.ndarray,
    allowed: np.ndarray,
    conditions: Conditions,
    count: int,
    scale_error: float,
    tilts: np.ndarray | None = None,
    powers: Sequence[float] = (1.0,),
) -> Shortlist:
    """The crystals of a library that are weighed for a pattern.

    Args:
        library: what is searched.
        query: the pattern in S settings.
        embedded: (P * S, D) what the network makes of these, for one power after another.
        allowed: (n,) bool, the crystals that may be returned.
        conditions: of the comparison.
        count: crystals to return, and known ones beside them.
        scale_error: how wrong the pattern's scale may be, relative.
        tilts: (S, 2) of the layer in each setting, degrees; None for none.
        powers: P powers of counts that the intensities may be.
    """
    network, known, fitting = _pool(library, query, embedded, allowed, count, scale_error)
    pool = np.unique(np.concatenate([network, known, fitting]))
    crystals = library.crystals.take(pool)
    views = [straightened(query.settings, power) for power in powers]
    scores = np.max(_scores(crystals, views, conditions, tilts), axis=0)
    best = pool[np.argsort(-scores.max(0), kind="stable")]
    best = best[np.isin(best, np.concatenate([known, fitting]))]
    rows = np.concatenate([known, _in_turn(best, network)])
    _, first = np.unique(rows, return_index=True)
    rows = rows[np.sort(first)][: max(count, len(known))]
    places = np.searchsorted(pool, rows)
    cosines = embedded @ np.asarray(library.embeddings[rows], np.float32).T
    return Shortlist(rows, crystals.take(places), cosines, scores[:, places])


def _pool(
    library: Library,
    query: Query,
    embedded: np.ndarray,
    allowed: np.ndarray,
    count: int,
    scale_error: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows that the network proposes, known ones whose cell fits, and further ones that fit."""
    network = proposed(library, query, embedded, allowed, count)
    most = max(_SIMULATED, _EACH * count)
    fitting, known = [], []
    for some, share in ((query.found, 1.0), (~query.found, _DOUBLES)):
        cells = np.asarray(query.settings.lattice)[some]
        wide = library.cells.near(cells, STRETCH + _KNOWN * scale_error, rerank.SHEAR)
        wide = wide[allowed[wide]]
        known.append(wide[np.asarray(library.crystals.known[wide], bool)][:count])
        rows = library.cells.near(cells, STRETCH + scale_error, SHEAR)
        rows = rows[allowed[rows]]
        if len(rows) > share * most:
            # The settings come again for every power.
            its = embedded[np.resize(some, len(embedded))]
            likes = its @ np.asarray(library.embeddings[rows], np.float32).T
            rows = rows[np.argsort(-likes.max(0), kind="stable")[: int(share * most)]]
        fitting.append(rows)
    return network, np.unique(np.concatenate(known)), np.concatenate(fitting)


def proposed(
    library: Library, query: Query, embedded: np.ndarray, allowed: np.ndarray, count: int
) -> np.ndarray:
    """Rows (count,) that the network proposes, see `rerank.first_candidates`."""
    # Two queries of like size: the library is read once.
    found = np.resize(query.found, len(embedded))
    groups = [np.flatnonzero(x) for x in (found, ~found) if x.any()]
    size = max(map(len, groups))
    queries = np.stack([embedded[np.resize(group, size)] for group in groups])
    each, _ = library.search(queries, count, allowed)
    every = np.unique(each)
    cosines = embedded @ np.asarray(library.embeddings[every], np.float32).T
    order = every[np.argsort(-cosines.max(0), kind="stable")]
    return first_candidates(each[0], order, count)


def _scores(
    crystals: CrystalSet,
    views: Sequence[Spots],
    conditions: Conditions,
    tilts: np.ndarray | None,
) -> np.ndarray:
    """`compare` (P, S, n) with P views of S settings, at the tilt (S, 2) of the layer in each."""
    settings = views[0]
    near = dataclasses.replace(conditions, q_max=reach(settings, conditions.q_max))
    if tilts is None:
        table = simulate_table(crystals.crystal, near, together=True)
        return np.array([compare(table, view) for view in views])
    out = np.zeros((len(views), len(settings.lattice), len(crystals)), np.float32)
    for s, tilt in enumerate(tilts):
        stretch, shear = strains(crystals.lattice, settings.lattice[s])
        away = np.abs(stretch) + shear
        rows = np.flatnonzero(away < STRETCH + 2 * SHEAR)
        out[:, s] = -10 - away
        if len(rows):
            some = crystals.take(rows).crystal
            table = simulate_table(some, near, True, tuple(tilt))
            for p, view in enumerate(views):
                one = jax.tree.map(lambda x, s=s: x[s : s + 1], view)
                out[p, s, rows] = compare(table, one)[0]
    return out


def reach(settings: Spots, q_max: float) -> float:
    """How far candidates are simulated: nothing is known beyond a pattern's last spot."""
    last = float(np.linalg.norm(np.asarray(settings.q), axis=-1).max())
    # A little beyond, as lattices differ a little; and never without any rod.
    return min(q_max, max(1.01 * last, 0.5 * q_max))


def _in_turn(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """One of each in turn."""
    short = min(len(first), len(second))
    both = np.stack([first[:short], second[:short]], 1).ravel()
    return np.concatenate([both, first[short:], second[short:]])
