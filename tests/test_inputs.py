"""Batches are a pure function of (seed, step); crystals and rods stay together."""

import numpy as np
import pytest
import tiny

from dd2d_jax.spots import Conditions, half_plane
from train.inputs import batch_indices, load_crystals, load_source

ROWS = np.arange(100, 150)


def test_an_epoch_takes_each_row_at_most_once():
    first = np.concatenate([batch_indices(0, step, ROWS, 8) for step in range(6)])
    assert len(set(first)) == 48 and set(first) <= set(ROWS)


def test_a_full_epoch_takes_every_row():
    epoch = np.concatenate([batch_indices(0, step, ROWS, 10) for step in range(5)])
    np.testing.assert_array_equal(np.sort(epoch), ROWS)


def test_each_epoch_has_its_own_order():
    epochs = [
        np.concatenate([batch_indices(0, 5 * e + s, ROWS, 10) for s in range(5)]) for e in (0, 1)
    ]
    assert not np.array_equal(*epochs)


def test_what_the_last_batch_leaves_out_is_not_always_the_same():
    left = {
        frozenset(ROWS)
        - {*np.concatenate([batch_indices(0, 6 * e + s, ROWS, 8) for s in range(6)])}
        for e in range(5)
    }
    assert len(left) == 5


def test_a_batch_depends_on_seed_and_step_alone():
    found = [batch_indices(seed, step, ROWS, 8) for seed, step in ((0, 3), (0, 3), (1, 3), (0, 4))]
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2]) and not np.array_equal(found[0], found[3])


def test_few_rows_are_drawn_with_repetition():
    found = batch_indices(0, 0, ROWS[:3], 8)
    assert len(found) == 8 and set(found) <= set(ROWS[:3])
    np.testing.assert_array_equal(found, batch_indices(0, 0, ROWS[:3], 8))
    assert not np.array_equal(found, batch_indices(0, 1, ROWS[:3], 8))


def test_a_source_keeps_crystals_and_rods_together():
    crystals = tiny.crystals()
    source = load_source(crystals, Conditions.from_config(tiny.config().diffraction))
    assert source.hk.shape == (32, 12, 2)  # more than the tokens: disturbed, others are strong
    part = source.take(np.array([5, 2]))
    for i, row in enumerate((5, 2)):
        np.testing.assert_array_equal(part.crystal.lattice[i], crystals.lattice[row])
        np.testing.assert_array_equal(part.crystal.numbers[i], crystals.numbers[row])
        rods = {tuple(x) for x in np.asarray(part.hk[i]).tolist()} - {(0, 0)}
        possible = half_plane(crystals.lattice[row], tiny.config().diffraction.q_max)
        assert rods and rods <= {tuple(x) for x in possible.tolist()}


def test_the_config_names_the_data_and_its_splits(tmp_path):
    config = tiny.config()
    config.data.source = "ase_db"
    config.data.path = str(tiny.write_db(tmp_path / "tiny.db"))
    config.data.data_dir = str(tmp_path / "data")
    config.data.limit = 20
    crystals, splits = load_crystals(config)
    assert len(crystals) == 32
    assert {name: len(rows) for name, rows in splits.items()} == {
        "train": 16,
        "validation": 2,
        "test": 2,
    }
    config.data.path = str(tmp_path / "nothing.db")
    with pytest.raises(FileNotFoundError, match="nothing.db"):
        load_crystals(config)
