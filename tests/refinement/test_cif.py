"""Refined structures as CIF: usual notation, read back by other programs, in their layer group."""

import io
import warnings

import ase.io
import numpy as np
import pytest
from ase.build import graphene, mx2

import diffraction as dx
from dd2d_jax.crystals.symmetry import displacements, operations
from dd2d_jax.refinement.cif import layer_group, refined_cif, with_uncertainty


@pytest.mark.parametrize(
    ("value", "sigma", "text"),
    [
        (3.16234, 0.004, "3.162(4)"), (3.16234, 0.0015, "3.1623(15)"),
        (3.16234, 0.0196, "3.16(2)"), (120.0, 0.0, "120.000000"), (12.4, 3.0, "12(3)"),
        (0.5, 0.19, "0.50(19)"), (0.5, 0.2, "0.5(2)"),
    ],
)  # fmt: skip
def test_uncertainties_are_two_to_nineteen_of_the_last_digit(value, sigma, text):
    assert with_uncertainty(value, sigma) == text


def plain(atoms):
    crystal = dx.Crystal.from_ase(atoms)
    arrays = (np.asarray(x, float) for x in (crystal.lattice, crystal.positions))
    return *arrays, np.asarray(crystal.numbers)


def distorted():
    """Atoms at general places in a rectangular cell, two of each by an inversion."""
    atoms = mx2("WSe2", "1T", vacuum=8).repeat((2, 1, 1))
    metals = np.flatnonzero(atoms.numbers == 74)
    atoms.positions[metals] += np.outer([0.06, -0.06], atoms.cell.array[0] / 6.5)
    return atoms


@pytest.mark.parametrize(
    "atoms",
    [mx2("MoS2", "2H", vacuum=8), mx2("PtS2", "1T", vacuum=8), graphene(vacuum=8), distorted()],
    ids=["2H", "1T", "graphene", "distorted"],
)
def test_the_file_reads_back_as_the_symmetrised_crystal(atoms):
    from pymatgen.io.cif import CifParser

    lattice, positions, numbers = plain(atoms)
    fields, _ = displacements(lattice, positions, numbers)
    stretch = np.eye(2) + [[0.01, 0.001], [0.001, 0.004]]
    moved = positions + 0.03 * fields.sum(0)
    moved[:, :2] = moved[:, :2] @ stretch
    sigma = 0.004 * np.sqrt((fields**2).sum(0))
    strain = np.array([[1e-3, 5e-4], [5e-4, 1e-3]])
    b = np.full(len(numbers), 0.5), np.full(len(numbers), 0.04)
    text = refined_cif(
        "x", numbers, (lattice, positions), (lattice @ stretch, moved), strain, sigma, b
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read = ase.io.read(io.StringIO(text), format="cif")
        other = CifParser.from_str(text).parse_structures(primitive=False)[0]
    assert sorted(read.numbers) == sorted(numbers) == sorted(s.specie.Z for s in other)
    assert "0.50(4)" in text
    # As many operations, now exactly, and no atom further away than the strain and digits take it.
    again = plain(read)
    before = operations(lattice, positions, numbers)[0]
    assert len(operations(*again, tolerance=0.003)[0]) >= len(before)
    fitted = (lattice @ stretch, moved, numbers)
    np.testing.assert_allclose(
        np.sort(pair_distances(again)), np.sort(pair_distances(fitted)), atol=0.05
    )


def pair_distances(crystal) -> np.ndarray:
    lattice, positions, numbers = crystal
    away = positions[:, None] - positions
    flat = away[..., :2] @ np.linalg.inv(lattice)
    shifts = np.mgrid[-1:2, -1:2].reshape(2, -1).T
    images = (flat[..., None, :] - np.round(flat)[..., None, :] + shifts) @ lattice
    nearest = (images**2).sum(-1).min(-1)
    return np.sqrt(nearest + away[..., 2] ** 2).ravel()


def test_a_hexagonal_cell_has_one_length_and_no_free_angle():
    lattice, positions, numbers = plain(mx2("MoS2", "2H", a=3.18, vacuum=8))
    strain = np.diag([1e-3, 1e-3])
    zero = np.zeros((3, 3))
    b = np.full(3, 0.5), np.full(3, 0.1)
    text = refined_cif("MoS2", numbers, (lattice, positions), (lattice, positions), strain, zero, b)
    assert "_cell_length_a 3.180(2)" in text and "_cell_length_b 3.180(2)" in text
    assert "_cell_angle_gamma 120.000000" in text
    assert "_space_group_IT_number 187" in text and "layer group p-6m2" in text
    assert len(layer_group(lattice, positions, numbers)[0]) == 12
