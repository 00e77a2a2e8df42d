"""The twin tower: what it must not see, and what it starts from."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import diffraction as dx
from dd2d_jax.networks.disturbances import clean_spots
from dd2d_jax.networks.trained import initial_params
from dd2d_jax.networks.twin_tower import TwoTower, lattice_features
from dd2d_jax.spots import Conditions, Spots, strongest_rods

CONFIG = tiny.config()
TOWER = TwoTower.from_config(CONFIG.model)
CONDITIONS = Conditions.from_config(CONFIG.diffraction)


@pytest.fixture(scope="module")
def untrained():
    return initial_params(CONFIG)


@pytest.fixture(scope="module")
def params(untrained):
    """As after training: nothing is near zero any more."""
    leaves, tree = jax.tree.flatten(untrained)
    rng = np.random.default_rng(0)
    return jax.tree.unflatten(
        tree, [x + 0.3 * jnp.asarray(rng.normal(size=x.shape), x.dtype) for x in leaves]
    )


@pytest.fixture
def batch(layer) -> tuple[dx.Crystal, Spots]:
    crystal = dx.stack([layer(seed, atoms=seed + 2) for seed in range(4)])
    hk = jnp.asarray(strongest_rods(crystal, CONDITIONS, 6))
    # Two tokens of eight stay empty.
    return crystal, clean_spots(crystal, hk, CONDITIONS)


@jax.jit
def cge(params, crystal, hk):
    """The crystal's tower, simulator and all; `hk` are the rods that are simulated."""
    spots = clean_spots(crystal, hk, CONDITIONS)
    return TOWER.apply({"params": params}, crystal, spots, method="encode_crystal")


@jax.jit
def ste(params, spots):
    return TOWER.apply({"params": params}, spots, method="encode_pattern")


@jax.jit
def both(params, crystal, crystal_spots, pattern_spots):
    return TOWER.apply({"params": params}, crystal, crystal_spots, pattern_spots)


def test_embeddings_are_unit_vectors(params, batch):
    crystal, spots = batch
    for found in (cge(params, crystal, spots.hk), ste(params, spots)):
        assert found.shape == (4, 8) and found.dtype == jnp.float32
        np.testing.assert_allclose(jnp.linalg.norm(found, axis=-1), 1, rtol=1e-5)


def test_both_towers_are_callable_alone_and_together(params, batch):
    crystal, spots = batch
    crystals, patterns, scale = both(params, crystal, spots, spots)
    np.testing.assert_allclose(crystals, cge(params, crystal, spots.hk), atol=1e-5)
    np.testing.assert_allclose(patterns, ste(params, spots), atol=1e-5)
    assert scale == pytest.approx(float(jnp.exp(params["log_scale"])), rel=1e-6)
    assert set(params) == {"ste", "log_scale"}  # the towers share their weights


def test_one_crystal_is_a_row_of_the_batch(params, batch):
    crystal, spots = batch
    one = cge(params, jax.tree.map(lambda x: x[2], crystal), spots.hk[2])
    np.testing.assert_allclose(one, cge(params, crystal, spots.hk)[2], atol=1e-6)


def test_the_temperature_is_bounded(params, batch):
    crystal, spots = batch
    hot = {**params, "log_scale": jnp.float32(50.0)}
    assert both(hot, crystal, spots, spots)[2] == pytest.approx(200, rel=1e-5)


def test_it_starts_from_the_papers_temperature(untrained, batch):
    crystal, spots = batch
    scale = both(untrained, crystal, spots, spots)[2]
    assert scale == pytest.approx(1 / 0.07, rel=1e-6)


def test_a_crystal_is_seen_as_its_clean_pattern(params, batch):
    crystal, spots = batch
    np.testing.assert_allclose(cge(params, crystal, spots.hk), ste(params, spots), atol=1e-5)


def test_padded_atoms_change_nothing(params, batch):
    crystal, spots = batch
    more = dx.Crystal(
        crystal.lattice,
        jnp.concatenate([crystal.positions, jnp.full((4, 3, 3), 0.7)], 1),
        jnp.pad(crystal.numbers, [(0, 0), (0, 3)]),
    )
    np.testing.assert_allclose(
        cge(params, more, spots.hk), cge(params, crystal, spots.hk), atol=1e-6, rtol=0
    )


def test_padded_spots_change_nothing(params, batch):
    crystal, spots = batch

    def fill(x, value):
        return jnp.concatenate([x, jnp.full((4, 5, 2), value, x.dtype)], 1)

    more = Spots(
        fill(spots.q, 0.3),
        fill(spots.hk, 2),
        fill(spots.intensity, 0.8),
        fill(spots.measured, False),
        spots.lattice,
    )
    np.testing.assert_allclose(ste(params, more), ste(params, spots), atol=1e-6, rtol=0)


