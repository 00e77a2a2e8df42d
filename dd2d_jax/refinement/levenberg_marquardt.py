"""Levenberg-Marquardt for least squares with a unit normal prior on every parameter.

Residuals are of several kinds; those of kind i have variance factors[i], which may be an estimate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# Residuals and Jacobian of each kind, (m, ) and (m, p), and whatever else was computed with them.
Evaluated = tuple[list[tuple[jax.Array, jax.Array]], Any]

_GROW, _SHRINK = 4.0, 0.2


def minimise(
    evaluate: Callable[[jax.Array], Evaluated],
    start: jax.Array,
    factors: jax.Array,
    rescale: Callable[[list, jax.Array], jax.Array],
    steps: int,
    every: int,
) -> tuple[jax.Array, jax.Array, Evaluated]:
    """Minimise sum_i |r_i|^2 / factors[i] + |x|^2.

    Args:
        evaluate: gives residuals and Jacobians at x (p,).
        start: (p,).
        factors: (kinds,) to begin with.
        rescale: new factors from residuals, Jacobians and factors, called after every `every`
            steps and at the end.
        steps: number of evaluations.

    Returns:
        x, the factors and what `evaluate` gave at x.
    """

    def step(carry, number):
        x, factors, damping, found = carry
        matrix, right = normal(found[0], factors)
        matrix = matrix + damping * jnp.diag(jnp.diagonal(matrix))
        trial = x - solve(matrix, right + x)
        new = evaluate(trial)
        # The first step has nothing to compare with: it stays and evaluates the start.
        better = (cost(trial, new[0], factors) < cost(x, found[0], factors)) | (number == 0)
        x, found = jax.tree.map(lambda a, b: jnp.where(better, a, b), (trial, new), (x, found))
        damping = jnp.clip(damping * jnp.where(better, _SHRINK, _GROW), 1e-6, 1e6)
        factors = jax.lax.cond(
            (number + 1) % every == 0, rescale, lambda _, same: same, found[0], factors
        )
        return (x, factors, damping, found), None

    # Evaluated at one place only, as compiling it is what costs.
    nothing = jax.tree.map(
        lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(evaluate, start)
    )
    carry = (start, factors, jnp.asarray(0.01, start.dtype), nothing)
    (x, factors, _, found), _ = jax.lax.scan(step, carry, jnp.arange(steps))
    return x, factors, found


def cost(x: jax.Array, kinds: list, factors: jax.Array) -> jax.Array:
    """What is minimised."""
    squares = [jnp.sum(r**2) / factors[i] for i, (r, _) in enumerate(kinds)]
    return sum(squares) + jnp.sum(x**2)


def normal(kinds: list, factors: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Inverse covariance (p, p) of the parameters, data and prior together, and J^T r (p,)."""
    matrix = jnp.eye(kinds[0][1].shape[1])
    right = jnp.zeros(len(matrix))
    for i, (r, jacobian) in enumerate(kinds):
        matrix += jnp.einsum("mp,mq->pq", jacobian, jacobian, precision="highest") / factors[i]
        right += jnp.einsum("mp,m->p", jacobian, r, precision="highest") / factors[i]
    return matrix, right


def solve(matrix: jax.Array, right: jax.Array) -> jax.Array:
    """x (p,) of M x = b for a positive definite M (p, p)."""
    size, factor = _factor(matrix)
    return jax.scipy.linalg.cho_solve(factor, right / size) / size


def inverse(matrix: jax.Array) -> jax.Array:
    """Of a positive definite matrix (p, p)."""
    size, factor = _factor(matrix)
    # By columns: on the CPU, batches of small matrices lose far more to BLAS's threads.
    columns = jax.lax.map(lambda e: jax.scipy.linalg.cho_solve(factor, e), jnp.eye(len(matrix)))
    return columns / (size[:, None] * size)


def _factor(matrix: jax.Array) -> tuple[jax.Array, tuple[jax.Array, bool]]:
    # A unit diagonal: single precision then does for parameters of very different certainty.
    size = jnp.sqrt(jnp.diagonal(matrix))
    return size, jax.scipy.linalg.cho_factor(matrix / (size[:, None] * size))
