"""One canonical form whatever the setting, and every structure that is no 2D crystal recognised."""

import warnings
from pathlib import Path

import ase
import ase.io
import numpy as np
import pytest
import spglib
from ase.build import bulk, graphene, make_supercell, mx2
from ase.db import connect
from scipy.spatial.transform import Rotation

from dd2d_jax.crystals.structure_files import read_frames, read_structure
from dd2d_jax.crystals.structures import Layer, layer, to_atoms
from dd2d_jax.util.errors import Notice, StructureError


def made_up(seed: int, count: int = 7) -> ase.Atoms:
    """A layer without any symmetry, in an oblique cell."""
    random = np.random.default_rng(seed)
    cell = [[4.1 + seed % 3, 0, 0], [random.uniform(-2, 2), 5.3, 0], [0, 0, 22]]
    cell = np.array(cell, float)
    placed: list[np.ndarray] = []
    while len(placed) < count:
        trial = np.array([*(random.random(2) @ cell[:2, :2]), random.uniform(8, 12)])
        atoms = ase.Atoms("C" * (len(placed) + 1), [*placed, trial], cell=cell, pbc=(1, 1, 0))
        if not placed or atoms.get_distances(-1, range(len(placed)), mic=True).min() > 1.6:
            placed.append(trial)
    numbers = random.choice([6, 16, 42], count)
    return ase.Atoms(numbers, placed, cell=cell, pbc=(True, True, False))


def anatomy() -> dict[str, ase.Atoms]:
    """Layers of high and of no symmetry."""
    h, t = mx2("MoS2", "2H", vacuum=8), mx2("HfSe2", "1T", a=3.75, vacuum=8)
    square = ase.Atoms(
        "FeSe2Fe",
        scaled_positions=[[0, 0, 0.5], [0.5, 0, 0.57], [0, 0.5, 0.43], [0.5, 0.5, 0.5]],
        cell=[3.77, 3.77, 20],
        pbc=True,
    )
    return {
        "graphene": graphene(vacuum=8),
        "BN": graphene("BN", a=2.51, vacuum=8),
        "1H": h,
        "1T": t,
        "square": square,
        **{f"made up {seed}": made_up(seed) for seed in range(4)},
    }


def disguise(atoms: ase.Atoms, seed: int) -> ase.Atoms:
    """The same crystal: another basis or supercell, shifted, permuted, turned, its axes renamed."""
    random = np.random.default_rng(seed)
    matrix = np.eye(3, dtype=int)
    while not 1 <= abs(round(np.linalg.det(matrix[:2, :2]))) <= 3 or seed == 0:
        matrix[:2, :2] = random.integers(-2, 3, (2, 2))
        seed = max(seed, 1)
    new = make_supercell(atoms, matrix)
    new = new[random.permutation(len(new))]
    cell = np.array(new.cell)
    cell[2] += 0.3 * random.normal() * cell[0]  # a tilted vacuum vector
    turn = Rotation.random(rng=random).as_matrix()
    axes = random.permutation(3)
    new.set_cell((cell @ turn.T)[axes])
    new.positions = (new.positions + random.uniform(-30, 30, 3)) @ turn.T
    new.pbc = True
    new.wrap()
    return new


def difference(one: Layer, two: Layer) -> float:
    """Largest difference (angstrom) of lattice vectors and positions, the latter up to the cell."""
    assert one.numbers.tolist() == two.numbers.tolist()
    delta = one.positions - two.positions
    frac = delta[:, :2] @ np.linalg.inv(one.lattice)
    delta[:, :2] = (frac - np.round(frac)) @ one.lattice
    return max(np.abs(delta).max(), np.abs(one.lattice - two.lattice).max())


def mirrored(atoms: ase.Atoms) -> ase.Atoms:
    new = atoms.copy()
    new.cell[:, 0] *= -1
    new.positions[:, 0] *= -1
    return new


