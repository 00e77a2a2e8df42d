"""Accuracy as the design measures it: right on clean patterns, honest about duplicates."""

import dataclasses
import json
from pathlib import Path

import ase
import ase.build
import jax
import numpy as np
import pytest
import tiny
from ase.build import graphene, mx2
from ase.db import connect
from springs import Springs

import diffraction as dx
from dd2d_jax.data import usable
from dd2d_jax.data.crystal_set import CrystalSet, join
from dd2d_jax.evaluation import snapshots as dynamics
from dd2d_jax.evaluation.answers import answer, leaving_out
from dd2d_jax.evaluation.asked import Asked
from dd2d_jax.evaluation.evaluate import (
    METHODS,
    QUERY_PAIRS,
    evaluate,
    make_patterns,
    make_queries,
    stored,
)
from dd2d_jax.evaluation.physics import physics_rank
from dd2d_jax.lattices.lattice import find
from dd2d_jax.libraries.library import Library
from dd2d_jax.matching.hypotheses import measured
from dd2d_jax.matching.rerank import Query
from dd2d_jax.matching.score import simulate_table
from dd2d_jax.networks.disturbances import LEVELS
from dd2d_jax.networks.trained import Model
from dd2d_jax.spots import Conditions, strongest
from dd2d_jax.util.errors import PatternError

TOP = ("top1", "top3", "top5", "top10", "top50", "top100")


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny.model()


@pytest.fixture(scope="module")
def library() -> CrystalSet:
    sheets = [
        graphene(vacuum=8),
        graphene("Si2", a=3.86, vacuum=8),
        *(mx2(f"{metal}S2", kind, a=a, vacuum=8)
          for metal, a in (("Mo", 3.18), ("Pt", 3.57), ("Hf", 3.65)) for kind in ("2H", "1T")),
    ]  # fmt: skip
    return usable.from_atoms((atoms, {"uid": f"crystal {i}"}) for i, atoms in enumerate(sheets))


@pytest.fixture(scope="module")
def clean(model, library) -> dict:
    return evaluate(model, library.take([5, 0, 3]), library, "clean")


def renamed(crystals: CrystalSet) -> CrystalSet:
    return dataclasses.replace(crystals, uid=np.array([f"twin of {u}" for u in crystals.uid]))


def test_clean_patterns_of_distinct_crystals_are_always_found(clean):
    for name in METHODS:
        assert [clean["methods"][name][top] for top in TOP] == [100.0] * 6, name


def test_the_result_has_the_designs_keys_and_is_json(clean):
    found = json.loads(json.dumps(clean))
    assert {"level", "library", "queries", "methods"} <= set(found)
    assert (found["level"], found["library"], found["queries"]) == ("clean", 8, 3)
    assert list(found["methods"]) == ["neural", "physics", "neural+rerank"]
    for values in found["methods"].values():
        assert set(values) == {*TOP, "ms_per_query"}
        assert values["ms_per_query"] > 0
    methods = found["methods"]
    assert methods["neural+rerank"]["ms_per_query"] > methods["neural"]["ms_per_query"]


def test_the_cell_alone_knows_nothing_of_intensities(model, library):
    """Of a crystal and one of the same cell with other atoms only the intensities tell."""
    numbers = np.where(library.numbers > 0, library.numbers + 1, 0)
    other = dataclasses.replace(renamed(library), numbers=numbers)
    found = evaluate(model, library, join([library, other], {}), "clean")
    assert found["cell_alone"]["top1"] == 0.0 < found["cell_alone"]["top10"]
    assert found["methods"]["physics"]["top1"] == 100.0


def test_duplicates_in_the_library_count_against(model, library):
    """The same structure under another uid scores as high: the true one is second."""
    queries = library.take([2, 4])
    twins = join([library, renamed(queries)], {})
    for order in (np.arange(len(twins)), np.arange(len(twins))[::-1]):
        found = evaluate(model, queries, twins.take(order), "clean")
        for name in METHODS:
            assert found["methods"][name]["top1"] == 0.0, name
            assert found["methods"][name]["top3"] == 100.0, name


def test_queries_that_the_library_lacks_are_named(model, library):
    with pytest.raises(ValueError, match="1 of 2 queries are not in the library.*'twin of cr"):
        queries = join([library.take([0]), renamed(library.take([1]))], {})
        evaluate(model, queries, library, "clean")


def test_unknown_levels_and_no_queries_are_refused(model, library):
    with pytest.raises(ValueError, match="level must be one of .*'dirty'"):
        evaluate(model, library, library, "dirty")
    with pytest.raises(ValueError, match="no queries"):
        evaluate(model, library.take([]), library, "clean")


