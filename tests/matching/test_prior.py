"""What is likelier before a pattern is seen: what was made, and what is stable."""

import dataclasses

import numpy as np
import pytest

from dd2d_jax.data.crystal_set import CrystalSet
from dd2d_jax.libraries.library import Library
from dd2d_jax.matching.prior import log_prior


def made(ehull, known) -> Library:
    count = len(ehull)
    text = np.array([f"{i}" for i in range(count)])
    crystals = CrystalSet(
        text, text, np.tile(np.eye(2, dtype=np.float32) * 3, (count, 1, 1)),
        np.zeros((count, 1, 3), np.float32), np.full((count, 1), 6), np.array(known), text, {},
        np.array(ehull, np.float32),
    )  # fmt: skip
    return Library(crystals, np.zeros((count, 2)), "none")


def test_the_probabilities_of_what_is_allowed_add_up_to_one():
    library = made([0, 0.3, np.nan, 0.02], [True, False, False, False])
    allowed = np.array([True, True, True, False])
    for use in (True, False):
        prior = log_prior(library, allowed, use=use)
        assert np.exp(prior[allowed]).sum() == pytest.approx(1)


def test_a_stable_crystal_is_likelier_than_one_far_from_the_hull():
    library = made([0, 0.3, 0.3], [False] * 3)
    prior = log_prior(library, np.ones(3, bool))
    assert prior[0] - prior[1] > 1
    # But what is far from it is not excluded.
    assert np.exp(prior[1]) > 0.1


def test_without_the_rule_all_are_alike():
    library = made([0, 0.3, np.nan], [True, False, False])
    assert np.exp(log_prior(library, np.ones(3, bool), use=False)) == pytest.approx(1 / 3)


def test_known_crystals_have_nearly_all():
    library = made([np.nan] * 4, [True, False, False, False])
    assert np.exp(log_prior(library, np.ones(4, bool)))[0] == pytest.approx(0.999)
    every = dataclasses.replace(library, crystals=library.crystals.take([1, 2]))
    assert np.exp(log_prior(every, np.ones(2, bool))) == pytest.approx(0.5)


def test_weights_of_elements_multiply():
    library = made([np.nan, np.nan], [False, False])
    prior = log_prior(library, np.ones(2, bool), np.array([1, 0.1]))
    assert prior[1] - prior[0] == pytest.approx(np.log(0.1))


def test_the_layers_that_are_studied_most_have_half_of_what_known_ones_have():
    library = made([np.nan] * 4, [True, True, True, False])
    formula = np.array(["C", "VS2", "C", "C"])
    numbers = np.array([[6, 6], [23, 16], [6, 0], [6, 6]])
    crystals = dataclasses.replace(
        library.crystals, formula=formula, numbers=numbers, positions=np.zeros((4, 2, 3))
    )
    found = np.exp(log_prior(dataclasses.replace(library, crystals=crystals), np.ones(4, bool)))
    # One atom of carbon in the cell is not graphene; nor is what nobody made.
    np.testing.assert_allclose(found, 0.999 * np.array([1 / 2, 1 / 4, 1 / 4, 0.001 / 0.999]))
