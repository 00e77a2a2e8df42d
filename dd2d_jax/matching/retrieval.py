"""From a pattern to a ranked list of crystals."""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dd2d_jax.data.crystal_set import CrystalSet
from dd2d_jax.data.duplicates import groups
from dd2d_jax.images.patterns import as_pattern
from dd2d_jax.lattices import indexed
from dd2d_jax.lattices import lattice as lattices
from dd2d_jax.lattices.tilts import from_tilts, least_tilt, untilted
from dd2d_jax.libraries.elements import allowed_rows, weights_of
from dd2d_jax.libraries.library import Library
from dd2d_jax.matching.candidates import candidate
from dd2d_jax.matching.flakes import simulated
from dd2d_jax.matching.found import Candidate, Found
from dd2d_jax.matching.hypotheses import STRAIN, measured, powers
from dd2d_jax.matching.layers import Flake, in_words
from dd2d_jax.matching.leaning import Leaning, leanings
from dd2d_jax.matching.prior import log_prior
from dd2d_jax.matching.readings import Reading, for_others, none_of, weigh_readings
from dd2d_jax.matching.rerank import Query, Way
from dd2d_jax.matching.shared_scale import with_one_scale
from dd2d_jax.matching.stacks import Stack, stacks
from dd2d_jax.matching.superlattice import superlattices
from dd2d_jax.matching.weighing import Once, Weighed, conditions_at, weigh_once
from dd2d_jax.networks.trained import Model, load
from dd2d_jax.refinement.refine import Fit, fit, r_factors, tilt_in_setting
from dd2d_jax.spots import Conditions, Spots, sized, straightened
from dd2d_jax.util.errors import Notice, PatternError
from dd2d_jax.util.progress import stage
from dd2d_jax.util.text import printable

# Spot pairs that the refinement sees.
_PAIRS = 128
# Scales that are tried one by one lie two of these apart.
_SCALE_STEP = 0.03


