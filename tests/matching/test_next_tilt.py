"""The tilt that is proposed next."""

from types import SimpleNamespace

import numpy as np
import pytest
from ase.build import mx2

import diffraction as dx
from dd2d_jax.matching.next_tilt import next_tilt

BEAM = dx.Electrons(80.0)


def shifted(up, along) -> SimpleNamespace:
    """A 2H layer with a chalcogen moved up and along, as a candidate."""
    atoms = mx2("MoS2", "2H", a=3.18, thickness=3.13, vacuum=8)
    atoms.positions[1] += (*along, up)
    lattice = atoms.cell.array[:2, :2]
    query = SimpleNamespace(lattice=np.asarray(dx.Crystal.from_ase(atoms).lattice))
    return SimpleNamespace(
        structure=atoms, axes=np.eye(2), query=query, b_iso=0.5, probability=0.5, lattice=lattice
    )


def found(*candidates) -> SimpleNamespace:
    indexed = SimpleNamespace(lattice=candidates[0].query.lattice)
    return SimpleNamespace(candidates=candidates, indexed=indexed)


def distance(pair, tilt) -> float:
    """Of the log intensities of two candidates at a tilt."""
    logs = []
    for one in pair:
        pattern = dx.simulate(dx.Crystal.from_ase(one.structure), BEAM, 1.25, 0.5, tilt)
        intensity = np.asarray(pattern.intensity)[np.asarray(pattern.mask)]
        log = np.log(intensity + 1e-3 * intensity.max())
        logs.append(log - log.mean())
    return float(((logs[0] - logs[1]) ** 2).sum())


def test_two_crystals_that_differ_in_height_are_told_apart_by_the_tilt_that_is_proposed():
    pair = shifted(0.0, (0, 0)), shifted(0.12, (0.02, 0.05))
    proposed = next_tilt(found(*pair), BEAM, 15.0)
    assert np.hypot(*proposed.tilt) == pytest.approx(15.0, abs=1e-4)
    flat = distance(pair, (0.0, 0.0))
    others = [
        distance(pair, 15 * np.array([np.cos(a), np.sin(a)])) for a in np.arange(24) * np.pi / 12
    ]
    there = distance(pair, proposed.tilt)
    assert there > 3 * flat and there >= 0.9 * max(others)
    assert 0 < proposed.separation <= 1


def test_a_turned_setting_gets_the_same_tilt_of_the_pattern():
    """The candidates' frames are turned against the pattern's; the tilt is in the pattern's."""
    pair = shifted(0.0, (0, 0)), shifted(0.12, (0.02, 0.05))
    plain = next_tilt(found(*pair), BEAM, 15.0)
    c, s = np.cos(np.pi / 3), np.sin(np.pi / 3)
    turn = np.array([[c, s], [-s, c]])
    for one in pair:
        one.axes = turn
    moved = found(*pair)
    moved.indexed.lattice = pair[0].query.lattice @ turn
    there = next_tilt(moved, BEAM, 15.0)
    for one in pair:
        one.axes = np.eye(2)
    assert distance(pair, np.array(there.tilt) @ turn.T) >= 0.9 * distance(pair, plain.tilt)
    assert there.separation == pytest.approx(plain.separation, rel=0.05)


def test_of_one_candidate_the_heights_decide():
    proposed = next_tilt(found(shifted(0.0, (0, 0))), BEAM, 20.0)
    assert np.isnan(proposed.separation) and proposed.height_sigma < 0.08


def test_what_cannot_be_tilted_to_is_refused():
    with pytest.raises(ValueError, match="size must be above 0 and at most 60 degrees, got 90"):
        next_tilt(found(shifted(0.0, (0, 0))), BEAM, 90.0)
    with pytest.raises(ValueError, match="no candidates"):
        next_tilt(SimpleNamespace(candidates=()), BEAM)
