"""A library's crystals weighed for one pattern: short list, likelihood, prior, probabilities."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

import diffraction as dx
from dd2d_jax.data.crystal_set import CrystalSet
from dd2d_jax.libraries.library import Library
from dd2d_jax.matching.absent import (
    LOG_ODDS_OF_FLAKES,
    NEAR,
    NONE,
    features,
    likeness,
    log_odds,
    log_odds_of_any,
    log_probabilities,
    nearly,
)
from dd2d_jax.matching.dynamical import weigh_again
from dd2d_jax.matching.flakes import may_be_flakes, weigh_flakes
from dd2d_jax.matching.hypotheses import TEMPERATURE, Hypothesis, powers
from dd2d_jax.matching.isotypes import log_isotypes
from dd2d_jax.matching.rerank import Query, Way, Weighing, log_none, weigh
from dd2d_jax.matching.shortlist import Shortlist, shortlist
from dd2d_jax.networks.trained import Model
from dd2d_jax.spots import Conditions

# Where less than this share of a library may be returned, the elements are known.
_FEW = 0.5


class Weighed(NamedTuple):
    """m crystals that were weighed, the likeliest first.

    Attributes:
        rows: (m,) of the library.
        crystals: these.
        similarity: (m,) the network's largest cosine.
        setting: (m,) in which each fits the pattern best.
        power: (m,) of counts that the intensities are if it made the pattern.
        bonds: (m,) the share of the electrons in its bonds that fits.
        b: (m,) beyond the conditions', angstrom^2. way: in which each is seen, see `rerank.Way`.
        value: (m,) log-probability of the pattern for each, less that for none of the library's.
        probability: (m,) of each.
        odds: (m,) natural logarithm of the probability of each over that of none of them.
        none: that none of the library's crystals made the pattern.
    """

    rows: np.ndarray
    crystals: CrystalSet
    similarity: np.ndarray
    setting: np.ndarray
    power: np.ndarray
    bonds: np.ndarray
    b: np.ndarray
    way: Way
    value: np.ndarray
    probability: np.ndarray
    odds: np.ndarray
    none: float


def conditions_at(model: Model, energy: float | None) -> Conditions:
    """The model's conditions, at an energy in keV; None is the model's own."""
    if energy is None:
        return model.conditions
    return dataclasses.replace(model.conditions, radiation=dx.Electrons(energy))


class Once(NamedTuple):
    """A library's crystals weighed as if electrons scattered once, see `weigh_once`.

    Attributes:
        library, query, allowed, conditions, hypotheses, tilts: what was told.
        log_prior: (n,) of the library.
        short: m crystals.
        weighing: of these.
        nothing: `rerank.log_none`.
    """

    library: Library
    query: Query
    allowed: np.ndarray
    conditions: Conditions
    hypotheses: Sequence[Hypothesis]
    tilts: np.ndarray | None
    log_prior: np.ndarray
    short: Shortlist
    weighing: Weighing
    nothing: float

    @property
    def prior(self) -> np.ndarray:
        """(m,) `log_prior` of the crystals."""
        return self.log_prior[self.short.rows]

    def may_be_flakes(self) -> bool:
        """Whether a crystal may explain as a flake what none does as a layer."""
        told = self.weighing, self.prior, self.short.crystals, self.conditions, self.hypotheses
        return self.tilts is None and bool(may_be_flakes(*told).any())

    def total(self) -> float:
        """Log-probability of the pattern over all crystals and none of them, at the temperature of
        the probabilities: compares one reading of a pattern with another.
        """
        none = self.nothing / TEMPERATURE + math.log(NONE)
        return float(np.logaddexp.reduce(np.append(self.weighing.value + self.prior, none)))


def weigh_once(
    library: Library,
    query: Query,
    embedded: np.ndarray,
    allowed: np.ndarray,
    log_prior: np.ndarray,
    conditions: Conditions,
    hypotheses: Sequence[Hypothesis],
    count: int,
    scale_error: float,
    tilts: np.ndarray | None = None,
    scales: int = 1,
) -> Once:
    """Weigh the crystals of a library that may have made a pattern, by kinematic intensities.

    Args:
        library: n crystals.
        query: the pattern in S settings.
        embedded: (P * S, D) what the network makes of these, for each of `hypotheses.powers`.
        allowed: (n,) bool, the crystals that may be returned.
        log_prior: (n,) from `prior.log_prior`.
        conditions: radiation, q_max and B.
        hypotheses: what may differ.
        count: crystals to weigh, and known ones beside them.
        scale_error: how wrong the pattern's scale may be, relative.
        tilts: (S, 2) of the layer in each setting, degrees; None for none.
        scales: at which the pattern was joined, as many settings of each.
    """
    short = shortlist(
        library, query, embedded, allowed, conditions, count, scale_error, tilts,
        powers(hypotheses),
    )  # fmt: skip
    weighing = weigh(short.crystals, short.scores, query, conditions, hypotheses, tilts, scales)
    nothing = log_none(query) + math.log(scales)
    return Once(
        library, query, allowed, conditions, hypotheses, tilts, log_prior, short, weighing, nothing,
    )  # fmt: skip


def weigh_twice(once: Once) -> Once:
    """The same, electrons that scatter more than once included, see `dynamical.weigh_again`."""
    if once.tilts is not None:
        return once
    told = once.prior, once.short.crystals, once.query, once.conditions, once.hypotheses
    weighing = weigh_flakes(weigh_again(once.weighing, *told), *told)
    return once._replace(weighing=weighing)


def weighed(once: Once) -> Weighed:
    """Probabilities of the crystals, and of none of them."""
    short, weighing, prior = once.short, once.weighing, once.prior
    log_p, none = log_probabilities(
        weighing, prior, _log_odds_of_none(once), once.hypotheses[0].stretch,
        likeness(once.query)[1],
    )  # fmt: skip
    # Also where they are too small for a number.
    order = np.argsort(-log_p, kind="stable")
    odds = log_p - math.log(max(none, 1e-300))
    # Of a library in which all crystals are as likely, so that the score is the pattern's alone.
    value = odds - prior + math.log(NONE / (1 - NONE))
    return Weighed(
        short.rows[order], short.crystals.take(order), short.cosines.max(0)[order],
        weighing.setting[order], weighing.power[order], weighing.bonds[order],
        weighing.b[order], jax.tree.map(lambda x: x[order], weighing.way), value[order],
        np.exp(log_p[order]), odds[order], none,
    )  # fmt: skip


def _log_odds_of_none(once: Once) -> float:
    """Natural logarithm of P(not in the library) / P(in it), by its first crystal."""
    library, query, allowed, tilts = once.library, once.query, once.allowed, once.tilts
    weighing, prior, crystals = once.weighing, once.prior, once.short.crystals
    first = int(np.argmax(weighing.value + prior))
    restricted = bool(allowed.mean() < _FEW)
    if weighing.way.layers[first] > 1 and not restricted:
        return LOG_ODDS_OF_FLAKES
    close = library.cells.near(np.asarray(query.settings.lattice)[query.found], *NEAR)
    near, size = nearly(np.where(allowed, once.log_prior, -np.inf), close)
    any_kind = log_odds_of_any(weighing, prior, once.nothing, near, size)
    isotypes = -np.inf
    if not restricted:
        setting = int(weighing.setting[first])
        isotypes = log_isotypes(
            crystals.take([first]), setting, query, once.conditions, once.hypotheses,
            set(library.crystals.formula[close[allowed[close]]]),
            None if tilts is None else tilts[setting], weighing.way_of(first),
        )  # fmt: skip
    about = features(
        weighing, prior, crystals.formula, query, near, any_kind, isotypes,
        once.hypotheses[0].stretch,
    )  # fmt: skip
    return log_odds(about, restricted)