def retrieve(
    pattern: Any,
    library: Library | str | Path | None = None,
    model: Model | None = None,
    k: int = 10,
    elements: str | Sequence[str] | None = None,
    rerank: int = 100,
    refine: bool | str = False,
    propose: bool = False,
    tilts: Sequence[Sequence[float]] | None = None,
    scale_error: float = 0.02,
    energy: float | None = None,
    contains: str | Sequence[str] | None = None,
    excludes: str | Sequence[str] | None = None,
    weights: Mapping[str, float] | None = None,
    prior: bool = True,
    strain: float = STRAIN,
) -> Found:
    """Rank the crystals of a library by how well each explains a pattern.

    The lattice is found from the spots; the pattern may have any in-plane rotation and either
    side up. Crystals of that cell and those that the network proposes are simulated and weighed.
    Of several lattices each is retrieved on its own (`Found.others`), but for the scale.

    Args:
        pattern: a `dx.Pattern`, a path (see `read_pattern`), an array of (qx, qy, intensity) rows
            in 1/angstrom, or a calibrated hyperspy signal; with `tilts` a list of these.
        library: a `Library` or its folder; None takes the one in the package.
        model: from `dd2d_jax.load`; None takes the weights in the package.
        k: number of candidates to return.
        elements: keep crystals made only of these, e.g. ["Mo", "S"], "Mo,S" or "MoS2"; also
            "nonmetals,Mo" for no metals but Mo.
        rerank: number of crystals that are weighed; 0 leaves the network's order.
        refine: fit the first k candidates' cell, atoms, B and tilt to the pattern. The order
            stays: a fit that is free enough explains anything. "multislice": then the first one
            to intensities of electrons that scatter more than once. Crystals with mixed sites
            stay as they are, and a `Notice` says so.
        propose: also make crystals that the library does not hold, see `dd2d_jax.matching.propose`.
        tilts: of several patterns of one crystal, degrees about x and y as in `dx.simulate`. The
            one of least tilt is searched with; all are refined together.
        scale_error: how wrong the pattern's scale may be, relative. Beyond 0.05 many scales between
            1 / (1 + scale_error) and 1 + scale_error are tried; 1 is one known to a factor 2.
        energy: of the electrons, keV; None takes the pattern's, or else the model's.
        contains: keep crystals that have all of these elements.
        excludes: keep crystals that have none of these.
        weights: how much likelier each element makes a crystal, {"O": 0.1} for "maybe O"; such
            elements are allowed beside `elements`.
        prior: weigh crystals by their stability and whether they were made, too, see
            `dd2d_jax.matching.prior`; False: all of them alike.
        strain: standard deviation of the crystal's strain against the library's, relative.

    Raises:
        PatternError: the pattern is empty, not finite, or has no lattice.
        LibraryError: the library is damaged or was built by another model.
        ValueError: k, rerank, scale_error, strain, energy or tilts out of range, an unknown
            element, or no crystal of these elements.
    """
    if k < 1 or rerank < 0:
        raise ValueError(f"k must be at least 1 and rerank at least 0, got k={k}, rerank={rerank}")
    if refine not in (False, True, "multislice"):
        raise ValueError(f"refine must be True, False or 'multislice', got {refine!r}")
    if not 0 <= scale_error <= 3:
        raise ValueError(f"scale_error must be between 0 and 3, 0.02 for 2 %; got {scale_error}")
    if tilts is not None and scale_error > 0.05:
        raise ValueError("tilts need a known scale: scale_error must be at most 0.05")
    if propose and not rerank:
        raise ValueError("proposals are weighed by simulation: rerank must be at least 1")
    if not 0 <= strain <= 0.1:
        raise ValueError(f"strain must be between 0 and 0.1, 0.01 for 1 %; got {strain}")
    if energy is not None and not 1 <= energy <= 5000:
        raise ValueError(f"energy must be in keV, 1 to 5000, such as 80; got {energy}")
    patterns = [as_pattern(one) for one in (pattern if tilts is not None else [pattern])]
    if tilts is None:
        seen = [[one] for one in lattices.find_all(patterns[0])]
    else:
        seen = [from_tilts(patterns, tilts)]
    model = load() if model is None else model
    if not isinstance(library, Library):
        library = _default_library() if library is None else Library.load(library)
    library.check(model)
    allowed = allowed_rows(library, elements, contains, excludes, weights, needed=not propose)
    if not allowed.any():  # proposals may be of other elements than all of the library's
        allowed = np.ones(len(library), bool)
    asked = _Asked(
        library, model, allowed,
        log_prior(library, allowed, weights_of(library, weights), prior),
        k, rerank, refine, tilts, scale_error, _told(energy, patterns), strain,
        next((x.power_error for x in patterns if x.power_error is not None), None),
    )  # fmt: skip
    found, seen = _each(seen, asked)
    if refine:
        _tell_unrefined(found)
    if len(found) > 1 and rerank and len(_scales(scale_error)) == 1:
        found = with_one_scale(found, scale_error, strain)
    if propose:
        from dd2d_jax.matching.propose import propose as made

        found = [
            made(
                one, library, model, k, elements, refine=refine, parents=_parents(indexed, asked),
                contains=contains, excludes=excludes,
            )
            for one, indexed in zip(found, seen, strict=True)
        ]  # fmt: skip
    return dataclasses.replace(found[0], others=tuple(found[1:]))


@dataclasses.dataclass(frozen=True)
class _Asked:
    """What a pattern's lattices are searched for with, see `retrieve`."""

    library: Library
    model: Model
    allowed: np.ndarray
    log_prior: np.ndarray
    k: int
    rerank: int
    refine: bool | str
    tilts: Sequence[Sequence[float]] | None
    scale_error: float
    energy: float | None
    strain: float
    power_error: float | None


def _told(energy: float | None, patterns: Sequence[Any]) -> float | None:
    """The electrons' energy in keV that was told, or that a pattern knows."""
    known = [energy, *(getattr(pattern, "energy", None) for pattern in patterns)]
    return next((float(x) for x in known if x is not None), None)


def _each(
    seen: Sequence[Sequence[indexed.Indexed]], asked: _Asked
) -> tuple[list[Found], list[Sequence[indexed.Indexed]]]:
    """Candidates for each lattice, and these; one whose spots do not do is left out, and told."""
    found, kept, errors = [], [], []
    for one in seen:
        try:
            found.append(_search(one, asked))
            kept.append(one)
        except PatternError as error:
            errors.append((len(one[0].hk), error))
    if not found:
        raise errors[0][1]
    for count, error in errors:
        warnings.warn(f"a lattice of {count} spots was left out: {error}", Notice, stacklevel=3)
    return found, kept


