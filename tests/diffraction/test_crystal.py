"""Crystals: reading layers from any cell, padding, round trips."""

import dataclasses
import io

import ase
import ase.build
import ase.io
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import diffraction as dx

Q_MAX = 0.9


def mos2(vacuum=7.5, pbc=(True, True, False)):
    """1H-MoS2 with one S pulled out, so that up and down, left and right differ."""
    atoms = ase.build.mx2("MoS2", kind="2H", a=3.18, thickness=3.14, vacuum=vacuum)
    atoms.positions[1] += [0.2, -0.1, 0.3]
    atoms.pbc = pbc
    return atoms


def spots(crystal, **options):
    pattern = jax.tree.map(np.asarray, dx.simulate(crystal, q_max=Q_MAX, **options))
    return {
        tuple(map(int, pattern.hk[i])): (pattern.q[i], float(pattern.intensity[i]))
        for i in np.flatnonzero(pattern.mask)
    }


def assert_same_spots(found, expected, rotate=None):
    """The same intensity for each rod; q, too, or only |q| where the crystal lies turned."""
    assert found.keys() == expected.keys()
    strongest = max(i for _, i in expected.values())
    for hk, (q, intensity) in expected.items():
        np.testing.assert_allclose(found[hk][1], intensity, rtol=1e-4, atol=1e-5 * strongest)
        if rotate is None:
            np.testing.assert_allclose(found[hk][0], q, atol=1e-6)
        else:
            np.testing.assert_allclose(np.linalg.norm(found[hk][0]), np.linalg.norm(q), rtol=1e-5)


TILTED = {"b_iso": 0.5, "tilt": (7.0, -4.0)}


@pytest.mark.parametrize("vacuum", [3.0, 5.0, 10.0, 50.0])
@pytest.mark.parametrize("pbc", [True, (True, True, False)])
def test_the_vacuum_does_not_enter(vacuum, pbc):
    expected = spots(dx.Crystal.from_ase(mos2()), **TILTED)
    found = spots(dx.Crystal.from_ase(mos2(vacuum, pbc)), **TILTED)
    assert_same_spots(found, expected)


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_no_digit_depends_on_the_vacuum(x64, axis):
    """Cells of 12 to 60 A, the layer anywhere in them and wrapped: the crystal is the same."""

    def read(height, shift):
        atoms = mos2(pbc=True)
        atoms.cell[2, 2] = height
        atoms.positions[:, 2] += shift * height
        atoms.wrap()
        order = CYCLES[axis]
        return dx.Crystal.from_ase(
            ase.Atoms(
                atoms.numbers, atoms.positions[:, order], cell=atoms.cell[:][order][:, order], pbc=1
            )
        )

    expected = read(20.0, 0.0)
    pattern = dx.simulate(expected, q_max=Q_MAX, **TILTED)
    for height in (12.0, 15.0, 20.0, 30.0, 45.0, 60.0):
        for shift in (0.0, 0.3, 0.5, 0.77):
            found = read(height, shift)
            np.testing.assert_array_equal(found.lattice, expected.lattice)
            for x, y in zip(found.positions, expected.positions, strict=True):
                moved = (x - found.positions[0]) - (y - expected.positions[0])
                np.testing.assert_allclose(moved, 0, atol=1e-13)
        other = dx.simulate(found, q_max=Q_MAX, **TILTED)
        np.testing.assert_array_equal(other.q, pattern.q)
        scale = pattern.intensity.max()
        np.testing.assert_allclose(other.intensity, pattern.intensity, atol=1e-12 * scale)


@pytest.mark.parametrize("shift", [0.0, 0.15, 0.4, 0.5, 0.62, 0.999999])
@pytest.mark.parametrize("pbc", [True, (True, True, False)])
def test_a_layer_cut_by_the_cell_boundary_is_joined(shift, pbc):
    expected = spots(dx.Crystal.from_ase(mos2()), **TILTED)
    atoms = mos2(pbc=pbc)
    atoms.positions[:, 2] += shift * atoms.cell[2, 2]
    atoms.wrap(pbc=True)  # some files wrap open axes, too
    assert_same_spots(spots(dx.Crystal.from_ase(atoms), **TILTED), expected)


