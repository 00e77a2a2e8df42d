"""The state: reproducible, and weight decay where it belongs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from train.state import create, optimiser


@pytest.fixture(scope="module")
def start():
    return create(tiny.config())


def test_it_starts_at_step_zero_in_float32(start):
    assert start.step == 0 and start.step.dtype == jnp.int32
    assert {x.dtype for x in jax.tree.leaves(start.params)} == {jnp.dtype("float32")}
    # A weak type would compile the training step twice.
    assert not any(x.weak_type for x in jax.tree.leaves(start))


def test_the_seed_fixes_the_parameters(start):
    # That the same seed gives the same is seen in test_step, across processes.
    config = tiny.config()
    config.seed = 1
    other = create(config).params
    assert any(
        not np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(other), jax.tree.leaves(start.params), strict=True)
    )


def steps(config, params, gradients, count: int):
    optimise = optimiser(config)
    state, updates = optimise.init(params), []
    for _ in range(count):
        update, state = optimise.update(gradients, state, params)
        updates.append(update)
    return updates


PARAMS = {"matrix": jnp.ones((2, 2)), "scale": jnp.ones(2), "log_scale": jnp.ones(())}


def test_only_matrices_decay():
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    last = steps(tiny.config(), PARAMS, zero, 3)[-1]
    assert (last["matrix"] < 0).all()
    assert not last["scale"].any() and not last["log_scale"].any()


def test_the_rate_warms_up_and_falls_to_zero():
    config = tiny.config()
    config.train.weight_decay = 0.0
    gradients = jax.tree.map(jnp.ones_like, PARAMS)
    sizes = [abs(float(u["log_scale"])) for u in steps(config, PARAMS, gradients, 7)]
    assert sizes[0] == 0 and sizes[1] == pytest.approx(sizes[2] / 2, rel=1e-3)
    assert sizes[2] == pytest.approx(config.train.learning_rate, rel=1e-3)
    assert sizes[2] > sizes[3] > sizes[4] > sizes[5] > sizes[6] == pytest.approx(0, abs=1e-9)


def test_gradients_are_clipped_as_a_whole():
    config = tiny.config()
    gradients = jax.tree.map(lambda x: 1e6 * jnp.ones_like(x), PARAMS)
    clipped = jax.tree.map(lambda x: jnp.ones_like(x) / np.sqrt(7), PARAMS)
    for one, other in zip(
        steps(config, PARAMS, gradients, 2), steps(config, PARAMS, clipped, 2), strict=True
    ):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), one, other)


def test_fewer_steps_than_the_warm_up_make_a_schedule():
    config = tiny.config()
    config.train.steps = 1
    steps(config, PARAMS, PARAMS, 2)
