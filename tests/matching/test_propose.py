"""Crystals that are not in the library are proposed from its structure types."""

import dataclasses
import re

import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from ase import Atoms
from ase.build import graphene, mx2
from ase.data import atomic_numbers
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.io.ase import AseAtomsAdaptor

import diffraction as dx
from dd2d_jax.data import usable
from dd2d_jax.data.prototypes.relax import network, ratios, relax_in
from dd2d_jax.data.prototypes.substitute import charges_of, radii, substitutions
from dd2d_jax.lattices import lattice
from dd2d_jax.libraries.library import Library
from dd2d_jax.matching import hypothetical as drafts
from dd2d_jax.matching import propose
from dd2d_jax.matching.retrieval import retrieve
from dd2d_jax.matching.score import r1
from dd2d_jax.networks.trained import Model
from dd2d_jax.spots import pair_intensities

MOS2 = mx2("MoS2", "2H", a=3.18, thickness=3.13, vacuum=8)
OTHERS = {
    "WS2": mx2("WS2", "2H", a=3.18, thickness=3.14, vacuum=8),
    "MoSe2": mx2("MoSe2", "2H", a=3.32, thickness=3.34, vacuum=8),
    "CrS2": mx2("CrS2", "2H", a=3.04, thickness=2.94, vacuum=8),
    "1T-PtS2": mx2("PtS2", "1T", a=3.54, thickness=2.46, vacuum=8),
    "BN": graphene("BN", a=2.50, vacuum=8),
}
COUNT = 250


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny.model()


def built(model: Model, crystals: dict[str, Atoms]) -> Library:
    entries = [(atoms, {"uid": name}) for name, atoms in crystals.items()]
    return Library.build(usable.from_atoms(entries), model)


@pytest.fixture(scope="module")
def library(model) -> Library:
    return built(model, OTHERS)


@pytest.fixture(scope="module")
def pattern() -> dx.Pattern:
    return dx.simulate(dx.Crystal.from_ase(MOS2), dx.Electrons(80.0), 1.25, 0.5)


@pytest.fixture(scope="module")
def proposed(pattern, library, model):
    found = retrieve(pattern, library, model, k=propose.PARENTS)
    return propose.propose(found, library, model, count=COUNT)


def alike(one: Atoms, other: Atoms) -> bool:
    """By pymatgen's default tolerances, in cells of one height, and within 0.3 A."""
    pair = []
    for atoms in (one, other):
        atoms = atoms.copy()
        atoms.cell[2, 2] = 30.0
        pair.append(AseAtomsAdaptor.get_structure(atoms))
    # The cells are primitive and reduced.
    unit = (pair[0].volume / len(one)) ** (1 / 3)
    matchers = (StructureMatcher(), StructureMatcher(stol=0.3 / unit))
    return all(matcher.fit(*pair, skip_structure_reduction=True) for matcher in matchers)


def test_a_crystal_left_out_is_proposed_from_its_relatives(proposed):
    matches = [c for c in proposed if alike(c.structure, MOS2)]
    assert matches and isinstance(matches[0], propose.Proposed)
    assert (matches[0].formula, matches[0].known) == ("MoS2", False)
    exchanged = {"WS2": "W->Mo", "MoSe2": "Se->S", "CrS2": "Cr->Mo"}
    assert matches[0].substitution == exchanged[matches[0].parent]
    assert matches[0].r_factor < 0.05


def test_proposals_lie_on_the_measured_cell(proposed):
    made = [c for c in proposed if isinstance(c, propose.Proposed)]
    assert len(made) > 5
    for candidate in made:
        a, b, _, _, _, gamma = candidate.structure.cell.cellpar()
        np.testing.assert_allclose([a, b, gamma], [3.18, 3.18, 120], rtol=1e-3)


def test_no_proposal_is_another_or_a_crystal_of_the_library(proposed):
    structures = [c.structure for c in proposed]
    for i, one in enumerate(structures):
        assert not any(alike(one, other) for other in structures[:i])
        if isinstance(proposed[i], propose.Proposed):
            # WS2 has MoS2's cell; the others would have to be strained.
            assert not alike(one, OTHERS["WS2"])


def test_uids_are_different_and_safe(proposed):
    uids = [c.uid for c in proposed]
    assert len(set(uids)) == len(uids)
    assert all(re.fullmatch(r"[\w-]+", uid, re.ASCII) for uid in uids)


def test_the_number_simulated_is_bounded(proposed, library):
    assert len(library) < proposed.searched <= len(library) + COUNT


def test_only_given_elements_are_proposed(pattern, library, model):
    found = retrieve(pattern, library, model, k=propose.PARENTS)
    few = propose.propose(found, library, model, elements=["Mo", "S"], count=COUNT, refine=False)
    assert {c.formula for c in few} <= {"MoS2", "MoS", "Mo", "S"}
    assert alike(few[0].structure, MOS2)
    with pytest.raises(ValueError, match="unknown element 'Qq'"):
        propose.propose(found, library, model, elements=["Qq"])
    with pytest.raises(ValueError, match="at least 1"):
        propose.propose(found, library, model, count=0)


