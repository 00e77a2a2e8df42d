"""Exact nearest neighbours in libraries of any size, block by block on the device.

Embeddings stay where they are, in memory-mapped files of float16; one block at a time is made
float32, in which the products are summed. There is no index and no approximation.
"""

from __future__ import annotations

import concurrent.futures
import functools
import os

import jax
import jax.numpy as jnp
import numpy as np

from dd2d_jax.libraries.shards import Stacked
from dd2d_jax.spots import power_of_two

# Rows of a block: as float32 they stay in the cache of a CPU's core.
_CPU_BLOCK = 4096
_BLOCK = 65536
# Settings are filled up to a multiple of this: few shapes are compiled.
_SETTINGS = 4
# Where a smaller share of the rows is allowed, they are gathered first.
_FEW = 0.1


def nearest(
    embeddings: Stacked | np.ndarray,
    queries: np.ndarray,
    count: int,
    allowed: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The rows nearest to each query, by the largest cosine over the settings of its pattern.

    Args:
        embeddings: (n, D) unit vectors, float16 or float32.
        queries: (Q, S, D) unit vectors: S settings of Q patterns.
        count: rows to return for each query.
        allowed: (n,) bool, the rows that may be returned; None allows all.

    Returns:
        rows (Q, k), the nearest first and of equal ones the first row, and their cosines
        (Q, S, k) with each setting; k is the lesser of count and the number of rows allowed.
    """
    parts = embeddings.parts if isinstance(embeddings, Stacked) else (embeddings,)
    queries = np.asarray(queries, np.float32)
    settings = -(-queries.shape[1] // _SETTINGS) * _SETTINGS
    filled = queries[:, np.minimum(np.arange(settings), queries.shape[1] - 1)]
    rows, cosines = np.zeros((len(queries), 0), np.int64), np.zeros((len(queries), 0), np.float32)
    starts = np.cumsum([0, *(len(part) for part in parts)])

    def search(number: int) -> tuple[np.ndarray, np.ndarray]:
        here = slice(starts[number], starts[number + 1])
        some = None if allowed is None else allowed[here]
        found, values = _nearest_of(parts[number], filled, count, some)
        return found + starts[number], values

    # A product with few queries keeps one core busy.
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for found, values in pool.map(search, range(len(parts))):
            rows = np.concatenate([rows, found], 1)
            cosines = np.concatenate([cosines, values], 1)
            best = _best(cosines, count)
            rows, cosines = (np.take_along_axis(x, best, 1) for x in (rows, cosines))
    found = np.asarray(embeddings[rows.ravel()], np.float32)
    found = found.reshape(*rows.shape, queries.shape[-1])
    each = np.einsum("qsd,qkd->qsk", queries, found)
    order = np.lexsort((rows, -each.max(1)))
    return np.take_along_axis(rows, order, 1), np.take_along_axis(each, order[:, None], 2)


def _nearest_of(
    part: np.ndarray, queries: np.ndarray, count: int, allowed: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows (Q, k) of one part and their largest cosines, in no order."""
    here = np.arange(len(part)) if allowed is None else np.flatnonzero(allowed)
    if not len(here):
        return np.zeros((len(queries), 0), np.int64), np.zeros((len(queries), 0), np.float32)
    some = len(here) < _FEW * len(part)
    values = _cosines(part[here] if some else part, queries)
    values = values if some or len(here) == len(part) else values[:, here]
    best = _best(values, count)
    return here[best], np.take_along_axis(values, best, 1)


def _best(values: np.ndarray, count: int) -> np.ndarray:
    """Places (Q, k) of the largest of values (Q, n), in no order."""
    if values.shape[1] <= count:
        return np.broadcast_to(np.arange(values.shape[1]), values.shape)
    return np.argpartition(values, -count, 1)[:, -count:]


def _cosines(part: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """The largest cosine (Q, n) of rows (n, D) with any setting of queries (Q, S, D)."""
    count = len(part)
    limit = _CPU_BLOCK if jax.default_backend() == "cpu" else _BLOCK
    size = min(limit, power_of_two(count))
    if count < size:
        part = np.concatenate([part, np.zeros((size - count, part.shape[1]), part.dtype)])
    flat = jax.device_put(queries.reshape(-1, queries.shape[-1]))
    # The last block overlaps the one before it: all of them have one shape, none is copied.
    starts = [min(s, len(part) - size) for s in range(0, count, size)]
    blocks = [_block(part[s : s + size], flat, queries.shape[1]) for s in starts]
    out = np.empty((len(queries), len(part)), np.float32)
    for s, block in zip(starts, blocks, strict=True):
        out[:, s : s + size] = block
    return out[:, :count]


@functools.partial(jax.jit, static_argnames="settings")
def _block(rows: jax.Array, queries: jax.Array, settings: int) -> jax.Array:
    # Without the barrier the conversion is made anew for each query.
    rows = jax.lax.optimization_barrier(rows.astype(jnp.float32))
    cosines = jnp.matmul(queries, rows.T, precision="highest")
    return cosines.reshape(-1, settings, len(rows)).max(1)
