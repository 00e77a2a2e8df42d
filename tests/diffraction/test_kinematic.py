"""Structure factors, the Ewald cut and the pattern: symmetries, limits, gradients."""


import jax
import jax.numpy as jnp
import numpy as np
import pytest
from beams import (
    BEAMS,
    EACH_BEAM,
    Q_MAX,
    TILTS,
    assert_same,
    change,
    direct_sum,
    disordered,
    ewald_qz,
    form_factor,
    spots,
    structure_factor,
)
from scipy.spatial.transform import Rotation

import diffraction as dx
from diffraction.kinematic import detector_positions, lorentz_polarisation


def test_whole_numbers_are_numbers(layer):
    crystal = layer(0)
    whole, real = [[1, 0, 0]], [[1.0, 0.0, 0.0]]
    found, expected = (
        structure_factor(crystal, jnp.array(q), BEAMS[0], 0.5) for q in (whole, real)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(
        ewald_qz(jnp.array([[1, 0]]), 0.0418), ewald_qz(jnp.array([[1.0, 0.0]]), 0.0418), rtol=1e-6
    )
    for simulate in (dx.simulate, lambda c: list(dx.simulate_library(dx.stack([c])))):
        with pytest.raises(ValueError, match="floating point"):
            simulate(change(crystal, positions=jnp.zeros((5, 3), int)))


@EACH_BEAM
def test_translation_changes_nothing(x64, layer, beam):
    crystal = layer()
    moved = change(crystal, positions=crystal.positions + jnp.array([0.7, -1.3, 12.9]))
    for tilt in TILTS[:2]:
        assert_same(
            dx.simulate(moved, beam, Q_MAX, 0.3, tilt), dx.simulate(crystal, beam, Q_MAX, 0.3, tilt)
        )


def test_an_atom_may_stand_in_any_cell(x64, layer):
    crystal = layer()
    shifts = jnp.array([[1, 0], [0, -2], [3, 1], [0, 0], [-1, -1]]) @ crystal.lattice
    moved = change(crystal, positions=crystal.positions.at[:, :2].add(shifts))
    assert_same(dx.simulate(moved, tilt=(5.0, 2.0)), dx.simulate(crystal, tilt=(5.0, 2.0)))


def test_the_order_of_atoms_changes_nothing(x64, layer):
    crystal, order, b = layer(), jnp.array([3, 1, 4, 0, 2]), jnp.linspace(0.1, 0.9, 5)
    shuffled = change(crystal, positions=crystal.positions[order], numbers=crystal.numbers[order])
    assert_same(
        dx.simulate(shuffled, b_iso=b[order], tilt=(5.0, 2.0)),
        dx.simulate(crystal, b_iso=b, tilt=(5.0, 2.0)),
    )


def test_padding_changes_nothing_wherever_it_is(layer):
    beam = BEAMS[0]
    crystal = layer()
    expected = dx.simulate(crystal, beam, Q_MAX, 0.3, (3.0, 1.0))
    scale = expected.intensity.max()
    for garbage in (0.0, 7.3, 1e4):
        padded = dx.Crystal(
            crystal.lattice,
            jnp.concatenate([jnp.full((3, 3), garbage), crystal.positions]),
            jnp.concatenate([jnp.zeros(3, int), crystal.numbers]),
        )
        found = dx.simulate(padded, beam, Q_MAX, 0.3, (3.0, 1.0))
        # Only the order of the additions may differ.
        np.testing.assert_allclose(found.intensity, expected.intensity, atol=1e-6 * scale)


def test_padded_and_masked_spots_are_zero(layer):
    lattice = layer().lattice
    hk = np.concatenate([dx.reflections(lattice, 2.0), np.zeros((5, 2), int)])
    pattern = dx.simulate(layer(), q_max=0.8, hk=hk)
    mask = np.asarray(pattern.mask)
    assert 0 < mask.sum() < len(dx.reflections(lattice, 2.0))
    for values in (pattern.q, pattern.intensity, pattern.hk):
        assert not np.asarray(values)[~mask].any()
    assert np.all(np.linalg.norm(pattern.q[mask], axis=-1) <= 0.8)
    assert spots(pattern).keys() == spots(dx.simulate(layer(), q_max=0.8)).keys()


@EACH_BEAM
@pytest.mark.parametrize("angle", [17.0, 90.0, -133.0])
def test_the_pattern_turns_with_the_crystal(x64, layer, beam, angle):
    crystal = layer()
    r = jnp.asarray(Rotation.from_euler("z", angle, degrees=True).as_matrix())
    turned = change(
        crystal, lattice=crystal.lattice @ r[:2, :2].T, positions=crystal.positions @ r.T
    )
    found, expected = (spots(dx.simulate(c, beam, Q_MAX, 0.3)) for c in (turned, crystal))
    assert found.keys() == expected.keys()
    for hk, (q, intensity) in expected.items():
        np.testing.assert_allclose(found[hk][0], r[:2, :2] @ q, atol=1e-13)
        np.testing.assert_allclose(found[hk][1], intensity, rtol=1e-9)


@pytest.mark.parametrize("cell", [[[2, 0], [0, 1]], [[2, 1], [0, 3]], [[1, 1], [-1, 2]]])
@pytest.mark.parametrize("tilt", TILTS[:2])
def test_a_supercell_has_the_same_pattern(x64, layer, cell, tilt):
    crystal, cell = layer(), np.array(cell)
    times = round(abs(np.linalg.det(cell)))
    # Lattice points inside the supercell.
    points = np.stack(np.mgrid[-6:7, -6:7], -1).reshape(-1, 2)
    fraction = points @ np.linalg.inv(cell)
    points = points[((fraction > -1e-9) & (fraction < 1 - 1e-9)).all(1)]
    assert len(points) == times
    offsets = np.pad(points @ np.asarray(crystal.lattice), [(0, 0), (0, 1)])
    big = dx.Crystal(
        cell @ crystal.lattice,
        (crystal.positions[None] + offsets[:, None]).reshape(-1, 3),
        jnp.tile(crystal.numbers, times),
    )
    small = spots(dx.simulate(crystal, q_max=Q_MAX, b_iso=0.3, tilt=tilt))
    strongest = max(i for _, i in small.values())
    common = 0
    for hk, (q, intensity) in spots(dx.simulate(big, q_max=Q_MAX, b_iso=0.3, tilt=tilt)).items():
        index = np.linalg.solve(cell, hk)  # (H, K) = M (h, k)
        if np.allclose(index, np.round(index), atol=1e-9):
            expected = small[tuple(np.round(index).astype(int))]
            np.testing.assert_allclose(q, expected[0], atol=1e-12)
            np.testing.assert_allclose(intensity, times**2 * expected[1], rtol=1e-8)
            common += 1
        else:
            assert intensity < 1e-20 * strongest
    assert common == len(small)


def test_inversion_pairs_are_equal_for_flat_crystals_only(x64, layer):
    """The Ewald sphere cuts (h, k) and (-h, -k) at the same side, so thick crystals tell them."""
    flat, thick = (
        spots(dx.simulate(layer(thickness=t), q_max=Q_MAX, b_iso=0.3)) for t in (0.0, 4.0)
    )
    strongest = max(i for _, i in thick.values())
    differences = []
    for h, k in thick:
        np.testing.assert_allclose(flat[h, k][1], flat[-h, -k][1], rtol=1e-9)
        differences.append(abs(thick[h, k][1] - thick[-h, -k][1]) / strongest)
    assert max(differences) > 0.01


def test_turning_a_layer_over_exchanges_inversion_pairs(x64, layer):
    crystal = layer()
    over = change(crystal, positions=crystal.positions * jnp.array([1, 1, -1]))
    found, expected = (spots(dx.simulate(c, q_max=Q_MAX, b_iso=0.3)) for c in (over, crystal))
    for h, k in expected:
        np.testing.assert_allclose(found[h, k][1], expected[-h, -k][1], rtol=1e-9)


def test_a_mirrored_crystal_has_the_mirrored_pattern(x64, layer):
    """y to -y, and a tilt about x with it."""
    crystal = layer()
    mirrored = change(
        crystal,
        lattice=crystal.lattice * jnp.array([1, -1]),
        positions=crystal.positions * jnp.array([1, -1, 1]),
    )
    expected = spots(dx.simulate(crystal, q_max=Q_MAX, tilt=(6.0, 0.0)))
    found = spots(dx.simulate(mirrored, q_max=Q_MAX, tilt=(-6.0, 0.0)))
    assert found.keys() == expected.keys()
    for hk, (q, intensity) in expected.items():
        np.testing.assert_allclose(found[hk][0], q * [1, -1], atol=1e-13)
        np.testing.assert_allclose(found[hk][1], intensity, rtol=1e-9)


def test_a_batch_is_its_crystals(layer):
    beam = BEAMS[1]
    crystals = [layer(0, 5), layer(1, 2), layer(2, 4)]
    batch = dx.stack(crystals)
    hk = dx.reflections(batch.lattice, Q_MAX)
    b = jnp.array([0.1, 0.5, 0.9])
    together = jax.tree.map(np.asarray, dx.simulate(batch, beam, Q_MAX, b, (3.0, 1.0)))
    assert len(together) == 3 and together.mask.shape == hk.shape[:2]

    def one(crystal, b, hk):
        return dx.simulate(crystal, beam, Q_MAX, b, (3.0, 1.0), hk=hk)

    mapped = jax.tree.map(np.asarray, jax.vmap(one)(batch, b, jnp.asarray(hk)))
    for i, crystal in enumerate(crystals):
        alone = one(crystal, b[i], hk[i])
        assert_same(together[i], alone, 2e-6)
        assert_same(mapped[i], alone, 2e-6)
        assert spots(alone).keys() == spots(dx.simulate(crystal, beam, Q_MAX)).keys()


def test_two_batch_axes_work_like_one(layer):
    beam = BEAMS[0]
    flat = dx.stack([layer(s) for s in range(4)])
    square = jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), flat)
    found = dx.simulate(square, beam, Q_MAX, 0.2)
    assert found.q.shape[:2] == (2, 2)
    back = jax.tree.map(lambda x: x.reshape(4, *x.shape[2:]), found)
    assert_same(back, dx.simulate(flat, beam, Q_MAX, 0.2), 2e-6)