@pytest.mark.parametrize(
    ("height", "top"),
    # Tight about two layers that stand apart; shorter than the layer; shorter by little.
    [(6.9, 6.9), (4.0, 6.9), (0.5, 6.9), (12.0, 12.5)],
)
def test_positions_count_as_they_are_where_an_open_cell_is_no_wrapping_box(height, top):
    positions = [[0, 0, 0.2], [1.23, 0.71, top]]
    cell = [[2.46, 0, 0], [-1.23, 2.13, 0], [0, 0, height]]
    atoms = ase.Atoms("C2", positions=positions, cell=cell, pbc=(True, True, False))
    found = np.ptp(dx.Crystal.from_ase(atoms).positions[:, 2])
    assert found == pytest.approx(top - 0.2, rel=1e-5)


def test_atoms_of_a_periodic_cell_may_stand_in_any_cell():
    atoms = mos2(pbc=True)
    atoms.positions += np.array([[0], [1], [-2]]) * atoms.cell[2]
    expected = spots(dx.Crystal.from_ase(mos2()), **TILTED)
    assert_same_spots(spots(dx.Crystal.from_ase(atoms), **TILTED), expected)


def test_a_tilted_c_axis_changes_nothing():
    expected = spots(dx.Crystal.from_ase(mos2()), **TILTED)
    for pbc in (True, (True, True, False)):
        for shift in (0.0, 0.5):
            atoms = mos2(pbc=pbc)
            atoms.set_cell(atoms.cell + np.array([[0, 0, 0], [0, 0, 0], [1.1, 0.7, 0]]))
            atoms.positions += shift * atoms.cell[2]
            atoms.wrap(pbc=True)
            assert_same_spots(spots(dx.Crystal.from_ase(atoms), **TILTED), expected)


# Where a, b, c go when the vacuum lies along x, y or z, and the Cartesian axes with them.
CYCLES = {"x": [2, 0, 1], "y": [1, 2, 0], "z": [0, 1, 2]}


@pytest.mark.parametrize("axis", ["x", "y"])
@pytest.mark.parametrize("pbc", ["all", "layer"])
def test_the_axis_on_which_the_vacuum_lies_does_not_matter(axis, pbc):
    atoms = mos2()
    order = CYCLES[axis]
    turned = ase.Atoms(
        atoms.numbers,
        positions=atoms.positions[:, order],
        cell=atoms.cell[:][order][:, order],
        pbc=True if pbc == "all" else np.array([True, True, False])[order],
    )
    found = spots(dx.Crystal.from_ase(turned), b_iso=0.5)
    if axis == "y":  # the in-plane vectors keep the file's order: b before a here
        found = {(h, k): value for (k, h), value in found.items()}
    assert_same_spots(found, spots(dx.Crystal.from_ase(atoms), b_iso=0.5), rotate=True)


@pytest.mark.parametrize("axis", ["x", "y"])
def test_a_layer_is_turned_not_mirrored(axis):
    """Seen from its upper side, a turned layer is a rotated copy: q may not be reflected."""
    atoms = mos2()
    order = CYCLES[axis]
    turned = ase.Atoms(
        atoms.numbers, atoms.positions[:, order], cell=atoms.cell[:][order][:, order], pbc=True
    )
    a = dx.Crystal.from_ase(atoms)
    b = dx.Crystal.from_ase(turned)

    def triple(c):  # chirality of three bonds
        p = np.asarray(c.positions, float)
        return np.linalg.det(np.stack([p[1] - p[0], p[2] - p[0], [0, 0, 1]]))

    assert triple(b) == pytest.approx(triple(a), rel=1e-5)
    np.testing.assert_allclose(
        b.positions[:, 2] - b.positions[0, 2], a.positions[:, 2] - a.positions[0, 2], atol=1e-5
    )


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    angle=st.floats(-180, 180),
    about=st.sampled_from(["x", "y", "z", (1, 2, 3)]),
)
@example(seed=0, angle=0.001953125, about="x")  # as small as what rounding in a file leaves
def test_a_layer_rotated_in_space_keeps_its_distances(seed, angle, about):
    rng = np.random.default_rng(seed)
    atoms = ase.Atoms(
        "C3HO",
        positions=np.append(5 * rng.random((5, 2)), 3 * rng.random((5, 1)), 1),
        cell=[[4.0, 0.3, 0], [-1.2, 3.7, 0], [0.4, -0.2, 18.0]],
        pbc=True,
    )
    straight = dx.Crystal.from_ase(atoms)
    atoms.rotate(angle, about, rotate_cell=True)
    turned = dx.Crystal.from_ase(atoms)

    def gram(c):
        rows = np.concatenate([np.pad(c.lattice, [(0, 0), (0, 1)]), c.positions - c.positions[:1]])
        return rows @ rows.T

    np.testing.assert_allclose(gram(turned), gram(straight), atol=1e-4)


