"""Multislice: another program's numbers, the kinematic limit, invariances, gradients."""

import dataclasses
import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from paths import ROOT
from scipy.stats import norm, qmc

import diffraction as dx
from diffraction.form_factors import form_factor
from diffraction.heat import gaussians, heat
from diffraction.multislice import (
    _CORE,
    KinematicWarning,
    _sheet,
    exit_wave,
    interaction,
    kinematic_error,
    multislice,
    multislice_grid,
    scattering_matrix,
    warn_kinematic,
)

REFERENCE = json.loads((ROOT / "tests" / "abtem.json").read_text())
ABTEM, WARM = REFERENCE["cases"], REFERENCE["warm"]
Q_MAX = 1.5
TOP = 10

waves = jax.jit(exit_wave, static_argnames="grid")


def hexagonal(a, fractions, heights, numbers):
    lattice = np.array([[a, 0.0], [-a / 2, a * np.sqrt(3) / 2]])
    positions = np.append(np.array(fractions) @ lattice, np.array(heights)[:, None], 1)
    return dx.Crystal(jnp.asarray(lattice), jnp.asarray(positions), jnp.asarray(numbers))


def mos2():
    places = [[1 / 3, 2 / 3], [2 / 3, 1 / 3], [2 / 3, 1 / 3]]
    return hexagonal(3.18, places, [0, 1.57, -1.57], [42, 16, 16])


def graphene():
    return hexagonal(2.46, [[1 / 3, 2 / 3], [2 / 3, 1 / 3]], [0, 0], [6, 6])


def spots(pattern):
    """hk -> intensity of what is not masked."""
    return {
        tuple(map(int, hk)): float(i)
        for hk, i, there in zip(pattern.hk, pattern.intensity, pattern.mask, strict=True)
        if there
    }


# Another program's numbers


def crystal_of(case):
    return dx.Crystal(*(jnp.array(case[x]) for x in ("lattice", "positions", "numbers")))


@pytest.fixture(scope="module")
def against_abtem():
    """{name: (multislice, kinematic)}: relative errors of the strongest ten spots.

    All cases are one batch, with an energy and a tilt for each.
    """
    cases = list(ABTEM.values())
    crystals = dx.stack([crystal_of(c) for c in cases])
    beams = dx.Electrons(jnp.array([c["energy"] for c in cases]))
    tilts = jnp.array([c["tilt"] for c in cases])
    hk = np.array([c["hk"][:TOP] for c in cases])
    areas = np.abs(np.linalg.det(np.asarray(crystals.lattice)))
    strength = np.asarray(jax.vmap(interaction)(beams, tilts)) / areas
    reference = np.array([c["intensity"][:TOP] for c in cases]) / strength[:, None] ** 2
    errors = [
        np.asarray(f(crystals, beams, Q_MAX, 0.0, tilts, hk).intensity) / reference - 1
        for f in (multislice, dx.simulate)
    ]
    return dict(zip(ABTEM, zip(*errors, strict=True), strict=True))


@pytest.mark.parametrize("name", ABTEM)
def test_intensities_are_those_of_abtem(against_abtem, name):
    """Thin slices of the atoms in three dimensions, B = 0. Measured: 0.04 % to 1.92 %."""
    dynamical, _ = against_abtem[name]
    assert np.abs(dynamical).max() < 0.02


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("graphene, 80 kV", 0.002, 0.005),
        ("1H-MoS2, 80 kV", 0.08, 0.11),
        ("1H-MoS2, 200 kV", 0.05, 0.08),
        ("1H-MoS2, 80 kV, tilted", 0.09, 0.12),
        ("1T-PtS2, 80 kV", 0.35, 0.45),
        ("1T-PtS2, 200 kV", 0.20, 0.26),
        ("3 layers of 2H-WSe2, 80 kV", 0.6, 0.7),
        ("6 layers of 2H-MoS2, 80 kV", 0.18, 0.24),
    ],
)
def test_kinematic_theory_ends_where_abtem_says(against_abtem, name, least, most):
    """The largest error of ten spots; so the multislice is better, but hardly for graphene."""
    dynamical, kinematic = np.abs(against_abtem[name])
    assert least < kinematic.max() < most
    assert dynamical.max() < 0.2 * kinematic.max()


