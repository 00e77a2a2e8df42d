"""The contrastive loss: its definition, and the same whatever the number of devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dd2d_jax.networks import loss as losses

contrastive_loss = jax.jit(losses.contrastive_loss, static_argnames="axis_name")


def unit(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def plain(crystals, patterns, scale) -> float:
    """Symmetric cross-entropy in numpy, double precision."""
    logits = scale * np.asarray(crystals, float) @ np.asarray(patterns, float).T
    total = 0.0
    for x in (logits, logits.T):
        total += np.mean(np.log(np.exp(x).sum(1)) - np.diag(x))
    return total / 2


def test_two_by_two_by_hand():
    # Logits [[2, 0], [1, 0]]: rows log(1 + e^-2) and log(1 + e), columns log(1 + e^-1) and log 2.
    crystals = jnp.array([[2.0, 0.0], [1.0, 0.0]])
    patterns = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    rows = (np.log1p(np.exp(-2)) + np.log1p(np.e)) / 2
    columns = (np.log1p(np.exp(-1)) + np.log(2)) / 2
    assert contrastive_loss(crystals, patterns, 1.0) == pytest.approx((rows + columns) / 2, 1e-6)


def test_it_is_the_mean_of_both_cross_entropies():
    crystals, patterns = unit(0, (12, 5)), unit(1, (12, 5))
    found = contrastive_loss(crystals, patterns, 14.0)
    assert found == pytest.approx(plain(crystals, patterns, 14.0), rel=1e-5)


def test_both_directions_count_alike():
    crystals, patterns = unit(0, (12, 5)), unit(1, (12, 5))
    one, other = contrastive_loss(crystals, patterns, 9), contrastive_loss(patterns, crystals, 9)
    assert one == pytest.approx(float(other), rel=1e-6)


def test_no_knowledge_costs_the_logarithm_of_the_batch():
    same = jnp.ones((16, 4)) / 2
    assert contrastive_loss(same, same, 10.0) == pytest.approx(np.log(16), rel=1e-6)


def test_perfect_embeddings_cost_nothing():
    assert contrastive_loss(jnp.eye(6), jnp.eye(6), 100.0) < 1e-6


@pytest.fixture(scope="module")
def linear():
    """Two linear towers: parameters and inputs for a batch of 16."""
    rng = np.random.default_rng(2)
    params = {
        "crystal": jnp.asarray(rng.normal(size=(6, 4)), jnp.float32),
        "pattern": jnp.asarray(rng.normal(size=(6, 4)), jnp.float32),
        "scale": jnp.float32(7.0),
    }
    return params, unit(3, (16, 6)), unit(4, (16, 6))


@functools.partial(jax.jit, static_argnames="axis")
def loss_of(params, x, y, axis=None):
    crystals, patterns = x @ params["crystal"], y @ params["pattern"]
    crystals, patterns = (
        v / jnp.linalg.norm(v, axis=-1, keepdims=True) for v in (crystals, patterns)
    )
    return contrastive_loss(crystals, patterns, params["scale"], axis)


def test_four_devices_give_the_loss_and_gradient_of_one(linear):
    params, x, y = linear
    assert jax.local_device_count() == 4

    def share(x, y):
        found = jax.value_and_grad(loss_of)(params, x, y, "devices")
        return jax.lax.pmean(found, "devices")

    def split(v):
        return v.reshape(4, 4, -1)

    loss, gradient = jax.tree.map(
        lambda v: v[0], jax.pmap(share, axis_name="devices")(split(x), split(y))
    )
    expected, one = jax.value_and_grad(loss_of)(params, x, y)
    assert loss == pytest.approx(float(expected), rel=1e-6)
    size = np.sqrt(sum(float((v**2).sum()) for v in jax.tree.leaves(one)))
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=3e-7 * size)


def test_negatives_come_from_all_devices(linear):
    params, x, y = linear
    alone = jax.vmap(lambda a, b: loss_of(params, a, b))(x.reshape(4, 4, -1), y.reshape(4, 4, -1))
    # Four candidates instead of sixteen are an easier choice.
    assert alone.mean() < loss_of(params, x, y) - 0.3