def reason(atoms: ase.Atoms) -> str:
    with pytest.raises(StructureError) as caught:
        layer(atoms)
    assert "\n" not in str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize("name", anatomy())
@pytest.mark.parametrize("seed", range(6))
def test_the_canonical_form_does_not_know_the_setting(name, seed):
    atoms = anatomy()[name]
    assert difference(layer(atoms), layer(disguise(atoms, seed))) < 1e-6


@pytest.mark.parametrize("name", anatomy())
def test_the_canonical_form_is_its_own_canonical_form(name):
    once = layer(anatomy()[name])
    assert difference(once, layer(to_atoms(*once))) < 1e-6


@pytest.mark.parametrize("name", anatomy())
def test_the_cell_is_reduced_and_in_its_place(name):
    lattice, positions, *_ = layer(disguise(anatomy()[name], 3))
    a, b = lattice
    assert np.linalg.norm(a) <= np.linalg.norm(b) + 0.01
    assert a[1] == 0 and a[0] > 0 and b[1] > 0
    assert -1e-6 <= -(a @ b) <= a @ a / 2 + 0.05
    frac = positions[:, :2] @ np.linalg.inv(lattice)
    assert frac.min() >= -0.011 and frac.max() < 1
    assert abs(positions[:, 2].max() + positions[:, 2].min()) < 1e-9


@pytest.mark.parametrize("seed", range(4))
def test_noise_moves_the_canonical_form_as_little_as_the_atoms(seed):
    atoms = made_up(seed)
    noisy = atoms.copy()
    noisy.positions += np.random.default_rng(seed).uniform(-1e-4, 1e-4, (len(atoms), 3))
    assert difference(layer(atoms), layer(noisy)) < 5e-4


@pytest.mark.parametrize("seed", range(4))
def test_the_hand_of_a_chiral_layer_is_kept(seed):
    """Even where turning the layer over makes its lattice match that of the mirror image."""
    atoms = made_up(seed)
    atoms.set_cell([5.0, 5.6, 22.0], scale_atoms=True)
    right, left = layer(atoms), layer(mirrored(atoms))
    assert difference(right, left) > 0.05
    assert difference(left, layer(disguise(mirrored(atoms), seed))) < 1e-6


def test_distances_survive():
    atoms = made_up(1)
    before = np.sort(np.sqrt((atoms.get_all_distances(mic=True, vector=True) ** 2).sum(-1)), None)
    after = np.sort(to_atoms(*layer(disguise(atoms, 5)[:])).get_all_distances(mic=True), None)
    np.testing.assert_allclose(before, after[: len(before)], atol=1e-6)


def test_a_layer_across_the_boundary_is_joined_along_a_tilted_vacuum_vector():
    atoms = mx2("MoS2", "2H", vacuum=8)
    atoms.cell[2] += [0.9, 0.4, 0]
    whole = layer(atoms)
    atoms.positions += 0.5 * atoms.cell[2]
    atoms.pbc = True
    atoms.wrap()
    assert np.ptp(atoms.positions[:, 2]) > 10
    assert difference(whole, layer(atoms)) < 1e-6


def test_an_open_axis_needs_no_vacuum():
    atoms = mx2("MoS2", "2H", vacuum=8)
    flat = ase.Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=(True, True, False))
    flat.cell[2] = 0
    assert difference(layer(atoms), layer(flat)) < 1e-6
    flat.cell[2] = [0, 0, 2]  # shorter than the layer is thick
    assert difference(layer(atoms), layer(flat)) < 1e-6


def test_layers_stacked_at_van_der_waals_distance_are_one_layer():
    one = graphene(vacuum=8)
    two = one.copy()
    two.positions += [0.0, 1.42, 3.35]
    two.cell[2, 2] = 30
    two.extend(one)
    assert len(layer(two).numbers) == 4


