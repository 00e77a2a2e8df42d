"""The parameters of a refinement, what they predict, and their least squares."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

import diffraction as dx
from dd2d_jax.refinement.levenberg_marquardt import (
    Variances,
    cost,
    inverse,
    inverse_and_log_determinant,
    minimise,
    normal,
    square_root,
)
from dd2d_jax.spots import Conditions
from diffraction.crystal import reciprocal
from diffraction.form_factors import form_factor
from diffraction.kinematic import ewald_qz, tilt_matrix, xray_factor

# Error of a spot's place, 1/angstrom.
_PLACE = 0.003
# Residuals are differences of sqrt(I + this), weighted as those of I: a far start pulls less.
_SOFT = 1e-3
# Errors that are estimates are scaled by chi^2, which begins with this many spots' worth of 1.
_PRIOR_SPOTS = 4
# The first round takes all errors for so many times larger: it sees no narrow minima.
_COARSE = 4.0
# No pattern is better than this share of the errors assumed, squared.
LEAST = 0.04
_ROUNDS, _STEPS = 3, 8
# What share of the squared difference that multiple scattering makes may be in the errors.
_SHARES = (1.0, 0.5, 0.25, 0.1, 0.0)
# Of the starts, so many are followed to the end.
_KEPT = 3
# Pairs of points that J^T J is averaged over, and how often.
_DRAWS, _AVERAGED = 2, 3
# Minima closer than this, squared and in standard deviations, are one; those with a smaller weight
# than that do not count.
_SAME, _COUNTS = 4.0, 0.01


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Priors:
    """How far the truth may be from the start: standard deviations; 0 holds a parameter.

    Attributes:
        displacement: of each free coordinate of an atom in the plane, angstrom.
        height: of each atom's height, angstrom.
        strain: of each component of the cell's strain; its start is the measured cell.
        thickness: of a common factor of all heights, less 1.
        log_b: of the logarithm of B.
        tilt: of each tilt angle from the given one, degrees.
        rotation: of the pattern in its plane, degrees.
        background: constant under the intensities, relative to the strongest spot.
    """

    displacement: float = 0.1
    height: float = 0.1
    strain: float = 0.02
    thickness: float = 0.03
    log_b: float = 1.0
    tilt: float = 1.0
    rotation: float = 2.0
    background: float = 1e-3


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Problem:
    """A candidate and its patterns; fields as fractional coordinates and heights in angstrom."""

    numbers: jax.Array  # (N,)
    fractional: jax.Array  # (N, 2)
    heights: jax.Array  # (N,)
    lattice: jax.Array  # (2, 2)
    fields: jax.Array  # (m, N, 3)
    along_normal: jax.Array  # (m,)
    kinds: jax.Array  # (E, N), 1 for the atoms that a B belongs to
    hk: jax.Array  # (P, T, 2)
    q: jax.Array  # (P, T, 2)
    intensity: jax.Array  # (P, T, 2)
    sigma: jax.Array  # (P, T, 2)
    measured: jax.Array  # (P, T, 2)
    tilts: jax.Array  # (P, 2)
    added: jax.Array  # (P, T, 2) angstrom^2, of multiple scattering on top of |F|^2
    neglected: jax.Array  # (P, T, 2) angstrom^2, the same where it is not added


def _crystal(problem: Problem, priors: Priors, b_start: jax.Array, x: dict) -> tuple:
    """The crystal that parameters x describe, each atom's B (N,), and the cell's strain (2, 2)."""
    real = problem.numbers > 0
    size = jnp.where(problem.along_normal, priors.height, priors.displacement)
    moves = jnp.einsum("m,mnd->nd", x["atoms"] * size, problem.fields, precision="highest")
    lattice, strain = _strained(problem, priors, x["strain"])
    plane = jnp.matmul(problem.fractional + moves[:, :2], lattice, precision="highest")
    middle = jnp.sum(jnp.where(real, problem.heights, 0)) / jnp.maximum(jnp.sum(real), 1)
    heights = (problem.heights - middle) * (1 + priors.thickness * x["thickness"]) + moves[:, 2]
    positions = jnp.concatenate([plane, jnp.where(real, heights + middle, 0)[:, None]], 1)
    b = b_start * (problem.kinds * jnp.exp(priors.log_b * x["log_b"])[:, None]).sum(0)
    return dx.Crystal(lattice, positions, problem.numbers), b, strain


def _strained(problem: Problem, priors: Priors, three: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The lattice and its strain, of the strain's three parameters."""
    strain = priors.strain * three[jnp.array([[0, 2], [2, 1]])]
    return problem.lattice + jnp.matmul(problem.lattice, strain, precision="highest"), strain


