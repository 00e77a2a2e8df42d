"""Files from strangers: a result or one clear line, within bounds, and nothing in them is run.

DD2D_FUZZ=SECONDS spoils each format for so long, with other files each time; without it the same
files are tried every time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gzip
import json
import os
import pickle
import random
import re
import shutil
import sqlite3
import time
import zipfile
from pathlib import Path

import ase.io
import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from untrusted import BINARIES, SHEET, TEXTS, asked_too_much, bounded, spoiled, tree

from dd2d_jax.crystals.structure_files import read_frames
from dd2d_jax.crystals.structures import layer
from dd2d_jax.data import crystal_set, sources, usable
from dd2d_jax.data.row_ranges import _without_secrets, server_name
from dd2d_jax.images.calibration import Calibration
from dd2d_jax.images.patterns import as_pattern, read_pattern
from dd2d_jax.images.readers import read_image
from dd2d_jax.images.ring_calibration import ring_positions
from dd2d_jax.lattices.lattice import find
from dd2d_jax.libraries.library import Library
from dd2d_jax.libraries.shards import Shard, StoredCrystals, write_shard
from dd2d_jax.networks.checkpoint import restore, save
from dd2d_jax.networks.paper_weights import _read_state
from dd2d_jax.networks.trained import DEFAULT_WEIGHTS, load
from dd2d_jax.reports import html_page
from dd2d_jax.util import limits
from dd2d_jax.util.errors import CheckpointError, LibraryError, PatternError, StructureError
from dd2d_jax.util.limits import read_npz
from dd2d_jax.util.text import inert, printable, safe_name

SECONDS = float(os.environ.get("DD2D_FUZZ", 0))
COUNT = 60


def structures(path) -> None:
    for frame in read_frames(path):
        layer(frame)


def crystals(source, path) -> None:
    entries, _ = sources.READERS[source](path)
    usable.from_atoms(entries)


def pattern(path) -> None:
    found = read_pattern(path, scale=0.01 if path.name == "x.json" else None)
    assert np.isfinite(np.asarray(found.q)).all() and np.isfinite(np.asarray(found.intensity)).all()


def image(path) -> None:
    found = read_image(path)
    assert found.pixels.ndim == 2 and found.pixels.dtype == float


READERS = {
    **dict.fromkeys(("s.cif", "s.vasp", "s.xyz", "s.xsf"), (structures, StructureError)),
    "crystals.db": (functools.partial(crystals, "ase_db"), ValueError),
    "d.json": (functools.partial(crystals, "dd2d_json"), ValueError),
    "jarvis.json": (functools.partial(crystals, "jarvis_2d"), ValueError),
    "jarvis.zip": (functools.partial(crystals, "jarvis_2d"), ValueError),
    **dict.fromkeys(("p.csv", "p.json", "x.json", "spots.npy"), (pattern, PatternError)),
    **{name: (image, PatternError) for name in BINARIES if name.startswith(("i.", "zip."))},
    "camera.json": (Calibration.load, PatternError),
    "w.npz": (read_npz, ValueError),
}


def kept(data: bytes, number: int, name: str) -> str:
    """Where a file on which a test failed was put."""
    path = Path(f"/tmp/spoiled-{number}-{name}")
    path.write_bytes(data)
    return f"kept as {path}"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*TEXTS, *BINARIES])
def test_a_spoiled_file_is_read_or_refused_in_one_line(tmp_path, name):
    if name.endswith(("hspy", "zspy", "emd", "blo", "mrc", "dm3", "ser", "mib", "tvips")):
        pytest.importorskip("rsciio")
    path, (read, refusal) = tmp_path / name, READERS[name]
    {**TEXTS, **BINARIES}[name](path)
    read(path)
    data, end = path.read_bytes(), time.monotonic() + SECONDS
    number = time.time_ns() if SECONDS else 0
    refused, last = 0, number + COUNT
    while time.monotonic() < end if SECONDS else number < last:
        number += 1
        path.write_bytes(spoiled(data, random.Random(f"{name} {number}")))
        before = tree(tmp_path)
        try:
            with bounded(20.0):
                read(path)
        except refusal as error:
            refused += 1
            text = str(error)
            assert not asked_too_much(error), kept(before[name], number, name)
            assert text and "\n" not in text and len(text) < 2000, number
        except BaseException as error:
            where = kept(before[name], number, name)
            raise AssertionError(f"{where}: {error!r:.300}") from error
        assert tree(tmp_path) == before, number
    assert refused


KEYS = (
    "q", "intensity", "hk", "sigma", "X", "seq", "atoms", "elements", "coords", "lattice_mat",
    "cartesian", "jid", "format", "model", "report", "shards", "crystals", "sha256", "name",
    "scale", "radial", "stretch", "centre", "shape", "material", "rings", "explained", "width",
    "diffraction", "tokens", "layers", "rows", "kept", "skipped", "duplicates",
)  # fmt: skip
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner),
    max_leaves=12,
)


def checkpoint(path) -> None:
    path.replace(path.with_name("config.json"))
    load(path.parent)


@pytest.mark.parametrize(
    ("read", "refusal"),
    [
        (pattern, PatternError),
        (Calibration.load, PatternError),
        (functools.partial(crystals, "dd2d_json"), ValueError),
        (functools.partial(crystals, "jarvis_2d"), ValueError),
        (lambda path: Library.load(path.parent), LibraryError),
        (checkpoint, CheckpointError),
    ],
)
def test_any_json_is_read_or_refused_in_one_line(tmp_path, read, refusal):
    @settings(
        max_examples=100 if SECONDS else 25, derandomize=not SECONDS, deadline=None, database=None
    )
    @given(JSONS)
    def check(value):
        path = tmp_path / "manifest.json"
        path.write_text(json.dumps(value))
        try:
            with bounded(20.0):
                read(path)
        except refusal as error:
            assert "\n" not in str(error)

    check()


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.sampled_from("a=+-@\t\r\n＝＋－＠<\"'"), st.text(max_size=60))
def test_names_of_strangers_stay_text(first, rest):
    name = first + rest
    page = html_page._environment().from_string("<p title='{{ name }}'>{{ name }}</p>")
    shown = page.render(name=name)
    inner = shown.removeprefix("<p title='").removesuffix("</p>").replace("'>", "", 1)
    assert not set("<>\"'") & set(inner)
    assert printable(name).isprintable()
    assert re.fullmatch("[A-Za-z0-9_-]{1,40}", safe_name(name))
    assert inert(name)[:1] not in tuple("=+-@\t\r\n＝＋－＠")


def refused(read, path, words: str, kind: type = ValueError) -> None:
    with bounded(20.0), pytest.raises(kind, match=words) as error:
        read(path)
    assert "\n" not in str(error.value) and not asked_too_much(error.value)


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
    assert not found.known[0] and found.report["skipped"]["partial occupancy"]["count"] == 1


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


def test_pipes_and_large_files_are_refused_before_they_are_read(tmp_path, monkeypatch):
    for name in ("p.csv", "p.json", "i.png", "i.npy", "i.tif", "00000.shard"):
        os.mkfifo(tmp_path / name)
        read = Shard if name.endswith("shard") else read_pattern
        refused(read, tmp_path / name, "no regular file")
    (tmp_path / "q.csv").write_bytes(b"")
    os.truncate(tmp_path / "q.csv", 10**12)
    refused(read_pattern, tmp_path / "q.csv", "1000000000000 bytes; at most 33554432")
    (tmp_path / "l.csv").write_text("(" * 10**6)
    refused(read_pattern, tmp_path / "l.csv", "line 1: 1000000 characters", PatternError)
    (tmp_path / "n.json").write_text('{"q": [[1, 0]], "intensity": [1%s]}' % ("0" * 400))
    refused(read_pattern, tmp_path / "n.json", "list of numbers", PatternError)


class Canary:
    """Leaves a file where it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_no_pickle_is_loaded(tmp_path):
    alive = tmp_path / "alive"
    array = np.array([Canary(alive)], object)
    np.save(tmp_path / "p.npy", array, allow_pickle=True)
    np.savez(tmp_path / "w.npz", a=array)
    (tmp_path / "p.dat").write_bytes(pickle.dumps(Canary(alive)))
    (tmp_path / "q.npy").write_bytes(pickle.dumps(Canary(alive)))
    refused(read_pattern, tmp_path / "p.npy", "not a readable .npy", PatternError)
    refused(read_pattern, tmp_path / "q.npy", "not a readable .npy", PatternError)
    refused(read_pattern, tmp_path / "p.dat", "not a text file|not numbers|no column")
    refused(read_npz, tmp_path / "w.npz", "objects")
    np.savez(tmp_path / "z.npz", a=np.ones(3))
    (tmp_path / "z.npz").rename(tmp_path / "z.npy")
    refused(read_pattern, tmp_path / "z.npy", "an archive of arrays", PatternError)
    assert not alive.exists()
    pickle.loads((tmp_path / "p.dat").read_bytes())
    assert alive.exists()


