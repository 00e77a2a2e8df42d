"""Patterns and images from strangers: they lead to no other file and unpack to a limit."""

from __future__ import annotations

import os
import pickle
import zipfile

import ase.io
import numpy as np
import pytest
from untrusted import BINARIES, SHEET, TEXTS, Canary, refused

from dd2d_jax.images.calibration import Calibration
from dd2d_jax.images.patterns import as_pattern, read_pattern
from dd2d_jax.images.readers import read_image
from dd2d_jax.images.ring_calibration import ring_positions
from dd2d_jax.lattices.lattice import find
from dd2d_jax.libraries.shards import Shard
from dd2d_jax.util.errors import PatternError
from dd2d_jax.util.limits import read_npz


def test_pipes_and_large_files_are_refused_before_they_are_read(tmp_path, monkeypatch):
    for name in ("p.csv", "p.json", "i.png", "i.npy", "i.tif", "00000.shard"):
        os.mkfifo(tmp_path / name)
        read = Shard if name.endswith("shard") else read_pattern
        refused(read, tmp_path / name, "not a regular file")
    (tmp_path / "q.csv").write_bytes(b"")
    os.truncate(tmp_path / "q.csv", 10**12)
    refused(read_pattern, tmp_path / "q.csv", "1000000000000 bytes; at most 33554432")
    (tmp_path / "l.csv").write_text("(" * 10**6)
    refused(read_pattern, tmp_path / "l.csv", "line 1: 1000000 characters", PatternError)
    (tmp_path / "n.json").write_text('{"q": [[1, 0]], "intensity": [1%s]}' % ("0" * 400))
    refused(read_pattern, tmp_path / "n.json", "list of numbers", PatternError)


def test_no_pickle_is_loaded(tmp_path):
    alive = tmp_path / "alive"
    array = np.array([Canary(alive)], object)
    np.save(tmp_path / "p.npy", array, allow_pickle=True)
    np.savez(tmp_path / "w.npz", a=array)
    (tmp_path / "p.dat").write_bytes(pickle.dumps(Canary(alive)))
    (tmp_path / "q.npy").write_bytes(pickle.dumps(Canary(alive)))
    refused(read_pattern, tmp_path / "p.npy", "not a readable .npy", PatternError)
    refused(read_pattern, tmp_path / "q.npy", "not a readable .npy", PatternError)
    refused(read_pattern, tmp_path / "p.dat", "not a text file|not consist of numbers|no column")
    refused(read_npz, tmp_path / "w.npz", "objects")
    np.savez(tmp_path / "z.npz", a=np.ones(3))
    (tmp_path / "z.npz").rename(tmp_path / "z.npy")
    refused(read_pattern, tmp_path / "z.npy", "an archive of arrays", PatternError)
    assert not alive.exists()
    pickle.loads((tmp_path / "p.dat").read_bytes())
    assert alive.exists()


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


@pytest.mark.parametrize("kind", ["anywhere", pytest.param("fine", marks=pytest.mark.slow)])
def test_tens_of_thousands_of_spots_take_neither_memory_nor_time(kind):
    side = np.arange(-100, 100)
    grid = 0.01 * np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    rng = np.random.default_rng(0)
    q = grid if kind == "fine" else rng.normal(size=grid.shape)
    # One lattice after another is looked for in them.
    refused(find, as_pattern(np.c_[q, rng.random(len(q))]), "no 2D lattice", PatternError)
