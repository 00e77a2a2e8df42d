"""The parameters of a refinement, what they predict, and their least squares."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

import diffraction as dx
from dd2d_jax.refinement.levenberg_marquardt import inverse, minimise, normal
from dd2d_jax.spots import Conditions

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


def _crystal(problem: Problem, priors: Priors, b_start: jax.Array, x: dict) -> tuple:
    """The crystal that parameters x describe, each atom's B (N,), and the cell's strain (2, 2)."""
    real = problem.numbers > 0
    size = jnp.where(problem.along_normal, priors.height, priors.displacement)
    moves = jnp.einsum("m,mnd->nd", x["atoms"] * size, problem.fields, precision="highest")
    strain = priors.strain * x["strain"][jnp.array([[0, 2], [2, 1]])]
    lattice = problem.lattice + jnp.matmul(problem.lattice, strain, precision="highest")
    plane = jnp.matmul(problem.fractional + moves[:, :2], lattice, precision="highest")
    middle = jnp.sum(jnp.where(real, problem.heights, 0)) / jnp.maximum(jnp.sum(real), 1)
    heights = (problem.heights - middle) * (1 + priors.thickness * x["thickness"]) + moves[:, 2]
    positions = jnp.concatenate([plane, jnp.where(real, heights + middle, 0)[:, None]], 1)
    b = b_start * (problem.kinds * jnp.exp(priors.log_b * x["log_b"])[:, None]).sum(0)
    return dx.Crystal(lattice, positions, problem.numbers), b, strain


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
) -> Callable[[jax.Array], tuple]:
    """A function of the flat parameters (p,).

    It gives residuals (m,) in units of their errors and their Jacobian (m, p), of the intensities
    and of the spots' places, and the intensities (P, T, 2) that the parameters predict.
    """
    _, unravel = ravel_pytree(start(problem))
    b_start = jnp.maximum(conditions.b_iso, 0.1)
    reach = conditions.q_max * 1.5

    def pattern(x, i, hk):
        crystal, b, _ = _crystal(problem, priors, b_start, x)
        angle = jnp.deg2rad(priors.rotation * x["rotation"][i])
        c, s = jnp.cos(angle), jnp.sin(angle)
        turn = jnp.stack([jnp.stack([c, s]), jnp.stack([-s, c])])
        plane = jnp.matmul(crystal.positions[:, :2], turn, precision="highest")
        crystal = dataclasses.replace(
            crystal,
            lattice=jnp.matmul(crystal.lattice, turn, precision="highest"),
            positions=jnp.concatenate([plane, crystal.positions[:, 2:]], 1),
        )
        tilt = _tilted(problem, priors, x)[i]
        return dx.simulate(crystal, conditions.radiation, reach, b, tilt, hk=hk)

    index = jnp.arange(problem.hk.shape[0])
    both = jnp.concatenate([problem.hk, -problem.hk], 1)
    used = problem.measured
    observed = jnp.sqrt(problem.intensity + _SOFT)

    def amplitudes(x):
        return jax.vmap(lambda i, hk: jnp.sqrt(pattern(x, i, hk).intensity))(index, both)

    # The start's scale, of amplitudes as those of strong spots are more alike.
    first = _pairs(amplitudes(start(problem)))
    measured = jnp.where(used, jnp.sqrt(problem.intensity), 0)
    scale = jnp.sum(first * measured, (1, 2)) / (
        jnp.sum(jnp.where(used, first**2, 0), (1, 2)) + 1e-12
    )

    def intensity(flat, i, hk):
        x = unravel(flat)
        value = pattern(x, i, hk[None]).intensity[0]
        value = scale[i] ** 2 * jnp.exp(x["log_scale"][i]) * value
        return value + priors.background * x["background"][i]

    def place(flat, i, hk, used):
        q = pattern(unravel(flat), i, jnp.stack([hk, -hk])).q
        weight = used.astype(q.dtype)
        # The pair's place, by the spots of it that were seen.
        return (weight[0] * q[0] - weight[1] * q[1]) / jnp.maximum(weight.sum(), 1)

    def over_spots(f, extra=0):
        axes = (None, None, *(0,) * (1 + extra))
        return jax.vmap(jax.vmap(f, axes), (None, *(0,) * (2 + extra)))

    def evaluate(flat):
        # One spot's gradient goes backwards: it costs as much as a few simulations.
        value, slope = over_spots(jax.value_and_grad(intensity))(flat, index, both)
        value, slope = _pairs(value), _pairs(slope)
        soft = jnp.sqrt(jnp.maximum(value + _SOFT, 1e-2 * _SOFT))
        r = jnp.where(used, 2 * observed / problem.sigma * (soft - observed), 0)
        slope = jnp.where(used, observed / problem.sigma / soft, 0)[..., None] * slope
        seen = used.any(-1, keepdims=True)
        where = over_spots(place, 1)(flat, index, problem.hk, used)
        turn = over_spots(jax.jacrev(place), 1)(flat, index, problem.hk, used)
        off = jnp.where(seen, where - problem.q, 0) / _PLACE
        turn = jnp.where(seen[..., None], turn, 0) / _PLACE
        size = flat.shape[0]
        kinds = [(r.ravel(), slope.reshape(-1, size)), (off.ravel(), turn.reshape(-1, size))]
        return kinds, value

    return evaluate


def _pairs(values: jax.Array) -> jax.Array:
    """(P, 2 T, ...) of rods and then their opposites as (P, T, 2, ...)."""
    count = values.shape[1] // 2
    return jnp.stack([values[:, :count], values[:, count:]], 2)


@jax.jit
def refine(
    problems: Problem, priors: Priors, conditions: Conditions, least: jax.Array
) -> dict[str, jax.Array]:
    """Fit a batch: crystals, intensities, uncertainties and what is left of the priors' (`_left`).

    Args:
        problems: batch axis in front.
        priors: the same for all.
        conditions: radiation, and B to begin with.
        least: the least factor that the squared errors of intensities are scaled by.
    """
    return jax.vmap(lambda problem: _refine_one(problem, priors, conditions, least))(problems)


def _refine_one(
    problem: Problem, priors: Priors, conditions: Conditions, least: jax.Array
) -> dict[str, jax.Array]:
    flat, unravel = ravel_pytree(start(problem))
    spots = jnp.sum(problem.measured)
    places = 2 * jnp.sum(problem.measured.any(-1))

    def rescaled(kinds, factors):
        """chi^2 for each degree of freedom, which says how far errors were misjudged."""
        covariance = inverse(normal(kinds, factors)[0])
        out = []
        for (r, jacobian), factor, count in zip(kinds, factors, (spots, places), strict=True):
            # What the fit takes from the data, in parameters.
            taken = jnp.sum(jnp.matmul(jacobian, covariance) * jacobian) / factor
            free = jnp.maximum(count - taken, 0) + _PRIOR_SPOTS
            out.append((jnp.sum(r**2) + _PRIOR_SPOTS) / free)
        return jnp.stack([jnp.maximum(out[0], least), jnp.maximum(out[1], LEAST)])

    flat, factors, (kinds, intensity) = minimise(
        residuals(problem, priors, conditions),
        flat,
        jnp.array([_COARSE**2, 1.0]),
        rescaled,
        steps=_ROUNDS * _STEPS,
        every=_STEPS,
    )
    covariance = inverse(normal(kinds, factors)[0])
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
        "goodness": factors[0],
    }
