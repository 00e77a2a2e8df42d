"""Lattices of one image share its scale: what that says of a pair of crystals."""

import dataclasses

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from dd2d_jax.matching.shared_scale import log_together, with_one_scale


@dataclasses.dataclass(frozen=True)
class Seen:
    """What is read of a `Found`."""

    candidates: tuple
    none: float

    def __iter__(self):
        return iter(self.candidates)


@dataclasses.dataclass(frozen=True)
class One:
    uid: str
    strain: float
    score: float
    probability: float


def seen(*candidates: tuple[str, float, float], none: float = 0.02) -> Seen:
    return Seen(tuple(One(uid, strain, np.log(p / none), p) for uid, strain, p in candidates), none)


def test_the_ratio_is_that_of_the_normal_densities():
    shared, own = 0.02**2 / 3, 0.005**2
    covariance = np.full((2, 2), shared) + np.eye(2) * own
    for t, u in ((0.01, 0.012), (0.01, -0.01), (0.0, 0.0)):
        alone = norm(scale=np.sqrt(shared + own)).logpdf([t, u]).sum()
        both = multivariate_normal(np.zeros(2), covariance).logpdf([t, u])
        assert log_together(np.array(t), np.array(u), 0.02, 0.005) == pytest.approx(both - alone)


def test_a_second_lattice_tells_apart_what_one_alone_does_not():
    """Graphene and h-BN: cells 1.8 % apart, and the image's scale 1 % wrong."""
    first = seen(("h-BN", -0.008, 0.45), ("graphene", 0.010, 0.45))
    second = seen(("graphene", 0.010, 0.90), ("other", 0.0, 0.03))
    alike, other = with_one_scale([first, second], 0.02, 0.005)
    assert alike.candidates[0].uid == "graphene" and alike.candidates[0].probability > 0.8
    assert [c.score for c in alike] == sorted((c.score for c in alike), reverse=True)
    for one in (alike, other):
        total = sum(c.probability for c in one) + one.none
        assert total <= 1 + 1e-9


def test_what_is_not_shown_keeps_its_odds():
    first = seen(("a", 0.0, 0.6), ("b", 0.0, 0.1), none=0.1)
    second = seen(("c", 0.0, 0.5), none=0.5)
    one, _ = with_one_scale([first, second], 0.02, 0.005)
    rest = 1 - sum(c.probability for c in one) - one.none
    assert rest / one.none == pytest.approx(0.2 / 0.1, rel=1e-6)
