"""Physics alone: how well a simulated pattern explains a query's spots."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

import diffraction as dx
from dd2d_jax.spots import (
    Conditions,
    Spots,
    clean_pairs,
    clean_pairs_in_few_shapes,
    filled,
    power_of_four,
    power_of_two,
)
from diffraction.crystal import reciprocal

# log1p(I / SOFT): spots weaker than this, relative to the strongest, count little.
SOFT = 0.01
# Where a pattern ends is not sharp: strain moves rods across q_max. Up to q_max (1 + EDGE) a
# candidate's rods may be matched, from q_max (1 - EDGE) on they need not be.
EDGE = 0.04
# Standard deviations of what the lattice of a true candidate may differ by.
STRAIN = 0.012
SHEAR = 0.003
# Weights of the lattice's log-likelihood and of R1 against the cosine of the log intensities.
LATTICE_WEIGHT = 0.0005
# Entries of a padded table at least.
_LEAST = 2**14
R_WEIGHT = 0.2


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Table:
    """Clean patterns of n crystals, for look-up by Miller index.

    Attributes:
        levels: (total, 2) log1p(I / SOFT) at (h, k) and (-h, -k), all crystals one after another.
        amplitudes: (total, 2) sqrt(I) at the same places.
        offset: (n,) where each crystal begins.
        extent: (n, 2) largest h and |k|; (h, k) stands at offset + h (2 K + 1) + k + K.
        inner: (n,) sum of the squared levels of the rods that a query must show.
        lattice: (n, 2, 2) angstrom.
        q_inner: rods up to this |q| must be shown, 1/angstrom.
    """

    levels: jax.Array
    amplitudes: jax.Array
    # On the host, where rows of them are taken at once.
    offset: np.ndarray
    extent: np.ndarray
    inner: np.ndarray
    lattice: np.ndarray
    q_inner: np.ndarray

    def take(self, rows: np.ndarray) -> Table:
        """Rows (m,) of it."""
        few = {f: getattr(self, f)[rows] for f in ("offset", "extent", "inner", "lattice")}
        return dataclasses.replace(self, **few)


def levels(intensity: jax.Array) -> jax.Array:
    """log1p(I / SOFT) of intensities relative to the strongest."""
    return jnp.log1p(intensity / SOFT)


def simulate_table(
    crystals: dx.Crystal,
    conditions: Conditions,
    together: bool = False,
    tilt: tuple[float, float] = (0.0, 0.0),
) -> Table:
    """Simulate every crystal's whole pattern.

    Args:
        crystals: a batch of n in canonical setting, concrete.
        conditions: radiation, q_max and B.
        together: in blocks of few shapes; for hundreds of crystals of any kind compiling costs
            more than the padding.
        tilt: of the layer, degrees, see `dx.simulate`; with `together`.
    """
    lattice, numbers = np.asarray(crystals.lattice), np.asarray(crystals.numbers)
    length = np.linalg.norm(lattice, axis=-1)
    wide = dataclasses.replace(conditions, q_max=conditions.q_max * (1 + EDGE))
    q_inner = conditions.q_max * (1 - EDGE)
    extent = np.floor(wide.q_max * length + 1e-6).astype(np.int64)
    size = (extent[:, 0] + 1) * (2 * extent[:, 1] + 1)
    offset = np.concatenate([[0], np.cumsum(size)])
    # Few sizes: even copying to a device is a program for each size, and none is ever freed.
    total = power_of_four(max(int(offset[-1]), _LEAST)) if together else offset[-1]
    level_values, amplitude_values = np.zeros((2, total, 2), np.float32)
    inner = np.zeros(len(numbers), np.float32)
    if together:
        parts = clean_pairs_in_few_shapes(crystals, wide, tilt)
    else:
        parts = clean_pairs(crystals, wide)
    for rows, q, hk, intensity in parts:
        strongest = intensity.max((1, 2), keepdims=True)
        intensity = intensity / np.where(strongest > 0, strongest, 1)
        level = np.log1p(intensity / SOFT)
        must = np.linalg.norm(q, axis=-1, keepdims=True) <= q_inner
        inner[rows] = (level**2 * must).sum((1, 2))
        h, k = np.moveaxis(hk.astype(np.int64), -1, 0)
        place = offset[rows, None] + h * (2 * extent[rows, 1:] + 1) + k + extent[rows, 1:]
        real = (h != 0) | (k != 0)
        level_values[place[real]] = level[real]
        amplitude_values[place[real]] = np.sqrt(intensity[real])
    return Table(
        jnp.asarray(level_values),
        jnp.asarray(amplitude_values),
        offset[:-1].astype(np.int32),
        extent.astype(np.int32),
        inner,
        lattice,
        np.float32(q_inner),
    )


@jax.jit
def score(table: Table, query: Spots) -> jax.Array:
    """Scores (n,) of all crystals of a table for one query (T pairs); higher is better.

    The cosine between log1p(I / SOFT) of query and candidate over all spots of the query and all
    that the candidate should show, less the weighted R1 over the query's spots, plus the weighted
    log-likelihood of the strain between their lattices. The cosine knows what a candidate has
    too much and is robust; R1 tells apart what is nearly right. Both patterns are in the same
    setting.
    """
    h, k = query.hk[:, 0], query.hk[:, 1]
    extent_h, extent_k = table.extent[:, :1], table.extent[:, 1:]
    inside = (h >= 0) & (h <= extent_h) & (jnp.abs(k) <= extent_k) & query.mask
    place = table.offset[:, None] + h * (2 * extent_k + 1) + k + extent_k
    place = jnp.where(inside, place, 0)
    # Each looked up once: fused into the sums below, XLA on the CPU looks them up for each.
    found, amplitude = jax.lax.optimization_barrier(
        (
            jnp.where(inside[..., None], table.levels[place], 0.0),
            jnp.where(inside[..., None], table.amplitudes[place], 0.0),
        )
    )
    seen = jnp.where(query.measured, levels(query.intensity), 0.0)
    b = reciprocal(table.lattice)
    metric = jnp.sum(b[:, [0, 0, 1]] * b[:, [0, 1, 1]], -1)[..., None]
    q_squared = h * h * metric[:, 0] + 2 * h * k * metric[:, 1] + k * k * metric[:, 2]
    beyond = (q_squared > table.q_inner**2)[..., None] & query.measured
    length = jnp.sqrt(table.inner + jnp.sum(jnp.where(beyond, found, 0.0) ** 2, (1, 2)))
    cosine = jnp.sum(found * seen, (1, 2)) / (length * jnp.sqrt(jnp.sum(seen**2)) + 1e-9)
    r_factor = r1(jnp.sqrt(query.intensity), amplitude, query.measured)
    likelihood = lattice_likelihood(table.lattice, query.lattice)
    return cosine - R_WEIGHT * r_factor + LATTICE_WEIGHT * likelihood


def r1(observed: jax.Array, calculated: jax.Array, measured: jax.Array) -> jax.Array:
    """R1 = sum |A_o - s A_c| / sum A_o of amplitudes (..., T, 2), the scale s by least squares."""
    observed = jnp.where(measured, observed, 0.0)
    calculated = jnp.where(measured, calculated, 0.0)
    scale = jnp.sum(observed * calculated, (-1, -2), keepdims=True) / (
        jnp.sum(calculated**2, (-1, -2), keepdims=True) + 1e-12
    )
    difference = jnp.sum(jnp.abs(observed - scale * calculated), (-1, -2))
    return difference / (jnp.sum(observed, (-1, -2)) + 1e-12)


def lattice_likelihood(candidate: jax.Array, query: jax.Array) -> jax.Array:
    """Log-likelihood (...) of the strain that takes candidate cells (..., 2, 2) to a query's."""
    stretch, shear = strain_between(candidate, query)
    return -0.5 * ((stretch / STRAIN) ** 2 + (shear / SHEAR) ** 2)


