"""Candidates weighed over settings: what is absent counts, and no crystal at all is an answer."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny

import diffraction as dx
from dd2d_jax.data import crystal_set
from dd2d_jax.evaluation.evaluate import make_patterns, make_queries
from dd2d_jax.lattices import lattice
from dd2d_jax.matching import hypotheses
from dd2d_jax.matching.evidence import log_evidence, with_unseen
from dd2d_jax.matching.hypotheses import TEMPERATURE, Hypothesis
from dd2d_jax.matching.rerank import (
    Query,
    compare,
    first_candidates,
    log_none,
    weigh,
)
from dd2d_jax.matching.score import simulate_table
from dd2d_jax.networks.disturbances import LEVELS
from dd2d_jax.spots import Conditions, half_plane, straightened

CONDITIONS = Conditions(dx.Electrons(80.0), q_max=1.25, b_iso=0.5, tokens=48)


@pytest.fixture(scope="module")
def library() -> crystal_set.CrystalSet:
    return tiny.crystals()


@pytest.fixture(scope="module")
def queries(library) -> list[Query]:
    """Measured patterns of the first eight."""
    patterns = make_patterns(library.take(range(8)), CONDITIONS, LEVELS["measured"], 1)
    return [Query.indexed(lattice.find(pattern), CONDITIONS.q_max) for pattern in patterns]


@pytest.fixture(scope="module")
def weighed(library, queries) -> list[np.ndarray]:
    table = simulate_table(library.crystal, CONDITIONS)
    return [
        weigh(library, compare(table, q.settings), q, CONDITIONS, hypotheses.measured())[0]
        for q in queries
    ]


def test_a_measured_pattern_is_its_crystals_among_32_like_ones(weighed):
    ranks = [int((w >= w[i]).sum()) for i, w in enumerate(weighed)]
    assert np.mean(np.array(ranks) == 1) >= 0.6 and max(ranks) <= 6


def test_spots_seen_and_rods_without_a_spot_are_together_all_rods_of_the_cell(queries):
    query = queries[0]
    for s in (0, len(query.whole.lattice) - 1):
        hk = query.whole.hk[s][(query.whole.hk[s] != 0).any(-1)]
        assert len({tuple(x) for x in hk.tolist()}) == len(hk)
        last = np.linalg.norm(query.settings.q[s], axis=-1).max()
        rods = half_plane(np.asarray(query.whole.lattice[s], float), min(last, 1.25))
        wanted = {tuple(x) for x in rods.tolist() if any(x)}
        assert wanted <= {tuple(x) for x in hk.tolist()} or len(hk) == 256


def test_a_strong_spot_that_is_not_there_speaks_against_a_crystal(library):
    """The two strongest spots of a clean pattern are taken away, their rod stays."""
    few = library.take([0])
    spots = make_queries(few, CONDITIONS, LEVELS["clean"], 0)
    without = jax.tree.map(lambda x: np.array(x[0]), spots)
    without.measured[0] = False
    sure = Hypothesis(0.03, 0.1, 0.02, 0.006, missing=0.01)
    blind = dataclasses.replace(sure, missing=0.0)
    told = [float(log_evidence(few, without, CONDITIONS, [h])[0]) for h in (sure, blind)]
    # Two spots missed at one per cent each, less what those that were seen cost.
    seen = int(without.measured.sum())
    assert told[0] - told[1] == pytest.approx(2 * np.log(0.01) + seen * np.log(0.99), abs=0.3)


def test_no_crystal_is_less_probable_than_the_true_and_more_than_a_foreign_one(
    library, queries, weighed
):
    other = dataclasses.replace(
        library, numbers=np.where(library.numbers > 0, 6, 0).astype(np.int32)
    )
    for i, query in enumerate(queries):
        none = log_none(query) / TEMPERATURE
        assert weighed[i][i] > none
        scores = compare(simulate_table(other.crystal, CONDITIONS), query.settings)
        foreign = weigh(other.take([i]), scores[:, [i]], query, CONDITIONS,
                        hypotheses.measured())[0][0]  # fmt: skip
        assert foreign < weighed[i][i]


def test_a_gradient_across_a_pattern_hardly_speaks_against_a_structure_of_any_kind(library):
    spots = jax.tree.map(
        lambda x: np.asarray(x[0]), make_queries(library.take([0]), CONDITIONS, LEVELS["clean"], 0)
    )
    farthest = np.linalg.norm(spots.q, axis=-1).max()
    random = np.random.default_rng(3)

    def of(change: np.ndarray) -> float:
        """Without a structure, of the spots whose mates' intensities differ so (T,)."""
        apart = np.exp(0.5 * np.stack([change, -change], -1)).astype(np.float32)
        return log_none(Query.known(dataclasses.replace(spots, intensity=spots.intensity * apart)))

    along = 2 * spots.q @ (0.5, -0.3) / farthest
    assert of(0 * along) - of(along) < 10
    assert of(along) > of(random.permutation(along)) + 20


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_spots_of_one_ring_have_an_envelope_whatever_their_order(queries, order):
    """Their |q| differ by the errors of a measurement: no slope in q^2 follows from them."""
    angle, length = np.array([0.1, 1.2, 2.3]), np.array([0.9, 0.9005, 0.901])
    level = np.array([1.0, 0.3, 0.05])[order]
    whole = dataclasses.replace(
        jax.tree.map(lambda x: np.asarray(x)[:1, :3], queries[0].whole),
        q=(length * np.array([np.cos(angle), np.sin(angle)])).T[None],
        hk=np.array([[[1, 0], [0, 1], [-1, 1]]]),
        intensity=np.stack([level, level], -1)[None], measured=np.ones((1, 3, 2)),
        lattice=queries[0].whole.lattice[:1],
    )  # fmt: skip
    flat = dataclasses.replace(whole, q=whole.q * (0.9 / length[:, None]))
    value, flat = (
        log_none(dataclasses.replace(queries[0], settings=one, whole=one)) for one in (whole, flat)
    )
    assert np.isfinite(value) and value == pytest.approx(flat, abs=0.2)


