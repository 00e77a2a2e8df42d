"""The symmetric contrastive loss, Eq. 4 of the DD2D paper, with negatives from all devices."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax


def contrastive_loss(
    crystals: jax.Array, patterns: jax.Array, scale: jax.Array, axis_name: str | None = None
) -> jax.Array:
    """Mean cross-entropy of matching crystal to pattern and pattern to crystal.

    Args:
        crystals: (B, D) unit vectors, row i belongs to row i of `patterns`.
        patterns: (B, D) unit vectors.
        scale: inverse temperature.
        axis_name: a mapped axis whose members' rows are negatives too. The mean over the axis is
            then the loss of the whole batch on one device.

    Returns:
        A scalar, of the local rows.
    """
    batch = crystals.shape[0]
    labels = jnp.arange(batch)
    all_crystals, all_patterns = crystals, patterns
    if axis_name is not None:
        all_crystals = jax.lax.all_gather(crystals, axis_name, tiled=True)
        all_patterns = jax.lax.all_gather(patterns, axis_name, tiled=True)
        labels = labels + batch * jax.lax.axis_index(axis_name)
    to_pattern = scale * crystals @ all_patterns.T
    to_crystal = scale * patterns @ all_crystals.T
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    return (cross_entropy(to_pattern, labels) + cross_entropy(to_crystal, labels)).mean() / 2
