"""The training step: the same on any number of devices, compiled once."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from paths import ROOT
from programs import environment

from configs import paper
from dd2d_jax.networks.trained import tower_of
from dd2d_jax.spots import Conditions
from train import inputs, state, step

# A batch small enough for four devices and large enough that its negatives matter.
CONFIG = tiny.config()
CONFIG.train.warmup = 0
CONFIG.thermal.share = 0.0


def three_steps(path) -> None:
    """Train three steps on all devices and write down what came of it."""
    programs = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: programs.append(name) if "backend_compile" in name else None
    )
    source = inputs.load_source(tiny.crystals(), Conditions.from_config(CONFIG.diffraction))
    simulate, train = step.make_functions(CONFIG)
    current, source = step.replicate((state.create(CONFIG), source))
    key = jax.random.key(1)
    out = {"devices": jax.local_device_count(), "compiled": [], "donated": []}
    for number in range(3):
        rows = step.shard(inputs.batch_indices(0, number, np.arange(32), 8))
        batch = simulate(source, rows, jax.random.fold_in(key, number))
        for i, leaf in enumerate(jax.tree.leaves(batch)):
            out[f"batch {number} {i}"] = np.asarray(leaf).reshape(8, *leaf.shape[2:])
        before, (current, metrics) = current, train(current, batch, inputs.Room())
        out["compiled"].append(len(programs))
        out["donated"].append(all(x.is_deleted() for x in jax.tree.leaves(before)))
        out.update({f"{k} {number}": np.asarray(v) for k, v in metrics.items()})
    for i, leaf in enumerate(jax.tree.leaves(current.params)):
        out[f"params {i}"] = np.asarray(leaf)
    np.savez(path, **out)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same three steps on four devices and on one."""
    folder = tmp_path_factory.mktemp("steps")
    three_steps(folder / "four.npz")
    subprocess.run(
        [sys.executable, "-c", f"import test_step; test_step.three_steps({str(folder / 'one')!r})"],
        # The same in all else: what is optimised otherwise rounds otherwise.
        env=environment(
            PYTHONPATH=os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tests/train")))
        ),
        check=True,
    )
    four, one = np.load(folder / "four.npz"), np.load(folder / "one.npz")
    assert (four["devices"], one["devices"]) == (4, 1)
    return four, one


def test_the_disturbed_patterns_do_not_depend_on_the_number_of_devices(runs):
    four, one = runs
    keys = [key for key in one if key.startswith("batch")]
    assert len(keys) == 3 * (3 + 5 + 5)  # a crystal, its clean spots, its disturbed spots
    for key in keys:
        np.testing.assert_allclose(four[key], one[key], rtol=1e-4, atol=1e-5, err_msg=key)


def test_each_step_draws_anew_and_so_does_each_place(runs):
    _, one = runs
    lattice = one["batch 0 12"]
    assert lattice.shape == (8, 2, 2)
    strain = lattice[:, 0, 0] / one["batch 0 0"][:, 0, 0]
    assert len(np.unique(strain)) == 8
    again = one["batch 1 12"][:, 0, 0] / one["batch 1 0"][:, 0, 0]
    assert not set(strain) & set(again)


def test_as_many_queries_as_asked_are_thermal_in_their_crystals_own_cell():
    config = tiny.config()
    config.thermal.share = 0.25
    source = inputs.load_source(tiny.crystals(), Conditions.from_config(config.diffraction))
    index = jax.numpy.arange(400) % 32

    def cells(config):
        simulate = functools.partial(step.simulate_batch, config, source)
        mapped = jax.vmap(simulate, axis_name=step.AXIS, in_axes=(0, None))
        crystal, clean, spots = jax.jit(mapped)(index[None], jax.random.key(3))
        strain = np.asarray(spots.lattice / crystal.lattice)[0, :, 0, 0]
        return np.abs(strain - 1) < 1e-5, np.asarray(spots.intensity - clean.intensity)[0]

    same, change = cells(config)
    assert 0.17 < same.mean() < 0.33
    assert (np.abs(change[same]).max((1, 2)) > 1e-3).mean() > 0.9
    config.thermal.share, config.thermal.displacement = 1.0, 0.0
    same, near = cells(config)
    assert same.all() and np.abs(near).max() < 1e-5


def test_four_devices_give_the_loss_of_one(runs):
    four, one = runs
    for number in range(3):
        assert four[f"loss {number}"] == pytest.approx(one[f"loss {number}"], rel=1e-5)


def test_four_devices_give_the_gradient_and_parameters_of_one(runs):
    four, one = runs
    for number in range(3):
        assert four[f"gradient {number}"] == pytest.approx(one[f"gradient {number}"], rel=1e-4)
    for key in [key for key in one if key.startswith("params")]:
        # Adam divides by the size of the gradient: where that is rounding alone, its sign
        # decides. One step moves a parameter by up to 1e-3.
        difference = np.abs(four[key] - one[key])
        assert np.mean(difference) < 1e-5 and np.mean(difference < 1e-5) > 0.97, key


