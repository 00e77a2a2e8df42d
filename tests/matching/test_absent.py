"""What is not in the library: probabilities that add up, and what no true crystal ever was."""

import dataclasses

import numpy as np
import pytest
import tiny

import diffraction as dx
from dd2d_jax.data.crystal_set import CrystalSet
from dd2d_jax.evaluation.evaluate import make_patterns
from dd2d_jax.lattices import lattice
from dd2d_jax.matching import absent
from dd2d_jax.matching.hypotheses import measured
from dd2d_jax.matching.rerank import Query, Way, Weighing, compare, log_none, weigh
from dd2d_jax.matching.score import simulate_table
from dd2d_jax.networks.disturbances import LEVELS
from dd2d_jax.spots import Conditions

CONDITIONS = Conditions(dx.Electrons(80.0), q_max=1.25, b_iso=0.5, tokens=48)


STRAIN = measured()[0].stretch


def weighing(value: list[float], **other: list[float]) -> Weighing:
    zeros = np.zeros(len(value))
    names = ("b", "power", "bonds", "lean", "stretch", "shear")
    fields = {"r1": zeros + 0.05, **dict.fromkeys(names, zeros)}
    fields |= {name: np.array(values) for name, values in other.items()}
    way = Way.single(zeros > 0, zeros > 0, zeros)
    return Weighing(np.array(value), np.array(value), zeros.astype(int), **fields, way=way)


def probabilities(*told) -> tuple[np.ndarray, float]:
    logs, none = absent.log_probabilities(*told, STRAIN, 0.1)
    return np.exp(logs), none


@pytest.fixture(scope="module")
def library() -> CrystalSet:
    return tiny.crystals()


@pytest.fixture(scope="module")
def queries(library) -> list[Query]:
    patterns = make_patterns(library.take(range(8)), CONDITIONS, LEVELS["measured"], 1)
    return [Query.indexed(lattice.find(pattern), CONDITIONS.q_max) for pattern in patterns]


def weighed(library: CrystalSet, query: Query) -> tuple[Weighing, np.ndarray]:
    scores = compare(simulate_table(library.crystal, CONDITIONS), query.settings)
    prior = np.full(len(library), -np.log(len(library)))
    return weigh(library, scores, query, CONDITIONS, measured()), prior


def test_probabilities_are_ordered_as_the_evidence_and_add_up_to_one():
    prior = np.full(3, -np.log(100))
    found, none = probabilities(weighing([10.0, 8.0, 5.0]), prior, -2.0)
    assert found.sum() + none == pytest.approx(1)
    assert found[0] > found[1] > found[2]
    assert none == pytest.approx(1 / (1 + np.exp(2.0)))
    # A likelier crystal beforehand is likelier afterwards.
    tilted, _ = probabilities(weighing([30.0, 30.0]), np.log([0.02, 0.01]), -2.0)
    assert tilted[0] / tilted[1] == pytest.approx(2)


def test_the_order_stays_where_probabilities_are_too_small_for_a_number():
    prior = np.zeros(3)
    logs, _ = absent.log_probabilities(weighing([0.0, -2000.0, -1000.0]), prior, -2.0, STRAIN, 0.1)
    assert np.argsort(-logs).tolist() == [0, 2, 1]


def test_a_crystal_may_fit_as_poorly_as_mates_fit_each_other():
    poor = weighing([0.0], r1=[0.63])
    assert not absent.possible(poor, STRAIN, 0.1)[0] and absent.possible(poor, STRAIN, 0.4)[0]
    assert not absent.possible(weighing([0.0], r1=[0.8]), STRAIN, 0.4)[0]


@pytest.mark.parametrize("what", ["r1", "stretch", "shear"])
def test_a_crystal_that_fits_as_no_true_one_ever_did_has_a_few_per_cent_at_most(what):
    found, none = probabilities(
        weighing([50.0, 10.0], **{what: [0.9, 0.001]}), np.log([0.5, 0.5]), -8.0
    )
    assert found[0] <= 0.03 and none > 0.9


def test_a_structure_of_any_kind_is_likelier_where_no_crystal_has_such_intensities(
    library, queries
):
    """Strong spots become weak ones: the same cell, another structure."""
    for query in queries[:2]:
        spots = query.whole
        measured_ = np.asarray(spots.measured)
        turned = np.array(spots.intensity)
        for s in range(len(turned)):
            turned[s][measured_[s]] = turned[s][measured_[s]][::-1]
        other = dataclasses.replace(query, whole=dataclasses.replace(spots, intensity=turned))
        there, gone = (
            absent.log_odds_of_any(*weighed(library, one), log_none(one), 20, len(library))
            for one in (query, other)
        )
        assert gone > there + 1


def test_numbers_about_the_first_candidate_are_finite_and_bounded(library, queries):
    found, prior = weighed(library, queries[0])
    told = 3.0, -np.inf, STRAIN
    about = absent.features(found, prior, library.formula, queries[0], len(library), *told)
    alone = absent.features(found, prior, np.full(len(library), "A"), queries[0], 1, *told)
    for values in (about, alone):
        assert len(values) == len(absent.NAMES) and np.isfinite(values).all()
        assert np.abs(values).max() < 10
    for restricted in (False, True):
        assert np.isfinite(absent.log_odds(about, restricted))


def test_crystals_near_a_cell_count_by_how_likely_they_were():
    even = np.full(8, -np.log(8))
    assert absent.nearly(even, np.array([1, 4])) == pytest.approx((2, 8))
    # Half of the crystals have all of the probability.
    half = np.where(np.arange(8) < 4, -np.log(4), -np.inf)
    assert absent.nearly(half, np.array([1, 4])) == pytest.approx((1, 4))


def test_mates_that_differ_are_measured(queries):
    spots, apart = absent.likeness(queries[0])
    whole = queries[0].whole
    assert spots == int(whole.measured[0].sum())
    other = np.array(whole.intensity)
    other[..., 1] *= 25
    _, further = absent.likeness(
        dataclasses.replace(queries[0], whole=dataclasses.replace(whole, intensity=other))
    )
    assert further > apart + 0.3


def test_odds_without_elements_are_those_of_14_absent_in_100_instead_of_10():
    weights = absent._told()["weights"]
    about = np.array(weights["all"]["centre"])
    about[0] = 1.0
    raised = absent.log_odds(about, False) - weights["all"]["terms"][0]
    assert raised == pytest.approx(np.log(0.142 / 0.858) - np.log(0.1 / 0.9), abs=0.01)
    about = np.array(weights["elements"]["centre"])
    about[0] = 1.0
    assert absent.log_odds(about, True) == pytest.approx(weights["elements"]["terms"][0])


def test_odds_are_of_squares_and_products_and_no_farther_than_what_was_seen():
    count = len(absent.NAMES)
    first, second = np.triu_indices(count)
    plain = {"centre": np.zeros(count), "spread": np.full(count, 2.0)}

    def odds(about: np.ndarray, a: int, b: int) -> float:
        told = {**plain, "terms": ((first == a) & (second == b)).astype(float)}
        return absent.log_odds(about, True, {"elements": told})

    about = np.zeros(count)
    about[[3, 5]] = 2.0, -3.0
    assert odds(about, 3, 3) == pytest.approx(1.0)
    assert odds(about, 3, 5) == pytest.approx(-1.5)
    assert odds(100 * about, 3, 5) == odds(200 * about, 3, 5)
