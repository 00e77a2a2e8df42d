"""What the published network reads: a crystal as a sequence, a pattern as a cloud of points.

After Fu et al., Communications Physics 8, 221 (2025), and the authors' MIT-licensed code
(github.com/SuthPhy2Ai/DD2D).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import diffraction as dx
from dd2d_jax.spots import FLOOR, Spots

# Tokens of a sequence that are no part of the crystal, and the end token's log intensity.
START, END, PADDING = 200.0, 210.0, -1.0
CLOUD_END = 3.0
# Start token and cell: all that the start token sees.
HEAD = 7
VACUUM = 15.0  # angstrom, added to the thickness of a layer to make c
# The authors' images: 201 pixels from -2.5 to 2.5 1/angstrom, found from their example.
PIXELS = 201
PIXELS_PER_Q = PIXELS / 5.0


def sequences(crystals: dx.Crystal, block: int | None = None) -> jax.Array:
    """Crystals as the authors' scalar sequences.

    Start token, a, b, c (angstrom), alpha, beta, gamma (degrees), then x, y, z (angstrom) and the
    atomic number of each atom, end token, padding. Atoms come by atomic number, then by their
    distance from the bottom of the cell (then y, x, so that their order in the crystal means
    nothing). c is the thickness plus 15 angstrom, the layer in its middle.

    Args:
        crystals: any batch axes, N atoms; x and y are taken as they are (canonical setting: a1
            along x).
        block: length of the sequences; None fits N atoms, 8 + 4 N. The authors' is 180.

    Returns:
        (..., block).

    Raises:
        ValueError: a crystal has more atoms than the block holds; under a transformation, where
            atoms cannot be counted, more slots.
    """
    numbers, (x, y, z) = crystals.numbers, jnp.moveaxis(crystals.positions, -1, 0)
    real = numbers > 0
    top = jnp.where(real, z, -jnp.inf).max(-1, keepdims=True)
    bottom = jnp.where(real, z, jnp.inf).min(-1, keepdims=True)
    c = top - bottom + VACUUM
    z = z + (c - top - bottom) / 2

    last = jnp.iinfo(jnp.int32).max
    order = jnp.lexsort((*jax.lax.stop_gradient((x, y, z)), jnp.where(real, numbers, last)))
    atoms = jnp.stack([x, y, z, numbers.astype(x.dtype)], -1)
    # A coordinate that is exactly the padding's number would be read as padding.
    atoms = atoms + 1e-5 * (atoms == PADDING)
    atoms = jnp.where(real[..., None], atoms, PADDING)
    atoms = jnp.take_along_axis(atoms, order[..., None], -2).reshape(*numbers.shape[:-1], -1)

    a1, a2 = crystals.lattice[..., 0, :], crystals.lattice[..., 1, :]
    cross = a1[..., 0] * a2[..., 1] - a1[..., 1] * a2[..., 0]
    gamma = jnp.degrees(jnp.arctan2(jnp.abs(cross), (a1 * a2).sum(-1)))
    right = jnp.full_like(gamma, 90.0)
    cell = [jnp.linalg.norm(a1, axis=-1), jnp.linalg.norm(a2, axis=-1), c[..., 0]]
    head = jnp.stack([jnp.full_like(gamma, START), *cell, right, right, gamma], -1)

    space = jnp.full_like(head[..., :1], PADDING)
    out = jnp.concatenate([head, atoms, space], -1).astype(x.dtype)
    count = real.sum(-1, keepdims=True)
    out = jnp.where(jnp.arange(out.shape[-1]) == HEAD + 4 * count, END, out)
    return out if block is None else _fit(out, block, count)


def _fit(sequence: jax.Array, block: int, count: jax.Array) -> jax.Array:
    shortfall = block - sequence.shape[-1]
    if shortfall >= 0:
        # Padding is sorted last: it may be added, or cut where nothing else is there.
        pad = [(0, 0)] * (sequence.ndim - 1) + [(0, shortfall)]
        return jnp.pad(sequence, pad, constant_values=PADDING)
    held = (block - HEAD - 1) // 4
    traced = isinstance(count, jax.core.Tracer)
    most = (sequence.shape[-1] - HEAD - 1) // 4 if traced else int(count.max())
    if most > held:
        raise ValueError(
            f"{most} {'slots for ' if traced else ''}atoms, but a block of {block} holds {held}; "
            f"a block of {HEAD + 1 + 4 * most} would do"
        )
    return sequence[..., :block]


def point_cloud(pattern: Spots | dx.Pattern) -> jax.Array:
    """Patterns as the authors' clouds of points.

    A point is (pixel x, pixel y, log intensity): q in pixels of 5 / 201 1/angstrom, q = 0 at 100.5,
    rounded (half a pixel up); the natural logarithm of the intensity relative to the pattern's
    strongest spot, at least log(1e-4). Spots beyond the 201 x 201 pixels are left out. The last
    point is the end token (0, 0, 3); padding is (0, 0, 0).

    Args:
        pattern: `Spots` (..., T) or a `dx.Pattern` (..., K).

    Returns:
        (..., 2 T + 1, 3) or (..., K + 1, 3).
    """
    if isinstance(pattern, Spots):
        q = jnp.concatenate([pattern.q, -pattern.q], -2)
        intensity, mask = (
            jnp.concatenate([x[..., 0], x[..., 1]], -1)
            for x in (pattern.intensity, pattern.measured)
        )
    else:
        q, intensity, mask = pattern.q, pattern.intensity, pattern.mask
    pixel = jnp.floor(q * PIXELS_PER_Q + PIXELS / 2 + 0.5)
    mask = mask & ((pixel >= 0) & (pixel < PIXELS)).all(-1)
    strongest = jnp.where(mask, intensity, 0).max(-1, keepdims=True)
    relative = intensity / jnp.where(strongest > 0, strongest, 1)
    level = jnp.log(jnp.maximum(jnp.where(mask, relative, 1), FLOOR))
    points = jnp.concatenate([pixel, level[..., None]], -1)
    points = jnp.where(mask[..., None], points, 0)
    end = jnp.zeros_like(points[..., :1, :]).at[..., 2].set(CLOUD_END)
    return jnp.concatenate([points, end], -2)


def position_code(length: int, width: int) -> np.ndarray:
    """Sinusoidal positions (length, width) float32 (Vaswani et al., 2017); they are not learned."""
    # Rounded to single precision where the authors' table is.
    exponent = np.arange(0, width, 2, dtype=np.float32) * np.float32(-np.log(10000.0) / width)
    step = np.exp(exponent.astype(np.float64)).astype(np.float32)
    angle = np.arange(length, dtype=np.float32)[:, None] * step
    return np.stack([np.sin(angle), np.cos(angle)], -1).reshape(length, width)
