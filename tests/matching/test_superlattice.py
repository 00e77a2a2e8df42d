"""Weak spots between the strong ones are a superlattice of the parent cell, and are named."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import mx2

import diffraction as dx
from dd2d_jax.lattices.lattice import find
from dd2d_jax.matching import superlattice
from dd2d_jax.matching.rerank import Query, log_none
from dd2d_jax.matching.superlattice import log_satellites, superlattices

MATRICES = {
    "2 x 2": [[2, 0], [0, 2]],
    "3 x 3": [[3, 0], [0, 3]],
    "sqrt(13) x sqrt(13)": [[4, 1], [-1, 3]],
}
# Of TiSe2: the cell's area, angstrom^2, and its reciprocal vectors.
AREA = 3.54**2 * np.sqrt(0.75)
BASIS = np.linalg.inv(np.array([[3.54, 0], [-1.77, 3.54 * np.sqrt(0.75)]])).T


def listed(q, intensity) -> dx.Pattern:
    return dx.Pattern(
        jnp.asarray(q, jnp.float32), jnp.asarray(intensity, jnp.float32),
        jnp.zeros(q.shape, jnp.int32), jnp.ones(len(q), bool),
    )  # fmt: skip


def pattern(matrix, level, kind="1T") -> dx.Pattern:
    crystal = dx.Crystal.from_ase(mx2("TiSe2", kind, a=3.54, thickness=3.1, vacuum=8))
    main = dx.simulate(crystal, q_max=1.1, b_iso=0.5)
    there = np.asarray(main.mask)
    q, intensity = np.asarray(main.q)[there], np.asarray(main.intensity)[there]
    intensity = intensity / intensity.max()
    if matrix is not None:
        cell = np.array(matrix) @ np.asarray(crystal.lattice, float)
        rods = dx.reflections(cell, 0.8)
        extra = rods[(rods != 0).any(-1)] @ np.linalg.inv(cell).T
        far = np.linalg.norm(extra[:, None] - q, axis=-1).min(1) > 0.01
        extra = extra[far]
        random = np.random.default_rng(3)
        weak = level * (0.5 + random.random(len(extra)))
        q, intensity = np.concatenate([q, extra]), np.concatenate([intensity, weak])
    return listed(q, intensity)


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("level", [0.003, 0.03])
def test_the_parent_of_a_superlattice_is_found_and_its_satellites_counted(name, level):
    seen = pattern(MATRICES[name], level)
    indexed = find(seen)
    parents = {one.name: one for one in superlattices(indexed)}
    parent = parents[name]
    assert np.linalg.norm(parent.parent.lattice, axis=1) == pytest.approx([3.54, 3.54], abs=0.01)
    plain = len(find(pattern(None, 0)).q)
    assert len(parent.parent.q) == plain and parent.satellites == len(indexed.q) - plain
    assert np.allclose(parent.matrix @ parent.parent.lattice, indexed.lattice, atol=1e-4)
    places = parent.parent.hk @ np.linalg.inv(parent.parent.lattice).T
    assert np.abs(places - parent.parent.q).max() < 1e-3


def test_a_crystal_without_satellites_has_no_parent():
    assert superlattices(find(pattern(None, 0, "2H"))) == []


def test_few_spots_and_false_ones_that_double_the_cell_do_not_hide_the_crystals_own():
    whole = pattern(None, 0)
    hk = np.array([[1, 0], [0, 3], [-2, 1]]) + [0.5, 0.0]
    strongest = np.argsort(-np.asarray(whole.intensity))[:14]
    q = np.concatenate([np.asarray(whole.q)[strongest], hk @ BASIS])
    intensity = np.append(np.asarray(whole.intensity)[strongest], [0.02, 0.015, 0.01])
    indexed = find(listed(q, intensity))
    assert abs(np.linalg.det(indexed.lattice)) == pytest.approx(2 * AREA, rel=0.01)
    areas = [abs(np.linalg.det(one.parent.lattice)) for one in superlattices(indexed)]
    assert np.abs(np.array(areas) / AREA - 1).min() < 0.01


def test_one_strong_false_spot_between_the_rods_does_not_hide_the_crystals_cell():
    whole = pattern(None, 0)
    q = np.concatenate([np.asarray(whole.q), [[0.5, 1.0]] @ BASIS])
    intensity = np.append(np.asarray(whole.intensity), 0.4)
    indexed = find(listed(q, intensity))
    assert abs(np.linalg.det(indexed.lattice)) == pytest.approx(2 * AREA, rel=0.01)
    (one,) = superlattices(indexed)
    assert abs(np.linalg.det(one.parent.lattice)) == pytest.approx(AREA, rel=0.01)
    assert one.satellites == 1 and len(one.parent.q) == len(indexed.q) - 1


def test_of_nested_parents_the_one_that_keeps_most_spots_is_weighed(monkeypatch):
    """Cells of its own strong spots tell strong and weak ones apart better."""
    crystal = pattern(MATRICES["3 x 3"], 0.01)
    indexed = find(crystal)
    q, intensity = np.asarray(crystal.q), np.asarray(crystal.intensity)
    # False spots double the cell along one axis.
    places = indexed.hk[::5] + np.array([0.5, 0])
    more = places @ np.linalg.inv(indexed.lattice).T
    seen = listed(np.concatenate([q, more]), np.append(intensity, np.full(len(more), 0.002)))
    doubled = dataclasses.replace(find(seen), parent=None)
    area = abs(np.linalg.det(indexed.lattice))
    assert abs(np.linalg.det(doubled.lattice)) == pytest.approx(2 * area, rel=0.01)
    monkeypatch.setattr(superlattice, "_TRIED", 2)
    found = [abs(np.linalg.det(one.parent.lattice)) for one in superlattices(doubled)]
    assert found == pytest.approx([area / 4.5, area], rel=0.01)


def test_weak_satellites_are_likelier_as_such_than_as_spots_like_the_others():
    indexed = find(pattern(MATRICES["3 x 3"], 0.01))
    whole = Query.indexed(indexed, 1.1)
    (parent,) = [one for one in superlattices(indexed) if one.name == "3 x 3"]
    apart = log_none(Query.indexed(parent.parent, 1.1)) + log_satellites(parent, whole)
    assert apart > log_none(whole) + 10


def test_satellites_that_are_not_among_the_spots_compared_say_nothing():
    indexed = find(pattern(MATRICES["3 x 3"], 0.01))
    query = Query.indexed(indexed, 1.1)
    (parent,) = [one for one in superlattices(indexed) if one.name == "3 x 3"]
    unseen = dataclasses.replace(query.whole, measured=np.zeros_like(query.whole.measured))
    assert log_satellites(parent, dataclasses.replace(query, whole=unseen)) == 0
