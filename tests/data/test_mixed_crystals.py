"""Sets of crystals some of which have mixed sites."""

import dataclasses
import json

import alloys
import ase.io
import numpy as np
import pytest
import tiny
from ase.build import mx2
from ase.db import connect

from dd2d_jax.data import crystal_set, sources, usable
from dd2d_jax.data.crystal_set import join, reduced_formula, without_mixed
from dd2d_jax.data.datasets import load, read_source
from dd2d_jax.data.duplicates import groups, twins
from train import inputs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    third = alloys.dichalcogenide({"Mo": 0.3, "W": 0.7}, {"S": 1})
    wrong = alloys.MOS2.copy()
    folder = alloys.write_cifs(
        tmp_path_factory.mktemp("alloys") / "cifs",
        alloy=alloys.ALLOY, other=alloys.OTHER_ALLOY, mos2=alloys.MOS2, third=third,
        twice=alloys.ALLOY.make_supercell([2, 1, 1], in_place=False), wrong=wrong,
    )  # fmt: skip
    path = folder / "wrong.cif"
    path.write_text(path.read_text().replace("0.41305556  1", "0.41305556  1.5"))
    assert "1.5" in path.read_text()
    return folder


@pytest.fixture(scope="module")
def crystals(folder):
    return usable.from_atoms(sources.files(folder)[0])


def row(crystals, name):
    return int(np.flatnonzero(crystals.uid == f"{name}.cif")[0])


def same(one, two):
    for field in dataclasses.fields(one):
        if field.name != "report":
            values = getattr(one, field.name), getattr(two, field.name)
            if field.name in ("lattice", "positions"):
                np.testing.assert_allclose(*values, atol=1e-5)
            else:
                np.testing.assert_array_equal(*values)


def test_formulas_tell_the_shares_of_elements(crystals):
    told = dict(zip(crystals.uid.tolist(), crystals.formula.tolist(), strict=True))
    assert told["alloy.cif"] == "Mo0.5W0.5S2" and told["other.cif"] == "MoS1.2Se0.8"
    assert told["mos2.cif"] == "MoS2" and told["third.cif"] == "Mo0.3W0.7S2"
    # Whole numbers are reduced as ever.
    numbers, shares = np.array([42, 42, 74, 74, 16, 0]), np.array([0.5, 0.5, 0.5, 0.5, 1, 0])
    assert reduced_formula(numbers, shares) == "MoWS"
    assert reduced_formula(np.array([42, 16, 16]), np.array([0.9, 1, 1])) == "Mo0.9S2"


def test_rows_that_cannot_be_are_skipped_and_told(crystals):
    skipped = crystals.report["skipped"]
    assert list(skipped) == ["wrong occupancy"] and skipped["wrong occupancy"]["count"] == 1
    example = skipped["wrong occupancy"]["examples"][0]
    assert example.startswith("wrong.cif") and "an occupancy of 1.5" in example


def test_crystals_that_differ_in_their_shares_are_no_twins(crystals):
    assert crystals.report["duplicates"] == {"count": 1, "examples": ["twice.cif = alloy.cif"]}
    alloy, twice = row(crystals, "alloy"), row(crystals, "twice")
    assert twins(crystals, alloy, crystals).tolist() == [alloy, twice]
    assert sorted(map(len, groups(crystals, 10))) == [1, 1, 1, 2]
    # Nor are those that have one formula.
    both = crystals.take([alloy, alloy])
    both.occupancy[1, both.numbers[1] > 16] = [0.6, 0.4]
    assert len(groups(both, 10)) == 2


def test_only_sets_with_mixed_sites_have_occupancies(crystals):
    alone = crystals.take([row(crystals, "mos2")])
    assert alone.occupancy is None and alone.crystal.occupancy is None
    assert "occupancies" not in crystals.atoms(row(crystals, "mos2")).arrays
    assert crystals.crystal.occupancy.shape == crystals.numbers.shape
    assert crystals.mixed.sum() == 4
    joined = join([alone, crystals, tiny.crystals()], {})
    same(joined.take(range(1, 1 + len(crystals))), crystals)
    assert joined.take([0]).occupancy is None
    assert crystal_set.digest(joined) != crystal_set.digest(
        dataclasses.replace(joined, occupancy=np.ones(joined.numbers.shape, np.float32))
    )


def test_databases_keep_the_shares(crystals, tmp_path):
    crystals.write_db(tmp_path / "some.db")
    same(usable.from_atoms(sources.ase_db(tmp_path / "some.db")[0]), crystals)
    with connect(tmp_path / "some.db") as database:
        one = mx2("MoS2", "2H", vacuum=8)
        for told in ("half", "[0.5]", json.dumps([0.5, "x", 1]), "1", "[1e400, 1, 1]"):
            database.write(one, uid=f"a{told}", occupancies=told if told != "1" else 1)
    found = usable.from_atoms(sources.ase_db(tmp_path / "some.db")[0])
    assert found.report["skipped"]["wrong occupancy"]["count"] == 5


def test_prepared_data_keep_the_shares(crystals, folder, tmp_path):
    for _ in range(2):  # prepared, then read
        same(load("files", folder, str(tmp_path)), crystals)
    same(read_source(folder, str(tmp_path)), crystals)


def test_files_written_of_a_set_keep_the_shares(crystals, tmp_path):
    alloy = row(crystals, "other")
    for name in ("a.cif", "a.extxyz"):
        ase.io.write(tmp_path / name, crystals.atoms(alloy))
        again = usable.from_atoms(sources.files(tmp_path / name)[0])
        assert again.formula.tolist() == ["MoS1.2Se0.8"]
        np.testing.assert_allclose(again.occupancy[0], crystals.occupancy[alloy], atol=1e-6)


def test_training_leaves_mixed_crystals_out(crystals, folder, tmp_path):
    left = without_mixed(crystals)
    assert left.uid.tolist() == ["mos2.cif"] and left.report["kept"] == 1
    assert left.report["skipped"]["partial occupancy"]["count"] == 4
    assert crystals.report["kept"] == 5
    config = tiny.config()
    config.data.update(source="files", path=str(folder), data_dir=str(tmp_path), limit=0)
    assert inputs.load_crystals(config)[0].uid.tolist() == ["mos2.cif"]
