"""What patterns cost against atoms, rods and batch, and how near that is to the ceiling."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import diffraction as dx
from benchmarks.simulator_timing import BEAM, Q_MAX, repeat, seconds


def hypothetical(count: int, atoms: int, area: float = 30.0) -> dx.Crystal:
    """Oblique crystals of one size: 4 elements, cells of `area` A^2."""
    rng = np.random.default_rng(1)
    lattice = np.array([[1.0, 0.1], [-0.2, 1.0]]) * np.sqrt(area / 1.02)
    lattice = np.broadcast_to(lattice, (count, 2, 2))
    plane = rng.random((count, atoms, 2)) @ lattice
    positions = np.concatenate([plane, 4 * rng.random((count, atoms, 1))], -1)
    return dx.Crystal(
        jnp.asarray(lattice, jnp.float32),
        jnp.asarray(positions, jnp.float32),
        jnp.asarray(rng.choice([6, 16, 42, 74], (count, atoms))),
    )


def cost(count: int, atoms: int, q_max: float) -> dict[str, float]:
    """Patterns a second of `dx.simulate_library` on crystals of one size."""
    crystals = hypothetical(count, atoms)
    _, others = repeat(lambda x: list(dx.simulate_library(x, BEAM, q_max)), crystals)
    speed = count / float(np.median(others))
    rods = int((dx.reflections(np.asarray(crystals.lattice[0]), q_max) != 0).any(-1).sum())
    each = operations(rods, atoms, 4)
    return {
        "batch": count,
        "atoms": atoms,
        "rods": rods,
        "q_max": q_max,
        "patterns_per_s": speed,
    } | {name: number * speed for name, number in each.items()}


def operations(rods: float, atoms: float, species: float) -> dict[str, float]:
    """What the direct sum of one pattern cannot do without.

    One sine and cosine for each rod and atom; a form factor (5 terms of 8) and a Debye-Waller
    exponential for each pair of rods (q and -q) and element; 12 for each rod and atom: the
    phase, and the sum; 21 bytes written for each rod: q, intensity, indices, mask.
    """
    return {
        "sincos": rods * atoms,
        "exp": rods / 2 * species,
        "flop": rods / 2 * species * 40 + rods * atoms * 12,
        "bytes": rods * 21,
    }


def share(rate: dict[str, float], ceiling: dict[str, float]) -> float:
    """Percent of a second that what was done in it would take at the machine's ceiling."""
    busy = (
        rate["sincos"] / ceiling["sincos_gop"]
        + rate["exp"] / ceiling["exp_gop"]
        + rate["flop"] / ceiling["matmul_gflop"]
    )
    return 100 * max(busy, rate["bytes"] / ceiling["memory_gbyte"]) / 1e9


def curves() -> dict[str, list[dict[str, float]]]:
    """Cost against atoms, rods (by q_max) and the size of a batch."""
    cases = {
        "atoms": [(256, n, Q_MAX) for n in (2, 4, 8, 16, 32, 64)],
        "rods": [(256, 8, q) for q in (0.5, 1.0, 2.0, 4.0)],
        "batch": [(n, 8, Q_MAX) for n in (1, 8, 64, 512, 4096)],
    }
    every = [(name, case) for name, some in cases.items() for case in some]
    out: dict[str, list] = {name: [] for name in cases}
    for name, case in every:
        out[name].append(cost(*case))
    return out


def ceiling() -> dict[str, float]:
    """What JAX reaches here in float32: matmul, exp, sin and cos, memory; in 10^9 a second.

    Sine and cosine of whole and part turns are measured as `jnp` gives them and as polynomials:
    the faster of the two is the ceiling.
    """
    large = jax.default_backend() != "cpu"
    side, length, chain = (8192, 2**26, 16) if large else (2048, 2**22, 16)
    square = jax.random.normal(jax.random.key(0), (side, side))
    line = jax.random.uniform(jax.random.key(1), (length,))
    stream = jnp.ones(2**28)

    def chained(step: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
        # One pass over memory, so that arithmetic alone is timed.
        return jax.jit(lambda x: functools.reduce(lambda y, _: step(y), range(chain), x))

    def library(turns: jax.Array) -> jax.Array:
        return 0.3 * (jnp.sin(2 * jnp.pi * turns) + jnp.cos(2 * jnp.pi * turns))

    product = jax.jit(lambda a: jnp.dot(a, a, precision="highest"))
    cases = {
        "matmul_gflop": (product, square, 2 * side**3),
        "exp_gop": (chained(lambda x: jnp.exp(-x)), line, length * chain),
        "jnp_sincos_gop": (chained(library), line, length * chain),
        "polynomial_sincos_gop": (chained(lambda x: 0.3 * sum(_waves(x))), line, length * chain),
        "memory_gbyte": (jax.jit(lambda x: x + 1), stream, 2 * stream.nbytes),
    }
    out = {}
    for name, (function, argument, work) in cases.items():
        call = functools.partial(function, argument)
        seconds(call)
        out[name] = work / min(seconds(call) for _ in range(3)) / 1e9
    return out | {"sincos_gop": max(out["jnp_sincos_gop"], out["polynomial_sincos_gop"])}


def _waves(turns: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sine and cosine of 2 pi turns, to 1e-6: Taylor polynomials within an eighth of a turn."""
    quarter = jnp.round(4 * turns)
    x = 2 * jnp.pi * (turns - quarter / 4)
    y = x * x
    sine = x * (1 - y / 6 * (1 - y / 20 * (1 - y / 42)))
    cosine = 1 - y / 2 * (1 - y / 12 * (1 - y / 30 * (1 - y / 56)))
    number = quarter.astype(jnp.int32) & 3
    swapped = number % 2 == 1
    sine, cosine = jnp.where(swapped, cosine, sine), jnp.where(swapped, sine, cosine)
    lower, left = number >= 2, (number == 1) | (number == 2)
    return jnp.where(lower, -sine, sine), jnp.where(left, -cosine, cosine)


def totals(crystals: list[dx.Crystal], spots: np.ndarray) -> dict[str, float]:
    """Operations of all crystals together."""
    rods = np.bincount(spots[:, 0].astype(int), minlength=len(crystals))
    each = [
        operations(n, crystal.numbers.size, len(np.unique(crystal.numbers)))
        for n, crystal in zip(rods, crystals, strict=True)
    ]
    return {name: float(sum(x[name] for x in each)) for name in each[0]}