def test_torch_loads_no_pickle(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"a": Canary(tmp_path / "alive")}, tmp_path / "w.pt")
    refused(_read_state, tmp_path / "w.pt", "read safely")
    assert not (tmp_path / "alive").exists()


@pytest.fixture
def zspy(tmp_path):
    """A .zspy folder, and the group of its metadata."""
    pytest.importorskip("rsciio")
    import zarr

    BINARIES["i.zspy"](tmp_path / "i.zspy")
    with zipfile.ZipFile(tmp_path / "i.zspy") as archive:
        archive.extractall(tmp_path / "f.zspy")
    read_image(tmp_path / "f.zspy")
    return tmp_path / "f.zspy", zarr.open_group(str(tmp_path / "f.zspy"))["Experiments/p"]


def test_zarr_unpickles_nothing(tmp_path, zspy, monkeypatch):
    import numcodecs
    import zarr

    # The latest versions ask for this.
    monkeypatch.setattr(numcodecs.pickles, "ALLOW_UNSAFE_PICKLE_DECODE", True, raising=False)
    path, group = zspy
    alive = tmp_path / "alive"
    array = np.array([Canary(alive)], object)
    group["metadata"].create_dataset("_list_x", data=array, object_codec=numcodecs.Pickle())
    alive.unlink(missing_ok=True)
    refused(read_image, path, "cannot be read as an image", PatternError)
    assert not alive.exists()
    # The file is what it is taken for, and others' use of zarr is as before.
    zarr.open_group(str(path), mode="r")["Experiments/p/metadata/_list_x"][:]
    assert alive.exists()


