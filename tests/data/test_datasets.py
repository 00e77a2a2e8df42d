"""Data sets: whole, counted, prepared once for each content, and split without leaks."""

import json
import os
import time
import zipfile
from itertools import islice

import ase
import ase.io
import numpy as np
import pytest
from ase.build import bulk, graphene, mx2
from ase.db import connect

from dd2d_jax.crystals.structures import layer
from dd2d_jax.data import crystal_set, sources, usable
from dd2d_jax.data.crystal_set import CrystalSet
from dd2d_jax.data.datasets import load
from dd2d_jax.data.splits import split
from dd2d_jax.data.usable import from_atoms
from dd2d_jax.util.errors import StructureError

METALS = ("Mo", "W", "Ti", "Zr", "Hf", "V", "Nb", "Ta")


def crystals() -> list[tuple[ase.Atoms, dict]]:
    """Sixteen sheets, two of each formula."""
    return [
        (mx2(f"{metal}S2", kind, a=3.2 + 0.03 * i, vacuum=8), {"uid": f"{metal}S2-{kind}"})
        for i, metal in enumerate(METALS)
        for kind in ("2H", "1T")
    ]


def mixed() -> list[tuple[ase.Atoms | StructureError, dict]]:
    """Four that can be used, one of them twice, and five that cannot."""
    twice = graphene(vacuum=8)
    clash = graphene(vacuum=8)
    clash.append(ase.Atom("C", clash.positions[0]))
    return [
        *crystals()[:2],
        (twice, {"uid": "graphene", "known": True, "prototype": "C"}),
        (twice.repeat((2, 1, 1)), {"uid": "graphene again"}),
        (bulk("Cu"), {"uid": "copper"}),
        (bulk("Ni"), {"uid": "nickel"}),
        (clash, {"uid": "clash"}),
        (twice, {"uid": "graphene"}),
        (StructureError("unreadable", "torn [/]"), {"uid": "torn"}),
    ]


def write_db(path, entries) -> None:
    with connect(path) as database:
        for atoms, info in entries:
            database.write(atoms, **info)


