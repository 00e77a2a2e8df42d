"""Levenberg-Marquardt for least squares with a unit normal prior on every parameter.

Residuals are of several kinds; those of kind i have the variances variances[i], which may be
estimates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# Residuals and Jacobian of each kind, (m, ) and (m, p), and whatever else was computed with them.
Evaluated = tuple[list[tuple[jax.Array, jax.Array]], Any]
Variances = tuple[jax.Array, ...]

_GROW, _SHRINK = 4.0, 0.2


def minimise(
    evaluate: Callable[[jax.Array], Evaluated],
    start: jax.Array,
    variances: Variances,
    rescale: Callable[[list, Variances], Variances],
    steps: int,
    every: int,
) -> tuple[jax.Array, Variances, Evaluated]:
    """Minimise the sum of r^2 / variance over all residuals, and |x|^2.

    Args:
        evaluate: gives residuals and Jacobians at x (p,).
        start: (p,).
        variances: to begin with, (m,) of each kind.
        rescale: new ones from residuals, Jacobians and variances, called after every `every` steps
            and at the end.
        steps: number of evaluations.

    Returns:
        x, the variances and what `evaluate` gave at x.
    """

    def step(carry, number):
        x, variances, damping, found = carry
        matrix, right = normal(found[0], variances)
        matrix = matrix + damping * jnp.diag(jnp.diagonal(matrix))
        # The first step has nothing to compare with: it stays and evaluates the start.
        trial = jnp.where(number == 0, x, x - solve(matrix, right + x))
        new = evaluate(trial)
        better = (cost(trial, new[0], variances) < cost(x, found[0], variances)) | (number == 0)
        x, found = jax.tree.map(lambda a, b: jnp.where(better, a, b), (trial, new), (x, found))
        damping = jnp.clip(damping * jnp.where(better, _SHRINK, _GROW), 1e-6, 1e6)
        variances = jax.lax.cond(
            (number + 1) % every == 0, rescale, lambda _, same: same, found[0], variances
        )
        return (x, variances, damping, found), None

    # Evaluated at one place only, as compiling it is what costs.
    nothing = jax.tree.map(
        lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(evaluate, start)
    )
    carry = (start, variances, jnp.asarray(0.01, start.dtype), nothing)
    (x, variances, _, found), _ = jax.lax.scan(step, carry, jnp.arange(steps))
    return x, variances, found


def cost(x: jax.Array, kinds: list, variances: Variances) -> jax.Array:
    """What is minimised."""
    squares = [jnp.sum(r**2 / v) for (r, _), v in zip(kinds, variances, strict=True)]
    return sum(squares) + jnp.sum(x**2)


def normal(kinds: list, variances: Variances) -> tuple[jax.Array, jax.Array]:
    """Inverse covariance (p, p) of the parameters, data and prior together, and J^T r (p,)."""
    matrix = jnp.eye(kinds[0][1].shape[1])
    right = jnp.zeros(len(matrix))
    for (r, jacobian), v in zip(kinds, variances, strict=True):
        weighted = jacobian / v[:, None]
        matrix += jnp.einsum("mp,mq->pq", weighted, jacobian, precision="highest")
        right += jnp.einsum("mp,m->p", weighted, r, precision="highest")
    return matrix, right


def solve(matrix: jax.Array, right: jax.Array) -> jax.Array:
    """x (p,) of M x = b for a positive definite M (p, p)."""
    inverted = inverse(matrix)
    x = jnp.matmul(inverted, right, precision="highest")
    # Once more with what is left: single precision then does.
    left = right - jnp.matmul(matrix, x, precision="highest")
    return x + jnp.matmul(inverted, left, precision="highest")


def inverse(matrix: jax.Array) -> jax.Array:
    """Of a positive definite matrix (p, p)."""
    return inverse_and_log_determinant(matrix)[0]


def inverse_and_log_determinant(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """M^-1 (p, p) and log det M of a positive definite matrix, by the sweep operator.

    Written out, as batches of small matrices lose far more to LAPACK's threads, which may even
    wait for each other for ever.
    """
    # A unit diagonal: single precision then does for parameters of very different certainty.
    size = jnp.sqrt(jnp.diagonal(matrix))
    index = jnp.arange(len(matrix))

    def sweep(carry, k):
        a, log = carry
        pivot = a[k, k]
        row = a[k] / pivot
        new = a - a[:, k][:, None] * row
        new = jnp.where((index == k)[:, None], row, new)
        new = jnp.where(index == k, -a[:, k][:, None] / pivot, new)
        new = jnp.where((index == k)[:, None] & (index == k), 1 / pivot, new)
        return (new, log + jnp.log(pivot)), None

    scaled = matrix / (size[:, None] * size)
    (inverted, log), _ = jax.lax.scan(sweep, (scaled, jnp.zeros((), matrix.dtype)), index)
    inverted = (inverted + inverted.T) / 2
    return inverted / (size[:, None] * size), log + 2 * jnp.sum(jnp.log(size))


def square_root(matrix: jax.Array) -> jax.Array:
    """L (p, p) with L L^T = M of a positive definite matrix, lower triangular; see `inverse`."""
    size = jnp.sqrt(jnp.diagonal(matrix))
    index = jnp.arange(len(matrix))

    def column(left, k):
        pivot = jnp.sqrt(jnp.maximum(left[k, k], 1e-12))
        new = jnp.where(index >= k, left[:, k] / pivot, 0.0)
        return left - new[:, None] * new, new

    _, columns = jax.lax.scan(column, matrix / (size[:, None] * size), index)
    return size[:, None] * columns.T
