"""The published network: the authors' numbers, what it must not see, and their weights."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import diffraction as dx
from configs import paper
from dd2d_jax.evaluation.ranks import TOP
from dd2d_jax.networks import trained
from dd2d_jax.networks.disturbances import LEVELS
from dd2d_jax.networks.loss import contrastive_loss
from dd2d_jax.networks.paper_inputs import point_cloud, sequences
from dd2d_jax.networks.paper_network import PaperTower
from dd2d_jax.networks.paper_weights import import_weights
from dd2d_jax.spots import Spots
from train import loop, state

CONFIG = tiny.paper_config()
TOWER = PaperTower.from_config(CONFIG.model)


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Less time to compile what runs once."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()  # slow programs are not for other tests


@pytest.fixture(scope="module")
def params():
    """As after training: nothing is zero any more."""
    shapes = jax.eval_shape(lambda: trained.initial_params(CONFIG))
    rng = np.random.default_rng(0)

    def draw(path, x):
        name = jax.tree_util.keystr(path)
        # Angles and pixels are large numbers: all tokens would be alike.
        size = 0.02 if "embed" in name else 0.4
        return jnp.asarray(("scale" in name) + size * rng.normal(size=x.shape), x.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@jax.jit
def encode(params, crystal, pattern):
    values = {"params": params}
    return (
        TOWER.apply(values, crystal, None, method="encode_crystal"),
        TOWER.apply(values, pattern, method="encode_pattern"),
    )


# The authors' numbers


@pytest.mark.parametrize(("layers", "count"), [(4, 15_380_737), (3, 11_831_809), (2, 8_282_881)])
def test_it_has_exactly_the_papers_parameters(layers, count):
    config = paper.get_config()
    config.model.layers = layers
    shapes = jax.eval_shape(lambda: trained.initial_params(config))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == count


@pytest.fixture(scope="module")
def golden(shared_data, tmp_path_factory):
    """The published network's stored outputs, and ours with its imported weights."""
    file = shared_data / "reference" / "dd2d_network.npz"
    folder = tmp_path_factory.mktemp("golden") / "run"
    assert import_weights(file, folder)["width"] == 92
    model, stored = trained.load(folder), np.load(file)
    tower = trained.tower_of(model.config.model)

    def run(module, sequence, cloud):
        return module.cge(sequence), module.ste(cloud)

    @jax.jit
    def both(params, *inputs):
        values = {"params": params}
        _, inside = tower.apply(
            values,
            *inputs,
            capture_intermediates=lambda module, _: module.name == "norm",
            method=run,
        )
        return tower.apply(values, *inputs, method=run), inside["intermediates"]

    cloud = stored["input/pattern"].transpose(0, 2, 1)
    (crystal, pattern), inside = both(model.params, stored["input/sequence"], cloud)
    tokens = {k: v["norm"]["__call__"][0].reshape(6, -1, 92) for k, v in inside.items()}
    crystals, patterns = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (crystal, pattern))
    scale = np.exp(model.params["log_scale"])
    return stored, {
        "crystal_tokens": tokens["cge"],
        "pattern_tokens": tokens["ste"],
        "crystal_projected": crystal,
        "pattern_projected": pattern,
        "logits_per_pattern": scale * patterns @ crystals.T,
        "loss": contrastive_loss(crystals, patterns, scale),
    }


@pytest.mark.parametrize(
    "name",
    ["crystal_tokens", "pattern_tokens", "crystal_projected", "pattern_projected",
     "logits_per_pattern", "loss"],
)  # fmt: skip
def test_the_published_networks_outputs_are_reproduced(golden, name):
    stored, ours = golden
    np.testing.assert_allclose(ours[name], stored[f"output/{name}"], rtol=0, atol=1e-5)


# What it sees


def test_embeddings_are_unit_vectors_and_differ(params, crystals, spots):
    for found in encode(params, crystals, spots):
        assert found.shape == (4, 12) and found.dtype == jnp.float32
        np.testing.assert_allclose(jnp.linalg.norm(found, axis=-1), 1, rtol=1e-5)
        # Else the tests of what changes nothing could not fail.
        assert np.abs(found - found[0])[1:].max(-1).min() > 1e-3