def _search(indexed: Sequence[indexed.Indexed], asked: _Asked) -> Found:
    """Candidates for one lattice, seen at one tilt or at several."""
    view = _view(indexed, asked)
    one_scale = asked.tilts is None and len(_scales(asked.scale_error)) == 1
    above = superlattices(view.at) if asked.rerank and one_scale else []
    fewer = dataclasses.replace(asked, k=min(asked.k, 10), rerank=for_others(asked.rerank))
    views = [view, *(_view([one.parent], fewer) for one in above)]

    def stacked() -> Iterator[tuple[Stack, Once]]:
        for one in stacks(view.at) if one_scale else []:
            views.append(_view([one.layer], fewer))
            yield one, views[-1].once

    def tilted() -> Iterator[tuple[Leaning, Once]]:
        for one in leanings(view.at, view.once.hypotheses[0]) if one_scale else []:
            views.append(_view([one.indexed], dataclasses.replace(asked, tilts=[one.tilt])))
            yield one, views[-1].once

    if asked.rerank:
        readings = weigh_readings([one.once for one in views], above, stacked, tilted)
    else:
        readings = [Reading(0, _by_network(asked, view), 0.0)]
    none = none_of(readings)
    area = abs(np.linalg.det(view.at.lattice))
    candidates = []
    for i, weighed, by in readings:
        name = above[i - 1].name if 0 < i <= len(above) else ""
        for c in _candidates(views[i], weighed, asked, name, area):
            if asked.rerank:
                # Log-probability: its odds are against none of them in this reading.
                log_p = c.score + math.log(max(weighed.none, 1e-300)) + by
                score = float(log_p - math.log(max(none, 1e-300)))
                c = dataclasses.replace(c, score=score, probability=math.exp(min(log_p, 0.0)))
            candidates.append(c)
    candidates = _in_all_readings(candidates)
    named = candidates[0].superlattice if candidates else ""
    shown = next((one for one in above if one.name == named), None)
    told = {one.name for one in above if not one.may_be_false}
    candidates = [
        c if c.superlattice in told else dataclasses.replace(c, superlattice="") for c in candidates
    ]
    # Those of the readings that were left behind come last.
    sets = [weighed.crystals for _, weighed, _ in readings]
    sets += [one.once.short.crystals for one in views if one.once is not None]
    uids = [uid for crystals in sets for uid in crystals.uid]
    return Found(
        tuple(candidates[: asked.k]), view.at, int(asked.allowed.sum()), none, superlattice=shown,
        weighed=tuple(map(str, dict.fromkeys(uids))), energy=asked.energy,
    )  # fmt: skip


