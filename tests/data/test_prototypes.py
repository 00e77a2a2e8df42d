"""The crystals made in the project: enough, distinct, physical, and the known ones right."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from itertools import islice

import numpy as np
import pytest
import spglib
from ase.data import covalent_radii
from paths import ROOT

from dd2d_jax.data.prototypes import generate
from dd2d_jax.data.prototypes.reference import bulk_layers, references
from dd2d_jax.data.prototypes.relax import Radii, redecorate
from dd2d_jax.data.prototypes.templates import TEMPLATES, build, plane_heights
from dd2d_jax.data.prototypes.unique import Seen, distances
from dd2d_jax.libraries.library import Library

SHARE = 0.1


@pytest.fixture(scope="module")
def crystals():
    """Of every rule a sixth of what the package holds."""
    return list(generate(seed=0, share=SHARE))


@pytest.fixture(scope="module")
def known():
    return {reference.uid: reference for reference in references() if reference.known}


def space_group(atoms) -> int:
    cell = (atoms.cell[:], atoms.get_scaled_positions(), atoms.numbers)
    return spglib.get_symmetry_dataset(cell, symprec=0.01).number


def all_distances(atoms) -> np.ndarray:
    return distances(atoms.cell[None, :2, :2], atoms.positions[None])[0]


def test_the_package_holds_at_least_8000_of_30_prototypes_and_80_are_known():
    crystals = Library.load().crystals
    assert len(crystals) >= 8000
    assert len(set(crystals.prototype)) >= 30
    assert np.sum(crystals.known) >= 80
    made = [info["uid"] for _, info in islice(generate(seed=0), 1500)]
    assert list(crystals.uid[:1500]) == made


def test_layers_of_bulk_crystals_are_known_ones_with_other_lattice_constants(known):
    layers = bulk_layers()
    for one in layers:
        computed = known[one.uid.removesuffix("-bulk")]
        assert one.roles == computed.roles and one.prototype == computed.prototype
        assert one.atoms.get_chemical_symbols() == computed.atoms.get_chemical_symbols()
        assert space_group(one.atoms) == space_group(computed.atoms)
        ratio = one.atoms.cell.lengths()[:2] / computed.atoms.cell.lengths()[:2]
        assert 0.015 < np.abs(ratio - 1).max() < 0.07
        # Each atom's bond to its nearest neighbour.
        bonds = [np.sort(all_distances(x.atoms).min((1, 2))) for x in (one, computed)]
        np.testing.assert_allclose(*bonds, rtol=0.05)
    assert len({one.uid for one in layers}) == len(layers) >= 15


def test_the_packages_library_holds_the_layers_of_bulk_crystals_after_the_others():
    crystals = Library.load().crystals
    layers = bulk_layers()
    assert crystals.uid[-len(layers) :].tolist() == [one.uid for one in layers]
    last = crystals.take(np.arange(len(crystals) - len(layers), len(crystals)))
    assert last.known.all()
    areas = [one.atoms.cell[0, 0] * one.atoms.cell[1, 1] for one in layers]
    np.testing.assert_allclose(np.abs(np.linalg.det(last.lattice)), areas, rtol=1e-4)


@pytest.mark.slow
def test_uids_are_unique(crystals):
    uids = Counter(info["uid"] for _, info in crystals)
    assert [uid for uid, count in uids.items() if count > 1] == []


def test_same_seed_gives_the_same_crystals(crystals):
    for (atoms, info), (again, same) in zip(
        crystals, islice(generate(seed=0, share=SHARE), 1000), strict=False
    ):
        assert info == same
        np.testing.assert_array_equal(atoms.numbers, again.numbers)
        np.testing.assert_array_equal(atoms.positions, again.positions)
        np.testing.assert_array_equal(atoms.cell[:], again.cell[:])


def test_another_seed_keeps_the_known_and_changes_the_rest():
    first = {info["uid"] for _, info in islice(generate(seed=0), 1500)}
    other = {info["uid"] for _, info in islice(generate(seed=1), 1500)}
    known = {reference.uid for reference in references() if reference.known}
    assert known <= first and known <= other
    assert first != other


def test_no_two_atoms_are_nearer_than_0_7_sums_of_covalent_radii(crystals):
    for atoms, info in crystals[::25]:
        distance = all_distances(atoms).min(-1)
        radii = covalent_radii[atoms.numbers]
        assert (distance / (radii[:, None] + radii)).min() >= 0.7 - 1e-9, info["uid"]


def test_layers_lie_in_xy_centred_with_15_angstrom_beside_them(crystals):
    for atoms, info in crystals:
        z = atoms.positions[:, 2]
        assert atoms.pbc.tolist() == [True, True, False], info["uid"]
        assert not atoms.cell[:2, 2].any() and not atoms.cell[2, :2].any(), info["uid"]
        assert atoms.cell[2, 2] == pytest.approx(np.ptp(z) + 15.0), info["uid"]
        assert (z.max() + z.min()) / 2 == pytest.approx(atoms.cell[2, 2] / 2), info["uid"]
        assert np.linalg.det(atoms.cell[:2, :2]) > 1.0, info["uid"]


def test_a_repeat_is_found_in_another_cell_order_and_orientation(known):
    atoms = known["1T'-WTe2"].atoms
    seen = Seen()
    assert seen.add(atoms.numbers, all_distances(atoms))
    other = atoms.repeat((2, 1, 1))[::-1]
    other.rotate(33.0, "z", rotate_cell=True)
    other.translate((0.3, 0.2, 0.0))
    assert not seen.add(other.numbers, all_distances(other))
    strained = atoms.copy()
    strained.set_cell(atoms.cell[:] * np.array([[1.05], [1.0], [1.0]]), scale_atoms=True)
    assert seen.add(strained.numbers, all_distances(strained))


@pytest.mark.parametrize(
    ("uid", "formula", "group"),
    [
        ("graphene", "C2", 191),
        ("h-BN", "BN", 187),
        ("silicene", "Si2", 164),
        ("phosphorene", "P4", 53),
        ("SnS", "S2Sn2", 31),
        ("1H-MoS2", "MoS2", 187),
        ("1T-PtS2", "PtS2", 164),
        ("MoSSe-Janus", "MoSSe", 156),
        ("1T'-WTe2", "Te4W2", 11),
        ("ReS2", "Re4S8", 2),
        ("GaSe", "Ga2Se2", 187),
        ("CrI3", "Cr2I6", 162),
        ("CrGeTe3", "Cr2Ge2Te6", 162),
        ("Bi2Te3", "Bi2Te3", 164),
        ("MnBi2Te4", "Bi2MnTe4", 164),
        ("Fe3GeTe2", "Fe3GeTe2", 187),
        ("FeSe", "Fe2Se2", 129),
        ("BiOCl", "Bi2Cl2O2", 129),
        ("CrSBr", "Br2Cr2S2", 59),
        ("HgI2", "HgI2", 115),
        ("Mg(OH)2", "H2MgO2", 164),
        ("Ti3C2O2", "C2O2Ti3", 164),
        ("MoSi2N4", "MoN4Si2", 187),
        ("Sr2TiO4", "O4Sr2Ti", 123),
    ],
)
def test_known_monolayers_have_their_stoichiometry_and_symmetry(known, uid, formula, group):
    atoms = known[uid].atoms
    assert atoms.get_chemical_formula() == formula
    # tables round to 0.0001 of an edge, so the listed ones hold to a few hundredths of an angstrom
    cell = (atoms.cell[:], atoms.get_scaled_positions(), atoms.numbers)
    assert spglib.get_symmetry_dataset(cell, symprec=0.03).number == group


@pytest.mark.parametrize(("prototype", "group"), [("1H", 187), ("1T", 164), ("FeSe", 129)])
def test_decoration_keeps_the_symmetry_of_the_prototype(crystals, prototype, group):
    made = [a for a, info in crystals if info["prototype"] == prototype and not info["known"]]
    assert made
    assert {space_group(atoms) for atoms in made} == {group}


def test_janus_layers_lose_the_mirror(crystals):
    made = [atoms for atoms, info in crystals if info["prototype"] == "1H X/side"]
    assert made
    assert {space_group(atoms) for atoms in made} == {156}


def test_a_reference_with_its_own_elements_comes_back_unchanged():
    for reference in references():
        atoms = reference.atoms
        n = len(atoms)
        old = Radii(np.ones(n), np.ones(n))
        new = Radii(np.ones((1, n)), np.ones((1, n)))
        cells, positions = redecorate(
            atoms.numbers, atoms.cell[:2, :2], atoms.positions, old, new, np.zeros(n)
        )
        np.testing.assert_allclose(cells[0], atoms.cell[:2, :2], atol=2e-6)
        np.testing.assert_allclose(positions[0], atoms.positions, atol=2e-6)


def test_larger_radii_scale_a_layer_of_one_bond_length():
    atoms, _ = build("1H", {"M": "Mo", "X": "S"}, 3.18, [1.57, 0.0])
    old = Radii(np.ones(3), np.ones(3))
    new = Radii(1.1 * np.ones((1, 3)), 1.1 * np.ones((1, 3)))
    cells, positions = redecorate(
        atoms.numbers, atoms.cell[:2, :2], atoms.positions, old, new, np.array([-1, 1, -1])
    )
    np.testing.assert_allclose(cells[0], 1.1 * atoms.cell[:2, :2], atol=1e-5)
    assert np.ptp(positions[0][:, 2]) == pytest.approx(1.1 * 3.14, abs=1e-5)


def test_every_template_is_used(crystals):
    made = {info["prototype"] for _, info in crystals}
    assert set(TEMPLATES) - made == set()


def test_heights_are_mirrored_or_refused():
    assert plane_heights([1.5, 0.0], 3) == [1.5, 0.0, -1.5]
    with pytest.raises(ValueError, match="heights"):
        plane_heights([1.5], 3)


@pytest.mark.slow
def test_known_monolayers_agree_with_two_databases(monkeypatch, shared_data):
    files = [shared_data / "c2db.db", shared_data / "twodmatpedia.db"]
    pytest.importorskip("rich")
    path = ROOT / "benchmarks" / "check_known.py"
    spec = importlib.util.spec_from_file_location("check_known", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    rows = module.compare(files)
    assert [row.uid for row in rows if row.verdict == "DIFFERS"] == []
    assert sum(row.verdict == "OK" for row in rows) >= 80