def same(one: CrystalSet, two: CrystalSet) -> None:
    for name in ("uid", "formula", "lattice", "positions", "numbers", "known", "prototype"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_the_report_adds_up(capsys):
    made = from_atoms(mixed())
    report = made.report
    skipped = {reason: entry["count"] for reason, entry in report["skipped"].items()}
    assert skipped == {
        "bulk": 2,
        "two atoms on one site": 1,
        "duplicate uid": 1,
        "unreadable": 1,
    }
    assert report["rows"] == 9 and report["kept"] == len(made) == 4
    assert report["kept"] + sum(skipped.values()) == report["rows"]
    assert report["duplicates"] == {"count": 1, "examples": ["graphene again = graphene"]}
    assert report["skipped"]["bulk"]["examples"][0].startswith("copper: ")
    usable.print_report(report, "[/] mixed")
    shown = capsys.readouterr().err
    assert "[/] mixed" in shown and "torn: torn [/]" in shown


def test_a_source_without_one_usable_crystal_is_an_error():
    with pytest.raises(ValueError, match="no crystal can be used out of 1 .1 bulk"):
        from_atoms([(bulk("Cu"), {"uid": "copper"})])
    with pytest.raises(ValueError, match="the source is empty"):
        from_atoms([])


def test_crystals_are_padded_and_come_back():
    made = from_atoms(mixed())
    assert made.formula.tolist() == ["MoS2", "MoS2", "C", "C"]
    assert made.known.tolist() == [False, False, True, False]
    assert made.prototype.tolist() == ["", "", "C", ""]
    assert made.numbers.shape == (4, 3) and made.numbers[2].tolist() == [6, 6, 0]
    assert made.lattice.dtype == made.positions.dtype == np.float32
    atoms = made.atoms(0)
    assert atoms.info["uid"] == "MoS2-2H" and atoms.pbc.tolist() == [True, True, False]
    assert atoms.cell[2, 2] == pytest.approx(np.ptp(atoms.positions[:, 2]) + 15)
    np.testing.assert_allclose(layer(atoms).positions, made.positions[0], atol=1e-5)
    assert made.take([2, 0]).uid.tolist() == ["graphene", "MoS2-2H"]
    batch = made.crystal
    assert batch.numbers.shape == (4, 3) and batch.positions.shape == (4, 3, 3)


def test_an_ase_database_round_trip_changes_nothing(tmp_path):
    made = from_atoms(mixed())
    made.write_db(tmp_path / "out.db")
    again = load("ase_db", tmp_path / "out.db", data_dir=str(tmp_path / "prepared"))
    assert again.uid.tolist() == made.uid.tolist()
    assert again.known.tolist() == made.known.tolist()
    np.testing.assert_allclose(again.lattice, made.lattice, atol=1e-5)
    np.testing.assert_allclose(again.positions, made.positions, atol=1e-5)
    with pytest.raises(FileExistsError, match="exists already"):
        made.write_db(tmp_path / "out.db")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["out.db", "prepared"]


def test_a_uid_that_the_database_cannot_keep_leaves_nothing_behind(tmp_path):
    made = from_atoms([(graphene(vacuum=8), {"uid": "1e5"})])
    with pytest.raises(ValueError, match="reads as a number"):
        made.write_db(tmp_path / "out.db")
    assert not list(tmp_path.iterdir())
    from_atoms([(graphene(vacuum=8), {"uid": "12"})]).write_db(tmp_path / "out.db")
    assert load("ase_db", tmp_path / "out.db", str(tmp_path)).uid.tolist() == ["12"]


def test_a_set_is_prepared_once_for_each_content(tmp_path, monkeypatch, capfd):
    path, prepared = tmp_path / "c.db", str(tmp_path / "prepared")
    entries = [(atoms, info) for atoms, info in crystals()]
    write_db(path, entries[:8])
    first = load("ase_db", path, prepared)
    assert "kept" in capfd.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(usable, "layer", None)  # a second preparation would fail
        same(first, load("ase_db", path, prepared))
    assert capfd.readouterr() == ("", "")
    assert first.report == load("ase_db", path, prepared).report
    write_db(path, entries[8:])
    os.utime(path, (1, 1))
    assert len(load("ase_db", path, prepared)) == 16
    assert len(first) == 8


def test_a_failed_preparation_leaves_nothing_to_be_taken_for_a_set(tmp_path):
    path = tmp_path / "c.db"
    write_db(path, [(bulk("Cu"), {"uid": "copper"})])
    for _ in range(2):
        with pytest.raises(ValueError, match="no crystal can be used"):
            load("ase_db", path, str(tmp_path / "prepared"))
    assert not list((tmp_path / "prepared").rglob("report.json"))


def test_the_default_folder_can_be_set(tmp_path, monkeypatch):
    monkeypatch.setenv("DD2D_DATA_DIR", str(tmp_path / "here"))
    write_db(tmp_path / "c.db", crystals()[:1])
    load("ase_db", tmp_path / "c.db")
    assert (tmp_path / "here" / "crystals2d").is_dir()


def test_files_are_found_named_and_counted(tmp_path):
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    sheet = graphene(vacuum=8)
    sheet.pbc = True
    ase.io.write(folder / "graphene.cif", sheet)
    ase.io.write(folder / "sub" / "POSCAR", crystals()[0][0], format="vasp")
    frames = [crystals()[1][0], crystals()[2][0]]
    frames[1].info["uid"] = "mine"
    ase.io.write(folder / "two.extxyz", frames)
    (folder / "torn.cif").write_text("data_x\nnonsense")
    (folder / "notes.txt").write_text("no structure")
    made = load("files", folder, str(tmp_path / "prepared"))
    assert set(made.uid) == {"graphene.cif", "sub/POSCAR", "two.extxyz", "mine"}
    assert made.report["rows"] == 5
    assert sum(entry["count"] for entry in made.report["skipped"].values()) == 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no CIF, POSCAR"):
        load("files", tmp_path / "empty", str(tmp_path / "prepared"))


def test_without_a_network_a_download_ends_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "JARVIS_URL", "http://127.0.0.1:9/files/1")  # nobody is there
    begin = time.monotonic()
    with pytest.raises(ConnectionError, match="download it by hand"):
        load("jarvis_2d", data_dir=str(tmp_path))
    assert time.monotonic() - begin < 20


def test_the_jarvis_archive_is_read(tmp_path):
    sheet = graphene(vacuum=8)
    record = {
        "jid": "JVASP-1",
        "atoms": {
            "lattice_mat": sheet.cell.tolist(),
            "coords": sheet.get_scaled_positions().tolist(),
            "elements": ["C", "C"],
            "cartesian": False,
        },
    }
    unknown = {"jid": "JVASP-2", "atoms": {**record["atoms"], "elements": ["C", "Qq"]}}
    path = tmp_path / "d2.json.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("d2.json", json.dumps([record, unknown, {"jid": "JVASP-3"}]))
    made = load("jarvis_2d", path, str(tmp_path / "prepared"))
    assert made.uid.tolist() == ["JVASP-1"]
    assert set(made.report["skipped"]) == {"unknown element", "unreadable"}


def test_the_authors_format_is_read(tmp_path):
    iron = [4.0, 4.1, 20, 90, 90, 90, 0, 0, 1, 26, 2, 2.05, 19.5, 34]
    record = {"X": [[], [], []], "seq": [str(value) for value in iron] + [""] * 8}
    broken = {"seq": record["seq"][:12]}
    for data, uids in (
        (record, ["r"]),
        ([record, broken], ["r-0"]),
        ({"a": record, "b": broken}, ["a"]),
    ):
        (tmp_path / "r.json").write_text(json.dumps(data))
        made = load("dd2d_json", tmp_path / "r.json", str(tmp_path / "prepared"))
        assert made.uid.tolist() == uids and made.formula.tolist() == ["FeSe"]
    assert np.ptp(made.positions[0, :, 2]) == pytest.approx(1.5)  # joined across the boundary