def test_a_zarr_folder_leads_nowhere_and_unpacks_to_a_limit(tmp_path, zspy):
    import numcodecs

    path, group = zspy
    chunk = next(p for p in (path / "Experiments/p/data").rglob("*") if p.name[0] != ".")
    link = path / "Experiments/p/more"
    link.symlink_to(chunk)
    refused(read_image, path, "holds links", PatternError)
    link.unlink()
    group["metadata"].zeros("big", shape=10**9, chunks=10**6, dtype="f8")
    refused(read_image, path, "beside the image", PatternError)
    del group["metadata/big"]
    filters = [numcodecs.GZip(), numcodecs.GZip()]
    group["metadata"].zeros("x", shape=8, dtype="u1", filters=filters)
    refused(read_image, path, "filtered", PatternError)
    del group["metadata/x"]
    del group["data"]
    group.zeros("data", shape=(8, 8), chunks=(10**6, 10**6), dtype="u1")
    refused(read_image, path, "pieces", PatternError)


def test_a_hdf5_file_leads_nowhere_and_unpacks_to_a_limit(tmp_path):
    pytest.importorskip("rsciio")
    import h5py

    path, secret = tmp_path / "i.hspy", tmp_path / "secret"
    secret.write_bytes(bytes(64))
    BINARIES["i.hspy"](path)
    whole = path.read_bytes()

    def outside(group):
        group.create_dataset("x", (8, 8), "u1", external=[(str(secret), 0, 64)])

    def elsewhere(group):
        group["x"] = h5py.ExternalLink(str(path), "/")

    def round_about(group):
        group["x"] = h5py.SoftLink("/")

    def virtual(group):
        layout = h5py.VirtualLayout((8, 8), "u1")
        layout[:] = h5py.VirtualSource(str(secret), "x", (8, 8))
        group.create_virtual_dataset("x", layout)

    def large(group):
        group.create_dataset("x", (10**5, 10**5), "f8", chunks=(100, 100))

    def endless(group):
        del group.parent["data"]
        group.parent.create_dataset("data", (10**6, 10**3, 64, 64), "u1", chunks=(1, 1, 64, 64))

    for change, words in (
        (outside, "in another file"), (virtual, "in another file"), (elsewhere, "is a link"),
        (round_about, "is a link"), (large, "beside the image"), (endless, "values; at most"),
    ):  # fmt: skip
        path.write_bytes(whole)
        with h5py.File(path, "a") as file:
            change(file["Experiments/p/metadata"])
        refused(read_image, path, words, PatternError)


