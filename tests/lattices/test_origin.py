"""The beam is found where the lattice and its intensities say, nearby or a lattice vector away."""

import numpy as np
import pytest
from lattice_points import hexagonal, pattern, points

from dd2d_jax.lattices import lattice
from dd2d_jax.lattices.origin import offset, rival

CELL = hexagonal(3.2)
BASIS = np.linalg.inv(CELL).T
INDICES = np.rint(points(CELL) @ CELL.T).astype(int)


def symmetric(seed: int, spread: float = 1.5) -> np.ndarray:
    """Intensities of `INDICES`, alike at q and -q."""
    log = np.random.default_rng(seed).normal(0, spread, len(INDICES))
    mate = [int(np.flatnonzero((INDICES == -hk).all(1))[0]) for hk in INDICES]
    return np.exp((log + log[mate]) / 2)


@pytest.mark.parametrize("off", [(1, 0), (0, -1), (1, 1)])
@pytest.mark.parametrize("beam", [False, True])
def test_a_list_that_is_a_lattice_vector_off_is_put_right_and_the_user_told(off, beam):
    intensity, shift = symmetric(0), off @ BASIS
    q = points(CELL) + shift
    if beam:
        q, intensity = np.r_[q, [shift]], np.r_[intensity, 30 * intensity.max()]
    found = lattice.find(pattern(q, intensity))
    np.testing.assert_allclose(found.warp.shift, shift, atol=1e-6)
    np.testing.assert_allclose(found.q, q[found.spots] - shift, atol=1e-6)
    np.testing.assert_allclose(found.hk @ np.linalg.inv(found.lattice).T, found.q, atol=1e-6)
    # With the spot at the list's own origin, without the beam.
    assert len(found.q) == len(points(CELL))
    assert any("centre was moved" in note for note in found.notes)


@pytest.mark.parametrize("intensity", ["symmetric", "equal", "unlike mates"])
def test_a_list_at_its_origin_stays_there(intensity):
    for seed in range(5):
        made = symmetric(seed)
        if intensity == "equal":
            made = np.ones_like(made)
        if intensity == "unlike mates":
            made = made * np.exp(np.random.default_rng(seed).normal(0, 0.4, len(made)))
        found = lattice.find(pattern(points(CELL), made))
        assert not found.warp.shift.any() and not found.notes


def test_a_doubtful_origin_is_told_and_not_moved():
    # Few spots, alike at q and -q only roughly.
    near = np.linalg.norm(points(CELL), axis=1) < 0.9
    noise = np.random.default_rng(4).normal(0, 0.9, near.sum())
    shifted = points(CELL)[near] + BASIS[0]
    found = lattice.find(pattern(shifted, symmetric(3, 0.9)[near] * np.exp(noise)))
    other = rival(found.hk, np.linalg.inv(found.lattice).T, found.intensity)
    assert other is not None and 1.5 < other.significance < 2.5
    assert not found.warp.shift.any()
    assert any("may be off by a lattice vector" in note for note in found.notes)


def test_the_origin_is_fitted_to_all_spots_and_outliers_hardly_count():
    rng = np.random.default_rng(0)
    q = points(CELL) + (0.003, -0.002) + rng.normal(0, 5e-4, (len(INDICES), 2))
    q[:3] += 0.02
    np.testing.assert_allclose(offset(q, INDICES), (0.003, -0.002), atol=2e-4)


def test_an_origin_beside_all_spots_is_none_of_theirs():
    # Those of a stack that shows a third of its layers' rods, about a point between them.
    cell = hexagonal(4.2)
    hk = np.rint(points(cell) @ cell.T).astype(int)
    seen = points(cell)[(hk[:, 0] - hk[:, 1]) % 3 == 1]
    intensity = np.exp(np.random.default_rng(1).normal(0, 1.0, len(seen)))
    found = lattice.find(pattern(seen, intensity))
    shift = (found.warp.shift @ cell.T).round().astype(int)
    assert (shift[0] - shift[1]) % 3 == 1
    assert np.linalg.norm(found.lattice, axis=1) == pytest.approx([4.2 / np.sqrt(3)] * 2)
    np.testing.assert_allclose(seen[found.spots] - found.warp.shift, found.q, atol=1e-6)