@EACH_BEAM
def test_each_crystal_of_a_batch_may_have_its_tilt_and_its_beam(layer, beam):
    crystals = [layer(0), disordered(layer, 1), layer(2)]
    batch = dx.stack(crystals)
    hk = jnp.asarray(dx.reflections(batch.lattice, Q_MAX))
    tilts = jnp.array([[0.0, 0.0], [5.0, -3.0], [-2.0, 8.0]])
    if isinstance(beam, dx.Electrons):
        beams = dx.Electrons(jnp.array([60.0, 80.0, 300.0]))
    else:
        beams = dx.Xrays(jnp.array([0.7, 0.5, 0.6]), jnp.array([0.0, -0.5, 1.0]))
    together = dx.simulate(batch, beams, Q_MAX, 0.3, tilts, hk)
    mapped = jax.vmap(lambda c, r, t, hk: dx.simulate(c, r, Q_MAX, 0.3, t, hk))
    mapped = mapped(batch, beams, tilts, hk)
    where = detector_positions(together, beams, jnp.array([1.0, 2.0, 3.0]))
    for i in range(3):
        one = jax.tree.map(lambda x, i=i: x[i], beams)
        alone = dx.simulate(batch[i], one, Q_MAX, 0.3, tilts[i], hk[i])
        assert_same(together[i], alone, 2e-6)
        assert_same(mapped[i], alone, 2e-6)
        np.testing.assert_allclose(where[i], detector_positions(alone, one, 1.0 + i), atol=1e-5)