def test_training_changes_all_parameters_but_unused_elements(runs):
    _, one = runs
    before = jax.tree_util.tree_leaves_with_path(state.create(CONFIG).params)
    for i, (path, leaf) in enumerate(before):
        assert not np.array_equal(one[f"params {i}"], leaf), jax.tree_util.keystr(path)


def test_only_the_first_step_compiles(runs):
    for run in runs:
        first, second, third = run["compiled"]
        assert first > 0 and first == second == third


def test_the_old_state_is_donated(runs):
    # Two copies of parameters and optimiser state would cost memory on the device.
    for run in runs:
        assert run["donated"].all()


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"config\.train\.batch = 6 .* 4 devices"):
        step.shard(np.arange(6))


def test_shards_keep_the_order_of_the_batch():
    np.testing.assert_array_equal(step.shard(np.arange(8)), [[0, 1], [2, 3], [4, 5], [6, 7]])


@pytest.mark.slow
def test_padding_that_is_not_computed_changes_nothing():
    config = paper.get_config()
    config.diffraction.tokens = 8
    config.model.update({"width": 12, "heads": 2, "layers": 1, "dropout": 0.0})
    source = inputs.load_source(tiny.crystals(), Conditions.from_config(config.diffraction))
    start, rows, key = state.create(config), np.arange(8), jax.random.key(1)

    mapped = functools.partial(jax.vmap, axis_name=step.AXIS, in_axes=(None, 0))
    batch = jax.jit(mapped(lambda _, rows: step.simulate_batch(config, source, rows, key)))(
        0, rows[None]
    )

    @functools.partial(jax.jit, static_argnums=0)
    @mapped
    def loss(room, batch):
        # What else the update computes is not used here, and is not compiled.
        return step.update(config, start, batch, room)[1]["loss"]

    # Room for exactly the tokens of eight sheets of three atoms and eight pairs of spots.
    whole, packed = (
        float(loss(room, batch)[0]) for room in (inputs.Room(), inputs.Room(3, (160, 136)))
    )
    assert packed == pytest.approx(whole, rel=1e-5)
    assert np.isnan(loss(inputs.Room(3, (159, 136)), batch)[0])


@pytest.mark.parametrize("name", ["default", "paper"])
def test_remat_keeps_less_of_the_same_network_for_the_way_back(name):
    config = tiny.config()
    if name == "paper":
        config.model = paper.get_config().model
        config.model.width, config.model.heads = 16, 2
    config.model.layers = 4
    conditions = Conditions.from_config(config.diffraction)
    source = inputs.load_source(tiny.crystals(), conditions)
    mapped = jax.vmap(
        functools.partial(step.simulate_batch, config, source),
        axis_name=step.AXIS,
        in_axes=(0, None),
    )
    index = jax.numpy.arange(32)[None]
    shapes = jax.eval_shape(lambda: mapped(index, jax.random.key(1)))
    batch = jax.tree.map(lambda x: np.ones(x.shape[1:], x.dtype), shapes)
    params, kept = jax.eval_shape(lambda: state.create(config)).params, []
    for remat in (False, True):
        tower = tower_of(config.model).clone(remat=remat)

        def loss(params, tower=tower):
            crystals, patterns, scale = tower.apply({"params": params}, *batch)
            return (crystals * patterns).sum() * scale

        # Counted before compiling: on the CPU, XLA undoes it.
        back = jax.eval_shape(lambda params, loss=loss: jax.vjp(loss, params)[1], params)
        kept.append(sum(x.size for x in jax.tree.leaves(back)))
    assert kept[1] < kept[0] / 3


def test_samples_are_of_each_kind_as_often_as_its_share_says():
    config = tiny.config()
    config.thermal.share, config.microscope.share, config.measured.share = 0.1, 0.2, 0.3
    kind = (jnp.arange(1000) + 0.5) / 1000
    found = jax.vmap(lambda kind: step._amount(config, kind, jnp.asarray(0.5)))(kind)
    tilt, few, moved = (np.asarray(x) for x in (found.tilt, found.few, found.displacement))
    hot, plain = config.thermal.displacement / 2, config.disturbance.displacement / 2
    # Thermal, microscope, plain, measured: each with its own knobs, all by half.
    for rows, expected in (
        (slice(0, 100), (0, 0, hot)),
        (slice(100, 300), (config.microscope.tilt / 2, config.microscope.few / 2, plain)),
        (slice(300, 700), (0, 0, plain)),
        (slice(700, 1000), (config.measured.tilt / 2, 0, plain)),
    ):
        for values, one in zip((tilt, few, moved), expected, strict=True):
            np.testing.assert_allclose(values[rows], one, rtol=1e-6)
