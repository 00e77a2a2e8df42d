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
1 in its logarithm. A small tilt is integrated out as the displacements are.

A rod of the query's cell without a spot was missed, with a probability that the hypothesis names,
or is weaker than the weakest spot. Where a hypothesis misses none, such rods say nothing: what a
candidate shows besides the query's spots costs nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import diffraction as dx
from dd2d_jax.data.crystal_set import CrystalSet
from dd2d_jax.matching.score import strain_between
from dd2d_jax.refinement.refine import on_lattice
from dd2d_jax.spots import Conditions, Spots, atom_slots, half_plane, power_of_two, strongest
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
        tilt: of the layer about x and about y, degrees.
        missing: probability that a spot is not seen, however strong.
    """

    displacement: float
    noise: float
    stretch: float
    shear: float
    tilt: float = 0.0
    missing: float = 0.0


# As likely as each other: the crystal itself, a strained copy, and atoms in motion in the
# crystal's own cell.
HYPOTHESES = (
    Hypothesis(3e-4, 2e-3, 3e-4, 3e-4),
    Hypothesis(0.03, 0.1, 0.012, 0.003),
    Hypothesis(0.15, 0.1, 3e-4, 3e-4),
)


def measured(scale_error: float = 0.02) -> tuple[Hypothesis, ...]:
    """Of patterns from a microscope whose scale may be wrong by `scale_error`, evenly.

    Nearly the crystal itself, a disturbed copy as in the level `measured`, and three with ever
    poorer intensities (a cruder structure, multiple scattering, many layers).
    """
    stretch = math.hypot(0.01, scale_error / math.sqrt(3))
    return (
        Hypothesis(0.01, 0.03, stretch, 0.003, tilt=0.3, missing=0.05),
        Hypothesis(0.03, 0.1, stretch, 0.003, tilt=0.8, missing=0.25),
        Hypothesis(0.03, 0.2, stretch, 0.003, tilt=0.3, missing=0.05),
        Hypothesis(0.06, 0.4, stretch, 0.006, tilt=0.8, missing=0.25),
        Hypothesis(0.1, 1.2, stretch, 0.006, tilt=0.8, missing=0.4),
    )


# Intensities, relative to the strongest spot, well below this are all read as this.
SOFT = 1e-3
# What log(I + SOFT) errs by, however weak the spot, relative to the noise of a strong one.
LEAST = 0.2
# Crystals that are computed at once.
_CHUNK = 32


def log_evidence(
    crystals: CrystalSet,
    queries: Spots,
    conditions: Conditions,
    hypotheses: Sequence[Hypothesis] = HYPOTHESES,
    tilts: np.ndarray | None = None,
) -> np.ndarray:
    """Log-probability (n,) of a query's intensities and cell for each of n crystals.

    Up to a constant that is the same for all of them. Query and crystals are in canonical
    setting.

    Args:
        crystals: n candidates.
        queries: one pattern's spots (T,), the strongest first, or for each crystal its own (n, T),
            of the same pattern in several settings; see `with_unseen`.
        conditions: radiation and B.
        hypotheses: what may differ; all are as likely.
        tilts: (n, 2) degrees as in `dx.simulate`, about the axes of each query; None for none.
    """
    tilts = np.zeros((len(crystals), 2)) if tilts is None else tilts
    # Few shapes are compiled: sizes are powers of two, and padding changes no result.
    used = (np.asarray(queries.hk) != 0).any(-1)
    last = used.shape[-1] - int(used[..., ::-1].argmax(-1).min())
    few = strongest(queries, power_of_two(max(last, 32)))
    if few.lattice.ndim == 2:
        few = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(crystals), *x.shape)), few)
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
            asked = jax.tree.map(lambda x, rows=rows: x[rows], few)
            # The last row is repeated: it is written again.
            out[rows] = _log_evidence(batch, asked, conditions, stacked, tilts[rows])
    return out


def with_unseen(spots: Spots, q_max: float, seen: int, most: int) -> Spots:
    """The strongest `seen` pairs of S settings (S, T), and after them rods without a spot.

    Args:
        spots: every pair of a pattern that was measured, in S settings.
        q_max: rods up to it are expected, 1/angstrom.
        seen: pairs that are kept.
        most: pairs without any spot that are added, the innermost.

    Returns:
        Spots (S, seen + most); `measured` is False for what was not seen.
    """
    lattice = np.asarray(spots.lattice, float)
    known = np.asarray(spots.hk)
    absent = np.zeros((len(lattice), most, 2), np.int32)
    for row, rods in zip(range(len(lattice)), half_plane(lattice, q_max), strict=True):
        there = {tuple(x) for x in known[row].tolist()}
        # Half planes differ by the sign of k where h is 0; a pair is one rod in both.
        new = [x for x in rods.tolist() if any(x) and tuple(x) not in there][:most]
        absent[row, : len(new)] = np.array(new, np.int32).reshape(-1, 2)
    first = strongest(spots, seen)
    q = np.einsum("stj,sjk->stk", absent, np.linalg.inv(lattice).swapaxes(1, 2))
    none = np.zeros(absent.shape, np.float32)
    added = {"q": q.astype(np.float32), "hk": absent, "intensity": none, "sigma": none}
    added["measured"] = np.zeros(absent.shape, bool)
    joined = {
        name: np.concatenate([np.asarray(getattr(first, name)), values], 1)
        for name, values in added.items()
        if getattr(first, name) is not None
    }
    # Padding to the end: what is behind the last rod is not computed.
    order = np.argsort((joined["hk"] == 0).all(-1), axis=1, kind="stable")[..., None]
    sorted_ = {name: np.take_along_axis(x, order, 1) for name, x in joined.items()}
    return Spots(**sorted_, lattice=first.lattice)


def _sized(values: np.ndarray, room: int) -> np.ndarray:
    short = max(room - values.shape[1], 0)
    return np.pad(values, [(0, 0), (0, short)] + [(0, 0)] * (values.ndim - 2))[:, :room]


@jax.jit
def _log_evidence(
    crystals: dx.Crystal,
    queries: Spots,
    conditions: Conditions,
    hypotheses: Hypothesis,
    tilts: jax.Array,
) -> jax.Array:
    stretch, shear = strain_between(crystals.lattice, queries.lattice)
    moved = on_lattice(crystals, queries.lattice)
    floor = jnp.min(jnp.where(queries.measured, queries.intensity, jnp.inf), (1, 2))

    def of(crystal, query, floor, stretch, shear, tilt) -> jax.Array:
        q, shares = _shares(crystal, query, conditions, tilt)
        response = _response(q, shares, crystal.positions[:, 2])

        def under(h: Hypothesis) -> jax.Array:
            # The shear has two components.
            cell = -0.5 * ((stretch / h.stretch) ** 2 + (shear / h.shear) ** 2)
            cell = cell - jnp.log(h.stretch) - 2 * jnp.log(h.shear)
            return cell + _of_intensities(response, query, floor, h)

        return jax.nn.logsumexp(jax.vmap(under)(hypotheses))

    return jax.vmap(of)(moved, queries, floor, stretch, shear, tilts)


def _shares(
    crystal: dx.Crystal, query: Spots, conditions: Conditions, tilt: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Scattering vectors (2T, 3) of a query's spots, and each atom's share of F there (2T, N)."""
    hk = jnp.concatenate([query.hk, -query.hk]).astype(crystal.lattice.dtype)
    flat = jnp.einsum("kd,de->ke", hk, crystal.reciprocal, precision="highest")
    # Rods that the sphere does not reach have no spot to explain.
    height = jnp.nan_to_num(ewald_qz(flat, conditions.radiation.wavelength, tilt))
    q = jnp.concatenate([flat, height[:, None]], -1)
    return q, jax.lax.complex(*atom_factors(crystal, q, conditions.radiation, conditions.b_iso))


