"""Transformer blocks that compute no padding: the tokens of a batch stand in one array.

The block is the published network's (github.com/SuthPhy2Ai/DD2D, MIT); both networks that read
atoms are made of it. Dropout acts where an rng "dropout" is given, as in training.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp


def dense(width: int, dtype: jnp.dtype, name: str) -> nn.Dense:
    """A linear layer as the published network begins with it."""
    return nn.Dense(width, dtype=dtype, kernel_init=nn.initializers.normal(0.02), name=name)


def norm(dtype: jnp.dtype, name: str) -> nn.LayerNorm:
    """A layer norm with PyTorch's epsilon."""
    return nn.LayerNorm(epsilon=1e-5, dtype=dtype, name=name)


def gelu(x: jax.Array) -> jax.Array:
    """x times the normal distribution's integral up to x, as PyTorch has it."""
    return nn.gelu(x, approximate=False)


@jax.custom_vjp
def _rows(x: jax.Array, there: jax.Array, back: jax.Array) -> jax.Array:
    """Rows `there` (R,) of x (M, C), zero where there is no such row; `back` (M,) undoes it.

    So the gradient takes rows, too: adding them up one by one is slow on a CPU.
    """
    return x.at[there].get(mode="fill", fill_value=0)


_rows.defvjp(
    lambda x, there, back: (_rows(x, there, back), (there, back)),
    lambda known, pull: (_rows(pull, *reversed(known)), None, None),
)


class Grid(NamedTuple):
    """Where the tokens of a batch stand: M tokens in N rows of T places, the rest left out.

    Attributes:
        shape: N, T.
        place: (M,) places of the tokens, row after row, ascending; N T where there is no token.
            None: all of them, M = N T.
        token: (N T,) the token at each place, M or more where there is none; or None.
    """

    shape: tuple[int, int]
    place: jax.Array | None
    token: jax.Array | None

    @classmethod
    def of(cls, real: jax.Array, room: int | None) -> Grid:
        """Of tokens `real` (N, T); `room` is M, and more than all places are never needed."""
        if room is None or room >= real.size:
            return cls(real.shape, None, None)
        flat = real.reshape(-1)
        token = jnp.where(flat, jnp.cumsum(flat) - 1, room)
        return cls(real.shape, jnp.flatnonzero(real, size=room, fill_value=real.size), token)

    def pack(self, x: jax.Array) -> jax.Array:
        """(N, T, C) -> (M, C)."""
        x = x.reshape(-1, x.shape[-1])
        return x if self.place is None else _rows(x, self.place, self.token)

    def unpack(self, x: jax.Array) -> jax.Array:
        """(M, C) -> (N, T, C), zero where there is no token."""
        if self.place is not None:
            x = _rows(x, self.token, self.place)
        return x.reshape(*self.shape, -1)

    def find(self, column: jax.Array) -> jax.Array:
        """Columns (N, R) in each row -> which of the M tokens stand there (N, R)."""
        place = self.shape[1] * jnp.arange(self.shape[0])[:, None] + column
        return place if self.token is None else self.token[place]


def kept(key: jax.Array, rate: float, shape: tuple[int, ...]) -> jax.Array:
    """True with probability 1 - `rate`, in a mask of any shape.

    Numbers in sequence through a mixing function (Wellons' hash-prospector). `jax.random` needs
    a fifth of a training step on a CPU for as many numbers.
    """
    number = jax.lax.iota(jnp.uint32, math.prod(shape)) * jnp.uint32(0x9E3779B9)
    number = number ^ jax.random.bits(key)
    number = (number ^ (number >> 16)) * jnp.uint32(0x21F0AAAD)
    number = (number ^ (number >> 15)) * jnp.uint32(0x735A2D97)
    return (number ^ (number >> 15)).reshape(shape) >= round(rate * 2**32)


class Dropping(nn.Module):
    """A module whose dropout acts where an rng "dropout" is given."""

    def _drop(self, x: jax.Array) -> jax.Array:
        if not (self.dropout and self.has_rng("dropout")):
            return x
        chosen = kept(self.make_rng("dropout"), self.dropout, x.shape)
        return jnp.where(chosen, x / (1 - self.dropout), 0)