def _tilted(problem: Problem, priors: Priors, x: dict) -> jax.Array:
    return problem.tilts + priors.tilt * x["tilt"]


def start(problem: Problem) -> dict[str, jax.Array]:
    """Parameters in units of their priors' standard deviations, all zero."""
    patterns = problem.hk.shape[0]
    shapes = {
        "atoms": problem.fields.shape[:1], "strain": (3,), "thickness": (),
        "log_b": problem.kinds.shape[:1], "tilt": (patterns, 2), "rotation": (patterns,),
        "log_scale": (patterns,), "background": (patterns,),
    }  # fmt: skip
    return {name: jnp.zeros(shape, problem.q.dtype) for name, shape in shapes.items()}


def residuals(
    problem: Problem, priors: Priors, conditions: Conditions
) -> tuple[Callable[[jax.Array], tuple], jax.Array]:
    """A function of the flat parameters (p,), and what multiple scattering may add to variances.

    The function gives residuals (m,) in units of their errors and their Jacobian (m, p), of the
    intensities and of the spots' places, and the intensities (P, T, 2) that the parameters
    predict. The variances (m,), of the intensities' residuals, are in the same units, squared.
    """
    zero = start(problem)
    flat_zero, unravel = ravel_pytree(zero)
    names = jax.tree.map(lambda x: x.astype(int), unravel(jnp.arange(1.0 * flat_zero.size)))
    b_start = jnp.maximum(conditions.b_iso, 0.1)
    used = problem.measured
    observed = jnp.sqrt(problem.intensity + _SOFT)
    pick = functools.partial(jax.nn.one_hot, num_classes=flat_zero.size, dtype=flat_zero.dtype)

    def moving(flat):
        crystal, b, _ = _crystal(problem, priors, b_start, unravel(flat))
        return crystal.positions, b

    def spots(flat):
        """Intensities (P, T, 2), their slopes (..., p), places (P, T, 2, 2) and theirs."""
        (positions, b), (turn, warm) = moving(flat), jax.jacfwd(moving)(flat)
        x = unravel(flat)

        def pattern(i):
            def place(own):
                return _places(problem, priors, conditions, own, i)

            own = jnp.concatenate([x["strain"], x["tilt"][i], x["rotation"][i][None]])
            (q, across, factor), moves = place(own), jax.jacfwd(place)(own)
            of_own = jnp.stack([
                pick(index) for index in
                (*names["strain"], *names["tilt"][i], names["rotation"][i])
            ])  # fmt: skip
            answer = respond(problem.numbers, positions, b, q, conditions.radiation)
            slope = _product("knd,ndp->kp", answer.by_position, turn)
            slope += _product("kn,np->kp", answer.by_b, warm)
            by_own = _product("kd,kdg->kg", answer.by_q, moves[0])
            slope += _product("kg,gp->kp", by_own, of_own)
            slope = factor[:, None] * slope + answer.intensity[:, None] * _product(
                "kg,gp->kp", moves[2], of_own
            )
            return (
                factor * answer.intensity,
                slope,
                across,
                _product("kdg,gp->kdp", moves[1], of_own),
            )

        return jax.tree.map(_pairs, jax.vmap(pattern)(jnp.arange(problem.hk.shape[0])))

    # The start's scale, of amplitudes as those of strong spots are more alike.
    first = jnp.sqrt(jnp.maximum(spots(flat_zero)[0] + problem.added, 0))
    measured = jnp.where(used, jnp.sqrt(problem.intensity), 0)
    scale = jnp.sum(first * measured, (1, 2)) / (
        jnp.sum(jnp.where(used, first**2, 0), (1, 2)) + 1e-12
    )

    def evaluate(flat):
        x = unravel(flat)
        value, slope, across, turns = spots(flat)
        gain = (scale**2 * jnp.exp(x["log_scale"]))[:, None, None]
        value, slope = gain * (value + problem.added), gain[..., None] * slope
        slope += value[..., None] * pick(names["log_scale"])[:, None, None]
        slope += priors.background * pick(names["background"])[:, None, None]
        value += priors.background * x["background"][:, None, None]
        soft = jnp.sqrt(jnp.maximum(value + _SOFT, 1e-2 * _SOFT))
        r = jnp.where(used, 2 * observed / problem.sigma * (soft - observed), 0)
        slope = jnp.where(used, observed / problem.sigma / soft, 0)[..., None] * slope
        # The pair's place, by the spots of it that were seen.
        weight = used / jnp.maximum(used.sum(-1, keepdims=True), 1)
        weight = weight * jnp.array([1.0, -1.0], weight.dtype)
        seen = used.any(-1)[..., None]
        off = jnp.where(seen, _product("pts,ptsd->ptd", weight, across) - problem.q, 0) / _PLACE
        turn = jnp.where(seen[..., None], _product("pts,ptsdk->ptdk", weight, turns), 0) / _PLACE
        size = flat.shape[0]
        kinds = [(r.ravel(), slope.reshape(-1, size)), (off.ravel(), turn.reshape(-1, size))]
        return kinds, value

    neglected = scale[:, None, None] ** 2 * problem.neglected / problem.sigma
    return evaluate, jnp.where(used, neglected**2, 0).ravel()