@pytest.mark.parametrize("name", WARM)
def test_intensities_of_atoms_in_motion_are_those_of_frozen_phonons(name):
    """The mean wave of abTEM's: off by 0.4 to 2.8 %, the mean potential alone by 15 to 39 %."""
    case = WARM[name]
    crystal = crystal_of(case)
    beam, hk = dx.Electrons(case["energy"]), np.array(case["hk"][:TOP])
    pattern = multislice(crystal, beam, Q_MAX, case["b_iso"], hk=hk)
    area = abs(np.linalg.det(np.asarray(crystal.lattice)))
    strength = float(interaction(beam, jnp.zeros(2))) / area
    found = np.asarray(pattern.intensity) * strength**2
    np.testing.assert_allclose(found, case["intensity"][:TOP], rtol=0.03)


@pytest.mark.parametrize("energy", [30.0, 60.0, 300.0])
def test_what_heat_adds_grows_evenly_with_b(energy):
    """Phases of heavy atoms exceed half a turn, where a logarithm jumps."""
    beam, b = dx.Electrons(energy), jnp.linspace(0.05, 0.8, 40)
    added = heat(beam, jnp.full(40, 92), b / (8 * jnp.pi**2), interaction(beam, jnp.zeros(2)))
    steps = np.diff(np.asarray(added @ gaussians(jnp.array([1.0])))[..., 0], axis=0)
    assert (steps < [0, np.inf]).all() and (steps > [-np.inf, 0]).all()
    assert np.abs(np.diff(steps, axis=0)).max() < np.abs(steps).max() / 3


@pytest.mark.parametrize("table", ["kirkland", "peng"])
def test_tables_agree_on_atoms_in_motion(table):
    """To what they agree on atoms at rest."""
    case = WARM["1T-PtS2, 80 kV"]
    crystal, hk = crystal_of(case), np.array(case["hk"][:TOP])
    for b in (0.05, 0.6):
        found, expected = (
            np.asarray(multislice(crystal, dx.Electrons(80.0, x), Q_MAX, b, hk=hk).intensity)
            for x in (table, "lobato")
        )
        np.testing.assert_allclose(found, expected, rtol=0.03)


# The parts of an atom


@pytest.mark.parametrize("table", ["lobato", "kirkland", "peng"])
def test_the_sheets_of_an_atom_are_parts_of_its_potential(x64, table):
    """The core by quadrature: int f(q, p) 2 c sinc(2 p c) dp; the three together are f."""
    beam, q_squared = dx.Electrons(80.0, table=table), jnp.array([[0.0, 0.3, 2.0, 9.0]])
    p = jnp.linspace(-400, 400, 80_001)

    @jax.jit
    def parts(number):
        f = form_factor(beam, number, q_squared[..., None] + p**2)
        integral = jnp.sum(f * 2 * _CORE * jnp.sinc(2 * p * _CORE), -1) * (p[1] - p[0])
        core, other = (_sheet(beam, number, q_squared, x) for x in (True, False))
        return core, integral, core + 2 * other, form_factor(beam, number, q_squared)

    for number in (8, 74):
        core, integral, total, f = parts(number)
        np.testing.assert_allclose(core, integral, rtol=1e-4)
        np.testing.assert_allclose(total, f, rtol=1e-12)


# Limits


@pytest.mark.parametrize(("energy", "sigma"), [(100.0, 0.9244e-3), (200.0, 0.7288e-3)])
def test_the_interaction_is_the_known_one_over_the_longer_way(x64, energy, sigma):
    """sigma in rad / (V A), as tabulated; h^2 / (2 pi m e) = 47.878 V A^2. At 60 degrees, twice."""
    straight, tilted = (
        interaction(dx.Electrons(energy), jnp.array([x, 0.0]), float) for x in (0.0, 60.0)
    )
    np.testing.assert_allclose(straight / 47.878, sigma, rtol=1e-4)
    np.testing.assert_allclose(tilted, 2 * straight, rtol=1e-12)


