"""A library's crystals weighed for one pattern: short list, likelihood, prior, probabilities."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

import diffraction as dx
from dd2d_jax.data.crystal_set import CrystalSet
from dd2d_jax.libraries.library import Library
from dd2d_jax.matching.absent import (
    NEAR,
    NONE,
    features,
    log_odds,
    log_odds_of_any,
    log_probabilities,
    nearly,
)
from dd2d_jax.matching.dynamical import weigh_again
from dd2d_jax.matching.hypotheses import TEMPERATURE, Hypothesis
from dd2d_jax.matching.isotypes import log_isotypes
from dd2d_jax.matching.rerank import Query, log_none, weigh
from dd2d_jax.matching.shortlist import shortlist
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
        value: (m,) log-probability of the pattern for each, less that for none of the library's.
        probability: (m,) of each.
        odds: (m,) natural logarithm of the probability of each over that of none of them.
        none: that none of the library's crystals made the pattern.
        log_none: log-probability of the pattern for a structure of any kind, `rerank.log_none`.
        total: log-probability of the pattern over all of them and none, at the temperature of the
            probabilities: compares one reading of a pattern with another.
    """

    rows: np.ndarray
    crystals: CrystalSet
    similarity: np.ndarray
    setting: np.ndarray
    value: np.ndarray
    probability: np.ndarray
    odds: np.ndarray
    none: float
    log_none: float = 0.0
    total: float = 0.0


def conditions_at(model: Model, energy: float | None) -> Conditions:
    """The model's conditions, at an energy in keV; None is the model's own."""
    if energy is None:
        return model.conditions
    return dataclasses.replace(model.conditions, radiation=dx.Electrons(energy))


def weigh_library(
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
) -> Weighed:
    """Weigh the crystals of a library that may have made a pattern.

    Args:
        library: n crystals.
        query: the pattern in S settings.
        embedded: (S, D) what the network makes of these.
        allowed: (n,) bool, the crystals that may be returned.
        log_prior: (n,) from `prior.log_prior`.
        conditions: radiation, q_max and B.
        hypotheses: what may differ.
        count: crystals to weigh, and known ones beside them.
        scale_error: how wrong the pattern's scale may be, relative.
        tilts: (S, 2) of the layer in each setting, degrees; None for none.
        scales: at which the pattern was joined, as many settings of each.
    """
    short = shortlist(library, query, embedded, allowed, conditions, count, scale_error, tilts)
    weighing = weigh(short.crystals, short.scores, query, conditions, hypotheses, tilts, scales)
    prior = log_prior[short.rows]
    if tilts is None:
        weighing = weigh_again(weighing, prior, short.crystals, query, conditions, hypotheses)
    close = library.cells.near(np.asarray(query.settings.lattice)[query.found], *NEAR)
    near, size = nearly(np.where(allowed, log_prior, -np.inf), close)
    nothing = log_none(query) + math.log(scales)
    any_kind = log_odds_of_any(weighing, prior, nothing, near, size)
    first = int(np.argmax(weighing.value + prior))
    setting = int(weighing.setting[first])
    restricted = bool(allowed.mean() < _FEW)
    isotypes = -np.inf
    if not restricted:
        crystal, tilt = short.crystals.take([first]), None if tilts is None else tilts[setting]
        known = set(library.crystals.formula[close[allowed[close]]])
        twice = weighing.twice(first)
        isotypes = log_isotypes(crystal, setting, query, conditions, hypotheses, known, tilt, twice)
    strain = hypotheses[0].stretch
    formula = short.crystals.formula
    about = features(weighing, prior, formula, query, near, any_kind, isotypes, strain)
    log_p, none = log_probabilities(weighing, prior, log_odds(about, restricted), strain)
    # Also where they are too small for a number.
    order = np.argsort(-log_p, kind="stable")
    odds = log_p - math.log(max(none, 1e-300))
    # Of a library in which all crystals are as likely, so that the score is the pattern's alone.
    value = odds - prior + math.log(NONE / (1 - NONE))
    either = np.append(weighing.value + prior, nothing / TEMPERATURE + math.log(NONE))
    return Weighed(
        short.rows[order], short.crystals.take(order), short.cosines.max(0)[order],
        weighing.setting[order], value[order], np.exp(log_p[order]), odds[order], none,
        nothing, float(np.logaddexp.reduce(either)),
    )  # fmt: skip
