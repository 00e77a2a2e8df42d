"""Layers of a twisted stack of which few spots are seen."""

import numpy as np
import pytest
from lattice_points import spoiled

import diffraction as dx
from dd2d_jax.lattices import lattice


def layer(a: float, turned: float, orders: float) -> np.ndarray:
    """Spots (K, 2) of a hexagonal layer, those beyond `orders` times its shortest left out."""
    b = np.exp(1j * np.radians([turned, turned + 60])) / (a * np.sin(np.pi / 3))
    hk = np.stack(np.meshgrid(*(np.arange(-4, 5),) * 2), -1).reshape(-1, 2)
    q = hk @ b
    length = abs(q) / abs(b[0])
    return q[(length > 0.1) & (length < orders)]


def elliptic(q: np.ndarray, stretch: complex) -> np.ndarray:
    q = q + stretch * q.conj()
    return np.stack([q.real, q.imag], 1)


def stack(stretch: complex, noise: float = 5e-4, lost: int = 1, seed: int = 1) -> dx.Pattern:
    """Hexagonal boron nitride, and of two graphene layers upon it the second ring only.

    Of each ring's six spots some are `lost`.
    """
    random = np.random.default_rng(seed)
    second = [x[abs(x) > 0.7][lost:] for x in (layer(2.46, 14.3, 1.9), layer(2.46, 21.0, 1.9))]
    q = elliptic(np.concatenate([layer(2.504, 5.0, 3.2), *second]), stretch)
    faint = 12 - 2 * lost
    weak = np.r_[np.full(len(q) - faint, 1.0), np.full(faint, 0.01)]
    return spoiled(q + random.normal(0, noise, q.shape), weak * random.uniform(0.3, 1, len(q)))


@pytest.mark.parametrize("stretch", [0.0, 0.03 * np.exp(1.0j)])
def test_weak_twisted_layers_and_the_camera_s_ellipse_are_found_with_the_strong_layer(stretch):
    found = lattice.find_all(stack(stretch))
    lengths = [np.linalg.norm(one.lattice, axis=1) for one in found]
    assert len(found) == 3
    np.testing.assert_allclose(lengths[0], 2.504, rtol=2e-3)
    for length in lengths[1:]:
        np.testing.assert_allclose(length, 2.46, rtol=5e-3)
    assert lattice.twist(found[1], found[2])[0] == pytest.approx(6.7, abs=0.2)


def test_twisted_layers_are_found_where_their_spots_lie_on_a_lattice_by_chance_as_well():
    for seed in (1, 4, 8):
        found = lattice.find_all(stack(0.0, 2e-3, lost=0, seed=seed))
        lengths = [np.linalg.norm(one.lattice, axis=1) for one in found]
        np.testing.assert_allclose(lengths, [[2.504] * 2, [2.46] * 2, [2.46] * 2], rtol=0.01)


def test_false_spots_beside_a_lattice_are_no_twisted_layer():
    random = np.random.default_rng(2)
    for _ in range(5):
        false = random.uniform(-1.2, 1.2, (12, 2))
        q = np.concatenate([elliptic(layer(3.18, 11.0, 3.5), 0.01), false])
        strong = np.r_[np.ones(len(q) - 12), np.full(12, 0.02)]
        assert len(lattice.find_all(spoiled(q, strong))) == 1
