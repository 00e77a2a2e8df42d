"""Layers on each other, as bulk crystals have them."""

import numpy as np
import pytest
from seen import BULK, POLAR, WANTED

from dd2d_jax.data import usable
from dd2d_jax.data.crystal_set import CrystalSet
from dd2d_jax.matching.layers import (
    GAP,
    Stacking,
    flakes,
    in_words,
    slides,
    spacing,
    stackings,
    turned,
)


def layer(name: str) -> CrystalSet:
    return usable.from_atoms([(WANTED[name], {"uid": name})])


def ways(one: CrystalSet) -> Stacking:
    return stackings(one.lattice[0], slides(one))


def on_top(count: int) -> Stacking:
    return Stacking.of(*[(False, False, (0.0, 0.0))] * count)


def columns(numbers: np.ndarray, parts: np.ndarray) -> list[np.ndarray]:
    """Elements and places of columns of atoms, for each origin at one of them, sorted."""
    out = []
    for origin in parts:
        for sign in (1, -1):
            moved = np.round(sign * (parts - origin) % 1, 1) % 1
            out.append(np.array(sorted(zip(numbers, *moved.T, strict=True))))
    return out


@pytest.mark.parametrize("name", BULK)
def test_one_of_the_stackings_has_the_columns_of_atoms_of_the_bulk_crystal(name):
    whole, one = BULK[name], layer(name)
    parts = whole.get_scaled_positions()[:, :2]
    lengths = whole.cell.lengths()
    if (lengths[0] > lengths[1]) != (one.lattice[0][0, 0] > one.lattice[0][1, 1]):
        parts = parts[:, ::-1]
    wanted = columns(whole.numbers, parts)
    found = []
    every = ways(one)
    count = len(every.turned)
    two = flakes(one.take([0] * count), np.full(count, 2), every)
    for numbers, positions in zip(two.numbers, two.positions, strict=True):
        own = positions[numbers > 0, :2] @ np.linalg.inv(one.lattice[0])
        found += columns(numbers[numbers > 0], own)
    assert any(np.abs(a - b).max() < 0.15 for a in found for b in wanted)


def test_each_stacking_of_a_layer_is_another_crystal():
    one = layer("1H-MoS2")
    every = ways(one)
    count = len(every.turned)
    three = flakes(one.take([0] * count), np.full(count, 3), every)
    assert three.numbers.shape == (count, 9)
    places = three.positions[..., :2] @ np.linalg.inv(one.lattice[0]) % 1
    alike = [
        np.abs(a - b).max() < 1e-3 for i, a in enumerate(places) for b in places[:i]
    ]
    assert count == 8 and not any(alike)
    words = [in_words(*one) for one in zip(*every, strict=True)]
    assert len(set(words)) == count
    assert words[0] == "each on top of the next"
    assert "every second one turned by 180 degrees and shifted by (1/3, 2/3)" in words


def test_flakes_have_their_layers_at_the_gaps_distance_the_first_on_top():
    one = layer("phosphorene")
    made = flakes(one.take([0, 0]), np.array([4, 2]), on_top(2))
    assert (made.numbers > 0).sum(1).tolist() == [16, 8]
    z = np.sort(made.positions[0, :, 2])[::-1].reshape(4, 4)
    np.testing.assert_allclose(z[:-1].min(1) - z[1:].max(1), GAP, atol=1e-4)
    np.testing.assert_allclose(np.diff(z.mean(1)), -spacing(one)[0], atol=1e-4)
    np.testing.assert_allclose(z[0].max(), one.positions[0, :, 2].max(), atol=1e-4)


def test_single_layers_stay_as_they_are():
    one = layer("BN")
    assert flakes(one, np.array([1]), on_top(1)) is one


@pytest.mark.parametrize("name", WANTED)
def test_a_layer_turned_twice_is_itself_and_a_centred_one_turned_once(name):
    one = layer(name)
    lattice, there = one.lattice[0], one.numbers[0] > 0

    def away(positions: np.ndarray) -> float:
        """How far atoms are from the first one's of their element, moved as a whole or not."""
        parts = (positions[:, None, :2] - one.positions[0][there][:, :2]) @ np.linalg.inv(lattice)
        apart = np.linalg.norm((parts - np.rint(parts)) @ lattice, axis=-1)
        numbers = one.numbers[0][there]
        return np.where(numbers[:, None] == numbers, apart, np.inf).min(1).max()

    once = turned(one)
    np.testing.assert_array_equal(once.positions[..., 2], one.positions[..., 2])
    # But for a shift of the whole: a layer may have several centres.
    moved = (turned(once).positions - one.positions)[0][there][:, :2] @ np.linalg.inv(lattice)
    moved -= moved[0]
    np.testing.assert_allclose(moved, np.rint(moved), atol=1e-4)
    if name in ("phosphorene", "FeSe"):
        assert away(once.positions[0][there]) < 0.02


def test_layers_without_a_hexagonal_cell_are_moved_half_way():
    halves = {(0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.5, 0.5)}
    assert set(map(tuple, ways(layer("phosphorene")).shift)) == halves
    large, small = (len(ways(layer(name)).turned) for name in ("CrI3", "BN"))
    assert large > small


def test_layers_may_slide_along_an_axis_that_no_plane_mirrors():
    for name in ("1H-MoS2", "phosphorene", "FeSe"):
        assert not slides(layer(name)).any()
    polar = usable.from_atoms([(POLAR, {"uid": "SnSe"})])
    long = int(np.linalg.norm(polar.lattice[0], axis=1).argmax())
    assert slides(polar).tolist() == [long == 0, long == 1]
    shifts = ways(polar).shift
    np.testing.assert_allclose(np.unique(shifts[:, long]), np.arange(6) / 6)
    assert set(shifts[:, 1 - long]) == {0.0, 0.5}
    assert slides(layer("ReSSe")).all()


def test_a_stacking_in_words_says_what_is_turned_and_what_is_shifted():
    assert in_words(False, False, (0.0, 0.0)) == "each on top of the next"
    assert in_words(False, True, (1 / 3, 2 / 3)) == "each one shifted by (1/3, 2/3)"
    assert in_words(True, False, (0.5, 0.29)) == (
        "every second one turned by 180 degrees and shifted by (1/2, 0.29)"
    )
