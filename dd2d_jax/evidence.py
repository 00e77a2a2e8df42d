"""How probable a pattern is, given a crystal: a likelihood that knows what may differ.

A crystal's atoms stand a little elsewhere than the library says, its cell is strained, intensities
carry errors. log(I + e) of all spots together is taken as normal, to first order in the atoms'
displacements u, which are integrated out: mean log(E[I] + e), covariance J s^2 J^T + scale +
errors. J is the derivative by the displacements in the plane (heights hardly count: the scattering
vectors lie nearly in it), s their standard deviation, and E[I] = exp(-w) |F|^2 + (1 - exp(-w))
sum_j |f_j|^2 with w = (2 pi q s)^2. Spots do not err one by one: an atom that moved changes all of
them, in a way that only the true crystal explains.

What is beyond first order counts as an error of each spot, of variance (1 - exp(-w))^2 (sum_j
|f_j|^2)^2 / 2; the factor was not fitted. The scale is the one that fits best, with an error of
1 in its logarithm. Only the query's spots count: what a candidate shows besides costs nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

import diffraction as dx
from dd2d_jax.datasets import CrystalSet
from dd2d_jax.refine import on_lattice
from dd2d_jax.score import strain_between
from dd2d_jax.spots import Conditions, Spots, atom_slots, power_of_two, strongest
from diffraction.kinematic import atom_factors, ewald_qz


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """How a query may differ from its crystal: standard deviations.

    Attributes:
        displacement: of an atom's coordinates in the plane, angstrom.
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
    Hypothesis(3e-4, 2e-3, 3e-4, 3e-4),
    Hypothesis(0.03, 0.1, 0.012, 0.003),
    Hypothesis(0.15, 0.1, 3e-4, 3e-4),
)
# Intensities, relative to the strongest spot, well below this are all read as this.
SOFT = 1e-3
# What log(I + SOFT) errs by, however weak the spot, relative to the noise of a strong one.
LEAST = 0.2
# Crystals that are computed at once.
_CHUNK = 32


def log_evidence(
    crystals: CrystalSet,
    query: Spots,
    conditions: Conditions,
    hypotheses: Sequence[Hypothesis] = HYPOTHESES,
) -> np.ndarray:
    """Log-probability (n,) of a query's intensities and cell for each of n crystals.

    Up to a constant that is the same for all of them. Query and crystals are in canonical
    setting.

    Args:
        crystals: n candidates.
        query: one pattern's spots (T,), the strongest first.
        conditions: radiation and B.
        hypotheses: what may differ; all are as likely.
    """
    # Few shapes are compiled: sizes are powers of two, and padding changes no result.
    few = strongest(query, power_of_two(max(int(np.asarray(query.mask).sum()), 32)))
    stacked = jax.tree.map(lambda *x: jnp.array(x), *hypotheses)
    rooms = np.array([power_of_two(max(int(n), 8)) for n in atom_slots(crystals.numbers)])
    out = np.zeros(len(crystals), np.float32)
    for room in np.unique(rooms):
        alike = np.flatnonzero(rooms == room)
        for start in range(0, len(alike), _CHUNK):
            rows = alike[np.minimum(np.arange(start, start + _CHUNK), len(alike) - 1)]
            numbers = _sized(crystals.numbers[rows], room)
            positions = _sized(crystals.positions[rows], room)
            batch = dx.Crystal(*map(jnp.asarray, (crystals.lattice[rows], positions, numbers)))
            # The last row is repeated: it is written again.
            out[rows] = _log_evidence(batch, few, conditions, stacked)
    return out


def _sized(values: np.ndarray, room: int) -> np.ndarray:
    short = max(room - values.shape[1], 0)
    return np.pad(values, [(0, 0), (0, short)] + [(0, 0)] * (values.ndim - 2))[:, :room]


