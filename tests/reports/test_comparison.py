"""A candidate against the pattern: every spot where and as strong as it is, and what is missing."""

import dataclasses

import ase
import jax
import numpy as np
import pytest
from ase.build import mx2
from found_example import make_found

import diffraction as dx
from dd2d_jax.images.measurement import measure
from dd2d_jax.images.readers import Image
from dd2d_jax.lattices import indexed, lattice
from dd2d_jax.lattices.warp import Warp
from dd2d_jax.reports import comparison
from dd2d_jax.reports.comparison import Predicted, families


def janus() -> tuple[ase.Atoms, dx.Pattern, indexed.Indexed]:
    """A layer whose pattern has few symmetries, turned."""
    atoms = mx2("MoS2", vacuum=8)
    atoms.positions[1, :2] += (0.3, 0.2)
    pattern = dx.simulate(dx.Crystal.from_ase(atoms), q_max=0.9, b_iso=0.5)
    c, s = np.cos(0.6), np.sin(0.6)
    pattern = dataclasses.replace(pattern, q=pattern.q @ np.array([[c, s], [-s, c]], np.float32))
    return atoms, pattern, lattice.find(pattern)


def candidate_of(atoms, indexed):
    """As retrieval makes it, in the setting whose indices are the structure's own."""
    made = make_found(count=1)[0]
    settings = lattice.canonical_spots(indexed, 0.9, 64)
    axes = lattice.frames(indexed)
    crystal = dx.Crystal.from_ase(atoms)
    errors = []
    for s in range(len(settings.q)):
        hk, measured = settings.hk[s], settings.measured[s].T
        both = dx.simulate(crystal, q_max=2.0, b_iso=0.5, hk=np.concatenate([hk, -hk]))
        truth = np.asarray(both.intensity).reshape(2, -1)[measured]
        errors.append(np.abs(truth / truth.max() - settings.intensity[s].T[measured]).max())
    best = int(np.argmin(errors))
    assert errors[best] < 1e-3
    query = jax.tree.map(lambda x: x[best], settings)
    return dataclasses.replace(
        made, structure=atoms, query=query, axes=axes[best], simulated=query.intensity, b_iso=0.5
    )


def test_the_right_crystal_predicts_every_spot_where_and_as_strong_as_it_is():
    atoms, pattern, indexed = janus()
    predicted = comparison.predict(candidate_of(atoms, indexed), indexed)
    assert predicted.seen.all() and not predicted.hidden.any()
    away = np.linalg.norm(predicted.q[:, None] - indexed.q[None], axis=-1)
    assert away.min(1).max() < 1e-3
    np.testing.assert_allclose(predicted.calculated, indexed.intensity[away.argmin(1)], atol=2e-3)
    strong = indexed.intensity > 1.1 * comparison.FAINT
    assert (away.min(0)[strong] < 1e-3).all()


def test_a_spot_that_is_missing_is_told_from_one_that_was_not_measured():
    atoms, pattern, indexed = janus()
    candidate = candidate_of(atoms, indexed)
    scale, size = 0.01, 256
    image = np.array(dx.render(pattern, (size, size), scale, fwhm=0.03))
    image = image / image.max() * 1e4 + 20
    measured = measure(Image(np.random.default_rng(0).poisson(image).astype(float)), scale)
    found = lattice.find(measured.pattern)
    predicted = comparison.predict(candidate, found, measured)
    # What lies on the image is where its spots are.
    pixel = measured.spots.centre + measured.mapping.pixels(predicted.q[predicted.seen])
    away = np.linalg.norm(pixel[:, None] - measured.spots.position[None], axis=-1).min(1)
    assert predicted.seen.sum() > 10 and away.max() < 1.5
    gone = int(np.argmax(predicted.seen))
    near = np.linalg.norm(found.q - predicted.q[gone], axis=1) < 0.02
    fewer = dataclasses.replace(
        found, **{f: getattr(found, f)[~near] for f in ("q", "hk", "intensity", "spots")}
    )
    again = comparison.predict(candidate, fewer, measured)
    assert not again.seen[gone] and not again.hidden[gone]
    area = measured.spots.measured.copy()
    area[tuple(np.rint(pixel[0][::-1]).astype(int))] = False
    blind = dataclasses.replace(measured, spots=dataclasses.replace(measured.spots, measured=area))
    assert comparison.predict(candidate, fewer, blind).hidden[gone]


def test_a_bent_image_has_its_spots_where_it_is_bent():
    atoms, pattern, indexed = janus()
    candidate = candidate_of(atoms, indexed)
    scale, size = 0.01, 256
    image = np.array(dx.render(pattern, (size, size), scale, fwhm=0.03))
    image = image / image.max() * 1e4 + 20
    measured = measure(Image(np.random.default_rng(0).poisson(image).astype(float)), scale)
    bent = dataclasses.replace(indexed, warp=Warp(shift=np.array([0.05, -0.02])))
    straight, moved = (
        comparison.pixels(measured, one, np.array([[0.3, 0.1]])) for one in (indexed, bent)
    )
    np.testing.assert_allclose(moved - straight, [[5, 2]], atol=1e-6)
    predicted = comparison.predict(candidate, bent, measured)
    assert len(predicted.q) > 10


