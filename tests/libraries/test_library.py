"""Libraries: kept exactly, never overwritten, and refused where they are damaged."""

import json
import os
import shutil

import numpy as np
import pytest
from ase.build import graphene, mx2
from ase.db import connect

import diffraction as dx
from configs import smoke
from dd2d_jax.data import usable
from dd2d_jax.libraries.elements import allowed_rows
from dd2d_jax.libraries.library import Library, LibraryError
from dd2d_jax.matching.retrieval import retrieve
from dd2d_jax.networks.trained import Model, initial_params

SHEETS = {
    "graphene": graphene(vacuum=8),
    "1H-MoS2": mx2("MoS2", "2H", vacuum=8),
    "1T-PtS2": mx2("PtS2", "1T", vacuum=8),
}


def tiny(seed: int = 0) -> Model:
    config = smoke.get_config()
    config.seed = seed
    config.model.width = config.model.embedding = 16
    return Model(config, initial_params(config))


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny()


@pytest.fixture(scope="module")
def library(model) -> Library:
    entries = [
        (atoms, {"uid": uid, "known": uid == "graphene", "prototype": uid[:2]})
        for uid, atoms in SHEETS.items()
    ]
    return Library.build(usable.from_atoms(entries), model)


@pytest.fixture
def saved(library, tmp_path):
    library.save(tmp_path / "library")
    return tmp_path / "library"


