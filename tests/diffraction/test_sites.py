"""Mixed sites and displacements, read from files and other programs and written back."""

import io

import ase
import ase.build
import ase.io
import jax.numpy as jnp
import numpy as np
import pytest
from layers import CYCLES, disordered, mos2

import diffraction as dx

ALLOY = """data_alloy
_cell_length_a 3.18
_cell_length_b 3.18
_cell_length_c 20
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 120
_symmetry_space_group_name_H-M 'P -6 m 2'
_symmetry_Int_Tables_number 187
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Mo1 Mo 0.3333333 0.6666667 0.5    0.4
W1  W  0.3333333 0.6666667 0.5    0.6
S1  S  0.6666667 0.3333333 0.5785 {sulphur}
"""


def alloy(sulphur=0.9):
    return ase.io.read(io.StringIO(ALLOY.format(sulphur=sulphur)), format="cif")


def contents(crystal):
    """Number, occupancy and place of each atom, in a fixed order; heights from the lowest."""
    z = crystal.positions[:, 2] - crystal.positions[:, 2].min()
    columns = [crystal.numbers, crystal.occupancy, *crystal.positions[:, :2].T, z]
    return sorted(tuple(np.round(row, 4) + 0.0) for row in np.stack(columns, 1).astype(float))


def test_a_mixed_site_of_a_cif_file_becomes_several_atoms():
    """ASE alone shows the more frequent species as if it were all that is there."""
    crystal = dx.Crystal.from_ase(alloy())
    numbers, occupancy = np.asarray(crystal.numbers), np.asarray(crystal.occupancy)
    assert dict(zip(numbers.tolist(), occupancy.round(6).tolist(), strict=True)) == pytest.approx(
        {42: 0.4, 74: 0.6, 16: 0.9}
    )
    assert sorted(numbers) == [16, 16, 42, 74]
    places = np.asarray(crystal.positions)
    np.testing.assert_array_equal(places[numbers == 42], places[numbers == 74])
    doubled = dx.Crystal.from_ase(alloy().repeat((2, 1, 1)))
    assert sorted(doubled.numbers.tolist()) == [16] * 4 + [42] * 2 + [74] * 2


def test_ase_and_pymatgen_read_the_same_occupancies(recwarn):
    pymatgen = pytest.importorskip("pymatgen.core")
    structure = pymatgen.Structure.from_str(ALLOY.format(sulphur=0.9), fmt="cif")
    found = contents(dx.Crystal.from_pymatgen(structure))
    assert len(found) == 4
    np.testing.assert_allclose(found, contents(dx.Crystal.from_ase(alloy())), atol=2e-4)


def test_a_written_cif_file_keeps_the_occupancies():
    crystal = dx.Crystal.from_ase(alloy())
    text = io.BytesIO()
    ase.io.write(text, crystal.to_ase(), format="cif")
    back = ase.io.read(io.StringIO(text.getvalue().decode()), format="cif")
    np.testing.assert_allclose(contents(dx.Crystal.from_ase(back)), contents(crystal), atol=2e-4)


def test_occupancies_that_are_all_one_are_left_out():
    atoms = mos2()
    atoms.set_array("occupancies", np.ones(3))
    assert dx.Crystal.from_ase(atoms).occupancy is None
    del atoms.arrays["occupancies"]
    atoms.info["occupancy"] = {"0": {"Mo": 1.0}, "1": {"S": 1}}
    assert dx.Crystal.from_ase(atoms).occupancy is None


def test_a_column_of_occupancies_is_read_by_either_name(tmp_path):
    for name in ("occupancy", "occupancies"):
        atoms = mos2()
        atoms.set_array(name, np.array([1, 0.5, 1]))
        ase.io.write(tmp_path / "a.extxyz", atoms)
        found = dx.Crystal.from_ase(ase.io.read(tmp_path / "a.extxyz"))
        assert found.occupancy.tolist() == [1, 0.5, 1]
    atoms.arrays["occupancies"] = np.ones((3, 2))
    with pytest.raises(ValueError, match="one number for each of 3 atoms"):
        dx.Crystal.from_ase(atoms)


