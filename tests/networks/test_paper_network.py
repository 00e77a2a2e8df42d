"""The published network: the authors' numbers, what it must not see, and their weights."""

import dataclasses
import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict
from test_main import call

import diffraction as dx
from configs import paper
from dd2d_jax import Library, retrieve
from dd2d_jax.commands import main as cli
from dd2d_jax.evaluation.evaluate import evaluate
from dd2d_jax.networks import checkpoint, trained
from dd2d_jax.networks import paper_network as paper_model
from dd2d_jax.networks.loss import contrastive_loss
from dd2d_jax.networks.paper_network import PaperTower, import_weights, point_cloud, sequences
from dd2d_jax.spots import Spots
from train import state


def small(**changes) -> ConfigDict:
    """The paper's config with a network of 12 numbers."""
    config = paper.get_config()
    config.diffraction.tokens = 4
    config.model.update({"width": 12, "heads": 2, "layers": 1, **changes})
    return config


CONFIG = small()
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


@pytest.fixture
def crystals(layer) -> dx.Crystal:
    """Four crystals of 3, 4, 5 and 6 atoms."""
    return dx.stack([layer(seed, atoms=seed + 3) for seed in range(4)])


@pytest.fixture
def spots() -> Spots:
    """Four patterns of 4 pairs; the last is not seen, of another only one spot."""
    rng = np.random.default_rng(3)
    measured = np.ones((4, 4, 2), bool)
    measured[:, 3], measured[:, 2, 1] = False, False
    return Spots(
        jnp.asarray(rng.uniform(-1, 1, (4, 4, 2)), jnp.float32),
        jnp.asarray(rng.integers(-3, 4, (4, 4, 2))),
        jnp.asarray(rng.uniform(0.01, 1, (4, 4, 2)) * measured, jnp.float32),
        jnp.asarray(measured),
        jnp.broadcast_to(jnp.eye(2), (4, 2, 2)),
    )


@jax.jit
def encode(params, crystal, pattern):
    values = {"params": params}
    return (
        TOWER.apply(values, crystal, None, method="encode_crystal"),
        TOWER.apply(values, pattern, method="encode_pattern"),
    )


# The authors' numbers


@pytest.mark.parametrize(
    ("layers", "count"), [(4, 15_380_737), (3, 11_831_809), (2, 8_282_881)]
)
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


def record(path) -> tuple[np.ndarray, np.ndarray, dx.Crystal]:
    """Pattern (K, 3), sequence and crystal of the authors' data-set format."""
    data = json.loads(path.read_text())
    values = np.array([float(x) for x in data["seq"] if x != ""])
    a, b, gamma = values[0], values[1], np.radians(values[5])
    lattice = np.array([[a, 0], [b * np.cos(gamma), b * np.sin(gamma)]])
    atoms = values[6:].reshape(-1, 4)
    crystal = dx.Crystal(
        jnp.asarray(lattice), jnp.asarray(atoms[:, :3]), jnp.asarray(atoms[:, 3], jnp.int32)
    )
    return np.transpose(data["X"]), values, crystal


@pytest.mark.parametrize("name", ["example_dataset", "fig4_pattern"])
def test_the_authors_crystals_become_the_authors_sequences(shared_data, name):
    _, expected, crystal = record(shared_data / "paper" / f"{name}.json")
    mixed = jax.tree.map(lambda x: x[::-1], (crystal.positions, crystal.numbers))
    run = jax.jit(sequences, static_argnums=1)
    found = np.asarray(run(dx.Crystal(crystal.lattice, *mixed), 180))
    end = 1 + len(expected)
    assert found[0] == 200 and found[end] == 210 and (found[end + 1 :] == -1).all()
    # Their vacuum is another: c, and with it every z, differ by constants.
    shift = np.zeros_like(expected)
    shift[8::4] = found[9] - expected[8]
    shift[2] = found[3] - expected[2]
    np.testing.assert_allclose(found[1:end], expected + shift, atol=2e-5)


def test_the_authors_spots_lie_on_our_pixels(shared_data):
    expected, _, crystal = record(shared_data / "paper" / "fig4_pattern.json")
    hk = np.stack(np.meshgrid(*2 * [np.arange(-6, 7)], indexing="ij"), -1).reshape(-1, 2)
    q = jnp.asarray(hk @ np.linalg.inv(crystal.lattice).T, jnp.float32)
    every = jnp.ones(len(hk))
    found = np.asarray(jax.jit(point_cloud)(dx.Pattern(q, every, jnp.asarray(hk), every > 0)))
    assert {tuple(x) for x in found[:-1, :2]} == {tuple(x) for x in expected[:, :2]}
    assert len(found) == 170 and tuple(found[-1]) == (0, 0, 3)


