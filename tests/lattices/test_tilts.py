"""Patterns at known tilts: exactly undone, and on one lattice."""

import dataclasses

import numpy as np
import pytest
from ase.build import mx2

import diffraction as dx
from dd2d_jax.lattices import lattice
from dd2d_jax.lattices.tilts import from_tilts, in_plane, leaning, least_tilt
from dd2d_jax.util.errors import PatternError
from diffraction.kinematic import tilt_matrix

CRYSTAL = dx.Crystal.from_ase(mx2("MoS2", "2H", a=3.16, thickness=3.13, vacuum=8))
BEAM = dx.Electrons(80.0)


@pytest.mark.parametrize("tilt", [(0.0, 0.0), (20.0, 0.0), (-12.0, 25.0)])
def test_spots_go_back_to_their_rods_whatever_the_tilt(tilt):
    pattern = dx.simulate(CRYSTAL, BEAM, 1.2, tilt=tilt)
    mask = np.asarray(pattern.mask)
    back = in_plane(np.asarray(pattern.q, float)[mask], tilt, float(BEAM.wavelength))
    rods = np.asarray(pattern.hk)[mask] @ np.linalg.inv(np.asarray(CRYSTAL.lattice, float)).T
    np.testing.assert_allclose(back, rods, atol=2e-6)


def test_every_tilt_is_indexed_in_the_cell_of_the_least():
    tilts = [(20.0, 0.0), (1.0, 0.0), (0.0, -15.0)]
    patterns = [dx.simulate(CRYSTAL, BEAM, 1.2, 0.5, tilt=t) for t in tilts]
    assert least_tilt(tilts) == 1
    found = from_tilts(patterns, tilts)
    cell = found[0].lattice
    assert abs(np.linalg.det(cell)) == pytest.approx(abs(np.linalg.det(CRYSTAL.lattice)), rel=2e-3)
    for one, pattern in zip(found, patterns, strict=True):
        np.testing.assert_array_equal(one.lattice, cell)
        assert one.explained == 1.0
        assert len(one.q) == int(pattern.mask.sum())


def test_wrong_tilts_are_refused_in_one_line():
    patterns = [dx.simulate(CRYSTAL, BEAM, 1.2, 0.5, tilt=t) for t in ((0.0, 0.0), (35.0, 0.0))]
    with pytest.raises(ValueError, match="2 patterns need as many tilts"):
        from_tilts(patterns, [(0.0, 0.0)])
    with pytest.raises(PatternError, match="lie on the lattice of pattern 0"):
        elsewhere = dataclasses.replace(patterns[1], q=patterns[1].q * 1.37 + 0.11)
        from_tilts([patterns[0], elsewhere], [(0, 0), (35, 0)])


def test_frames_belong_to_the_settings():
    """Spots turned into a setting's frame are where `canonical_spots` has them."""
    found = from_tilts([dx.simulate(CRYSTAL, BEAM, 1.2, 0.5)], [(0.0, 0.0)])[0]
    spots = lattice.canonical_spots(found, 1.25, 64)
    frames = lattice.frames(found)
    assert len(frames) == len(spots.lattice)
    for s in (0, 5, len(frames) - 1):
        turned = np.round(found.q @ frames[s].T, 4)
        places = {tuple(x) for x in (turned + 0.0).tolist()}
        for q in np.asarray(spots.q[s])[np.asarray(spots.mask[s])]:
            near = np.abs(np.array(sorted(places)) - q).max(1).min()
            assert near < 1e-3


def lattice_of(cell: np.ndarray) -> lattice.Indexed:
    """A pattern's, of which no more is used than the cell."""
    hk = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])
    q = hk @ np.linalg.inv(cell).T
    whole = (np.ones(4), 1.0, 0.0, np.arange(4), np.zeros(4))
    return lattice.Indexed(cell, q, hk, *whole)


@pytest.mark.parametrize("angle", [120.0, 90.0])
@pytest.mark.parametrize("turn", [0.0, 0.4, 2.0])
def test_a_symmetric_cell_that_looks_shortened_tells_the_tilt_but_for_its_sense(angle, turn):
    angle, size, along = np.radians(angle), 14.0, 0.7
    cell = 3.3 * np.array([(1, 0), (np.cos(angle), np.sin(angle))])
    cell = cell @ [(np.cos(turn), np.sin(turn)), (-np.sin(turn), np.cos(turn))]
    tilt = size * np.array([np.cos(along), np.sin(along)])
    # Where rods of the tilted layer meet a flat sphere.
    seen = np.linalg.inv(np.linalg.inv(tilt_matrix(tilt)[:2, :2]).T)
    shortened = cell @ np.asarray(seen, float)
    assert np.linalg.det(shortened) < 0.98 * np.linalg.det(cell)
    found = leaning(lattice_of(shortened))
    assert len(found) == 2
    np.testing.assert_allclose(found[0][1], -found[1][1], atol=1e-6)
    either = [np.linalg.norm(one - tilt) for _, one in found]
    assert min(either) < 0.2
    for one, _ in found:
        np.testing.assert_allclose(one.lattice @ one.lattice.T, cell @ cell.T, rtol=1e-3, atol=0.01)


def test_no_tilt_is_told_by_cells_that_are_symmetric_or_never_are():
    hexagonal = np.array([(3.3, 0), (-1.65, 1.65 * 3**0.5)])
    assert not leaning(lattice_of(hexagonal))
    # A camera's ellipticity.
    assert not leaning(lattice_of(hexagonal * (1.008, 1.0)))
    assert not leaning(lattice_of(np.diag([3.3, 4.6])))