def strains(candidate: np.ndarray, query: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`strain_between` of concrete cells: candidates (n, 2, 2), a query's (2, 2) or (n, 2, 2).

    Computed in sizes that are powers of two: a long run would fill its process with programs.
    """
    candidate = np.asarray(candidate)
    count = len(candidate)
    if not count:
        return np.zeros(0, np.float32), np.zeros(0, np.float32)
    rows = filled(np.arange(count), power_of_two(max(count, 64)))
    query = np.broadcast_to(query, candidate.shape)
    stretch, shear = strain_between(candidate[rows], query[rows])
    return np.asarray(stretch)[:count], np.asarray(shear)[:count]


@jax.jit
def strain_between(candidate: jax.Array, query: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Isotropic strain and shear, each (...), from candidate cells (..., 2, 2) to a query's."""
    # Metric tensors: rotations do not count.
    a, b = (
        jnp.einsum("...ik,...jk->...ij", x, x, precision="highest") for x in (candidate, query)
    )
    # Of a symmetric matrix the inverse.
    ratio = jnp.einsum("...ij,...jk->...ik", reciprocal(a), b, precision="highest")
    det = ratio[..., 0, 0] * ratio[..., 1, 1] - ratio[..., 0, 1] * ratio[..., 1, 0]
    stretch = jnp.log(jnp.maximum(det, 1e-6)) / 4
    # The difference of the eigenvalues, not arccosh of their sum, which loses small shears.
    gap = (ratio[..., 0, 0] - ratio[..., 1, 1]) ** 2 + 4 * ratio[..., 0, 1] * ratio[..., 1, 0]
    root = jnp.sqrt(jnp.maximum(det, 1e-12))
    shear = jnp.arcsinh(jnp.sqrt(jnp.maximum(gap, 0.0)) / (2 * root)) / 2
    return stretch, shear