class _Response(NamedTuple):
    """How intensities answer to what may move, the same for all hypotheses; K = 2T spots.

    Attributes:
        squared: (K,) |q|^2. coherent: (K,) |F|^2. incoherent: (K,) sum of |f|^2.
        slopes: (K, 2N + 2) d|F|^2 by each atom's coordinates in the plane, 1/angstrom, and by the
            two angles of tilt, 1/degree.
    """

    squared: jax.Array
    coherent: jax.Array
    incoherent: jax.Array
    slopes: jax.Array


def _response(q: jax.Array, shares: jax.Array, heights: jax.Array) -> _Response:
    factor = jnp.sum(shares, -1)
    # d|F|^2 / du = 2 Re(F* dF/du), dF/du = 2 pi i q f exp(2 pi i q.r).
    turned = 4 * jnp.pi * jnp.real(jnp.conj(factor)[:, None] * shares * 1j)
    slope = turned[:, :, None] * q[:, None, :2]
    # A tilt (see `dx.simulate`) moves the cut along the rod by -q_y and q_x, times the angle.
    along = jnp.deg2rad(jnp.sum(turned * heights, -1, keepdims=True))
    lean = along * jnp.stack([-q[:, 1], q[:, 0]], -1)
    slopes = jnp.concatenate([slope.reshape(len(q), -1), lean], -1)
    incoherent = jnp.sum(jnp.abs(shares) ** 2, -1)
    return _Response(jnp.sum(q * q, -1), jnp.abs(factor) ** 2, incoherent, slopes)


