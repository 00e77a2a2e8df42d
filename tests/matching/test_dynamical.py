"""Candidates weighed by electrons that scatter more than once."""

import dataclasses
import itertools
from typing import Any

import jax
import numpy as np
import pytest
import tiny

import diffraction as dx
from dd2d_jax.data import usable
from dd2d_jax.data.crystal_set import CrystalSet
from dd2d_jax.matching.dynamical import (
    dynamical_squares,
    explain_dynamical,
    explain_in_way,
    weigh_again,
)
from dd2d_jax.matching.evidence import explain
from dd2d_jax.matching.hypotheses import measured
from dd2d_jax.matching.isotypes import exchanged, log_isotypes
from dd2d_jax.matching.rerank import Query, Way, Weighing, weigh
from dd2d_jax.spots import Conditions, Spots, atom_slots, half_plane
from diffraction.multislice import beam_intensities

CONDITIONS = Conditions(dx.Electrons(80.0), q_max=1.25, b_iso=0.5, tokens=48)


@pytest.fixture(scope="module")
def heavy() -> CrystalSet:
    """Sheets without any symmetry, of heavy atoms."""
    few = tiny.crystals().take([0, 1, 2])
    numbers = np.where(few.numbers > 0, [[74, 52, 34]], 0).astype(np.int32)
    positions = few.positions.copy()
    positions[..., 2] *= 2
    return dataclasses.replace(few, numbers=numbers, positions=positions)


def pattern(crystals: CrystalSet, row: int, b: float, **change: Any) -> Spots:
    """All pairs of a multislice's pattern of one crystal, or of it turned over or tilted."""
    crystal = crystals.crystal[row]
    if change.get("below"):
        crystal = dataclasses.replace(crystal, positions=crystal.positions * np.array([1, 1, -1]))
    upper = half_plane(np.asarray(crystal.lattice), CONDITIONS.q_max)
    upper = upper[(upper != 0).any(-1)]
    hk = np.concatenate([upper, -upper])
    made = dx.simulate(
        crystal, change.get("radiation", CONDITIONS.radiation), CONDITIONS.q_max, b,
        change.get("tilt", (0.0, 0.0)), hk, "multislice",
    )  # fmt: skip
    pairs = np.asarray(made.intensity).reshape(2, -1).T
    if change.get("turned"):
        pairs = pairs[:, ::-1]
    order = np.argsort(-pairs.max(1))
    pairs = (pairs / pairs.max())[order].astype(np.float32)
    q = np.asarray(made.q)[: len(upper), :2][order]
    return Spots(q, upper[order], pairs, pairs > 0, np.asarray(crystal.lattice))


def test_squares_are_a_multislices_but_for_the_b_that_is_taken_out(heavy):
    hk = half_plane(heavy.lattice, CONDITIONS.q_max)
    found = dynamical_squares(heavy, hk, CONDITIONS, np.array([0.3, 0.0, 1.0]), np.zeros((3, 2)))
    for row, b in enumerate((0.8, 0.5, 1.5)):
        made = dx.simulate(
            heavy.crystal[row], CONDITIONS.radiation, 1.3, b, hk=hk[row], method="multislice"
        )
        squared = (np.asarray(made.q) ** 2).sum(-1)
        expected = np.asarray(made.intensity) * np.exp(0.5 * (b - 0.5) * squared)
        strong = expected > 0.1 * expected.max()
        np.testing.assert_allclose(found[row][strong], expected[strong], rtol=0.03)


def test_one_program_serves_any_number_of_atoms_and_spots(heavy):
    double = usable.from_atoms([(ase * (1, 1, 2), {}) for ase, _ in tiny.sheets()[:3]])
    assert atom_slots(double.numbers).max() > atom_slots(heavy.numbers).max()
    before = beam_intensities._cache_size()
    # Beyond the conditions' q_max, too.
    for q_max in (0.7, CONDITIONS.q_max, 1.3 * CONDITIONS.q_max):
        for crystals in (heavy, double):
            hk = half_plane(crystals.lattice, q_max)
            assert dynamical_squares(crystals, hk, CONDITIONS, np.zeros(3), np.zeros((3, 2))).any()
    assert beam_intensities._cache_size() <= before + 1


