"""Alloys are retrieved, weighed, shown and written as what they are."""

import csv
import dataclasses
import json
import warnings

import alloys
import ase.io
import jax
import numpy as np
import pytest
import tiny
from pymatgen.core import Structure

import diffraction as dx
from dd2d_jax.data import sources, usable
from dd2d_jax.data.crystal_set import CrystalSet
from dd2d_jax.libraries.library import Library
from dd2d_jax.matching import evidence
from dd2d_jax.matching.dynamical import dynamical_squares
from dd2d_jax.matching.evidence import log_evidence
from dd2d_jax.matching.hypotheses import measured
from dd2d_jax.matching.isotypes import exchanged
from dd2d_jax.matching.retrieval import retrieve
from dd2d_jax.networks.trained import Model
from dd2d_jax.refinement.fit_model import respond
from dd2d_jax.refinement.refine import fit
from dd2d_jax.reports.comparison import predict
from dd2d_jax.spots import Conditions, Spots, half_plane
from dd2d_jax.util.errors import Notice
from diffraction.kinematic import atom_factors

BEAM = dx.Electrons(80.0)
CONDITIONS = Conditions(BEAM, q_max=1.25, b_iso=0.5, tokens=48)
FILES = {
    "mos2": alloys.MOS2, "ws2": alloys.WS2, "alloy": alloys.ALLOY, "other": alloys.OTHER_ALLOY,
}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny.model()


@pytest.fixture(scope="module")
def crystals(tmp_path_factory) -> CrystalSet:
    folder = alloys.write_cifs(tmp_path_factory.mktemp("alloys") / "cifs", **FILES)
    return usable.from_atoms(sources.files(folder)[0])


@pytest.fixture(scope="module")
def library(model, crystals) -> Library:
    return Library.build(crystals, model)


def pattern(name: str) -> dx.Pattern:
    crystal = dx.Crystal.from_pymatgen(FILES[name])
    return dx.simulate(crystal, BEAM, 1.25, 0.5)


def only(crystals: CrystalSet, name: str) -> CrystalSet:
    return crystals.take(np.flatnonzero(crystals.uid == f"{name}.cif"))


@pytest.fixture(scope="module")
def found(library, model):
    return retrieve(pattern("alloy"), library, model)


@pytest.mark.parametrize("name", list(FILES))
def test_each_is_first_for_its_own_pattern(library, model, name):
    found = retrieve(pattern(name), library, model)
    assert found[0].uid == f"{name}.cif" and found[0].r_factor < 0.01
    assert found[0].probability > 2 * found[1].probability
    assert ("occupancies" in found[0].structure.arrays) == (name in ("alloy", "other"))


def test_what_is_weighed_is_the_structure_factor_with_occupancies(crystals):
    one = only(crystals, "alloy")
    hk = half_plane(one.lattice, 1.25)
    query = spots_of(one, hk[0])
    crystal = one.crystal[0]
    q, shares = evidence._shares(crystal, query, CONDITIONS, np.zeros(2))
    wanted = np.abs(dx.structure_factor(crystal, q, BEAM, b_iso=0.5)) ** 2
    response = evidence._response(q, shares, crystal, np.zeros(len(q)), np.ones(len(q), bool))
    np.testing.assert_allclose(response.coherent, wanted, rtol=1e-4, atol=1e-3)
    b = np.full(len(one.numbers[0]), 0.5, np.float32)
    answer = respond(crystal.numbers, crystal.positions, b, q, BEAM, crystal.occupancy)
    np.testing.assert_allclose(answer.intensity, wanted, rtol=1e-4, atol=1e-3)
    full = atom_factors(dataclasses.replace(crystal, occupancy=None), q, BEAM, 0.5)
    assert np.abs(np.sum(full[0], -1) ** 2 + np.sum(full[1], -1) ** 2 - wanted).max() > 1


def spots_of(crystals: CrystalSet, hk: np.ndarray) -> Spots:
    """All pairs of the first crystal's pattern."""
    upper = hk[(hk != 0).any(-1)]
    made = dx.simulate(
        crystals.crystal[0], BEAM, 2.0, 0.5, hk=np.concatenate([upper, -upper])
    )  # fmt: skip
    pairs = np.asarray(made.intensity).reshape(2, -1).T
    pairs = (pairs / pairs.max()).astype(np.float32)
    order = np.argsort(-pairs.max(1))
    q = np.asarray(made.q)[: len(upper)]
    return Spots(q[order], upper[order], pairs[order], pairs[order] > 0, crystals.lattice[0])


def halved(one: CrystalSet) -> CrystalSet:
    """A crystal whose first atom of 42 is written as two halves at one place."""
    i = int(np.flatnonzero(one.numbers[0] == 42)[0])
    wide = one.padded(8)
    wide.numbers[0, 6], wide.positions[0, 6] = 42, wide.positions[0, i]
    shares = np.ones((1, 8), np.float32)
    shares[0, [i, 6]] = 0.5
    return dataclasses.replace(wide, occupancy=shares)


