"""Agreement of candidates with a pattern, and refinement: towards the truth and no further."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import graphene, mx2

import diffraction as dx
from dd2d_jax.crystals.symmetry import operations
from dd2d_jax.data import usable
from dd2d_jax.data.crystal_set import CrystalSet
from dd2d_jax.networks.disturbances import clean_spots
from dd2d_jax.refinement import refine
from dd2d_jax.refinement.fit_model import Priors, Problem, residuals
from dd2d_jax.refinement.refine import fit, r_factors, tilt_in_setting
from dd2d_jax.spots import Conditions, Spots, half_plane, select

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
    return usable.from_atoms([(small, {"uid": "small"}), (large, {"uid": "large"})])


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
    np.testing.assert_allclose(refined.crystals.lattice, queries.lattice, atol=1e-4)
    assert (np.abs(refined.strain) < refined.strain_sigma).all()


def test_what_is_reported_belongs_to_the_refined_crystals(refined, queries):
    seen = np.asarray(queries.measured)
    for i in range(2):
        hk = np.stack([queries.hk[i], -queries.hk[i]], 1)[seen[i]]
        crystal = jax.tree.map(jnp.asarray, refined.crystals[i])
        pattern = dx.simulate(
            crystal, CONDITIONS.radiation, 2.0, refined.b_iso[i], refined.tilt[i, 0], hk=hk
        )
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
    alone = start.take([0, 0])
    count = int((start.numbers[0] > 0).sum())
    alone = dataclasses.replace(
        alone, positions=alone.positions[:, :count], numbers=alone.numbers[:, :count]
    )
    single = fit(alone, jax.tree.map(lambda x: x[jnp.array([0, 0])], queries), CONDITIONS)
    np.testing.assert_allclose(single.r_factor[0], refined.r_factor[0], atol=2e-3)
    np.testing.assert_allclose(
        single.crystals.positions[0], refined.crystals.positions[0, :count], atol=5e-3
    )


@pytest.mark.slow
def test_chunks_of_unlike_size_say_of_each_candidate_what_it_alone_says(
    refined, start, queries, monkeypatch
):
    monkeypatch.setattr(refine, "_CHUNK", 1)
    monkeypatch.setattr(refine, "_ROOM", 4)  # 3 and 6 atoms
    found = fit(start, queries, CONDITIONS)
    np.testing.assert_allclose(found.crystals.positions, refined.crystals.positions, atol=0.01)
    np.testing.assert_allclose(found.position_sigma, refined.position_sigma, rtol=0.1, atol=1e-3)
    assert found.undetermined == refined.undetermined
    assert all(found.correlations)


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
    symmetric = usable.from_atoms([
        (mx2("MoS2", "2H", vacuum=8), {"uid": "a"}), (mx2("WS2", "1T", vacuum=8), {"uid": "b"})
    ])  # fmt: skip
    found = fit(symmetric, silent, CONDITIONS)
    for leaf in (*jax.tree.leaves(found.crystals), found.r_factor, found.b_iso, found.intensity):
        assert np.isfinite(np.asarray(leaf)).all()


def noisy(queries: Spots, seed: int, size: float = 0.05) -> Spots:
    error = np.random.default_rng(seed).normal(0, size, queries.intensity.shape)
    return dataclasses.replace(queries, intensity=queries.intensity * np.exp(error))


def test_jacobian_is_that_of_finite_differences(x64):
    """Of a pattern taken at a tilt, all parameters away from where they begin."""
    from jax.flatten_util import ravel_pytree

    from dd2d_jax.refinement import fit_model, inputs

    crystals = usable.from_atoms([(oblique(), {"uid": "a"})])
    fields = [inputs.fields(crystals, 0, symmetric=False)]
    parts = inputs.problems(crystals, np.array([0]), (4, 16), crystals.lattice, fields, True)
    hk = np.array([[[[1, 0], [1, 1], [0, 1], [2, 1], [3, -2], [0, 0]]]])
    shape = hk.shape[:3]
    rng = np.random.default_rng(0)
    parts |= {
        "hk": hk, "q": rng.normal(size=hk.shape), "intensity": rng.random((*shape, 2)),
        "sigma": np.full((*shape, 2), 0.1), "measured": np.ones((*shape, 2), bool),
        "tilts": np.array([[[3.0, -2.0]]]), "added": rng.random((*shape, 2)),
        "neglected": np.zeros((*shape, 2)), "bonded": 0.5 + rng.random((*shape, 2)),
    }  # fmt: skip
    parts["measured"][0, 0, -1] = False
    problem = Problem(**{
        k: jax.device_put(v[0].astype(float) if v.dtype == np.float32 else v[0])
        for k, v in parts.items()
    })  # fmt: skip
    start, unravel = ravel_pytree(fit_model.start(problem))
    evaluate = jax.jit(residuals(problem, Priors(), CONDITIONS)[0])
    x = rng.normal(0, 0.3, start.shape)
    kinds = jax.device_get(evaluate(x)[0])
    names = unravel(np.arange(float(len(start))))
    for k, one in enumerate(np.eye(len(start))):
        ahead, behind = (jax.device_get(evaluate(x + h * one)[0]) for h in (1e-4, -1e-4))
        for (_, jacobian), (plus, _), (minus, _) in zip(kinds, ahead, behind, strict=True):
            slope = (plus - minus) / 2e-4
            np.testing.assert_allclose(jacobian[:, k], slope, atol=1e-4 * (1 + abs(slope).max()))
    moving = np.asarray(names["atoms"], int)[:9]
    assert (np.abs(kinds[0][1][:, moving]).max(0) > 1e-3).all()


def test_atoms_are_recovered_from_noisy_intensities(start, queries, truth):
    """To 0.01 A those whose uncertainty is small; all within their uncertainty."""
    found = fit(start, noisy(queries, 1), CONDITIONS)
    for row in range(len(truth)):
        away = errors(found.crystals.positions, truth, row)
        sigma = found.position_sigma[row, : len(away), :2].max(1)
        assert (away < 4 * sigma + 1e-3).all()
        assert away[sigma < 0.004].max() < 0.01
    assert (found.wr2 < 0.1).all() and (found.wr2_before > 0.3).all()


def test_wr2_is_the_sum_written_out(start, queries):
    """wR2^2 = sum w (Io - s Ic)^2 / sum w Io^2, s by least squares."""
    sigma = 0.02 + 0.1 * np.asarray(queries.intensity)
    found = r_factors(start, queries, CONDITIONS, sigma=sigma)
    seen = np.asarray(queries.measured[0])
    hk = np.stack([queries.hk[0], -queries.hk[0]], 1)[seen]
    pattern = dx.simulate(start.crystal[0], CONDITIONS.radiation, 2.0, 0.5, hk=hk)
    calculated = np.asarray(pattern.intensity)
    measured, weight = np.asarray(queries.intensity[0])[seen], sigma[0][seen] ** -2
    scale = (weight * measured * calculated).sum() / (weight * calculated**2).sum()
    wanted = (weight * (measured - scale * calculated) ** 2).sum() / (weight * measured**2).sum()
    assert found.wr2[0] == pytest.approx(np.sqrt(wanted), rel=1e-3)


def test_stated_errors_change_the_fit_as_they_should(start, queries, truth):
    """A spot of the wrong intensity spoils the fit, unless its error says so."""
    clean = noisy(queries, 1, 0.01)
    share = 0.01 * np.asarray(clean.intensity) + 1e-4
    wrong, told = np.array(clean.intensity), share.copy()
    wrong[:, 4:8] = 3 * wrong[:, 4:8]
    told[:, 4:8] = 10.0
    spoiled = dataclasses.replace(clean, intensity=jnp.asarray(wrong))

    def away(sigma):
        found = fit(start, dataclasses.replace(spoiled, sigma=jnp.asarray(sigma)), CONDITIONS)
        off = [errors(found.crystals.positions, truth, row) for row in range(len(truth))]
        return np.sqrt(np.mean(np.concatenate(off) ** 2)), found

    untold, _ = away(share)
    right, found = away(told)
    assert right < 0.5 * untold
    # The queries' own errors are the same as those that are given.
    given = fit(start, spoiled, CONDITIONS, sigma=told)
    np.testing.assert_array_equal(found.crystals.positions, given.crystals.positions)
    np.testing.assert_array_equal(found.wr2, given.wr2)
    # Ten times larger errors leave more open, of what the data determine.
    wider = away(10 * told)[1]
    best = [f.position_sigma[f.position_sigma > 1e-4].min() for f in (wider, found)]
    assert best[0] > 2 * best[1]


def test_what_trades_off_is_named_with_its_correlation(refined, truth):
    assert len(refined.correlations) == len(truth)
    for one in refined.correlations:
        assert all(0.7 < abs(value) <= 1 for _, _, value in one)
        assert [abs(v) for *_, v in one] == sorted((abs(v) for *_, v in one), reverse=True)
        assert all(a != b for a, b, _ in one)


@pytest.fixture(scope="module")
def thick() -> CrystalSet:
    """Two layers with sulfur at free heights, in a low symmetry."""
    one, other = oblique(), oblique()
    other.positions[2] += (0.1, -0.2, 0.15)
    return usable.from_atoms([(one, {"uid": "a"}), (other, {"uid": "b"})])


def seen_at(crystals: CrystalSet, tilt) -> Spots:
    hk = half_plane(crystals.lattice, CONDITIONS.q_max)
    both = jnp.concatenate([hk, -hk], 1)
    pattern = dx.simulate(crystals.crystal, CONDITIONS.radiation, 1.25, 0.5, tilt, hk=both)
    count = hk.shape[1]
    q = (pattern.q[:, :count] - pattern.q[:, count:]) / 2
    intensity = jnp.stack([pattern.intensity[:, :count], pattern.intensity[:, count:]], -1)
    return select(q, jnp.asarray(hk), intensity, intensity > 0, 64)


@pytest.mark.slow
def test_heights_are_undetermined_in_one_projection_and_determined_by_a_tilt_series(thick):
    one = fit(thick, noisy(seen_at(thick, (0.0, 0.0)), 2), CONDITIONS)
    for names in one.undetermined:
        assert {"z of S1", "z of S2"} <= set(names)
        assert not any(name.startswith(("x of Mo", "y of Mo")) for name in names)
    tilts = [(0.0, 0.0), (20.0, 0.0)]
    raised = dataclasses.replace(thick, positions=thick.positions.copy())
    raised.positions[:, 0, 2] += 0.1
    patterns = [noisy(seen_at(thick, tilt), 3 + i) for i, tilt in enumerate(tilts)]
    assert np.abs(np.linalg.norm(patterns[1].lattice - thick.lattice, axis=(1, 2))).min() > 0.05
    series = fit(raised, patterns, CONDITIONS, tilts=tilts)
    for row, names in enumerate(series.undetermined):
        assert not any(name.startswith("z of") for name in names)
        away = np.asarray(series.crystals.positions)[row, :3, 2] - thick.positions[row, :3, 2]
        away -= away.mean()
        assert (np.abs(away) < 4 * series.position_sigma[row, :3, 2] + 2e-3).all()
        assert np.abs(away).max() < 0.03
    assert series.intensity.shape == (2, 2, 64, 2)
    assert (series.r_factor < 0.06).all()


def test_uncertainties_are_the_scatter_of_repeated_fits(truth, queries):
    both = truth.take([1, 1])
    twice = jax.tree.map(lambda x: x[jnp.array([1, 1])], queries)
    fits = [fit(both, noisy(twice, 10 + i), CONDITIONS) for i in range(12)]
    places = np.concatenate([np.asarray(f.crystals.positions)[:, :6, :2] for f in fits])
    places -= places.mean(1, keepdims=True)
    claimed = np.concatenate([f.position_sigma[:, :6, :2] for f in fits])
    # Where the prior decides, fits scatter less than the truth may be off.
    determined = claimed.max(0) < 0.005
    assert determined.sum() >= 4
    scatter = np.sqrt(places.var(0)[determined].mean())
    assert 0.5 < np.sqrt(np.mean(claimed[:, determined] ** 2)) / scatter < 2


def test_layer_group_is_kept_unless_released(truth, queries):
    """A mirror or glide of the candidate is one of the refined crystal."""
    atoms = mx2("WSe2", "1T", vacuum=8).repeat((2, 1, 1))
    metals = np.flatnonzero(atoms.numbers == 74)
    atoms.positions[metals] += np.outer([0.06, -0.06], atoms.cell.array[0] / 6.5)
    crystals = usable.from_atoms([(atoms, {"uid": str(i)}) for i in range(2)])
    lattice, positions, numbers = (
        np.asarray(x, float) for x in (crystals.lattice, crystals.positions, crystals.numbers)
    )
    rotations, images = operations(lattice[0], positions[0], numbers[0].astype(int))
    assert len(rotations) >= 2
    twice = jax.tree.map(lambda x: x[jnp.array([1, 1])], queries)

    def violation(found):
        """Of R u_i = u_g(i), apart from the origin, u the displacements at unit cell."""
        cell = np.asarray(found.crystals.lattice[0], float)
        moved = np.asarray(found.crystals.positions[0], float)
        moved[:, :2] = moved[:, :2] @ np.linalg.inv(cell) @ lattice[0]
        u = moved - positions[0]
        out = [(u @ r.T)[np.argsort(image)] - u for r, image in zip(rotations, images, strict=True)]
        return max(np.abs(x - x.mean(0)).max() for x in out), np.abs(u - u.mean(0)).max()

    kept, moved = violation(fit(crystals, twice, CONDITIONS))
    assert kept < 5e-6 and moved > 0.01
    broken, _ = violation(fit(crystals, twice, CONDITIONS, symmetric=False))
    assert broken > 0.01


def test_tilt_in_a_turned_or_mirrored_setting_gives_the_same_pattern(layer):
    crystal = layer(1)
    tilt = (6.0, -4.0)
    plain = dx.simulate(crystal, CONDITIONS.radiation, 1.0, tilt=tilt)
    c, s = np.cos(0.7), np.sin(0.7)
    for frame in (np.array([[c, s], [-s, c]]), np.array([[c, s], [s, -c]])):
        turned = dataclasses.replace(
            crystal,
            lattice=crystal.lattice @ frame.T,
            positions=crystal.positions.at[:, :2].set(crystal.positions[:, :2] @ frame.T),
        )
        there = tilt_in_setting(tilt, frame)
        pattern = dx.simulate(turned, CONDITIONS.radiation, 1.0, tilt=there, hk=plain.hk)
        np.testing.assert_allclose(pattern.intensity, plain.intensity, rtol=2e-3, atol=1e-4)
    assert np.abs(there - tilt).max() > 1


def test_what_does_not_fit_the_queries_is_refused(truth, queries):
    with pytest.raises(ValueError, match="tilts must have the shape"):
        r_factors(truth, queries, CONDITIONS, tilts=[(0, 0), (20, 0)])
    with pytest.raises(ValueError, match="sigma of pattern 0 must have the shape"):
        r_factors(truth, queries, CONDITIONS, sigma=np.ones(3))
    with pytest.raises(ValueError, match="is not a positive number"):
        r_factors(truth, queries, CONDITIONS, sigma=np.zeros(queries.intensity.shape))


def test_bonds_that_are_told_are_part_of_what_is_fitted():
    """Else B makes up for the weak first ring of graphene."""
    layer = usable.from_atoms([(graphene("C2", a=2.46, vacuum=8), {"uid": "graphene"})])
    hk = half_plane(layer.lattice, CONDITIONS.q_max)
    still = clean_spots(layer.crystal, jnp.asarray(hk), CONDITIONS)
    both = np.concatenate([still.hk[0], -still.hk[0]])
    pattern = dx.simulate(layer.crystal[0], CONDITIONS.radiation, 2.0, 0.9, hk=both, bonds=True)
    intensity = np.asarray(pattern.intensity).reshape(2, -1).T[None]
    query = dataclasses.replace(still, intensity=intensity / intensity.max())
    before = r_factors(layer, query, CONDITIONS, bonds=np.ones(1))
    free, bonded = (fit(layer, query, CONDITIONS, bonds=x) for x in (None, np.ones(1)))
    np.testing.assert_allclose(bonded.r_before, before.r_factor)
    assert bonded.r_factor[0] < 0.005 < 0.03 < free.r_factor[0]
    assert bonded.b_iso[0] == pytest.approx(0.9, abs=0.03)
    assert abs(free.b_iso[0] - 0.9) > 0.1