def manifest(folder, **changes) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refused(folder, words: str) -> None:
    with pytest.raises(LibraryError, match=words) as error:
        Library.load(folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


def test_what_is_saved_is_read_back_exactly(library, saved):
    back = Library.load(saved)
    assert len(back) == len(library) == 3
    assert back.model == library.model
    np.testing.assert_array_equal(np.asarray(back.embeddings), library.embeddings)
    crystals = back.crystals.take(range(3))
    for name in ("uid", "formula", "prototype", "known", "lattice", "positions", "numbers"):
        one, two = getattr(crystals, name), getattr(library.crystals, name)
        np.testing.assert_array_equal(one, two)
        assert one.dtype == two.dtype
    assert back.crystals.report == library.crystals.report
    # A folder given as text is as good.
    assert len(Library.load(str(saved))) == 3


def test_embeddings_are_unit_vectors_of_each_crystal(library, model):
    assert library.embeddings.shape == (3, 16)
    assert library.embeddings.dtype == np.float16
    lengths = np.linalg.norm(library.embeddings.astype(float), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-3)
    single = model.embed_crystals(library.crystals.take([1]).crystal)
    np.testing.assert_allclose(single[0], library.embeddings[1], rtol=2**-11, atol=1e-5)


def test_an_existing_folder_is_never_overwritten(library, saved):
    before = {p.name: p.read_bytes() for p in saved.iterdir()}
    with pytest.raises(FileExistsError, match="exists already"):
        library.save(saved)
    assert {p.name: p.read_bytes() for p in saved.iterdir()} == before
    assert [p.name for p in saved.parent.iterdir()] == ["library"]


def test_saving_that_fails_leaves_nothing_behind(library, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    for module, name in ((os, "fsync"), (np, "ascontiguousarray")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, full)
            with pytest.raises(OSError, match="No space"):
                library.save(tmp_path / "library")
        assert list(tmp_path.iterdir()) == []
    library.save(tmp_path / "library")
    assert len(Library.load(tmp_path / "library")) == 3


@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty", "missing"])
def test_damaged_files_are_refused(saved, damage):
    path = saved / "00000.shard"
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    if damage == "missing":
        path.unlink()
    elif damage == "flipped":
        path.write_bytes(content)
    else:
        path.write_bytes(content[: 0 if damage == "empty" else len(content) // 2])
    refused(saved, "missing" if damage == "missing" else "damaged")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '"text"', "{}", "\x00\xff"])
def test_a_manifest_that_is_none_is_refused(saved, text):
    (saved / "manifest.json").write_bytes(text.encode("latin-1"))
    refused(saved, "damaged")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 99}, "format 99"),
        ({"format": "1"}, "format 1"),
        ({"crystals": 4}, "differ in length"),
        ({"shards": [{"name": "00000.shard"}]}, "damaged"),
        ({"shards": ["00000.shard"]}, "damaged"),
        ({"shards": [{"name": "../../secret.shard"}]}, "unknown file"),
        ({"shards": [{"name": "/etc/passwd"}]}, "unknown file"),
        ({"shards": [{"name": 3}]}, "damaged|unknown file"),
        ({"shards": {}}, "damaged"),
        ({"shards": []}, "damaged"),
        ({"model": 5}, "damaged"),
        ({"report": None}, "damaged"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(saved, changes, words):
    manifest(saved, **changes)
    refused(saved, words)


@pytest.mark.parametrize("key", ["format", "model", "crystals", "report", "shards"])
def test_a_manifest_that_lacks_something_is_refused(saved, key):
    path = saved / "manifest.json"
    content = json.loads(path.read_text())
    del content[key]
    path.write_text(json.dumps(content))
    refused(saved, "damaged")


def test_no_library_is_said_to_be_there(tmp_path):
    refused(tmp_path, "no library here")
    refused(tmp_path / "absent", "no library here")


def test_a_moved_library_is_the_same(saved, tmp_path):
    shutil.move(saved, tmp_path / "elsewhere")
    assert len(Library.load(tmp_path / "elsewhere")) == 3


def test_libraries_are_built_from_databases_folders_and_sets(library, model, tmp_path):
    with connect(tmp_path / "sheets.db") as database:
        for uid, atoms in SHEETS.items():
            database.write(atoms, uid=uid)
    folder = tmp_path / "folder"
    folder.mkdir()
    for uid, atoms in SHEETS.items():
        atoms = atoms.copy()
        atoms.pbc = True
        atoms.write(folder / f"{uid}.cif")
    keep = str(tmp_path / "prepared")
    from_db = Library.build(str(tmp_path / "sheets.db"), model, data_dir=keep)
    assert list(from_db.crystals.uid) == list(SHEETS)
    np.testing.assert_allclose(from_db.embeddings, library.embeddings, atol=1e-3)
    from_files = Library.build(folder, model, data_dir=keep)
    assert sorted(from_files.crystals.uid) == sorted(f"{uid}.cif" for uid in SHEETS)
    order = [list(from_files.crystals.uid).index(f"{uid}.cif") for uid in SHEETS]
    np.testing.assert_allclose(from_files.embeddings[order], library.embeddings, atol=1e-3)


def test_sources_that_hold_nothing_are_refused(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.db"):
        Library.build(tmp_path / "absent.db", model, data_dir=str(tmp_path / "prepared"))
    (tmp_path / "not.db").write_text("not a database")
    with pytest.raises(ValueError, match=r"not\.db"):
        Library.build(tmp_path / "not.db", model, data_dir=str(tmp_path / "prepared"))


def test_a_library_of_another_model_is_refused(library, saved):
    other = tiny(seed=1)
    assert other.fingerprint != library.model
    pattern = dx.simulate(dx.Crystal.from_ase(SHEETS["graphene"]))
    for made in (library, saved):
        with pytest.raises(LibraryError, match="built by model") as error:
            retrieve(pattern, made, other)
        assert "\n" not in str(error.value)


def test_retrieve_takes_a_library_by_its_folder(saved, model):
    pattern = dx.simulate(dx.Crystal.from_ase(SHEETS["1T-PtS2"]))
    assert retrieve(pattern, saved, model)[0].uid == "1T-PtS2"
    with pytest.raises(LibraryError, match="no library here"):
        retrieve(pattern, saved.parent / "absent", model)


def test_search_finds_the_nearest_of_the_allowed(library, saved):
    queries = library.embeddings[[2, 0]].astype(np.float32)
    for made in (library, Library.load(saved)):
        rows, cosines = made.search(queries, 3)
        exact = queries @ np.asarray(library.embeddings, np.float32).T
        np.testing.assert_array_equal(rows, np.argsort(-exact.max(0), kind="stable"))
        np.testing.assert_allclose(cosines, exact[:, rows], atol=1e-6)
        only = allowed_rows(made, ["Mo", "S", "Pt"])
        assert only.tolist() == [False, True, True]
        assert set(made.search(queries, 3, only)[0].tolist()) == {1, 2}
