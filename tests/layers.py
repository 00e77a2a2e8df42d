"""Layers and comparisons that the tests of crystals share."""

import dataclasses

import ase
import ase.build
import ase.io
import jax.numpy as jnp
import numpy as np


def mos2(vacuum=7.5, pbc=(True, True, False)):
    """1H-MoS2 with one S pulled out, so that up and down, left and right differ."""
    atoms = ase.build.mx2("MoS2", kind="2H", a=3.18, thickness=3.14, vacuum=vacuum)
    atoms.positions[1] += [0.2, -0.1, 0.3]
    atoms.pbc = pbc
    return atoms


# Where a, b, c go when the vacuum lies along x, y or z, and the Cartesian axes with them.
CYCLES = {"x": [2, 0, 1], "y": [1, 2, 0], "z": [0, 1, 2]}


def disordered(layer):
    """Five atoms, the first two on one site, with displacements."""
    crystal, rng = layer(seed=3), np.random.default_rng(5)
    u = rng.normal(0, 0.1, (5, 3, 3))
    u = u @ np.swapaxes(u, 1, 2)
    u[1] = u[0]
    return dataclasses.replace(
        crystal,
        positions=crystal.positions.at[1].set(crystal.positions[0]),
        numbers=jnp.array([42, 74, 16, 16, 8], jnp.int32),
        occupancy=jnp.array([0.4, 0.6, 0.9, 1.0, 0.35]),
        u=jnp.asarray((u + np.swapaxes(u, 1, 2)) / 2),
    )

