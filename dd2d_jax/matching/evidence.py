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
1 in its logarithm. A small tilt is integrated out as the displacements are, and so is a gradient of
the intensities across the pattern.

Light atoms' bonds hold electrons that free atoms do not have there (`diffraction.bonds`): measured
patterns show them, simulated ones mostly do not. Their share is integrated out about one half.

B, too: one of all atoms, which a slope of the intensities in q^2 is the same as, and that of each
element about it. log I is linear in the first but for SOFT; it is fitted together with the scale,
then integrated out about where it fits best, with its prior. Measured uncertainties of
intensities add to the errors. Intensities from the grey levels of an export for the screen may be a
power of counts, which a hypothesis may have fitted and integrated out likewise.

A rod of the query's cell without a spot was missed, with a probability that the hypothesis names,
or is weaker than the weakest spot. Where a hypothesis misses none, such rods say nothing: what a
candidate shows besides the query's spots costs nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import diffraction as dx
from dd2d_jax.crystals.structures import SAME_SITE
from dd2d_jax.data.crystal_set import CrystalSet
from dd2d_jax.lattices.reduction import spanned
from dd2d_jax.matching.hypotheses import FARTHER, Hypothesis
from dd2d_jax.matching.score import strain_between
from dd2d_jax.refinement.bonds import EXPECTED, FAINT
from dd2d_jax.refinement.bonds import amplitudes as bond_amplitudes
from dd2d_jax.refinement.inputs import on_lattice
from dd2d_jax.spots import (
    Conditions,
    Spots,
    atom_slots,
    blocks,
    cut_to,
    half_plane,
    power_of_two,
    strongest,
)
from diffraction.kinematic import atom_factors, ewald_qz

# Intensities, relative to the strongest spot, well below this are all read as this.
SOFT = 1e-3
# What log(I + SOFT) errs by, however weak the spot, relative to the noise of a strong one.
LEAST = 0.2
# Crystals that are computed at once.
_CHUNK = 32
# Elements of a crystal whose B differ; those beyond share one.
_SPECIES = 4
# Steps in which scale, B and bonds are fitted before the integral, and the longest of them in the
# scale's logarithm, in B, in the bonds' share and in the power of counts; more steps where that is
# fitted, too, and its range.
_STEPS, _LONGEST = 3, (2.0, 1.5, 1.0, 0.3)
_MORE_STEPS, _POWERS = 6, (0.15, 1.3)
# Layers are tilted by this, degrees, as far as the tilt at which they are tried is concerned: the
# hypotheses' own tilts are those that kinematic intensities may be off by, and hold it near to 0.
_TILT = 1.5
# The pull on the scale where nothing is to be seen.
_WEAK = 1e-3


class Explained(NamedTuple):
    """How well each of n crystals explains a query.

    Attributes:
        value: (n,) log-probability of intensities and cell, see `log_evidence`.
        r1: (n,) R1 of the amplitudes, scale and B fitted.
        b: (n,) the B that was fitted, beyond that of the conditions, angstrom^2.
        power: (n,) of counts that the intensities are.
        bonds: (n,) the share of the electrons in bonds that fits, one half without bonds.
        lean: (n, 2) the tilt that fits under the best hypothesis, degrees, were it N(0, `_TILT`).
        stretch, shear: (n,) strain from the crystal's cell to the query's.
        cell: (n, H) log-probability of the cell under each of H hypotheses.
        intensities: (n, H) of the intensities, whatever the temperature.
    """

    value: np.ndarray
    r1: np.ndarray
    b: np.ndarray
    power: np.ndarray
    bonds: np.ndarray
    lean: np.ndarray
    stretch: np.ndarray
    shear: np.ndarray
    cell: np.ndarray
    intensities: np.ndarray


def log_evidence(
    crystals: CrystalSet,
    queries: Spots,
    conditions: Conditions,
    hypotheses: Sequence[Hypothesis],
    tilts: np.ndarray | None = None,
) -> np.ndarray:
    """Log-probability (n,) of a query's intensities and cell for each of n crystals.

    Up to a constant that is the same for all of them; see `explain`.
    """
    return explain(crystals, queries, conditions, hypotheses, tilts).value