def test_clean_queries_are_the_simulators_patterns(model, library):
    conditions = model.conditions
    queries = make_queries(library, conditions, LEVELS["clean"], seed=3)
    assert queries.q.shape == (len(library), QUERY_PAIRS, 2)
    patterns = dx.simulate(
        library.crystal, conditions.radiation, conditions.q_max, conditions.b_iso
    )
    for i in range(len(library)):
        real = np.asarray(patterns.mask[i])
        intensity = np.asarray(patterns.intensity[i])[real]
        hk = np.asarray(patterns.hk[i])[real].tolist()
        true = dict(zip(map(tuple, hk), intensity / intensity.max(), strict=True))
        seen = queries.measured[i]
        pairs = np.stack([queries.hk[i], -queries.hk[i]], 1)[seen].tolist()
        assert {tuple(j) for j in pairs} == set(true)
        wanted = [true[tuple(j)] for j in pairs]
        np.testing.assert_allclose(queries.intensity[i][seen], wanted, atol=1e-5)
        np.testing.assert_allclose(queries.lattice[i], library.lattice[i], atol=1e-4)


def test_disturbed_queries_are_drawn_again_from_the_seed(model, library):
    one, again, other = (
        make_queries(library, model.conditions, LEVELS["perturbed"], seed) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one.intensity, again.intensity)
    np.testing.assert_array_equal(one.q, again.q)
    assert np.abs(one.lattice - other.lattice).max() > 1e-3


def test_perturbed_queries_are_strained_by_a_percent(model, library):
    many = library.take(np.zeros(200, int))
    queries = make_queries(many, model.conditions, LEVELS["perturbed"], seed=0)
    strain = np.sqrt(np.linalg.det(queries.lattice) / np.linalg.det(many.lattice)) - 1
    assert np.std(strain) == pytest.approx(0.01, rel=0.2)
    assert abs(strain.mean()) < 0.003
    # Isotropic: the shape of the cell stays.
    lengths = np.linalg.norm(queries.lattice, axis=-1)
    np.testing.assert_allclose(lengths[:, 0] / lengths[:, 1], 1, atol=1e-4)


def test_measured_queries_are_turned_and_their_lattice_is_found(model, library):
    """From patterns without setting or indices, distorted, with a fifth of their spots missing."""
    found = evaluate(model, library, library, "measured")
    assert found["no_lattice"] == []
    for name in ("physics", "neural+rerank"):
        assert found["methods"][name]["top3"] == 100.0, name
    patterns = make_patterns(library, model.conditions, LEVELS["measured"], 0)
    for pattern, lattice in zip(patterns, library.lattice, strict=True):
        assert not pattern.hk.any()
        # Known to a few per cent, whatever the turn.
        area = abs(np.linalg.det(find(pattern).lattice))
        assert area == pytest.approx(abs(np.linalg.det(lattice)), rel=0.12)


def test_a_crystal_whose_superlattice_is_seen_is_found_by_its_own_cell(model, library, monkeypatch):
    """Weak spots of a 2 x 2 make the cell that is found four times the crystal's."""

    def with_satellites(crystals, conditions, *_):
        for i, cell in enumerate(np.asarray(crystals.lattice, float)):
            main = dx.simulate(crystals.crystal[i], conditions.radiation, conditions.q_max, 0.5)
            there = np.asarray(main.mask)
            hk = dx.reflections(2 * cell, 0.8)
            halves = hk[(hk % 2).any(-1)] @ np.linalg.inv(2 * cell).T
            q = np.concatenate([np.asarray(main.q)[there], halves])
            strong = np.asarray(main.intensity)[there]
            intensity = np.append(strong, np.full(len(halves), 0.005 * strong.max()))
            yield dx.Pattern(q, intensity, np.zeros(q.shape, int), np.ones(len(q), bool))

    patterns = list(with_satellites(library, model.conditions))
    area = abs(np.linalg.det(find(patterns[0]).lattice))
    assert area == pytest.approx(4 * abs(np.linalg.det(library.lattice[0])), rel=0.01)
    monkeypatch.setattr("dd2d_jax.evaluation.evaluate.make_patterns", lambda *_: patterns)
    found = evaluate(model, library, library, "measured")
    for name in ("physics", "neural+rerank"):
        assert found["methods"][name]["top1"] == 100.0, name
    assert found["methods"]["neural"]["top3"] == 100.0
    assert found["cell_alone"]["top3"] == 100.0


def test_what_has_no_lattice_is_named_and_ranks_last(model, library, monkeypatch):
    def refuse(pattern):
        raise PatternError("no lattice")

    real, calls = find, []

    def first_fails(pattern):
        calls.append(pattern)
        return refuse(pattern) if len(calls) == 1 else real(pattern)

    monkeypatch.setattr("dd2d_jax.lattices.lattice.find", first_fails)
    found = evaluate(model, library.take([5, 0]), library, "measured")
    assert found["no_lattice"] == ["crystal 5"]
    for values in found["methods"].values():
        assert values["top5"] == 50.0