def test_bulk_is_recognised():
    assert reason(bulk("Cu", cubic=True)) == "bulk"
    graphite = graphene(vacuum=0)
    graphite.set_cell([*graphite.cell[:2], [0, 0, 3.35]])
    graphite.pbc = True
    assert reason(graphite) == "bulk"


def test_a_layer_across_the_cell_is_recognised():
    atoms = graphene(vacuum=8)
    atoms.pbc = True
    cell = np.array(atoms.cell)
    atoms.set_cell([cell[0] + cell[2], cell[1] + cell[2], cell[2] * 2 + cell[0]])
    assert reason(atoms) == "not flat in the cell"


@pytest.mark.parametrize(
    ("cell", "expected"), [([2.4, 12, 15], "chain"), ([12, 12, 15], "cluster")]
)
def test_chains_and_clusters_are_recognised(cell, expected):
    atoms = ase.Atoms("SeSe", [[0, 0, 0], [1.2, 1.8, 0.3]], cell=cell, pbc=True)
    assert reason(atoms) == expected
    atoms.pbc = (True, True, False)
    assert reason(atoms) == expected


def test_sheets_of_touching_molecules_are_crystals():
    atoms = ase.Atoms("I2", [[0, 0, 0], [1.36, 2.33, 0]], cell=[4.5, 6.6, 20], pbc=(1, 1, 0))
    assert len(layer(atoms).numbers) == 2


def test_two_atoms_on_one_site_are_recognised():
    atoms = graphene(vacuum=8)
    atoms.append(ase.Atom("C", atoms.positions[0] + [0.1, 0, 0]))
    assert reason(atoms) == "two atoms on one site"
    atoms.positions[-1] = atoms.positions[0] + [0, 0, 0.7]
    assert reason(atoms) == "atoms too close"
    assert reason(ase.Atoms("C", cell=[0.3, 2, 20], pbc=True)) == "two atoms on one site"


@pytest.mark.parametrize("number", [0, 104])
def test_unknown_elements_are_recognised(number):
    atoms = graphene(vacuum=8)
    atoms.numbers[1] = number
    assert reason(atoms) == "unknown element"


def test_what_is_no_structure_is_recognised():
    assert reason(ase.Atoms()) == "no structure"
    assert reason(ase.Atoms("C")) == "no lattice"
    assert reason(ase.Atoms("C", cell=[[2, 0, 0], [4, 0, 0], [0, 0, 20]], pbc=True)) == "no lattice"
    atoms = graphene(vacuum=8)
    atoms.positions[0, 0] = np.nan
    assert reason(atoms) == "not a number"


CIF = """data_x
_cell_length_a 3.2
_cell_length_b 3.2
_cell_length_c 20
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 1'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Fe1 Fe 0 0 0.5 1
Se1 {element} 0.5 0.5 0.6 {occupancy}
"""


def test_a_partial_occupancy_in_a_cif_is_kept(tmp_path):
    path = tmp_path / "a.cif"
    path.write_text(CIF.format(element="Se", occupancy=0.6))
    assert layer(read_structure(path)).occupancy.tolist() == [1, 0.6]
    path.write_text(CIF.format(element="Se", occupancy=1))
    assert len(layer(read_structure(path)).numbers) == 2


@pytest.mark.parametrize("told", ["?", "."])
def test_an_occupancy_that_is_not_told_is_1(tmp_path, told):
    path = tmp_path / "a.cif"
    path.write_text(CIF.format(element="Se", occupancy=told))
    assert len(layer(read_structure(path)).numbers) == 2


@pytest.mark.parametrize("element", ["D", "T", "T1-"])
def test_isotopes_of_hydrogen_are_hydrogen(tmp_path, element):
    path = tmp_path / "a.cif"
    path.write_text(CIF.format(element=element, occupancy=1))
    assert sorted(read_structure(path).numbers) == [1, 26]
    path.write_text(CIF.format(element="Te", occupancy=1))
    assert sorted(read_structure(path).numbers) == [26, 52]


