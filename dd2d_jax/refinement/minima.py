"""The search for minima of a refinement's least squares, and what they say of its parameters."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from dd2d_jax.refinement.fit_model import (
    Priors,
    Problem,
    crystal_of,
    residuals,
    start,
    tilted,
)
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

# Errors that are estimates are scaled by chi^2, which begins with this many spots' worth of 1.
_PRIOR_SPOTS = 4
# The first start's first round takes all errors for so many times larger: it sees no narrow
# minima.
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
    firsts = _starts(problems, groups * _KEPT)
    found = []
    for group in range(groups):
        x = firsts[:, group * _KEPT : (group + 1) * _KEPT]
        # Each group has the same shape: one compilation.
        found.append(_advance(problems, *options, x, *_first_variances(problems, x, group)))
    x, variances = _best(problems, found)
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

    def run(problem, x, *variances):
        evaluate, dynamical = residuals(problem, priors, conditions)
        rescale = functools.partial(_rescaled, problem, dynamical, least)
        x, variances, (kinds, _) = minimise(evaluate, x, variances, rescale, _STEPS, _STEPS)
        return x, variances, [r for r, _ in kinds]

    # One axis of problems and places: tracing costs most, and each axis is traced again.
    n, k = x.shape[:2]
    each = jax.tree.map(lambda v: jnp.repeat(v, k, 0), problems)
    flat = jax.tree.map(lambda v: v.reshape(n * k, *v.shape[2:]), (x, *variances))
    found = jax.vmap(run)(each, *flat)
    x, variances, parts = jax.tree.map(lambda v: v.reshape(n, k, *v.shape[1:]), found)
    # By the errors as the best of them has them.
    alike = jax.vmap(_smallest)(variances)
    squares = [jnp.sum(r**2 / v[:, None], -1) for r, v in zip(parts, alike, strict=True)]
    return x, variances, sum(squares) + jnp.sum(x**2, -1)


@jax.jit
def _first_variances(problems: Problem, x: jax.Array, group: int) -> Variances:
    """(n, k, m) of each kind to begin with.

    The first start takes all errors for many times larger than they are said to be. The others
    do not: coarsely seen, most of them would come to the same minimum.
    """
    shape = (*x.shape[:2], problems.measured[0].size)
    first = (jnp.arange(shape[1]) + group == 0)[:, None]
    coarse = jnp.where(first, _COARSE**2, 1.0).astype(x.dtype)
    return jnp.broadcast_to(coarse, shape), jnp.ones(shape, x.dtype)


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
    crystal, b, strain = crystal_of(problem, priors, b_start, x)

    def moved(flat):
        parts = unravel(flat)
        parts["strain"] = jax.lax.stop_gradient(parts["strain"])
        return crystal_of(problem, priors, b_start, parts)[0].positions

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
        "tilt": tilted(problem, priors, x),
        "tilt_sigma": priors.tilt * left["tilt"],
        "tilt_left": left["tilt"] * (priors.tilt > 0),
        "goodness": goodness,
    }


@jax.jit
def _best(
    problems: Problem, found: list[tuple[jax.Array, Variances, jax.Array]]
) -> tuple[jax.Array, Variances]:
    """The `_KEPT` best of all groups' places, and their variances."""
    x, variances, value = jax.tree.map(lambda *x: jnp.concatenate(x, 1), *found)
    order = jnp.argsort(value, 1)[:, :_KEPT]
    x, *variances = jax.tree.map(
        lambda v: jnp.take_along_axis(v, order[..., None], 1), (x, *variances)
    )
    if len(found) > 1:
        # Moved the other way: where a layer nearly has an inversion centre, that fits as well.
        x = x.at[:, -1].set(jax.vmap(_reflected)(problems, x[:, 0]))
    return x, variances


def _reflected(problem: Problem, flat: jax.Array) -> jax.Array:
    _, unravel = ravel_pytree(start(problem))
    parts = unravel(flat)
    return ravel_pytree(parts | {"atoms": -parts["atoms"]})[0]


@functools.partial(jax.jit, static_argnums=1)
def _starts(problems: Problem, count: int) -> jax.Array:
    """Parameters (n, count, p): none moved, and atoms displaced as their priors have it."""

    def of(problem):
        zero = start(problem)
        keys = jax.random.split(jax.random.key(0), count)

        def displaced(key, size):
            moved = size * jax.random.normal(key, zero["atoms"].shape)
            return ravel_pytree(zero | {"atoms": moved})[0]

        return jax.vmap(displaced)(keys, (jnp.arange(count) > 0).astype(problem.q.dtype))

    return jax.vmap(of)(problems)


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
