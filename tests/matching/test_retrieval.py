"""The right crystal first, however its pattern was taken and however its cell was written."""

import dataclasses

import ase
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from ase.build import graphene, mx2
from seen import WANTED, litharge, simulated, trihalide, turned

import diffraction as dx
from dd2d_jax.data import usable
from dd2d_jax.data.crystal_set import reduced_formula
from dd2d_jax.libraries.library import Library
from dd2d_jax.matching import readings
from dd2d_jax.matching.found import Found
from dd2d_jax.matching.retrieval import retrieve
from dd2d_jax.networks.trained import Model
from dd2d_jax.reports.conclusion import conclusion
from dd2d_jax.util.errors import Notice, PatternError

NEAR = {
    "1T-MoS2": mx2("MoS2", "1T", a=3.18, vacuum=8),
    "1H-WS2": mx2("WS2", "2H", a=3.16, vacuum=8),
    "1H-MoSe2": mx2("MoSe2", "2H", a=3.29, vacuum=8),
    "1H-PtS2": mx2("PtS2", "2H", a=3.54, vacuum=8),
    "1T-SnS2": mx2("SnS2", "1T", a=3.66, vacuum=8),
    "silicene": graphene("Si2", a=3.86, vacuum=8),
    "CrCl3": trihalide("Cr2Cl6", 6.05),
    "CrBr3": trihalide("Cr2Br6", 6.43),
    "FeTe": litharge("Fe2Te2", 3.82, 1.75),
    "FeS": litharge("Fe2S2", 3.68, 1.27),
}


@pytest.fixture(scope="module")
def model() -> Model:
    """Untrained: it sees a crystal as its clean pattern, which is all that is needed here."""
    return tiny.model()


@pytest.fixture(scope="module")
def library(model) -> Library:
    entries = [(atoms, {"uid": name}) for name, atoms in {**NEAR, **WANTED}.items()]
    return Library.build(usable.from_atoms(entries), model)


@pytest.mark.parametrize("name", WANTED)
def test_right_crystal_is_first_at_any_rotation_and_from_below(name, library, model):
    for degrees, mirrored in ((0, False), (73, False), (201, True)):
        found = retrieve(turned(simulated(WANTED[name]), degrees, mirrored), library, model)
        assert found[0].uid == name
        assert found[0].r_factor < 1e-3
        assert found[0].score > found[1].score + 1e-4


@pytest.mark.parametrize("name", WANTED)
def test_right_crystal_is_first_at_another_energy_and_reach(name, library, model):
    """The library is simulated at 80 keV to 1.25 1/angstrom."""
    for energy, q_max in ((200.0, 1.25), (60.0, 1.5), (80.0, 1.0)):
        pattern = turned(simulated(WANTED[name], energy, q_max), 31)
        assert retrieve(pattern, library, model)[0].uid == name


@pytest.mark.parametrize("name", ["1H-MoS2", "1T-PtS2", "CrI3", "FeSe", "phosphorene"])
def test_few_are_weighed_of_an_elliptic_camera_and_the_right_one_is_among_them(
    name, library, model
):
    """Its cell fits, by a shear of 2.7 %, though the network never saw such patterns."""
    for degrees in (0, 40, 75):
        axis = np.array([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))])
        stretch = np.eye(2) + 0.054 * (np.outer(axis, axis) - np.eye(2) / 2)
        pattern = simulated(WANTED[name])
        pattern = dataclasses.replace(pattern, q=pattern.q @ jnp.asarray(stretch, jnp.float32))
        assert retrieve(pattern, library, model, rerank=2, k=1)[0].uid == name


@pytest.mark.parametrize("name", ["graphene", "1H-MoS2", "CrI3", "phosphorene", "ReSSe"])
def test_right_crystal_is_first_though_its_intensities_are_a_power_of_counts(name, library, model):
    pattern = turned(simulated(WANTED[name]), 31)
    pattern = dataclasses.replace(pattern, intensity=pattern.intensity**0.5)
    found = retrieve(dataclasses.replace(pattern, power_error=0.2), library, model)
    assert found[0].uid == name
    assert found[0].power == pytest.approx(0.5, abs=0.07)
    assert found[0].r_factor < 0.1 < retrieve(pattern, library, model, k=20)[0].r_factor
    assert all(c.power == 1 for c in retrieve(pattern, library, model))


@pytest.mark.parametrize(("formula", "a"), [("C2", 2.46), ("BN", 2.51)])
def test_a_layer_whose_bonds_are_seen_is_first_and_shown_with_them(formula, a):
    atoms = graphene(formula, a=a, vacuum=8)
    pattern = dx.simulate(dx.Crystal.from_ase(atoms), q_max=1.5, b_iso=0.5, bonds=True)
    found = retrieve(pattern, scale_error=0.005)
    assert found[0].formula == reduced_formula(atoms.numbers)
    assert found[0].flake is None
    assert found[0].r_factor < 0.01
    assert found.none < 0.1


