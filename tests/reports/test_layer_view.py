"""Layers as they are drawn: no atom is lost, bonds go on into the next cell, scales are alike."""

import ase
import ase.build
import numpy as np
import pytest

from dd2d_jax.reports.layer_view import bonds, common_window, side_view, solid, top_view


def tase2(angle: float = 0.0) -> ase.Atoms:
    """1T-TaSe2 with Ta on the corners of the cell, turned."""
    atoms = ase.build.mx2("TaSe2", kind="1T", a=3.48, thickness=3.4, vacuum=8)
    atoms.rotate(angle, "z", rotate_cell=True)
    return atoms


@pytest.mark.parametrize("angle", [0, 10, 60, 90, 137])
def test_every_element_is_seen_from_the_side_also_on_the_boundary(angle):
    seen = side_view(tase2(angle))
    across = seen.width / 3.48
    for number in (34, 73):
        places = seen.flat[seen.numbers == number]
        # Without gaps: as many in each half of the window.
        for half in (places[:, 0] < 0, places[:, 0] > 0):
            assert half.sum() >= across / 2 - 1


def test_the_middle_of_the_layer_is_the_middle_of_the_window():
    seen = side_view(tase2())
    assert np.ptp(seen.flat[:, 1]) == pytest.approx(3.4)
    assert seen.flat[:, 1].min() == pytest.approx(-1.7)
    assert seen.height == pytest.approx(6.4)


@pytest.mark.parametrize("view", [top_view, side_view])
def test_every_atom_shows_its_bonds_also_those_to_the_next_cell(view):
    seen = view(tase2(20))
    count = np.bincount(seen.owner, minlength=len(seen.flat))
    # Six Se around each Ta, three Ta around each Se, wherever in the window they are.
    assert set(count[seen.numbers == 73]) == {6} and set(count[seen.numbers == 34]) == {3}


def test_what_is_nearer_is_drawn_later():
    seen = top_view(tase2())
    lower, upper = seen.numbers[0], seen.numbers[-1]
    assert lower == upper == 34 and 73 in seen.numbers[len(seen.numbers) // 3 :]


def test_metals_are_bonded_only_to_each_other_where_there_is_nothing_else():
    positions = np.array([[0, 0, 0], [2.8, 0, 0], [1.4, 1.4, 0]], float)
    assert len(bonds(positions, np.array([79, 79, 79]))) == 3
    pairs = bonds(positions, np.array([42, 42, 16]))
    assert sorted(map(sorted, pairs.tolist())) == [[0, 2], [1, 2]]


def test_candidates_are_drawn_at_one_scale():
    small, large = tase2(), tase2().repeat((5, 1, 1))
    width, height = common_window([small, large])
    assert width > 12 and top_view(small, width).width == top_view(large, width).width
    assert side_view(small, width, height).height == height
    assert common_window([tase2().repeat((50, 50, 1))])[0] == 24


def test_a_piece_in_space_has_whole_bonds_inside_and_halves_at_its_rim():
    numbers, positions, pairs, stubs, cell = solid(tase2(), 12)
    count = np.bincount(pairs.ravel(), minlength=len(numbers))
    count += np.bincount([i for i, _ in stubs], minlength=len(numbers))
    assert set(count[numbers == 73]) == {6} and set(count[numbers == 34]) == {3}
    assert np.abs(positions[:, :2]).max() <= 6.001
    assert np.linalg.norm(cell[1] - cell[0]) == pytest.approx(3.48)


def test_a_single_atom_has_no_bonds():
    lone = ase.Atoms("He", cell=[20, 20, 20], pbc=True)
    assert len(top_view(lone).halves) == 0 and len(solid(lone, 12)[2]) == 0