def test_patterns_none_of_which_has_a_lattice_are_refused(model, library, monkeypatch):
    def refuse(pattern):
        raise PatternError("no lattice")

    monkeypatch.setattr("dd2d_jax.lattices.lattice.find", refuse)
    with pytest.raises(ValueError, match="any of the 2 patterns"):
        evaluate(model, library.take([5, 0]), library, "measured")


def test_a_stored_library_ranks_as_its_crystals_do(model, library, tmp_path):
    Library.build(library, model).save(tmp_path / "lib")
    queries = library.take([5, 0, 3])
    crystals, gallery = stored(model, Library.load(tmp_path / "lib"))
    found = evaluate(model, queries, crystals, "perturbed", gallery=gallery)
    asked = evaluate(model, queries, library, "perturbed")
    for name in METHODS:
        for top in TOP:
            assert found["methods"][name][top] == asked["methods"][name][top]
    assert found["cell_alone"] == asked["cell_alone"]


@pytest.fixture(scope="module")
def snapshots(library, tmp_path_factory) -> Path:
    """Two snapshots each of three crystals, their atoms on springs."""
    path = tmp_path_factory.mktemp("thermal") / "s.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamics, "calculator", lambda _: Springs(10.0))
        settings = dynamics.Settings("springs", 300, time=0.1, snapshots=2)
        dynamics.make(library.take([5, 0, 3]), path, settings)
    return path


def test_thermal_queries_are_snapshots_and_their_crystals_the_answer(model, library, snapshots):
    said = []
    queries = library.take([0, 1, 3, 5])
    found = evaluate(model, queries, library, "thermal", 0, said.append, snapshots)
    assert (found["level"], found["library"], found["queries"]) == ("thermal", 8, 6)
    for name in ("physics", "neural+rerank"):
        assert found["methods"][name]["top1"] == 100.0
    made = json.loads(json.dumps(found["snapshots"]))
    assert made["without"] == ["crystal 1"] and made["crystals"] == 3
    assert (made["calculator"], made["temperature"], made["time"]) == ("springs", 300, 0.1)
    says = "crystals with snapshots: 3, without: 1, the first is 'crystal 1'"
    assert said[0] == f"{snapshots}: {says}"
    # Where the truth is not in the library, it is not found.
    with pytest.raises(ValueError, match="2 of 6 queries are not in the library"):
        evaluate(model, queries, library.take([0, 1, 5]), "thermal", snapshots=snapshots)


def test_thermal_patterns_differ_from_clean_ones_as_far_as_atoms_moved(model, library, snapshots):
    moved = dynamics.read_snapshots(snapshots, library)
    parents = library.take([list(library.uid).index(uid) for uid in moved.uid])
    hot, clean = (make_queries(c, model.conditions, LEVELS["clean"], 0) for c in (moved, parents))
    np.testing.assert_allclose(hot.lattice, clean.lattice, atol=1e-3)
    for i in range(len(moved)):
        there = {tuple(hk): x for hk, x in zip(clean.hk[i], clean.intensity[i], strict=True)}
        strong = hot.measured[i].all(-1) & (hot.intensity[i].min(-1) > 0.1)
        known = np.array([there[tuple(hk)] for hk in hot.hk[i][strong]])
        change = np.abs(hot.intensity[i][strong] - known).max()
        assert 1e-4 < change < 0.4


def test_snapshots_keep_the_setting_in_which_their_crystal_is_known(tmp_path, monkeypatch):
    """A crystal without symmetry, published in another cell: after 2 fs its pattern is its own."""
    cell = np.array([[3.6, 0.3, 0], [-0.8, 4.3, 0], [0, 0, 20.0]])
    atoms = ase.Atoms(
        [29, 79, 28, 46],
        scaled_positions=[(0, 0, 0.5), (0.55, 0.1, 0.6), (0.2, 0.6, 0.47), (0.7, 0.6, 0.55)],
        cell=cell,
        pbc=(True, True, False),
    )
    strange = ase.build.make_supercell(atoms, [[1, 2, 0], [1, 1, 0], [0, 0, 1]])
    strange.rotate(37, "z", rotate_cell=True)
    crystals = usable.from_atoms([(strange, {"uid": "oblique"})])
    monkeypatch.setattr(dynamics, "calculator", lambda _: Springs(10.0))
    dynamics.make(crystals, tmp_path / "s.db", dynamics.Settings("springs", 1.0, time=0.002))
    moved = dynamics.read_snapshots(tmp_path / "s.db", crystals)
    assert np.abs(moved.positions - crystals.positions).max() > 1e-4
    hk = jax.numpy.asarray(dx.reflections(crystals.lattice[0], 1.0))
    hot, clean = (
        np.asarray(dx.simulate(c.crystal[0], dx.Electrons(80.0), 1.0, hk=hk).intensity)
        for c in (moved, crystals)
    )
    np.testing.assert_allclose(hot / hot.max(), clean / clean.max(), atol=0.01)
    assert np.abs(clean - clean[::-1]).max() > 0.1 * clean.max()