def test_compiled_or_not_is_the_same(layer):
    beam = BEAMS[1]
    crystal = layer()
    hk = dx.reflections(crystal.lattice, Q_MAX)
    compiled = jax.jit(lambda c, r: dx.simulate(c, r, Q_MAX, 0.2, (3.0, 1.0), hk=hk))
    with jax.disable_jit():
        plain = dx.simulate(crystal, beam, Q_MAX, 0.2, (3.0, 1.0), hk=hk)
    assert_same(compiled(crystal, beam), plain, 2e-6)
    assert_same(dx.simulate(crystal, beam, Q_MAX, 0.2, (3.0, 1.0)), plain, 2e-6)


@EACH_BEAM
def test_single_precision_is_close_to_double(layer, beam):
    def run():
        pattern = dx.simulate(layer(atoms=40), beam, Q_MAX, 0.2, (3.0, 1.0))
        assert pattern.q.dtype == pattern.intensity.dtype == layer().positions.dtype
        return jax.tree.map(np.asarray, pattern)

    single = run()
    with jax.enable_x64(True):
        double = run()
    assert single.q.dtype == np.float32 and double.q.dtype == np.float64
    assert_same(single, double, 1e-5)


def test_one_atom_scatters_as_its_form_factor(x64):
    crystal = dx.Crystal(jnp.eye(2) * 2.5, jnp.array([[0.3, 0.1, 7.0]]), jnp.array([26]))
    pattern = dx.simulate(crystal, q_max=Q_MAX)
    mask = np.asarray(pattern.mask)
    across = (np.asarray(pattern.q)[mask] ** 2).sum(-1)
    k = 1 / dx.Electrons(80.0).wavelength
    squared = across + (k - np.sqrt(k**2 - across)) ** 2
    f = form_factor(dx.Electrons(), 26, jnp.asarray(squared))
    np.testing.assert_allclose(np.asarray(pattern.intensity)[mask], f**2, rtol=1e-10)