@pytest.mark.parametrize(
    ("tilt", "tolerance"), [((0.0, 0.0), 1e-3), ((4.0, -3.0), 1e-3), ((-12.0, 20.0), 5e-3)]
)
def test_weak_potentials_scatter_kinematically(x64, layer, tilt, tolerance):
    """A thick oblique crystal with occupancies and U; what is left is f across the beam."""
    rng = np.random.default_rng(1)
    a = rng.normal(0, 0.05, (5, 3, 3))
    crystal = dataclasses.replace(
        layer(), occupancy=jnp.linspace(0.5, 1, 5), u=jnp.asarray(a @ a.swapaxes(1, 2))
    )
    beam, b, tilt = dx.Electrons(80.0), jnp.linspace(0.1, 0.9, 5), jnp.array(tilt)
    grid, weak = multislice_grid(crystal.lattice), 1e-6
    wave = np.asarray(waves(crystal, beam, b, tilt, jnp.asarray(weak), 8.0, grid=grid))
    kinematic = dx.simulate(crystal, beam, Q_MAX, b, tilt)
    hk, expected = np.asarray(kinematic.hk), np.asarray(kinematic.intensity)
    found = np.abs(wave[hk[:, 0], hk[:, 1]]) ** 2 / weak**2
    found[~np.asarray(kinematic.mask)] = 0
    np.testing.assert_allclose(found, expected, atol=tolerance * expected.max())


def test_atoms_at_rest_lose_no_electron(x64, layer):
    """The beams' intensities add up to one, but for what reaches the limit of the band."""
    wave = behind(layer(), jnp.zeros(5), band=12.0)
    np.testing.assert_allclose(np.sum(np.abs(wave) ** 2), 1, rtol=2e-4)
    assert np.abs(wave[0, 0]) ** 2 < 0.995


def behind(crystal, b, tilt=(4.0, -3.0), band=8.0, energy=80.0):
    """The wave behind a crystal."""
    beam, tilt = dx.Electrons(energy), jnp.array(tilt)
    strength = interaction(beam, tilt, float) / abs(np.linalg.det(crystal.lattice))
    grid = multislice_grid(crystal.lattice, band)
    return np.asarray(waves(crystal, beam, b, tilt, strength, band, grid=grid))


def test_the_wave_of_atoms_in_motion_is_the_mean_over_their_places(x64):
    """Frozen phonons by brute force: what the mean wave lacks is scattered between the spots."""
    lattice = np.array([[3.2, 0.1], [-0.4, 4.1]])
    positions = np.array([[0.0, 0.0, 0.0], [1.5, 2.1, 1.6], [1.6, 2.0, -1.4]])
    numbers, b, b_still = jnp.array([78, 34, 34]), np.array([0.5, 1.2, 0.8]), jnp.zeros(3)
    even = qmc.Sobol(9, seed=0).random(1024)
    moves = norm.ppf(even).reshape(-1, 3, 3) * np.sqrt(b / (8 * np.pi**2))[:, None]
    grid, tilt, beam = multislice_grid(lattice), jnp.array([1.0, 2.0]), dx.Electrons(60.0)
    strength = interaction(beam, tilt, float) / np.linalg.det(lattice)

    @jax.jit
    def still(places):
        one = dx.Crystal(jnp.asarray(lattice), places, numbers)
        return exit_wave(one, beam, b_still, tilt, strength, 8.0, grid)

    mean = np.mean(
        [np.asarray(jax.vmap(still)(jnp.asarray(x))).mean(0)
         for x in (positions + moves).reshape(64, -1, 3, 3)], 0
    )  # fmt: skip
    moving = behind(dx.Crystal(*map(jnp.asarray, (lattice, positions, numbers))), jnp.asarray(b),
                    (1.0, 2.0), energy=60.0)  # fmt: skip
    rods = np.concatenate([x := dx.reflections(lattice, 1.25), -x])
    found, expected = (np.abs(x[rods[:, 0], rods[:, 1]]) ** 2 for x in (moving, mean))
    top = np.argsort(-expected)[:20]
    np.testing.assert_allclose(found[top], expected[top], rtol=0.02)
    diffuse = 1 - np.sum(np.abs(mean) ** 2)
    assert diffuse > 0.01
    np.testing.assert_allclose(1 - np.sum(np.abs(moving) ** 2), diffuse, rtol=0.1)


def test_intensities_converge_in_the_band_and_the_grid():
    hk = dx.reflections(mos2().lattice, Q_MAX)
    fine = multislice_grid(mos2().lattice, 12.0)

    def intensity(b, band, grid=fine):
        pattern = multislice(mos2(), q_max=Q_MAX, b_iso=b, hk=hk, band=band, grid=grid)
        return np.asarray(pattern.intensity)

    def error(found, expected):
        return np.abs(found - expected).max() / expected.max()

    cold = [intensity(0.0, band) for band in (4.0, 6.0, 8.0, 12.0)]
    errors = [error(x, cold[-1]) for x in cold[:-1]]
    assert errors == sorted(errors, reverse=True) and 0.01 < errors[0] < 0.05
    assert errors[-1] < 0.007
    assert error(intensity(0.0, 8.0, None), cold[-2]) < 1e-3  # the grid matters less
    warm = intensity(0.4, 12.0)
    assert max(error(intensity(0.4, 8.0, grid), warm) for grid in (fine, None)) < 1e-4


