"""What the published network reads: the authors' sequences and clouds."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffraction as dx
from dd2d_jax.networks.paper_inputs import point_cloud, sequences


def record(path) -> tuple[np.ndarray, np.ndarray, dx.Crystal]:
    """Pattern (K, 3), sequence and crystal of the authors' data-set format."""
    data = json.loads(path.read_text())
    values = np.array([float(x) for x in data["seq"] if x != ""])
    a, b, gamma = values[0], values[1], np.radians(values[5])
    lattice = np.array([[a, 0], [b * np.cos(gamma), b * np.sin(gamma)]])
    atoms = values[6:].reshape(-1, 4)
    crystal = dx.Crystal(
        jnp.asarray(lattice), jnp.asarray(atoms[:, :3]), jnp.asarray(atoms[:, 3], jnp.int32)
    )
    return np.transpose(data["X"]), values, crystal


@pytest.mark.parametrize("name", ["example_dataset", "fig4_pattern"])
def test_the_authors_crystals_become_the_authors_sequences(shared_data, name):
    _, expected, crystal = record(shared_data / "paper" / f"{name}.json")
    mixed = jax.tree.map(lambda x: x[::-1], (crystal.positions, crystal.numbers))
    run = jax.jit(sequences, static_argnums=1)
    found = np.asarray(run(dx.Crystal(crystal.lattice, *mixed), 180))
    end = 1 + len(expected)
    assert found[0] == 200 and found[end] == 210 and (found[end + 1 :] == -1).all()
    # Their vacuum is another: c, and with it every z, differ by constants.
    shift = np.zeros_like(expected)
    shift[8::4] = found[9] - expected[8]
    shift[2] = found[3] - expected[2]
    np.testing.assert_allclose(found[1:end], expected + shift, atol=2e-5)


def test_the_authors_spots_lie_on_our_pixels(shared_data):
    expected, _, crystal = record(shared_data / "paper" / "fig4_pattern.json")
    hk = np.stack(np.meshgrid(*2 * [np.arange(-6, 7)], indexing="ij"), -1).reshape(-1, 2)
    q = jnp.asarray(hk @ np.linalg.inv(crystal.lattice).T, jnp.float32)
    every = jnp.ones(len(hk))
    found = np.asarray(jax.jit(point_cloud)(dx.Pattern(q, every, jnp.asarray(hk), every > 0)))
    assert {tuple(x) for x in found[:-1, :2]} == {tuple(x) for x in expected[:, :2]}
    assert len(found) == 170 and tuple(found[-1]) == (0, 0, 3)


def test_a_sequence_is_the_cell_and_the_atoms_in_order():
    crystal = dx.Crystal(
        jnp.array([[3.0, 0.0], [-1.5, 1.5 * np.sqrt(3)]]),
        jnp.array([[0.2, 0.1, 1.0], [7.0, 7.0, 70.0], [1.0, 0.5, -1.5], [0.0, 0.9, 1.5]]),
        jnp.array([42, 0, 16, 16]),
    )
    # Thickness 3: c = 18, and the layer lies from 7.5 to 10.5.
    atoms = [1, 0.5, 7.5, 16, 0, 0.9, 10.5, 16, 0.2, 0.1, 10, 42]
    found = sequences(crystal)
    assert found.shape == (24,)
    expected = [200, 3, 3, 18, 90, 90, 120, *atoms, 210, -1, -1, -1, -1]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_array_equal(sequences(crystal, 20), found[:20])
    np.testing.assert_array_equal(sequences(crystal, 30), [*found, *6 * [-1]])


def test_an_atom_is_never_read_as_padding():
    crystal = dx.Crystal(3 * jnp.eye(2), jnp.array([[-1.0, 2.0, 0.0]]), jnp.array([6]))
    found = np.asarray(jax.jit(sequences)(crystal))
    assert (found != -1).all() and found[7] == pytest.approx(-1, abs=2e-5)


def test_more_atoms_than_the_block_holds_are_refused(crystals):
    with pytest.raises(ValueError, match="6 atoms, but a block of 24 holds 4; a block of 32 would"):
        sequences(crystals, 24)
    with pytest.raises(ValueError, match="6 slots for atoms, but a block of 31 holds 5"):
        jax.eval_shape(lambda c: sequences(c, 31), crystals)


def test_a_cloud_is_pixels_and_log_intensities_relative_to_the_strongest():
    pattern = dx.Pattern(
        jnp.array([[0.5, -0.25], [2.6, 0.0], [0.0, 0.0], [1.0, 1.0], [0.1, 0.1]]),
        jnp.array([4.0, 900.0, 8.0, 0.0, 50.0]),
        jnp.zeros((5, 2), jnp.int32),
        jnp.array([True, True, True, True, False]),
    )
    half, least = np.log([0.5, 1e-4])
    # 100.5 + 40.2 q: 120.6, 90.45; beyond the image; 100.5; 140.7; masked.
    expected = [
        [121, 90, half], [0, 0, 0], [101, 101, 0], [141, 141, least], [0, 0, 0], [0, 0, 3]
    ]  # fmt: skip
    np.testing.assert_allclose(jax.jit(point_cloud)(pattern), expected, rtol=1e-6)


def test_the_cloud_of_spots_is_the_cloud_of_their_pattern(spots):
    every = dx.Pattern(
        jnp.concatenate([spots.q, -spots.q], 1),
        jnp.concatenate([spots.intensity[..., 0], spots.intensity[..., 1]], 1),
        jnp.concatenate([spots.hk, -spots.hk], 1),
        jnp.concatenate([spots.measured[..., 0], spots.measured[..., 1]], 1),
    )
    found = np.asarray(jax.jit(point_cloud)(spots))
    np.testing.assert_array_equal(found, jax.jit(point_cloud)(every))
    assert (found != 0).any(-1).sum() == 4 * (5 + 1)
