"""The published network of DD2D (Fu et al., Communications Physics 8, 221, 2025).

The details that the paper leaves open follow the authors' MIT-licensed code
(github.com/SuthPhy2Ai/DD2D) and are held by its outputs in the tests. The network sees no
simulated spots. Dropout acts where an rng "dropout" is given, as in training.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import diffraction as dx
from dd2d_jax.networks.packed import Grid, PackedEncoder, dense, pairs_of, whole
from dd2d_jax.networks.paper_inputs import (
    CLOUD_END,
    END,
    HEAD,
    PADDING,
    point_cloud,
    position_code,
    sequences,
)
from dd2d_jax.networks.towers import Towers, start_scale, unit
from dd2d_jax.spots import Spots


class SequenceEncoder(PackedEncoder):
    """The CGE: attention over a crystal's sequence; its two class tokens added and projected."""

    @nn.compact
    def __call__(self, sequence: jax.Array, room: int | None = None) -> jax.Array:
        """(..., T) as from `sequences` -> (..., width), not normalised; `room` as of PaperTower."""
        axes, length = sequence.shape[:-1], sequence.shape[-1]
        sequence = sequence.reshape(-1, length).astype(self.exact)
        real = sequence != PADDING
        grid = Grid.of(real, room)
        seen = pairs_of(real).at[:, 0, HEAD:].set(False)
        x = dense(self.width, self.exact, "embed")(grid.pack(sequence[..., None]))
        code = jnp.broadcast_to(position_code(length, self.width), (*real.shape, self.width))
        x = self._drop((x + grid.pack(code)).astype(self.dtype))
        end = (sequence == END).argmax(-1)
        classes = jnp.stack([jnp.zeros_like(end), end], -1)
        x = self.project(self.blocks(x, grid, seen, classes).sum(-2))
        return whole(x, real, room).reshape(*axes, self.width)


class CloudEncoder(PackedEncoder):
    """The STE: attention over a pattern's points, without positions; its end token projected."""

    @nn.compact
    def __call__(self, cloud: jax.Array, room: int | None = None) -> jax.Array:
        """(..., K, 3) as from `point_cloud` -> (..., width), not normalised."""
        axes, cloud = cloud.shape[:-2], cloud.reshape(-1, *cloud.shape[-2:])
        real = (cloud != 0).any(-1)
        grid = Grid.of(real, room)
        part = self.width // 3
        widths = {"x": part, "y": part, "level": self.width - 2 * part}
        points = grid.pack(cloud)
        x = jnp.concatenate(
            [
                dense(size, self.exact, f"embed_{name}")(points[:, i : i + 1])
                for i, (name, size) in enumerate(widths.items())
            ],
            -1,
        )
        end = (cloud[..., 2] == CLOUD_END).argmax(-1, keepdims=True)
        x = self.blocks(x.astype(self.dtype), grid, pairs_of(real), end)[:, 0]
        return whole(self.project(x), real, room).reshape(*axes, self.width)


class PaperTower(Towers):
    """Both encoders and the learned temperature.

    15,380,737 parameters with the paper's width of 384, 4 layers and 4 heads.
    """

    width: int = 384
    layers: int = 4
    heads: int = 4
    dropout: float = 0.1
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    reads_spots, packs = False, True

    def setup(self) -> None:
        if self.width % 2 or self.width % self.heads:
            raise ValueError(
                f"model.width = {self.width} must be even and divisible by model.heads = "
                f"{self.heads}"
            )
        sizes = self.width, self.layers, self.heads, self.dropout, self.dtype, self.remat
        self.cge, self.ste = SequenceEncoder(*sizes), CloudEncoder(*sizes)
        self.log_scale = start_scale(self)

    def encode_pattern(self, spots: Spots | dx.Pattern, room: int | None = None) -> jax.Array:
        """Unit vectors (..., width) of patterns."""
        return unit(self.ste(point_cloud(spots), room))

    def encode_crystal(
        self, crystal: dx.Crystal, spots: Spots | None, room: int | None = None
    ) -> jax.Array:
        """Unit vectors (..., width) of crystals; `spots` are the default model's and not seen."""
        del spots
        return unit(self.cge(sequences(crystal), room))

    @staticmethod
    def tokens(atoms: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How many tokens the two encoders read of crystals of so many atoms and pairs of spots."""
        return HEAD + 1 + 4 * atoms, 1 + 2 * pairs

    @classmethod
    def from_config(cls, config) -> PaperTower:
        """From the `model` part of a config."""
        return cls(
            config.width, config.layers, config.heads, config.dropout, jnp.dtype(config.dtype)
        )
