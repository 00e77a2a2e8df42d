"""The twin tower: crystallographic geometric encoder (CGE) and site texture encoder (STE).

After Fu et al., Communications Physics 8, 221 (2025), with one change that decides: the CGE is the
simulator followed by the STE. It reads the spots that its crystal gives, through the weights that
read measured patterns, and nothing else: tokens of the atoms were measured and added nothing
(docs/accuracy.md). The network then has to learn what is uncertain, not what a Fourier transform
is, and where a crystal's origin lies cannot matter.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

import diffraction as dx
from dd2d_jax.networks.towers import Towers, start_scale, unit
from dd2d_jax.spots import FLOOR, Spots


def fourier(x: jax.Array, scales: tuple[float, ...]) -> jax.Array:
    """sin and cos of 2 pi x scale for each scale, (..., D) -> (..., 2 D len(scales))."""
    angle = 2 * jnp.pi * jnp.concatenate([x * s for s in scales], -1)
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1)


def lattice_features(lattice: jax.Array) -> jax.Array:
    """Cell lengths, angle and area (..., F), the same for any rotation of the cell."""
    a, b = lattice[..., 0, :], lattice[..., 1, :]
    length_a = jnp.sqrt(jnp.sum(a * a, -1) + 1e-6)
    length_b = jnp.sqrt(jnp.sum(b * b, -1) + 1e-6)
    cosine = jnp.sum(a * b, -1) / (length_a * length_b)
    sizes = jnp.stack([jnp.log(length_a), jnp.log(length_b)], -1)
    shape = jnp.stack([sizes[..., 1] - sizes[..., 0], cosine], -1)
    waves = [fourier(sizes, (1, 4, 16, 64)), fourier(shape, (1, 8, 64))]
    return jnp.concatenate([sizes, shape, *waves], -1)


def spot_features(spots: Spots) -> jax.Array:
    """Positions, indices and levels of spot pairs, (..., T, F)."""
    levels = jnp.concatenate(
        [
            jnp.log1p(spots.intensity / 0.01) / jnp.log(101.0),
            1 - jnp.log(jnp.maximum(spots.intensity, FLOOR)) / jnp.log(FLOOR),
        ],
        -1,
    )
    return jnp.concatenate(
        [
            fourier(spots.q, (0.5, 1, 2, 4)),
            fourier(spots.hk.astype(spots.q.dtype), (1 / 2, 1 / 4, 1 / 8, 1 / 24)),
            levels,
            fourier(levels[..., :2], (0.5, 1, 2)),
            spots.measured.astype(spots.q.dtype),
        ],
        -1,
    )


class Block(nn.Module):
    """Pre-norm transformer block with masked attention."""

    width: int
    heads: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """x (..., T, width), mask (..., T) -> (..., T, width)."""
        h = nn.RMSNorm(dtype=self.dtype)(x)
        heads = (self.heads, self.width // self.heads)
        q, k, v = (
            nn.DenseGeneral(heads, use_bias=False, dtype=self.dtype, name=n)(h) for n in "qkv"
        )
        logits = jnp.einsum("...thd,...shd->...hts", q, k) * heads[1] ** -0.5
        logits = jnp.where(mask[..., None, None, :], logits, -1e9)
        weight = nn.softmax(logits)
        self.sow("intermediates", "attention", weight)
        h = jnp.einsum("...hts,...shd->...thd", weight, v)
        x = x + nn.DenseGeneral(self.width, axis=(-2, -1), use_bias=False, dtype=self.dtype)(h)
        h = nn.RMSNorm(dtype=self.dtype)(x)
        h = nn.Dense(4 * self.width, dtype=self.dtype)(h)
        h = nn.Dense(self.width, dtype=self.dtype)(jnp.square(nn.relu(h)))
        return x + h


class Encoder(nn.Module):
    """A class token and a set of tokens through transformer blocks; returns the class token."""

    width: int
    layers: int
    heads: int
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, head: jax.Array, tokens: jax.Array, mask: jax.Array) -> jax.Array:
        """head (..., F), tokens (..., T, G), mask (..., T) -> (..., width)."""
        first = nn.Dense(self.width, dtype=self.dtype, name="head")(head)
        rest = nn.Dense(self.width, dtype=self.dtype, name="tokens")(tokens)
        x = jnp.concatenate([first[..., None, :], rest], -2)
        mask = jnp.concatenate([jnp.ones_like(mask[..., :1]), mask], -1)
        # Under `remat` a block keeps what goes in alone, and is computed again on the way back.
        kind = nn.remat(Block) if self.remat else Block
        for i in range(self.layers):
            x = kind(self.width, self.heads, self.dtype, name=f"Block_{i}")(x, mask)
        x = nn.RMSNorm(dtype=self.dtype)(x)
        weight = mask[..., None].astype(x.dtype)
        mean = (x * weight).sum(-2) / weight.sum(-2)
        return jnp.concatenate([x[..., 0, :], mean], -1)


class STE(nn.Module):
    """Site texture encoder: a pattern's spots -> (..., embedding)."""

    width: int
    layers: int
    heads: int
    embedding: int
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, spots: Spots) -> jax.Array:
        """Spots (..., T) -> (..., embedding), not normalised."""
        x = Encoder(self.width, self.layers, self.heads, self.dtype, self.remat)(
            lattice_features(spots.lattice), spot_features(spots), spots.mask
        )
        return nn.Dense(self.embedding, dtype=self.dtype, name="out")(x)


class TwoTower(Towers):
    """Both towers, which share their weights, and the temperature of the contrastive loss."""

    width: int = 128
    layers: int = 3
    heads: int = 4
    embedding: int = 128
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    largest_scale = 200.0

    def setup(self) -> None:
        sizes = self.width, self.layers, self.heads, self.embedding
        self.ste = STE(*sizes, self.dtype, self.remat)
        self.log_scale = start_scale(self)

    def encode_pattern(self, spots: Spots, room: None = None) -> jax.Array:
        """Unit vectors (..., embedding) of patterns."""
        return unit(self.ste(spots))

    def encode_crystal(self, crystal: dx.Crystal, spots: Spots, room: None = None) -> jax.Array:
        """Unit vectors (..., embedding) of crystals, `spots` their own simulated ones.

        `crystal` itself is what other networks read (`atom_network`, `paper_network`).
        """
        del crystal
        return unit(self.ste(spots))

    @classmethod
    def from_config(cls, config) -> TwoTower:
        """From the `model` part of a config."""
        if config.get("dropout", 0.0):
            raise ValueError("model.dropout is for networks that read atoms; here it must be 0")
        return cls(
            config.width, config.layers, config.heads, config.embedding, jnp.dtype(config.dtype)
        )
