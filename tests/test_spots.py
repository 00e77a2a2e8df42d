"""Spots: Friedel pairs, the strongest of them, and the cell that their positions give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffraction as dx
from dd2d_jax import spots
from dd2d_jax.spots import (
    Conditions,
    clean_pairs,
    clean_pairs_in_few_shapes,
    fit_lattice,
    half_plane,
    select,
    strongest_rods,
)

CONDITIONS = Conditions(dx.Electrons(80.0), 0.9, 0.5, 8)


@pytest.fixture
def batch(layer):
    """Layers of 1 to 5 atoms in cells of two sizes; padding stands anywhere."""
    singles = []
    for seed in range(5):
        one = layer(seed, atoms=seed + 1)
        scale = 2.0 if seed > 2 else 1.0
        singles.append(
            dx.Crystal(
                one.lattice * scale,
                one.positions * jnp.array([scale, scale, 1]),
                one.numbers,
            )
        )
    together = dx.stack(singles, 9)
    order = np.random.default_rng(0).permutation(9)
    return dx.Crystal(together.lattice, together.positions[:, order], together.numbers[:, order])


def test_the_half_plane_has_one_rod_of_each_friedel_pair(batch):
    lattice = np.asarray(batch.lattice)
    for row, everything in zip(half_plane(lattice, 0.9), dx.reflections(lattice, 0.9), strict=True):
        upper = {tuple(x) for x in row.tolist() if any(x)}
        whole = {tuple(x) for x in everything.tolist() if any(x)}
        mates = {(-h, -k) for h, k in upper}
        assert upper | mates == whole and not upper & mates
        assert len(upper) == np.any(row, -1).sum()  # none twice


def test_fit_lattice_recovers_the_lattice(x64):
    rng = np.random.default_rng(0)
    lattice = jnp.asarray(np.eye(2) * 4 + rng.normal(0, 0.8, (20, 2, 2)))
    hk = jnp.asarray(rng.integers(-4, 5, (20, 12, 2)))
    q = jnp.einsum(
        "nti,nij->ntj", hk.astype(float), jax.vmap(lambda a: jnp.linalg.inv(a).T)(lattice)
    )
    mask = jnp.arange(12) < 8
    # What is masked may be anything.
    q = jnp.where(mask[:, None], q, 7.0)
    found = fit_lattice(q, hk, jnp.broadcast_to(mask, (20, 12)))
    np.testing.assert_allclose(found, lattice, atol=1e-9)


def test_fit_lattice_is_least_squares(x64):
    rng = np.random.default_rng(1)
    hk = rng.integers(-4, 5, (30, 2)).astype(float)
    q = hk @ np.linalg.inv([[3.0, 0.2], [-1.0, 4.0]]).T + rng.normal(0, 0.01, (30, 2))
    reciprocal = np.linalg.lstsq(hk, q, rcond=None)[0]
    found = fit_lattice(jnp.asarray(q), jnp.asarray(hk), jnp.ones(30, bool))
    np.testing.assert_allclose(found, np.linalg.inv(reciprocal).T, rtol=1e-9)


@pytest.mark.parametrize("hk", [np.zeros((3, 2)), np.array([[1, 0], [2, 0], [3, 0]])])
def test_spots_that_span_no_cell_give_no_nan(hk):
    def total(q):
        return fit_lattice(q, jnp.asarray(hk), jnp.ones(3, bool)).sum()

    value, gradient = jax.value_and_grad(total)(jnp.asarray(0.3 * hk, jnp.float32))
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_a_pattern_gives_back_the_lattice_of_its_crystal(batch):
    hk = half_plane(np.asarray(batch.lattice), 0.9)
    q, intensity = spots.pair_intensities(batch, jnp.asarray(hk), CONDITIONS)
    found = select(q, jnp.asarray(hk), intensity, intensity > 0, 8)
    np.testing.assert_allclose(found.lattice, batch.lattice, rtol=2e-5, atol=2e-5)


def test_pair_intensities_are_those_at_q_and_minus_q(batch):
    hk = jnp.asarray(half_plane(np.asarray(batch.lattice), 0.9))
    q, intensity = spots.pair_intensities(batch, hk, CONDITIONS)
    for sign, column in ((1, 0), (-1, 1)):
        alone = dx.simulate(batch, CONDITIONS.radiation, 0.9, 0.5, hk=sign * hk)
        np.testing.assert_allclose(intensity[..., column], alone.intensity, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(sign * q, alone.q, atol=1e-6)
    # The Ewald sphere cuts the rods at +q_z at both: the mates of a thick layer differ.
    assert jnp.abs(intensity[..., 0] / intensity[..., 1] - 1)[(hk != 0).any(-1)].max() > 0.01
    assert (intensity[~(hk != 0).any(-1)] == 0).all()


def test_strongest_rods_are_those_of_all_reflections(batch):
    found = strongest_rods(batch, CONDITIONS, 6)
    assert found.shape == (5, 6, 2)
    hk = dx.reflections(np.asarray(batch.lattice), 0.9)
    intensity = dx.simulate(
        batch, CONDITIONS.radiation, 0.9, 0.5, hk=jnp.asarray(hk)
    ).intensity.tolist()
    for rods, indices, values in zip(found, hk.tolist(), intensity, strict=True):
        by_index = {tuple(k): v for k, v in zip(indices, values, strict=True) if any(k)}
        pairs = {
            (h, k): max(v, by_index[-h, -k]) for (h, k), v in by_index.items() if (h, k) > (0, 0)
        }
        strongest = sorted(pairs.values(), reverse=True)[:6]
        taken = [tuple(x) for x in rods.tolist() if any(x)]
        assert len(set(taken)) == len(taken) == len(strongest)
        # Compared by intensity: among equals either may be taken.
        np.testing.assert_allclose([pairs[x] for x in taken], strongest, rtol=1e-3)


def test_more_rods_than_there_are_leave_places_empty(layer):
    found = strongest_rods(dx.stack([layer(0)]), CONDITIONS, 200)[0]
    there = found.any(-1)
    assert 5 < there.sum() < 200
    assert not there[np.argmin(there) :].any()


@pytest.mark.parametrize("few", [False, True])
def test_clean_pairs_cover_each_crystal_once_with_all_its_rods(batch, few):
    parts = (clean_pairs_in_few_shapes if few else clean_pairs)(batch, CONDITIONS)
    seen = []
    for rows, q, hk, intensity in parts:
        seen += rows.tolist()
        for row, one, rods, values in zip(rows, q, hk, intensity, strict=True):
            lattice = np.asarray(batch.lattice[row])
            expected = half_plane(lattice, 0.9)
            assert {tuple(x) for x in rods.tolist()} == {(0, 0), *map(tuple, expected.tolist())}
            np.testing.assert_allclose(one, rods @ np.linalg.inv(lattice).T, atol=1e-5)
            both = jnp.concatenate([jnp.asarray(rods), -jnp.asarray(rods)])
            right = dx.simulate(
                batch[int(row)], CONDITIONS.radiation, 0.9, CONDITIONS.b_iso, hk=both
            ).intensity
            np.testing.assert_allclose(values.T.ravel(), right, atol=1e-4 * float(right.max()))
    assert sorted(seen) == list(range(5))


def pairs(intensity) -> tuple[jax.Array, jax.Array, jax.Array]:
    intensity = jnp.asarray(intensity, jnp.float32)
    count = len(intensity)
    hk = jnp.asarray([[1, 0], [0, 1], [1, 1], [2, 1], [1, 2]][:count])
    return hk / 4.0, hk, intensity


def test_select_sorts_by_the_stronger_of_a_pair():
    q, hk, intensity = pairs([[1, 2], [5, 0.1], [0.2, 20], [3, 3]])
    found = select(q, hk, intensity, intensity > 0, 3)
    np.testing.assert_array_equal(found.hk, [[1, 1], [0, 1], [2, 1]])
    np.testing.assert_array_equal(found.q, found.hk / 4.0)
    np.testing.assert_allclose(found.intensity, [[0.01, 1], [0.25, 0.005], [0.15, 0.15]], rtol=1e-6)
    np.testing.assert_allclose(found.lattice, 4 * np.eye(2), atol=1e-5)
    assert found.mask.all()


def test_select_reads_nothing_of_what_was_not_measured():
    q, hk, intensity = pairs([[9, 1], [4, 100], [2, 2], [8, 8]])
    measured = jnp.array([[1, 1], [1, 0], [0, 1], [0, 0]], bool)
    found = select(q, hk, intensity, measured, 4)
    np.testing.assert_array_equal(found.hk[:3], [[1, 0], [0, 1], [1, 1]])
    np.testing.assert_allclose(found.intensity[:3] * 9, [[9, 1], [4, 0], [0, 2]], rtol=1e-6)
    np.testing.assert_array_equal(found.measured, [[1, 1], [1, 0], [0, 1], [0, 0]])
    np.testing.assert_array_equal(found.mask, [True, True, True, False])


def test_select_never_takes_the_central_beam():
    q, hk, intensity = pairs([[9, 1], [4, 4], [2, 2]])
    found = select(q.at[0].set(0), hk.at[0].set(0), intensity, intensity > 0, 3)
    np.testing.assert_array_equal(np.asarray(found.hk)[np.asarray(found.mask)], [[0, 1], [1, 1]])


def test_select_fills_up_to_the_tokens():
    q, hk, intensity = pairs([[2, 1], [4, 4]])
    found = select(q, hk, intensity, intensity > 0, 5)
    assert found.q.shape == (5, 2) and found.intensity.shape == (5, 2)
    np.testing.assert_array_equal(found.mask, [True, True, False, False, False])
    np.testing.assert_allclose(found.lattice, 4 * np.eye(2), atol=1e-5)


def test_the_scale_of_the_intensities_does_not_matter(batch):
    hk = jnp.asarray(half_plane(np.asarray(batch.lattice), 0.9))
    q, intensity = spots.pair_intensities(batch, hk, CONDITIONS)
    one = select(q, hk, intensity, intensity > 0, 8)
    other = select(q, hk, 1e6 * intensity, intensity > 0, 8)
    np.testing.assert_allclose(one.intensity, other.intensity, rtol=1e-5)
    assert one.intensity.max((1, 2)) == pytest.approx(1)


def test_a_pattern_without_any_spot_is_empty_and_finite():
    q, hk, intensity = pairs([[2, 1], [4, 4]])
    found = select(q, hk, intensity, jnp.zeros((2, 2), bool), 2)
    assert not found.mask.any()
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))


def test_conditions_come_from_the_config():
    from configs import base

    made = Conditions.from_config(base.get_config().diffraction)
    assert made == Conditions(dx.Electrons(80.0), 1.25, 0.5, 48)