@EACH_BEAM
def test_a_centred_cell_extinguishes_odd_spots(x64, beam):
    lattice = jnp.array([[4.0, 0.5], [-1.0, 3.0]])
    positions = jnp.pad(jnp.array([[0.0, 0.0], [0.5, 0.5]]) @ lattice, [(0, 0), (0, 1)])
    one = dx.Crystal(lattice, positions[:1], jnp.array([26]))
    two = dx.Crystal(lattice, positions, jnp.array([26, 26]))
    single = spots(dx.simulate(one, beam, Q_MAX))
    for (h, k), (_, intensity) in spots(dx.simulate(two, beam, Q_MAX)).items():
        expected = 0.0 if (h + k) % 2 else 4 * single[h, k][1]
        np.testing.assert_allclose(intensity, expected, rtol=1e-10, atol=1e-22)


def test_graphene_rings_have_the_geometry_of_the_honeycomb(x64):
    """|1 + exp(2 pi i (h + 2k) / 3)|^2: 1 for (10), 4 for (11), whatever the form factor."""
    a = 2.46
    lattice = jnp.array([[a, 0.0], [-a / 2, a * np.sqrt(3) / 2]])
    positions = jnp.pad(jnp.array([[1 / 3, 2 / 3], [2 / 3, 1 / 3]]) @ lattice, [(0, 0), (0, 1)])
    crystal = dx.Crystal(lattice, positions, jnp.array([6, 6]))
    atom = dx.Crystal(lattice, positions[:1], jnp.array([6]))
    single = spots(dx.simulate(atom, q_max=1.7))
    for (h, k), (_, intensity) in spots(dx.simulate(crystal, q_max=1.7)).items():
        geometry = 4.0 if (h - k) % 3 == 0 else 1.0
        np.testing.assert_allclose(intensity / single[h, k][1], geometry, rtol=1e-9)
    assert {(1, 1), (1, 0), (2, 0)} <= single.keys()


