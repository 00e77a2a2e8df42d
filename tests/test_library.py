"""Libraries: kept exactly, never overwritten, and refused where they are damaged."""

import json
import shutil

import numpy as np
import pytest
from ase.build import graphene, mx2
from ase.db import connect

import diffraction as dx
from configs import smoke
from dd2d_jax import datasets
from dd2d_jax.library import Library, LibraryError
from dd2d_jax.retrieval import retrieve
from dd2d_jax.trained import Model, initial_params

SHEETS = {
    "graphene": graphene(vacuum=8),
    "1H-MoS2": mx2("MoS2", "2H", vacuum=8),
    "1T-PtS2": mx2("PtS2", "1T", vacuum=8),
}


def tiny(seed: int = 0) -> Model:
    config = smoke.get_config()
    config.seed = seed
    config.model.width = config.model.atom_width = config.model.embedding = 16
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
    return Library.build(datasets.from_atoms(entries), model)


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
    np.testing.assert_array_equal(back.embeddings, library.embeddings)
    for name in ("uid", "formula", "prototype", "known", "lattice", "positions", "numbers"):
        one, two = getattr(back.crystals, name), getattr(library.crystals, name)
        np.testing.assert_array_equal(one, two)
        assert one.dtype == two.dtype
    assert back.crystals.report == library.crystals.report
    # A folder given as text is as good.
    assert len(Library.load(str(saved))) == 3


def test_embeddings_are_unit_vectors_of_each_crystal(library, model):
    assert library.embeddings.shape == (3, 16)
    assert library.embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(library.embeddings, axis=1), 1, atol=1e-5)
    single = model.embed_crystals(library.crystals.take([1]).crystal)
    np.testing.assert_allclose(single[0], library.embeddings[1], atol=1e-5)


def test_an_existing_folder_is_never_overwritten(library, saved):
    before = {p.name: p.read_bytes() for p in saved.iterdir()}
    with pytest.raises(FileExistsError, match="exists already"):
        library.save(saved)
    assert {p.name: p.read_bytes() for p in saved.iterdir()} == before
    assert [p.name for p in saved.parent.iterdir()] == ["library"]


def test_saving_that_fails_leaves_nothing_behind(library, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    for name in ("save", "savez_compressed"):
        with monkeypatch.context() as patch:
            patch.setattr(np, name, full)
            with pytest.raises(OSError, match="No space"):
                library.save(tmp_path / "library")
        assert list(tmp_path.iterdir()) == []
    library.save(tmp_path / "library")
    assert len(Library.load(tmp_path / "library")) == 3


@pytest.mark.parametrize("name", ["embeddings.npy", "crystals.npz"])
@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty", "missing"])
def test_damaged_files_are_refused(saved, name, damage):
    path = saved / name
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    if damage == "missing":
        path.unlink()
    elif damage == "flipped":
        path.write_bytes(content)
    else:
        path.write_bytes(content[: 0 if damage == "empty" else len(content) // 2])
    refused(saved, "damaged")


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
        ({"sha256": {"embeddings.npy": "0" * 64}}, "damaged"),
        ({"sha256": ["embeddings.npy"]}, "damaged"),
        ({"sha256": {"../../secret": "0" * 64}}, "unknown file"),
        ({"sha256": {"/etc/passwd": "0" * 64}}, "unknown file"),
        ({"sha256": {}}, "damaged"),
        ({"model": 5}, "damaged"),
        ({"report": None}, "damaged"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(saved, changes, words):
    manifest(saved, **changes)
    refused(saved, words)


@pytest.mark.parametrize("key", ["format", "model", "crystals", "report", "sha256"])
def test_a_manifest_that_lacks_something_is_refused(saved, key):
    path = saved / "manifest.json"
    content = json.loads(path.read_text())
    del content[key]
    path.write_text(json.dumps(content))
    refused(saved, "damaged")


def test_pickles_are_never_opened(saved):
    """A file from a stranger with a matching digest, but with objects in it."""
    from hashlib import sha256

    path = saved / "embeddings.npy"
    np.save(path, np.array([{}, {}, {}], object), allow_pickle=True)
    content = json.loads((saved / "manifest.json").read_text())
    digests = {**content["sha256"], path.name: sha256(path.read_bytes()).hexdigest()}
    manifest(saved, sha256=digests)
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
    np.testing.assert_allclose(from_db.embeddings, library.embeddings, atol=1e-5)
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
