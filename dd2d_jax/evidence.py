"""How probable a pattern is, given a crystal: a likelihood that knows what may differ.

A crystal's atoms stand a little elsewhere than the library says, its cell is strained, intensities
carry errors. To first order in the atoms' displacements u the intensities are Gaussian, and the
displacements can be integrated out exactly: log(I + e) of all spots together is normal with mean
log(E[I] + e) and covariance J s^2 J^T + scale + errors, where J is the derivative by the
displacements, s their standard deviation, and E[I] = exp(-w) |F|^2 + (1 - exp(-w)) sum_j |f_j|^2
with w = (2 pi q s)^2. Spots do not err one by one: an atom that moved changes all of them, in a
way that only the true crystal explains. What kind of difference it is, is not known; several
hypotheses are summed.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

import diffraction as dx
from dd2d_jax.datasets import CrystalSet
from dd2d_jax.refine import on_lattice
from dd2d_jax.score import strain_between
from dd2d_jax.spots import Conditions, Spots, power_of_two, strongest
from diffraction.kinematic import amplitudes, ewald_qz


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """How a query may differ from its crystal: standard deviations.

    Attributes:
        displacement: of every atomic coordinate, angstrom.
        noise: of the logarithm of an intensity.
        stretch: of the cell's isotropic strain.
        shear: of its shear.
    """

    displacement: float
    noise: float
    stretch: float
    shear: float


# As likely as each other: the crystal itself, a strained copy, and atoms in motion in the
# crystal's own cell.
HYPOTHESES = (
    Hypothesis(0.003, 0.01, 3e-4, 3e-4),
    Hypothesis(0.03, 0.1, 0.012, 0.003),
    Hypothesis(0.15, 0.1, 3e-4, 3e-4),
)
# Intensities, relative to the strongest spot, well below this are all read as this.
SOFT = 1e-3
# What log(I + SOFT) errs by, however strong the spot.
LEAST = 0.02
# Crystals that are computed at once.
_CHUNK = 32


def log_evidence(
    crystals: CrystalSet,
    queries: Spots,
    conditions: Conditions,
    hypotheses: Sequence[Hypothesis] = HYPOTHESES,
) -> np.ndarray:
    """Log-probability (n,) of a query's intensities and cell for each of n crystals.

    Up to a constant that is the same for all of them. Queries and crystals are in canonical
    setting.

    Args:
        crystals: n candidates.
        queries: one pattern's spots (T,), the strongest first; or (n, T), the pattern in a
            setting for each candidate.
        conditions: radiation and B.
        hypotheses: what may differ; all are as likely.
    """
    each = queries.mask.ndim == 2
    # Few shapes are compiled: sizes are powers of two, and padding changes no result.
    pairs = power_of_two(max(int(np.asarray(queries.mask).sum(-1).max()), 32))
    few = strongest(queries, pairs)
    stacked = jax.tree.map(lambda *x: jnp.array(x), *hypotheses)
    atoms = (crystals.numbers > 0).sum(1)
    rooms = np.array([power_of_two(max(int(n), 8)) for n in atoms])
    out = np.zeros(len(crystals), np.float32)
    for room in np.unique(rooms):
        alike = np.flatnonzero(rooms == room)
        for start in range(0, len(alike), _CHUNK):
            rows = alike[np.minimum(np.arange(start, start + _CHUNK), len(alike) - 1)]
            numbers = _sized(crystals.numbers[rows], room)
            positions = _sized(crystals.positions[rows], room)
            batch = dx.Crystal(*map(jnp.asarray, (crystals.lattice[rows], positions, numbers)))
            spots = jax.tree.map(lambda x, i=rows: jnp.asarray(x)[i], few) if each else few
            # The last row is repeated: it is written again.
            out[rows] = _log_evidence(batch, spots, conditions, stacked, each)
    return out


def _sized(values: np.ndarray, room: int) -> np.ndarray:
    short = max(room - values.shape[1], 0)
    return np.pad(values, [(0, 0), (0, short)] + [(0, 0)] * (values.ndim - 2))[:, :room]


@functools.partial(jax.jit, static_argnames="each")
def _log_evidence(
    crystals: dx.Crystal,
    queries: Spots,
    conditions: Conditions,
    hypotheses: Hypothesis,
    each: bool,
) -> jax.Array:
    cells = jnp.broadcast_to(queries.lattice, crystals.lattice.shape)
    stretch, shear = strain_between(crystals.lattice, cells)
    moved = on_lattice(crystals, cells)

    def of(crystal: dx.Crystal, query: Spots, stretch: jax.Array, shear: jax.Array) -> jax.Array:
        q, shares = _shares(crystal, query, conditions)

        def under(h: Hypothesis) -> jax.Array:
            # The shear has two components.
            cell = -0.5 * ((stretch / h.stretch) ** 2 + (shear / h.shear) ** 2)
            cell = cell - jnp.log(h.stretch) - 2 * jnp.log(h.shear)
            return cell + _of_intensities(q, shares, query, h)

        return jax.nn.logsumexp(jax.vmap(under)(hypotheses))

    return jax.vmap(of, in_axes=(0, 0 if each else None, 0, 0))(moved, queries, stretch, shear)


def _shares(
    crystal: dx.Crystal, query: Spots, conditions: Conditions
) -> tuple[jax.Array, jax.Array]:
    """Scattering vectors (2T, 3) of a query's spots, and each atom's share of F there (2T, N)."""
    hk = jnp.concatenate([query.hk, -query.hk]).astype(crystal.lattice.dtype)
    flat = jnp.einsum("kd,de->ke", hk, crystal.reciprocal, precision="highest")
    height = ewald_qz(flat, conditions.radiation.wavelength)
    q = jnp.concatenate([flat, height[:, None]], -1)
    weight = amplitudes(crystal, q, conditions.radiation, conditions.b_iso)
    turns = jnp.einsum("kd,nd->kn", q, crystal.positions, precision="highest")
    angle = 2 * jnp.pi * (turns - jnp.round(turns))
    return q, jax.lax.complex(weight * jnp.cos(angle), weight * jnp.sin(angle))


def _of_intensities(q: jax.Array, shares: jax.Array, query: Spots, h: Hypothesis) -> jax.Array:
    """Log-density of log(I + SOFT) of the measured spots."""
    observed = jnp.concatenate([query.intensity[:, 0], query.intensity[:, 1]])
    measured = jnp.concatenate([query.measured[:, 0], query.measured[:, 1]])
    damping = jnp.exp(-jnp.square(2 * jnp.pi * h.displacement) * jnp.sum(q * q, -1))
    factor = jnp.sum(shares, -1)
    diffuse = (1 - damping) * jnp.sum(jnp.abs(shares) ** 2, -1)
    mean = jnp.abs(factor) ** 2 * damping + diffuse
    # d|F|^2 / du = 2 Re(F* dF/du), dF/du = 2 pi i q f exp(2 pi i q.r). Heights hardly count: q
    # along the normal is small.
    turned = jnp.real(jnp.conj(factor)[:, None] * shares * 1j)
    slope = 4 * jnp.pi * damping[:, None, None] * turned[:, :, None] * q[:, None, :2]
    scale = jnp.sum(jnp.where(measured, jnp.sqrt(observed * mean), 0.0)) / (
        jnp.sum(jnp.where(measured, mean, 0.0)) + 1e-30
    )
    mean, diffuse, slope = mean * scale, diffuse * scale, slope * scale
    soft = mean + SOFT
    # Columns: an atom's coordinate each, and the pattern's scale, of which nothing is known.
    columns = jnp.concatenate(
        [h.displacement * slope.reshape(len(q), -1) / soft[:, None], (mean / soft)[:, None]], -1
    )
    variance = (h.noise * mean / soft) ** 2 + 0.5 * (diffuse / soft) ** 2 + LEAST**2
    weight = jnp.where(measured, 1 / variance, 0.0)
    difference = jnp.where(measured, jnp.log(observed + SOFT) - jnp.log(soft), 0.0)
    # Woodbury: the covariance is diagonal but for these columns.
    weighted = columns * weight[:, None]
    inner = jnp.eye(columns.shape[1]) + jnp.einsum(
        "ki,kj->ij", columns, weighted, precision="highest"
    )
    factor = jnp.linalg.cholesky(inner)
    reduced = jax.scipy.linalg.solve_triangular(factor, weighted.T @ difference, lower=True)
    chi_squared = jnp.sum(difference**2 * weight) - jnp.sum(reduced**2)
    log_determinant = jnp.sum(jnp.where(measured, jnp.log(variance), 0.0)) + 2 * jnp.sum(
        jnp.log(jnp.diagonal(factor))
    )
    return -0.5 * (chi_squared + log_determinant)
