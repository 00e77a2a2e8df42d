"""Electrons in bonds: what density-functional theory says of them, and that none are invented."""

import ase
import jax
import numpy as np
import pytest
from ase.build import graphene, mx2

import diffraction as dx
from diffraction.bonds import bonds_of

RINGS = np.array([(1, 0), (1, 1), (2, 0), (2, 1), (3, 0)])
# |F| over that of free atoms, from the electron density (PBE, all electrons): benchmarks/bonds.py.
BY_DENSITY = {
    "C2": (2.461, [0.901, 1.009, 1.043, 0.994, 1.000]),
    "BN": (2.504, [0.902, 1.006, 1.030, 0.997, 1.000]),
}


def graphane() -> ase.Atoms:
    """As C2DB has it."""
    a = 2.54
    fractional = [(1 / 3, 2 / 3), (2 / 3, 1 / 3), (1 / 3, 2 / 3), (2 / 3, 1 / 3)]
    cell = [[a, 0, 0], [-a / 2, a * np.sqrt(3) / 2, 0], [0, 0, 17.0]]
    plane = np.array(fractional) @ np.array(cell)[:2, :2]
    height = 8.5 + np.array([0.2295, -0.2295, 1.3395, -1.3395])
    return ase.Atoms("C2H2", np.c_[plane, height], cell=cell, pbc=(True, True, False))


def ratio(atoms: ase.Atoms, **options) -> np.ndarray:
    """|F| at `RINGS` with bonds over |F| without."""
    crystal = dx.Crystal.from_ase(atoms)
    with_bonds, free = (
        np.sqrt(dx.simulate(crystal, q_max=2.0, hk=RINGS, bonds=x, **options).intensity)
        for x in (True, False)
    )
    return with_bonds / free


@pytest.mark.parametrize("layer", BY_DENSITY)
def test_layers_with_bonds_scatter_as_their_electron_density_does(layer):
    a, expected = BY_DENSITY[layer]
    found = ratio(graphene(layer, a=a, vacuum=8))
    np.testing.assert_allclose(found, expected, atol=0.013)
    assert abs(found[0] - 1) > 0.09


def test_a_layer_that_was_not_fitted_has_the_rings_of_its_electron_density():
    # Of benchmarks/bonds.py.
    found = ratio(graphane())
    np.testing.assert_allclose(found, [0.891, 0.987, 1.016, 0.991, 0.996], atol=0.034)
    assert found[0] < 0.93


def test_bonds_do_little_at_small_q():
    # What is there by the density depends on charges, of which these bonds know nothing.
    sheet = graphene("C2", a=2.461, size=(3, 3, 1), vacuum=8)
    holey = sheet[np.linalg.norm(sheet.positions - sheet.positions[8], axis=1) > 1.5]
    assert len(holey) == 14
    crystal = dx.Crystal.from_ase(holey)
    patterns = [dx.simulate(crystal, q_max=0.3, bonds=x) for x in (True, False)]
    length = np.linalg.norm(patterns[0].q, axis=1)
    with_bonds, free = (np.sqrt(np.asarray(x.intensity)) for x in patterns)
    strong = free > 0.3 * free.max()
    assert length.min() < 0.17 and strong.sum() >= 6
    np.testing.assert_allclose(with_bonds[strong], free[strong], rtol=0.15)


def test_a_crystal_has_the_same_bonds_in_every_cell():
    one = graphene("C2", a=2.46, vacuum=8)
    wide = one.repeat((3, 2, 1))
    moved = wide.copy()
    moved.positions += (5.1, -3.3, 0.0)
    electrons = [
        bonds_of(dx.Crystal.from_ase(x)).electrons.sum() / len(x) for x in (one, wide, moved)
    ]
    np.testing.assert_allclose(electrons, 1.5 * 0.85, rtol=1e-9)
    shifted = one.copy()
    shifted.positions[0] += one.cell[0] - one.cell[1]
    np.testing.assert_allclose(ratio(shifted), ratio(one), rtol=1e-5)


def test_a_batch_has_the_bonds_of_each_of_its_crystals():
    layers = [graphene("BN", a=2.5, vacuum=8), mx2("MoS2", vacuum=8), graphane()]
    crystals = [dx.Crystal.from_ase(x) for x in layers]
    hk = np.array([(1, 0), (0, 1), (-1, 1), (1, 1), (2, 0), (2, 1), (1, -2)])
    batch = dx.simulate(dx.stack(crystals), hk=hk, b_iso=0.4, tilt=(3.0, -2.0), bonds=True)
    for i, crystal in enumerate(crystals):
        alone = dx.simulate(crystal, hk=hk, b_iso=0.4, tilt=(3.0, -2.0), bonds=True)
        np.testing.assert_allclose(batch.intensity[i], alone.intensity, rtol=2e-5)


@pytest.mark.parametrize("formula", ["MoS2", "B2"])
def test_other_elements_have_no_such_bonds(formula):
    atoms = mx2(formula, vacuum=8) if formula == "MoS2" else graphene("B2", a=2.9, vacuum=8)
    np.testing.assert_array_equal(ratio(atoms), 1.0)


def test_bonds_move_as_their_atoms_do():
    atoms = graphene("C2", a=2.461, vacuum=8)
    still, warm = ratio(atoms), ratio(atoms, b_iso=1.2)
    np.testing.assert_allclose(warm, still, rtol=1e-5)


def test_x_rays_see_the_bonds_where_electrons_miss_them():
    crystal = dx.Crystal.from_ase(graphene("C2", a=2.461, vacuum=8))
    beam = dx.Xrays(0.5)
    free, bonded = (
        np.sqrt(dx.simulate(crystal, beam, 2.0, hk=RINGS, bonds=x).intensity) for x in (False, True)
    )
    # The first ring's waves of atoms and bonds are in phase for X-rays.
    assert bonded[0] > 1.02 * free[0] and bonded[1] < free[1]


def test_bonds_are_refused_where_they_cannot_be_had():
    crystal = dx.Crystal.from_ase(graphene("C2", a=2.461, vacuum=8))
    with pytest.raises(ValueError, match="kinematic"):
        dx.simulate(crystal, method="multislice", bonds=True)
    with pytest.raises(ValueError, match="traced"):
        jax.jit(lambda x: dx.simulate(x, hk=RINGS, q_max=2.0, bonds=True).intensity)(crystal)
