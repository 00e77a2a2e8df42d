"""Point groups: right for known layers, and near where they share operations."""

import ase
import ase.build
import numpy as np
import pytest

from dd2d_jax.crystals.point_groups import (
    TOLERANCE,
    counts,
    distance,
    operations,
    point_group,
    tree,
)

ORDERS = {"1": 1, "-1": 2, "m": 2, "mm2": 4, "mmm": 8, "4/mmm": 16, "-42m": 8, "3m": 6, "-3m": 12,
          "-6m2": 12, "6mm": 12, "6/mmm": 24, "m-3m": 48}  # fmt: skip


def janus() -> ase.Atoms:
    atoms = ase.build.mx2("MoS2", vacuum=8)
    atoms.numbers[1] = 34
    return atoms


def square(c: float) -> ase.Atoms:
    """One atom in a square cell."""
    return ase.Atoms("Au", [(0, 0, c / 2)], cell=[2.9, 2.9, c], pbc=(True, True, False))


@pytest.mark.parametrize(
    ("atoms", "symbol"),
    [
        (ase.build.graphene(vacuum=8), "6/mmm"),
        (ase.build.graphene("BN", vacuum=8), "-6m2"),
        (ase.build.mx2("MoS2", vacuum=8), "-6m2"),
        (ase.build.mx2("MoS2", "1T", vacuum=8), "-3m"),
        (janus(), "3m"),
        (square(15.0), "4/mmm"),
        # Alike in all three directions, were it not for the layer.
        (square(2.9), "4/mmm"),
    ],
)
def test_known_layers_have_their_point_groups(atoms, symbol):
    assert point_group(atoms) == symbol


def test_a_crystal_without_symmetry_has_none(layer):
    assert point_group(layer(3).to_ase()) == "1"


def test_symmetry_holds_within_the_tolerance_and_not_beyond():
    atoms = ase.build.mx2("MoS2", vacuum=8)
    moved = atoms.copy()
    moved.positions[1, 2] += 0.3 * TOLERANCE
    assert point_group(moved) == "-6m2"
    moved.positions[1, 2] += 5 * TOLERANCE
    assert point_group(moved) == "3m"


@pytest.mark.parametrize("symbol", ORDERS)
def test_operations_are_a_group_of_rotations(symbol):
    found = operations(symbol)
    assert len(found) == ORDERS[symbol]
    matrices = np.array(sorted(found)).reshape(-1, 3, 3)
    np.testing.assert_allclose(
        matrices @ matrices.swapaxes(1, 2), np.broadcast_to(np.eye(3), matrices.shape), atol=1e-5
    )
    products = np.einsum("aij,bjk->abik", matrices, matrices).reshape(-1, 1, 9)
    gaps = np.abs(products - matrices.reshape(-1, 9)).max(-1).min(1)
    assert gaps.max() < 1e-5


def test_an_unknown_group_is_refused():
    with pytest.raises(ValueError, match="point group '5m' is unknown"):
        operations("5m")


def test_the_distance_is_the_share_of_operations_that_differ():
    assert distance("6/mmm", "6/mmm") == 0
    assert distance("6/mmm", "6mm") == pytest.approx(1 - 12 / 24)
    assert distance("6mm", "6/mmm") == distance("6/mmm", "6mm")
    # mmm's axes are among those of both.
    assert distance("6/mmm", "mmm") == pytest.approx(1 - 8 / 24)
    assert distance("4/mmm", "mmm") == pytest.approx(1 - 8 / 16)
    assert distance("1", "-1") == pytest.approx(1 / 2)


def test_the_tree_joins_the_nearest_first():
    symbols = ["1", "6/mmm", "4/mmm", "6mm"]
    links = tree(symbols)
    assert set(links[0, :2].astype(int)) == {1, 3}
    assert links[0, 2] == pytest.approx(0.5)
    assert links.shape == (3, 4) and links[-1, 3] == 4


def test_counts_are_of_true_rows_and_predicted_columns():
    found = counts(
        np.array(["m", "1", "m"]), np.array([["m", "1"], ["m", "m"], ["m", "mm2"]]),
        ["1", "m", "mm2"],
    )  # fmt: skip
    np.testing.assert_array_equal(found, [[0, 2, 0], [1, 2, 1], [0, 0, 0]])