@pytest.mark.parametrize("program", ["ase", "pymatgen"])
@pytest.mark.parametrize("plain", [True, False])
def test_round_trips_through_other_programs_are_exact(layer, program, plain):
    crystal = layer(seed=3) if plain else disordered(layer)
    if program == "ase":
        back = dx.Crystal.from_ase(crystal.to_ase(12.0))
    else:
        pytest.importorskip("pymatgen.core")
        structure = crystal.to_pymatgen(12.0)
        assert len(structure) == (5 if plain else 4)  # two species are one site
        back = dx.Crystal.from_pymatgen(structure)
    for name in ("numbers", "occupancy", "u", "lattice"):
        np.testing.assert_array_equal(getattr(back, name), getattr(crystal, name), name)
    np.testing.assert_allclose(back.positions[:, :2], crystal.positions[:, :2], atol=1e-6)
    moved = back.positions[:, 2] - crystal.positions[:, 2]
    np.testing.assert_allclose(moved, moved[0], atol=2e-6)


def test_displacements_turn_with_the_layer(x64, layer):
    """(r_i - r_0) U_k (r_j - r_0) is the same in every frame."""

    def forms(crystal):
        r = crystal.positions - crystal.positions[0]
        return jnp.einsum("ia,kab,jb->kij", r, crystal.u, r)

    crystal = disordered(layer)
    atoms = crystal.to_ase()
    for order in CYCLES.values():
        turned = ase.Atoms(
            atoms.numbers, atoms.positions[:, order], cell=atoms.cell[:][order][:, order], pbc=True
        )
        u = atoms.arrays["u"].reshape(-1, 3, 3)[:, order][:, :, order]
        turned.set_array("u", u)
        np.testing.assert_allclose(forms(dx.Crystal.from_ase(turned)), forms(crystal), atol=1e-12)
    assert np.abs(forms(crystal)).max() > 0.1


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("occupancies", [0.5, 1.2, 1.0], "0 to 1; atom 1 has 1.2"),
        ("occupancies", [0.5, 1.0, np.nan], "0 to 1; atom 2 has nan"),
        ("occupancies", [-0.1, 1.0, 1.0], "0 to 1; atom 0 has -0.1"),
        ("u", np.ones((3, 9)) * [[1, 2, 1, 1, 1, 1, 1, 1, 1]], "symmetric.*atom 0"),
        ("u", np.full((3, 9), np.nan), "finite; atom 0"),
    ],
)
def test_impossible_occupancies_and_displacements_are_refused(name, value, message):
    atoms = mos2()
    atoms.set_array(name, np.array(value))
    with pytest.raises(ValueError, match=message):
        dx.Crystal.from_ase(atoms)


def test_atoms_added_to_others_with_occupancies_are_not_lost():
    atoms = ase.build.mx2("MoS2", vacuum=10)
    atoms.set_array("occupancies", np.full(3, 0.5))
    atoms.append(ase.Atom("H", (0, 0, 9)))
    with pytest.raises(ValueError, match="atom 3 has occupancy 0"):
        dx.Crystal.from_ase(atoms)


def test_only_single_crystals_are_stacked(layer):
    batch = dx.stack([layer(0)])
    for wrong, name in ((batch, "batch"), (layer(0).to_ase(), "Atoms")):
        with pytest.raises(ValueError, match=f"number 1 is a {name}"):
            dx.stack([layer(0), wrong])


def test_occupancies_that_do_not_fit_the_atoms_are_refused():
    atoms = alloy()
    atoms.symbols[0] = "Cr"
    with pytest.raises(ValueError, match=r"no occupancy for atom 0 \(Cr\)"):
        dx.Crystal.from_ase(atoms)
    atoms = alloy().repeat((2, 1, 1))
    del atoms.arrays["spacegroup_kinds"]
    with pytest.raises(ValueError, match="spacegroup_kinds"):
        dx.Crystal.from_ase(atoms)