def _of_intensities(
    response: _Response, query: Spots, floor: jax.Array, h: Hypothesis
) -> jax.Array:
    """Log-density of log(I + SOFT) of the measured spots, and of the others that they are none."""
    observed = jnp.concatenate([query.intensity[:, 0], query.intensity[:, 1]])
    measured = jnp.concatenate([query.measured[:, 0], query.measured[:, 1]])
    expected = jnp.tile((query.hk != 0).any(-1), 2)
    damping = jnp.exp(-jnp.square(2 * jnp.pi * h.displacement) * response.squared)
    diffuse = (1 - damping) * response.incoherent
    mean = response.coherent * damping + diffuse
    # Of the amplitudes' least squares.
    scale = jnp.sum(jnp.where(measured, jnp.sqrt(observed * mean), 0.0)) / (
        jnp.sum(jnp.where(measured, mean, 0.0)) + 1e-30
    )
    mean, diffuse, gain = (scale**2 * x for x in (mean, diffuse, damping))
    soft = mean + SOFT
    variance = h.noise**2 * ((mean / soft) ** 2 + LEAST**2) + 0.5 * (diffuse / soft) ** 2
    weight = jnp.where(measured, 1 / variance, 0.0)
    difference = jnp.where(measured, jnp.log(observed + SOFT) - jnp.log(soft), 0.0)
    # Woodbury: the covariance is diagonal but for the columns gain / soft * slopes * size, one for
    # each coordinate and tilt, and mean / soft of the scale. They are never made: the slopes
    # are those of all hypotheses, and a row's or column's factor is taken out of the products.
    gain, level = gain / soft, mean / soft
    count = response.slopes.shape[1]
    size = jnp.where(jnp.arange(count) < count - 2, h.displacement, h.tilt)
    inner = _product(response.slopes * (weight * gain**2)[:, None], response.slopes)
    inner = inner * size[:, None] * size
    ends = (weight * gain)[:, None] * jnp.stack([level, difference], -1)
    ends = _product(response.slopes, ends)
    side, projected = (size[:, None] * ends).T
    corner = jnp.sum(weight * level**2)
    inner = jnp.block([[inner, side[:, None]], [side[None], corner]]) + jnp.eye(count + 1)
    projected = jnp.append(projected, jnp.sum(weight * level * difference))
    factor = jnp.linalg.cholesky(inner)
    reduced = jax.scipy.linalg.solve_triangular(factor, projected, lower=True)
    chi_squared = jnp.sum(difference**2 * weight) - jnp.sum(reduced**2)
    log_determinant = jnp.sum(jnp.where(measured, jnp.log(variance), 0.0)) + 2 * jnp.sum(
        jnp.log(jnp.diagonal(factor))
    )
    spread = gain**2 * _product((response.slopes**2).T, size[:, None] ** 2)[:, 0]
    below = (jnp.log(floor + SOFT) - jnp.log(soft)) / jnp.sqrt(variance + spread)
    missed = h.missing + (1 - h.missing) * jax.scipy.stats.norm.cdf(below)
    unseen = jnp.where(expected & ~measured & (h.missing > 0), jnp.log(missed + 1e-12), 0.0)
    seen = jnp.sum(measured) * jnp.log1p(-h.missing)
    return seen + jnp.sum(unseen) - 0.5 * (chi_squared + log_determinant)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """Sums (i, j) over k of a (k, i) and b (k, j)."""
    return jnp.einsum("ki,kj->ij", a, b, precision="highest")
