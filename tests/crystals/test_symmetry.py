"""Displacements that keep a layer's symmetry."""

import numpy as np
import pytest
from ase.build import graphene, mx2

from dd2d_jax.crystals.symmetry import displacements, operations
from dd2d_jax.data import usable


def arrays(atoms):
    crystals = usable.from_atoms([(atoms, {"uid": "a"})])
    lattice, positions = (x[0].astype(float) for x in (crystals.lattice, crystals.positions))
    return lattice, positions, crystals.numbers[0]


@pytest.fixture(scope="module")
def distorted():
    """1T with a doubled cell whose metals pair: a mirror, inversion, and free coordinates."""
    atoms = mx2("WSe2", "1T", vacuum=8).repeat((2, 1, 1))
    metals = np.flatnonzero(atoms.numbers == 74)
    atoms.positions[metals[0], :2] += 0.1 * atoms.cell.array[0, :2] / 6
    atoms.positions[metals[1], :2] -= 0.1 * atoms.cell.array[0, :2] / 6
    return arrays(atoms)


def test_fields_commute_with_the_layer_group(distorted):
    lattice, positions, numbers = distorted
    rotations, images = operations(lattice, positions, numbers)
    fields, along_normal = displacements(lattice, positions, numbers)
    assert len(rotations) > 1 and 0 < len(fields) < 3 * len(numbers)
    for r, image in zip(rotations, images, strict=True):
        turned = np.zeros_like(fields)
        turned[:, image] = fields @ r.T
        np.testing.assert_allclose(turned, fields, atol=1e-6)
    np.testing.assert_allclose(fields.mean(1), 0, atol=1e-12)
    assert (fields[along_normal][..., :2] == 0).all() and (fields[~along_normal][..., 2] == 0).all()


def test_moving_along_fields_keeps_as_many_operations(distorted):
    lattice, positions, numbers = distorted
    fields, _ = displacements(lattice, positions, numbers)
    moves = np.einsum("m,mnd->nd", np.random.default_rng(0).normal(0, 0.1, len(fields)), fields)
    assert np.abs(moves).max() > 0.05
    before, _ = operations(lattice, positions, numbers)
    after, _ = operations(lattice, positions + moves, numbers)
    assert len(after) == len(before)


def test_sites_fix_what_they_fix():
    """In 1H-MoS2 only the sulfur's distance from the metal is free, in graphene nothing."""
    fields, along_normal = displacements(*arrays(mx2("MoS2", "2H", vacuum=8)))
    assert along_normal.tolist() == [True]
    np.testing.assert_allclose(np.sort(fields[0, :, 2]), [-1, 0, 1], atol=1e-6)
    assert len(displacements(*arrays(graphene(vacuum=8)))[0]) == 0


def test_all_but_the_origin_is_free_where_released():
    fields, along_normal = displacements(*arrays(mx2("MoS2", "2H", vacuum=8)), symmetric=False)
    assert np.linalg.matrix_rank(fields.reshape(len(fields), -1)) == 6
    assert along_normal.sum() == 3
