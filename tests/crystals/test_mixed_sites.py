"""Layers with mixed sites: an atom's kind is its element and its occupancy."""

import alloys
import ase.io
import numpy as np
import pytest
from ase.build import mx2
from pymatgen.io.ase import AseAtomsAdaptor

import diffraction as dx
from dd2d_jax.crystals.structure_files import read_structure
from dd2d_jax.crystals.structures import MAX_ATOMS, Layer, check_disordered, layer, to_atoms
from dd2d_jax.util.errors import StructureError


def from_cif(structure, folder) -> Layer:
    path = alloys.write_cifs(folder, one=structure) / "one.cif"
    return layer(read_structure(path))


def with_shares(shares, positions=None, symbols="MoWS2"):
    """Four atoms, the first two on one site unless `positions` are given."""
    atoms = mx2("MoS2", "2H", a=3.18, thickness=3.13, vacuum=8)
    one = atoms[[0, 0, 1, 2]]
    one.symbols = symbols
    one.set_array("occupancies", np.array(shares, float))
    if positions is not None:
        one.positions[1] = one.positions[0] + positions
    return one


def assert_same(one: Layer, two: Layer) -> None:
    assert one.numbers.tolist() == two.numbers.tolist()
    np.testing.assert_allclose(one.occupancy, two.occupancy)
    np.testing.assert_allclose(one.lattice, two.lattice, atol=1e-4)
    delta = one.positions - two.positions
    whole = delta[:, :2] @ np.linalg.inv(one.lattice)
    delta[:, :2] = (whole - np.round(whole)) @ one.lattice
    assert np.abs(delta).max() < 1e-4


def test_the_elements_of_a_mixed_site_are_atoms_at_one_place(tmp_path):
    found = from_cif(alloys.ALLOY, tmp_path)
    shares = dict(zip(found.numbers.tolist(), found.occupancy.tolist(), strict=True))
    assert found.numbers.tolist() == [16, 16, 42, 74]
    assert shares == {16: 1, 42: 0.5, 74: 0.5}
    np.testing.assert_array_equal(found.positions[2], found.positions[3])


@pytest.mark.parametrize("alloy", [alloys.ALLOY, alloys.OTHER_ALLOY])
def test_every_setting_of_an_alloy_gives_one_layer(tmp_path, alloy):
    once = from_cif(alloy, tmp_path)
    assert_same(once, from_cif(alloy.make_supercell([2, 1, 1], in_place=False), tmp_path))
    assert_same(once, from_cif(alloy.make_supercell([[2, 1, 0], [1, 3, 0], [0, 0, 1]],
                                                    in_place=False), tmp_path))  # fmt: skip
    atoms = to_atoms(*once)
    assert_same(once, layer(atoms))
    atoms.rotate(33, "z", rotate_cell=True)
    atoms.positions += [0.3, 0.8, 2.0]
    assert_same(once, layer(atoms[::-1]))


def test_an_ordered_crystal_is_no_alloy(tmp_path):
    ordered = alloys.MOS2.make_supercell([2, 1, 1], in_place=False)
    ordered[0] = "W"
    found = layer(AseAtomsAdaptor.get_atoms(ordered))
    assert found.occupancy is None and len(found.numbers) == 6
    # Nor are two mixed sites one where their shares differ.
    shares = alloys.ALLOY.make_supercell([2, 1, 1], in_place=False)
    shares[0] = {"Mo": 0.7, "W": 0.3}
    found = from_cif(shares, tmp_path)
    metals = found.numbers > 16
    assert len(found.numbers) == 8
    assert sorted(found.occupancy[metals].tolist()) == [0.3, 0.5, 0.5, 0.7]


def test_atoms_that_are_not_there_together_may_be_close():
    assert layer(with_shares([0.6, 0.4, 1, 1], [0, 0, 0.7])).occupancy is not None
    for shares in ([0.6, 0.5, 1, 1], [1, 1, 0.9, 1]):
        with pytest.raises(StructureError) as caught:
            layer(with_shares(shares, [0, 0, 0.7]))
        assert caught.value.reason == "atoms too close"


@pytest.mark.parametrize(
    ("shares", "why"),
    [
        ([0.7, 0.5, 1, 1], "add to 1.2; they must add to at most 1"),
        ([1, 1, 0.9, 1], "add to 2"),
        ([-0.2, 0.5, 1, 1], "an occupancy of -0.2; it must be above 0"),
        ([1.3, 0.5, 1, 1], "an occupancy of 1.3"),
        ([np.nan, 0.5, 1, 1], "an occupancy of nan"),
        ([0, 0.5, 1, 1], "has occupancy 0"),
    ],
)
def test_shares_that_no_site_has_are_refused(shares, why):
    with pytest.raises(StructureError, match=why) as caught:
        layer(with_shares(shares))
    assert caught.value.reason == "wrong occupancy"


def test_shares_that_are_not_numbers_are_refused():
    atoms = with_shares([0.5, 0.5, 1, 1])
    del atoms.arrays["occupancies"]
    for told in ({"0": {"Mo": "half"}}, {"0": 1}, {"0": {"Mo": 0.5}}):
        atoms.info["occupancy"] = told
        with pytest.raises(StructureError) as caught:
            layer(atoms)
        assert caught.value.reason == "wrong occupancy"


def test_shares_of_nearly_1_are_1():
    atoms = mx2("MoS2", "2H", a=3.18, thickness=3.13, vacuum=8)
    plain = layer(atoms)
    atoms.set_array("occupancies", np.array([0.9995, 1, 1]))
    found = layer(atoms)
    assert found.occupancy is None
    np.testing.assert_array_equal(found.positions, plain.positions)


@pytest.mark.parametrize("name", ["occupancy", "occupancies"])
def test_extended_xyz_tells_shares_of_its_atoms(tmp_path, name):
    atoms = with_shares([0.25, 0.75, 1, 1])
    atoms.arrays[name] = atoms.arrays.pop("occupancies")
    ase.io.write(tmp_path / "a.extxyz", atoms, format="extxyz")
    found = read_structure(tmp_path / "a.extxyz")
    assert check_disordered(found)
    for occupancy in (layer(found).occupancy, dx.Crystal.from_ase(found).occupancy):
        assert sorted(np.round(occupancy, 6).tolist()) == [0.25, 0.75, 1, 1]


def test_too_many_atoms_are_refused_with_the_reason_counting_each_element_of_a_site():
    side = int(np.ceil(np.sqrt(MAX_ATOMS / 4))) + 1
    for atoms in (with_shares([0.5, 0.5, 1, 1]), mx2("MoS2", "2H", vacuum=8).repeat((2, 1, 1))):
        with pytest.raises(StructureError, match="weighing larger cells takes too long") as caught:
            layer(atoms.repeat((side, side, 1)))
        assert caught.value.reason == "too large"