def test_a_library_that_has_the_crystal_keeps_it_first(pattern, model):
    library = built(model, {**OTHERS, "1H-MoS2": MOS2})
    found = retrieve(pattern, library, model, k=propose.PARENTS)
    after = propose.propose(found, library, model, count=COUNT, refine=False)
    assert after[0].uid == found[0].uid == "1H-MoS2"
    assert [c.formula for c in after].count("MoS2") == 1


@pytest.mark.slow
def test_nothing_of_the_measured_shape_gives_no_proposal(library, model):
    sites = [(0, 0, 10), (0.9, 2.2, 11)]
    odd = Atoms("MoS", sites, cell=[[2.6, 0, 0], [-0.7, 6.8, 0], [0, 0, 20]], pbc=(1, 1, 0))
    pattern = dx.simulate(dx.Crystal.from_ase(odd), dx.Electrons(80.0), 1.25, 0.5)
    found = retrieve(pattern, library, model, k=3)
    after = propose.propose(found, library, model, count=COUNT)
    assert sorted(c.uid for c in after) == sorted(c.uid for c in found)


def test_substitutions_keep_the_cell_neutral_first_and_hold_only_what_is_allowed():
    own = np.array([atomic_numbers[e] for e in ("S", "Mo")])
    every = substitutions(own, np.array([2, 1]))
    assert charges_of((16, 42), (2, 1)) == (-2, 4)
    assert not (every.numbers == own).all(1).any()
    assert len(np.unique(every.numbers, axis=0)) == len(every.numbers)
    assert ((every.charges * [2, 1]).sum(1)[:20] == 0).all()
    assert (np.diff(every.log_prior) <= 0).all()
    few = substitutions(own, np.array([2, 1]), frozenset([34, 42, 74]))
    assert set(map(tuple, few.numbers.tolist())) == {(34, 42), (34, 74)}


def test_heights_give_way_where_the_cell_is_held():
    """Bonds keep the sums of radii: on a smaller cell the layer is thicker."""
    numbers, cell, positions = MOS2.numbers, MOS2.cell.array[:2, :2], MOS2.positions
    net = network(numbers, cell, positions)
    charges = np.where(numbers == 16, -2, 4)
    same = radii(numbers, charges)
    ratio = ratios(net, same, radii(numbers[None], charges[None]), np.sign(charges))
    np.testing.assert_allclose(ratio, 1)
    thick = []
    for factor in (0.97, 1.0, 1.03):
        start = positions.copy()
        start[:, :2] *= factor
        moved = relax_in(net, factor * cell[None], start[None], ratio)[0]
        thick.append(np.ptp(moved[:, 2]))
    assert thick[0] > thick[1] + 0.05 > thick[2] + 0.1
    assert thick[1] == pytest.approx(3.13, abs=1e-3)


def test_types_are_those_of_the_structure_not_of_the_elements(library):
    crystals = library.crystals
    kinds = {uid: drafts.structure_type(crystals, i)[0] for i, uid in enumerate(crystals.uid)}
    assert kinds["WS2"] == kinds["MoSe2"] == kinds["CrS2"]
    assert len({kinds["WS2"], kinds["1T-PtS2"], kinds["BN"]}) == 3


def test_a_glance_agrees_with_the_simulation(library, model, pattern):
    """Of the parent's coordinates, over the pattern's spots."""
    settings = lattice.canonical_spots(lattice.find(pattern), 1.25, 128)
    parents = propose._parents(library.crystals, np.arange(5), settings, model.conditions)
    family = next(drafts.families(library.crystals, parents, 1, model.conditions, None, 30))
    numbers, positions = family.children()
    # The glance leaves the parent's heights as they are.
    positions[..., 2] = family.fractional[:, 2]
    query = parents[0].query
    crystals = dx.Crystal(
        jnp.asarray(np.broadcast_to(parents[0].cell, (len(numbers), 2, 2)), jnp.float32),
        jnp.asarray(positions, jnp.float32),
        jnp.asarray(numbers, jnp.int32),
    )
    hk = jnp.broadcast_to(query.hk[:48], (len(numbers), 48, 2))
    wide = dataclasses.replace(model.conditions, q_max=2.0)
    intensity = np.asarray(pair_intensities(crystals, hk, wide)[1])
    seen = np.asarray(query.measured[:48])
    values = intensity[:, seen] / intensity[:, seen].max(1, keepdims=True)
    observed = np.asarray(query.intensity[:48])[seen]
    one, other = np.log1p(values / 0.01), np.log1p(observed / 0.01)
    cosine = one @ other / np.linalg.norm(one, axis=1) / np.linalg.norm(other)
    r = np.asarray(r1(np.sqrt(observed)[None, :, None], np.sqrt(values)[..., None], True))
    np.testing.assert_allclose(family.value, cosine - 0.2 * r, atol=2e-3)
