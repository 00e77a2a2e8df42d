"""Disturbed patterns: each level is what the design says it is, measured on many samples."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffraction as dx
from dd2d_jax.networks import disturbances as corrupt
from dd2d_jax.networks.disturbances import LEVELS, Disturbance, disturb_crystal
from dd2d_jax.spots import FLOOR, Conditions, half_plane, select

MANY = 2048
CONDITIONS = Conditions(dx.Electrons(80.0), 0.9, 0.5, 12)
KEY = jax.random.key(3)
# Compiled once for all tests.
clean_spots, observe = jax.jit(corrupt.clean_spots), jax.jit(corrupt.observe)


@pytest.fixture
def many(layer) -> dx.Crystal:
    """One crystal of three atoms and a place for a fourth, many times."""
    return jax.tree.map(lambda x: jnp.repeat(x, MANY, 0), dx.stack([layer(1, atoms=3)], 4))


@pytest.fixture
def rods(many) -> jax.Array:
    """Its twelve first rods."""
    hk = half_plane(np.asarray(many.lattice[:1]), 0.9)[:, :12]
    assert hk.any(-1).all()
    return jnp.repeat(jnp.asarray(hk), MANY, 0)


def in_order(found):
    """Measured intensities (B, T, 2) sorted by index, whatever the order of the spots."""
    code = 100 * found.hk[..., 0] + found.hk[..., 1]
    order = jnp.argsort(code, -1)[..., None]
    return [jnp.take_along_axis(x, order, -2) for x in (found.intensity, found.measured)]


def test_the_levels_are_those_of_the_design():
    assert LEVELS["clean"] == Disturbance()
    assert LEVELS["perturbed"] == Disturbance(strain=0.01, displacement=0.03, noise=0.1)
    seen = {"missing": 0.2, "floor": 1e-3}
    optics = {"scale": 0.02, "ellipticity": 0.01, "tilt": 2.0, "wedge": 20.0}
    assert LEVELS["measured"] == dataclasses.replace(LEVELS["perturbed"], **seen, **optics)
    flake = {
        "b_more": 2.5, "slope": 0.5, "friedel": 1.7, "layers": 30.0, "energy": 1.0, "false": 0.1,
    }  # fmt: skip
    camera = {"satellites": 0.05, "few": 2.3, "gamma": 0.7, "clip": 2.3, "floor": 3e-3}
    assert LEVELS["microscope"] == dataclasses.replace(
        LEVELS["measured"], noise=0.3, tilt=5.0, **flake, **camera
    )
    assert set(dataclasses.asdict(Disturbance()).values()) == {0.0}


def test_strain_is_isotropic_and_normal_with_one_percent(many):
    found = disturb_crystal(KEY, many, LEVELS["perturbed"])
    scale = np.asarray(found.lattice / many.lattice)
    np.testing.assert_allclose(scale, np.broadcast_to(scale[:, :1, :1], scale.shape), rtol=1e-6)
    strain = scale[:, 0, 0] - 1
    assert abs(strain.mean()) < 4 * 0.01 / np.sqrt(MANY)
    assert strain.std() == pytest.approx(0.01, rel=0.06)
    assert np.mean(np.abs(strain) < 0.01) == pytest.approx(0.683, abs=0.04)  # normal


def test_every_coordinate_is_displaced_by_0_03_angstrom(many):
    found = disturb_crystal(KEY, many, LEVELS["perturbed"])
    scale = (found.lattice / many.lattice)[:, :1, :1]
    carried = many.positions * jnp.concatenate([scale, scale, jnp.ones_like(scale)], -1)
    moves = np.asarray(found.positions - carried)[:, :3]
    np.testing.assert_allclose(moves.std(0), 0.03, rtol=0.08)
    np.testing.assert_allclose(moves.mean(0), 0, atol=4 * 0.03 / np.sqrt(MANY))
    correlation = np.corrcoef(moves.reshape(MANY, 9).T) - np.eye(9)
    assert np.abs(correlation).max() < 0.09


def test_strain_alone_carries_the_atoms_and_leaves_the_layer_as_thick(many):
    found = disturb_crystal(KEY, many, Disturbance(strain=0.05))
    fractional = jnp.einsum("nad,ned->nae", found.positions[..., :2], found.reciprocal)
    before = jnp.einsum("nad,ned->nae", many.positions[..., :2], many.reciprocal)
    np.testing.assert_allclose(fractional, before, atol=2e-6)
    np.testing.assert_array_equal(found.positions[..., 2], many.positions[..., 2])


def test_noise_is_lognormal_and_apart_for_each_spot(many, rods):
    noisy, _ = in_order(observe(KEY, many, rods, CONDITIONS, Disturbance(noise=0.1)))
    clean, _ = in_order(clean_spots(many, rods, CONDITIONS))
    # Relative to the strongest: the scale of a pattern is lost, so look at ratios within one.
    change = np.log(np.asarray(noisy / clean)).reshape(MANY, -1)
    ratio = change[:, 1:] - change[:, :1]
    np.testing.assert_allclose(ratio.std(0), 0.1 * np.sqrt(2), rtol=0.08)
    np.testing.assert_allclose(ratio.mean(0), 0, atol=0.012)
    # The shared spot alone correlates two ratios, by a half.
    np.testing.assert_allclose(np.corrcoef(ratio.T)[0, 1:], 0.5, atol=0.09)


def test_the_perturbed_level_does_all_three(many, rods):
    found = observe(KEY, many, rods, CONDITIONS, LEVELS["perturbed"])
    area = np.abs(np.linalg.det(found.lattice)) / np.abs(np.linalg.det(many.lattice))
    assert np.sqrt(area).std() == pytest.approx(0.01, rel=0.06)
    parts = [
        in_order(observe(KEY, many, rods, CONDITIONS, amount))[0]
        for amount in (Disturbance(noise=0.1), Disturbance(displacement=0.03))
    ]
    whole, _ = in_order(found)
    for part in parts:
        assert jnp.abs(whole - part).mean() > 1e-3


def test_the_clean_level_is_the_simulators_pattern(many, rods):
    few, hk = many[:8], rods[:8]
    pattern = dx.simulate(few, CONDITIONS.radiation, 0.9, 0.5, hk=jnp.concatenate([hk, -hk], 1))
    intensity = jnp.stack(jnp.split(pattern.intensity, 2, axis=1), -1)
    expected = select(pattern.q[:, :12], hk, intensity, intensity > 0, 12)
    for found in (
        clean_spots(few, hk, CONDITIONS),
        observe(KEY, few, hk, CONDITIONS, LEVELS["clean"]),
    ):
        np.testing.assert_array_equal(found.hk, expected.hk)
        np.testing.assert_array_equal(found.measured, expected.measured)
        np.testing.assert_allclose(found.intensity, expected.intensity, rtol=1e-5)
        np.testing.assert_allclose(found.q, expected.q, rtol=1e-6)


def test_the_same_key_draws_the_same(many, rods):
    few, hk, amount = many[:8], rods[:8], Disturbance(0.01, 0.03, 0.1, 0.2, 0.2, 0.1, 0.001)
    one, same, other = (observe(jax.random.key(k), few, hk, CONDITIONS, amount) for k in (1, 1, 2))
    jax.tree.map(np.testing.assert_array_equal, one, same)
    assert not np.array_equal(one.intensity, other.intensity)
    # Copies of one crystal in a batch are disturbed each in its own way.
    assert len(np.unique(np.asarray(one.lattice)[:, 0, 0])) == 8


def test_missing_spots_are_missing_at_random(many, rods):
    found = observe(KEY, many, rods, CONDITIONS, Disturbance(missing=0.3))
    _, seen = in_order(found)
    seen = np.asarray(seen).reshape(MANY, -1)
    # Single spots are lost, not pairs: each with the same probability.
    np.testing.assert_allclose(1 - seen.mean(0), 0.3, atol=0.04)
    assert (~seen[:, 0] & ~seen[:, 1]).mean() == pytest.approx(0.09, abs=0.03)
    assert not np.asarray(found.intensity)[~np.asarray(found.measured)].any()


def test_missing_everything_is_an_empty_pattern(many, rods):
    found = observe(KEY, many[:8], rods[:8], CONDITIONS, Disturbance(missing=1.0))
    assert not found.mask.any()
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))


def test_crop_takes_away_what_lies_beyond_it(many, rods):
    found = observe(KEY, many[:8], rods[:8], CONDITIONS, Disturbance(crop=0.3))
    q = np.linalg.norm(found.q, axis=-1)
    seen = np.asarray(found.mask)
    whole = np.linalg.norm(clean_spots(many[:8], rods[:8], CONDITIONS).q, axis=-1)
    assert (q[seen] <= 0.7 * 0.9 * (1 + 1e-6)).all()
    assert seen.sum() == (whole <= 0.7 * 0.9).sum() < seen.size


def test_floor_takes_away_the_weak(many, rods):
    found = observe(KEY, many[:8], rods[:8], CONDITIONS, Disturbance(floor=0.05))
    whole = clean_spots(many[:8], rods[:8], CONDITIONS)
    intensity = np.asarray(whole.intensity)
    assert np.asarray(found.intensity)[np.asarray(found.measured)].min() >= 0.05
    assert np.asarray(found.measured).sum() == (intensity >= 0.05).sum() < intensity.size
    assert FLOOR < 0.003  # what the default config loses lies above what the encoders read as zero


def test_b_changes_uniformly_within_its_width(many, rods):
    found = observe(KEY, many, rods, CONDITIONS, Disturbance(b_iso=0.4))
    intensity, _ = (np.asarray(x)[:, :, 0] for x in in_order(found))
    clean, _ = (np.asarray(x)[:, :, 0] for x in in_order(clean_spots(many, rods, CONDITIONS)))
    order = np.argsort(100 * np.asarray(found.hk)[0, :, 0] + np.asarray(found.hk)[0, :, 1])
    q_squared = (np.asarray(found.q)[0][order] ** 2).sum(-1)
    near, far = q_squared.argmin(), q_squared.argmax()
    # |F|^2 carries exp(-B q^2 / 2), q^2 up to the height at which the sphere cuts the rod.
    change = np.log(intensity / clean)
    b = -2 * (change[:, far] - change[:, near]) / (q_squared[far] - q_squared[near])
    assert -0.41 < b.min() < -0.39 and 0.39 < b.max() < 0.41
    assert b.std() == pytest.approx(0.8 / np.sqrt(12), rel=0.05)


def test_amounts_may_differ_within_a_batch(many, rods):
    amount = Disturbance(
        strain=0.02 * jnp.arange(8.0),
        displacement=0.1 * jnp.arange(8.0),
        noise=0.3 * jnp.arange(8.0),
    )
    few, hk = many[:8], rods[:8]
    found = observe(KEY, few, hk, CONDITIONS, amount)
    clean = clean_spots(few, hk, CONDITIONS)
    np.testing.assert_allclose(found.intensity[0], clean.intensity[0], rtol=1e-5)
    assert jnp.abs(found.lattice[1] - clean.lattice[1]).max() > 1e-4


def measured(crystal, hk, **amount: float) -> dx.Pattern:
    """The places of the crystal's own spots; those of satellites and false spots are empty."""
    found = jax.jit(corrupt.measure)(KEY, crystal, hk, CONDITIONS, Disturbance(**amount))
    count = 2 * hk.shape[1]
    assert not np.asarray(found.mask)[:, count:].any()
    return jax.tree.map(lambda x: x[:, :count], found)