@pytest.mark.parametrize("name", WANTED)
def test_right_crystal_is_first_whatever_cell_it_was_written_in(name, library, model):
    """The library's cell is not the user's: a supercell, a skewed cell, the layer upside down."""
    atoms = WANTED[name]
    skewed = atoms.copy()
    skewed.set_cell(np.array([[1, 1, 0], [-1, 0, 0], [0, 0, 1]]) @ atoms.cell.array)
    below = atoms.copy()
    below.rotate(180, "x", rotate_cell=True)
    below.set_cell(np.diag([1, 1, -1]) @ below.cell.array)
    for other in (atoms.repeat((2, 1, 1)), skewed, below):
        found = retrieve(turned(simulated(other), 12), library, model)
        assert found[0].uid == name
        assert found[0].r_factor < 1e-3


@pytest.mark.parametrize("name", ["CrI3", "FeSe", "ReSSe"])
def test_library_may_hold_the_crystal_in_any_cell(name, library, model):
    """The same embedding and the same first place from a cell that is neither small nor upright."""
    atoms = WANTED[name].repeat((1, 2, 1))
    atoms.rotate(40, "z", rotate_cell=True)
    crystals = usable.from_atoms([(atoms, {"uid": name})])
    made = Library.build(crystals, model)
    place = list(library.crystals.uid).index(name)
    np.testing.assert_allclose(made.embeddings[0], library.embeddings[place], atol=1e-3)
    assert retrieve(simulated(WANTED[name]), made, model)[0].r_factor < 1e-3


def test_order_scale_and_units_of_intensity_do_not_matter(library, model):
    pattern = turned(simulated(WANTED["CrI3"]), 50)
    mask = np.asarray(pattern.mask)
    rows = np.column_stack([np.asarray(pattern.q), np.asarray(pattern.intensity)])[mask]
    first = retrieve(pattern, library, model)
    mixed = np.random.default_rng(0).permutation(rows)
    for other in (rows, mixed, rows * (1, 1, 1e6), rows * (1, 1, 1e-6), rows.tolist()):
        found = retrieve(other, library, model)
        assert [c.uid for c in found] == [c.uid for c in first]
        np.testing.assert_allclose([c.score for c in found], [c.score for c in first], rtol=2e-3)
        np.testing.assert_allclose(
            [c.r_factor for c in found], [c.r_factor for c in first], atol=1e-3
        )


def test_some_missing_and_spurious_spots_do_no_harm(library, model):
    random = np.random.default_rng(5)
    for name, atoms in WANTED.items():
        pattern = turned(simulated(atoms), 77)
        mask = np.asarray(pattern.mask) & (random.random(pattern.mask.shape) > 0.2)
        rows = np.column_stack([np.asarray(pattern.q), np.asarray(pattern.intensity)])[mask]
        rows[:, 2] *= np.exp(random.normal(0, 0.1, len(rows)))
        stray = [(0.711, 0.413, 0.1 * rows[:, 2].max())]
        found = retrieve(np.concatenate([rows, stray]), library, model)
        # Graphene and BN differ by less than the noise.
        assert found[0].uid in (("graphene", "BN") if name in ("graphene", "BN") else (name,))


def test_a_false_spot_that_makes_a_multiple_of_the_cell_does_not_hide_the_crystal():
    atoms = mx2("MoS2", "2H", 3.18, 3.13, vacuum=8)
    lattice = np.asarray(dx.Crystal.from_ase(atoms).lattice, float)
    pattern = simulated(atoms)
    seen = np.asarray(pattern.intensity) > 2e-3 * np.asarray(pattern.intensity).max()
    rows = np.c_[np.asarray(pattern.q), np.asarray(pattern.intensity)][seen]
    dust = np.array([1 / 3, 1 / 3]) @ np.linalg.inv(lattice).T
    found = retrieve(np.vstack([rows, [*dust, 0.03 * rows[:, 2].max()]]))
    assert abs(np.linalg.det(found.indexed.lattice)) > 2.9 * abs(np.linalg.det(lattice))
    assert found[0].formula == "MoS2" and found[0].probability > 0.9
    assert found.superlattice.satellites == 1 and found.superlattice.may_be_false
    assert "superlattice" not in conclusion(found) and not any(c.superlattice for c in found)