def test_every_predicted_spot_knows_the_found_one_and_what_was_measured():
    atoms, pattern, indexed = janus()
    sigma = 0.1 * indexed.intensity
    indexed = dataclasses.replace(indexed, intensity_sigma=sigma)
    predicted = comparison.predict(candidate_of(atoms, indexed), indexed)
    np.testing.assert_array_equal(predicted.observed, indexed.intensity[predicted.spot])
    np.testing.assert_array_equal(predicted.sigma, sigma[predicted.spot])
    # All of the found ones, the faint ones, too.
    assert sorted(predicted.spot) == list(range(len(indexed.q)))
    np.testing.assert_allclose(predicted.q, indexed.q[predicted.spot], atol=1e-3)


def test_intensities_that_are_a_power_of_counts_are_straightened_beside_the_calculated_ones():
    atoms, pattern, indexed = janus()
    candidate = candidate_of(atoms, indexed)
    plain = comparison.predict(candidate, indexed)
    sigma = 0.01 * indexed.intensity**0.5
    bent = dataclasses.replace(
        indexed, intensity=indexed.intensity**0.5, intensity_sigma=0.5 * sigma
    )
    predicted = comparison.predict(dataclasses.replace(candidate, power=0.5), bent)
    np.testing.assert_allclose(predicted.observed, plain.observed, rtol=1e-5)
    # The error of a square is twice the value times its error.
    strong = predicted.observed > 0.1
    np.testing.assert_allclose(predicted.sigma[strong], 0.01 * predicted.observed[strong], 1e-3)


def test_the_difference_lies_where_the_pattern_lies():
    atoms, pattern, indexed = janus()
    candidate = candidate_of(atoms, indexed)
    wrong = np.array(candidate.simulated)
    wrong[0, 0] += 0.5
    changed = comparison.difference(dataclasses.replace(candidate, simulated=wrong))
    worst = np.argmax(np.abs(changed.amplitude))
    assert changed.amplitude[worst] < 0  # measured weaker
    place = np.asarray(candidate.query.q)[0] @ candidate.axes
    np.testing.assert_allclose(changed.q[worst], place, atol=1e-6)
    away = np.linalg.norm(indexed.q - changed.q[worst], axis=1).min()
    assert away < 2e-3
    right = comparison.difference(candidate)
    assert np.abs(right.amplitude).max() < 1e-6


def predicted_of(hk: np.ndarray, observed: np.ndarray, calculated: np.ndarray) -> Predicted:
    q = hk @ np.linalg.inv(np.array([[3.0, 0], [-1.5, 1.5 * np.sqrt(3)]])).T
    return Predicted(
        hk, q, calculated, np.where(np.isnan(observed), -1, 0), observed, observed, observed > 9
    )


@pytest.mark.parametrize(
    ("lattice_of", "sizes"),
    [
        ([[3.0, 0], [-1.5, 1.5 * np.sqrt(3)]], {(1, 0): 6, (2, -1): 6, (2, 0): 6, (3, -1): 12}),
        ([[3.0, 0], [0, 3.0]], {(1, 0): 4, (1, 1): 4, (2, 0): 4, (2, 1): 8}),
        ([[3.0, 0], [0, 4.0]], {(1, 0): 2, (0, 1): 2, (1, 1): 4}),
        ([[3.0, 0], [-1.0, 4.0]], {(1, 0): 2, (1, 1): 2, (1, -1): 2}),
    ],
    ids=["hexagonal", "square", "rectangular", "oblique"],
)
def test_families_hold_what_the_symmetry_of_the_lattice_makes_equivalent(lattice_of, sizes):
    side = np.arange(-4, 5)
    hk = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    hk = hk[(hk != 0).any(1)]
    nothing = np.full(len(hk), np.nan)
    found = families(predicted_of(hk, nothing, np.ones(len(hk))), np.array(lattice_of))
    made = {one.hk: len(one.rows) for one in found}
    assert {name: made[name] for name in sizes} == sizes


def test_a_family_is_summed_up_by_what_was_found_of_it():
    hk = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])
    observed = np.array([0.2, 0.4, np.nan, np.nan])
    (one,) = families(
        predicted_of(hk, observed, np.array([0.1, 0.2, 0.3, 0.4])), 3.0 * np.eye(2)
    )
    assert one.hk == (1, 0)
    np.testing.assert_allclose(one.observed, (0.3, 0.2, 0.4))
    np.testing.assert_allclose(one.calculated, (0.25, 0.1, 0.4))
    lost = families(predicted_of(hk, np.full(4, np.nan), np.ones(4)), 3.0 * np.eye(2))
    assert lost[0].observed is None
