"""Small positive definite matrices, without LAPACK."""

import jax
import jax.numpy as jnp
import numpy as np

from dd2d_jax.refinement.levenberg_marquardt import (
    inverse_and_log_determinant,
    minimise,
    solve,
    square_root,
)


def matrix() -> np.ndarray:
    """Of diagonal elements that differ by ten thousand."""
    rng = np.random.default_rng(0)
    r = rng.normal(size=(60, 40)) * np.logspace(0, 2, 40)
    return r.T @ r + np.eye(40)


def test_inverse_and_determinant_are_those_of_numpy_in_single_precision():
    m = matrix()
    inverted, log = jax.jit(inverse_and_log_determinant)(jnp.asarray(m, jnp.float32))
    size = np.sqrt(np.diagonal(m))
    scaled = np.outer(size, size)
    np.testing.assert_allclose(inverted * scaled, np.linalg.inv(m) * scaled, atol=1e-3)
    np.testing.assert_allclose(log, np.linalg.slogdet(m)[1], rtol=1e-5)
    x = solve(jnp.asarray(m, jnp.float32), jnp.asarray(m @ np.ones(40), jnp.float32))
    np.testing.assert_allclose(x, np.ones(40), atol=1e-3)


def test_the_square_root_squared_is_the_matrix():
    m = matrix()
    root = np.asarray(square_root(jnp.asarray(m, jnp.float32)), float)
    size = np.sqrt(np.diagonal(m))
    scaled = np.outer(size, size)
    np.testing.assert_allclose(root @ root.T / scaled, m / scaled, atol=1e-5)
    np.testing.assert_array_equal(root, np.tril(root))


def test_a_start_of_ones_own_is_where_the_search_begins():
    """Of two minima the nearer one is found: the prior alone does not move the start."""

    def evaluate(x):
        r = 30 * (x**2 - 1)
        return [(r, jnp.diag(60 * x))], x

    for start in (0.7, -0.7):
        x, _, _ = minimise(
            evaluate, jnp.array([start]), (jnp.ones(1),), lambda _, same: same, 9, 9
        )
        np.testing.assert_allclose(x, [np.sign(start)], atol=1e-2)