class Block(Dropping):
    """Transformer block with attention and MLP in parallel on the residual.

    In training keys are dropped before the softmax (DropKey, Li et al., CVPR 2023).
    """

    heads: int
    dropout: float
    dtype: jnp.dtype
    activate: Callable[[jax.Array], jax.Array] = gelu

    @nn.compact
    def __call__(
        self, x: jax.Array, grid: Grid, seen: jax.Array, rows: jax.Array | None = None
    ) -> jax.Array:
        """Tokens x (M, width) after the block, or only those that `rows` (N, R) names of them.

        seen (N, T or R, T): a token attends to these places of its row.
        """
        width = x.shape[-1]
        h = norm(self.dtype, "norm_attention")(x)
        y, asking = (x, h) if rows is None else (x[rows], h[rows])

        def heads(name: str, h: jax.Array) -> jax.Array:
            h = dense(width, self.dtype, name)(h)
            h = grid.unpack(h) if h.ndim == 2 else h
            return h.reshape(*h.shape[:2], self.heads, -1)

        q, k, v = heads("query", asking), heads("key", h), heads("value", h)
        logits = jnp.einsum("nthd,nshd->nhts", q, k) * (width // self.heads) ** -0.5
        seen = seen[:, None]
        if self.dropout and self.has_rng("dropout"):
            seen = seen & kept(self.make_rng("dropout"), self.dropout, logits.shape)
        logits = jnp.where(seen, logits, -1e9).astype(jnp.promote_types(self.dtype, jnp.float32))
        weight = nn.softmax(logits)
        self.sow("intermediates", "attention", weight)
        h = jnp.einsum("nhts,nshd->nthd", weight.astype(v.dtype), v)
        h = h.reshape(*h.shape[:2], width)
        h = grid.pack(h) if rows is None else h
        attended = self._drop(dense(width, self.dtype, "out")(h))
        h = dense(4 * width, self.dtype, "up")(norm(self.dtype, "norm_mlp")(y))
        h = dense(width, self.dtype, "down")(self.activate(h))
        return y + attended + self._drop(h)


class PackedEncoder(Dropping):
    """What the encoders share: blocks whose last computes what is used alone, and a projection."""

    width: int
    layers: int
    heads: int
    dropout: float
    dtype: jnp.dtype
    remat: bool = False
    activate: Callable[[jax.Array], jax.Array] = gelu

    def blocks(self, x: jax.Array, grid: Grid, seen: jax.Array, columns: jax.Array) -> jax.Array:
        """Tokens x (M, width) through all blocks -> those in `columns` (N, R), (N, R, width)."""
        rows = grid.find(columns)
        # Of the last block nothing else is used, but where someone looks inside.
        inside = self.is_mutable_collection("intermediates")

        def through(block: Block, x: jax.Array, seen: jax.Array, rows=None) -> jax.Array:
            return block(x, grid, seen, rows)

        if self.remat:  # a block keeps what goes in alone, and is computed again on the way back
            through = nn.remat(through)
        for i in range(self.layers):
            block = Block(self.heads, self.dropout, self.dtype, self.activate, name=f"block_{i}")
            if i < self.layers - 1 or inside:
                x = through(block, x, seen)
            else:
                x = through(block, x, jnp.take_along_axis(seen, columns[..., None], 1), rows)
        x = norm(self.dtype, "norm")(x)
        return x[rows] if inside else x

    def project(self, x: jax.Array) -> jax.Array:
        """(..., C) -> (..., width) through a hidden layer."""
        h = self.activate(dense(2 * self.width, self.dtype, "project_up")(x))
        return self._drop(dense(self.width, self.dtype, "project_down")(h))

    @property
    def exact(self) -> jnp.dtype:
        """The type of positions: in angstrom and pixels they need more digits than bfloat16 has."""
        return jnp.promote_types(self.dtype, jnp.float32)


def pairs_of(real: jax.Array) -> jax.Array:
    """(..., T) -> (..., T, T); a row of padding sees nothing, which softmax makes everything."""
    return jnp.logical_and(real[..., :, None], real[..., None, :])


def whole(x: jax.Array, real: jax.Array, room: int | None) -> jax.Array:
    """`x`, or NaN where tokens were left out because there are more than `room`."""
    return x if room is None else jnp.where(real.sum() <= room, x, jnp.nan)