@jax.jit
def _log_evidence(
    crystals: dx.Crystal, query: Spots, conditions: Conditions, hypotheses: Hypothesis
) -> jax.Array:
    cells = jnp.broadcast_to(query.lattice, crystals.lattice.shape)
    stretch, shear = strain_between(crystals.lattice, cells)
    moved = on_lattice(crystals, cells)

    def of(crystal: dx.Crystal, stretch: jax.Array, shear: jax.Array) -> jax.Array:
        q, shares = _shares(crystal, query, conditions)

        def under(h: Hypothesis) -> jax.Array:
            # The shear has two components.
            cell = -0.5 * ((stretch / h.stretch) ** 2 + (shear / h.shear) ** 2)
            cell = cell - jnp.log(h.stretch) - 2 * jnp.log(h.shear)
            return cell + _of_intensities(q, shares, query, h)

        return jax.nn.logsumexp(jax.vmap(under)(hypotheses))

    return jax.vmap(of)(moved, stretch, shear)


def _shares(
    crystal: dx.Crystal, query: Spots, conditions: Conditions
) -> tuple[jax.Array, jax.Array]:
    """Scattering vectors (2T, 3) of a query's spots, and each atom's share of F there (2T, N)."""
    hk = jnp.concatenate([query.hk, -query.hk]).astype(crystal.lattice.dtype)
    flat = jnp.einsum("kd,de->ke", hk, crystal.reciprocal, precision="highest")
    height = ewald_qz(flat, conditions.radiation.wavelength)
    q = jnp.concatenate([flat, height[:, None]], -1)
    return q, jax.lax.complex(*atom_factors(crystal, q, conditions.radiation, conditions.b_iso))


def _of_intensities(q: jax.Array, shares: jax.Array, query: Spots, h: Hypothesis) -> jax.Array:
    """Log-density of log(I + SOFT) of the measured spots."""
    observed = jnp.concatenate([query.intensity[:, 0], query.intensity[:, 1]])
    measured = jnp.concatenate([query.measured[:, 0], query.measured[:, 1]])
    damping = jnp.exp(-jnp.square(2 * jnp.pi * h.displacement) * jnp.sum(q * q, -1))
    factor = jnp.sum(shares, -1)
    diffuse = (1 - damping) * jnp.sum(jnp.abs(shares) ** 2, -1)
    mean = jnp.abs(factor) ** 2 * damping + diffuse
    # d|F|^2 / du = 2 Re(F* dF/du), dF/du = 2 pi i q f exp(2 pi i q.r).
    turned = jnp.real(jnp.conj(factor)[:, None] * shares * 1j)
    slope = 4 * jnp.pi * damping[:, None, None] * turned[:, :, None] * q[:, None, :2]
    # Of the amplitudes' least squares.
    scale = jnp.sum(jnp.where(measured, jnp.sqrt(observed * mean), 0.0)) / (
        jnp.sum(jnp.where(measured, mean, 0.0)) + 1e-30
    )
    scale = scale**2
    mean, diffuse, slope = mean * scale, diffuse * scale, slope * scale
    soft = mean + SOFT
    # Columns: an atom's coordinate each, and the pattern's scale.
    columns = jnp.concatenate(
        [h.displacement * slope.reshape(len(q), -1) / soft[:, None], (mean / soft)[:, None]], -1
    )
    variance = h.noise**2 * ((mean / soft) ** 2 + LEAST**2) + 0.5 * (diffuse / soft) ** 2
    weight = jnp.where(measured, 1 / variance, 0.0)
    difference = jnp.where(measured, jnp.log(observed + SOFT) - jnp.log(soft), 0.0)
    # Woodbury: the covariance is diagonal but for these columns.
    weighted = columns * weight[:, None]
    inner = jnp.eye(columns.shape[1]) + jnp.einsum(
        "ki,kj->ij", columns, weighted, precision="highest"
    )
    projected = jnp.einsum("ki,k->i", weighted, difference, precision="highest")
    factor = jnp.linalg.cholesky(inner)
    reduced = jax.scipy.linalg.solve_triangular(factor, projected, lower=True)
    chi_squared = jnp.sum(difference**2 * weight) - jnp.sum(reduced**2)
    log_determinant = jnp.sum(jnp.where(measured, jnp.log(variance), 0.0)) + 2 * jnp.sum(
        jnp.log(jnp.diagonal(factor))
    )
    return -0.5 * (chi_squared + log_determinant)