def test_of_two_settings_that_score_alike_the_likelier_is_taken(library, queries):
    told = CONDITIONS, hypotheses.measured()
    query, crystal = queries[0], library.take([0])
    every = range(len(query.settings.lattice))

    def only(*rows: int) -> Query:
        return jax.tree.map(lambda x: np.asarray(x)[list(rows)], query)

    alone = [float(weigh(crystal, np.zeros((1, 1)), only(s), *told).value[0]) for s in every]
    best = int(np.argmax(alone))
    # Others are as good by symmetry.
    less = [s for s in every if alone[s] < alone[best] - 0.01]
    other = max(less, key=lambda s: alone[s])
    for pair in ((best, other), (other, best)):
        found = weigh(crystal, np.zeros((2, 1)), only(*pair), *told)
        assert found.setting[0] == pair.index(best)
        assert found.value[0] == pytest.approx(alone[best], abs=1e-3)


def test_known_spots_are_one_setting_and_say_nothing_of_what_is_absent(queries):
    spots = jax.tree.map(lambda x: np.asarray(x[0]), queries[0].settings)
    query = Query.known(spots)
    assert query.settings.lattice.shape == (1, 2, 2)
    assert (query.whole.mask == (query.whole.hk != 0).any(-1)).all()


def test_half_of_the_candidates_fit_the_cell_that_was_found():
    found, every = np.array([7, 3, 9, 5]), np.array([1, 3, 2, 4, 6])
    assert first_candidates(found, every, 4).tolist() == [7, 3, 1, 2]
    assert first_candidates(every, every, 5).tolist() == every.tolist()


def test_the_settings_of_the_cell_that_was_found_are_told_from_those_of_twice_its_area(queries):
    for query in queries:
        area = np.abs(np.linalg.det(query.settings.lattice))
        assert 0 < query.found.sum() < len(query.found)
        np.testing.assert_allclose(area[query.found], area.min(), rtol=1e-4)
        np.testing.assert_allclose(area[~query.found], 2 * area.min(), rtol=1e-4)


def test_rods_are_added_behind_the_spots(queries):
    whole = with_unseen(queries[0].settings, 1.0, 16, 8)
    assert whole.hk.shape[1:] == (24, 2)
    assert not whole.measured[:, 16:].any() and (whole.intensity[:, 16:] == 0).all()
    wide = with_unseen(queries[0].settings, 1.0, 200, 8)
    used = (wide.hk != 0).any(-1)
    assert used.sum() > 8 * len(used) and not used.all()
    assert (used[:, :-1] >= used[:, 1:]).all()  # padding comes last and is not computed


def test_the_weaker_of_mates_that_differ_a_hundredfold_counts_as_hidden():
    pattern = dx.simulate(tiny.crystals().take([0]).crystal[0], dx.Electrons(80.0), 1.25, 0.5)
    q = np.asarray(pattern.q)[:, :2]
    strong = int(np.argmax(np.where(pattern.mask, pattern.intensity, 0)))
    mate = int(np.linalg.norm(q + q[strong], axis=1).argmin())
    seen = {}
    for factor in (1 / 30, 1 / 300):
        intensity = np.array(pattern.intensity)
        intensity[mate] = factor * intensity[strong]
        shaded = dataclasses.replace(pattern, intensity=intensity)
        seen[factor] = Query.indexed(lattice.find(shaded), 1.25).whole.measured[0].sum()
    assert seen[1 / 300] == seen[1 / 30] - 1


def test_straightened_intensities_are_those_that_a_power_was_taken_of(queries):
    spots = queries[0].whole
    seen = spots.measured & (spots.intensity > 0.05)
    sigma = np.where(seen, 0.01 * spots.intensity, 0).astype(np.float32)
    shown = dataclasses.replace(spots, intensity=spots.intensity**0.5, sigma=sigma)
    counts = straightened(shown, np.full(len(spots.lattice), 0.5))
    np.testing.assert_allclose(counts.intensity, spots.intensity, rtol=1e-4)
    slope = 2 * shown.intensity * sigma
    np.testing.assert_allclose(counts.sigma[seen], np.maximum(slope[seen], 1e-3), rtol=1e-3)
    assert (counts.sigma[~seen] == 0).all()
    assert straightened(shown, 1.0) is shown
