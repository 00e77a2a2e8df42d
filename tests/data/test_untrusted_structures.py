"""Structures and databases from strangers: nothing in them is run, and no count costs time."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import sqlite3
import zipfile

import ase.io
import numpy as np
import pytest
import tiny
from untrusted import SHEET, TEXTS, bounded, refused, tree

from dd2d_jax.crystals.structure_files import read_frames
from dd2d_jax.crystals.structures import layer
from dd2d_jax.data import sources, usable
from dd2d_jax.data.row_ranges import _without_secrets, server_name
from dd2d_jax.libraries.shards import write_shard
from dd2d_jax.util import limits
from dd2d_jax.util.errors import StructureError

POSCAR = "Mo\n1.0\n3 0 0\n0 3 0\n0 0 20\n{}\nDirect\n0 0 0\n"


CIF = """data_x
_cell_length_a 3
_cell_length_b 3
_cell_length_c 20
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
loop_
_atom_site_label
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
"""


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("POSCAR", POSCAR.format("C\n900000000"), "900000000 atoms in"),
        ("POSCAR", POSCAR.format("1_000_000_000"), "1000000000 atoms in"),
        ("s.xyz", "1000000000000\n\nC 0 0 0\n", "says 1000000000000 atoms"),
        ("s.xyz", "1\nProperties=species:S:1:pos:R:99999999\nC 0 0 0\n", "1000 columns"),
        ("s.cif", CIF + "<" * 10**6, "a line of more than 10000 bytes"),
        ("s.cif", CIF + "C 0.1 0.1 0.5\n" * 4001, "4001 sites"),
        ("s.cif", "data_x\n" * 100_001, "100001 blocks"),
        ("s.xyz", "1\n\nC 0 0 0\n" * 1001, "more than 1000 structures"),
        ("s.xsf", "ANIMSTEPS 1000000000000\nCRYSTAL\n" + "[" * 10**5, "a line of more than"),
    ],
)
def test_counts_that_a_file_does_not_hold_take_no_time(tmp_path, monkeypatch, name, text, words):
    if words.endswith("structures"):
        monkeypatch.setattr(limits, "MAX_FRAMES", 1000)
    (tmp_path / name).write_text(text)
    refused(read_frames, tmp_path / name, words, StructureError)


def test_a_file_of_structures_leads_to_no_other_file(tmp_path):
    ase.io.write(tmp_path / "x@1.cif", SHEET, format="cif")
    # ASE takes what follows the sign for an index, and opens what stands before it.
    (tmp_path / "x").write_text("another file")
    assert len(read_frames(tmp_path / "x@1.cif")) == 1
    (tmp_path / "POSCAR").write_text(POSCAR.format("1").replace("Mo", "?", 1))
    with gzip.open(tmp_path / "POTCAR.gz", "wt") as file:
        file.write("TITEL = PAW Mo 01\n")
    refused(read_frames, tmp_path / "POSCAR", "does not name its elements", StructureError)
    os.mkfifo(tmp_path / "p.cif")
    with pytest.raises(FileNotFoundError):
        read_frames(tmp_path / "p.cif")


def test_atoms_beyond_any_density_take_no_memory():
    heap = ase.Atoms("H1000", cell=[0.6, 0.6, 800], pbc=True)
    heap.positions[:, 2] = 0.7 * np.arange(1000)
    refused(layer, heap, "are too many", StructureError)
    far = SHEET.copy()
    far.positions[0] = 1e300
    refused(layer, far, "1e.300 A", StructureError)


def test_a_file_that_is_no_database_is_not_made_one(tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        connection.execute("CREATE TABLE mine (x)")
    for path in (tmp_path / "other.db", tmp_path / "empty.db"):
        path.touch()
        before = tree(tmp_path)
        refused(sources.ase_db, path, "not an ASE database")
        assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        # Of a view every read runs what it says.
        (
            "CREATE VIEW systems AS WITH RECURSIVE x(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM "
            "x) SELECT id, '' numbers, '' positions, '' cell, 0 pbc, '{}' key_value_pairs FROM x",
            "no plain table systems",
        ),
        (
            "CREATE TABLE systems (id INTEGER PRIMARY KEY, numbers, positions, cell, pbc, "
            "key_value_pairs AS (hex(zeroblob(100000000))))",
            "no plain table systems",
        ),
    ],
)
def test_a_database_runs_nothing_of_its_own(tmp_path, statement, words):
    path = tmp_path / "c.db"
    tiny.write_db(path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE systems")
        connection.execute(statement)
        connection.commit()
    refused(sources.ase_db, path, words)


def test_a_bad_row_costs_one_row(tmp_path):
    path = tmp_path / "c.db"
    tiny.write_db(path)
    bomb = {"__ndarray__": [[10**9], "float64", [0]]}
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for row, (column, value) in enumerate(
            [
                ("key_value_pairs", json.dumps({"uid": bomb, "known": bomb})),
                ("constraints", json.dumps([{"name": "FixAtoms", "kwargs": bomb}])),
                ("numbers", "text"),
                ("positions", b"\0" * 7),
                ("pbc", "x"),
                ("key_value_pairs", "[" * 10**5),
                ("key_value_pairs", '{"uid": "\\ud800"}'),
                ("key_value_pairs", json.dumps({"uid": "u" * 10**6})),
                ("key_value_pairs", json.dumps({"uid": "p", "prototype": "p" * 10**6})),
                ("key_value_pairs", b"\xff" * 100),
            ],
            1,
        ):
            connection.execute(f"UPDATE systems SET {column} = ? WHERE id = ?", (value, row))
        connection.commit()
    with bounded(20.0):
        found = usable.from_atoms(sources.ase_db(path)[0])
    assert len(found) == 32 - 7 and found.uid.dtype.itemsize <= 4 * 200
    skipped = {name: entry["count"] for name, entry in found.report["skipped"].items()}
    assert skipped == {"unreadable": 5, "long name": 2}
    # What is kept can be written.
    write_shard(tmp_path / "00000.shard", found, np.zeros((len(found), 8)), "model")


def test_keys_of_a_frame_may_be_anything(tmp_path):
    atoms = SHEET.copy()
    atoms.info |= {"known": np.ones(3), "uid": np.arange(2), "prototype": [1, 2]}
    odd = atoms.copy()
    odd.info |= {"uid": "odd", "occupancy": {"0": 1}}
    ase.io.write(tmp_path / "s.xyz", [atoms, odd], format="extxyz")
    found = usable.from_atoms(sources.files(tmp_path / "s.xyz")[0])
    assert not found.known[0] and found.report["skipped"]["wrong occupancy"]["count"] == 1


def test_an_archive_is_unpacked_to_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAX_JSON", 2**20)
    path = tmp_path / "j.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../j.json", b" " * 2**24)
    asked, read = [], zipfile.ZipExtFile.read
    monkeypatch.setattr(
        zipfile.ZipExtFile, "read", lambda self, n=-1: asked.append(n) or read(self, n)
    )
    refused(sources.jarvis_2d, path, "unpacks to more than")
    assert asked == [2**20 + 1]
    assert list(tmp_path.iterdir()) == [path]


def test_a_servers_password_is_never_shown():
    for login in ("me:secret", "me:se/cret", "me:se@cret", "me:secret/", "me:sec:ret"):
        for end in ("", "?password=secret"):
            url = f"postgresql://{login}@localhost:5/crystals{end}"
            assert server_name(url) == "postgresql://localhost:5/crystals"
            text = _without_secrets(f"invalid port 'se' in {url}, password {login[3:]}", url)
            assert "cret" not in text and "localhost" in text


def test_angles_that_no_cell_has_cost_one_row(tmp_path):
    TEXTS["d.json"](tmp_path / "d.json")
    record = json.loads((tmp_path / "d.json").read_text())["a"]
    bad = {"seq": [*record["seq"][:3], 10.0, 10.0, 120.0, *record["seq"][6:]]}
    (tmp_path / "d.json").write_text(json.dumps({"a": record, "b": bad}))
    found = usable.from_atoms(sources.dd2d_json(tmp_path / "d.json")[0])
    assert len(found) == 1 and found.report["skipped"]["unreadable"]["count"] == 1