def test_padding_changes_nothing(params, crystals, spots):
    more = dx.Crystal(
        crystals.lattice,
        jnp.concatenate([jnp.full((4, 2, 3), 0.7), crystals.positions], 1),
        jnp.pad(crystals.numbers, [(0, 0), (2, 0)]),
    )

    def fill(x, value):
        return jnp.concatenate([jnp.full((4, 3, 2), value, x.dtype), x], 1)

    seen = Spots(
        fill(spots.q, 0.3), fill(spots.hk, 2), fill(spots.intensity, 9.0),
        fill(spots.measured, False), spots.lattice,
    )  # fmt: skip
    for found, expected in zip(
        encode(params, more, seen), encode(params, crystals, spots), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=2e-6, rtol=0)


def test_the_order_of_atoms_and_spots_means_nothing(params, crystals, spots):
    rng = np.random.default_rng(2)
    atoms, tokens = rng.permutation(6), rng.permutation(4)
    mixed = dx.Crystal(crystals.lattice, crystals.positions[:, atoms], crystals.numbers[:, atoms])
    turned = Spots(
        *(x[:, tokens] for x in (spots.q, spots.hk, spots.intensity, spots.measured)),
        spots.lattice,
    )
    for found, expected in zip(
        encode(params, mixed, turned), encode(params, crystals, spots), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=2e-6, rtol=0)


def test_the_start_token_attends_to_the_lattice_alone(params, crystals):
    _, inside = jax.jit(
        lambda p, s: TOWER.apply(
            {"params": p}, s, method=lambda m, s: m.cge(s), mutable="intermediates"
        )
    )(params, sequences(crystals))
    weight = np.asarray(inside["intermediates"]["cge"]["block_0"]["attention"][0])
    assert weight.shape == (4, 2, 32, 32)
    assert (weight[:, :, 0, :7] > 0).all() and (weight[:, :, 0, 7:] == 0).all()
    # Other tokens see every token of their crystal, and no padding.
    real = np.asarray(sequences(crystals) != -1)
    for one, mask in zip(weight, real, strict=True):
        assert (one[:, 1:][:, mask[1:]][..., mask] > 0).all()
        assert (one[:, 1:][:, mask[1:]][..., ~mask] == 0).all()


def test_gradients_in_padding_are_exactly_zero(params, crystals, spots):
    def total(positions, intensity):
        made = dataclasses.replace(crystals, positions=positions)
        crystal, pattern = encode(params, made, dataclasses.replace(spots, intensity=intensity))
        return (crystal[:, :3] + pattern[:, :3]).sum()

    gradients = jax.jit(jax.grad(total, (0, 1)))(crystals.positions, spots.intensity)
    for gradient, mask in zip(gradients, (crystals.numbers > 0, spots.measured), strict=True):
        assert np.isfinite(gradient).all()
        assert (gradient[~mask] == 0).all() and (gradient[mask] != 0).any(-1).all()


@pytest.mark.slow
def test_what_is_not_computed_changes_nothing(crystals, spots, x64):
    tower = PaperTower.from_config(tiny.paper_config(layers=2, dtype="float64").model)
    crystals, spots = jax.tree.map(
        lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, (crystals, spots)
    )
    params = jax.jit(tower.init)(jax.random.key(1), crystals, spots, spots)["params"]
    rng = np.random.default_rng(6)
    params = jax.tree.map(lambda x: jnp.asarray(x + rng.normal(0, 0.05, x.shape)), params)
    atoms, pairs = (crystals.numbers > 0).sum(-1), spots.mask.sum(-1)
    room = tuple(int(n.sum()) + 2 for n in PaperTower.tokens(atoms, pairs))

    def results(**extra):
        def loss(params):
            found = tower.apply({"params": params}, crystals, spots, spots, **extra)
            found = found[0] if "mutable" in extra else found
            return contrastive_loss(*found), found

        (_, found), slopes = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        return jax.tree.leaves((found, slopes))

    # Where someone looks inside, everything is computed.
    expected = results(mutable="intermediates")
    # The softmax hides the biases of keys, one in each block.
    assert sum(np.abs(x).max() > 1e-9 for x in expected) == len(expected) - 4
    for one, other in zip(results(room=room), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-10)


def test_too_little_room_gives_no_number(params, crystals, spots):
    values, real = {"params": params}, int((sequences(crystals) != -1).sum())
    run = jax.jit(
        lambda p, room: TOWER.apply(p, crystals, None, room, method="encode_crystal"),
        static_argnums=1,
    )
    assert np.isfinite(run(values, real)).all() and np.isnan(run(values, real - 1)).all()


