"""Lattices of lists as they come: false spots, wrong units, a wrong centre, a bent camera."""

import dataclasses

import numpy as np
import pytest
from ideal import CELL, pattern, places

from dd2d_jax.lattices import indexed
from dd2d_jax.lattices import lattice as lattices
from dd2d_jax.lattices.notes import notes
from dd2d_jax.lattices.warp import Warp
from dd2d_jax.util.errors import PatternError

OBLIQUE = np.array([[3.1, 0.2], [-0.9, 4.2]])


def same_area(found: indexed.Indexed, cell: np.ndarray) -> bool:
    return abs(np.linalg.det(found.lattice) / np.linalg.det(cell)) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("false", [100, 300])
def test_hundreds_of_faint_false_spots_do_not_hide_twenty_true_ones(false):
    random = np.random.default_rng(false)
    q = places(CELL, 1.1)
    true = random.permutation(len(q))[:20]
    q = q[true] + random.normal(0, 0.001, (20, 2))
    every = np.concatenate([q, random.uniform(-1.3, 1.3, (false, 2))])
    intensity = np.append(random.lognormal(0, 0.7, 20), 0.02 * random.lognormal(0, 0.7, false))
    found = lattices.find_all(pattern(every, intensity))
    assert len(found) == 1
    assert same_area(found[0], CELL)
    assert set(range(20)) <= set(found[0].spots.tolist())


def test_random_lists_of_few_spots_are_refused():
    random = np.random.default_rng(7)
    passed = 0
    for run in range(60):
        count = (4, 6, 9, 12)[run % 4]
        try:
            lattices.find_all(pattern(random.uniform(-1, 1, (count, 2)), random.random(count)))
            passed += 1
        except PatternError:
            pass
    assert passed <= 1


@pytest.mark.parametrize(
    ("factor", "words"),
    [(2 * np.pi, "0.51 x 0.51 A; are these with 2 pi .then it is 3.18 x 3.18 A"),
     (10.0, "0.32 x 0.32 A; are these .*1/nm .then it is 3.18 x 3.18 A"),
     (192.0, "are these pixels")],
)  # fmt: skip
def test_a_wrong_unit_is_named(factor, words):
    q = places(CELL, 1.0)
    with pytest.raises(PatternError, match=words):
        lattices.find(pattern(q * factor, np.exp(-np.linalg.norm(q, axis=1))))


def test_a_list_whose_centre_is_off_gives_the_lattice_and_the_centre():
    q = places(OBLIQUE, 1.1)
    off = np.array([0.06, 0.05])
    found = lattices.find(pattern(q + off, np.exp(-np.linalg.norm(q, axis=1))))
    assert same_area(found, OBLIQUE)
    np.testing.assert_allclose(found.warp.shift, off, atol=1e-3)
    assert "origin" in found.notes[0]
    np.testing.assert_allclose(found.q, q, atol=1e-3)


def test_a_bent_pattern_is_straightened_and_said_to_be():
    q = places(np.diag([3.7, 3.96]), 1.3)
    bent = Warp(radial=-0.035).measured(q)
    found = lattices.find(pattern(bent, np.exp(-np.linalg.norm(q, axis=1))))
    assert found.explained == 1.0
    np.testing.assert_allclose(np.linalg.norm(found.lattice, axis=1), [3.7, 3.96], rtol=0.01)
    assert found.warp.radial == pytest.approx(-0.035, rel=0.1)
    assert any("distorted" in note for note in found.notes)
    # What would be shown as 0.0 % is not worth a line.
    hardly = dataclasses.replace(found, warp=Warp(radial=-1e-4))
    assert not notes(hardly, len(q), None)


def test_two_hexagonal_lattices_show_the_cameras_ellipse():
    turn = np.deg2rad(12)
    turned = CELL @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    q = np.concatenate([places(CELL, 1.2), places(turned, 1.2)])
    seen = Warp(stretch=0.02 + 0.01j).measured(q)
    found = lattices.find_all(pattern(seen, np.exp(-np.linalg.norm(q, axis=1))))
    assert len(found) == 2
    for one in found:
        a, b = one.lattice
        lengths = np.linalg.norm(one.lattice, axis=1)
        assert lengths[1] / lengths[0] == pytest.approx(1, abs=0.003)
        assert a @ b / lengths.prod() == pytest.approx(-0.5, abs=0.004)
        assert one.warp.stretch == pytest.approx(0.02 + 0.01j, abs=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_a_multiple_of_a_cell_that_is_too_small_is_no_answer_to_a_wrong_scale(seed):
    random = np.random.default_rng(seed)
    graphene = places(CELL * 2.46 / 3.18, 0.96)
    q = graphene + random.normal(0, 0.008, (18, 2))
    q = np.concatenate([q, random.uniform(-0.9, 0.9, (5, 2))])
    strong = np.r_[np.ones(18), np.full(5, 0.2)]
    lengths = np.linalg.norm(lattices.find(pattern(q, strong)).lattice, axis=1)
    np.testing.assert_allclose(lengths, 2.46, rtol=0.02)
    for factor in (1.6, 2.43, 2 * np.pi):
        with pytest.raises(PatternError, match="the cell would be"):
            lattices.find(pattern(q * factor, strong))