def test_gradients_in_padding_are_exactly_zero(params, batch):
    _, spots = batch
    weight = jnp.asarray(np.random.default_rng(1).normal(size=8), jnp.float32)

    def total(q, intensity):
        return (ste(params, dataclasses.replace(spots, q=q, intensity=intensity)) @ weight).sum()

    for gradient in jax.jit(jax.grad(total, (0, 1)))(spots.q, spots.intensity):
        assert not spots.mask.all()
        assert (gradient[~spots.mask] == 0).all()
        assert (jnp.abs(gradient[spots.mask]) > 0).mean() > 0.9


def test_gradients_through_the_simulator_are_zero_in_padding(params, batch):
    crystal, spots = batch

    def total(positions):
        return cge(params, dataclasses.replace(crystal, positions=positions), spots.hk)[:, 0].sum()

    gradient = jax.jit(jax.grad(total))(crystal.positions)
    assert np.isfinite(gradient).all()
    assert (gradient[crystal.numbers == 0] == 0).all()
    assert (gradient[crystal.numbers > 0] != 0).any(-1).all()


def test_the_order_of_atoms_and_spots_means_nothing(params, batch):
    crystal, spots = batch
    rng = np.random.default_rng(2)
    atoms, tokens = rng.permutation(5), rng.permutation(8)
    mixed = dx.Crystal(crystal.lattice, crystal.positions[:, atoms], crystal.numbers[:, atoms])
    turned = Spots(
        *(x[:, tokens] for x in (spots.q, spots.hk, spots.intensity, spots.measured)),
        spots.lattice,
    )
    np.testing.assert_allclose(
        cge(params, mixed, turned.hk), cge(params, crystal, spots.hk), atol=1e-5, rtol=0
    )
    np.testing.assert_allclose(ste(params, turned), ste(params, spots), atol=1e-5, rtol=0)


def moved(crystal: dx.Crystal, by) -> dx.Crystal:
    return dataclasses.replace(crystal, positions=crystal.positions + jnp.asarray(by))


def test_the_origin_of_the_crystal_means_nothing(params, batch):
    crystal, spots = batch
    shifted = moved(crystal, [0.7, -0.4, 0.3])
    np.testing.assert_allclose(
        cge(params, shifted, spots.hk), cge(params, crystal, spots.hk), atol=1e-5, rtol=0
    )


def test_atoms_moved_by_whole_cells_are_the_same_crystal(params, batch):
    crystal, spots = batch
    turns = jnp.asarray(np.random.default_rng(3).integers(-2, 3, (4, 5, 2)), jnp.float32)
    shift = jnp.einsum("nai,nij->naj", turns, crystal.lattice)
    other = moved(crystal, jnp.pad(shift, [(0, 0), (0, 0), (0, 1)]))
    np.testing.assert_allclose(
        cge(params, other, spots.hk), cge(params, crystal, spots.hk), atol=1e-4, rtol=0
    )


def test_both_spots_of_a_pair_are_read(params, batch):
    _, spots = batch
    swapped = dataclasses.replace(spots, intensity=spots.intensity[..., ::-1])
    assert jnp.abs(ste(params, swapped) - ste(params, spots)).max() > 1e-4


def test_the_elements_are_read(params, batch):
    crystal, spots = batch
    other = dataclasses.replace(
        crystal, numbers=jnp.where(crystal.numbers > 0, crystal.numbers + 1, 0)
    )
    assert jnp.abs(cge(params, other, spots.hk) - cge(params, crystal, spots.hk)).max() > 1e-3


def test_lattice_features_do_not_turn_with_the_cell(batch):
    crystal, _ = batch
    c, s = np.cos(0.7), np.sin(0.7)
    turned = crystal.lattice @ jnp.array([[c, s], [-s, c]])
    np.testing.assert_allclose(
        lattice_features(turned), lattice_features(crystal.lattice), atol=1e-4
    )


def test_an_empty_pattern_is_embedded_without_nan(params, batch):
    _, spots = batch
    empty = jax.tree.map(jnp.zeros_like, spots)
    value, gradient = jax.jit(jax.value_and_grad(lambda p: ste(p, empty).sum()))(params)
    assert np.isfinite(value)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))


def test_bfloat16_computes_nearly_the_same_and_keeps_float32_parameters(params, batch):
    crystal, spots = batch
    config = CONFIG.copy_and_resolve_references()
    config.model.dtype = "bfloat16"
    half = TwoTower.from_config(config.model)
    found, _, _ = jax.jit(half.apply)({"params": params}, crystal, spots, spots)
    assert found.dtype == jnp.float32
    assert (found * ste(params, spots)).sum(-1).min() > 0.98
    assert {x.dtype for x in jax.tree.leaves(initial_params(config))} == {jnp.dtype("float32")}


def test_dropout_which_it_does_not_have_is_refused():
    config = tiny.config()
    config.model.dropout = 0.1
    with pytest.raises(ValueError, match="model.dropout is for networks that read atoms"):
        TwoTower.from_config(config.model)
