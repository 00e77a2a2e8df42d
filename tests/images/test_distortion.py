"""Pixels and 1/angstrom are each other's inverse; a lattice straightens its own distortion."""

import numpy as np
import pytest

from dd2d_jax.images.distortion import Mapping, from_lattice
from dd2d_jax.util.errors import PatternError

CAMERA = Mapping(0.01, 0.025 * np.exp(2j), -1.5e-6)


def spots(a: float, b: float, gamma: float, mapping: Mapping, turn: float = 0.3) -> np.ndarray:
    """Offsets (K, 2) in pixels of a lattice's spots."""
    angle = np.radians(gamma)
    cell = np.array([[a, 0], [b * np.cos(angle), b * np.sin(angle)]])
    cell = cell @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    grid = np.stack(np.meshgrid(np.arange(-9, 10), np.arange(-9, 10)), -1).reshape(-1, 2)
    q = grid @ np.linalg.inv(cell).T
    length = np.linalg.norm(q, axis=1)
    noise = np.random.default_rng(0).normal(0, 0.1, (len(q), 2))
    return (mapping.pixels(q) + noise)[(length > 0.05) & (length < 1.2)]


def test_pixels_and_q_are_inverse():
    offset = np.random.default_rng(0).uniform(-120, 120, (50, 2))
    np.testing.assert_allclose(CAMERA.pixels(CAMERA.q(offset)), offset, atol=1e-6)
    two = Mapping(np.array([0.01, 0.02]))
    np.testing.assert_allclose(two.q(np.array([[3.0, 4.0]])), [[0.03, -0.08]])
    np.testing.assert_allclose(two.pixels(np.array([[0.03, -0.08]])), [[3.0, 4.0]])


def test_ellipticity_and_axis_are_those_of_what_a_circle_becomes():
    angle = np.radians(np.arange(360))
    image = CAMERA.pixels(0.3 * np.stack([np.cos(angle), np.sin(angle)], -1))
    radius = np.linalg.norm(image, axis=1)
    assert radius.max() / radius.min() - 1 == pytest.approx(CAMERA.ellipticity, rel=0.02)
    longest = np.degrees(np.arctan2(-image[radius.argmax(), 1], image[radius.argmax(), 0]))
    assert (longest - CAMERA.axis + 90) % 180 - 90 == pytest.approx(0, abs=1.5)


@pytest.mark.parametrize(
    "cell", [(2.46, 2.46, 120), (3.2, 3.2, 90), (3.7, 4.4, 90), (3.0, 3.0, 104)]
)
def test_a_symmetric_lattice_straightens_itself(cell):
    offset = spots(*cell, CAMERA)
    shift = np.array([0.8, -0.5])
    made, moved = from_lattice(Mapping(0.01), offset + shift, np.ones(len(offset)))
    assert made.radial == pytest.approx(CAMERA.radial, rel=0.15)
    np.testing.assert_allclose(moved, shift, atol=0.15)
    if cell[0] == cell[1] and cell[2] in (90, 120):
        assert abs(made.stretch - CAMERA.stretch) < 2e-3
    else:  # a stretch along the axes cannot be told from the cell
        assert 0 < abs(made.stretch) <= abs(CAMERA.stretch) + 2e-3


def test_an_oblique_lattice_says_that_it_cannot():
    offset = spots(3.0, 4.1, 103, Mapping(0.01))
    with pytest.raises(PatternError, match="no symmetry"):
        from_lattice(Mapping(0.01), offset, np.ones(len(offset)))