@pytest.mark.parametrize("b", [0.5, 2.0])
def test_heat_damps_intensities_by_debye_and_waller(x64, layer, b):
    crystal = layer(thickness=0.0)
    cold, warm = (dx.simulate(crystal, q_max=Q_MAX, b_iso=x) for x in (0.0, b))
    across = (np.asarray(cold.q) ** 2).sum(-1)
    k = 1 / dx.Electrons(80.0).wavelength
    squared = across + (k - np.sqrt(k**2 - across)) ** 2
    np.testing.assert_allclose(
        warm.intensity, cold.intensity * np.exp(-b * squared / 2), rtol=1e-10
    )


def test_xrays_are_polarised_by_the_lorentz_polarisation_factor(x64, layer):
    beam = BEAMS[1]
    crystal = layer()
    pattern = dx.simulate(crystal, beam, Q_MAX)
    q_par = np.asarray(pattern.q)
    q = np.concatenate([q_par, ewald_qz(pattern.q, beam.wavelength)[:, None]], -1)
    mask = np.asarray(pattern.mask)
    two_theta = 2 * np.arcsin(beam.wavelength * np.linalg.norm(q, axis=-1) / 2)[mask]
    factor = (1 + np.cos(two_theta) ** 2) / (2 * np.sin(two_theta))
    squared = (q[mask] ** 2).sum(-1)
    np.testing.assert_allclose(lorentz_polarisation(squared, beam.wavelength), factor, rtol=1e-12)
    expected = np.abs(direct_sum(crystal, q[mask], beam)) ** 2 * factor
    np.testing.assert_allclose(np.asarray(pattern.intensity)[mask], expected, rtol=1e-9)


@pytest.mark.parametrize("tilt", TILTS[:3])
def test_polarised_xrays_scatter_as_dipoles(x64, layer, tilt):
    """A field along e drives dipoles along e, which radiate 1 - (k . e)^2 in the direction k."""
    crystal, wavelength = layer(), 0.7
    patterns = [dx.simulate(crystal, dx.Xrays(wavelength, p), Q_MAX, 0.0, tilt) for p in (0, 1, -1)]
    unpolarised, along_x, along_y = jax.tree.map(np.asarray, patterns)
    mask = unpolarised.mask
    # The scattered direction, by turning q with an independent matrix.
    q = np.pad(np.asarray(patterns[0].hk @ crystal.reciprocal), [(0, 0), (0, 1)])
    q[:, 2] = ewald_qz(jnp.asarray(q[:, :2]), wavelength, tilt)
    q = Rotation.from_euler("xy", tilt, degrees=True).apply(q)
    k = (q + [0, 0, -1 / wavelength])[mask] * wavelength
    np.testing.assert_allclose(np.linalg.norm(k, axis=-1), 1, rtol=1e-12)
    two_theta = np.arccos(-k[:, 2])
    dipoles = [1 - (k @ e) ** 2 for e in np.eye(3)[:2]]
    np.testing.assert_allclose(sum(dipoles) / 2, (1 + np.cos(two_theta) ** 2) / 2, rtol=1e-10)
    for found, dipole in ((along_x, dipoles[0]), (along_y, dipoles[1])):
        ratio = found.intensity[mask] / unpolarised.intensity[mask]
        np.testing.assert_allclose(ratio, dipole / (sum(dipoles) / 2), rtol=1e-9)
    assert np.abs(dipoles[0] - dipoles[1]).max() > 0.2


def test_a_pattern_is_indexed_along_its_batch_only(layer):
    pattern = dx.simulate(dx.stack([layer(0), layer(1)]))
    assert isinstance(pattern[1], dx.Pattern) and pattern[1].mask.ndim == 1
    with pytest.raises(TypeError):
        pattern[1][0]
    with pytest.raises(TypeError):
        len(pattern[1])