def lengths(pattern: dx.Pattern) -> np.ndarray:
    return np.linalg.norm(np.asarray(pattern.q, float), axis=-1)


def test_measured_patterns_are_turned_by_any_angle_and_seen_from_either_side(many, rods):
    found = measured(many, rods)
    assert not np.asarray(found.hk).any()
    true = dx.simulate(many[:1], CONDITIONS.radiation, 0.9, 0.5, hk=rods[:1])
    wanted = np.broadcast_to(lengths(true), (MANY, rods.shape[1]))
    np.testing.assert_allclose(lengths(found)[:, ::2], wanted, rtol=1e-4)
    first, second = (np.asarray(found.q, float)[:, i] for i in (0, 2))
    angle = np.arctan2(*first.T)
    counts, _ = np.histogram(angle, 8, (-np.pi, np.pi))
    assert counts == pytest.approx(MANY / 8, rel=0.3)
    side = np.sign(first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0])
    assert abs(side.mean()) < 0.1 and set(side) == {-1.0, 1.0}


def test_scale_and_ellipticity_are_uniform_within_their_limits(many, rods):
    clean = lengths(measured(many, rods))
    scaled = lengths(measured(many, rods, scale=0.02)) / clean
    assert np.ptp(scaled, axis=1).max() < 1e-5  # one for all spots
    assert 0.0195 < np.abs(scaled - 1).max() < 0.02001
    assert scaled[:, 0].std() == pytest.approx(0.02 / np.sqrt(3), rel=0.05)
    ratio = lengths(measured(many, rods, ellipticity=0.01)) / clean
    assert ratio.min() > 0.99499 and ratio.max() < 1.00501
    assert np.ptp(ratio, axis=1).mean() > 0.003


def test_a_beam_stop_hides_a_wedge_and_never_both_spots_of_a_pair(many, rods):
    found = measured(many, rods, wedge=20.0)
    mask = np.asarray(found.mask).reshape(MANY, -1, 2)
    there = np.asarray((rods != 0).any(-1))
    assert mask[there].any(-1).all()
    assert 1 - mask[there].mean() == pytest.approx(20 / 360, rel=0.15)


def test_tilt_breaks_the_likeness_of_friedel_mates(many, rods):
    def difference(pattern: dx.Pattern) -> np.ndarray:
        pairs = np.asarray(pattern.intensity).reshape(MANY, -1, 2)
        return np.abs(pairs[..., 0] - pairs[..., 1]).sum(1) / pairs.sum((1, 2))

    flat, tilted = (difference(measured(many, rods, tilt=t)) for t in (0.0, 2.0))
    assert flat.max() < np.median(tilted) < tilted.max() < 0.5
