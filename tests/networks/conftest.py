"""Small crystals and patterns that the tests of several networks share."""

import jax.numpy as jnp
import numpy as np
import pytest

import diffraction as dx
from dd2d_jax.spots import Spots


@pytest.fixture
def crystals(layer) -> dx.Crystal:
    """Four crystals of 3, 4, 5 and 6 atoms."""
    return dx.stack([layer(seed, atoms=seed + 3) for seed in range(4)])


@pytest.fixture
def spots() -> Spots:
    """Four patterns of 4 pairs; the last is not seen, of another only one spot."""
    rng = np.random.default_rng(3)
    measured = np.ones((4, 4, 2), bool)
    measured[:, 3], measured[:, 2, 1] = False, False
    return Spots(
        jnp.asarray(rng.uniform(-1, 1, (4, 4, 2)), jnp.float32),
        jnp.asarray(rng.integers(-3, 4, (4, 4, 2))),
        jnp.asarray(rng.uniform(0.01, 1, (4, 4, 2)) * measured, jnp.float32),
        jnp.asarray(measured),
        jnp.broadcast_to(jnp.eye(2), (4, 2, 2)),
    )