# Sequences and clouds


def test_a_sequence_is_the_cell_and_the_atoms_in_order():
    crystal = dx.Crystal(
        jnp.array([[3.0, 0.0], [-1.5, 1.5 * np.sqrt(3)]]),
        jnp.array([[0.2, 0.1, 1.0], [7.0, 7.0, 70.0], [1.0, 0.5, -1.5], [0.0, 0.9, 1.5]]),
        jnp.array([42, 0, 16, 16]),
    )
    # Thickness 3: c = 18, and the layer lies from 7.5 to 10.5.
    atoms = [1, 0.5, 7.5, 16, 0, 0.9, 10.5, 16, 0.2, 0.1, 10, 42]
    found = sequences(crystal)
    assert found.shape == (24,)
    expected = [200, 3, 3, 18, 90, 90, 120, *atoms, 210, -1, -1, -1, -1]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_array_equal(sequences(crystal, 20), found[:20])
    np.testing.assert_array_equal(sequences(crystal, 30), [*found, *6 * [-1]])


def test_an_atom_is_never_read_as_padding():
    crystal = dx.Crystal(3 * jnp.eye(2), jnp.array([[-1.0, 2.0, 0.0]]), jnp.array([6]))
    found = np.asarray(jax.jit(sequences)(crystal))
    assert (found != -1).all() and found[7] == pytest.approx(-1, abs=2e-5)


def test_more_atoms_than_the_block_holds_are_refused(crystals):
    with pytest.raises(ValueError, match="6 atoms, but a block of 24 holds 4; a block of 32 would"):
        sequences(crystals, 24)
    with pytest.raises(ValueError, match="6 slots for atoms, but a block of 31 holds 5"):
        jax.eval_shape(lambda c: sequences(c, 31), crystals)


def test_a_cloud_is_pixels_and_log_intensities_relative_to_the_strongest():
    pattern = dx.Pattern(
        jnp.array([[0.5, -0.25], [2.6, 0.0], [0.0, 0.0], [1.0, 1.0], [0.1, 0.1]]),
        jnp.array([4.0, 900.0, 8.0, 0.0, 50.0]),
        jnp.zeros((5, 2), jnp.int32),
        jnp.array([True, True, True, True, False]),
    )
    half, least = np.log([0.5, 1e-4])
    # 100.5 + 40.2 q: 120.6, 90.45; beyond the image; 100.5; 140.7; masked.
    expected = [
        [121, 90, half], [0, 0, 0], [101, 101, 0], [141, 141, least], [0, 0, 0], [0, 0, 3]
    ]  # fmt: skip
    np.testing.assert_allclose(jax.jit(point_cloud)(pattern), expected, rtol=1e-6)


def test_the_cloud_of_spots_is_the_cloud_of_their_pattern(spots):
    every = dx.Pattern(
        jnp.concatenate([spots.q, -spots.q], 1),
        jnp.concatenate([spots.intensity[..., 0], spots.intensity[..., 1]], 1),
        jnp.concatenate([spots.hk, -spots.hk], 1),
        jnp.concatenate([spots.measured[..., 0], spots.measured[..., 1]], 1),
    )
    found = np.asarray(jax.jit(point_cloud)(spots))
    np.testing.assert_array_equal(found, jax.jit(point_cloud)(every))
    assert (found != 0).any(-1).sum() == 4 * (5 + 1)


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


def test_what_is_not_computed_changes_nothing(crystals, spots, x64):
    tower = PaperTower.from_config(small(layers=2, dtype="float64").model)
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
    double = PaperTower.from_config(small(dtype="float64").model)
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


