"""Agreement of candidates with a pattern, and refinement: towards the truth and no further."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import mx2

import diffraction as dx
from dd2d_jax import datasets
from dd2d_jax.corrupt import clean_spots
from dd2d_jax.datasets import CrystalSet
from dd2d_jax.refine import fit, r_factors
from dd2d_jax.spots import Conditions, Spots, half_plane

CONDITIONS = Conditions(dx.Electrons(80.0), q_max=1.25, b_iso=0.5, tokens=64)


def oblique():
    """MoS2 with everything moved from where symmetry holds it."""
    atoms = mx2("MoS2", "2H", vacuum=8)
    strain = np.array([[1.0, 0.05, 0], [0.02, 1.1, 0], [0, 0, 1]])
    atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
    atoms.positions[1] += (0.2, 0.1, 0.1)
    return atoms


@pytest.fixture(scope="module")
def truth() -> CrystalSet:
    """Two crystals of different size: the smaller one is padded."""
    small = oblique()
    large = mx2("WSe2", "1T", vacuum=8).repeat((2, 1, 1))
    large.positions[2] += (0.25, -0.1, 0)
    return datasets.from_atoms([(small, {"uid": "small"}), (large, {"uid": "large"})])


@pytest.fixture(scope="module")
def queries(truth) -> Spots:
    hk = half_plane(truth.lattice, CONDITIONS.q_max)
    return clean_spots(truth.crystal, jnp.asarray(hk), CONDITIONS)


@pytest.fixture(scope="module")
def start(truth) -> CrystalSet:
    """1 % too large, atoms 0.05 A off in the plane."""
    random = np.random.default_rng(2)
    angle = random.uniform(0, 2 * np.pi, truth.numbers.shape)
    moves = 0.05 * np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], -1)
    moved = truth.positions * (1.01, 1.01, 1) + np.where(truth.numbers[..., None] > 0, moves, 0)
    return dataclasses.replace(
        truth,
        lattice=(truth.lattice * 1.01).astype(np.float32),
        positions=moved.astype(np.float32),
    )


@pytest.fixture(scope="module")
def refined(start, queries):
    return fit(start, queries, CONDITIONS)


def errors(positions, truth: CrystalSet, row: int) -> np.ndarray:
    """In-plane distances (N,) from the truth, relative to a common origin, as intensities are."""
    real = truth.numbers[row] > 0
    away = np.asarray(positions)[row][real, :2] - truth.positions[row][real, :2]
    return np.linalg.norm(away - away.mean(0), axis=1)


def test_exact_candidates_agree_exactly(truth, queries):
    found = r_factors(truth, queries, CONDITIONS)
    np.testing.assert_allclose(found.r_factor, 0, atol=1e-4)
    np.testing.assert_array_equal(found.r_factor, found.r_before)
    np.testing.assert_allclose(found.b_iso, CONDITIONS.b_iso)
    seen = np.asarray(queries.measured)
    np.testing.assert_allclose(
        found.intensity[seen], np.asarray(queries.intensity)[seen], atol=1e-4
    )


def test_r_factor_is_the_sum_written_out(start, queries):
    """R1 = sum |sqrt(Io) - s sqrt(Ic)| / sum sqrt(Io), on the query's own indices."""
    found = r_factors(start, queries, CONDITIONS)
    for i in range(len(start)):
        seen = np.asarray(queries.measured[i])
        hk = np.stack([queries.hk[i], -queries.hk[i]], 1)[seen]
        pattern = dx.simulate(start.crystal[i], CONDITIONS.radiation, 2.0, 0.5, hk=hk)
        calculated = np.sqrt(np.asarray(pattern.intensity))
        measured = np.sqrt(np.asarray(queries.intensity[i])[seen])
        scale = (calculated @ measured) / (calculated @ calculated)
        wanted = np.abs(measured - scale * calculated).sum() / measured.sum()
        assert found.r_factor[i] == pytest.approx(wanted, abs=1e-4)


def test_r_factor_does_not_depend_on_the_intensity_scale_nor_on_unseen_spots(start, queries):
    plain = r_factors(start, queries, CONDITIONS).r_factor
    scaled = dataclasses.replace(queries, intensity=queries.intensity * 37)
    np.testing.assert_allclose(r_factors(start, scaled, CONDITIONS).r_factor, plain, rtol=1e-4)
    wild = jnp.where(queries.measured, queries.intensity, 1e3)
    unseen = dataclasses.replace(queries, intensity=wild)
    np.testing.assert_allclose(r_factors(start, unseen, CONDITIONS).r_factor, plain, rtol=1e-4)