# Invariances


@pytest.fixture(scope="module")
def family():
    """One crystal in several guises, padded to eight atoms, and its patterns as one batch."""
    lattice = np.array([[3.1, 0.4], [-0.9, 3.6]])
    positions = np.array([[0.2, 0.3, 0.0], [1.6, 1.9, 2.1], [0.7, 2.4, 3.7]])
    numbers, c, s = np.array([74, 16, 34]), np.cos(0.7), np.sin(0.7)
    turn = np.array([[c, -s], [s, c]])
    turned = np.column_stack([positions[:, :2] @ turn.T, positions[:, 2]])
    along = np.pad(lattice[0], (0, 1))
    guises = {
        "plain": (lattice, positions, numbers),
        "moved": (lattice, positions[::-1] + [1.1, -7.3, 25.0], numbers[::-1]),
        "turned": (lattice @ turn.T, turned, numbers),
        "setting": (np.array([[1, 0], [1, 1]]) @ lattice, positions, numbers),
        "doubled": (
            np.array([[2, 0], [0, 1]]) @ lattice,
            np.concatenate([positions, positions + along]),
            np.tile(numbers, 2),
        ),
        "padded": (
            lattice,
            np.concatenate([np.full((4, 3), 7e2), positions]),
            np.append([0, 0, 0, 0], numbers),
        ),
        "absent": (lattice, positions, 0 * numbers),
    }
    crystals = {k: dx.Crystal(*map(jnp.asarray, x)) for k, x in guises.items()}
    batch = dx.stack(list(crystals.values()), size=8)
    patterns = jax.tree.map(np.asarray, multislice(batch, dx.Electrons(80.0), 1.25, 0.5))
    return crystals, dict(zip(crystals, (patterns[i] for i in range(len(batch))), strict=True))


@pytest.mark.parametrize(
    ("name", "index", "times"),
    [
        ("moved", np.eye(2), 1),
        ("turned", np.eye(2), 1),
        ("setting", [[1, 0], [1, 1]], 1),
        ("doubled", [[2, 0], [0, 1]], 4),
        ("padded", np.eye(2), 1),
    ],
)
def test_guises_of_a_crystal_scatter_alike(family, name, index, times):
    _, patterns = family
    plain, found = spots(patterns["plain"]), spots(patterns[name])
    strongest = max(plain.values())
    for hk, intensity in plain.items():
        there = tuple(np.rint(np.array(index) @ hk).astype(int))
        np.testing.assert_allclose(found.pop(there), times * intensity, atol=2e-4 * strongest)
    assert all(i < 1e-6 * strongest for i in found.values())  # the supercell's own rods


def test_a_crystal_of_padding_scatters_nothing(family):
    absent = family[1]["absent"]
    assert absent.mask.any() and absent.intensity.max() < 1e-20


def test_a_batch_is_its_crystals(family):
    crystals, patterns = family
    alone = multislice(crystals["plain"], dx.Electrons(80.0), 1.25, 0.5)
    found, expected = spots(patterns["plain"]), spots(alone)
    assert found.keys() == expected.keys()
    values = np.array([(found[hk], i) for hk, i in expected.items()])
    np.testing.assert_allclose(*values.T, atol=2e-4 * values.max())
    # Masks, indices and places are those of the kinematic pattern.
    kinematic = dx.simulate(crystals["plain"], dx.Electrons(80.0), 1.25, 0.5)
    for name in ("q", "hk", "mask"):
        np.testing.assert_array_equal(getattr(alone, name), getattr(kinematic, name))
    assert not np.asarray(alone.intensity)[~np.asarray(alone.mask)].any()


def test_halves_of_an_atom_are_the_atom_and_b_is_u(family):
    crystals, patterns = family
    plain = crystals["plain"]
    order = jnp.array([0, 0, 1, 2])
    halves = dx.Crystal(
        plain.lattice,
        plain.positions[order],
        plain.numbers[order],
        jnp.array([0.25, 0.75, 1, 1]),
        jnp.broadcast_to(jnp.eye(3) * 0.5 / (8 * jnp.pi**2), (4, 3, 3)),
    )
    found, expected = spots(multislice(halves, dx.Electrons(80.0), 1.25)), spots(patterns["plain"])
    values = np.array([(found[hk], i) for hk, i in expected.items()])
    np.testing.assert_allclose(*values.T, atol=2e-4 * values.max())


