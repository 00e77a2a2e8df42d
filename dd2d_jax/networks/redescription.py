"""Other descriptions of the same crystal: origin, cell and frame, which no pattern can tell."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

import diffraction as dx

# Cells of the same lattice beside the given one: its axes turned round, exchanged and sheared.
CELLS = np.array(
    [
        [[-1, 0], [0, -1]],
        [[0, 1], [-1, 0]],
        [[0, -1], [1, 0]],
        [[1, 0], [1, 1]],
        [[1, 0], [-1, 1]],
        [[1, 1], [0, 1]],
        [[1, -1], [0, 1]],
    ]
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Redescription:
    """How differently a crystal may be described; nothing changes by default.

    Attributes:
        origin: share of crystals whose origin in the plane is anywhere.
        cell: share of crystals with another cell of the same lattice (`CELLS`).
        rotation: most that a crystal is turned in the plane, degrees; uniform, either way.
    """

    origin: float | jax.Array = 0.0
    cell: float | jax.Array = 0.0
    rotation: float | jax.Array = 0.0


def redescribe(key: jax.Array, crystal: dx.Crystal, amount: Redescription) -> dx.Crystal:
    """The same crystal (no batch axes) as someone else might have written it down.

    Displacements `u` are turned with the crystal; occupancies stay.
    """
    origin_key, cell_key, turn_key = jax.random.split(key, 3)
    chosen = jax.random.bernoulli(cell_key, amount.cell)
    which = jax.random.randint(jax.random.fold_in(cell_key, 1), (), 0, len(CELLS))
    cell = jnp.where(chosen, jnp.asarray(CELLS)[which], jnp.eye(2, dtype=int))
    lattice = cell.astype(crystal.lattice.dtype) @ crystal.lattice

    moved = jax.random.bernoulli(origin_key, amount.origin)
    part = jax.random.uniform(jax.random.fold_in(origin_key, 1), (2,), lattice.dtype)
    shift = jnp.append(jnp.where(moved, part @ lattice, 0.0), 0.0)

    angle = jnp.deg2rad(amount.rotation) * jax.random.uniform(turn_key, minval=-1.0, maxval=1.0)
    c, s = jnp.cos(angle), jnp.sin(angle)
    turn = jnp.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]]).astype(lattice.dtype)
    return replace(
        crystal,
        lattice=jnp.matmul(lattice, turn[:2, :2], precision="highest"),
        positions=jnp.matmul(crystal.positions + shift, turn, precision="highest"),
        u=None if crystal.u is None else turn.T @ crystal.u @ turn,
    )