def test_refinement_lowers_the_r_factor(refined, start, queries):
    assert (refined.r_before > 0.02).all()
    assert (refined.r_factor < 0.5 * refined.r_before).all()
    before = r_factors(start, queries, CONDITIONS)
    np.testing.assert_array_equal(refined.r_before, before.r_factor)


def test_refinement_moves_atoms_towards_the_truth(refined, start, truth):
    for row in range(len(truth)):
        before, after = errors(start.positions, truth, row), errors(
            refined.crystals.positions, truth, row
        )
        assert np.sqrt((after**2).mean()) < 0.6 * np.sqrt((before**2).mean())


def test_refinement_takes_the_patterns_lattice(refined, queries):
    np.testing.assert_allclose(refined.crystals.lattice, queries.lattice, atol=1e-5)


def test_what_is_reported_belongs_to_the_refined_crystals(refined, queries):
    seen = np.asarray(queries.measured)
    for i in range(2):
        hk = np.stack([queries.hk[i], -queries.hk[i]], 1)[seen[i]]
        crystal = jax.tree.map(jnp.asarray, refined.crystals[i])
        pattern = dx.simulate(crystal, CONDITIONS.radiation, 2.0, refined.b_iso[i], hk=hk)
        calculated = np.asarray(pattern.intensity)
        shown = refined.intensity[i][seen[i]]
        np.testing.assert_allclose(
            shown / shown.max(), calculated / calculated.max(), atol=1e-3
        )


def test_exact_candidates_stay(truth, queries):
    found = fit(truth, queries, CONDITIONS)
    assert (found.r_factor < 2e-3).all()
    real = truth.numbers > 0
    moved = np.abs(np.asarray(found.crystals.positions) - truth.positions)[real]
    assert moved.max() < 0.01
    np.testing.assert_allclose(found.b_iso, CONDITIONS.b_iso, rtol=0.02)


def test_padding_neither_moves_nor_matters(refined, start, queries):
    empty = start.numbers == 0
    assert empty.any()
    np.testing.assert_array_equal(np.asarray(refined.crystals.numbers), start.numbers)
    moved = np.asarray(refined.crystals.positions)[empty]
    np.testing.assert_array_equal(moved, 0)
    alone = start.take([0])
    count = int((start.numbers[0] > 0).sum())
    alone = dataclasses.replace(
        alone, positions=alone.positions[:, :count], numbers=alone.numbers[:, :count]
    )
    single = fit(alone, jax.tree.map(lambda x: x[:1], queries), CONDITIONS)
    np.testing.assert_allclose(single.r_factor[0], refined.r_factor[0], atol=2e-3)
    np.testing.assert_allclose(
        single.crystals.positions[0], refined.crystals.positions[0, :count], atol=5e-3
    )


def test_refinement_finds_b(truth):
    """A pattern of a warmer crystal than the library's."""
    conditions = dataclasses.replace(CONDITIONS, b_iso=1.2)
    hk = jnp.asarray(half_plane(truth.lattice, CONDITIONS.q_max))
    found = fit(truth, clean_spots(truth.crystal, hk, conditions), CONDITIONS)
    np.testing.assert_allclose(found.b_iso, 1.2, rtol=0.1)
    assert (found.r_factor < found.r_before).all()


def test_refinement_stays_finite_where_spots_vanish(truth, queries):
    """The square root of no intensity has no slope: a candidate without most of the spots."""
    silent = dataclasses.replace(queries, intensity=queries.intensity.at[:, 3:].set(0.0))
    symmetric = datasets.from_atoms([
        (mx2("MoS2", "2H", vacuum=8), {"uid": "a"}), (mx2("WS2", "1T", vacuum=8), {"uid": "b"})
    ])  # fmt: skip
    found = fit(symmetric, silent, CONDITIONS)
    for leaf in (*jax.tree.leaves(found.crystals), found.r_factor, found.b_iso, found.intensity):
        assert np.isfinite(np.asarray(leaf)).all()