# Gradients

HK = np.array([[1, 0], [0, 1], [-1, 1], [1, 1], [2, -1], [0, -2], [0, 0]])
BAND, GRID = 4.0, (28, 40)


@jax.jit
@jax.value_and_grad
def objective(values, numbers):
    lattice, positions, b, tilt, energy = values
    crystal = dx.Crystal(lattice, positions, numbers)
    pattern = multislice(crystal, dx.Electrons(energy), Q_MAX, b, tilt, HK, BAND, GRID)
    return jnp.sum(pattern.intensity * jnp.cos(jnp.arange(len(HK))))


def arguments(layer, **options):
    crystal = dx.stack([layer(**options)], size=7)
    lattice, positions, numbers = (
        np.array(x)[0] for x in (crystal.lattice, crystal.positions, crystal.numbers)
    )
    positions[5:] = 33.3
    b = np.append(np.linspace(0.4, 0.9, 5), [5.0, 5.0])
    return (lattice, positions, b, np.array([3.0, -2.0]), np.array(80.0)), numbers


def test_gradients_are_finite_differences(x64, layer):
    values, numbers = arguments(layer)
    _, gradient = objective(values, numbers)
    rng = np.random.default_rng(0)
    for i, (value, slope) in enumerate(zip(values, gradient, strict=True)):
        direction = rng.normal(size=value.shape)
        step = 1e-5 * max(1.0, np.abs(value).max())
        moved = ((*values[:i], value + s * direction, *values[i + 1 :]) for s in (step, -step))
        there, back = (float(objective(x, numbers)[0]) for x in moved)
        difference = (there - back) / (2 * step)
        assert abs(difference) > 1e-6
        np.testing.assert_allclose(np.sum(np.asarray(slope) * direction), difference, rtol=2e-5)


def test_padded_atoms_have_gradients_of_exactly_zero(x64, layer):
    values, numbers = arguments(layer)
    _, (_, positions, b, _, _) = objective(values, numbers)
    for gradient in map(np.asarray, (positions, b)):
        assert np.isfinite(gradient).all()
        assert not gradient[5:].any() and gradient[:5].all()


def test_gradients_of_atoms_at_one_height_are_finite(x64, layer):
    values, numbers = arguments(layer, thickness=0.0)
    _, gradient = objective(values, numbers)
    assert all(np.isfinite(x).all() for x in gradient)


# Where kinematic theory ends


def test_the_quick_error_is_that_of_the_fine_multislice(family):
    crystals, patterns = family
    both = dx.stack([graphene(), crystals["plain"]])
    quick = np.asarray(kinematic_error(both, dx.Electrons(80.0), 1.25, 0.5))
    true = spots(patterns["plain"])
    kinematic = spots(dx.simulate(crystals["plain"], b_iso=0.5))
    true, kinematic = np.array([(i, kinematic[hk]) for hk, i in true.items()]).T
    kinematic *= true.sum() / kinematic.sum()
    np.testing.assert_allclose(quick[1], np.abs(true - kinematic).sum() / true.sum(), rtol=0.05)
    assert quick[0] < 0.002 and quick[1] > 0.05


@pytest.mark.parametrize("b", [0.0, 0.2, 1.0])
def test_the_quick_error_follows_b(b):
    """Sharp potentials need a finer multislice: at B = 0 the coarse one is off by a factor."""
    crystal = mos2()
    hk = dx.reflections(np.asarray(crystal.lattice), 1.25)
    true = np.asarray(multislice(crystal, b_iso=b, hk=hk, band=12.0).intensity)
    kinematic = np.asarray(dx.simulate(crystal, b_iso=b, hk=hk).intensity)
    kinematic = kinematic * true.sum() / kinematic.sum()
    fine = np.abs(true - kinematic).sum() / true.sum()
    for b_iso in (b, {"Mo": b, "S": b + 0.1} if b == 1.0 else b):
        assert float(kinematic_error(crystal, b_iso=b_iso)) == pytest.approx(fine, rel=0.2)