def test_an_image_is_no_larger_than_its_file_can_hold(tmp_path):
    import struct

    import tifffile

    path = tmp_path / "i.tif"
    tifffile.imwrite(path, np.zeros((4096, 4096)), compression="zlib", rowsperstrip=4096)
    data = path.read_bytes()
    with tifffile.TiffFile(path) as file:
        tags = file.pages[0].tags
        places = {name: tags[name].offset + 8 for name in ("ImageWidth", "ImageLength")}

    def sized(width: int, height: int) -> None:
        out = bytearray(data)
        for name, value in (("ImageWidth", width), ("ImageLength", height)):
            out[places[name] : places[name] + 4] = struct.pack("<I", value)
        path.write_bytes(out)

    sized(16, 16)
    refused(read_image, path, "unpacks to far more", PatternError)
    sized(10**5, 10**5)
    refused(read_image, path, "pixels; at most", PatternError)
    tifffile.imwrite(path, np.zeros((4, 4)))
    data = path.read_bytes()
    with tifffile.TiffFile(path) as file:
        place = file.pages[0].tags["StripByteCounts"].offset + 8
    counts = data[:place] + struct.pack("<I", 2**32 - 1) + data[place + 4 :]
    path.write_bytes(counts)
    refused(read_image, path, "larger than the file", PatternError)
    planes = np.zeros((3, 2, 2), np.uint8)
    tifffile.imwrite(path, planes, planarconfig="separate", photometric="rgb", compression="zlib")
    data = path.read_bytes()
    with tifffile.TiffFile(path) as file:
        tags = file.pages[0].tags
        places = {name: tags[name].offset + 8 for name in ("ImageWidth", "ImageLength")}
    sized(10**6, 10**4)
    refused(read_image, path, "pixels; at most", PatternError)
    np.save(tmp_path / "i.npy", np.zeros((4, 4)))
    data = (tmp_path / "i.npy").read_bytes()
    (tmp_path / "i.npy").write_bytes(data.replace(b"(4, 4), }       ", b"(99999, 999999)}"))
    refused(read_image, tmp_path / "i.npy", "npy array|at most", PatternError)
    (tmp_path / "w.npz").write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr("a.npy", data.replace(b"(4, 4), }       ", b"(99999, 999999)}"))
    refused(read_npz, tmp_path / "w.npz", "cut short")


