"""Many layers at once have the same canonical forms as each alone."""

import numpy as np

from dd2d_jax.crystals.canonical import canonical_form
from dd2d_jax.crystals.canonical_batch import canonical_forms


def layers(seed: int):
    """Hexagonal, square, rectangular and oblique layers, the last one a cell twice."""
    rng = np.random.default_rng(seed)
    cells = [
        [[3.2, 0.0], [-1.6, 3.2 * 0.75**0.5]],
        [[4.0, 0.0], [0.0, 4.0]],
        [[5.0, 0.0], [0.0, 3.5]],
        [[3.1, 0.4], [-0.9, 4.2]],
        [[3.1, 0.4], [2.2, 4.6]],
    ] * 4
    lattice = np.array(cells) * (1 + 0.05 * rng.random((len(cells), 1, 1)))
    positions = rng.random((len(cells), 4, 3)) * [1, 1, 3]
    positions[..., :2] = positions[..., :2] @ lattice
    numbers = rng.choice([6, 16, 42, 74], (len(cells), 4))
    # The last one is the same cell twice.
    half = lattice[-1, 0] / 2
    positions[-1, 2:] = positions[-1, :2] + [*half, 0]
    numbers[-1, 2:] = numbers[-1, :2]
    return lattice, positions, numbers


def test_the_same_as_one_by_one():
    for seed in range(3):
        batch = layers(seed)
        cells, positions, numbers = canonical_forms(*batch)
        for i, single in enumerate(zip(*batch, strict=True)):
            cell, places, kinds, _ = canonical_form(*single)
            np.testing.assert_allclose(cells[i], cell, atol=1e-9)
            np.testing.assert_array_equal(numbers[i][numbers[i] > 0], kinds)
            np.testing.assert_allclose(positions[i][: len(kinds)], places, atol=1e-9)
        assert (numbers[-1] > 0).sum() == 2
        assert (numbers[:-1] > 0).all()
