"""Where the Ewald sphere cuts the rods, which rods there are, and where spots fall."""


import jax
import jax.numpy as jnp
import numpy as np
import pytest
from beams import EACH_BEAM, Q_MAX, TILTS, change, direct_sum, ewald_qz, form_factor, spots
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

import diffraction as dx
from diffraction.kinematic import detector_positions


@pytest.mark.parametrize("tilt", TILTS)
@pytest.mark.parametrize("energy", [30.0, 80.0, 300.0])
def test_scattering_is_elastic(x64, layer, tilt, energy):
    """|k0 + q| = |k0|: the beam runs along -z, the crystal is turned."""
    crystal, k = layer(), 1 / dx.Electrons(energy).wavelength
    q_par = jnp.asarray(dx.reflections(crystal.lattice, 2.0) @ np.asarray(crystal.reciprocal))
    q = np.concatenate([q_par, ewald_qz(q_par, 1 / k, tilt)[:, None]], -1)
    lab = Rotation.from_euler("xy", tilt, degrees=True).apply(q)
    np.testing.assert_allclose(np.linalg.norm(lab + [0, 0, -k], axis=-1), k, rtol=1e-14)


def test_normal_incidence_follows_the_closed_form(x64):
    q = jnp.linspace(0.0, 20.0, 50)
    for wavelength in (0.04176, 0.0197):
        closed = 1 / wavelength - np.sqrt(1 / wavelength**2 - q**2)
        found = ewald_qz(jnp.stack([q * 0.6, q * 0.8], -1), wavelength)
        np.testing.assert_allclose(found, closed, atol=1e-13)


def test_single_precision_does_not_cancel_near_the_axis():
    """1/lambda minus nearly the same would leave 2 digits in float32."""
    q = jnp.array([[0.3, 0.0]])
    np.testing.assert_allclose(ewald_qz(q, 0.0197), [0.0197 * 0.09 / 2], rtol=2e-5)


def test_beyond_the_sphere_there_is_no_cut():
    found = ewald_qz(jnp.array([[0.64, 0.0], [0.66, 0.0]]), 1.5406)
    np.testing.assert_array_equal(np.isnan(found), [False, True])


def test_tilting_up_a_side_lowers_the_cut_there(x64):
    # About x, positive: +y rises towards the source, by the right hand.
    wavelength, y, angle = 0.0418, 0.5, np.deg2rad(2.0)
    found = ewald_qz(jnp.array([[0.0, y], [0.0, -y]]), wavelength, (2.0, 0.0))
    flat = wavelength * y**2 / 2
    np.testing.assert_allclose(found, [flat - y * angle, flat + y * angle], atol=5e-4)
    # About y, positive: +x sinks.
    found = ewald_qz(jnp.array([[y, 0.0], [-y, 0.0]]), wavelength, (0.0, 2.0))
    np.testing.assert_allclose(found, [flat + y * angle, flat - y * angle], atol=5e-4)


@EACH_BEAM
@pytest.mark.parametrize("tilt", TILTS[1:])
def test_a_tilt_turns_the_atoms(x64, layer, beam, tilt):
    """Turn the atoms by an independent matrix: F at the detector's q, on the sphere, is the spot.

    So the reported q are the components across the beam, in the laboratory.
    """
    crystal = layer()
    k = 1 / beam.wavelength
    pattern = dx.simulate(crystal, beam, Q_MAX, 0.0, tilt)
    mask = np.asarray(pattern.mask)
    across = np.asarray(pattern.q)[mask]
    q = np.append(across, k - np.sqrt(k**2 - (across**2).sum(-1, keepdims=True)), 1)
    rotation = Rotation.from_euler("xy", tilt, degrees=True)
    turned = change(crystal, positions=jnp.asarray(rotation.apply(np.array(crystal.positions))))
    expected = np.abs(direct_sum(turned, q, beam)) ** 2
    if isinstance(beam, dx.Xrays):
        two_theta = 2 * np.arcsin(np.linalg.norm(q, axis=-1) / (2 * k))
        expected *= (1 + np.cos(two_theta) ** 2) / (2 * np.sin(two_theta))
    np.testing.assert_allclose(np.asarray(pattern.intensity)[mask], expected, rtol=1e-8)
    # They are rods of the crystal: back in its frame, q . a1 = h and q . a2 = k.
    inside = rotation.inv().apply(q)[:, :2]
    np.testing.assert_allclose(inside @ crystal.lattice.T, np.asarray(pattern.hk)[mask], atol=1e-10)


def test_a_dimer_on_end_rocks_as_a_cosine(x64):
    """Two atoms a height t apart: I = 4 f^2 cos^2(pi qz t), with qz set by the tilt."""
    height, wavelength = 3.0, dx.Electrons(80.0).wavelength
    crystal = dx.Crystal(
        jnp.array([[3.0, 0.0], [0.0, 3.0]]),
        jnp.array([[0, 0, 0], [0, 0, height]]),
        jnp.array([14, 14]),
    )
    for angle in (0.0, 5.0, 15.0, 25.0):
        _, intensity = spots(dx.simulate(crystal, q_max=0.5, tilt=(angle, 0.0)))[0, 1]
        # Bisection on the elastic condition, not the root under test.
        low, high = -0.5, 0.5
        for _ in range(80):
            qz = (low + high) / 2
            c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
            y, z = c / 3 - s * qz, s / 3 + c * qz
            above = np.hypot(y, z - 1 / wavelength) < 1 / wavelength
            low, high = (low, qz) if above else (qz, high)
        f = form_factor(dx.Electrons(), 14, jnp.array(1 / 9 + qz**2))
        np.testing.assert_allclose(
            intensity, 4 * f**2 * np.cos(np.pi * qz * height) ** 2, rtol=1e-8
        )