def test_a_cell_without_a_third_vector_is_a_layer():
    atoms = mos2()
    atoms.cell[2] = 0
    for pbc in (True, (True, True, False)):
        atoms.pbc = pbc
        found = spots(dx.Crystal.from_ase(atoms), **TILTED)
        assert_same_spots(found, spots(dx.Crystal.from_ase(mos2()), **TILTED))


@pytest.mark.parametrize("vacuum", [0.0, 6.0, 15.0])
def test_ase_round_trip(layer, vacuum):
    crystal = layer(seed=3)
    atoms = crystal.to_ase(vacuum)
    assert atoms.cell[2, 2] == pytest.approx(np.ptp(crystal.positions[:, 2]) + vacuum, abs=1e-5)
    assert atoms.pbc.tolist() == [True, True, False]
    back = dx.Crystal.from_ase(atoms)
    np.testing.assert_array_equal(back.numbers, crystal.numbers)
    np.testing.assert_array_equal(back.lattice, crystal.lattice)
    moved = back.positions - crystal.positions
    np.testing.assert_allclose(moved, np.broadcast_to(moved[0], moved.shape), atol=1e-5)
    np.testing.assert_allclose(moved[0, :2], 0, atol=1e-6)
    if vacuum >= 6:
        atoms.pbc = True
        np.testing.assert_allclose(dx.Crystal.from_ase(atoms).positions, back.positions, atol=1e-5)


def test_to_ase_drops_padding(layer):
    batch = dx.stack([layer(atoms=3), layer(atoms=5)])
    assert [len(batch[i].to_ase()) for i in range(2)] == [3, 5]
    with pytest.raises(ValueError, match="index the batch"):
        batch.to_ase()


# Occupancies and displacements

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


def disordered(layer):
    """Five atoms, the first two on one site, with displacements."""
    crystal, rng = layer(seed=3), np.random.default_rng(5)
    u = rng.normal(0, 0.1, (5, 3, 3))
    u = u @ np.swapaxes(u, 1, 2)
    u[1] = u[0]
    return dataclasses.replace(
        crystal,
        positions=crystal.positions.at[1].set(crystal.positions[0]),
        numbers=jnp.array([42, 74, 16, 16, 8], jnp.int32),
        occupancy=jnp.array([0.4, 0.6, 0.9, 1.0, 0.35]),
        u=jnp.asarray((u + np.swapaxes(u, 1, 2)) / 2),
    )


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


def test_pymatgen_layers_without_elements_or_vacuum_are_refused():
    pymatgen = pytest.importorskip("pymatgen.core")
    lattice = pymatgen.Lattice.orthorhombic(3, 3, 4)
    with pytest.raises(ValueError, match="bulk"):
        dx.Crystal.from_pymatgen(pymatgen.Structure(lattice, ["C"], [[0, 0, 0]]))
    with pytest.raises(ValueError, match="1 to 103"):
        dx.Crystal.from_pymatgen(pymatgen.Structure(lattice, ["Xa"], [[0, 0, 0]]))
    with pytest.raises(ValueError, match="to_pymatgen takes a single"):
        dx.stack([dx.Crystal.from_ase(mos2())]).to_pymatgen()


def test_stack_mixes_crystals_with_and_without_occupancies(layer):
    plain, mixed = layer(atoms=3), disordered(layer)
    batch = dx.stack([plain, mixed], size=6)
    np.testing.assert_array_equal(batch.occupancy[0], [1, 1, 1, 0, 0, 0])
    np.testing.assert_array_equal(batch[1].occupancy[:5], mixed.occupancy)
    np.testing.assert_array_equal(batch[1].u[:5], mixed.u)
    assert not np.asarray(batch.u[0]).any() and not np.asarray(batch.u[1, 5]).any()
    assert batch.occupancy.dtype == batch.u.dtype == batch.positions.dtype
    back = dx.Crystal.from_ase(batch[1].to_ase())
    np.testing.assert_array_equal(back.occupancy, mixed.occupancy)
    without = dx.stack([plain, plain])
    assert without.occupancy is None and without[0].u is None