def test_tokens_are_counted_as_the_encoders_find_them(crystals, spots):
    atoms = np.asarray(crystals.numbers > 0).sum(-1)
    both = dataclasses.replace(spots, measured=spots.measured.at[:, 2].set(True))
    found = PaperTower.tokens(atoms, np.asarray(both.mask).sum(-1))
    np.testing.assert_array_equal(found[0], (sequences(crystals) != -1).sum(-1))
    np.testing.assert_array_equal(found[1], (point_cloud(both) != 0).any(-1).sum(-1))


def test_the_losss_gradient_is_that_of_finite_differences(crystals, spots, params, x64):
    double = PaperTower.from_config(tiny.paper_config(dtype="float64").model)
    crystals, spots, params = jax.tree.map(
        lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, (crystals, spots, params)
    )
    rng = np.random.default_rng(5)
    direction = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), params)

    @jax.jit
    def loss(params, step):
        moved = jax.tree.map(lambda x, d: x + step * d, params, direction)
        return contrastive_loss(*double.apply({"params": moved}, crystals, spots, spots))

    @jax.jit
    def slope(params):
        gradient = jax.grad(lambda p: loss(p, 0.0))(params)
        return jax.tree.map(lambda g, d: (g * d).sum(), gradient, direction)

    each, step = slope(params), 1e-6
    assert all(g != 0 for g in jax.tree.leaves(each))
    measured = (loss(params, step) - loss(params, -step)) / (2 * step)
    assert float(sum(jax.tree.leaves(each))) == pytest.approx(float(measured), rel=1e-6)


def test_dropout_acts_in_training_alone(params, crystals, spots):
    @jax.jit
    def run(seed):
        rngs = {"dropout": jax.random.key(seed, impl="rbg")}
        return TOWER.apply({"params": params}, crystals, spots, spots, rngs=rngs)

    first, again, other = run(0), run(0), run(1)
    without = encode(params, crystals, spots)
    for i in range(2):
        np.testing.assert_array_equal(first[i], again[i])
        assert np.abs(first[i] - other[i]).max() > 0.01
        assert np.abs(first[i] - without[i]).max() > 0.01


def test_the_optimiser_has_the_papers_second_moment():
    config, values = tiny.paper_config(), {"w": jnp.ones((2, 2))}
    config.train.clip = 1e9
    optimise = state.optimiser(config)
    _, after = jax.jit(lambda x: optimise.update(x, optimise.init(x), x))(values)
    moments = [x for x in jax.tree.leaves(after) if jnp.shape(x) == (2, 2)]
    assert sorted(float(x[0, 0]) for x in moments) == pytest.approx([0.05, 0.1])


@pytest.mark.parametrize(
    ("change", "says"),
    [({"name": "gpt"}, "'gpt' is unknown"), ({"heads": 5}, "must be even and divisible")],
)
def test_a_model_that_cannot_be_is_refused(change, says):
    with pytest.raises(ValueError, match=says):
        trained.initial_params(tiny.paper_config(**change))


# Training


@pytest.mark.slow
def test_it_is_trained_as_any_other(tmp_path, monkeypatch):
    # Tables of accuracy are made from embeddings, whatever the network.
    found = {level: {f"top{k}": 1.0 for k in TOP} for level in LEVELS}
    monkeypatch.setattr(loop, "split_accuracy", lambda *_: found)
    monkeypatch.setattr(loop, "test_table", lambda *_: {})
    monkeypatch.setattr(loop, "print_table", lambda *_: None)
    config = tiny.paper_config()
    config.data.update({"source": "ase_db", "limit": 20, "data_dir": str(tmp_path / "data")})
    config.data.path = str(tiny.write_db(tmp_path / "tiny.db"))
    config.diffraction.q_max = 0.8
    config.train.update({"batch": 4, "steps": 1, "warmup": 0, "evaluate_every": 1})
    loop.run(config, tmp_path / "run")
    first = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert np.isfinite(first["loss"]) and first["scale"] == pytest.approx(1 / 0.07, rel=1e-4)
    after = trained.load(tmp_path / "run").params
    for path, leaf in jax.tree_util.tree_leaves_with_path(after):
        name = jax.tree_util.keystr(path)
        if "kernel" in name:  # at first N(0, 0.02)
            assert 0.01 < np.std(leaf) < 0.03 or leaf.size < 20, name
        else:  # zero, one and log(1 / 0.07): one step of Adam has moved them
            moved = np.abs(leaf - (1.0 if "scale" in name and leaf.ndim else 0.0))
            assert leaf.ndim == 0 or 0 < moved.max() < 5e-4, name
    assert 0 < abs(after["log_scale"] + np.log(0.07)) < 5e-4
