"""Crystals that no library holds, proposed for a pattern.

Known structure types with other elements on the measured cell (`drafts`) are simulated in one
batch and compared with the pattern as in retrieval (`score`); the best are built with the right
bond lengths and ordered by their probability (`evidence`), to which the cell that radii would
give and the likeness of the elements count. What the library holds already is no proposal.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ase.data import chemical_symbols

from dd2d_jax.data.crystal_set import CrystalSet, reduced_formula
from dd2d_jax.data.duplicates import distinct
from dd2d_jax.data.prototypes.unique import MIN_CONTACT, distances, nearest_contact
from dd2d_jax.lattices.lattice import frames
from dd2d_jax.libraries.elements import element_symbols
from dd2d_jax.libraries.library import Library
from dd2d_jax.matching.absent import NONE
from dd2d_jax.matching.candidates import candidate
from dd2d_jax.matching.evidence import log_evidence
from dd2d_jax.matching.found import Candidate, Found
from dd2d_jax.matching.hypotheses import OF_MICROSCOPES, TEMPERATURE, Hypothesis
from dd2d_jax.matching.hypothetical import FAR, SHEAR, STRETCH, WORTH, Family, Parent, families
from dd2d_jax.matching.prior import log_prior
from dd2d_jax.matching.rerank import Query, log_none
from dd2d_jax.matching.score import score, simulate_table, strains
from dd2d_jax.matching.weighing import conditions_at
from dd2d_jax.networks.trained import Model
from dd2d_jax.refinement.refine import fit, r_factors
from dd2d_jax.spots import Conditions, Spots, filled, power_of_two
from dd2d_jax.util.text import safe_name

# Proposals that are simulated, and those of them that are built and whose probability is computed.
COUNT = 2_000
BUILT = 200
# Retrieved candidates whose structure types are worth a proposal.
PARENTS = 30
# Crystals of the library of nearly the measured cell, and parents that are taken of all.
_NEAR = 500
_PARENTS = 40
# Standard deviations of what a parent's cell may differ from the measured one by.
_PARENT_STRETCH, _PARENT_SHEAR = 0.1, 0.02
# Log-probability that a difference of 1 in `score` counts for a proposal's parent.
_PARENT_WORTH = 20.0
# What a proposal's atoms may differ from the true crystal's by, and its intensities.
_ERRORS = tuple(
    Hypothesis(move, 0.1, STRETCH, SHEAR, tilt=0.8, missing=0.25, **OF_MICROSCOPES)
    for move in (0.03, 0.1, 0.2)
)


@dataclasses.dataclass(frozen=True)
class Proposed(Candidate):
    """A candidate that no library holds.

    Attributes:
        parent: uid of the library's crystal that it was made from.
        substitution: such as "Mo->W, S->Se".
    """

    parent: str
    substitution: str


@dataclasses.dataclass(frozen=True, eq=False)
class Proposals:
    """n crystals on the measured cell, the likeliest first.

    Attributes:
        crystals: with uid, formula and the parent's prototype; none of them known.
        parent: (n,) uid of the library's crystal that each was made from.
        substitution: (n,) such as "Mo->W, S->Se".
        log_evidence: (n,) comparable with `Candidate.log_evidence` of the library's crystals.
        score: (n,) of `dd2d_jax.matching.score`.
        setting: (n,) in which each fits the pattern best.
        simulated: number of crystals that they were chosen from.
        log_share: (n,) of the prior probability of all that were simulated.
    """

    crystals: CrystalSet
    parent: np.ndarray
    substitution: np.ndarray
    log_evidence: np.ndarray
    score: np.ndarray
    setting: np.ndarray
    simulated: int
    log_share: np.ndarray

    def __len__(self) -> int:
        return len(self.parent)


def propose(
    found: Found,
    library: Library,
    model: Model,
    k: int = 10,
    elements: Sequence[str] | None = None,
    count: int = COUNT,
    refine: bool = True,
    parents: Sequence[Candidate] | None = None,
    contains: Sequence[str] | None = None,
    excludes: Sequence[str] | None = None,
) -> Found:
    """The k likeliest of retrieved candidates and of crystals that the library does not hold.

    That the library does not hold the crystal was one possibility in retrieval (`absent.NONE`).
    Here half of it is that one of the proposals made the pattern, and half that none of these did
    either.

    Args:
        found: from `retrieve` with this library and model: the library's own answers, of which
            those of other elements are left out.
        library: that was searched.
        model: that searched it.
        k: number of candidates to return.
        elements: proposals are made only of these.
        count: proposals that are simulated at most.
        refine: fit the proposals among them to the pattern.
        parents: crystals of the library whose structure types are tried, of any elements, `PARENTS`
            or so; None takes `found`.
        contains: proposals have all of these elements.
        excludes: proposals have none of these.

    Returns:
        Candidates, those that are not in the library as `Proposed`, by their probability.

    Raises:
        ValueError: k or count below 1, or an unknown element.
    """
    if k < 1 or count < 1:
        raise ValueError(f"k and count must be at least 1, got k={k}, count={count}")
    allowed = _allowed(elements, excludes)
    must = frozenset() if contains is None else frozenset(element_symbols(contains))
    conditions = conditions_at(model, found.energy)
    tried = found if parents is None else parents
    power = tried[0].power if len(tried) else 1.0
    query = Query.indexed(found.indexed, conditions.q_max).straightened(power)
    place = {uid: row for row, uid in enumerate(library.crystals.uid)}
    rows = np.array([place[candidate.uid] for candidate in tried], int)
    made = rank(library.crystals, rows, query, conditions, allowed, count, must)
    chosen = distinct(made.crystals, library.crystals, k)
    own = [c for c in found if _is_allowed(c, allowed, must)]
    # Odds against none of the library's are milder than the evidence alone has them.
    against = np.log((1 - NONE) / NONE)
    if own:
        against = _beyond(own[0], place[own[0].uid], library, query, conditions)
    odds, none = _odds(made, found, own, against)
    # Of a library's crystal: none of them is half as likely as before.
    kept = [
        dataclasses.replace(
            c, score=c.score + np.log(2), probability=none * np.exp(c.score + np.log(2))
        )
        for c in own
    ]
    merged = sorted(
        [*((c.score, c) for c in kept), *((odds[i], int(i)) for i in chosen)],
        key=lambda pair: -pair[0],
    )[:k]
    wanted = [entry for _, entry in merged if isinstance(entry, int)]
    axes = frames(found.indexed)[made.setting[wanted]]
    shown = _candidates(made, wanted, odds, none, query.settings, axes, conditions, refine)
    shown = [dataclasses.replace(one, power=power) for one in shown]
    candidates = dict(zip(wanted, shown, strict=True))
    return dataclasses.replace(
        found,
        candidates=tuple(candidates[e] if isinstance(e, int) else e for _, e in merged),
        searched=found.searched + made.simulated,
        none=none,
        others=(),
    )


def _allowed(elements: Any, excludes: Any) -> list[str] | None:
    """Symbols that a proposal may hold; None: any."""
    if elements is None and excludes is None:
        return None
    some = chemical_symbols[1:] if elements is None else element_symbols(elements)
    without = [] if excludes is None else element_symbols(excludes)
    return [symbol for symbol in some if symbol not in without]


def _is_allowed(candidate: Candidate, allowed: list[str] | None, must: frozenset[str]) -> bool:
    symbols = set(candidate.structure.get_chemical_symbols())
    return (allowed is None or symbols <= set(allowed)) and must <= symbols


def _odds(
    made: Proposals, found: Found, own: Sequence[Candidate], against: float
) -> tuple[np.ndarray, float]:
    """Log odds (n,) of proposals against "none of these either", and the probability of that.

    `own` are those of the library's candidates that are of the elements asked for; `against` is
    what the first one's score has beyond its evidence and its prior probability.
    """
    evidence = made.log_evidence - made.log_share - np.log(max(made.simulated, 1))
    # Of "none of the library's" half is with the proposals.
    odds = evidence + made.log_share + np.log(NONE / (1 - NONE)) + against
    least = max(found.none, 1e-300)
    library = np.log(2) + np.log(max(1 - found.none, 1e-300)) - np.log(least)
    if len(own) < len(found):
        library = np.logaddexp.reduce([-np.inf, *(c.score + np.log(2) for c in own)])
    total = np.logaddexp.reduce([0.0, library, *odds])
    return odds, float(np.exp(-total))


def _beyond(
    candidate: Candidate, row: int, library: Library, query: Query, conditions: Conditions
) -> float:
    """What a candidate's score has beyond the evidence as proposals have it, and its prior."""
    crystals = library.crystals.take([row])
    _, setting = compare(crystals, query.settings, conditions)
    evidence = evidence_of(crystals, setting, query, conditions, _ERRORS)[0]
    prior = log_prior(library, np.ones(len(library), bool))[row]
    return float(candidate.score - evidence - prior)