def test_an_atom_in_two_halves_weighs_the_same_as_whole(crystals):
    whole, query = only(crystals, "mos2"), only(crystals, "alloy")
    halves = halved(whole)
    spots = spots_of(query, half_plane(query.lattice, 1.25)[0])
    values = [log_evidence(one, spots, CONDITIONS, measured()) for one in (whole, halves)]
    np.testing.assert_allclose(*values, atol=0.01)
    hk = np.concatenate([spots.hk, -spots.hk])[None]
    squares = [
        dynamical_squares(one, hk, CONDITIONS, np.zeros(1), np.zeros((1, 2)))
        for one in (whole, halves)
    ]
    np.testing.assert_allclose(*squares, rtol=2e-3, atol=0.05)


def test_multislice_sees_the_mixed_sites(crystals):
    one = only(crystals, "alloy")
    hk = half_plane(one.lattice, 0.8)
    hk = np.concatenate([hk, -hk], 1)
    made = dx.simulate(one.crystal[0], BEAM, 1.0, 0.5, hk=hk[0], method="multislice")
    found = dynamical_squares(one, hk, CONDITIONS, np.zeros(1), np.zeros((1, 2)))[0]
    real = (hk[0] != 0).any(-1)
    np.testing.assert_allclose(found[real], np.asarray(made.intensity)[real], rtol=0.02, atol=0.02)


def test_isotypes_of_an_alloy_exchange_one_of_its_elements(crystals):
    one = only(crystals, "alloy")
    made = exchanged(one.numbers[0], {"Tc0.5W0.5S2"}, one.occupancy[0])
    assert len(made) and not {frozenset(x) for x in made.tolist()} & {frozenset([0, 16, 43, 74])}
    assert all(len(set(x) - {0}) == 3 for x in made.tolist())


def test_files_tell_the_occupancies(found, tmp_path):
    found.write(tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert "01_Mo0_5W0_5S2.cif" in names and "01_Mo0_5W0_5S2.vasp" not in names
    assert {"02_MoS2.vasp", "03_MoS2.vasp"} & names
    path = tmp_path / "out" / "01_Mo0_5W0_5S2.cif"
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        again = usable.from_atoms(sources.files(path)[0])
    assert again.formula.tolist() == ["Mo0.5W0.5S2"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        structure = Structure.from_file(path)
    mixed = [site for site in structure if not site.is_ordered]
    assert len(structure) == 3 and len(mixed) == 1
    assert mixed[0].species.get_el_amt_dict() == pytest.approx({"Mo": 0.5, "W": 0.5})
    told = json.loads((tmp_path / "out" / "found.json").read_text())["candidates"]
    assert sorted(told[0]["structure"]["occupancies"]) == [0.5, 0.5, 1, 1]
    assert all("occupancies" not in c["structure"] for c in told if "." not in c["formula"])
    with (tmp_path / "out" / "found.csv").open() as file:
        assert next(csv.DictReader(file))["formula"] == "Mo0.5W0.5S2"
    page = (tmp_path / "out" / "page.html").read_text()
    assert "Mo0.5W0.5S2" in page and "mixed sites, which are not refined" in page


def test_a_page_predicts_the_pattern_of_the_mixed_crystal(found):
    made = predict(found[0], found.indexed, None, 80.0)
    seen = np.isfinite(made.observed)
    observed, calculated = made.observed[seen], made.calculated[seen]
    np.testing.assert_allclose(calculated, observed, rtol=0.05, atol=2e-3)


def test_a_further_tilt_is_found_between_alloys(found):
    assert 0 < found.next_tilt().separation <= 1


def test_mixed_sites_are_not_refined_and_the_others_are(library, model, found):
    with pytest.warns(Notice, match="not refined, as their sites are mixed: .*alloy.cif"):
        refined = retrieve(pattern("alloy"), library, model, refine=True)
    assert [c.uid for c in refined] == [c.uid for c in found]
    for before, after in zip(found, refined, strict=True):
        mixed = "occupancies" in before.structure.arrays
        assert (after.cif is None) == mixed
        if mixed:
            assert after.r_before == after.r_factor == pytest.approx(before.r_factor)
            np.testing.assert_allclose(after.structure.positions, before.structure.positions)
        else:
            assert after.r_before == pytest.approx(before.r_factor)
    with pytest.raises(ValueError, match="alloy.cif: mixed sites .* are not refined"):
        one = only(library.crystals, "alloy")
        spots = spots_of(one, half_plane(one.lattice, 1.25)[0])
        fit(one, jax.tree.map(lambda x: np.asarray(x)[None], spots), CONDITIONS)


def test_alloys_are_no_parents_of_proposals(library, model, crystals):
    found = retrieve(pattern("alloy"), library, model, propose=True, k=5)
    parents = {c.parent for c in found if hasattr(c, "parent")}
    assert parents and parents <= {"mos2.cif", "ws2.cif"}
    alone = Library.build(crystals.take(np.flatnonzero(crystals.mixed)), model)
    found = retrieve(pattern("alloy"), alone, model, propose=True, k=5)
    assert found[0].uid == "alloy.cif" and not any(hasattr(c, "parent") for c in found)


def test_structures_of_candidates_are_written_by_ase_with_their_shares(found, tmp_path):
    ase.io.write(tmp_path / "a.cif", found[0].structure)
    again = dx.Crystal.from_ase(ase.io.read(tmp_path / "a.cif"))
    assert sorted(np.round(again.occupancy, 4).tolist()) == [0.5, 0.5, 1, 1]
