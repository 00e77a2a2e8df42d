"""Building libraries part by part: any process, any interruption, the same bytes."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tiny
from ase.db import connect
from paths import ROOT

from dd2d_jax.data.row_ranges import open_stream
from dd2d_jax.libraries import build as indexing
from dd2d_jax.libraries.build import build, merge
from dd2d_jax.libraries.library import DEFAULT, Library
from dd2d_jax.networks.trained import Model, initial_params
from dd2d_jax.util.errors import LibraryError

PROCESS = """
import sys
import tiny
from dd2d_jax.libraries import build as indexing
from dd2d_jax.networks.trained import Model, initial_params
indexing.SHARD = 8
model = Model(tiny.config(), initial_params(tiny.config()))
indexing.build(sys.argv[1], sys.argv[2], model, part=(int(sys.argv[3]), 2))
"""

# The same crystals again and again under other names, so that nothing new is compiled.
MEASURED = """
import dataclasses, sys, numpy, tiny
from dd2d_jax.libraries import build as indexing
from dd2d_jax.data.row_ranges import Stream
from dd2d_jax.data.enumeration import Enumeration
from dd2d_jax.networks.trained import Model, initial_params
made, write = Enumeration(20000), indexing.write_shard
def read(start, stop):
    part = made.read(6000, 7000)
    uid = numpy.array([f"{name} {start}" for name in part.uid])
    return dataclasses.replace(part, uid=uid)
def measured(*args):
    write(*args)
    lines = open("/proc/self/status").read().splitlines()
    print(next(line.split()[1] for line in lines if line.startswith("VmRSS")), flush=True)
indexing.SHARD, indexing.write_shard = 1000, measured
indexing.open_stream = lambda source, data_dir: Stream("repeated", "", 25000, read)
indexing.build("", sys.argv[1], Model(tiny.config(), initial_params(tiny.config())))
"""


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(tiny.config(), initial_params(tiny.config()))


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    return tiny.write_db(tmp_path_factory.mktemp("source") / "sheets.db")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(indexing, "SHARD", 8)


@pytest.fixture(scope="module")
def whole(database, model, tmp_path_factory):
    """Built in one go."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(indexing, "SHARD", 8)
        folder = tmp_path_factory.mktemp("library") / "whole"
        build(database, folder, model)
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_library_built_in_parts_is_that_built_in_memory(whole, model):
    assert sorted(contents(whole)) == [*(f"0000{i}.shard" for i in range(4)), "manifest.json"]
    one, two = Library.load(whole), Library.build(tiny.crystals(), model)
    assert one.model == two.model == model.fingerprint
    assert len(one) == 32 and one.crystals.report == two.crystals.report
    np.testing.assert_allclose(np.asarray(one.embeddings), two.embeddings, atol=1e-3)
    rows = [31, 0, 9, 9, 17]
    first, second = one.crystals.take(rows), two.crystals.take(rows)
    for name in ("uid", "formula", "prototype", "known", "lattice", "positions", "numbers"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert one.crystals.uid.tolist() == two.crystals.uid.tolist()


def test_a_finished_library_is_not_built_again(whole, database, model):
    before = contents(whole)
    with pytest.raises(FileExistsError, match="exists already"):
        build(database, whole, model)
    assert contents(whole) == before


def test_two_processes_and_a_killed_one_give_the_same_bytes(whole, database, tmp_path):
    folder = tmp_path / "library"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}

    def start(part: int):
        command = [sys.executable, "-c", PROCESS, str(database), str(folder), str(part)]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    first = start(1)
    while not list(folder.glob("*.shard")) and first.poll() is None:
        time.sleep(0.005)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    assert not (folder / "manifest.json").exists()
    with pytest.raises(LibraryError, match="no library here"):
        Library.load(folder)
    (folder / ".00002.1.part.shard").write_bytes(b"half")  # what a killed process leaves
    for process in [start(1), start(2)]:
        _, said = process.communicate()
        assert process.returncode == 0, said
    assert contents(folder) == contents(whole)


