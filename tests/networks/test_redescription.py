"""Other descriptions of a crystal: the same crystal, and each as often as told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffraction as dx
from dd2d_jax.networks.redescription import CELLS, Redescription, redescribe
from dd2d_jax.spots import half_plane

MANY = 512
BEAM = dx.Electrons(80.0)


def described(crystal: dx.Crystal, **amount: float) -> dx.Crystal:
    keys = jax.random.split(jax.random.key(2), MANY)
    many = jax.tree.map(lambda x: jnp.repeat(x[None], MANY, 0), crystal)
    run = jax.jit(jax.vmap(redescribe, (0, 0, None)))
    return run(keys, many, Redescription(**amount))


def test_nothing_changes_by_default(layer):
    crystal = layer(1)
    found = described(crystal)
    for name in ("lattice", "positions", "numbers"):
        np.testing.assert_allclose(
            getattr(found, name)[0], getattr(crystal, name), rtol=1e-6, atol=1e-6
        )


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_is_one_of_the_same_lattice(cell):
    assert round(np.linalg.det(cell)) == 1


def test_the_pattern_is_the_same_whatever_the_description(layer):
    crystal = layer(2)
    found = described(crystal, origin=1.0, cell=1.0, rotation=180.0)
    hk = half_plane(np.asarray(crystal.lattice), 0.8)
    whole = np.concatenate([hk, -hk])

    def intensities(one: dx.Crystal, index: np.ndarray) -> np.ndarray:
        return np.asarray(dx.simulate(one, BEAM, 2.0, hk=jnp.asarray(index)).intensity)

    expected = intensities(crystal, whole)
    seen = set()
    for i in range(8):
        one = jax.tree.map(lambda x, i=i: x[i], found)
        # The metric tells which cells it may be; a rod's indices change as the axes do.
        metric = np.asarray(one.lattice @ one.lattice.T)
        fits = [
            c for c in CELLS
            if np.allclose(c @ np.asarray(crystal.lattice @ crystal.lattice.T) @ c.T, metric,
                           atol=1e-2)
        ]  # fmt: skip
        same = [
            np.allclose(intensities(one, whole @ c.T), expected, rtol=5e-3, atol=1e-3) for c in fits
        ]
        assert any(same)
        seen.add(tuple(map(tuple, fits[0])))
    assert len(seen) > 2


def test_each_is_done_as_often_and_as_far_as_told(layer):
    crystal = layer(3)
    moved = described(crystal, origin=0.5).positions - crystal.positions
    same = np.abs(np.asarray(moved)).max((1, 2)) < 1e-6
    assert same.mean() == pytest.approx(0.5, abs=0.08)
    # One shift for all atoms, in the plane.
    assert np.ptp(np.asarray(moved), axis=1).max() < 1e-5 and not np.asarray(moved[..., 2]).any()

    cells = np.asarray(described(crystal, cell=0.4).lattice)
    other = np.abs(cells - np.asarray(crystal.lattice)).max((1, 2)) > 1e-3
    assert other.mean() == pytest.approx(0.4, abs=0.08)
    assert len(np.unique(cells[:, 0].round(3), axis=0)) > 4

    turned = np.asarray(described(crystal, rotation=10.0).lattice)
    a, b = turned[:, 0], np.asarray(crystal.lattice)[0]
    sine = (a[:, 1] * b[0] - a[:, 0] * b[1]) / (b @ b)
    angle = np.degrees(np.arcsin(sine))
    assert 9.8 < angle.max() < 10.01 and -10.01 < angle.min() < -9.8
    assert angle.std() == pytest.approx(20 / np.sqrt(12), rel=0.1)