def test_the_error_that_is_asked_for_without_b_is_that_of_a_warm_crystal():
    assert float(kinematic_error(mos2())) == float(kinematic_error(mos2(), b_iso=0.5))


def test_crystals_that_scatter_twice_are_warned_of(family):
    both = dx.stack([graphene(), family[0]["plain"]])
    with pytest.warns(KinematicWarning, match="of 1 of 2 crystals are off by up to 12 %"):
        warn_kinematic(both, b_iso=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_kinematic(both, dx.Xrays(0.7))


# What is refused


def test_simulate_chooses_the_method(family):
    crystals, _ = family
    arguments = (crystals["plain"], dx.Electrons(80.0), 1.25, 0.5)
    found, expected = dx.simulate(*arguments, method="multislice"), multislice(*arguments)
    np.testing.assert_array_equal(found.intensity, expected.intensity)
    assert not np.allclose(found.intensity, dx.simulate(*arguments).intensity, rtol=1e-2)
    with pytest.raises(ValueError, match="method must be"):
        dx.simulate(*arguments, method="bloch")


def test_xrays_are_refused():
    with pytest.raises(ValueError, match="multislice is for electrons, got Xrays"):
        multislice(mos2(), dx.Xrays())


def test_a_band_that_does_not_hold_the_pattern_is_refused():
    with pytest.raises(ValueError, match="q_max = 3.0 must be less than band = 2.5"):
        multislice(mos2(), q_max=3.0, band=2.5)


def test_a_grid_that_does_not_hold_the_band_is_refused():
    with pytest.raises(ValueError, match=r"a grid of \(54, 32\) is too small for band = 8.0"):
        multislice(mos2(), grid=(54, 32))


def test_a_traced_lattice_needs_rods_and_grid():
    with pytest.raises(ValueError, match="grid=multislice_grid"):
        jax.jit(lambda c: multislice(c, hk=HK))(mos2())


def test_a_grid_holds_the_band_and_suits_the_fft(layer):
    lattices = np.stack([np.asarray(layer(s).lattice) for s in range(3)])
    grid = multislice_grid(lattices, 7.0)
    for n, length in zip(grid, np.linalg.norm(lattices, axis=-1).max(0), strict=True):
        assert n % 2 == 0 and 2 * 7.0 * length < n < 2 * 7.0 * length * 1.25
        assert 30**8 % n == 0


def test_layers_on_each_other_are_the_product_of_their_scattering_matrices():
    lattice = np.array([[3.2, 0.0], [-1.6, 2.77]])
    layer = np.array([[0.0, 0.0, 1.5], [1.6, 0.92, 0.0], [0.0, 0.0, -1.5]])
    shift, step, beam, b, band = np.array([1 / 3, 2 / 3]), 6.0, dx.Electrons(80.0), 0.5, 5.0
    numbers, grid = np.array([34, 74, 34]), multislice_grid(lattice, band)
    half = dx.reflections(lattice, band - 0.5)
    half = half[(half != 0).any(-1)]
    beams = np.concatenate([[[0, 0]], half])

    def crystal(positions: np.ndarray, count: int) -> dx.Crystal:
        return dx.Crystal(
            jnp.asarray(lattice), jnp.asarray(positions), jnp.asarray(np.tile(numbers, count))
        )

    matrix = np.asarray(scattering_matrix(crystal(layer, 1), beam, b, beams, band, grid))
    below = layer + [*(shift @ lattice), -step]
    both = crystal(np.concatenate([layer, below]), 2)
    tilt = jnp.zeros(2)
    strength = interaction(beam, tilt, float) / np.linalg.det(lattice)
    whole = exit_wave(both, beam, jnp.full(6, b), tilt, strength, band, grid, jnp.asarray(6))
    q = beams @ np.linalg.inv(lattice).T
    qz = np.asarray(dx.ewald_qz(jnp.asarray(q), beam.wavelength))
    way = np.exp(-2j * np.pi * qz * (step - np.ptp(layer[:, 2])))
    aside = np.exp(-2j * np.pi * beams @ shift)
    wave = aside * (matrix @ (way * aside.conj() * matrix[:, 0]))
    expected = np.asarray(whole)[beams[:, 0], beams[:, 1]]
    # Beams near the band's end are missing in the product.
    inner = np.linalg.norm(q, axis=1) < 1.3
    assert np.abs(expected[inner][1:]).max() > 0.02
    np.testing.assert_allclose(wave[inner], expected[inner], atol=2e-4)
