"""Gradients of a batch in parts, for batches that do not fit into memory at once.

A contrastive loss compares all pairs of a batch and is no sum over parts of it. As in GradCache
(Gao et al., RepL4NLP 2021, arXiv:2101.06983) all parts are embedded first, keeping nothing else;
then comes the loss of the whole batch and its gradient by the embeddings; then each part is
embedded again and that gradient taken back to the parameters. The result is that of the whole
batch at once, to rounding, for one more forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Embeddings = tuple[jax.Array, jax.Array, jax.Array]


def gradients(
    embed: Callable[[Any, Any], Embeddings],
    loss: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    params: Any,
    parts: Any,
) -> tuple[jax.Array, jax.Array, Any]:
    """The loss, the logits' scale and the gradient by `params`.

    Args:
        embed: (params, part) -> crystals (b, D), patterns (b, D) and scale ().
        loss: of crystals (B, D), patterns (B, D) and scale ().
        params: a tree of arrays.
        parts: a tree of arrays (k, ...), one row for each part of b = B / k samples.
    """
    if jax.tree.leaves(parts)[0].shape[0] == 1:

        def plain(params: Any) -> tuple[jax.Array, jax.Array]:
            crystals, patterns, scale = embed(params, jax.tree.map(lambda x: x[0], parts))
            return loss(crystals, patterns, scale), scale

        (value, scale), gradient = jax.value_and_grad(plain, has_aux=True)(params)
        return value, scale, gradient

    def whole(crystals: jax.Array, patterns: jax.Array, scale: jax.Array) -> jax.Array:
        return loss(jnp.concatenate(crystals), jnp.concatenate(patterns), scale.mean())

    embedded = jax.lax.map(lambda part: embed(params, part), parts)
    value, pulls = jax.value_and_grad(whole, argnums=(0, 1, 2))(*embedded)

    def add(total: Any, one: tuple[Any, Embeddings]) -> tuple[Any, None]:
        part, pull = one
        _, back = jax.vjp(lambda params: embed(params, part), params)
        return jax.tree.map(jnp.add, total, back(pull)[0]), None

    gradient, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), (parts, pulls))
    return value, embedded[2].mean(), gradient
