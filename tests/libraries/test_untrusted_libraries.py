"""Libraries from strangers: read, or refused in one line."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
import tiny
from untrusted import bounded, refused, spoiled

from dd2d_jax.data import crystal_set
from dd2d_jax.libraries.library import Library
from dd2d_jax.libraries.shards import Shard, StoredCrystals, write_shard
from dd2d_jax.util.errors import LibraryError


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
