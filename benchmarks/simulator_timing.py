"""Seconds of the simulator on crystals that it has not seen yet, for simulator.py."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import diffraction as dx

ENERGY, Q_MAX = 80.0, 1.25
BEAM = dx.Electrons(ENERGY)
REPEATS = 5
STRAIN = 1e-3
"""Crystals are strained by about this much before each timing: none is seen twice."""


def strained(crystals: dx.Crystal, seed: int) -> dx.Crystal:
    """The same crystals, each strained a little in its own way."""
    rng = np.random.default_rng(seed)
    strain = np.eye(3) + STRAIN * rng.standard_normal((len(crystals), 3, 3))
    strain[:, :2, 2] = strain[:, 2, :2] = 0
    lattice = np.asarray(crystals.lattice) @ strain[:, :2, :2]
    positions = np.asarray(crystals.positions) @ strain
    return dataclasses.replace(
        crystals,
        lattice=jnp.asarray(lattice, jnp.float32),
        positions=jnp.asarray(positions, jnp.float32),
    )


def seconds(function: Callable[[], Any]) -> float:
    """Of one call, its results waited for."""
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


def repeat(function: Callable[[dx.Crystal], Any], crystals: dx.Crystal) -> tuple[float, list]:
    """Seconds of the first call, which compiles, and of further ones; new crystals each time."""
    batches = jax.block_until_ready([strained(crystals, seed) for seed in range(REPEATS + 1)])
    first, *others = [seconds(functools.partial(function, batch)) for batch in batches]
    return first, others
