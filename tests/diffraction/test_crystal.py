"""Crystals: reading layers from any cell, padding, round trips."""


import ase
import ase.build
import ase.io
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from layers import CYCLES, disordered, mos2

import diffraction as dx

Q_MAX = 0.9


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

