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
from dd2d_jax.spots import Conditions
from diffraction.crystal import reciprocal
from diffraction.form_factors import form_factor
from diffraction.kinematic import ewald_qz, tilt_matrix, xray_factor

# Error of a spot's place, 1/angstrom.
_PLACE = 0.003
# Residuals are differences of sqrt(I + this), weighted as those of I: a far start pulls less.
_SOFT = 1e-3


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
    bonded: jax.Array  # (P, T, 2), |F|^2 with bonds over that of free atoms
    added: jax.Array  # (P, T, 2) angstrom^2, of multiple scattering on top of that
    neglected: jax.Array  # (P, T, 2) angstrom^2, the same where it is not added


def crystal_of(problem: Problem, priors: Priors, b_start: jax.Array, x: dict) -> tuple:
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


def tilted(problem: Problem, priors: Priors, x: dict) -> jax.Array:
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


def _indices(problem: Problem) -> dict[str, jax.Array]:
    """Where each parameter stands in the flat ones."""
    zero, unravel = ravel_pytree(start(problem))
    return jax.tree.map(lambda x: x.astype(int), unravel(jnp.arange(1.0 * zero.size)))


def predict(
    problem: Problem, priors: Priors, conditions: Conditions
) -> Callable[[jax.Array], tuple[jax.Array, ...]]:
    """A function of the flat parameters (p,), by one analytic pass.

    It gives |F|^2 (P, T, 2) times what X-rays have besides, its slopes (P, T, 2, p), the places
    across the beam (P, T, 2, 2) in 1/angstrom and their slopes (P, T, 2, 2, p).
    """
    zero, unravel = ravel_pytree(start(problem))
    names = _indices(problem)
    b_start = jnp.maximum(conditions.b_iso, 0.1)
    pick = functools.partial(jax.nn.one_hot, num_classes=zero.size, dtype=zero.dtype)

    def moving(flat):
        crystal, b, _ = crystal_of(problem, priors, b_start, unravel(flat))
        return crystal.positions, b

    def spots(flat):
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

    return jax.jit(spots)


def residuals(
    problem: Problem, priors: Priors, conditions: Conditions
) -> tuple[Callable[[jax.Array], tuple], jax.Array]:
    """A function of the flat parameters (p,), and what multiple scattering may add to variances.

    The function gives residuals (m,) in units of their errors and their Jacobian (m, p), of the
    intensities and of the spots' places, and the intensities (P, T, 2) that the parameters
    predict. The variances (m,), of the intensities' residuals, are in the same units, squared.
    """
    zero, unravel = ravel_pytree(start(problem))
    names, spots = _indices(problem), predict(problem, priors, conditions)
    pick = functools.partial(jax.nn.one_hot, num_classes=zero.size, dtype=zero.dtype)
    used = problem.measured
    observed = jnp.sqrt(problem.intensity + _SOFT)
    # The start's scale, of amplitudes as those of strong spots are more alike.
    first = jnp.sqrt(jnp.maximum(problem.bonded * spots(zero)[0] + problem.added, 0))
    measured = jnp.where(used, jnp.sqrt(problem.intensity), 0)
    scale = jnp.sum(first * measured, (1, 2)) / (
        jnp.sum(jnp.where(used, first**2, 0), (1, 2)) + 1e-12
    )

    def evaluate(flat):
        x = unravel(flat)
        value, slope, across, turns = spots(flat)
        gain = (scale**2 * jnp.exp(x["log_scale"]))[:, None, None]
        value = gain * (problem.bonded * value + problem.added)
        slope = (gain * problem.bonded)[..., None] * slope
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
    numbers: jax.Array,
    positions: jax.Array,
    b: jax.Array,
    q: jax.Array,
    radiation: dx.Electrons,
    occupancy: jax.Array | None = None,
) -> Response:
    """|F|^2 of atoms (N,) at scattering vectors q (K, 3), and how it answers to all of them.

    With F = sum_j g_j exp(2 pi i q r_j) and g_j = o_j f_j exp(-B_j q^2 / 4), d|F|^2 / dp is
    2 Re(F* dF / dp). The occupancies o_j (N,) are 1 where none are given.
    """
    squared = jnp.sum(q * q, -1)[:, None]

    def table(x):
        return form_factor(radiation, numbers, x)

    f, slope = jax.jvp(table, (squared,), (jnp.ones_like(squared),))
    present = numbers > 0
    damping = jnp.where(present, jnp.exp(-b * squared / 4), 0.0)
    if occupancy is not None:
        damping = damping * jnp.where(present, occupancy, 0.0)
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
