"""The twin tower that reads atoms: what it must not see, and that it learns."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict

import diffraction as dx
from configs import twin
from dd2d_jax.evaluation.ranks import embedding_ranks
from dd2d_jax.networks import trained
from dd2d_jax.networks.atom_network import AtomTower
from dd2d_jax.networks.loss import contrastive_loss
from dd2d_jax.spots import Conditions, Spots
from train import inputs, state, step


def small(**changes) -> ConfigDict:
    config = twin.get_config()
    config.diffraction.update({"tokens": 8, "q_max": 0.8})
    config.model.update({"width": 16, "heads": 2, "layers": 2, "embedding": 8, **changes})
    return config


TOWER = AtomTower.from_config(small().model)


@pytest.fixture(scope="module")
def params():
    """As after training: nothing is zero any more."""
    shapes = jax.eval_shape(lambda: trained.initial_params(small()))
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: jnp.asarray((x.ndim == 1) + 0.3 * rng.normal(size=x.shape), x.dtype), shapes
    )


@jax.jit
def encode(params, crystal, pattern):
    return TOWER.apply({"params": params}, crystal, None, pattern)[:2]


def test_embeddings_are_unit_vectors_and_differ(params, crystals, spots):
    for found in encode(params, crystals, spots):
        assert found.shape == (4, 8) and found.dtype == jnp.float32
        np.testing.assert_allclose(jnp.linalg.norm(found, axis=-1), 1, rtol=1e-5)
        assert np.abs(found - found[0])[1:].max(-1).min() > 1e-3


def test_padding_and_the_order_of_atoms_and_spots_mean_nothing(params, crystals, spots):
    rng = np.random.default_rng(2)
    atoms, pairs = rng.permutation(8), rng.permutation(7)
    positions = jnp.concatenate([jnp.full((4, 2, 3), 0.7), crystals.positions], 1)[:, atoms]
    numbers = jnp.pad(crystals.numbers, [(0, 0), (2, 0)])[:, atoms]

    def fill(x, value):
        return jnp.concatenate([jnp.full((4, 3, 2), value, x.dtype), x], 1)[:, pairs]

    seen = Spots(
        fill(spots.q, 0.3), fill(spots.hk, 2), fill(spots.intensity, 0.9),
        fill(spots.measured, False), spots.lattice,
    )  # fmt: skip
    for found, expected in zip(
        encode(params, dx.Crystal(crystals.lattice, positions, numbers), seen),
        encode(params, crystals, spots),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, atol=5e-6, rtol=0)


def test_neither_height_nor_the_cell_that_an_atom_was_written_down_in_mean_anything(
    params, crystals, spots
):
    rng = np.random.default_rng(4)
    steps = jnp.asarray(rng.integers(-2, 3, (4, 6, 2)), jnp.float32)
    moved = crystals.positions.at[..., :2].add(steps @ crystals.lattice) + jnp.array([0, 0, 7.0])
    found, _ = encode(params, dataclasses.replace(crystals, positions=moved), spots)
    expected, _ = encode(params, crystals, spots)
    np.testing.assert_allclose(found, expected, atol=2e-4, rtol=0)


def test_elements_places_and_cells_mean_something(params, crystals, spots):
    expected, _ = encode(params, crystals, spots)
    for change in (
        {"numbers": crystals.numbers.at[:, 0].add(1)},
        {"positions": crystals.positions.at[:, 0, 0].add(0.3)},
        {"positions": crystals.positions.at[:, 0, 2].add(0.5)},
        {"lattice": crystals.lattice * 1.02},
    ):
        found, _ = encode(params, dataclasses.replace(crystals, **change), spots)
        assert np.abs(found - expected).max(-1).min() > 1e-4


@pytest.mark.slow
def test_what_is_not_computed_changes_nothing_and_too_little_room_gives_no_number(
    params, crystals, spots
):
    atoms, pairs = (crystals.numbers > 0).sum(-1), spots.mask.sum(-1)
    least = tuple(int(n.sum()) for n in AtomTower.tokens(atoms, pairs))

    def run(room):
        def loss(params):
            found = TOWER.apply({"params": params}, crystals, None, spots, room)
            return contrastive_loss(*found), found

        (_, found), slopes = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        return jax.tree.leaves((found, slopes))

    for one, other in zip(run(tuple(n + 3 for n in least)), run((None, None)), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5)
    crystal, pattern, *_ = run(tuple(n - 1 for n in least))
    assert np.isnan(crystal).all() and np.isnan(pattern).all()


def test_gradients_in_padding_are_exactly_zero(params, crystals, spots):
    def total(positions, intensity):
        made = dataclasses.replace(crystals, positions=positions)
        crystal, pattern = encode(params, made, dataclasses.replace(spots, intensity=intensity))
        return (crystal[:, :3] + pattern[:, :3]).sum()

    gradients = jax.jit(jax.grad(total, (0, 1)))(crystals.positions, spots.intensity)
    for gradient, mask in zip(gradients, (crystals.numbers > 0, spots.mask), strict=True):
        assert np.isfinite(gradient).all()
        assert (gradient[~mask] == 0).all() and (gradient[mask] != 0).any(-1).all()


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="model.width = 16 must be divisible by model.heads = 3"):
        trained.initial_params(small(heads=3))


def test_a_model_embeds_crystals_without_simulating_anything(params, monkeypatch):
    model = trained.Model(small(), jax.tree.map(np.asarray, params))
    crystals = tiny.crystals().crystal
    monkeypatch.setattr(trained, "strongest_rods", lambda *_: pytest.fail("simulated"))
    found = model.embed_crystals(crystals)
    expected, _ = encode(params, crystals, dark(len(crystals)))
    np.testing.assert_allclose(found, expected, atol=2e-5)


def dark(count: int) -> Spots:
    """Patterns without a spot."""
    pairs = jnp.zeros((count, 1, 2))
    return Spots(
        pairs, pairs.astype(int), pairs, pairs > 0, jnp.broadcast_to(jnp.eye(2), (count, 2, 2))
    )


@pytest.mark.slow
def test_it_learns_in_seconds_to_find_the_patterns_of_a_batch():
    config = small(width=32)
    config.train.update({"batch": 32, "steps": 60, "warmup": 5, "learning_rate": 1e-3})
    # The same cells in many sheets: the atoms decide.
    source = inputs.load_source(tiny.crystals(), Conditions.from_config(config.diffraction))
    simulate, train = step.make_functions(config)
    current, source = step.replicate((state.create(config), source))
    key, losses = jax.random.key(1), []
    for number in range(config.train.steps):
        rows = step.shard(inputs.batch_indices(0, number, np.arange(32), 32))
        batch = simulate(source, rows, jax.random.fold_in(key, number))
        current, metrics = train(current, batch, inputs.Room())
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    model = trained.Model(config, jax.tree.map(np.asarray, current.params))
    crystal, _, patterns = jax.tree.map(lambda x: np.reshape(x, (32, *x.shape[2:])), batch)
    ranks = embedding_ranks(
        model.embed_patterns(patterns), model.embed_crystals(crystal), np.arange(32)
    )
    # By chance a third of 32 would be among the first ten, and one of them first.
    assert np.mean(ranks <= 10) > 0.6 and np.mean(ranks == 1) > 3 / 32
