"""Libraries with mixed sites: how they are stored, and that others stay as they were."""

import dataclasses
import hashlib
import json

import alloys
import numpy as np
import pytest
import small_library
import tiny

import dd2d_jax
import diffraction as dx
from dd2d_jax.commands import main as cli
from dd2d_jax.data import sources, usable
from dd2d_jax.data.crystal_set import CrystalSet, new_report
from dd2d_jax.libraries.build import build, merge
from dd2d_jax.libraries.elements import allowed_rows
from dd2d_jax.libraries.library import FORMAT, MIXED_FORMAT, Library, read_manifest
from dd2d_jax.libraries.shards import Shard, write_shard
from dd2d_jax.networks.trained import Model, initial_params
from dd2d_jax.spots import cut_to, strongest_rods
from dd2d_jax.util.errors import LibraryError


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """CIF files in `cifs`, one of them impossible, a network in `run`, and their library."""
    folder = tmp_path_factory.mktemp("mixed")
    small_library.untrained(folder)
    alloys.write_cifs(
        folder / "cifs", alloy=alloys.ALLOY, mos2=alloys.MOS2, other=alloys.OTHER_ALLOY,
        ws2=alloys.WS2, wrong=alloys.MOS2,
    )  # fmt: skip
    wrong = folder / "cifs" / "wrong.cif"
    wrong.write_text(wrong.read_text().replace("0.41305556  1", "0.41305556  1.5"))
    line = ["index", folder / "cifs", folder / "lib", "--checkpoint", folder / "run"]
    assert cli.main([str(word) for word in line]) == 0
    return folder


@pytest.fixture(scope="module")
def crystals(place):
    return usable.from_atoms(sources.files(place / "cifs")[0])


def plain() -> CrystalSet:
    """Two crystals of full sites, of numbers that no arithmetic changes."""
    numbers = np.array([[42, 16, 16], [6, 6, 0]], np.int32)
    cells = np.array([[[3, 0], [-1.5, 2.5]]] * 2, np.float32)
    places = np.arange(18, dtype=np.float32).reshape(2, 3, 3) / 8
    return CrystalSet(
        np.array(["a", "b"]), np.array(["MoS2", "C"]), cells, places, numbers,
        np.array([True, False]), np.array(["2H", ""]), new_report(),
    )  # fmt: skip


@pytest.mark.parametrize("occupancy", [None, np.ones((2, 3), np.float32)])
def test_files_of_full_sites_are_the_same_bytes_as_before_there_were_mixed_ones(
    tmp_path, occupancy
):
    crystals = dataclasses.replace(plain(), occupancy=occupancy)
    write_shard(tmp_path / "a.shard", crystals, np.ones((2, 4)), "model")
    found = hashlib.sha256((tmp_path / "a.shard").read_bytes()).hexdigest()
    assert found == "ba151aa4d07dfd0cd5db8ce2689281db14312ea8cb44412df0fd9300e8f8f479"


def test_only_libraries_with_mixed_sites_are_of_the_format_that_old_programs_refuse(
    place, crystals, tmp_path
):
    assert read_manifest(place / "lib")["format"] == MIXED_FORMAT
    full = crystals.take(np.flatnonzero(~crystals.mixed))
    Library(full, np.ones((len(full), 4), np.float16), "model").save(tmp_path / "full")
    assert read_manifest(tmp_path / "full")["format"] == FORMAT == 3
    merge([tmp_path / "full"], tmp_path / "again")
    assert read_manifest(tmp_path / "again")["format"] == FORMAT


def test_a_stored_library_has_the_occupancies_of_its_files(place, crystals, tmp_path):
    library = Library.load(place / "lib")
    assert library.crystals.report["skipped"]["wrong occupancy"]["count"] == 1
    library.save(tmp_path / "copy")
    merge([place / "lib"], tmp_path / "merged")
    for folder in (place / "lib", tmp_path / "copy", tmp_path / "merged"):
        stored = Library.load(folder).crystals
        np.testing.assert_array_equal(stored.occupancy, crystals.occupancy)
        np.testing.assert_array_equal(stored.numbers, crystals.numbers)
        np.testing.assert_array_equal(stored.formula, crystals.formula)
    full = np.flatnonzero(~crystals.mixed)
    assert library.crystals.take(full).occupancy is None
    assert library.without(np.flatnonzero(crystals.mixed)).crystals.occupancy is None