@pytest.mark.parametrize("damage", ["cut", "nothing"])
def test_a_full_disk_and_a_cut_part_are_survived(
    whole, database, model, tmp_path, monkeypatch, damage
):
    folder, sync, left = tmp_path / "library", os.fsync, [2]

    def full(file):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        sync(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            build(database, folder, model)
    assert sorted(contents(folder)) == ["00000.shard", "00001.shard", "unfinished.json"]
    if damage == "cut":
        path = folder / "00001.shard"
        path.write_bytes(path.read_bytes()[:-300])
    said = []
    build(database, folder, model, say=said.append)
    assert contents(folder) == contents(whole)
    assert any("built again" in line for line in said) == (damage == "cut")


def test_an_unfinished_library_wants_its_own_source_and_model(database, model, tmp_path):
    folder = tmp_path / "library"
    assert build(database, folder, model, part=(2, 2)) is None
    other = tiny.config()
    other.seed = 5
    with pytest.raises(LibraryError, match="begun with model"):
        build(database, folder, Model(other, initial_params(other)))
    with pytest.raises(LibraryError, match="begun with source"):
        build(tiny.crystals(), folder, model)
    (folder / "unfinished.json").write_text("{")
    with pytest.raises(LibraryError, match="damaged"):
        build(database, folder, model)


def test_a_folder_with_something_else_is_left_alone(database, model, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="exists already"):
        build(database, tmp_path, model)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_appending_keeps_what_is_there_and_leaves_repeats_out(database, model, tmp_path):
    folder = tmp_path / "library"
    half = tiny.crystals().take(range(20))
    build(half, folder, model)
    before = contents(folder)
    assert build(database, folder, model, part=(1, 2), append=True) is None
    assert len(Library.load(folder)) == 20  # readable meanwhile
    report = build(database, folder, model, append=True)
    library = Library.load(folder)
    assert len(library) == report["kept"] == 32 and report["rows"] == 52
    assert report["skipped"]["duplicate uid"]["count"] == 20
    assert library.crystals.uid.tolist() == tiny.crystals().uid.tolist()
    after = contents(folder)
    assert all(after[name] == before[name] for name in before if name.endswith(".shard"))
    single = model.embed_crystals(library.crystals.take([25]).crystal)
    np.testing.assert_allclose(library.embeddings[[25]], single, atol=1e-3)


def test_appending_needs_a_library_of_that_model(database, model, whole, tmp_path):
    with pytest.raises(LibraryError, match="no library here"):
        build(database, tmp_path / "absent", model, append=True)
    other = tiny.config()
    other.seed = 5
    with pytest.raises(LibraryError, match="built by model"):
        build(database, whole, Model(other, initial_params(other)), append=True)


def test_an_append_ended_before_its_last_step_is_not_made_twice(database, model, tmp_path):
    folder = tmp_path / "library"
    build(tiny.crystals().take(range(20)), folder, model)
    assert build(database, folder, model, part=(1, 2), append=True) is None
    plan = (folder / "unfinished.json").read_text()
    build(database, folder, model, append=True)
    after = contents(folder)
    (folder / "unfinished.json").write_text(plan)
    build(database, folder, model, append=True)
    assert contents(folder) == after


def test_merging_joins_libraries_without_a_model(whole, model, tmp_path):
    build(tiny.crystals().take([3, 5]), tmp_path / "few", model)
    report = merge([tmp_path / "few", whole], tmp_path / "both")
    both = Library.load(tmp_path / "both")
    uids = tiny.crystals().uid.tolist()
    assert both.crystals.uid[:2].tolist() == [uids[3], uids[5]]
    assert sorted(both.crystals.uid.tolist()) == sorted(uids)
    assert report["skipped"]["duplicate uid"]["count"] == 2
    row = both.crystals.uid.tolist().index(uids[30])
    np.testing.assert_array_equal(both.embeddings[row], Library.load(whole).embeddings[30])
    with pytest.raises(LibraryError, match="several models"):
        merge([whole, DEFAULT], tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_source_without_a_crystal_leaves_nothing(model, tmp_path):
    with connect(tmp_path / "empty.db") as rows:
        rows.write(tiny.sheets()[0][0], uid="a")
        rows.delete([1])
    with pytest.raises(ValueError, match="source is empty"):
        build(tmp_path / "empty.db", tmp_path / "library", model)
    assert not (tmp_path / "library").exists()


def test_rows_are_read_by_id_whatever_was_deleted(database, tmp_path):
    with connect(tmp_path / "gaps.db") as rows:
        for atoms, info in tiny.sheets():
            rows.write(atoms, **info)
        rows.delete([1, 9, 10, 31])
    stream = open_stream(tmp_path / "gaps.db")
    parts = [stream.read(start, start + 7) for start in range(0, stream.rows, 7)]
    uids = [uid for part in parts for uid in part.uid.tolist()]
    gone = [tiny.sheets()[i - 1][1]["uid"] for i in (1, 9, 10, 31)]
    assert uids == [i["uid"] for _, i in tiny.sheets() if i["uid"] not in gone]


def test_a_folder_is_read_in_ranges(tmp_path):
    for atoms, info in tiny.sheets()[:5]:
        atoms.pbc = True
        atoms.write(tmp_path / f"{info['uid']}.cif")
    (tmp_path / "bad.cif").write_text("nothing")
    stream = open_stream(tmp_path)
    parts = [stream.read(start, start + 2) for start in range(0, stream.rows, 2)]
    assert [part.report["rows"] for part in parts] == [2, 2, 2]
    assert sum(len(part) for part in parts) == 5
    assert parts[-1].report["skipped"]["unreadable"]["count"] == 1  # upper case comes first


def test_a_database_on_postgresql_is_a_source(model, tmp_path):
    url = os.environ.get("DD2D_POSTGRESQL")
    if not url:
        pytest.skip("no server: set DD2D_POSTGRESQL to postgresql://USER:PASSWORD@HOST/NAME")
    name = f"dd2d_{os.getpid()}"
    with connect(url) as database:
        for atoms, info in tiny.sheets():
            database.write(atoms, **info, run=name)
    try:
        stream = open_stream(url)
        secret = url.partition("//")[2].partition("@")[0].partition(":")[2]
        assert not secret or secret not in stream.name + stream.identity
        build(url, tmp_path / "library", model)
        library = Library.load(tmp_path / "library")
        want = tiny.crystals()
        assert set(want.uid.tolist()) <= set(library.crystals.uid.tolist())
        row = library.crystals.uid.tolist().index(want.uid[4])
        np.testing.assert_allclose(library.crystals.take([row]).lattice[0], want.lattice[4])
    finally:
        with connect(url) as database:
            database.delete([row.id for row in database.select(run=name)])


def test_a_server_that_is_not_there_is_one_line():
    pytest.importorskip("psycopg2")
    with pytest.raises(ValueError, match="postgresql://localhost:9/none") as error:
        open_stream("postgresql://me:secret@localhost:9/none")
    assert "secret" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.slow
def test_memory_stays_flat(tmp_path):
    command = [sys.executable, "-c", MEASURED, str(tmp_path / "library")]
    # One device: the threads of several take memory of their own as they come to be used.
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "XLA_FLAGS": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    taken = [int(line) / 1024 for line in done.stdout.split()]  # MiB after each part
    assert len(taken) == 25
    # Sets that were not let go would add 9.
    assert taken[-1] < taken[4] + 4, taken
