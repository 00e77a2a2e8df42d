"""Numbers of other programs: VESTA, gemmi, pymatgen, diffsims, XrayDB."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffraction as dx
from diffraction.tabulated import table

# Compiled as a whole: quicker than one compilation an operation.
structure_factor = jax.jit(dx.structure_factor)
form_factor = jax.jit(dx.form_factor)

# The cells of VESTA's files: lengths in angstrom, angles in degrees; one Fe at the origin.
CELLS = {
    "cubic": (3.92, 3.92, 3.92, 90, 90, 90),
    "hexagonal": (2.85, 2.85, 10.8, 90, 90, 120),
    "tetragonal": (5.9, 5.9, 8.7, 90, 90, 90),
    "monoclinic": (4.5, 4.5, 4.5, 90, 65, 90),
    "rhombohedral": (4.9, 4.9, 4.9, 85, 85, 85),
    "triclinic": (6.867, 16.706, 5.399, 62.98, 42.25, 52.16),
}
LOBATO, KIRKLAND, PENG = (dx.Electrons(80.0, table=x) for x in ("lobato", "kirkland", "peng"))
ALL_TABLES = pytest.mark.parametrize(
    "beam", [LOBATO, KIRKLAND, PENG], ids=["lobato", "kirkland", "peng"]
)


@pytest.fixture(scope="module")
def reference(shared_data):
    return json.loads((shared_data / "reference" / "values.json").read_text())


def cell_vectors(a, b, c, alpha, beta, gamma):
    """Rows a, b, c with a along x and b in (x, y)."""
    ca, cb, cg = np.cos(np.deg2rad([alpha, beta, gamma]))
    sg = np.sin(np.deg2rad(gamma))
    x, y = cb, (ca - cb * cg) / sg
    return np.array([[a, 0, 0], [b * cg, b * sg, 0], [c * x, c * y, c * np.sqrt(1 - x**2 - y**2)]])


def rods_at(crystal, c, hkl):
    """Points of the rods (h, k) where a stack of layers, repeated by c, has its spot l.

    q . c = l gives the height on the rod; the layer itself knows nothing of c.
    """
    q_par = np.asarray(hkl)[:, :2] @ np.asarray(crystal.reciprocal)
    qz = (np.asarray(hkl)[:, 2] - q_par @ c[:2]) / c[2]
    return jnp.asarray(np.append(q_par, qz[:, None], 1))


def ring(pattern, h, k):
    """Intensity of one spot of the pattern."""
    index = np.flatnonzero((np.asarray(pattern.hk) == (h, k)).all(-1))
    return float(pattern.intensity[index[0]])


def hexagonal(a, fractions, heights, numbers):
    lattice = np.array([[a, 0.0], [-a / 2, a * np.sqrt(3) / 2]])
    positions = np.append(np.array(fractions) @ lattice, np.array(heights)[:, None], 1)
    return dx.Crystal(jnp.asarray(lattice), jnp.asarray(positions), jnp.asarray(numbers))


def mos2():
    third = 1 / 3
    places = [[third, 2 * third], [2 * third, third], [2 * third, third]]
    return hexagonal(3.18, places, [0, 1.57, -1.57], [42, 16, 16])


# What is in the folder, and which test holds it. The network's sizes are not the simulator's.
VALUES = {
    "wavelength_angstrom": "test_wavelengths",
    "electron_form_factor_angstrom": "test_electron_form_factors",
    "nickel_electron_f0_squared": "test_nickel_in_the_forward_direction",
    "titanium_xray_f0": "test_titanium_for_xrays",
    "tungsten_debye_waller": "test_tungsten_debye_waller",
    "graphene_kinematic": "test_graphene_rings",
    "mos2_1h_80kV": "test_mos2_rings_on_continuous_rods",
}


def test_every_reference_value_has_its_test(reference, shared_data):
    assert reference.keys() - {"dd2d_parameter_count"} == VALUES.keys()
    assert all(name in globals() for name in VALUES.values())
    files = {path.stem for path in (shared_data / "reference").glob("vesta_*")}
    assert files == {f"vesta_{name}" for name in (*CELLS, "Rutile_xray")}


# Single numbers


def test_wavelengths(x64, reference):
    values = reference["wavelength_angstrom"]
    for name, expected in values["values"].items():
        found = dx.Electrons(float(name.split()[0])).wavelength
        np.testing.assert_allclose(found, expected, rtol=values["tolerance_relative"])


@ALL_TABLES
def test_electron_form_factors(x64, reference, beam):
    values = reference["electron_form_factor_angstrom"]
    numbers = {"Na": 11, "Cl": 17, "Cs": 55}
    checked = 0
    for row in values["values"]:
        squared = sum(i * i for i in row["hkl"]) / row["a"] ** 2
        for name in row.keys() & numbers.keys():
            found = form_factor(beam, numbers[name], squared)
            np.testing.assert_allclose(found, row[name], rtol=values["tolerance_relative"])
            checked += 1
    assert checked == 4


def test_nickel_in_the_forward_direction(x64, reference):
    values = reference["nickel_electron_f0_squared"]
    found = form_factor(LOBATO, 28, 0.0) ** 2
    np.testing.assert_allclose(found, values["value"], rtol=values["tolerance_relative"])


def test_titanium_for_xrays(x64, reference):
    values = reference["titanium_xray_f0"]
    s = 0.25 * np.arange(5)
    found = form_factor(dx.Xrays(), 22, jnp.asarray((2 * s) ** 2))
    np.testing.assert_allclose(found, values["values"], atol=values["tolerance_absolute"])


def test_tungsten_debye_waller(x64, reference):
    values = reference["tungsten_debye_waller"]
    crystal = dx.Crystal(jnp.eye(2) * 3.1653, jnp.zeros((1, 3)), jnp.array([74]))
    q = jnp.array([[1, 1, 0]]) / 3.1653
    warm, cold = (structure_factor(crystal, q, dx.Xrays(), b) for b in (0.1526, 0.0))
    ratio = np.abs(warm / cold) ** 2
    np.testing.assert_allclose(ratio, values["ratio"], rtol=values["tolerance_relative"])


@ALL_TABLES
def test_graphene_rings(x64, reference, beam):
    values = reference["graphene_kinematic"]
    crystal = hexagonal(values["a"], [[1 / 3, 2 / 3], [2 / 3, 1 / 3]], [0, 0], [6, 6])
    beam = dx.Electrons(values["kV"], table=beam.table)
    pattern = dx.simulate(crystal, beam, q_max=1.2)
    for h, k in [(1, 1), (2, 0)]:
        found = ring(pattern, h, k) / ring(pattern, 1, 0)
        expected = values[f"I({h}{k})/I(10)"]
        np.testing.assert_allclose(found, expected, rtol=values["tolerance_relative"])


def test_mos2_rings_on_continuous_rods(x64, reference):
    values = reference["mos2_1h_80kV"]
    pattern = dx.simulate(mos2(), LOBATO, q_max=1.2)
    for h, k in [(1, 1), (2, 0)]:
        found = ring(pattern, h, k) / ring(pattern, 1, 0)
        expected = values[f"I({h}{k})/I(10)"]
        np.testing.assert_allclose(found, expected, rtol=values["tolerance_relative"])


# VESTA. It takes Waasmaier and Kirfel's table, too, so that all its digits are reproduced
# (the tables of other programs, such as the International Tables' of 1992, differ by 1e-3).


def vesta(shared_data, name):
    """hkl (K, 3), d (K,), F (K,) complex, |F| (K,), 2 theta in degrees, I, multiplicity."""
    rows = np.loadtxt(shared_data / "reference" / f"vesta_{name}.txt", skiprows=1)
    hkl, d, real, imaginary, *rest = np.split(rows, [3, 4, 5, 6, 7, 8, 9], axis=1)
    return hkl, d[:, 0], (real + 1j * imaginary)[:, 0], *(x[:, 0] for x in rest)


@pytest.mark.parametrize("name", CELLS)
def test_vesta_iron_cells(x64, shared_data, name):
    """All hkl of six cells, also with oblique c: a bulk crystal samples the rods of its layers."""
    hkl, d, factor, magnitude, *_ = vesta(shared_data, name)
    a, b, c = cell_vectors(*CELLS[name])
    crystal = dx.Crystal(jnp.array([a[:2], b[:2]]), jnp.zeros((1, 3)), jnp.array([26]))
    q = rods_at(crystal, c, hkl)
    np.testing.assert_allclose(1 / np.linalg.norm(q, axis=-1), d, atol=1e-6)
    b_iso = 8 * np.pi**2 * 0.05  # Uiso = 0.05 A^2
    found = structure_factor(crystal, q, dx.Xrays(), b_iso)
    np.testing.assert_allclose(found, factor, atol=1e-5)  # printed to 6 decimals, d to 6
    np.testing.assert_allclose(np.abs(found), magnitude, rtol=1e-5)


def rutile():
    """The unit cell of TiO2 with its four O about Ti at the origin, and c."""
    a, c, x = 4.587, 2.954, 0.3051
    fractions = np.array(
        [
            [0, 0, 0],
            [0.5, 0.5, 0.5],
            [x, x, 0],
            [-x, -x, 0],
            [0.5 + x, 0.5 - x, 0.5],
            [0.5 - x, 0.5 + x, 0.5],
        ]
    )
    positions = fractions * [a, a, c]
    numbers = jnp.array([22, 22, 8, 8, 8, 8])
    return dx.Crystal(jnp.eye(2) * a, jnp.asarray(positions), numbers), np.array([0, 0, c])


def test_vesta_rutile(x64, shared_data):
    hkl, d, factor, magnitude, *_ = vesta(shared_data, "Rutile_xray")
    crystal, c = rutile()
    q = rods_at(crystal, c, hkl)
    np.testing.assert_allclose(1 / np.linalg.norm(q, axis=-1), d, atol=1e-6)
    found = structure_factor(crystal, q, dx.Xrays())
    np.testing.assert_allclose(found, factor, atol=2e-5)
    np.testing.assert_allclose(np.abs(found), magnitude, atol=1e-4)


def test_vesta_rutile_powder_intensities_have_our_lorentz_polarisation(x64, shared_data):
    """A powder adds the factor 1 / sin(theta) of its rings and the multiplicity to Eq. 1."""
    hkl, _, _, _, two_theta, intensity, multiplicity = vesta(shared_data, "Rutile_xray")
    crystal, c = rutile()
    q = rods_at(crystal, c, hkl)
    beam = dx.Xrays(1.540593)  # what VESTA takes for Cu K alpha 1
    theta = np.arcsin(np.linalg.norm(q, axis=-1) * beam.wavelength / 2)
    np.testing.assert_allclose(2 * np.rad2deg(theta), two_theta, atol=1e-3)
    found = jax.jit(dx.paper_intensity)(crystal, q, beam) * multiplicity / np.sin(theta)
    np.testing.assert_allclose(100 * found / found.max(), intensity, rtol=1e-4, atol=2e-4)


# gemmi calculates structure factors of three-dimensional cells from four Gaussians and a constant.
# The five Gaussians of our table fit into two of its elements at one place: the first four and the
# constant in one, the fifth in a second, which the crystal does not hold. So both programs have
# the same numbers, and everything else is gemmi's own: cell, phases, Debye-Waller factors, sum.
SECOND = {42: "Kr", 16: "Xe", 6: "Rn", 74: "He"}


@pytest.fixture
def gemmi_with_our_table():
    gemmi = pytest.importorskip("gemmi")
    kept = {}

    def set_coefficients(element, coefficients):
        form = gemmi.Element(element).it92
        kept.setdefault(element, form.get_coefs())
        form.set_coefs([float(x) for x in coefficients])

    for z, second in SECOND.items():
        c, a, b = np.split(table("waasmaier_kirfel")[z], [1, 6])
        set_coefficients(z, [*a[:4], *b[:4], c[0]])
        set_coefficients(second, [a[4], 0, 0, 0, b[4], 1, 1, 1, 0])
    yield gemmi
    for element, coefficients in kept.items():
        gemmi.Element(element).it92.set_coefs(coefficients)


def gemmi_factors(gemmi, crystal, c, hkl, displacements):
    """F(hkl) of the layer repeated by c, by gemmi; U of each atom, one number or (3, 3)."""
    shares = np.ones(len(crystal.numbers)) if crystal.occupancy is None else crystal.occupancy
    lengths = [np.linalg.norm(v) for v in crystal.lattice]
    gamma = np.arccos(crystal.lattice[0] @ crystal.lattice[1] / np.prod(lengths))
    small = gemmi.SmallStructure()
    small.cell = gemmi.UnitCell(*map(float, lengths), c, 90, 90, float(np.rad2deg(gamma)))
    for z, position, u, occupancy in zip(
        crystal.numbers, crystal.positions, displacements, shares, strict=True
    ):
        for element in (int(z), SECOND[int(z)]):
            site = gemmi.SmallStructure.Site()
            site.element = gemmi.Element(element)
            site.fract = small.cell.fractionalize(gemmi.Position(*map(float, position)))
            if np.ndim(u):  # CIF's U_ij: along the reciprocal axes, in units of their lengths
                axes = np.eye(3)
                axes[:2, :2] = crystal.reciprocal
                axes /= np.linalg.norm(axes, axis=1, keepdims=True)
                cif = axes @ u @ axes.T
                pairs = [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)]
                site.aniso = gemmi.SMat33d(*(float(cif[i]) for i in pairs))
            else:
                site.u_iso = float(u)
            site.occ = float(occupancy)
            small.add_site(site)
    calculator = gemmi.StructureFactorCalculatorX(small.cell)
    return np.array(
        [calculator.calculate_sf_from_small_structure(small, [int(i) for i in x]) for x in hkl]
    )


def oblique_layer():
    lattice = cell_vectors(3.3, 4.7, 1.0, 90, 90, 77)[:2, :2]
    positions = np.random.default_rng(4).random((6, 3)) @ np.diag([3.0, 4.0, 5.0])
    numbers = jnp.array([42, 16, 16, 6, 74, 42])
    return dx.Crystal(jnp.asarray(lattice), jnp.asarray(positions), numbers)


@pytest.mark.parametrize("crystal", [mos2, oblique_layer])
def test_rods_are_what_gemmi_samples_whatever_the_vacuum(x64, gemmi_with_our_table, crystal):
    crystal = crystal()
    u_iso = 0.002 * (1 + np.arange(len(crystal.numbers)))
    for c in (15.0, 20.0, 40.0):
        h, k, l_ = np.mgrid[-3:4, -3:4, -9:10:3]
        hkl = np.stack([h, k, l_], -1).reshape(-1, 3)
        q = rods_at(crystal, np.array([0, 0, c]), hkl)
        found = structure_factor(crystal, q, dx.Xrays(), jnp.asarray(8 * np.pi**2 * u_iso))
        expected = gemmi_factors(gemmi_with_our_table, crystal, c, hkl, u_iso)
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
        large = np.abs(expected) > 0.01 * np.abs(expected).max()
        assert large.sum() > 100
        np.testing.assert_allclose(np.asarray(found)[large], expected[large], rtol=1e-4)


def test_occupancies_and_displacements_are_gemmis(x64, gemmi_with_our_table):
    rng = np.random.default_rng(2)
    root = rng.normal(0, 0.08, (6, 3, 3))
    u = root @ np.swapaxes(root, 1, 2)
    crystal = dataclasses.replace(
        oblique_layer(), occupancy=jnp.asarray(rng.uniform(0.1, 1, 6)), u=jnp.asarray(u)
    )
    h, k, l_ = np.mgrid[-3:4, -3:4, -9:10:3]
    hkl = np.stack([h, k, l_], -1).reshape(-1, 3)
    found = structure_factor(crystal, rods_at(crystal, np.array([0, 0, 20]), hkl), dx.Xrays())
    expected = gemmi_factors(gemmi_with_our_table, crystal, 20, hkl, u)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_the_xray_table_is_near_the_international_tables(x64):
    gemmi = pytest.importorskip("gemmi")
    q = np.linspace(0, 2, 21)
    for z in range(1, 99):
        other = [gemmi.Element(z).it92.calculate_sf(s * s / 4) for s in q]
        found = form_factor(dx.Xrays(), z, jnp.asarray(q**2))
        np.testing.assert_allclose(found, other, rtol=0.02, atol=0.1, err_msg=f"Z = {z}")


@ALL_TABLES
def test_the_electron_tables_are_near_the_international_tables(x64, beam):
    gemmi = pytest.importorskip("gemmi")
    q = np.linspace(0.2, 1.5, 14)
    for z in range(1, 99):
        other = [gemmi.Element(z).c4322.calculate_sf(s * s / 4) for s in q]
        found = form_factor(beam, z, jnp.asarray(q**2))
        np.testing.assert_allclose(found, other, rtol=0.08, err_msg=f"Z = {z}")


def test_pengs_table_is_that_of_the_international_tables(x64):
    """Two transcriptions of Table 4.3.2.2, digit for digit."""
    gemmi = pytest.importorskip("gemmi")
    q = np.linspace(0, 4, 9)
    for z in range(1, 99):
        expected = [gemmi.Element(z).c4322.calculate_sf(s * s / 4) for s in q]
        found = form_factor(PENG, z, jnp.asarray(q**2))
        np.testing.assert_allclose(found, expected, rtol=1e-6, err_msg=f"Z = {z}")