@pytest.mark.parametrize("below", [False, True])
@pytest.mark.parametrize("turned", [False, True])
def test_a_crystal_explains_its_own_multislice_whatever_its_side_and_hand(heavy, below, turned):
    query = jax.tree.map(lambda x: x[None], pattern(heavy, 0, 0.9, below=below, turned=turned))
    one, kinds = heavy.take([0]), measured()
    kinematic = explain(one, query, CONDITIONS, kinds)
    value, r1, way = explain_dynamical(one, query, CONDITIONS, kinds, kinematic.b, kinematic.lean)
    assert kinematic.r1[0] > 0.04
    assert r1[0] < 0.01
    assert value[0] > kinematic.value[0] + 10
    assert (way.below[0], way.turned[0]) == (below, turned)
    told = one, query, CONDITIONS, kinds, kinematic.b
    other = way._replace(turned=~way.turned)
    assert explain_in_way(*told, way).value[0] > kinematic.value[0] + 10
    assert explain_in_way(*told, way).value[0] > explain_in_way(*told, other).value[0] + 10


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("tilt", [(1.0, -0.7), (-0.4, 1.2), (1.5, 0.4)])
def test_the_tilt_of_a_layer_is_found_whatever_its_side_and_hand(heavy, tilt, turned):
    one, kinds = heavy.take([0]), measured()
    for below in (False, True):
        tilted = pattern(heavy, 0, 0.9, tilt=tilt, below=below, turned=turned)
        query = jax.tree.map(lambda x: x[None], tilted)
        kinematic = explain(one, query, CONDITIONS, kinds)
        assert kinematic.r1[0] > 0.05
        told = one, query, CONDITIONS, kinds, kinematic.b, kinematic.lean
        value, r1, _ = explain_dynamical(*told)
        assert r1[0] < 0.025
        assert value[0] > kinematic.value[0] + 30


def test_a_layer_is_tried_at_its_tilt_though_it_is_far_behind_untilted(heavy):
    one, kinds = heavy.take([0]), measured()
    upright, tilted = (
        jax.tree.map(lambda x: x[None], pattern(heavy, 0, 0.9, tilt=tilt))
        for tilt in ((0.0, 0.0), (0.55, -0.35))
    )
    kinematic = explain(one, tilted, CONDITIONS, kinds)
    none = np.zeros((1, 2))
    # What is perfect untilted stands for a rival that explains the pattern better so.
    rival, _, _ = explain_dynamical(one, upright, CONDITIONS, kinds, kinematic.b, none)
    flat = Way.single(np.zeros(1, bool), np.zeros(1, bool), none)
    untilted = explain_in_way(one, tilted, CONDITIONS, kinds, kinematic.b, flat).value
    assert 8 < rival[0] - untilted[0] < 20
    both = jax.tree.map(lambda *x: np.concatenate(x), upright, tilted)
    told = heavy.take([0, 0]), both, CONDITIONS, kinds, np.repeat(kinematic.b, 2)
    value, _, _ = explain_dynamical(*told, np.concatenate([none, kinematic.lean]))
    assert value[1] > untilted[0] + 8