def test_snapshots_and_the_level_thermal_need_each_other(model, library, snapshots):
    for level, path in (("thermal", None), ("clean", snapshots)):
        with pytest.raises(ValueError, match=f"must be given together, got level '{level}'"):
            evaluate(model, library, library, level, snapshots=path)


def test_the_network_sees_the_strongest_pairs(model, library):
    queries = make_queries(library, model.conditions, LEVELS["clean"], seed=0)
    few = strongest(queries, 7)
    assert few.q.shape == (len(library), 7, 2)
    peak = queries.intensity.max(-1)
    np.testing.assert_array_equal(few.intensity.max(-1).min(1), np.sort(peak, 1)[:, -7])


def test_a_crystal_that_the_network_misses_is_weighed_where_its_cell_fits(model, library):
    """Graphene behind 150 others in the network's order, and one of another cell behind them."""
    many = join([library.take(np.zeros(150, int) + 4), library.take([0, 1])], {})
    searched = Library(many, np.eye(152, 16, dtype=np.float32), model.fingerprint)
    spots = make_queries(library.take([0]), model.conditions, LEVELS["clean"], 0)
    query = Asked([Query.known(jax.tree.map(lambda x: x[0], spots))])
    cosines = np.linspace(1, 0.5, len(many))
    own = [np.eye(1, 16, dtype=np.float32)]
    rest = (searched, query, own, model.conditions)
    table, kinds = simulate_table(many.crystal, model.conditions), measured()
    assert physics_rank(table, many, query, model.conditions, 150, kinds) == 1
    given = {"cosines": cosines, "embed": model.embed_patterns, "hypotheses": kinds}
    found = answer(*rest, truth=150, **given)
    assert (found.rank, found.right) == (1, True)
    # What is not weighed keeps the network's order.
    behind = answer(*rest, truth=151, **given)
    assert behind.rank >= 100


def test_left_out_crystals_are_not_found_and_their_twins_neither(model, library):
    result = evaluate(model, library, library, "clean", leave_out=True)
    said = result["reliability"]
    assert said["present"]["queries"] == said["absent"]["queries"] == len(library)
    assert said["present"]["first"]["count"] == len(library)
    assert sum(b["true"] for b in said["absent"]["first"]["bins"]) == 0
    assert all(b["true"] == 1 for b in said["absent"]["none"]["bins"])
    assert said["mixed"]["queries"] == 2 * len(library)
    for what in ("right_above_90", "wrong_above_90"):
        shares = 0.9 * said["present"][what] + 0.1 * said["absent"][what]
        assert said["mixed"][what] == pytest.approx(shares)
    losses = [said[kind]["none"]["log_loss"] for kind in ("present", "absent", "mixed")]
    assert losses[2] == pytest.approx(0.9 * losses[0] + 0.1 * losses[1])
    twin = join([library.take([2]), library.take([2])], {})
    assert leaving_out(twin, 0, np.ones(2, bool)).tolist() == [False, False]


def test_none_of_the_library_is_not_claimed_of_perturbed_crystals_that_are_in_it(model, library):
    none = evaluate(model, library, library, "perturbed")["reliability"]["present"]["none"]
    assert none["brier"] < 0.05


def test_known_elements_leave_fewer_rivals(model, library):
    result = evaluate(model, library, library, "clean", elements=True)
    assert result["elements"] == "known"
    # Of 2H and 1T of one metal at most one is before the other.
    assert result["methods"]["neural"]["top3"] == 100.0


@pytest.mark.slow
def test_physics_finds_every_clean_real_crystal(shared_data):
    """20 of C2DB, against each other, twins left out."""
    numbers = np.random.default_rng(4).choice(15204, 20, replace=False) + 1
    with connect(shared_data / "c2db.db") as database:
        rows = [database.get(int(n)) for n in numbers]
    crystals = usable.from_atoms((row.toatoms(), {"uid": row.uid}) for row in rows)
    assert len(crystals) >= 18
    conditions = Conditions(dx.Electrons(80.0), 1.25, 0.5, tokens=48)
    table = simulate_table(crystals.crystal, conditions)
    spots = make_queries(crystals, conditions, LEVELS["clean"], seed=0)
    rows = (jax.tree.map(lambda x, i=i: x[i], spots) for i in range(len(crystals)))
    queries = [Asked([Query.known(row)]) for row in rows]
    for i, query in enumerate(queries):
        assert physics_rank(table, crystals, query, conditions, i, measured()) == 1