def rank(
    library: CrystalSet,
    first: np.ndarray,
    query: Query,
    conditions: Conditions,
    elements: Sequence[str] | None = None,
    count: int = COUNT,
    contains: frozenset[str] = frozenset(),
) -> Proposals:
    """Crystals that may have made a pattern and are not in the library, by their probability.

    Of crystals that the library holds with very different coordinates some may be left; see
    `twins.distinct`.

    Args:
        library: crystals in canonical setting.
        first: rows of the crystals that explain the pattern best.
        query: the pattern in every setting.
        conditions: radiation, q_max and B of the comparison.
        elements: symbols that a proposal may hold; None: any.
        count: crystals that are made and simulated at most.
        contains: symbols that a proposal must hold.
    """
    settings = query.settings
    allowed = None if elements is None else frozenset(map(chemical_symbols.index, elements))
    parents = _parents(library, first, settings, conditions)
    made = list(families(library, parents, _PARENTS, conditions, allowed, count // 4 + 1))
    prior = np.concatenate([np.zeros(0), *(f.log_prior for f in made)])
    family = np.repeat(np.arange(len(made)), [len(f.log_prior) for f in made])
    child = np.concatenate([np.zeros(0, int), *(np.arange(len(f.log_prior)) for f in made)])
    value = np.concatenate([np.zeros(0), *(f.value for f in made)])
    few = np.argsort(-(WORTH * value + prior), kind="stable")[:count]
    if not len(few):
        none = np.zeros(0)
        return Proposals(library.take([]), none, none, none, none, none.astype(int), 0, none)
    # As likely on average as a crystal of the library.
    prior = prior - np.logaddexp.reduce(prior[few]) + np.log(len(few))
    simulated = len(few)
    value, setting = compare(
        _crystals(library, made, family[few], child[few], Family.children), settings, conditions
    )
    best = np.argsort(-(WORTH * value + prior[few]), kind="stable")[:BUILT]
    few, value, setting = few[best], value[best], setting[best]
    crystals = _crystals(library, made, family[few], child[few], Family.build)
    parent = np.array([str(library.uid[made[f].parent.row]) for f in family[few]])
    origin = list(zip(family[few], child[few], strict=True))
    label = np.array([_label(made[f].own, made[f].elements[c]) for f, c in origin])
    crystals = dataclasses.replace(
        crystals,
        uid=_uids(crystals.formula, parent),
        prototype=np.array([str(library.prototype[made[f].parent.row]) for f in family[few]]),
    )
    evidence = evidence_of(crystals, setting, query, conditions, _ERRORS) + prior[few]
    must = [chemical_symbols.index(symbol) for symbol in contains]
    there = np.array([np.isin(must, numbers).all() for numbers in crystals.numbers])
    good = np.flatnonzero((_contact(crystals) >= MIN_CONTACT) & there)
    order = good[np.argsort(-evidence[good], kind="stable")]
    return Proposals(
        crystals.take(order), parent[order], label[order], evidence[order], value[order],
        setting[order], simulated, prior[few][order] - np.log(simulated),
    )  # fmt: skip


def _parents(
    library: CrystalSet, first: np.ndarray, settings: Spots, conditions: Conditions
) -> list[Parent]:
    """Crystals of nearly the measured cell and those given, by how well they explain the pattern.

    Where bonds change their length, the whole cell grows; its shape stays. Alloys are left out.
    """
    cells, lattice = _cells(settings), np.asarray(library.lattice)
    stretch, shear = np.array([strains(lattice, c) for c in cells]).transpose(1, 0, 2)
    rows = np.union1d(np.argsort(_away(stretch, shear).min(0), kind="stable")[:_NEAR], first)
    if not len(rows := rows[~library.take(rows).mixed]):
        return []
    value, setting = compare(library.take(rows), settings, conditions)
    cells = np.asarray(settings.lattice)[setting]
    stretch, shear = strains(lattice[rows], cells)
    near = np.flatnonzero(_away(stretch, shear) < FAR**2)
    return [
        Parent(
            int(rows[i]),
            _one(settings, setting[i]),
            float(stretch[i]),
            float(shear[i]),
            float(_PARENT_WORTH * (value[i] - value.max())),
        )
        for i in near[np.argsort(-value[near], kind="stable")]
    ]


def _away(stretch: np.ndarray, shear: np.ndarray) -> np.ndarray:
    return (stretch / _PARENT_STRETCH) ** 2 + (shear / _PARENT_SHEAR) ** 2


def _cells(settings: Spots) -> np.ndarray:
    """The different cells (C, 2, 2) of a pattern's settings."""
    cells: list[np.ndarray] = []
    for lattice in np.asarray(settings.lattice, float):
        if not any(np.abs(lattice - other).max() < 0.01 for other in cells):
            cells.append(lattice)
    return np.array(cells)


def compare(
    crystals: CrystalSet, settings: Spots, conditions: Conditions
) -> tuple[np.ndarray, np.ndarray]:
    """Scores (n,) of crystals by simulation and the setting that each fits best."""
    count = len(crystals)
    every = filled(np.arange(count), power_of_two(count))
    table = simulate_table(crystals.take(every).crystal, conditions, together=True)
    scores = np.stack(
        [np.asarray(score(table, _one(settings, s)))[:count] for s in range(len(settings.q))]
    )
    return scores.max(0), scores.argmax(0)


def evidence_of(
    crystals: CrystalSet,
    setting: np.ndarray,
    query: Query,
    conditions: Conditions,
    hypotheses: Sequence[Hypothesis],
) -> np.ndarray:
    """`log_evidence` (n,) of crystals, each in that setting (n,), less `log_none`; tempered."""
    queries = jax.tree.map(lambda x: np.asarray(x)[setting], query.whole)
    value = log_evidence(crystals, queries, conditions, hypotheses)
    return value - log_none(query) / TEMPERATURE


def _one(settings: Spots, s: int) -> Spots:
    return jax.tree.map(lambda x: x[s], settings)


def _crystals(
    library: CrystalSet, made: list[Family], family: np.ndarray, child: np.ndarray, place
) -> CrystalSet:
    """Children (n,) of families as crystals without names; `place` puts their atoms."""
    count, size = len(family), library.numbers.shape[1]
    numbers = np.zeros((count, size), np.int32)
    positions = np.zeros((count, size, 3), np.float32)
    lattice = np.zeros((count, 2, 2), np.float32)
    for f in np.unique(family):
        there = np.flatnonzero(family == f)
        z, r = place(made[f].take(child[there]))
        numbers[there, : z.shape[1]], positions[there, : z.shape[1]] = z, r
        lattice[there] = made[f].parent.cell
    blank = np.full(count, "")
    formula = blank if place is Family.children else np.array(list(map(reduced_formula, numbers)))
    return CrystalSet(
        blank, formula, lattice, positions, numbers, np.zeros(count, bool), blank, {}
    )


def _contact(crystals: CrystalSet) -> np.ndarray:
    """Nearest distance (n,) in each crystal, in sums of covalent radii."""
    out = np.zeros(len(crystals))
    for i, numbers in enumerate(crystals.numbers):
        z = numbers[numbers > 0]
        distance = distances(
            crystals.lattice[i : i + 1].astype(float),
            crystals.positions[i : i + 1, : len(z)].astype(float),
        )
        out[i] = nearest_contact(z[None], distance)[0]
    return out


def _label(old: np.ndarray, new: np.ndarray) -> str:
    """Such as "Mo->W, S->Se"."""
    return ", ".join(
        f"{chemical_symbols[a]}->{chemical_symbols[b]}"
        for a, b in zip(old, new, strict=True)
        if a != b
    )


def _uids(formula: np.ndarray, parent: np.ndarray) -> np.ndarray:
    """Such as "WSe2-from-1H-MoS2": letters, digits, _ and - alone, no two alike."""
    used: dict[str, int] = {}
    out = []
    for one, other in zip(formula, parent, strict=True):
        name = f"{one}-from-{safe_name(other)}"
        used[name] = used.get(name, 0) + 1
        out.append(name if used[name] == 1 else f"{name}-{used[name]}")
    return np.array(out, str)


def _candidates(
    made: Proposals,
    rows: list[int],
    odds: np.ndarray,
    none: float,
    settings: Spots,
    axes: np.ndarray,
    conditions: Conditions,
    refine: bool,
) -> list[Proposed]:
    if not rows:
        return []
    crystals = made.crystals.take(np.array(rows))
    queries = _one(settings, made.setting[rows])
    fits = (fit if refine else r_factors)(crystals, queries, conditions)
    out = []
    for i, row in enumerate(rows):
        out.append(
            candidate(
                crystals,
                i,
                made.log_evidence[row],
                none * float(np.exp(odds[row])),
                float("nan"),
                fits,
                queries,
                axes,
                float(odds[row]),
                Proposed,
                entries=(str(crystals.uid[i]),),
                superlattice="",
                parent=str(made.parent[row]),
                substitution=str(made.substitution[row]),
            )
        )
    return out
