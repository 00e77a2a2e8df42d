"""Which spots are a lattice's: each with its own uncertainty."""

import numpy as np
from ideal import CELL, pattern, places

from dd2d_jax.lattices import lattice as lattices


def test_a_displaced_spot_near_its_place_is_the_lattices_in_a_clean_pattern():
    random = np.random.default_rng(3)
    q = places(CELL, 1.2)
    q = q + random.normal(0, 0.0008, q.shape)
    moved = np.argsort(np.linalg.norm(q, axis=1))[:2]
    q[moved] += 0.007
    found = lattices.find(pattern(q, np.exp(-2 * np.linalg.norm(q, axis=1))))
    assert set(moved.tolist()) <= set(found.spots.tolist())
    assert found.explained == 1.0


def test_one_of_two_spots_at_a_place_is_false():
    q = places(CELL, 1.2)
    every = np.concatenate([q, q[:1] + 0.012])
    found = lattices.find(pattern(every, np.ones(len(every))))
    assert len(q) not in found.spots
    assert len(found.spots) == len(q)