def test_what_unpacks_to_more_than_weights_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_ARRAYS", 2**20)
    np.savez_compressed(tmp_path / "w.npz", a=np.zeros(2**20))
    refused(read_npz, tmp_path / "w.npz", "when unpacked")


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("model", "layers", 10**9), ("model", "width", 10**9), ("model", "heads", 0),
        ("model", "embedding", -1), ("model", "layers", True),
        ("diffraction", "tokens", 10**9), ("diffraction", "q_max", 1e9),
        ("diffraction", "q_max", "1"), ("diffraction", "energy", float("nan")),
    ],
)  # fmt: skip
def test_a_config_asks_for_no_network_without_end(tmp_path, part, name, value):
    config = json.loads((DEFAULT_WEIGHTS / "config.json").read_text())
    config[part][name] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    refused(load, tmp_path, f"{part}.{name}", CheckpointError)


def test_a_checkpoint_holds_no_pipes_no_pickles_and_no_endless_arrays(tmp_path, monkeypatch):
    like = {"params": {"a": np.zeros(3, np.float32)}}
    save(tmp_path, "best", 1, like, {})
    (tmp_path / "best" / "²").mkdir()
    assert restore(tmp_path, "best", like).step == 1
    monkeypatch.setattr("dd2d_jax.networks.checkpoint.MAX_ARRAYS", 2**20)
    save(tmp_path, "best", 2, {"params": {"a": np.zeros(2**20, np.float32)}}, {})
    shutil.rmtree(tmp_path / "best" / "1", ignore_errors=True)
    refused(lambda p: restore(p, "best", like), tmp_path, "bytes of arrays", CheckpointError)
    shutil.rmtree(tmp_path / "best")
    save(tmp_path, "best", 1, like, {})
    os.mkfifo(tmp_path / "best" / "1" / "pipe")
    refused(lambda p: restore(p, "best", like), tmp_path, "no regular file", CheckpointError)


@pytest.mark.parametrize("number", range(12))
def test_a_spoiled_checkpoint_is_read_or_refused(tmp_path, number):
    like = {"params": {"a": np.arange(60, dtype=np.float32)}}
    save(tmp_path, "best", 1, like, {"x": 1})
    rng = random.Random(number)
    path = rng.choice([p for p in sorted((tmp_path / "best").rglob("*")) if p.is_file()])
    path.write_bytes(spoiled(path.read_bytes(), rng))
    try:
        with bounded(20.0):
            restore(tmp_path, "best", like)
    except CheckpointError as error:
        assert "\n" not in str(error)


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    crystals = tiny.crystals()
    path = tmp_path_factory.mktemp("library") / "00000.shard"
    write_shard(path, crystals, np.zeros((32, 8)), "model")
    return path


def opened(path) -> None:
    """All that is read of a part of a library."""
    found = StoredCrystals([Shard(path)], {})
    assert len(found.uid) == len(found.formula) == len(found.whole)
    crystal_set.merged_report([found.shards[0].report])


def test_a_spoiled_part_of_a_library_is_read_or_refused(tmp_path, shard):
    data, refusals = shard.read_bytes(), 0
    for number in range(150):
        (tmp_path / "p").write_bytes(spoiled(data, random.Random(number)))
        try:
            with bounded(20.0):
                opened(tmp_path / "p")
        except LibraryError as error:
            refusals += 1
            assert "\n" not in str(error)
    assert refusals


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("lattice", 1e6, "cells beyond"), ("lattice", np.nan, "cells beyond"),
        ("lattice", 1e-3, "cells beyond"), ("positions", np.inf, "positions beyond"),
        ("uid", "u" * 10**6, "uid of a crystal"), ("prototype", "p" * 10**6, "short names"),
        ("report", {"rows": 1}, "damaged"), ("report", {"skipped": []}, "damaged"),
    ],
)  # fmt: skip
def test_crystals_that_no_source_gives_are_refused(tmp_path, field, value, words):
    crystals = tiny.crystals().take(range(3))
    if field in ("uid", "prototype"):
        changed = np.array([value, "b", "c"])
    elif field == "report":
        changed = value
    else:
        changed = getattr(crystals, field).copy()
        changed[1] = value
    changed = dataclasses.replace(crystals, **{field: changed})
    write_shard(tmp_path / "p", changed, np.zeros((3, 8)), "model")
    refused(opened, tmp_path / "p", words, LibraryError)


