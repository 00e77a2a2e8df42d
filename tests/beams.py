"""Beams, layers and comparisons that the tests of the simulator share."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffraction as dx

Q_MAX = 1.25
# Short enough that the sphere reaches all rods, also for X-rays.
BEAMS = [dx.Electrons(80.0), dx.Xrays(0.7)]
EACH_BEAM = pytest.mark.parametrize("beam", BEAMS, ids=["electrons", "xrays"])
TILTS = [(0.0, 0.0), (5.0, -3.0), (-12.0, 20.0), (35.0, 10.0)]
# Compiled as a whole: quicker than one compilation an operation.
structure_factor = jax.jit(dx.structure_factor)
form_factor = jax.jit(dx.form_factor)
ewald_qz = jax.jit(dx.ewald_qz)


def spots(pattern):
    """hk -> (q, intensity) of what is not masked."""
    pattern = jax.tree.map(np.asarray, pattern)
    return {
        tuple(map(int, pattern.hk[i])): (pattern.q[i], float(pattern.intensity[i]))
        for i in np.flatnonzero(pattern.mask)
    }


def assert_same(found, expected, rtol=1e-10):
    """Two patterns, slot by slot; intensities relative to the strongest."""
    found, expected = jax.tree.map(np.asarray, (found, expected))
    np.testing.assert_array_equal(found.hk, expected.hk)
    np.testing.assert_array_equal(found.mask, expected.mask)
    np.testing.assert_allclose(found.q, expected.q, atol=rtol)
    scale = np.max(expected.intensity)
    np.testing.assert_allclose(found.intensity / scale, expected.intensity / scale, atol=rtol)


def direct_sum(crystal, q, beam, b=0.0):
    """F by complex numpy exponentials, shared with nothing but the form factors."""
    q, r = np.asarray(q, float), np.asarray(crystal.positions, float)
    squared = (q**2).sum(-1)[:, None]
    f = np.asarray(form_factor(beam, crystal.numbers[None, :], jnp.asarray(squared)))
    return (f * np.exp(-b * squared / 4) * np.exp(2j * np.pi * q @ r.T)).sum(-1)


def random_q(seed=0, count=20):
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, (count, 3)))


def disordered(layer, seed=0):
    """The crystal without symmetry, with occupancies and displacements."""
    rng = np.random.default_rng(seed)
    root = rng.normal(0, 0.1, (5, 3, 3))
    u = jnp.asarray(root @ np.swapaxes(root, 1, 2))
    return change(layer(seed), occupancy=jnp.asarray(rng.uniform(0.2, 1, 5)), u=u)


def change(crystal, **fields):
    return dataclasses.replace(crystal, **fields)

