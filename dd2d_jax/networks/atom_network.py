"""The paper's twin tower in its own right: one network reads atoms, another one spots.

After Fu et al., Communications Physics 8, 221 (2025): a crystallographic geometric encoder (CGE)
and a site texture encoder (STE) with weights of their own, 4 layers and 4 heads, class tokens and
Eq. 4. It differs from the published network (`paper_network`) in what a token is. An atom is one
token and not four, its coordinates are waves and not numbers, and a spot and its Friedel mate are
one token: a tenth of the parameters learn in minutes what took days. The crystal's tower sees no
simulated spots; what diffraction is, it has to learn. Occupancies and displacements are not read.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import diffraction as dx
from dd2d_jax.networks.packed import Grid, PackedEncoder, pairs_of, whole
from dd2d_jax.networks.towers import Towers, start_scale, unit
from dd2d_jax.networks.twin_tower import fourier, spot_features
from dd2d_jax.spots import Spots

# Places of the tokens in front of the atoms: the class token of the cell, and the cell.
START, A, B, GAMMA = range(4)
# The start token sees these alone, as the published network's.
HEAD = 4
# Waves across the cell that an atom's place is told by: (h, k) of one half plane.
WAVES = np.array([(h, k) for h in range(4) for k in range(-3, 4) if h > 0 or k > 0])
# Chemical elements, and 0 for padding.
ELEMENTS = 119


def square(x: jax.Array) -> jax.Array:
    """The square of what is positive: an intensity is a sum of squares."""
    return jnp.square(nn.relu(x))


def axis_features(axis: jax.Array) -> jax.Array:
    """Length and direction of a lattice vector (..., 2), (..., F)."""
    length = jnp.sqrt(jnp.sum(axis * axis, -1, keepdims=True) + 1e-6)
    log = jnp.log(length)
    return jnp.concatenate([log, axis / length, fourier(log, (1, 4, 16, 64))], -1)


def angle_features(lattice: jax.Array) -> jax.Array:
    """The angle between both axes, and the area (..., F) of cells (..., 2, 2)."""
    a, b = lattice[..., 0, :], lattice[..., 1, :]
    cross = jnp.abs(a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0])
    lengths = jnp.sqrt(jnp.sum(a * a, -1) * jnp.sum(b * b, -1) + 1e-6)
    cosine = (jnp.sum(a * b, -1) / lengths)[..., None]
    area = jnp.log(cross + 1e-6)[..., None]
    return jnp.concatenate([cosine, area, fourier(cosine, (1, 8, 64)), fourier(area, (1, 4))], -1)


def place_features(crystal: dx.Crystal) -> jax.Array:
    """Where the atoms are (..., N, F), whichever cell each of them was written down in."""
    inverse = jnp.linalg.inv(crystal.lattice)
    flat = crystal.positions[..., :2]
    part = jnp.matmul(flat, inverse, precision="highest")
    part = part - jax.lax.stop_gradient(jnp.floor(part))
    flat = jnp.matmul(part, crystal.lattice, precision="highest")
    waves = 2 * jnp.pi * jnp.matmul(part, jnp.asarray(WAVES.T, part.dtype), precision="highest")
    real, z = crystal.numbers > 0, crystal.positions[..., 2]
    top = jnp.where(real, z, -jnp.inf).max(-1, keepdims=True)
    bottom = jnp.where(real, z, jnp.inf).min(-1, keepdims=True)
    height = jnp.where(real, z - (top + bottom) / 2, 0.0)[..., None]
    return jnp.concatenate(
        [
            jnp.cos(waves),
            jnp.sin(waves),
            fourier(flat, (0.125, 0.25, 0.5, 1.0)),
            height,
            fourier(height, (0.05, 0.1, 0.2, 0.4)),
        ],
        -1,
    )


class AtomEncoder(PackedEncoder):
    """The CGE: the cell and one token an atom; both class tokens joined."""

    embedding: int = 128

    @nn.compact
    def __call__(self, crystal: dx.Crystal, room: int | None = None) -> jax.Array:
        """Crystals (..., N atoms) -> (..., embedding), not normalised; `room` as of Towers."""
        axes = crystal.numbers.shape[:-1]
        crystal = jax.tree.map(lambda x: x.reshape(-1, *x.shape[len(axes) :]), crystal)
        count = crystal.numbers.shape[0]
        there = jnp.ones((count, 1), bool)
        real = jnp.concatenate([there] * HEAD + [crystal.numbers > 0, there], 1)
        grid = Grid.of(real, room)
        x = self._drop(grid.pack(self._embed(crystal)).astype(self.dtype))
        # The start token is the cell's class: it sees the cell alone.
        seen = pairs_of(real).at[:, START, HEAD:].set(False)
        classes = jnp.broadcast_to(jnp.array([START, real.shape[1] - 1]), (count, 2))
        x = self.blocks(x, grid, seen, classes).reshape(count, -1)
        x = nn.Dense(self.embedding, dtype=self.dtype, name="join")(self.project(x))
        return whole(x, real, room).reshape(*axes, self.embedding)

    def _embed(self, crystal: dx.Crystal) -> jax.Array:
        """Tokens (B, HEAD + N + 1, width) of crystals (B,)."""

        def layer(name: str, x: jax.Array) -> jax.Array:
            return nn.Dense(self.width, dtype=self.exact, name=name)(x)

        count, start = crystal.numbers.shape[0], nn.initializers.normal(0.1)
        ends = (self.param(name, start, (self.width,)) for name in ("start", "end"))
        first, last = (jnp.broadcast_to(x, (count, self.width)) for x in ends)
        lattice = crystal.lattice
        cell = [
            layer("a", axis_features(lattice[:, 0])),
            layer("b", axis_features(lattice[:, 1])),
            layer("gamma", angle_features(lattice)),
        ]
        place = layer("place", place_features(crystal))
        # What an element scatters multiplies the wave of its place.
        kind, weight = (
            nn.Embed(ELEMENTS, self.width, dtype=self.exact, name=name)(crystal.numbers)
            for name in ("element", "weight")
        )
        atoms = place * (1 + weight) + kind
        return jnp.concatenate([jnp.stack([first, *cell], 1), atoms, last[:, None]], 1)


class SpotEncoder(PackedEncoder):
    """The STE: attention over a pattern's spots, without positions; its end token."""

    embedding: int = 128

    @nn.compact
    def __call__(self, spots: Spots, room: int | None = None) -> jax.Array:
        """Spots (..., T) -> (..., embedding), not normalised; `room` as of Towers."""
        axes, mask = spots.mask.shape[:-1], spots.mask.reshape(-1, spots.mask.shape[-1])
        real = jnp.concatenate([mask, jnp.ones_like(mask[:, :1])], 1)
        grid = Grid.of(real, room)
        features = spot_features(spots).reshape(*mask.shape, -1)
        points = nn.Dense(self.width, dtype=self.exact, name="point")(features)
        end = self.param("end", nn.initializers.normal(0.1), (1, 1, self.width))
        end = jnp.broadcast_to(end, (len(mask), 1, self.width))
        x = self._drop(grid.pack(jnp.concatenate([points, end], 1)).astype(self.dtype))
        last = jnp.full((len(mask), 1), mask.shape[1])
        x = self.blocks(x, grid, pairs_of(real), last)[:, 0]
        x = nn.Dense(self.embedding, dtype=self.dtype, name="join")(self.project(x))
        return whole(x, real, room).reshape(*axes, self.embedding)