def test_a_crystal_of_a_library_has_not_more_atoms_than_one_of_a_file(tmp_path):
    crystals = tiny.crystals().take([0])
    many = dataclasses.replace(
        crystals, numbers=np.full((1, 1001), 6), positions=np.zeros((1, 1001, 3), np.float32)
    )
    write_shard(tmp_path / "p", many, np.zeros((1, 8)), "model")
    refused(opened, tmp_path / "p", "atoms of a crystal beyond 1000", LibraryError)


def test_a_spoiled_manifest_of_a_library_is_read_or_refused(tmp_path):
    crystals = tiny.crystals()
    made = Library(crystals, np.zeros((32, 8), np.float16), "m")
    made.save(tmp_path / "library")
    path = tmp_path / "library" / "manifest.json"
    assert len(Library.load(path.parent)) == 32
    data = path.read_bytes()
    for number in range(120):
        path.write_bytes(spoiled(data, random.Random(number)))
        try:
            with bounded(20.0):
                Library.load(path.parent)
        except LibraryError as error:
            assert "\n" not in str(error)


def test_a_servers_password_is_never_shown():
    for login in ("me:secret", "me:se/cret", "me:se@cret", "me:secret/", "me:sec:ret"):
        for end in ("", "?password=secret"):
            url = f"postgresql://{login}@localhost:5/crystals{end}"
            assert server_name(url) == "postgresql://localhost:5/crystals"
            text = _without_secrets(f"invalid port 'se' in {url}, password {login[3:]}", url)
            assert "cret" not in text and "localhost" in text


def test_a_material_has_a_cell_and_elements(tmp_path):
    bad = SHEET.copy()
    bad.cell[2] = 0
    heap = ase.Atoms("H1000", cell=[9, 9, 9], pbc=True, positions=np.random.rand(1000, 3))
    heap.cell *= 3
    for atoms, words in ((bad, "three independent"), (heap, "too large a cell")):
        ase.io.write(tmp_path / "m.xyz", atoms, format="extxyz")
        refused(lambda p: ring_positions(str(p)), tmp_path / "m.xyz", words, PatternError)
    calibrated = TEXTS["camera.json"]
    calibrated(tmp_path / "camera.json")
    text = (tmp_path / "camera.json").read_text()
    for old, new in (("[24, 32]", "[1e400, 32]"), ('"scale": 0.01', '"scale": 1e308')):
        (tmp_path / "camera.json").write_text(text.replace(old, new))
        refused(Calibration.load, tmp_path / "camera.json", "calibration|scale", PatternError)


@pytest.mark.parametrize("kind", ["anywhere", "fine"])
def test_tens_of_thousands_of_spots_take_neither_memory_nor_time(kind):
    side = np.arange(-100, 100)
    grid = 0.01 * np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    rng = np.random.default_rng(0)
    q = grid if kind == "fine" else rng.normal(size=grid.shape)
    # One lattice after another is looked for in them.
    refused(find, as_pattern(np.c_[q, rng.random(len(q))]), "no 2D lattice", PatternError)


def test_angles_that_no_cell_has_cost_one_row(tmp_path):
    TEXTS["d.json"](tmp_path / "d.json")
    record = json.loads((tmp_path / "d.json").read_text())["a"]
    bad = {"seq": [*record["seq"][:3], 10.0, 10.0, 120.0, *record["seq"][6:]]}
    (tmp_path / "d.json").write_text(json.dumps({"a": record, "b": bad}))
    found = usable.from_atoms(sources.dd2d_json(tmp_path / "d.json")[0])
    assert len(found) == 1 and found.report["skipped"]["unreadable"]["count"] == 1
