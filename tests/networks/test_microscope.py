"""The level `microscope`: each disturbance is what its docstring says, and nothing at zero."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffraction as dx
from dd2d_jax.networks import disturbances, microscope
from dd2d_jax.networks.disturbances import LEVELS, PATTERNS, Disturbance
from dd2d_jax.spots import Conditions, both_sides, half_plane

MANY = 1024
KEY = jax.random.key(5)
BEAM = dx.Electrons(80.0)
CONDITIONS = Conditions(BEAM, 0.9, 0.5, 12)
measure, observe = jax.jit(disturbances.measure), jax.jit(disturbances.observe)


def amount(value: float, count: int = MANY) -> jax.Array:
    return jnp.full((count,), value)


@pytest.fixture
def many(layer) -> dx.Crystal:
    return jax.tree.map(lambda x: jnp.repeat(x, MANY, 0), dx.stack([layer(1, atoms=3)]))


@pytest.fixture
def rods(many) -> jax.Array:
    hk = half_plane(np.asarray(many.lattice[:1]), 0.9)[:, :12]
    return jnp.repeat(jnp.asarray(hk), MANY, 0)


@pytest.fixture
def seen(many, rods) -> tuple[jax.Array, jax.Array]:
    """q (B, C, 2, 2) and intensities (B, C, 2) of the crystal as it is."""
    return both_sides(many, rods, CONDITIONS)


def test_the_level_is_the_measured_one_and_more():
    level, before = (dataclasses.asdict(LEVELS[name]) for name in ("microscope", "measured"))
    assert PATTERNS == ("measured", "microscope")
    assert all(level[name] >= value for name, value in before.items())
    new = {name for name, value in before.items() if value == 0 and level[name] > 0}
    assert new == {
        "b_more", "slope", "friedel", "layers", "energy", "satellites", "false", "few", "gamma",
        "clip",
    }  # fmt: skip
    assert level["tilt"] == 5.0


def test_without_them_a_pattern_is_as_it_was_before_the_level_was_there(many, rods):
    few, hk = many[:4], rods[:4]
    plain = measure(KEY, few, hk, CONDITIONS, Disturbance())
    q, intensity = both_sides(few, hk, CONDITIONS)
    lengths = np.linalg.norm(np.asarray(q), axis=-1).reshape(4, -1)
    count = lengths.shape[1]
    np.testing.assert_allclose(
        np.linalg.norm(np.asarray(plain.q), axis=-1)[:, :count], lengths, rtol=1e-5
    )
    np.testing.assert_allclose(plain.intensity[:, :count], intensity.reshape(4, -1), rtol=1e-6)
    # Places for what lies between the spots are empty.
    assert plain.mask.shape[1] == count + 96 and not plain.mask[:, count:].any()


def test_energies_are_anywhere_on_a_logarithmic_scale_and_told_at_zero():
    found = np.asarray(microscope.energies(KEY, jnp.asarray(80.0), amount(1.0)))
    assert 60 <= found.min() < 61 and 297 < found.max() <= 300.01
    assert np.log(found).mean() == pytest.approx(np.log(60 * 300) / 2, abs=0.05)
    half = np.asarray(microscope.energies(KEY, jnp.asarray(80.0), amount(0.5)))
    np.testing.assert_allclose(half, np.sqrt(80 * found), rtol=1e-4)
    assert (microscope.energies(KEY, jnp.asarray(80.0), amount(0.0)) == 80).all()


@pytest.fixture
def pile(layer):
    """A crystal, two layers of it with and without a shift, and the intensities of all."""

    def make(shift: tuple[float, float], layers: int):
        one = layer(3, atoms=4)
        z = one.positions[:, 2]
        c = z.max() - z.min() + microscope.GAP
        step = np.array(shift) @ np.asarray(one.lattice)
        copies = [
            one.positions + jnp.asarray([*(n % 2 * step), n * c], jnp.float32)
            for n in range(layers)
        ]
        whole = dx.Crystal(one.lattice, jnp.concatenate(copies), jnp.tile(one.numbers, layers))
        return dx.stack([one]), dx.stack([whole])

    return make


@pytest.mark.parametrize("layers", [2, 3, 4, 7])
def test_many_layers_scatter_as_the_simulated_pile_does(pile, layers, monkeypatch):
    shift = (1 / 3, 2 / 3)
    one, whole = pile(shift, layers)
    hk = jnp.asarray(half_plane(np.asarray(one.lattice), 0.9))
    tilt = jnp.array([[2.0, -1.0]])
    _, single = both_sides(one, hk, CONDITIONS, tilt=tilt)
    _, expected = both_sides(whole, hk, CONDITIONS, tilt=tilt)
    monkeypatch.setattr(microscope, "BENT", 0.0)
    monkeypatch.setattr(microscope, "STACKINGS", np.array([shift]))
    monkeypatch.setattr(
        jax.random, "uniform", lambda *_, **__: jnp.array([np.log(layers + 0.5)]) / scale
    )
    scale = np.log1p(layers + 0.6 - 1e-3)
    found = microscope.stack_layers(
        KEY, one, hk, single, BEAM.wavelength, tilt, jnp.array([layers + 0.6])
    )
    relative = expected / layers**2
    np.testing.assert_allclose(found, relative, atol=2e-3 * float(relative.max()))


def test_layers_are_counted_on_a_logarithmic_scale_and_one_changes_nothing(many, rods, seen):
    def stacked(most):
        return microscope.stack_layers(
            KEY, many, rods, seen[1], BEAM.wavelength, jnp.zeros((MANY, 2)), amount(most)
        )

    for most in (0.0, 1.0):
        np.testing.assert_array_equal(stacked(most), seen[1])
    ratio = np.asarray(stacked(30.0) / seen[1])
    single = (ratio == 1).all((1, 2)).mean()
    assert single == pytest.approx(np.log(2) / np.log(31), abs=0.05)
    # Thick flakes have dark rods, but none is gone.
    assert 0.99 * microscope.BENT < ratio.min() < 0.1 and ratio.max() <= 1 + 1e-5


def test_a_slope_is_linear_in_q_squared_and_uniform(seen):
    q, intensity = seen
    change = np.log(np.asarray(microscope.slope(KEY, q, intensity, amount(0.5)) / intensity))
    squared = np.asarray((q * q).sum(-1))
    found = -change / squared
    assert np.ptp(found, axis=(1, 2)).max() < 1e-3
    assert -0.5 < found.min() < -0.49 and 0.49 < found.max() < 0.5
    np.testing.assert_array_equal(microscope.slope(KEY, q, intensity, amount(0.0)), intensity)


def test_mates_differ_by_3_to_30_times_and_keep_their_product(seen):
    intensity = seen[1]
    found = microscope.part_mates(KEY, intensity, amount(LEVELS["microscope"].friedel))
    change = np.log(np.asarray(found / intensity))
    np.testing.assert_allclose(change.sum(-1), 0, atol=1e-4)
    size = np.abs(change[..., 0] - change[..., 1])
    # The largest ratio of a pattern.
    largest = np.exp(size.max(1))
    assert np.mean((largest > 3) & (largest < 30)) > 0.5
    assert np.mean(largest > 30) < 0.2
    np.testing.assert_array_equal(microscope.part_mates(KEY, intensity, amount(0.0)), intensity)


def test_a_camera_changes_the_power_and_cuts_off_the_strongest(seen):
    intensity = seen[1]
    strongest = intensity.max((1, 2), keepdims=True)
    bent = microscope.expose(KEY, intensity, amount(0.7), amount(0.0))
    inside = np.asarray((intensity < 0.9 * strongest) & (intensity > 1e-4 * strongest))
    power = np.log(np.asarray(bent / strongest)) / np.log(np.asarray(intensity / strongest))
    each = np.where(inside, power, np.nan)
    assert np.nanmax(np.nanmax(each, (1, 2)) - np.nanmin(each, (1, 2))) < 1e-3  # one a pattern
    low, high = np.nanmin(each), np.nanmax(each)
    assert np.exp(-0.7) < low < 0.51 and 1.98 < high < np.exp(0.7)
    # The strongest keeps its intensity, and the order stays.
    np.testing.assert_allclose(bent.max((1, 2), keepdims=True), strongest, rtol=1e-5)

    cut = microscope.expose(KEY, intensity, amount(0.0), amount(2.3))
    level = np.asarray(cut.max((1, 2), keepdims=True) / strongest)
    assert np.exp(-2.3) < level.min() < 0.11 and level.max() > 0.98
    np.testing.assert_allclose(cut, np.minimum(intensity, level * strongest), rtol=1e-5)
    np.testing.assert_array_equal(
        microscope.expose(KEY, intensity, amount(0.0), amount(0.0)), intensity
    )


def test_the_strongest_20_to_200_spots_are_left():
    intensity = jax.random.uniform(KEY, (MANY, 150, 2))
    left = np.asarray(microscope.strongest_spots(KEY, intensity, amount(np.log(10))))
    count = left.sum((1, 2))
    assert 20 <= count.min() < 22 and 195 < count.max() <= 200
    assert np.log(count).mean() == pytest.approx(np.log(20 * 200) / 2, abs=0.06)
    kept, lost = (np.asarray(intensity)[0][x] for x in (left[0], ~left[0]))
    assert kept.min() >= lost.max()
    assert microscope.strongest_spots(KEY, intensity, amount(0.0)).all()


def test_satellites_stand_about_strong_spots_at_parts_of_the_reciprocal_cell(many, rods, seen):
    q, intensity = seen
    place, level = microscope.add_satellites(KEY, rods, q, intensity, amount(0.05))
    assert place.shape == (MANY, 64, 2) and level.shape == (MANY, 64)
    some = np.asarray((level > 0).any(1))
    assert some.mean() == pytest.approx(1 / 3, abs=0.05)
    assert float((level / intensity.max((1, 2))[:, None]).max()) <= 0.05
    # In parts of the cell, satellites are where one of the superlattices has them.
    index = np.einsum("bke,bde->bkd", place, many.lattice)
    part = index - np.round(index)
    wanted = microscope.SATELLITES - np.round(microscope.SATELLITES)
    wanted = np.concatenate([wanted, -wanted])
    distance = np.abs(part[:, :, None] - wanted).max(-1)
    distance = np.minimum(distance, np.abs(np.abs(part[:, :, None]) - np.abs(wanted)).max(-1))
    assert distance.min(-1)[np.asarray(level) > 0].max() < 1e-3
    assert not np.asarray(microscope.add_satellites(KEY, rods, q, intensity, amount(0))[1]).any()


def test_false_spots_are_anywhere_as_often_as_told():
    place, level = microscope.false_spots(KEY, amount(5.0), 0.9, amount(0.1))
    there = np.asarray(level > 0)
    assert there.mean() == pytest.approx(0.1, abs=0.01)
    strength = np.asarray(level)[there] / 5
    low, high = microscope.FALSE_LEVELS
    assert low <= strength.min() and strength.max() <= high
    length = np.linalg.norm(place, axis=-1)
    assert length.max() <= 0.9 and np.mean(length < 0.45) == pytest.approx(0.25, abs=0.02)
    assert not np.asarray(microscope.false_spots(KEY, amount(5.0), 0.9, amount(0.0))[1]).any()


def test_a_fifth_of_the_false_spots_falls_on_the_lattice(seen, rods):
    intensity, there = seen[1], (rods != 0).any(-1, keepdims=True)
    more = np.asarray(microscope.light_up(KEY, intensity, there, amount(0.5)) - intensity)
    count = (more > 1e-6 * float(intensity.max())).sum((1, 2))
    assert count.mean() == pytest.approx(0.5 * 32 / 5, rel=0.1)
    assert not np.asarray(more)[~np.broadcast_to(there, more.shape)].any()


def test_b_only_grows(many, rods):
    def logs(amount):
        found = observe(KEY, many, rods, CONDITIONS, amount)
        code = 100 * found.hk[..., 0] + found.hk[..., 1]
        order = jnp.argsort(code, -1)[..., None]
        pick = (jnp.take_along_axis(x, order, 1) for x in (found.q, found.intensity))
        q, intensity = map(np.asarray, pick)
        return (q[0] ** 2).sum(-1), np.log(intensity[..., 0])

    squared, plain = logs(Disturbance())
    near, far = squared.argmin(), squared.argmax()
    change = logs(Disturbance(b_more=2.5))[1] - plain
    b = -2 * (change[:, far] - change[:, near]) / (squared[far] - squared[near])
    assert -0.02 < b.min() < 0.05 and 2.4 < b.max() < 2.55
    assert b.mean() == pytest.approx(1.25, abs=0.08)


def test_the_whole_level_is_finite_and_shows_few_and_many_spots(many, rods):
    found = measure(KEY, many, rods, CONDITIONS, LEVELS["microscope"])
    assert all(np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves(found))
    count = np.asarray(found.mask).sum(1)
    assert count.min() < 12 < count.max()
    relative = np.asarray(found.intensity / found.intensity.max(1, keepdims=True))
    assert relative[np.asarray(found.mask)].min() >= 0.9 * LEVELS["microscope"].floor
    indexed = observe(KEY, many, rods, CONDITIONS, LEVELS["microscope"])
    assert all(np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves(indexed))
