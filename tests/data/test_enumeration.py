"""The enumeration: in ranges, the same each time, nothing twice, all in canonical setting."""

import itertools

import numpy as np
import pytest
from ase.db import connect

from dd2d_jax.crystals.structures import layer, to_atoms
from dd2d_jax.data import enumeration as enumerate
from dd2d_jax.data import usable
from dd2d_jax.data.enumeration import Enumeration, families
from dd2d_jax.data.prototypes.reference import references


@pytest.fixture(scope="module")
def made():
    return Enumeration.parse("enumerate:4000").read(1500, 2100)


def family(prototype: str):
    return next(f for f in families() if f.prototype == prototype)


def test_ranges_join_to_the_whole(made):
    source = Enumeration(4000)
    parts = [source.read(1500, 1777), source.read(1777, 2100)]
    for name in ("uid", "lattice", "formula", "prototype", "known"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_array_equal(joined, getattr(made, name))
    kept = [part.report["kept"] for part in parts]
    assert sum(kept) == len(made) == made.report["kept"]
    skipped = sum(entry["count"] for entry in made.report["skipped"].values())
    assert made.report["rows"] == 600 == len(made) + skipped


def test_crystals_are_in_the_canonical_setting(made):
    for i in range(0, len(made), 25):
        again = layer(to_atoms(made.lattice[i], made.positions[i], made.numbers[i]))
        real = made.numbers[i] > 0
        np.testing.assert_array_equal(again.numbers, made.numbers[i][real])
        np.testing.assert_allclose(again.lattice, made.lattice[i], atol=2e-3)
        np.testing.assert_allclose(again.positions, made.positions[i][real], atol=2e-3)


def test_nothing_is_made_twice(made):
    assert len(set(made.uid.tolist())) == len(made)
    again = usable.from_atoms(
        (made.atoms(i), {"uid": str(made.uid[i])}) for i in range(0, len(made), 3)
    )
    assert again.report["duplicates"]["count"] == 0
    assert not again.report["skipped"]


def test_of_what_symmetry_turns_into_each_other_one_is_taken():
    janus = family("1H X/side")
    _, other, one = janus.elements
    names = [e for e, _ in other]
    assert one == other
    wanted = {frozenset(pair) for pair in itertools.combinations(names, 2)}
    metal = len(janus.elements[0])
    assert len(janus.choices) == metal * len(wanted)
    # Not so where no symmetry joins the two sides.
    lone = family("In2Se3 M/side")
    sizes = [len(e) for e in lone.elements]
    assert len(lone.choices) == sizes[0] * (sizes[1] - 1) * sizes[2]
    # A net of one plane: both orders of two elements are one crystal.
    net = family("honeycomb")
    count = len(net.elements[0])
    known = {str(r.atoms.symbols) for r in references() if r.prototype == "honeycomb"}
    assert len(net.choices) == count * (count + 1) // 2 - len(known)


def test_one_of_three_sites_is_a_choice_of_its_own():
    # Moved by a lattice vector of the small cell, it is no choice of the family, but stays.
    third = family("1H r3 M/one")
    sizes = [len(e) for e in third.elements]
    assert len(third.choices) == sizes[0] * (sizes[1] - 1) * sizes[2]


def test_known_crystals_come_first():
    first = Enumeration(4000).read(0, 5)
    assert first.known.all()
    assert first.uid[0] == "graphene"
    assert first.formula[0] == "C"


def test_there_are_more_than_ten_million():
    total = sum(len(f.choices) for f in families())
    assert total > 10_000_000
    with pytest.raises(ValueError, match="crystals in all"):
        Enumeration.parse(f"enumerate:{total * 2}")


@pytest.mark.parametrize("text", ["enumerate:", "enumerate:x", "enumerate:-3", "enumerate:0"])
def test_what_is_no_number_is_refused(text):
    with pytest.raises(ValueError, match="enumerate:N"):
        Enumeration.parse(text)


def test_a_database_of_them_is_read_back(tmp_path, monkeypatch):
    monkeypatch.setattr(enumerate, "_WRITTEN", 40)
    report = enumerate.write_db(tmp_path / "made.db", 100)
    with connect(tmp_path / "made.db") as database:
        assert database.count() == report["kept"] == 100
        assert database.get(1).uid == "graphene"
    assert [p.name for p in tmp_path.iterdir()] == ["made.db"]