def test_a_wrong_scale_costs_less_where_a_larger_error_is_allowed(library, model):
    pattern = simulated(WANTED["CrI3"])
    wrong = dataclasses.replace(pattern, q=pattern.q * 1.05)
    scores = []
    for error in (0.02, 0.03, 0.05):
        found = retrieve(wrong, library, model, k=3, scale_error=error)
        scores.append({c.uid: c.score for c in found}["CrI3"])
    # What is strained as no true crystal ever was has the same few per cent in all.
    assert scores[0] <= scores[1] <= scores[2]


def test_candidates_say_what_they_are(library, model):
    found = retrieve(turned(simulated(WANTED["1H-MoS2"]), 20), library, model, k=4)
    assert isinstance(found, Found)
    assert len(found) == 4
    assert found.searched == len(library) == len(WANTED) + len(NEAR)
    assert found.indexed.explained == 1.0
    first = found[0]
    assert (first.uid, first.formula, first.prototype) == ("1H-MoS2", "MoS2", "")
    assert first.known is False
    assert isinstance(first.structure, ase.Atoms)
    assert sorted(first.structure.get_chemical_symbols()) == ["Mo", "S", "S"]
    assert first.structure.info["uid"] == "1H-MoS2"
    assert first.structure.cell.cellpar()[0] == pytest.approx(3.16, abs=1e-4)
    assert first.structure.pbc.tolist() == [True, True, False]
    assert first.r_before == first.r_factor < 1e-3
    assert first.b_iso == pytest.approx(0.5)
    assert first.similarity == pytest.approx(1.0, abs=1e-3)
    # What is shown beside the query is the query, for the exact crystal.
    seen = first.query.measured
    np.testing.assert_allclose(first.simulated[seen], first.query.intensity[seen], atol=1e-3)


def test_candidates_come_best_first(library, model):
    for rerank in (0, 5, 100):
        found = retrieve(simulated(WANTED["CrI3"]), library, model, k=7, rerank=rerank)
        values = [c.score for c in found]
        assert values == sorted(values, reverse=True)
        assert len({c.uid for c in found}) == 7


def test_a_reading_that_is_far_behind_is_left_out_and_changes_nothing(library, model, monkeypatch):
    pattern = simulated(WANTED["CrI3"])  # whose weak spots may be a superlattice's, in three ways
    count = []
    whole = readings.weigh_twice
    monkeypatch.setattr(readings, "weigh_twice", lambda once: count.append(once) or whole(once))
    few = retrieve(pattern, library, model)
    assert len(count) == 1
    monkeypatch.setattr(readings, "_FAR", np.inf)
    every = retrieve(pattern, library, model)
    assert len(count) == 1 + 4
    assert few[0].uid == every[0].uid == "CrI3"
    assert few.none == pytest.approx(every.none, abs=1e-4)
    for one, other in zip(few, every, strict=False):
        assert one.probability == pytest.approx(other.probability, abs=1e-4)


def test_without_reranking_the_networks_order_stays(library, model):
    found = retrieve(simulated(WANTED["BN"]), library, model, k=100, rerank=0)
    assert [c.score for c in found] == [c.similarity for c in found]
    # Cosines of all settings and crystals, written out.
    assert found[0].uid == "BN"
    assert len(found) == len(library)


def test_k_and_rerank_beyond_the_library_give_all_of_it(library, model):
    for rerank in (1, 1000):
        found = retrieve(simulated(WANTED["FeSe"]), library, model, k=1000, rerank=rerank)
        assert sorted(c.uid for c in found) == sorted(library.crystals.uid)
        assert found[0].uid == "FeSe"


def test_a_further_lattice_seen_beyond_q_max_alone_is_left_out_and_told(library, model):
    """Outer spots of graphene about MoS2's: its inner ones are behind others, or too weak."""
    inner = turned(simulated(WANTED["1H-MoS2"]), 5)
    outer = turned(simulated(WANTED["graphene"], q_max=1.8), 17)
    rows = [
        np.column_stack([x.q, x.intensity / x.intensity.max()])[np.asarray(x.mask)]
        for x in (inner, outer)
    ]
    away = np.linalg.norm(rows[1][:, :2], axis=1)
    for least, why in ((1.3, "no spot lies within"), (1.2, "lie on a line")):
        some = away > least
        # Of those at 1.24 one alone.
        some &= (away > 1.3) | (np.arange(len(away)) == np.flatnonzero(some)[0])
        with pytest.warns(Notice, match=f"a lattice of .* spots was left out: .*{why}"):
            found = retrieve(np.concatenate([rows[0], rows[1][some]]), library, model)
        assert found[0].uid == "1H-MoS2"
        assert found.others == ()
    with pytest.raises(PatternError, match="no spot lies within q_max"):
        retrieve(rows[1][away > 1.3], library, model)