@settings(max_examples=40, deadline=None)
@given(
    a=st.floats(1.5, 9.0),
    b=st.floats(1.5, 9.0),
    gamma=st.floats(20.0, 160.0),
    turn=st.floats(0.0, 360.0),
    left=st.booleans(),
    q_max=st.floats(0.8, 2.0),
)
def test_reflections_are_complete_and_sorted(a, b, gamma, turn, left, q_max):
    angles = np.deg2rad([turn, turn + (-gamma if left else gamma)])
    lattice = np.array([[a], [b]]) * np.stack([np.cos(angles), np.sin(angles)], -1)
    h, k = np.mgrid[-25:26, -25:26]
    everything = np.stack([h.ravel(), k.ravel()], -1)
    length = np.linalg.norm(everything @ np.linalg.inv(lattice).T, axis=-1)
    assume((length[length > 0] < 0.99 * q_max).any())

    found = dx.reflections(lattice, q_max)
    assert len(found) % 32 == 0 and found.dtype == np.int32
    present = found.any(-1)
    kept = found[present]
    assert not found[len(kept) :].any()  # padding comes last

    surely = everything[(length > 0) & (length < q_max * (1 - 1e-5))]
    at_most = everything[(length > 0) & (length < q_max * (1 + 1e-5))]
    kept_set = set(map(tuple, kept))
    assert len(kept_set) == len(kept)
    assert set(map(tuple, surely)) <= kept_set <= set(map(tuple, at_most))
    lengths = np.linalg.norm(kept @ np.linalg.inv(lattice).T, axis=-1)
    assert (np.diff(lengths) > -2e-6).all()


def test_reflections_of_a_batch_are_those_of_each(layer):
    lattices = np.stack([np.asarray(layer(s).lattice) * (1 + s) for s in range(3)])
    found = dx.reflections(lattices, 1.0)
    for row, lattice in zip(found, lattices, strict=True):
        alone = dx.reflections(lattice, 1.0)
        np.testing.assert_array_equal(row[: len(alone)], alone)
        assert not row[len(alone) :].any()


@pytest.mark.parametrize("a", np.linspace(2.3, 4.0, 12))
def test_a_ring_on_q_max_is_kept_whole(a):
    """Rounding must not take two of six equivalent spots and leave four."""
    lattice = np.array([[a, 0.0], [-a / 2, a * np.sqrt(3) / 2]])
    crystal = dx.Crystal(jnp.asarray(lattice), jnp.zeros((1, 3)), jnp.array([6]))
    edge = 2 / (np.sqrt(3) * a)
    assert dx.simulate(crystal, q_max=edge).mask.sum() == 6
    assert dx.simulate(crystal, q_max=edge * np.sqrt(3)).mask.sum() == 12


@EACH_BEAM
@pytest.mark.parametrize("tilt", TILTS[:3])
def test_spots_fall_on_the_detector_at_twice_braggs_angle(x64, layer, beam, tilt):
    length = 1234.5
    pattern = dx.simulate(layer(), beam, Q_MAX, 0.0, tilt)
    mask, hk = np.asarray(pattern.mask), np.asarray(pattern.hk)
    found = np.asarray(detector_positions(pattern, beam, length))
    q_par = jnp.asarray(hk[mask] @ np.asarray(layer().reciprocal))
    q = np.hypot(np.linalg.norm(q_par, axis=-1), ewald_qz(q_par, beam.wavelength, tilt))
    two_theta = 2 * np.arcsin(q * beam.wavelength / 2)
    radius = np.linalg.norm(found, axis=-1)[mask]
    np.testing.assert_allclose(radius, length * np.tan(two_theta), rtol=1e-9)
    across = np.asarray(pattern.q)[mask]  # in the direction of q
    np.testing.assert_allclose(
        found[mask] / radius[:, None], across / np.linalg.norm(across, axis=-1)[:, None], rtol=1e-9
    )


def test_masked_spots_have_no_place_and_no_gradient(layer):
    pattern = dx.simulate(layer(), q_max=0.8)
    pattern = change(pattern, q=jnp.where(pattern.mask[:, None], pattern.q, 1e9))
    beam = dx.Electrons(80.0)

    def total(q, energy, length):
        where = detector_positions(change(pattern, q=q), dx.Electrons(energy), length)
        return jnp.sum(where**2), where

    gradient = jax.jit(jax.grad(total, (0, 1, 2), has_aux=True))
    (dq, de, dl), where = gradient(pattern.q, beam.energy, 300.0)
    mask = np.asarray(pattern.mask)
    assert 0 < mask.sum() < mask.size
    assert not np.asarray(where)[~mask].any() and not np.asarray(dq)[~mask].any()
    assert np.isfinite(dq).all() and de < 0 < dl


def test_what_the_sphere_does_not_reach_is_not_on_the_detector():
    pattern = dx.Pattern(
        jnp.array([[0.5, 0.0], [0.0, 0.8]]), jnp.ones(2), jnp.ones((2, 2), int), jnp.ones(2, bool)
    )
    found = detector_positions(pattern, dx.Xrays(1.5406), 1.0)
    np.testing.assert_array_equal(np.isnan(found), [[False, False], [True, True]])
    with pytest.raises(ValueError, match="camera length must be positive, got -1"):
        detector_positions(pattern, dx.Xrays(1.5406), -1.0)