def _places(
    problem: Problem, priors: Priors, conditions: Conditions, own: jax.Array, i: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Where the spots of pattern i are, of K = 2 T rods and their opposites.

    Args:
        own: (6,) parameters of strain, tilt and rotation.

    Returns:
        Scattering vectors in the crystal's frame (K, 3), places across the beam (K, 2), both in
        1/angstrom, and the factor (K,) that intensities are |F|^2 times.
    """
    radiation = conditions.radiation
    lattice = _strained(problem, priors, own[:3])[0]
    hk = jnp.concatenate([problem.hk[i], -problem.hk[i]]).astype(lattice.dtype)
    flat = jnp.matmul(hk, reciprocal(lattice), precision="highest")
    angle = jnp.deg2rad(priors.rotation * own[5])
    c, s = jnp.cos(angle), jnp.sin(angle)
    turn = jnp.stack([jnp.stack([c, s]), jnp.stack([-s, c])])
    turned = jnp.matmul(flat, turn, precision="highest")
    tilt = problem.tilts[i] + priors.tilt * own[3:5]
    height = ewald_qz(turned, radiation.wavelength, tilt)
    reached = jnp.isfinite(height)
    height = jnp.where(reached, height, 0.0)[:, None]
    lab = jnp.concatenate([turned, height], 1)
    across = jnp.matmul(lab, tilt_matrix(tilt, lab.dtype)[:2].T, precision="highest")
    factor = reached.astype(flat.dtype)
    if not isinstance(radiation, dx.Electrons):
        there = reached & (hk != 0).any(-1)
        squared = jnp.sum(lab * lab, -1)
        factor *= xray_factor(radiation, across[:, 0], across[:, 1], squared, there)
    return jnp.concatenate([flat, height], 1), across, factor


class Response(NamedTuple):
    """|F|^2 of K spots and its derivatives.

    Attributes:
        intensity: (K,).
        by_position: (K, N, 3) 1/angstrom.
        by_b: (K, N) 1/angstrom^2.
        by_q: (K, 3) angstrom.
    """

    intensity: jax.Array
    by_position: jax.Array
    by_b: jax.Array
    by_q: jax.Array


def respond(
    numbers: jax.Array, positions: jax.Array, b: jax.Array, q: jax.Array, radiation: dx.Electrons
) -> Response:
    """|F|^2 of atoms (N,) at scattering vectors q (K, 3), and how it answers to all of them.

    With F = sum_j g_j exp(2 pi i q r_j) and g_j = f_j exp(-B_j q^2 / 4), d|F|^2 / dp is
    2 Re(F* dF / dp).
    """
    squared = jnp.sum(q * q, -1)[:, None]

    def table(x):
        return form_factor(radiation, numbers, x)

    f, slope = jax.jvp(table, (squared,), (jnp.ones_like(squared),))
    present = numbers > 0
    damping = jnp.where(present, jnp.exp(-b * squared / 4), 0.0)
    g, slope = f * damping, (slope - f * b / 4) * damping
    turns = jnp.einsum("kd,nd->kn", q, positions, precision="highest")
    angle = 2 * jnp.pi * (turns - jnp.round(turns))
    c, s = jnp.cos(angle), jnp.sin(angle)
    real, imaginary = jnp.sum(g * c, -1, keepdims=True), jnp.sum(g * s, -1, keepdims=True)
    along = 2 * (real * c + imaginary * s)  # 2 Re(F* exp(2 pi i q r))
    across = 4 * jnp.pi * g * (imaginary * c - real * s)
    by_q = _product("kn,nd->kd", across, positions)
    by_q += 2 * q * jnp.sum(along * slope, -1, keepdims=True)
    return Response(
        (real**2 + imaginary**2)[:, 0],
        across[..., None] * q[:, None],
        -along * g * squared / 4,
        by_q,
    )


def _product(form: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(form, a, b, precision="highest")


def _pairs(values: jax.Array) -> jax.Array:
    """(P, 2 T, ...) of rods and then their opposites as (P, T, 2, ...)."""
    count = values.shape[1] // 2
    return jnp.stack([values[:, :count], values[:, count:]], 2)


def refine(
    problems: Problem, priors: Priors, conditions: Conditions, least: jax.Array, starts: int
) -> dict[str, jax.Array]:
    """Fit a batch: crystals, intensities, uncertainties and what is left of the priors' (`_left`).

    Args:
        problems: batch axis in front.
        priors: the same for all.
        conditions: radiation, and B to begin with.
        least: the least factor that the squared errors of intensities are scaled by.
        starts: number of them; the first is the problem's own, the others have displaced atoms.
    """
    options = (priors, conditions, least)
    groups = -(-starts // _KEPT)
    firsts = jax.vmap(lambda problem: _starts(problem, groups * _KEPT))(problems)
    found = []
    for group in range(groups):
        x = firsts[:, group * _KEPT : (group + 1) * _KEPT]
        # Each group has the same shape: one compilation.
        found.append(_advance(problems, *options, x, *_coarse_variances(problems, x)))
    x, variances, value = jax.tree.map(lambda *x: jnp.concatenate(x, 1), *found)
    order = jnp.argsort(value, 1)[:, :_KEPT]
    x, *variances = jax.tree.map(
        lambda v: jnp.take_along_axis(v, order[..., None], 1), (x, *variances)
    )
    if groups > 1:
        # Moved the other way: where a layer nearly has an inversion centre, that fits as well.
        other = jax.vmap(lambda problem, one: _reflected(problem, one))(problems, x[:, 0])
        x = x.at[:, -1].set(other)
    for _ in range(_ROUNDS - 1):
        x, variances, _ = _advance(problems, *options, x, *variances)
    return _summary(problems, *options, x, *variances)


@jax.jit
def _advance(
    problems: Problem,
    priors: Priors,
    conditions: Conditions,
    least: jax.Array,
    x: jax.Array,
    *variances: jax.Array,
) -> tuple[jax.Array, Variances, jax.Array]:
    """`_STEPS` steps from each of k places x (n, k, p): places, variances, values (n, k)."""

    def one(problem, x, *variances):
        evaluate, dynamical = residuals(problem, priors, conditions)
        rescale = functools.partial(_rescaled, problem, dynamical, least)

        def run(x, *variances):
            return minimise(evaluate, x, variances, rescale, _STEPS, _STEPS)

        x, variances, (kinds, _) = jax.vmap(run)(x, *variances)
        # By the errors as the best of them has them.
        alike = _smallest(variances)
        return x, variances, jax.vmap(lambda x, kinds: cost(x, kinds, alike))(x, kinds)

    return jax.vmap(one)(problems, x, *variances)


def _coarse_variances(problems: Problem, x: jax.Array) -> Variances:
    """All errors for many times larger than they are said to be (n, k, m) of each kind."""
    size = problems.measured[0].size
    shape = (*x.shape[:2], size)
    return jnp.full(shape, _COARSE**2, x.dtype), jnp.ones(shape, x.dtype)


def _rescaled(
    problem: Problem, dynamical: jax.Array, least: jax.Array, kinds: list, variances: Variances
) -> Variances:
    """How far errors were misjudged, by chi^2, and by multiple scattering."""
    covariance = inverse(normal(kinds, variances)[0])
    # What the fit takes from the data, in parameters.
    taken = [
        jnp.sum(jnp.matmul(jacobian, covariance) * jacobian, -1) / v
        for (_, jacobian), v in zip(kinds, variances, strict=True)
    ]
    places = 2.0 * jnp.sum(problem.measured.any(-1))
    free = jnp.maximum(places - jnp.sum(taken[1]), 0) + _PRIOR_SPOTS
    place = jnp.maximum((jnp.sum(kinds[1][0] ** 2) + _PRIOR_SPOTS) / free, LEAST)
    measured = problem.measured.ravel()
    known, share = components(kinds[0][0], taken[0], dynamical, measured, least)
    return known + share * dynamical, jnp.full_like(variances[1], place)


@jax.jit
def _summary(
    problems: Problem,
    priors: Priors,
    conditions: Conditions,
    least: jax.Array,
    x: jax.Array,
    *variances: jax.Array,
) -> dict[str, jax.Array]:
    """What the minima x (n, k, p) say."""
    return jax.vmap(
        lambda problem, x, *v: _summary_of_one(problem, priors, conditions, x, v)
    )(problems, x, *variances)


def _summary_of_one(
    problem: Problem, priors: Priors, conditions: Conditions, minima: jax.Array, v: Variances
) -> dict[str, jax.Array]:
    zero, unravel = ravel_pytree(start(problem))
    evaluate, _ = residuals(problem, priors, conditions)
    best, variances, covariance, alike, intensity = _weighed(evaluate, minima, v)
    flat = minima[best]
    # As it was stated or assumed, of which the rest is a multiple.
    spots = jnp.maximum(jnp.sum(problem.measured), 1)
    goodness = jnp.sum(jnp.where(problem.measured.ravel(), variances[0], 0)) / spots

    left = unravel(jnp.sqrt(jnp.diagonal(covariance)))  # in units of the priors'
    x = unravel(flat)
    b_start = jnp.maximum(conditions.b_iso, 0.1)
    crystal, b, strain = _crystal(problem, priors, b_start, x)

    def moved(flat):
        parts = unravel(flat)
        parts["strain"] = jax.lax.stop_gradient(parts["strain"])
        return _crystal(problem, priors, b_start, parts)[0].positions

    turn = jax.jacfwd(moved)(flat)
    return {
        "covariance": covariance,
        "turn": turn,
        "kinds": problem.kinds,
        **{f"index_{name}": x for name, x in unravel(jnp.arange(1.0 * flat.size)).items()},
        "minima": alike,
        "lattice": crystal.lattice,
        "positions": crystal.positions,
        "intensity": intensity,
        "b_atoms": b,
        "b_sigma": b * priors.log_b * (problem.kinds * left["log_b"][:, None]).sum(0),
        "b_left": (problem.kinds * left["log_b"][:, None]).sum(0) * (priors.log_b > 0),
        "position_sigma": jnp.sqrt(jnp.einsum("ndp,pq,ndq->nd", turn, covariance, turn)),
        "position_prior": jnp.sqrt(jnp.sum(turn**2, -1)),
        "strain": strain,
        "strain_sigma": priors.strain * left["strain"][jnp.array([[0, 2], [2, 1]])],
        "strain_left": left["strain"] * (priors.strain > 0),
        "tilt": _tilted(problem, priors, x),
        "tilt_sigma": priors.tilt * left["tilt"],
        "tilt_left": left["tilt"] * (priors.tilt > 0),
        "goodness": goodness,
    }


def _reflected(problem: Problem, flat: jax.Array) -> jax.Array:
    _, unravel = ravel_pytree(start(problem))
    parts = unravel(flat)
    return ravel_pytree(parts | {"atoms": -parts["atoms"]})[0]


def _starts(problem: Problem, count: int) -> jax.Array:
    """Parameters (count, p): none moved, and atoms displaced as their priors have it."""
    zero = start(problem)
    keys = jax.random.split(jax.random.key(0), count)

    def displaced(key, size):
        return ravel_pytree(zero | {"atoms": size * jax.random.normal(key, zero["atoms"].shape)})[0]

    return jax.vmap(displaced)(keys, (jnp.arange(count) > 0).astype(problem.q.dtype))


def _smallest(variances: Variances) -> Variances:
    """Of k minima's variances (k, m) those of the least sum."""
    best = jnp.argmin(jnp.sum(jnp.log(variances[0]), -1))
    return jax.tree.map(lambda v: v[best], variances)


def components(
    r: jax.Array, taken: jax.Array, dynamical: jax.Array, measured: jax.Array, least: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """What the residuals' variances are made of: `known` + `share` * `dynamical`.

    The most likely of a few shares, each with the most likely `known` (by its own iteration, in
    which the fit's own freedom counts, as in restricted maximum likelihood).

    Args:
        r: (m,) residuals in units of their stated errors.
        taken: (m,) what the fit takes of each, from 0 to 1.
        dynamical: (m,) variance that neglected multiple scattering may add.
        measured: (m,) False for padding.
        least: of `known`.
    """
    weight = measured.astype(r.dtype)
    count = jnp.sum(weight)

    def given(share):
        def step(known, _):
            v = known + share * dynamical
            part = weight * known / v
            square = jnp.sum(part * r**2 / v) + _PRIOR_SPOTS / known
            new = known * square / (jnp.sum(part * (1 - taken)) + _PRIOR_SPOTS)
            return jnp.maximum(new, least), None

        begin = jnp.maximum(jnp.sum(weight * r**2) / jnp.maximum(count, 1), least)
        known, _ = jax.lax.scan(step, begin, length=20)
        v = known + share * dynamical
        free = jnp.maximum(1 - taken, 0.05)
        value = -0.5 * jnp.sum(weight * (free * jnp.log(v) + r**2 / v))
        value -= 0.5 * _PRIOR_SPOTS * (jnp.log(known) + 1 / known)
        return value, known

    shares = jnp.array(_SHARES, r.dtype)
    values, known = jax.vmap(given)(shares)
    best = jnp.argmax(values)
    return known[best], shares[best]


def _weighed(
    evaluate: Callable[[jax.Array], tuple], x: jax.Array, variances: Variances
) -> tuple[jax.Array, Variances, jax.Array, jax.Array, jax.Array]:
    """The best of k minima, its variances, the parameters' covariance, how many minima count, and
    the best one's intensities.

    Each minimum is a normal distribution of the weight that its chi^2 and width give it (Laplace's
    method). Its inverse covariance is the mean over the distribution itself, as in variational
    inference (Opper and Archambeau, Neural Comput. 21, 786 (2009)), of J^T J: where a layer nearly
    has a centre, intensities answer to displacements in the second order only. The covariance is
    that of all minima, about the best one.

    Args:
        evaluate: from `residuals`.
        x: (k, p).
        variances: (k, m) of each kind.
    """
    variances = _smallest(variances)
    count, size = x.shape
    # Points at one standard deviation, along directions drawn once and their opposites.
    draws = jax.random.normal(jax.random.key(1), (_DRAWS, size), x.dtype)
    draws = jnp.concatenate([jnp.zeros((1, size), x.dtype), draws, -draws])

    def step(carry, _):
        roots, _, _, _ = carry
        points = x[:, None] + jnp.einsum("spq,dq->sdp", roots, draws, precision="highest")

        def at(point):
            kinds, intensity = evaluate(point)
            return cost(point, kinds, variances), normal(kinds, variances)[0], intensity

        values, matrices, intensities = jax.vmap(lambda p: jax.lax.map(at, p))(points)
        mean = jnp.mean(matrices, 1)
        covariances, logs = jax.vmap(inverse_and_log_determinant)(mean)
        new = jax.vmap(square_root)(covariances)
        return (new, covariances, logs, (values[:, 0], intensities[:, 0])), mean

    empty = jnp.zeros((count, size, size), x.dtype)
    shape = jax.eval_shape(evaluate, x[0])[1]
    nothing = (jnp.zeros(count, x.dtype), jnp.zeros((count, *shape.shape), shape.dtype))
    carry = (empty, empty, jnp.zeros(count, x.dtype), nothing)
    carry, means = jax.lax.scan(step, carry, length=_AVERAGED)
    _, covariances, logs, (value, intensities) = carry
    best = jnp.argmin(value)
    # What another start came to as well counts once.
    apart = x[:, None] - x[None]
    squared = jnp.einsum("stp,spq,stq->st", apart, means[-1], apart, precision="highest")
    order = jnp.arange(count)
    ahead = (value[:, None] < value) | ((value[:, None] == value) & (order[:, None] < order))
    again = jnp.any(ahead & (squared < _SAME), 0)
    weight = jax.nn.softmax(jnp.where(again, -jnp.inf, -(logs + value) / 2))
    off = x - x[best]
    spread = jnp.einsum("s,sp,sq->pq", weight, off, off, precision="highest")
    covariance = jnp.einsum("s,spq->pq", weight, covariances, precision="highest") + spread
    return best, variances, covariance, jnp.sum(weight > _COUNTS), intensities[best]