def explain(
    crystals: CrystalSet,
    queries: Spots,
    conditions: Conditions,
    hypotheses: Sequence[Hypothesis],
    tilts: np.ndarray | None = None,
    lean: np.ndarray | None = None,
    squares: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Explained:
    """How well each of n crystals explains a query.

    Query and crystals are in canonical setting.

    Args:
        crystals: n candidates.
        queries: one pattern's spots (T,), the strongest first, or for each crystal its own (n, T),
            of the same pattern in several settings; see `with_unseen`.
        conditions: radiation and B.
        hypotheses: what may differ; all are as likely.
        tilts: (n, 2) degrees as in `dx.simulate`, about the axes of each query; None for none.
        lean: (n, 2) tilt about which the small one is integrated, degrees; None for none.
        squares: |F|^2 (n, K) of rods (n, K, 2), -hk behind hk; None: of kinematic scattering.
    """
    tilts, lean = (np.zeros((len(crystals), 2)) if x is None else x for x in (tilts, lean))
    # Few shapes are compiled: sizes are powers of two, and padding changes no result.
    last = int(atom_slots((np.asarray(queries.hk) != 0).any(-1)).max())
    few = jax.tree.map(np.asarray, strongest(queries, power_of_two(max(last, 32))))
    # What lies behind the last pair with a spot has no part in the products, if that halves them.
    pairs = few.hk.shape[-2]
    if atom_slots(few.measured.any(-1)).max() <= pairs // 2:
        pairs //= 2
    if few.lattice.ndim == 2:
        few = jax.tree.map(lambda x: np.broadcast_to(x, (len(crystals), *x.shape)), few)
    stacked = jax.tree.map(lambda *x: np.array(x, np.float32), *hypotheses)
    rooms = np.array([power_of_two(max(int(n), 8)) for n in atom_slots(crystals.numbers)])
    shapes = ((), (), (), (), (), (2,), (), (), *[(len(hypotheses),)] * 2)
    out = Explained(*(np.zeros((len(crystals), *shape), np.float32) for shape in shapes))
    hk = np.concatenate([few.hk, -few.hk], 1)
    # NaN stands for what is computed: one program is compiled for both.
    told = np.full(hk.shape[:2], np.nan) if squares is None else squares(hk)
    told = np.asarray(told, np.float32)
    bonds = bond_amplitudes(crystals, hk, few.lattice, conditions, tilts + lean)
    for (room,), _, rows in blocks(rooms[:, None], _CHUNK):
        some = _explain(
            cut_to(crystals, rows, room), jax.tree.map(lambda x, rows=rows: x[rows], few),
            conditions, stacked, tilts[rows], told[rows], lean[rows], bonds[rows], pairs,
        )  # fmt: skip
        # The last row is repeated: it is written again.
        for whole, part in zip(out, some, strict=True):
            whole[rows] = part
    return out


def with_unseen(
    spots: Spots, q_max: float, seen: int, most: int, stacked: bool = False
) -> Spots:
    """The strongest `seen` pairs of S settings (S, T), and after them rods without a spot.

    Args:
        spots: every pair of a pattern that was measured, in S settings.
        q_max: rods up to it are expected, 1/angstrom.
        seen: pairs that are kept.
        most: pairs without any spot that are added, the innermost.
        stacked: only sums of the spots' indices are expected, see `Indexed.stacked`.

    Returns:
        Spots (S, seen + most); `measured` is False for what was not seen.
    """
    lattice = np.asarray(spots.lattice, float)
    known = np.asarray(spots.hk)
    absent = np.zeros((len(lattice), most, 2), np.int32)
    for row, rods in zip(range(len(lattice)), half_plane(lattice, q_max), strict=True):
        if stacked:
            sums = rods @ np.linalg.pinv(spanned(known[row]))
            rods = rods[(np.abs(sums - np.rint(sums)) < 1e-6).all(1)]
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


@functools.partial(jax.jit, static_argnames="pairs")
def _explain(
    crystals: dx.Crystal,
    queries: Spots,
    conditions: Conditions,
    hypotheses: Hypothesis,
    tilts: jax.Array,
    told: jax.Array,
    lean: jax.Array,
    bonds: jax.Array,
    pairs: int,
) -> Explained:
    stretch, shear = strain_between(crystals.lattice, queries.lattice)
    moved = on_lattice(crystals, queries.lattice)
    floor = jnp.min(jnp.where(queries.measured, queries.intensity, jnp.inf), (1, 2))

    def of(crystal, query, floor, stretch, shear, tilt, told, lean, bonds) -> Explained:
        q, shares = _shares(crystal, query, conditions, tilt + lean)
        seen = _seen(query)
        response = _response(q, shares, crystal, bonds, seen.measured)
        # What bonds change of kinematic intensities they change of others in proportion.
        free = jnp.abs(jnp.sum(shares, -1)) ** 2
        bonded = jnp.where(free > FAINT * response.incoherent, response.coherent / free, 1.0)
        coherent = jnp.where(jnp.isnan(told), response.coherent, told * bonded)
        response = response._replace(coherent=coherent)

        def under(h: Hypothesis) -> tuple[jax.Array, ...]:
            cell = jnp.logaddexp(
                jnp.log1p(-h.stray) - 0.5 * (stretch / h.stretch) ** 2,
                jnp.log(h.stray / FARTHER) - 0.5 * (stretch / (FARTHER * h.stretch)) ** 2,
            )
            cell = cell - jnp.log(h.stretch)
            # The shear has two components; some cameras add to it.
            wide = jnp.hypot(h.shear, h.elliptic)
            cell = cell + jnp.logaddexp(
                jnp.log1p(-h.often) - 0.5 * (shear / h.shear) ** 2 - 2 * jnp.log(h.shear),
                jnp.log(h.often) - 0.5 * (shear / wide) ** 2 - 2 * jnp.log(wide),
            )
            return cell, *_of_intensities(response, seen, floor, h, lean, pairs)

        cell, intensities, r1, b, power, share, leans = jax.vmap(under)(hypotheses)
        each = cell + intensities / hypotheses.temperature
        best = r1.argmin()
        value = jax.nn.logsumexp(each)
        its = leans[each.argmax()]
        return Explained(
            value, r1[best], b[best], power[best], share[best], its, stretch, shear, cell,
            intensities,
        )  # fmt: skip

    return jax.vmap(of)(moved, queries, floor, stretch, shear, tilts, told, lean, bonds)


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
    """How intensities answer to what may differ, the same for all hypotheses; K = 2T spots.

    Attributes:
        across: (K, 2) q in the plane, the farthest measured spot's length is 1.
        squared: (K,) |q|^2. coherent: (K,) |F|^2. incoherent: (K,) sum of |f|^2.
        slopes: (K, 2N + 2 + _SPECIES) d|F|^2 by each site's coordinates in the plane, 1/angstrom,
            by the two angles of tilt, 1/degree, and by each element's B, 1/angstrom^2.
        bonds: (K,) d|F|^2 by the share of the bonds' electrons; the others are at `bonds.EXPECTED`.
    """

    across: jax.Array
    squared: jax.Array
    coherent: jax.Array
    incoherent: jax.Array
    slopes: jax.Array
    bonds: jax.Array


def _response(
    q: jax.Array,
    shares: jax.Array,
    crystal: dx.Crystal,
    bonds: jax.Array,
    measured: jax.Array,
) -> _Response:
    factor = jnp.sum(shares, -1) + EXPECTED * bonds
    squared = jnp.sum(q * q, -1)
    # d|F|^2 / du = 2 Re(F* dF/du), dF/du = 2 pi i q f exp(2 pi i q.r).
    turned = 4 * jnp.pi * jnp.real(jnp.conj(factor)[:, None] * shares * 1j)
    moved, alone = turned, shares
    if crystal.occupancy is not None:
        moved, alone = (_product(x.T, _sites(crystal)) for x in (turned, shares))
    slope = moved[:, :, None] * q[:, None, :2]
    # A tilt (see `dx.simulate`) moves the cut along the rod by -q_y and q_x, times the angle.
    along = jnp.deg2rad(jnp.sum(turned * crystal.positions[:, 2], -1, keepdims=True))
    lean = along * jnp.stack([-q[:, 1], q[:, 0]], -1)
    # d|F|^2 / dB = -|q|^2 / 2 Re(F* F_e), F_e of the atoms of one element.
    part = _product(jnp.real(jnp.conj(factor)[:, None] * shares).T, _species(crystal.numbers))
    softer = -0.5 * squared[:, None] * part
    slopes = jnp.concatenate([slope.reshape(len(q), -1), lean, softer], -1)
    incoherent = jnp.sum(jnp.abs(alone) ** 2, -1)
    charged = 2 * jnp.real(jnp.conj(factor) * bonds)
    farthest = jnp.sqrt(jnp.max(jnp.where(measured, squared, 0.0)))
    across = q[:, :2] / jnp.maximum(farthest, 1e-6)
    return _Response(across, squared, jnp.abs(factor) ** 2, incoherent, slopes, charged)


def _sites(crystal: dx.Crystal) -> jax.Array:
    """(N, N) 1 where an atom is on the site of another, the first there: they move together."""
    apart = jnp.sum((crystal.positions[:, None] - crystal.positions) ** 2, -1)
    first = ((apart < SAME_SITE**2) & (crystal.numbers > 0)).argmax(1)
    return jax.nn.one_hot(first, len(first))


def _species(numbers: jax.Array) -> jax.Array:
    """(N, _SPECIES) 1 where an atom is of that of the crystal's elements."""
    first = (numbers[:, None] == numbers).argmax(1)
    place = jnp.cumsum(first == jnp.arange(len(numbers)))[first] - 1
    return jax.nn.one_hot(jnp.minimum(place, _SPECIES - 1), _SPECIES)


class _Seen(NamedTuple):
    """A query's spots, K = 2T.

    Attributes:
        observed: (K,) intensity. measured: (K,) whether it was. expected: (K,) whether there is a
            rod. error: (K,) the measured variance of log(I + SOFT), 0 where it is not known.
    """

    observed: jax.Array
    measured: jax.Array
    expected: jax.Array
    error: jax.Array


def _seen(query: Spots) -> _Seen:
    observed, measured = (
        jnp.concatenate([x[:, 0], x[:, 1]]) for x in (query.intensity, query.measured)
    )
    error = jnp.zeros_like(observed)
    if query.sigma is not None:
        sigma = jnp.concatenate([query.sigma[:, 0], query.sigma[:, 1]])
        error = jnp.square(sigma / (observed + SOFT))
    return _Seen(observed, measured, jnp.tile((query.hk != 0).any(-1), 2), error)


class _Model(NamedTuple):
    """log(I + SOFT) as a hypothesis has it, (K,) each.

    Attributes:
        soft: the mean intensity and SOFT. variance: of the logarithm.
        gain: of `_Response.slopes`. level: the derivative by the scale's logarithm.
        mean: the mean intensity.
    """

    soft: jax.Array
    variance: jax.Array
    gain: jax.Array
    level: jax.Array
    mean: jax.Array


def _model(response: _Response, error: jax.Array, h: Hypothesis, fit: jax.Array) -> _Model:
    """`fit` (3 or 4,): logarithm of the scale, B, the share of the bonds' electrons and, where it
    is fitted, the power of counts.
    """
    damping = jnp.exp(-jnp.square(2 * jnp.pi * h.displacement) * response.squared)
    scale = jnp.exp(fit[0] - 0.5 * fit[1] * response.squared)
    diffuse = (1 - damping) * response.incoherent * scale
    coherent = jnp.maximum(response.coherent + (fit[2] - EXPECTED) * response.bonds, 0.0)
    mean = coherent * damping * scale + diffuse
    power = 1.0
    if len(fit) > 3:
        power = fit[3]
        counts = mean + 1e-9
        mean = counts**power
        slope = power * mean / counts
        diffuse, scale = diffuse * slope, scale * slope
    soft = mean + SOFT
    added = 0.5 * diffuse**2 + h.background**2
    variance = h.noise**2 * ((mean / soft) ** 2 + LEAST**2) + added / soft**2 + error
    return _Model(soft, variance, damping * scale / soft, power * mean / soft, mean)


def _by_fit(response: _Response, m: _Model, fit: jax.Array) -> jax.Array:
    """(K, 3 or 4) derivatives of log(I + SOFT) by what is fitted, see `_model`."""
    columns = [m.level, -0.5 * response.squared * m.level, m.gain * response.bonds]
    if len(fit) > 3:
        # log(I) is the power times the logarithm of counts.
        columns.append(m.level * jnp.log(m.mean + 1e-12) / fit[3] ** 2)
    return jnp.stack(columns, -1)


def _sizes(h: Hypothesis, count: int) -> jax.Array:
    """(count,) standard deviations of what `_Response.slopes` are the derivatives by."""
    ends = jnp.stack([h.tilt] * 2 + [h.scatter] * _SPECIES)
    return jnp.concatenate([jnp.full(count - len(ends), h.displacement), ends])


def _expected(h: Hypothesis) -> tuple[jax.Array, jax.Array]:
    """What is expected of B, of the bonds' share and, if the hypothesis has one, of the power, and
    how widely (2 or 3,).
    """
    # As widely as it may be: from 0 to 1.
    bonds = jnp.float32(EXPECTED)
    if h.power is None:
        return jnp.stack([h.softer, bonds]), jnp.stack([h.softness, bonds])
    return jnp.stack([h.softer, bonds, h.flatter]), jnp.stack([h.softness, bonds, h.power])


def _fitted(response: _Response, seen: _Seen, spread: jax.Array, h: Hypothesis) -> jax.Array:
    """Logarithm of the scale, B beyond the conditions', bonds' share and power that fit best.

    B and power with their priors. `spread` (K,): the variance of the intensities by what the
    slopes stand for.
    """
    softer = jnp.exp(-0.5 * h.softer * response.squared)
    guess = response.coherent * softer
    # Of the amplitudes' least squares.
    root = jnp.sum(jnp.where(seen.measured, jnp.sqrt(seen.observed * guess), 0.0)) / (
        jnp.sum(jnp.where(seen.measured, guess, 0.0)) + 1e-30
    )
    expected, width = _expected(h)
    # The bonds' share is between those of free atoms and of bonded ones, and any of these.
    stiff = (1 / jnp.maximum(width**2, 1e-10)).at[1].set(_WEAK)
    fit = jnp.concatenate([2 * jnp.log(root + 1e-15)[None], expected])
    longest = jnp.array(_LONGEST[: len(fit)])
    for _ in range(_MORE_STEPS if len(fit) > 3 else _STEPS):
        m = _model(response, seen.error, h, fit)
        weight = jnp.where(seen.measured, 1 / (m.variance + m.gain**2 * spread), 0.0)
        by = _by_fit(response, m, fit)
        difference = jnp.log(seen.observed + SOFT) - jnp.log(m.soft)
        square = _product(by * weight[:, None], by)
        square += jnp.diag(jnp.concatenate([jnp.full(1, _WEAK), stiff]))
        pull = jnp.concatenate([jnp.zeros(1), (expected - fit[1:]) * stiff])
        side = jnp.sum((weight * difference)[:, None] * by, 0) + pull
        fit += jnp.clip(_solved_within(square, side, -fit[2], 1 - fit[2]), -longest, longest)
        if len(fit) > 3:
            fit = fit.at[3].set(jnp.clip(fit[3], *_POWERS))
    return fit


def _solved_within(
    square: jax.Array, side: jax.Array, least: jax.Array, most: jax.Array
) -> jax.Array:
    """As `_solved`, the third unknown from `least` to `most`; the others fit it."""
    third = jnp.clip(_solved(square, side)[2], least, most)
    side = (side - square[:, 2] * third).at[2].set(third)
    alone = jnp.eye(len(side))[2]
    return _solved(square * (1 - alone) * (1 - alone)[:, None] + jnp.outer(alone, alone), side)


def _solved(square: jax.Array, side: jax.Array) -> jax.Array:
    """x of square @ x = side, of a few unknowns: a batch of LAPACK's calls takes longer."""
    rows = [[*square[i], side[i]] for i in range(len(side))]
    for i, pivot in enumerate(rows):
        for row in rows[:i] + rows[i + 1 :]:
            factor = row[i] / pivot[i]
            row[:] = [x - factor * y for x, y in zip(row, pivot, strict=True)]
    return jnp.stack([row[-1] / row[i] for i, row in enumerate(rows)])


def _of_intensities(
    response: _Response,
    seen: _Seen,
    floor: jax.Array,
    h: Hypothesis,
    lean: jax.Array,
    pairs: int,
) -> tuple[jax.Array, ...]:
    """Log-density of log(I + SOFT) of the measured spots, and of the others that they are none.

    Also R1, the B, the power and the share of the bonds' electrons that were fitted, and the tilt
    (2,) that is likeliest.
    `lean` (2,): the tilt that `response` was computed at. `pairs`: those behind have no spot.
    """
    observed, measured = seen.observed, seen.measured
    count = response.slopes.shape[1]
    size = _sizes(h, count)
    spread = _product((response.slopes**2).T, size[:, None] ** 2)[:, 0]
    fit = _fitted(response, seen, spread, h)
    m = _model(response, seen.error, h, fit)
    weight = jnp.where(measured, 1 / m.variance, 0.0)
    # All are linear about where they fit best; priors of B, bonds, power and tilt lie elsewhere.
    by, (expected, width) = _by_fit(response, m, fit), _expected(h)
    difference = jnp.log(observed + SOFT) - jnp.log(m.soft)
    difference += jnp.sum(by[:, 1:] * (fit[1:] - expected), -1)
    angles = slice(count - 2 - _SPECIES, count - _SPECIES)
    difference += m.gain * jnp.sum(response.slopes[:, angles] * lean, -1)
    difference = jnp.where(measured, difference, 0.0)
    shaded = h.gradient * m.level[:, None] * response.across
    # Woodbury: the covariance is diagonal but for the columns gain * slopes * size, one for
    # each coordinate, tilt and element, and those of what is fitted. They are never made: the
    # slopes are those of all hypotheses, and a row's or column's factor is taken out of the
    # products.
    slopes, weight, gain, ends = (
        jnp.concatenate([x[:pairs], x[len(x) // 2 :][:pairs]])
        for x in (
            response.slopes, weight, m.gain,
            jnp.concatenate([by[:, :1], by[:, 1:] * width, shaded, difference[:, None]], -1),
        )
    )  # fmt: skip
    inner = _product(slopes * (weight * gain**2)[:, None], slopes) * size[:, None] * size
    side = size[:, None] * _product(slopes, (weight * gain)[:, None] * ends)
    corner = _product(ends * weight[:, None], ends)
    inner = jnp.block([[inner, side[:, :-1]], [side[:, :-1].T, corner[:-1, :-1]]])
    projected = jnp.concatenate([side[:, -1], corner[:-1, -1]])
    factor = jnp.linalg.cholesky(inner + jnp.eye(len(inner)))
    # Columns: the data, and the tilt's two, which tell its mean and covariance.
    solved = jax.scipy.linalg.solve_triangular(
        factor, jnp.c_[projected, jnp.eye(len(inner))[:, angles]], lower=True
    )
    chi_squared = corner[-1, -1] - jnp.sum(solved[:, 0] ** 2)
    likeliest = h.tilt * _widened(solved[:-2], h.tilt / _TILT)
    log_determinant = jnp.sum(jnp.where(measured, jnp.log(m.variance), 0.0)) + 2 * jnp.sum(
        jnp.log(jnp.diagonal(factor))
    )
    deviation = jnp.sqrt(m.variance + m.gain**2 * spread)
    below = (jnp.log(floor + SOFT) - jnp.log(m.soft)) / deviation
    missed = h.missing + (1 - h.missing) * jax.scipy.stats.norm.cdf(below)
    unseen = seen.expected & ~measured & (h.missing > 0)
    log_unseen = jnp.sum(jnp.where(unseen, jnp.log(missed + 1e-12), 0.0))
    log_seen = jnp.sum(measured) * jnp.log1p(-h.missing)
    apart = jnp.abs(jnp.sqrt(observed) - jnp.sqrt(m.mean))
    r1 = jnp.sum(jnp.where(measured, apart, 0.0)) / (
        jnp.sum(jnp.where(measured, jnp.sqrt(observed), 0.0)) + 1e-12
    )
    value = log_seen + log_unseen - 0.5 * (chi_squared + log_determinant)
    power = fit[3] if len(fit) > 3 else jnp.ones(())
    return value, r1, fit[1], power, fit[2], likeliest


def _widened(solved: jax.Array, narrow: jax.Array) -> jax.Array:
    """(2,) mean of two unknowns, their prior `narrow` times as wide as it should be.

    `solved` (n, 3): the lower triangular solutions of the data and of the unknowns' unit columns,
    in units of the prior. A gradient of the intensities, which would take half of a tilt, is
    left out: its columns are the last, and what stands before does not depend on them.
    """
    both = _product(solved[:, 1:], solved)
    mean, covariance = both[:, 0], both[:, 1:]
    # The prior's part of the precision that is too much.
    excess = jnp.clip(1 - narrow**2, 0.0, 1 - 1e-4)
    return jnp.linalg.solve(jnp.eye(2) - excess * covariance, mean)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """Sums (i, j) over k of a (k, i) and b (k, j)."""
    return jnp.einsum("ki,kj->ij", a, b, precision="highest")