def test_dropout_masks_are_as_if_drawn():
    rate, n = 0.1, 2**18
    masks = [
        np.asarray(paper_model._kept(jax.random.key(i, impl="rbg"), rate, (64, n // 64))).ravel()
        for i in range(4)
    ]
    drop = np.stack(masks) - (1 - rate)
    assert np.abs(drop.mean(1)).max() < 5 * np.sqrt(rate * (1 - rate) / n)
    # Neither another key nor the numbers beside, below or some places on tell anything.
    pairs = [drop[0] * drop[1], drop[2] * drop[3]]
    pairs += [drop[0] * np.roll(drop[0], shift) for shift in (1, 2, 3, 4, 64, n // 64, n // 2)]
    spread = rate * (1 - rate) / np.sqrt(n)
    assert np.abs(np.mean(pairs, 1)).max() < 5 * spread


def test_the_optimiser_has_the_papers_second_moment():
    config, values = small(), {"w": jnp.ones((2, 2))}
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
        trained.initial_params(small(**change))


# Training


def test_train_main_trains_it(tmp_path):
    done = call(
        tmp_path,
        "--config=configs/paper.py",
        f"--workdir={tmp_path / 'run'}",
        "--config.data.source=ase_db",
        f"--config.data.path={tiny.write_db(tmp_path / 'tiny.db')}",
        "--config.data.limit=20",
        "--config.diffraction.tokens=4",
        "--config.diffraction.q_max=0.8",
        "--config.model.width=12",
        "--config.model.heads=2",
        "--config.model.layers=1",
        "--config.train.batch=4",
        "--config.train.steps=1",
        "--config.train.warmup=0",
        "--config.train.evaluate_every=1",
    )
    assert done.returncode == 0, done.stderr[-2000:]
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


# The authors' weights


def their_state(width: int = 12, layers: int = 2) -> dict[str, np.ndarray]:
    """A state dict as the authors' module has it, made-up values."""
    linear = {"tok_emb.fc1": (width, 1)}
    part = width // 3
    linear |= {f"pattern_emb.fc{i}": (part, 1) for i in (1, 2)}
    linear["pattern_emb.fc3"] = (width - 2 * part, 1)
    norms = ["ln_f", "ln_p"]
    for kind in ("crystal", "pattern"):
        linear[f"fc_project_{kind}.fc1"] = (2 * width, width)
        linear[f"fc_project_{kind}.fc2"] = (width, 2 * width)
        for i in range(layers):
            block = f"Trans_{kind}_encoder.blocks.{i}"
            norms += [f"{block}.ln1", f"{block}.ln2"]
            for name in ("key", "query", "value", "proj"):
                linear[f"{block}.attn1.{name}"] = (width, width)
            linear[f"{block}.mlp.0"] = (4 * width, width)
            linear[f"{block}.mlp.2"] = (width, 4 * width)
    shapes = {f"{name}.weight": shape for name, shape in linear.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in linear.items()}
    shapes |= {f"{name}.{leaf}": (width,) for name in norms for leaf in ("weight", "bias")}
    rng = np.random.default_rng(0)
    out = {name: rng.normal(0, 0.3, s).astype(np.float32) for name, s in sorted(shapes.items())}
    out["logit_scale"] = np.float32(2.7)
    out["pos_emb.pe"] = paper_model.position_code(180, width)[None]
    out["total_labels"] = np.arange(10)
    return out


@pytest.fixture
def imported(tmp_path):
    np.savez(tmp_path / "their.npz", **their_state())
    made = import_weights(tmp_path / "their.npz", tmp_path / "run", heads=2)
    assert made == {
        "checkpoint": str(tmp_path / "run"), "parameters": 8857,
        "width": 12, "layers": 2, "heads": 2,
    }  # fmt: skip
    return tmp_path


def test_imported_weights_are_theirs_turned_for_flax(imported):
    theirs, ours = their_state(), trained.load(imported / "run").params
    assert ours["log_scale"] == theirs["logit_scale"]
    cge, ste = "Trans_crystal_encoder.blocks.", "Trans_pattern_encoder.blocks."
    for found, name in (
        (ours["cge"]["block_1"]["query"]["kernel"].T, f"{cge}1.attn1.query.weight"),
        (ours["ste"]["block_0"]["up"]["kernel"].T, f"{ste}0.mlp.0.weight"),
        (ours["ste"]["block_0"]["norm_mlp"]["scale"], f"{ste}0.ln2.weight"),
        (ours["ste"]["norm"]["bias"], "ln_p.bias"),
        (ours["cge"]["project_down"]["bias"], "fc_project_crystal.fc2.bias"),
    ):
        np.testing.assert_array_equal(found, theirs[name])


def test_every_imported_weight_has_its_own_place(imported):
    theirs, ours = their_state(), trained.load(imported / "run").params
    learned = set(theirs) - {"pos_emb.pe", "total_labels"}
    sums = sorted(float(np.abs(theirs[name]).sum()) for name in learned)
    assert sorted(float(np.abs(x).sum()) for x in jax.tree.leaves(ours)) == pytest.approx(sums)


def test_evaluate_and_retrieve_use_imported_weights(imported):
    model, crystals = trained.load(imported / "run"), tiny.crystals().take(range(4))
    result = evaluate(model, crystals, crystals, "clean")
    assert result["methods"]["physics"]["top1"] == 100
    assert result["methods"]["neural"]["top5"] == 100
    library = Library.build(crystals, model)
    assert library.embeddings.shape == (4, 12)
    pattern = dx.simulate(crystals.crystal[1], dx.Electrons(80.0), 1.25, 0.5)
    found = retrieve(pattern, library, model, k=4, rerank=0)
    similar = [one.similarity for one in found]
    assert len(found) == 4 and similar == sorted(similar, reverse=True)
    assert {one.uid for one in found} == set(crystals.uid)


def test_the_command_has_help_with_an_example(capsys):
    with pytest.raises(SystemExit) as leave:
        cli.main(["import-weights", "--help"])
    text = capsys.readouterr().out
    assert leave.value.code == 0 and "--json" in text
    assert "dd2d import-weights" in text.split("example:")[1]


def test_the_command_makes_a_checkpoint_and_overwrites_nothing(tmp_path, capsys):
    np.savez(tmp_path / "their.npz", **{f"param/{k}": v for k, v in their_state().items()})
    line = ["import-weights", str(tmp_path / "their.npz"), str(tmp_path / "run"), "--heads", "3"]
    assert cli.main([*line, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["heads"] == 3
    assert checkpoint.read_config(tmp_path / "run").model.heads == 3
    before = sorted((tmp_path / "run").rglob("*"))
    assert cli.main(line) == 1
    assert "exists already" in capsys.readouterr().err
    with pytest.raises(FileExistsError):
        import_weights(tmp_path / "their.npz", tmp_path / "run")
    assert sorted((tmp_path / "run").rglob("*")) == before
    assert len(list(tmp_path.iterdir())) == 2


LINEAR = "Trans_pattern_encoder.blocks.1.attn1.key.weight"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"ln_f.bias": None}, "1 arrays are missing, the first is ln_f.bias"),
        ({"pointNet.fc": np.ones(2)}, "not of this network, the first is pointNet.fc"),
        ({LINEAR: np.ones((12, 6))}, f"{LINEAR} has shape (12, 6) where (12, 12) is needed"),
        ({"ln_p.weight": np.full(12, np.nan)}, "ln_p.weight holds numbers that are not finite"),
        ({"pos_emb.pe": np.zeros((1, 180, 12))}, "pos_emb.pe is not the sinusoidal code"),
        ({"pos_emb.pe": np.zeros((180, 12))}, "pos_emb.pe has shape (180, 12)"),
        ({"tok_emb.fc1.weight": None}, "tok_emb.fc1.weight (width, 1) is missing"),
        ({"Trans_formula_encoder.x": np.ones(2)}, "the authors' earlier network"),
        ({"heads": 5}, "5 heads do not divide its width of 12"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, change, says):
    given = {**their_state(), **change}
    heads = given.pop("heads", 2)
    file = tmp_path / "their.npz"
    np.savez(file, **{name: x for name, x in given.items() if x is not None})
    with pytest.raises(ValueError, match=re.escape(says)) as error:
        import_weights(file, tmp_path / "run", heads)
    assert str(error.value).startswith(f"{file}: ")
    assert [p.name for p in tmp_path.iterdir()] == ["their.npz"]


def test_files_that_are_no_state_dict_are_refused_in_one_line(tmp_path, capsys):
    (tmp_path / "junk.npz").write_bytes(b"junk")
    whole = tmp_path / "whole.npz"
    np.savez(whole, **their_state())
    (tmp_path / "cut.npz").write_bytes(whole.read_bytes()[:5000])
    np.savez(tmp_path / "pickled.npz", x=np.array([{}], object))
    (tmp_path / "their.txt").write_text("")
    for name in ("junk.npz", "cut.npz", "pickled.npz", "their.txt", "gone.npz"):
        assert cli.main(["import-weights", str(tmp_path / name), str(tmp_path / "run")]) == 1
        said = capsys.readouterr().err
        assert said.startswith("error: ") and name in said and len(said.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_without_torch_a_pt_file_is_refused_with_the_way_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "their.pt").write_bytes(b"")
    assert cli.main(["import-weights", str(tmp_path / "their.pt"), str(tmp_path / "run")]) == 1
    assert "dd2d-jax[torch]" in capsys.readouterr().err


def test_a_pt_file_is_read_as_the_npz_and_code_in_it_is_not_run(tmp_path):
    torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
    theirs = their_state()
    np.savez(tmp_path / "their.npz", **theirs)
    torch.save({k: torch.tensor(v) for k, v in theirs.items()}, tmp_path / "their.pt")
    for name in ("npz", "pt"):
        import_weights(tmp_path / f"their.{name}", tmp_path / name, heads=2)
    assert trained.load(tmp_path / "pt").fingerprint == trained.load(tmp_path / "npz").fingerprint
    torch.save({"tok_emb.fc1.weight": sys.exit}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match=r"evil\.pt: not a state dict that can be read safely"):
        import_weights(tmp_path / "evil.pt", tmp_path / "run")


def test_imported_weights_are_used_under_the_conditions_of_the_papers_config():
    assert paper.get_config().diffraction.to_dict() == paper_model.CONDITIONS
