"""Several lattices of one image share the error of its scale: together they tell like cells apart.

The logarithm of a crystal's cell over the measured one is the error of the scale, the same for all
lattices, and the crystal's own strain. Alone, each lattice was weighed as if the scale's error were
its own. For two crystals with stretches t and u of two lattices, variances s^2 of the strain and
e^2 of the scale, the pair is likelier than that by the ratio of the normal densities with and
without their covariance e^2 (`log_together`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from dd2d_jax.matching.found import Found

# Standard deviations within which stretches are compared.
_TRUSTED = 3.0


def with_one_scale(found: Sequence[Found], scale_error: float, strain: float) -> list[Found]:
    """What was found for several lattices, candidates' probabilities with the scale they share.

    Args:
        found: of each lattice, weighed with this scale error and strain.
        scale_error: how wrong the scale may be, relative, evenly.
        strain: standard deviation of a crystal's strain.
    """
    stretches = [np.array([c.strain for c in one]) for one in found]
    logs = [np.log(np.maximum([c.probability for c in one], 1e-300)) for one in found]
    out = []
    for a, one in enumerate(found):
        odds = np.array([c.score for c in one])
        for b in range(len(found)):
            if b != a:
                pairs = log_together(stretches[a][:, None], stretches[b], scale_error, strain)
                rest = np.log(max(1 - np.exp(logs[b]).sum(), 1e-12))
                # Of what is not among the candidates nothing is known.
                odds = odds + np.logaddexp(np.logaddexp.reduce(pairs + logs[b], 1), rest)
        out.append(_with_odds(one, odds))
    return out


def log_together(t: np.ndarray, u: np.ndarray, scale_error: float, strain: float) -> np.ndarray:
    """log N(t, u; with covariance) - log N(t) - log N(u) of two stretches, which broadcast."""
    shared = scale_error**2 / 3
    each = max(shared + strain**2, 1e-6)
    # Crystals further off are judged by tails that are wider than the normal distribution's.
    t, u = (np.clip(x, -_TRUSTED * each**0.5, _TRUSTED * each**0.5) for x in (t, u))
    r = min(shared / each, 1 - 1e-6)
    square = (r * r * (t * t + u * u) - 2 * r * t * u) / (each * (1 - r * r))
    return -0.5 * square - 0.5 * math.log(1 - r * r)


def _with_odds(found: Found, odds: np.ndarray) -> Found:
    """The same with other logarithms of candidates' odds against none."""
    # Crystals that are not shown keep their odds.
    before = np.array([c.score for c in found])
    total = -math.log(max(found.none, 1e-300))
    hidden = max(math.exp(total) - 1 - np.exp(before).sum(), 0.0) if total < 600 else 0.0
    whole = np.logaddexp.reduce([0.0, math.log(hidden + 1e-300), *odds])
    candidates = sorted(
        (
            dataclasses.replace(c, score=float(x), probability=math.exp(x - whole))
            for c, x in zip(found, odds, strict=True)
        ),
        key=lambda c: -c.score,
    )
    return dataclasses.replace(found, candidates=tuple(candidates), none=math.exp(-whole))
