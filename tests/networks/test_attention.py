"""Attention maps: of both networks, over real tokens only, each named for what it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from ase.build import mx2

import diffraction as dx
from dd2d_jax.networks.attention import Attention, attention
from dd2d_jax.networks.disturbances import clean_spots
from dd2d_jax.networks.trained import Model, initial_params
from dd2d_jax.spots import strongest_rods


def model(name: str = "default", layers: int = 3) -> Model:
    config = tiny.config()
    config.model.layers = layers
    config.model.name = name
    shapes = jax.eval_shape(lambda: initial_params(config))
    rng = np.random.default_rng(1)
    # Larger than before training, where attention is nearly even everywhere.
    return Model(
        config, jax.tree.map(lambda x: rng.normal(0, 0.4, x.shape).astype(np.float32), shapes)
    )


@pytest.fixture(scope="module")
def default() -> Model:
    return model()


@pytest.fixture(scope="module")
def mos2() -> dx.Crystal:
    """With two slots of padding at the end."""
    one = dx.Crystal.from_ase(mx2("MoS2", vacuum=8))
    return dx.Crystal(
        one.lattice, jnp.pad(one.positions, [(0, 2), (0, 0)]), jnp.pad(one.numbers, (0, 2))
    )


@pytest.fixture(scope="module")
def spots(default, mos2) -> Attention:
    return attention(default, mos2)


def test_the_default_networks_tokens_are_the_spots_named_by_strength(spots, default, mos2):
    assert spots.encoder == "spots"
    batch = jax.tree.map(lambda x: x[None], mos2)
    hk = jnp.asarray(strongest_rods(batch, default.conditions, 8))
    seen = jax.jit(clean_spots)(batch, hk, default.conditions)
    count = int(seen.mask.sum())
    assert spots.tokens == ["cell", *(f"({h} {k})" for h, k in seen.hk[0][:count])]
    assert spots.kinds == ["cell", *["spots"] * count]
    assert (np.diff(np.asarray(seen.intensity[0].max(-1))[:count]) <= 1e-6).all()


def test_the_first_and_the_last_layer_are_shown(spots, mos2):
    assert spots.layers == [1, 3] and attention(model(layers=1), mos2).layers == [1]
    assert spots.weights.shape == (2, 2, len(spots.tokens), len(spots.tokens))
    assert np.abs(spots.weights[0] - spots.weights[1]).max() > 0.01


def test_rows_add_up_to_one_over_real_tokens(spots):
    np.testing.assert_allclose(spots.weights.sum(-1), 1, atol=1e-5)
    # And are no even spread.
    assert spots.weights.std() > 0.01


@pytest.mark.parametrize("name", ["default", "atoms", "paper"])
def test_padding_is_neither_shown_nor_looked_at(name, mos2):
    elsewhere = dx.Crystal(
        mos2.lattice,
        jnp.concatenate([jnp.full((2, 3), 0.7), mos2.positions[:3]]),
        jnp.roll(mos2.numbers, 2),
    )
    network = model(name)
    one, other = attention(network, mos2), attention(network, elsewhere)
    assert one.tokens == other.tokens
    np.testing.assert_allclose(one.weights, other.weights, atol=1e-5)


def test_the_twin_towers_tokens_are_the_cell_and_the_atoms_by_element(mos2):
    found = attention(model("atoms", layers=2), mos2)
    assert found.encoder == "atoms" and found.layers == [1, 2]
    assert found.tokens == ["start", "a", "b", "γ", "Mo", "S1", "S2", "end"]
    assert found.kinds == ["start", "cell", "cell", "cell", "atoms", "atoms", "atoms", "end"]
    np.testing.assert_allclose(found.weights.sum(-1), 1, atol=1e-5)
    # The start token sees the cell alone, by construction; the end token everything.
    assert (found.weights[:, :, 0, 4:] == 0).all() and (found.weights[:, :, -1] > 0).all()


def test_the_published_networks_tokens_are_its_sequence(mos2):
    found = attention(model("paper", layers=2), mos2)
    assert found.encoder == "sequence" and found.layers == [1, 2]
    assert found.tokens[:8] == ["start", "a", "b", "c", "α", "β", "γ", "S1 x"]
    assert found.tokens[8:12] == ["S1 y", "S1 z", "S1 Z", "S2 x"]
    assert found.tokens[-2:] == ["Mo Z", "end"]
    assert found.weights.shape == (2, 2, 20, 20)
    np.testing.assert_allclose(found.weights.sum(-1), 1, atol=1e-5)
    # The start token sees the cell alone, by construction.
    assert (found.weights[:, :, 0, 7:] == 0).all() and (found.weights[:, :, 1, 7:] > 0).all()


def test_shares_and_effective_tokens_of_known_maps():
    even, one = np.full((3, 3), 1 / 3), np.eye(3)
    found = Attention("spots", ["cell", "(1 0)", "(0 1)"], ["cell", "spots", "spots"], [1],
                      np.array([[even, one, [[1, 0, 0]] * 3]]))  # fmt: skip
    np.testing.assert_allclose(found.effective(), [[3, 1, 1]])
    shares = found.shares()
    np.testing.assert_allclose(shares["cell"], [[1 / 3, 1 / 3, 1]])
    np.testing.assert_allclose(shares["spots"], [[2 / 3, 2 / 3, 0]])