def _in_all_readings(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The likeliest first. A crystal that is read in two ways has the probability of both, and the
    likelier way is shown."""
    each: dict[str, list[Candidate]] = {}
    for c in sorted(candidates, key=lambda c: -c.score):
        each.setdefault(c.uid, []).append(c)
    shown = []
    for c, *others in each.values():
        if others:
            score = np.logaddexp.reduce([c.score, *(one.score for one in others)])
            whole = c.probability + sum(one.probability for one in others)
            c = dataclasses.replace(c, score=float(score), probability=min(whole, 1.0))
        shown.append(c)
    return sorted(shown, key=lambda c: -c.score)


@dataclasses.dataclass(frozen=True)
class _View:
    """One cell of a pattern: what its spots were compared with.

    Attributes:
        indexed: the spots, at each tilt.
        at: those that were searched with.
        query: the same in every setting, at every scale.
        axes: (S, 2, 2) of the settings, in the pattern's frame.
        conditions: of the comparison.
        embedded: (P * S, D) what the network makes of the settings, for each of P powers.
        once: the crystals, weighed by kinematic intensities; None where the network's order stays.
        tilts: degrees, of the layer at each of `indexed`; None for none.
    """

    indexed: Sequence[indexed.Indexed]
    at: indexed.Indexed
    query: Query
    axes: np.ndarray
    conditions: Conditions
    embedded: np.ndarray
    once: Once | None
    tilts: Sequence[Sequence[float]] | None


def _view(indexed: Sequence[indexed.Indexed], asked: _Asked) -> _View:
    library, tilts = asked.library, asked.tilts
    stage(f"comparing the pattern with {int(asked.allowed.sum()):,} crystals")
    first = 0 if tilts is None else least_tilt(tilts)
    conditions = conditions_at(asked.model, asked.energy)
    at = indexed[first] if tilts is None else untilted(indexed[first], tilts[first], conditions)
    frames = lattices.frames(at)
    scales = _scales(asked.scale_error)
    # The same spots at every scale: else their probabilities could not be compared.
    query = Query.joined(
        [
            Query.indexed(lattices.rescaled(at, scale), conditions.q_max * scale)
            for scale in scales
        ]
    )
    step = asked.scale_error if len(scales) == 1 else _SCALE_STEP
    hypotheses = measured(step, asked.strain, asked.power_error)
    embedded = np.concatenate(
        [
            asked.model.embed_patterns(
                sized(straightened(query.settings, power), conditions.tokens)
            )
            for power in powers(hypotheses)
        ]
    )
    once = None
    if asked.rerank:
        tilted = None
        if tilts is not None:
            tilted = np.array([tilt_in_setting(tilts[first], x) for x in frames])
        once = weigh_once(
            library, query, embedded, asked.allowed, asked.log_prior,
            dataclasses.replace(conditions, q_max=conditions.q_max * scales.max()),
            hypotheses, max(asked.k, asked.rerank), step, tilted, len(scales),
        )  # fmt: skip
    axes = np.concatenate([frames / scale for scale in scales])
    return _View(indexed, at, query, axes, conditions, embedded, once, tilts)


def _candidates(
    view: _View, weighed: Weighed, asked: _Asked, name: str, area: float
) -> list[Candidate]:
    """The first k structures; `name` is that of a pattern's superlattice of that area."""
    query = view.query
    members = groups(weighed.crystals, asked.k)
    rows = [group[0] for group in members]
    setting = weighed.setting[rows]
    chosen = weighed.crystals.take(rows)
    power, bonds = weighed.power[rows], weighed.bonds[rows]
    shown = straightened(jax.tree.map(lambda x: x[setting], query.settings), power)
    queries, options = shown, {}
    if view.tilts is not None:
        queries, options = _tilted(view.indexed, setting, power, view.conditions, view.tilts)
    # It was not told, but read off the cell.
    tilt = None
    if asked.tilts is None and view.tilts is not None:
        tilt = tuple(float(x) for x in view.tilts[0])
    piled = _flakes(rows, weighed)
    several = weighed.way.layers[rows] > 1
    as_they_are = chosen.mixed | (not asked.refine) | several
    fits = {}
    if as_they_are.any():
        told = None
        if several.any():
            told = _as_flakes(chosen, rows, weighed, shown.hk, view.conditions)
        same = r_factors(chosen, queries, view.conditions, told=told, bonds=bonds, **options)
        b_iso = same.b_iso + np.where(several, weighed.b[rows], 0.0)
        fits[True] = dataclasses.replace(same, b_iso=b_iso)
    if not as_they_are.all():
        stage(f"refining {int((~as_they_are).sum())} candidates")
        # Another one stands in for each that is not refined.
        which = np.where(as_they_are, as_they_are.argmin(), np.arange(len(rows)))
        its, how = jax.tree.map(
            lambda x: np.asarray(x)[which], (queries, options | {"bonds": bonds})
        )
        fits[False] = fit(chosen.take(which), its, view.conditions, **how)
    # Crystals of twice the parent's cell may have the whole cell themselves.
    smaller = np.abs(np.linalg.det(chosen.lattice)) < 0.75 * area

    def made(i: int, fits: Fit) -> Candidate:
        group = members[i]
        one = candidate(
            chosen, i, float(weighed.value[group[0]]), float("nan"),
            float(weighed.similarity[group[0]]), fits, shown, view.axes[setting],
            float(np.logaddexp.reduce(weighed.odds[group if asked.rerank else group[:1]])),
            entries=tuple(str(uid) for uid in weighed.crystals.uid[group]),
            superlattice=name if smaller[i] else "", stacked=view.at.stacked, tilt=tilt,
            power=float(power[i]), flake=piled[i],
        )  # fmt: skip
        if tilt is None:
            return one
        # The spots where they were seen.
        return dataclasses.replace(one, query=jax.tree.map(lambda x: x[i], queries[0]))

    found = [made(i, fits[bool(one)]) for i, one in enumerate(as_they_are)]
    if asked.refine == "multislice" and found and not as_they_are[0]:
        stage("refining the first candidate by multislice")
        alone = jax.tree.map(lambda x: x[:1], (queries, options | {"bonds": bonds}))
        best = fit(chosen.take([0]), alone[0], view.conditions, **alone[1], method="multislice")
        found[0] = made(0, best)
    return found


def _tell_unrefined(found: Sequence[Found]) -> None:
    """Give notice of candidates that are not refined."""
    mixed = [c.uid for one in found for c in one if "occupancies" in c.structure.arrays]
    piled = [c.uid for one in found for c in one if c.flake]
    for why, uids in (("their sites are mixed", mixed), ("they are flakes of layers", piled)):
        if uids:
            names = ", ".join(printable(uid) for uid in dict.fromkeys(uids))
            warnings.warn(f"not refined, as {why}: {names}", Notice, stacklevel=3)


def _flakes(rows: Sequence[int], weighed: Weighed) -> list[Flake | None]:
    """What rows of those weighed are as flakes; None of single layers."""
    out: list[Flake | None] = []
    for row in rows:
        way = jax.tree.map(lambda x, row=row: x[row], weighed.way)
        tilt = float(way.lean[0]), float(way.lean[1])
        how = in_words(*way.stacking)
        out.append(Flake(int(way.layers), how, tilt) if way.layers > 1 else None)
    return out


def _as_flakes(
    crystals: CrystalSet,
    rows: Sequence[int],
    weighed: Weighed,
    hk: np.ndarray,
    conditions: Conditions,
) -> np.ndarray:
    """Intensities (n, T, 2) of those that are flakes, NaN of single layers."""
    way, b = jax.tree.map(lambda x: x[rows], (weighed.way, weighed.b))
    out = np.full(hk.shape, np.nan)
    some = np.flatnonzero(way.layers > 1)
    its = jax.tree.map(lambda x: x[some], way)
    out[some] = simulated(crystals.take(some), hk[some], conditions, b[some], its)
    return out


def _parents(indexed: Sequence[indexed.Indexed], asked: _Asked) -> Found:
    """Crystals of any elements: what they show is the structure type of a proposal."""
    from dd2d_jax.matching.propose import PARENTS

    every = np.ones(len(asked.library), bool)
    prior = log_prior(asked.library, every)
    return _search(
        indexed,
        dataclasses.replace(asked, allowed=every, log_prior=prior, k=PARENTS, refine=False),
    )


def _by_network(asked: _Asked, view: _View) -> Weighed:
    """The network's order, without probabilities."""
    library = asked.library
    rows, cosines = library.search(view.embedded, asked.k, asked.allowed)
    similarity, unknown = cosines.max(0), np.full(len(rows), np.nan)
    off, zero = np.zeros(len(rows), bool), np.zeros(len(rows))
    # The same settings come again for every power.
    setting = cosines.argmax(0) % len(view.query.found)
    return Weighed(
        rows, library.crystals.take(rows), similarity, setting, np.ones(len(rows)), zero, zero,
        Way.single(off, off, np.zeros((len(rows), 2))), similarity, unknown, similarity,
        float("nan"),
    )  # fmt: skip


def _scales(scale_error: float) -> np.ndarray:
    """Factors that the pattern's q are multiplied by: 1, or a series where little is known."""
    if scale_error <= 0.05:
        return np.ones(1)
    most = math.log1p(scale_error)
    count = math.ceil(most / (2 * _SCALE_STEP))
    return np.exp(np.linspace(-most, most, 2 * count + 1))


def _tilted(
    indexed: Sequence[indexed.Indexed],
    setting: np.ndarray,
    power: np.ndarray,
    conditions: Conditions,
    tilts: Sequence[Sequence[float]],
) -> tuple[list[Spots], dict[str, Any]]:
    """What each candidate is compared with at several tilts, and further arguments of `fit`."""
    every = [lattices.canonical_spots(one, conditions.q_max, _PAIRS) for one in indexed]
    frames = lattices.frames(indexed[0])
    turned = [[tilt_in_setting(tilt, frames[s]) for tilt in tilts] for s in setting]
    cut = [
        straightened(jax.tree.map(lambda x: np.asarray(x)[setting], spots), power)
        for spots in every
    ]
    return cut, {"tilts": np.array(turned)}


@functools.cache
def _default_library() -> Library:
    return Library.load()