def test_a_library_with_mixed_sites_is_appended_to_one_without(place, crystals, tmp_path):
    model = dd2d_jax.load(place / "run")
    build(crystals.take(np.flatnonzero(~crystals.mixed)), tmp_path / "lib", model)
    assert read_manifest(tmp_path / "lib")["format"] == FORMAT
    build(crystals.take(np.flatnonzero(crystals.mixed)), tmp_path / "lib", model, append=True)
    assert read_manifest(tmp_path / "lib")["format"] == MIXED_FORMAT
    stored = Library.load(tmp_path / "lib").crystals
    assert sorted(stored.formula) == sorted(crystals.formula)
    assert stored.whole.mixed.tolist() == [False, False, True, True]


@pytest.mark.parametrize("value", [0.0, -0.5, 1.5, np.nan])
def test_occupancies_that_no_source_gives_are_refused(crystals, tmp_path, value):
    hurt = dataclasses.replace(crystals, occupancy=np.full_like(crystals.occupancy, value))
    write_shard(tmp_path / "a.shard", hurt, np.zeros((len(hurt), 4)), "model")
    with pytest.raises(LibraryError, match="occupancies beyond 0 to 1"):
        Shard(tmp_path / "a.shard")


def test_every_element_of_a_mixed_site_counts_for_filters(place):
    library = Library.load(place / "lib")
    names = library.crystals.uid

    def uids(**asked):
        return {str(uid).removesuffix(".cif") for uid in names[allowed_rows(library, **asked)]}

    assert uids(elements="Mo,S") == {"mos2"}
    assert uids(elements="Mo,W,S") == {"mos2", "ws2", "alloy"}
    assert uids(contains="W") == {"ws2", "alloy"} and uids(excludes="W") == {"mos2", "other"}


def test_what_is_simulated_of_a_set_is_the_mixed_crystal(crystals):
    beam, q = dx.Electrons(80.0), np.array([[0.36, 0.0, 0.01], [0.0, 0.63, 0.02]], np.float32)
    i = crystals.uid.tolist().index("alloy.cif")
    # Heights are counted from elsewhere: the phases differ.
    wanted = np.abs(dx.structure_factor(dx.Crystal.from_ase(crystals.atoms(i)), q, beam))
    for batch in (crystals.crystal, cut_to(crystals, np.arange(len(crystals)), 8)):
        one = dx.Crystal(*(x[i] for x in (batch.lattice, batch.positions, batch.numbers)),
                         occupancy=batch.occupancy[i])  # fmt: skip
        np.testing.assert_allclose(np.abs(dx.structure_factor(one, q, beam)), wanted, rtol=1e-4)
    full = crystals.take(np.flatnonzero(~crystals.mixed))
    assert cut_to(full, np.arange(len(full)), 8).occupancy is None


def test_the_network_reads_the_pattern_of_the_mixed_crystal(place, crystals):
    model = dd2d_jax.load(place / "run")
    whole = model.embed_crystals(crystals.crystal)
    hk = strongest_rods(crystals.crystal, model.conditions, model.conditions.tokens)
    # Many are cut to their size.
    many = np.tile(np.arange(len(crystals)), 1100)
    wide = crystals.padded(16).take(many)
    cut = model.embed_crystals(wide.crystal, hk[many])
    np.testing.assert_allclose(cut[: len(crystals)], whole, atol=1e-5)
    alloy, mos2 = (crystals.uid.tolist().index(f"{x}.cif") for x in ("alloy", "mos2"))
    assert np.abs(whole[alloy] - whole[mos2]).max() > 1e-4


def test_a_network_that_reads_atoms_refuses_mixed_sites(crystals, tmp_path):
    config = tiny.paper_config()
    model = Model(config, initial_params(config))
    with pytest.raises(ValueError, match="reads atoms and knows no mixed sites") as caught:
        Library.build(crystals, model)
    assert "\n" not in str(caught.value)
    full = crystals.take(np.flatnonzero(~crystals.mixed))
    assert len(Library.build(full, model)) == 2


def test_the_report_of_index_says_what_was_skipped(place, command_line, tmp_path):
    line = f"index {place / 'cifs'} {tmp_path / 'lib'} --checkpoint {place / 'run'} --json"
    status, out, _ = command_line(line)
    report = json.loads(out)["report"]
    assert status == 0 and report["kept"] == 4 and list(report["skipped"]) == ["wrong occupancy"]