class AtomTower(Towers):
    """Both encoders and the learned temperature."""

    width: int = 128
    layers: int = 4
    heads: int = 4
    embedding: int = 128
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    reads_spots, packs = False, True
    largest_scale = 200.0

    def setup(self) -> None:
        if self.width % self.heads:
            raise ValueError(
                f"model.width = {self.width} must be divisible by model.heads = {self.heads}"
            )
        sizes = self.width, self.layers, self.heads, self.dropout, self.dtype, self.remat
        self.cge = AtomEncoder(*sizes, square, self.embedding)
        self.ste = SpotEncoder(*sizes, square, self.embedding)
        self.log_scale = start_scale(self)

    def encode_pattern(self, spots: Spots, room: int | None = None) -> jax.Array:
        """Unit vectors (..., embedding) of patterns."""
        return unit(self.ste(spots, room))

    def encode_crystal(
        self, crystal: dx.Crystal, spots: Spots | None, room: int | None = None
    ) -> jax.Array:
        """Unit vectors (..., embedding) of crystals; `spots` are the default model's, not seen."""
        del spots
        return unit(self.cge(crystal, room))

    @staticmethod
    def tokens(atoms: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How many tokens the two encoders read of crystals of so many atoms and pairs of spots."""
        return HEAD + 1 + atoms, 1 + pairs

    @classmethod
    def from_config(cls, config) -> AtomTower:
        """From the `model` part of a config."""
        sizes = config.width, config.layers, config.heads, config.embedding
        return cls(*sizes, config.dropout, jnp.dtype(config.dtype))
