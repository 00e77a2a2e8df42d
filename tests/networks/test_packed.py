"""Tokens without padding, and dropout."""

import jax
import jax.numpy as jnp
import numpy as np

from dd2d_jax.networks import packed


def test_dropout_masks_are_as_if_drawn():
    rate, n = 0.1, 2**18
    masks = [
        np.asarray(packed.kept(jax.random.key(i, impl="rbg"), rate, (64, n // 64))).ravel()
        for i in range(4)
    ]
    drop = np.stack(masks) - (1 - rate)
    assert np.abs(drop.mean(1)).max() < 5 * np.sqrt(rate * (1 - rate) / n)
    # Neither another key nor the numbers beside, below or some places on tell anything.
    pairs = [drop[0] * drop[1], drop[2] * drop[3]]
    pairs += [drop[0] * np.roll(drop[0], shift) for shift in (1, 2, 3, 4, 64, n // 64, n // 2)]
    spread = rate * (1 - rate) / np.sqrt(n)
    assert np.abs(np.mean(pairs, 1)).max() < 5 * spread


def test_packed_tokens_come_back_to_their_places_and_so_do_their_gradients():
    rng = np.random.default_rng(0)
    real = jnp.asarray(rng.random((5, 7)) < 0.4).at[2].set(False)
    x = jnp.asarray(rng.normal(size=(5, 7, 3)), jnp.float32)
    grid = packed.Grid.of(real, int(real.sum()) + 2)
    weight = jnp.asarray(rng.normal(size=x.shape), jnp.float32)

    def there_and_back(x):
        return grid.unpack(2 * grid.pack(x))

    expected = jnp.where(real[..., None], 2.0, 0.0)
    np.testing.assert_array_equal(there_and_back(x), expected * x)
    np.testing.assert_array_equal(grid.pack(x)[: int(real.sum())], x[real])
    assert (grid.pack(x)[int(real.sum()) :] == 0).all()
    gradient = jax.grad(lambda x: (weight * there_and_back(x)).sum())(x)
    np.testing.assert_array_equal(gradient, expected * weight)
    columns = jnp.argmax(real, 1)[:, None]
    found = grid.pack(x)[grid.find(columns)]
    has = np.asarray(real.any(1))
    wanted = jnp.take_along_axis(x, columns[..., None], 1)
    np.testing.assert_array_equal(np.asarray(found)[has], np.asarray(wanted)[has])