def test_the_authors_files_are_read(shared_data, tmp_path):
    made = load("dd2d_json", shared_data / "paper" / "fig4_pattern.json", str(tmp_path))
    assert made.formula.tolist() == ["PrSe3"] and (made.numbers > 0).sum() == 8
    made = load("ase_db", shared_data / "paper" / "fig4_candidates.db", str(tmp_path))
    assert len(made) + sum(e["count"] for e in made.report["skipped"].values()) == 11


@pytest.mark.parametrize(
    ("source", "path", "error", "match"),
    [
        ("materials", None, ValueError, "choose one of prototypes, bulk, ase_db"),
        ("ase_db", None, ValueError, "needs a path"),
        ("prototypes", "x.db", ValueError, "takes no path"),
        ("bulk", "x.db", ValueError, "takes no path"),
        ("ase_db", "x.db", FileNotFoundError, "no such file"),
        ("ase_db", ".", ValueError, "needs a file"),
        ("ase_db", "text", ValueError, "not an ASE database"),
        ("dd2d_json", "text", ValueError, "not valid JSON"),
        ("c2db", None, FileNotFoundError, "c2db.fysik.dtu.dk"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(tmp_path, monkeypatch, source, path, error, match):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("no data " * 200)
    with pytest.raises(error, match=match) as caught:
        load(source, path, str(tmp_path / "prepared"))
    assert "\n" not in str(caught.value)


def many(count: int, formulas: int) -> CrystalSet:
    """Made-up crystals of which only the number and the formulas matter."""
    random = np.random.default_rng(0)
    text = np.array([""] * count)
    return CrystalSet(
        uid=np.arange(count).astype(str),
        formula=np.array([f"C{i}" for i in random.integers(0, formulas, count)]),
        lattice=np.zeros((count, 2, 2)),
        positions=np.zeros((count, 1, 3)),
        numbers=np.ones((count, 1)),
        known=np.zeros(count, bool),
        prototype=text,
        report={},
    )


@pytest.mark.parametrize("kind", ["random", "formula"])
@pytest.mark.parametrize("count", [1, 2, 9, 10, 997])
def test_splits_are_disjoint_complete_and_repeatable(kind, count):
    made = many(count, 60)
    parts = split(made, kind, seed=3)
    assert sorted(np.concatenate(list(parts.values()))) == list(range(count))
    again = split(made, kind, seed=3)
    assert all(np.array_equal(parts[name], again[name]) for name in parts)
    if count > 100:
        assert not np.array_equal(parts["test"], split(made, kind, seed=4)["test"])


def test_a_random_split_has_the_papers_sizes():
    parts = split(many(15204, 60), "random", limit=7951)
    assert [len(part) for part in parts.values()] == [6360, 795, 796]
    assert len(np.unique(np.concatenate(list(parts.values())))) == 7951


@pytest.mark.parametrize("formulas", [1, 2, 3, 40, 5000])
def test_a_formula_split_shares_no_formula(formulas):
    made = many(1000, formulas)
    sets = [set(made.formula[part]) for part in split(made, "formula").values()]
    assert not sets[0] & sets[1] and not sets[0] & sets[2] and not sets[1] & sets[2]
    if formulas >= 40:
        sizes = [len(part) for part in split(made, "formula").values()]
        np.testing.assert_allclose(sizes, [800, 100, 100], atol=60)


@pytest.mark.parametrize(
    "arguments",
    [
        {"kind": "both"},
        {"kind": "random", "limit": 11},
        {"kind": "random", "limit": 0},
        {"kind": "random", "fractions": (0.8, 0.1, 0.2)},
    ],
)
def test_splits_refuse_what_they_cannot_do(arguments):
    with pytest.raises(ValueError):
        split(many(10, 3), **arguments)


def test_prototypes_need_no_file():
    from dd2d_jax.data.prototypes import generate

    made = from_atoms(islice(generate(seed=0), 60))
    assert len(made) >= 55, made.report["skipped"]


@pytest.mark.parametrize(("name", "least"), [("c2db.db", 0.995), ("twodmatpedia.db", 0.98)])
def test_nearly_all_of_a_real_database_is_kept(shared_data, name, least):
    database = connect(shared_data / name)
    rows = [database.get(id=number) for number in range(1, len(database) + 1, 50)]
    made = from_atoms((row.toatoms(), {"uid": row.uid}) for row in rows)
    assert len(made) >= least * made.report["rows"]
    assert set(made.report["skipped"]) <= {"chain", "cluster"}


def test_joined_sets_hold_the_crystals_of_both_and_refuse_a_uid_twice():
    one, other = (
        from_atoms([(mx2("MoS2", a=3.16 + d, vacuum=8), {"uid": uid})])
        for d, uid in ((0.0, "a"), (0.2, "b"))
    )
    both = crystal_set.concatenate([one, other])
    assert both.uid.tolist() == ["a", "b"] and both.report["kept"] == 2
    np.testing.assert_array_equal(both.positions[1], other.positions[0])
    with pytest.raises(ValueError, match="1 uids are in more than one set, the first is 'a'"):
        crystal_set.concatenate([one, one])