@pytest.mark.parametrize(
    ("formula", "contradicts"),
    [("'Fe1 Se1'", 0), ("'Fe8 Se8'", 0), ("'Fe Se2'", 1), ("'Fe Te'", 1), ("?", 0)],
)
def test_a_formula_that_contradicts_the_atoms_is_told(tmp_path, formula, contradicts):
    path = tmp_path / "a.cif"
    text = CIF.format(element="Se", occupancy=1)
    path.write_text(text.replace("loop_", f"_chemical_formula_sum {formula}\nloop_"))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", Notice)
        assert len(read_structure(path)) == 2
    notices = [str(x.message) for x in told if x.category is Notice]
    assert len(notices) == contradicts
    assert not contradicts or "its atoms are Fe1 Se1: the atoms are used" in notices[0]


def file_reason(path: Path) -> str:
    with pytest.raises(StructureError, match=path.name) as caught:
        read_structure(path)
    assert "\n" not in str(caught.value)
    return caught.value.reason


def test_files_that_cannot_be_read_say_why(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_structure(tmp_path / "missing.cif")
    for name, text, expected in (
        ("a.cif", "nonsense", "unreadable"),
        ("b.vasp", "nonsense", "unreadable"),
        ("c.pckl", "nonsense", "unknown format"),
        ("d.cif", CIF.format(element="Qq", occupancy=1), "unknown element"),
        ("e.xyz", "", "unreadable"),
    ):
        path = tmp_path / name
        path.write_text(text)
        assert file_reason(path) in (expected, "no structure")
    path = tmp_path / "f.extxyz"
    ase.io.write(path, [graphene(vacuum=8)] * 2)
    assert file_reason(path) == "several structures"
    assert len(read_frames(path)) == 2


@pytest.mark.parametrize("name", ["a.cif", "POSCAR_1", "a.vasp", "a.extxyz", "a.xsf"])
def test_every_accepted_format_gives_the_same_layer(tmp_path, name):
    atoms = mx2("MoS2", "2H", vacuum=8)
    atoms.pbc = True
    kind = {"POSCAR_1": "vasp", "a.xsf": "xsf"}.get(name)
    ase.io.write(tmp_path / name, atoms, format=kind)
    assert difference(layer(atoms), layer(read_structure(tmp_path / name))) < 1e-3


def rows(path: Path, step: int) -> list[ase.Atoms]:
    chosen = []
    database = connect(path)
    for number in range(step, len(database) + 1, step):
        row = database.get(id=number)
        chosen.append(row.toatoms())
        chosen[-1].info["uid"] = row.uid
    return chosen


@pytest.mark.parametrize(("name", "step"), [("c2db.db", 50), ("twodmatpedia.db", 18)])
def test_real_crystals_have_one_canonical_form(shared_data, name, step):
    wrong = []
    for i, atoms in enumerate(rows(shared_data / name, step)):
        try:
            crystal = layer(atoms)
        except StructureError as error:
            assert error.reason in ("chain", "cluster"), atoms.info["uid"]
            continue
        if difference(crystal, layer(disguise(atoms, i))) > 1e-3:
            wrong.append(atoms.info["uid"])
    assert not wrong


@pytest.mark.parametrize(("name", "step"), [("c2db.db", 100), ("twodmatpedia.db", 36)])
def test_real_crystals_keep_their_space_group_and_become_primitive(shared_data, name, step):
    wrong = []
    for atoms in rows(shared_data / name, step):
        try:
            new = to_atoms(*layer(atoms))
        except StructureError:
            continue
        kinds = [
            spglib.get_symmetry_dataset((a.cell[:], a.get_scaled_positions(), a.numbers), 0.02)
            for a in (atoms, new)
        ]
        pure = (kinds[1].rotations == np.eye(3, dtype=int)).all((1, 2)).sum()
        if kinds[0].number != kinds[1].number or pure != 1:
            wrong.append((atoms.info["uid"], kinds[0].number, kinds[1].number, pure))
    assert not wrong
