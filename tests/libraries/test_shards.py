"""Parts of libraries: read where they are, and never beyond what a file holds."""

import dataclasses
import json

import numpy as np
import pytest
import tiny

from dd2d_jax.data.crystal_set import join
from dd2d_jax.libraries.shards import Shard, Stacked, StoredCrystals, write_shard
from dd2d_jax.util.errors import LibraryError


@pytest.fixture(scope="module")
def crystals():
    found = tiny.crystals()
    # One of another size, with a name that is not ASCII.
    found.numbers[3, 2:] = 0
    found.uid[5] = "φ-сера"
    found.ehull[:4] = [0.0, 0.02, 0.3, 1.5]
    groups = found.layer_group.astype("U8")
    groups[1:3] = ["p-3m1", "p-6m2"]
    return dataclasses.replace(found, layer_group=groups)


@pytest.fixture
def shard(crystals, tmp_path):
    embeddings = np.random.default_rng(0).standard_normal((len(crystals), 8))
    write_shard(tmp_path / "00000.shard", crystals, embeddings, "model")
    return tmp_path / "00000.shard"


def same(one, two) -> None:
    names = ("uid", "formula", "prototype", "known", "lattice", "numbers", "ehull", "layer_group")
    for name in names:
        np.testing.assert_array_equal(np.asarray(getattr(one, name)), getattr(two, name))
    real = one.numbers > 0
    np.testing.assert_array_equal(one.positions[real], two.positions[real])


def test_any_rows_of_any_parts_are_read(crystals, tmp_path):
    shards, start = [], 0
    for i, count in enumerate([10, 0, 1, 21]):
        part = crystals.take(range(start, start + count))
        write_shard(tmp_path / f"{i}.shard", part, np.zeros((count, 8)), "model")
        shards.append(Shard(tmp_path / f"{i}.shard"))
        start += count
    stored = StoredCrystals(shards, crystals.report)
    for rows in ([31, 0, 10, 11, 10], range(32), [-1], np.arange(32) == 7):
        same(stored.take(rows), crystals.take(rows))
    assert len(stored.take([])) == 0
    same(stored, crystals)
    np.testing.assert_array_equal(stored.lattice[5:12], crystals.lattice[5:12])
    with pytest.raises(IndexError, match="32 crystals"):
        stored.take([32])


def test_the_same_crystals_give_the_same_bytes(crystals, shard, tmp_path):
    embeddings = np.random.default_rng(0).standard_normal((len(crystals), 8))
    write_shard(tmp_path / "again.shard", crystals, embeddings, "model")
    assert (tmp_path / "again.shard").read_bytes() == shard.read_bytes()


def test_joined_sets_are_padded_to_the_largest(crystals):
    small = crystals.take([3])
    small = type(small)(
        **{**vars(small), "numbers": small.numbers[:, :2], "positions": small.positions[:, :2]}
    )
    same(join([small, crystals], {}), crystals.take([3, *range(32)]))


def test_parts_of_the_format_before_are_read(crystals, shard):
    """Without hulls and layer groups: neither is known of any crystal."""
    raw = shard.read_bytes()
    length = int.from_bytes(raw[8:16], "little")
    header = json.loads(raw[16 : 16 + length])
    for name in ("ehull", "layer_group"):
        del header["arrays"][name]
    del header["layer_groups"]
    # Blanks after the JSON keep the arrays where they are.
    text = json.dumps(header).encode()
    shard.write_bytes(raw[:16] + text.ljust(length) + raw[16 + length :])
    old = StoredCrystals([Shard(shard)], crystals.report)
    assert np.isnan(old.ehull[:]).all() and set(old.layer_group) == {""}
    np.testing.assert_array_equal(old.uid, crystals.uid)


def test_elements_are_those_of_the_numbers(crystals, shard):
    masks = Shard(shard).arrays["elements"]
    for mask, numbers in zip(masks.tolist(), crystals.numbers, strict=True):
        bits = {z for z in range(128) if mask[z // 64] >> (z % 64) & 1}
        assert bits == set(numbers[numbers > 0].tolist())


def test_stacked_rows_are_those_of_the_whole():
    parts = [np.arange(6).reshape(3, 2), np.zeros((0, 2), int), np.arange(6, 10).reshape(2, 2)]
    stacked, whole = Stacked(parts), np.concatenate(parts)
    assert stacked.shape == whole.shape and len(stacked) == 5
    for rows in (3, slice(1, 4), [4, 0, 0], whole[:, 0] > 3, -1):
        np.testing.assert_array_equal(stacked[rows], whole[rows])
    np.testing.assert_array_equal(np.asarray(stacked), whole)


def test_no_mutation_of_a_file_leads_beyond_it(shard):
    """Any byte may be wrong: an error of one line, or crystals, though others."""
    content = shard.read_bytes()
    header = 16 + int.from_bytes(content[8:16], "little")
    rng = np.random.default_rng(0)
    refused = 0
    for trial in range(150):
        mutated = bytearray(content)
        end = header if trial % 2 else len(content)
        for place in rng.integers(0, end, 1 + trial % 3):
            mutated[place] = rng.integers(256)
        if trial % 10 == 0:
            del mutated[rng.integers(len(content)) :]
        shard.write_bytes(mutated)
        try:
            opened = Shard(shard)
            opened.take(np.arange(len(opened)))
            opened.texts("uid")
        except LibraryError as error:
            refused += 1
            assert str(shard) in str(error) and "\n" not in str(error)
    assert refused > 30


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("positions", {"at": 2**40}),
        ("positions", {"shape": [10**12, 3]}),
        ("embeddings", {"dtype": "|O"}),
        ("lattice", {"shape": [-1, 2, 2]}),
        ("numbers", {"shape": [3]}),
        ("uid", {"at": 1}),
        ("known", None),
    ],
)
def test_a_header_that_lies_is_refused(shard, name, change):
    content = shard.read_bytes()
    size = int.from_bytes(content[8:16], "little")
    header = json.loads(content[16 : 16 + size])
    header["arrays"][name] = None if change is None else {**header["arrays"][name], **change}
    text = json.dumps(header).encode()
    data = content[-(-(16 + size) // 64) * 64 :]
    start = 16 + len(text)
    shard.write_bytes(
        content[:8] + len(text).to_bytes(8, "little") + text + b"\0" * (-start % 64) + data
    )
    with pytest.raises(LibraryError, match="damaged"):
        Shard(shard)