def test_k_beyond_rerank_is_filled(library, model):
    assert len(retrieve(simulated(WANTED["FeSe"]), library, model, k=9, rerank=2)) == 9


def test_a_cell_far_from_all_in_a_library_is_in_none_of_it(model):
    small = usable.from_atoms([(WANTED[name], {"uid": name}) for name in ("1H-MoS2", "graphene")])
    places = np.random.default_rng(0).random((30, 2))
    large = ase.Atoms("C30", cell=[20, 22.6, 20], pbc=(True, True, False))
    large.set_scaled_positions(np.c_[places, np.full(30, 0.5)])
    found = retrieve(simulated(large), Library.build(small, model), model)
    assert 0.99 < found.none < 1
    assert sum(c.probability for c in found) + found.none == pytest.approx(1, abs=1e-5)


def test_elements_leave_only_crystals_made_of_them(library, model):
    pattern = simulated(WANTED["1H-MoS2"])
    for elements in (["Mo", "W", "S"], "Mo, W,S"):
        found = retrieve(pattern, library, model, k=50, elements=elements)
        assert {c.uid for c in found} == {"1H-MoS2", "1T-MoS2", "1H-WS2"}
        assert found.searched == 3
        assert found[0].uid == "1H-MoS2"
    # Elements that no crystal uses do no harm, crystals of fewer elements stay.
    found = retrieve(pattern, library, model, elements=["C", "Si", "Au"])
    assert {c.uid for c in found} == {"graphene", "silicene"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"elements": ["Mo", "Qq"]}, "unknown element 'Qq'"),
        ({"elements": ["X"]}, "unknown element 'X'"),
        ({"elements": ["Au"]}, "no crystal made only of Au"),
        ({"elements": []}, "no element was named"),
        ({"k": 0}, "k must be at least 1"),
        ({"rerank": -1}, "rerank at least 0"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_line(options, words, library, model):
    with pytest.raises(ValueError, match=words) as error:
        retrieve(simulated(WANTED["BN"]), library, model, **options)
    assert "\n" not in str(error.value)


def test_patterns_that_cannot_be_used_are_refused(library, model):
    for bad in (np.zeros((0, 3)), np.ones((4, 2)), [[np.nan, 0, 1]] * 4, "no such file.csv", 3.0):
        with pytest.raises((PatternError, FileNotFoundError)) as error:
            retrieve(bad, library, model)
        assert "\n" not in str(error.value)
    batch = jax.tree.map(lambda x: x[None], simulated(WANTED["BN"]))
    with pytest.raises(PatternError, match="a single pattern"):
        retrieve(batch, library, model)


class Signal:
    """As hyperspy gives it: axes with scale, offset, size and units, data with rows along y."""

    def __init__(self, data: np.ndarray, scale: float):
        self.data = data
        axes = [
            type("Axis", (), {"name": name, "units": "1/nm", "scale": 10 * scale, "size": size,
                              "offset": -10 * scale * (size // 2), "index_in_array": place})()
            for name, size, place in (("kx", data.shape[1], 1), ("ky", data.shape[0], 0))
        ]  # fmt: skip
        self.axes_manager = type(
            "Axes", (), {"signal_axes": axes, "navigation_axes": (), "navigation_size": 0,
                         "navigation_dimension": 0, "signal_dimension": 2}
        )()  # fmt: skip


def test_a_calibrated_signal_is_retrieved(library, model):
    """An image of Gaussian spots in 1/nm, as a microscope's software saves it."""
    scale, size = 0.01, 257
    pattern = turned(simulated(WANTED["1T-PtS2"], q_max=1.2), 17)
    y, x = (np.mgrid[:size, :size] - size // 2) * scale
    image = 20 * np.exp(-(x**2 + y**2) / (2 * 0.012**2))
    strongest = float(pattern.intensity.max())
    for q, value, real in zip(
        *(np.asarray(f) for f in (pattern.q, pattern.intensity, pattern.mask)), strict=True
    ):
        if real:
            spot = np.exp(-((x - q[0]) ** 2 + (y - q[1]) ** 2) / (2 * 0.012**2))
            image += value / strongest * spot
    found = retrieve(Signal(image.astype(np.float32), scale), library, model)
    assert found[0].uid == "1T-PtS2"


@pytest.mark.slow
def test_refinement_keeps_the_exact_crystal_first(library, model):
    pattern = turned(simulated(WANTED["phosphorene"]), 33)
    found = retrieve(pattern, library, model, k=5, refine=True)
    assert found[0].uid == "phosphorene"
    unrefined = retrieve(pattern, library, model, k=5)
    assert [c.uid for c in found] == [c.uid for c in unrefined]
    assert found[0].r_factor < 0.02
    assert found[0].r_factor <= found[0].r_before + 1e-3