def test_layers_of_a_data_base_read_the_same_in_a_periodic_cell(shared_data):
    """Real layers: pbc, wrapping and the place in the cell say nothing about the crystal."""
    from ase.db import connect

    with connect(shared_data / "twodmatpedia.db") as db:
        rows = [row.toatoms() for row in db.select(limit=100)]
    for atoms in rows:
        expected = dx.Crystal.from_ase(atoms)
        atoms.pbc = True
        atoms.positions += 0.5 * atoms.cell[2]
        atoms.wrap()
        found = dx.Crystal.from_ase(atoms)
        np.testing.assert_allclose(found.lattice, expected.lattice, atol=1e-5)
        found, expected = (np.asarray(c.positions) for c in (found, expected))
        np.testing.assert_allclose(found - found[0], expected - expected[0], atol=1e-4)


def test_bulk_crystals_are_refused():
    for atoms in (ase.build.bulk("Si"), ase.build.bulk("NaCl", "rocksalt", a=5.64, cubic=True)):
        with pytest.raises(ValueError, match="bulk"):
            dx.Crystal.from_ase(atoms)


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        (ase.Atoms(), "no atoms"),
        (ase.Atoms("X", cell=[3, 3, 20], pbc=True), "1 to 103"),
        (ase.Atoms([104], cell=[3, 3, 20], pbc=True), "1 to 103"),
        (ase.Atoms("C", cell=[0, 0, 0], pbc=False), "two in-plane vectors"),
        (ase.Atoms("C", cell=[3, 0, 0], pbc=(True, False, False)), "two in-plane vectors"),
        (ase.Atoms("C", cell=[[3, 0, 0], [6, 0, 0], [0, 0, 20]], pbc=True), "in-plane vectors"),
        (
            ase.Atoms("C", cell=[[3, 0, 0], [6, 0, 0], [0, 0, 20]], pbc=(True, True, False)),
            "in-plane vectors",
        ),
        (ase.Atoms("C", positions=[[np.nan, 0, 0]], cell=[3, 3, 20], pbc=True), "not finite"),
        (ase.Atoms("C", cell=[3, np.inf, 20], pbc=True), "not finite"),
    ],
)
def test_what_is_no_layer_is_refused_with_its_reason(atoms, message):
    with pytest.raises(ValueError, match=message):
        dx.Crystal.from_ase(atoms)


def test_reciprocal_vectors_are_dual_to_the_lattice(layer, x64):
    batch = dx.stack([layer(seed) for seed in range(4)])
    products = jnp.einsum("nij,nkj->nik", batch.lattice, batch.reciprocal)
    np.testing.assert_allclose(products, np.broadcast_to(np.eye(2), (4, 2, 2)), atol=1e-14)


def test_stack_pads_with_absent_atoms_and_indexes_back(layer):
    crystals = [layer(seed, atoms) for seed, atoms in enumerate((1, 4, 2))]
    batch = dx.stack(crystals, size=6)
    assert batch.positions.shape == (3, 6, 3) and len(batch) == 3
    for crystal, padded in zip(crystals, [batch[i] for i in range(3)], strict=True):
        n = len(crystal.numbers)
        np.testing.assert_array_equal(padded.numbers[:n], crystal.numbers)
        np.testing.assert_array_equal(padded.positions[:n], crystal.positions)
        np.testing.assert_array_equal(padded.lattice, crystal.lattice)
        assert not padded.numbers[n:].any()
    assert dx.stack(crystals).numbers.shape == (3, 4)


def test_stack_refuses_what_does_not_fit(layer):
    with pytest.raises(ValueError, match="at least one"):
        dx.stack([])
    with pytest.raises(ValueError, match="size=2 is too small for a crystal of 5"):
        dx.stack([layer()], size=2)


def test_a_single_crystal_has_no_length(layer):
    with pytest.raises(TypeError, match="stack"):
        len(layer())
    with pytest.raises(TypeError, match="stack"):
        layer()[0]


def test_crystals_are_pytrees(layer):
    doubled = jax.tree.map(lambda x: 2 * x, layer())
    assert isinstance(doubled, dx.Crystal)
    np.testing.assert_allclose(doubled.lattice, 2 * layer().lattice)
