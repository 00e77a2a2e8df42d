"""A superlattice's main cell, and cells that the spots do not rule out."""

import numpy as np
import pytest
from ideal import CELL, pattern, places

from dd2d_jax.lattices import lattice as lattices


@pytest.mark.parametrize("matrix", [[[2, 0], [0, 2]], [[3, 0], [0, 3]], [[3, -1], [1, 4]]])
def test_weak_satellites_give_one_lattice_with_its_main_cell(matrix):
    matrix = np.array(matrix)
    random = np.random.default_rng(1)
    q = places(matrix @ CELL, 0.95)
    hk = q @ CELL.T
    main = (np.abs(hk - np.rint(hk)) < 1e-6).all(1)
    intensity = np.where(main, 1.0, 0.004) * random.lognormal(0, 0.5, len(q))
    found = lattices.find_all(pattern(q + random.normal(0, 0.0007, q.shape), intensity))
    assert len(found) == 1
    assert round(abs(np.linalg.det(found[0].parent))) == round(np.linalg.det(matrix))
    np.testing.assert_allclose(found[0].parent @ found[0].main, found[0].lattice, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(found[0].main, axis=1).min(), 3.18, rtol=0.01)
    np.testing.assert_array_equal(found[0].satellites, ~main[found[0].spots])


def test_spots_alike_have_no_parent():
    q = places(CELL, 1.2)
    found = lattices.find(pattern(q, np.exp(-np.linalg.norm(q, axis=1))))
    assert found.parent is None
    assert found.satellites is None
    assert found.alternatives == ()
    np.testing.assert_array_equal(found.main, found.lattice)


def test_a_cell_too_short_for_a_crystal_is_doubled_and_all_ways_are_named():
    q = places(np.diag([1.62, 2.38]), 1.3)
    found = lattices.find(pattern(q, np.ones(len(q))))
    assert np.linalg.norm(found.lattice, axis=1).min() > 2
    areas = [abs(np.linalg.det(c)) for c in (found.lattice, *found.alternatives)]
    np.testing.assert_allclose(areas, 2 * 1.62 * 2.38, rtol=1e-3)
    assert len(areas) == 2
