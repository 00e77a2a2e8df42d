"""What all networks have in common: two towers, one vector of each, and a temperature."""

from __future__ import annotations

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import diffraction as dx
from dd2d_jax.spots import Spots

Room = int | None


class Towers(nn.Module):
    """A tower for crystals and one for patterns.

    A network makes its towers in `setup`, with `log_scale = start_scale(self)`, and has
    `encode_crystal`, `encode_pattern` and `from_config`. `room` is the number of tokens of a whole
    batch for which there is room in a network that `packs`: padding is then not computed, and with
    too little room every embedding is NaN. None has room for the padding too.
    """

    # Whether the crystal's tower reads the spots that its crystal gives, and not its atoms, whose
    # occupancies no network knows.
    reads_spots: ClassVar[bool] = True
    # Whether the tokens of a batch stand in one array, so that padding need not be computed.
    packs: ClassVar[bool] = False
    # The logits' scale never exceeds it.
    largest_scale: ClassVar[float] = float("inf")

    def encode_crystal(
        self, crystal: dx.Crystal, spots: Spots | None, room: Room = None
    ) -> jax.Array:
        """Unit vectors (..., D) of crystals, `spots` their own simulated ones (`reads_spots`)."""
        raise NotImplementedError

    def encode_pattern(self, spots: Spots, room: Room = None) -> jax.Array:
        """Unit vectors (..., D) of patterns."""
        raise NotImplementedError

    def __call__(
        self,
        crystal: dx.Crystal,
        crystal_spots: Spots | None,
        pattern_spots: Spots,
        room: tuple[Room, Room] = (None, None),
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Crystal and pattern embeddings (B, D) and the logits' scale."""
        return (
            self.encode_crystal(crystal, crystal_spots, room[0]),
            self.encode_pattern(pattern_spots, room[1]),
            jnp.exp(jnp.minimum(self.log_scale, jnp.log(self.largest_scale))),
        )

    @staticmethod
    def tokens(atoms: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How many tokens the towers read of crystals of so many atoms and pairs of spots."""
        raise NotImplementedError

    @classmethod
    def from_config(cls, config) -> Towers:
        """From the `model` part of a config."""
        raise NotImplementedError


def start_scale(tower: Towers) -> jax.Array:
    """The parameter `log_scale`: learned, from 1 / 0.07 as in the paper."""
    # Strongly typed: a weak type compiles the step twice.
    return tower.param("log_scale", lambda _: jnp.log(jnp.float32(1 / 0.07)))


def unit(x: jax.Array) -> jax.Array:
    """Vectors (..., D) of length one, in float32 at least."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return x * jax.lax.rsqrt(jnp.sum(x * x, -1, keepdims=True) + 1e-12)