def test_a_layer_whose_sides_differ_is_tried_from_both_though_it_is_far_behind_from_one():
    """BiBrS at 300 keV; AlI2 in its cell is nearer by a factor of exp(30) from the wrong side."""
    a, few = 4.107, tiny.crystals().take([0, 0])
    sites = np.array([[a / 2, a / 12**0.5, 1.68], [0, a / 3**0.5, -1.68], [0, 0, 0.28]])
    others = sites * [1, 1, 0.95] - [[0, 0, 0], [0, 0, 0], [0, 0, 0.27]]
    crystals = dataclasses.replace(
        few,
        lattice=np.float32([[[a, 0], [a / 2, a * 0.75**0.5]]] * 2),
        positions=np.float32([sites, others]),
        numbers=np.array([[16, 35, 83], [53, 53, 13]], np.int32),
    )
    fast = dataclasses.replace(CONDITIONS, radiation=dx.Electrons(300.0))
    query = Query.known(pattern(crystals, 0, 0.7, below=True, radiation=fast.radiation))
    before, flat = kinematic(crystals, query, fast), np.zeros((2, 2))
    spots = jax.tree.map(lambda x: np.repeat(np.asarray(x)[:1], 2, 0), query.whole)
    told = crystals, spots, fast, measured(), before.b
    above = [
        explain_in_way(*told, Way.single(np.zeros(2, bool), np.full(2, turned), flat)).value
        for turned in (False, True)
    ]
    behind = np.diff(np.max(above, axis=0))[0]
    assert 20 < behind < 40
    value, _, way = explain_dynamical(*told, flat)
    assert value[0] > value[1] + 20 and way.below[0]


def kinematic(crystals: CrystalSet, query: Query, conditions: Conditions) -> Weighing:
    return weigh(crystals, np.zeros((1, len(crystals))), query, conditions, measured())


def test_a_crystal_comes_before_those_whose_kinematic_intensities_are_nearer(heavy):
    query = Query.known(pattern(heavy, 0, 0.9))
    numbers = [(74, 52, 34), *itertools.product((42, 56, 72, 78, 82), (48, 50, 56), (32, 35, 40))]
    others = dataclasses.replace(heavy.take([0] * len(numbers)), numbers=np.array(numbers))
    before = kinematic(others, query, CONDITIONS)
    assert before.value.argmax() > 0
    found = weigh_again(before, np.zeros(len(others)), others, query, CONDITIONS, measured())
    assert found.value.argmax() == 0
    assert found.r1[0] < 0.01


def test_an_isotype_that_the_library_lacks_explains_its_own_multislice(heavy):
    query = Query.known(pattern(heavy, 0, 0.9))
    wrong = dataclasses.replace(heavy.take([0]), numbers=np.array([[72, 52, 34]]))
    assert (exchanged(wrong.numbers[0], ()) == heavy.numbers[0]).all(1).any()
    told = wrong, 0, query, CONDITIONS, measured(), ()
    way = Way.single(np.zeros(1, bool), np.zeros(1, bool), np.zeros((1, 2)))
    assert log_isotypes(*told, way=way) > log_isotypes(*told) + 10


def test_a_kinematic_pattern_loses_no_more_than_a_half(heavy):
    spots = pattern(heavy, 0, 0.9)
    hk = np.concatenate([spots.hk, -spots.hk])
    made = dx.simulate(heavy.crystal[0], CONDITIONS.radiation, 1.3, 0.9, hk=hk)
    pairs = np.asarray(made.intensity).reshape(2, -1).T
    pairs = (pairs / pairs.max()).astype(np.float32)
    query = Query.known(dataclasses.replace(spots, intensity=pairs))
    before = kinematic(heavy, query, CONDITIONS)
    found = weigh_again(before, np.zeros(len(heavy)), heavy, query, CONDITIONS, measured())
    assert found.value[0] >= before.value[0] - np.log(2) - 1e-3
    assert before.r1[0] == found.r1[0] < 0.01


def test_xrays_scatter_once(heavy):
    query = Query.known(pattern(heavy, 0, 0.9))
    xrays = dataclasses.replace(CONDITIONS, radiation=dx.Xrays(0.5))
    before = kinematic(heavy, query, xrays)
    assert weigh_again(before, np.zeros(len(heavy)), heavy, query, xrays, measured()) is before
