"""Batches are a pure function of (seed, step); crystals and rods stay together."""

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import diffraction as dx
from configs import paper
from dd2d_jax.networks.paper_network import PaperTower
from dd2d_jax.spots import Conditions, half_plane
from train.inputs import (
    Room,
    Source,
    alike_order,
    batch_indices,
    batches,
    load_crystals,
    load_source,
    rooms,
)

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


@pytest.fixture
def cells() -> np.ndarray:
    """300 lattices (n, 2, 2), hexagonal, square and oblique."""
    random = np.random.default_rng(0)
    a, b = random.uniform(2.4, 12, (2, 300))
    angle = random.choice([np.pi / 2, 2 * np.pi / 3, 1.8], 300)
    b = np.where(angle == 1.8, b, a)
    return np.stack([np.c_[a, 0 * a], np.c_[b * np.cos(angle), b * np.sin(angle)]], 1)


def test_neighbours_in_a_batch_have_like_cells_and_an_epoch_still_takes_each_row_once(cells):
    rows = np.arange(10, 300)
    order = alike_order(0, 0, rows, cells, 8)
    np.testing.assert_array_equal(np.sort(order), rows)
    size = np.log(np.linalg.norm(cells, axis=-1))

    def apart(order):
        return np.median(np.abs(np.diff(size[order], axis=0)).max(1))

    assert apart(order) < 0.4 * apart(np.random.default_rng(0).permutation(rows))
    np.testing.assert_array_equal(order, alike_order(0, 0, rows, cells, 8))


def test_each_epoch_groups_alike_crystals_anew(cells):
    rows = np.arange(300)
    pairs = []
    for epoch in (0, 1):
        order = alike_order(0, epoch, rows, cells, 8)
        pairs.append({frozenset(p) for p in zip(order[:-1], order[1:], strict=True)})
    assert len(pairs[0] & pairs[1]) < len(pairs[0]) / 2


def test_batches_are_of_like_cells_where_the_config_says_so():
    config = tiny.config()
    source = load_source(tiny.crystals(), Conditions.from_config(config.diffraction))
    rows, lattice = np.arange(32), np.asarray(source.crystal.lattice, float)
    config.train.batch, config.train.alike = 8, 0
    plain = np.concatenate([batches(config, source, rows)(i) for i in range(8)])
    np.testing.assert_array_equal(
        plain, np.concatenate([batch_indices(config.seed, i, rows, 8) for i in range(8)])
    )
    config.train.alike = 4
    found = np.concatenate([batches(config, source, rows)(i) for i in range(8)])
    wanted = [alike_order(config.seed, epoch, rows, lattice, 4) for epoch in (0, 1)]
    np.testing.assert_array_equal(found, np.concatenate(wanted))


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
    config.data.limit = 33
    with pytest.raises(ValueError, match="config.data.limit = 33, but .* has 32 crystals; 0 takes"):
        load_crystals(config)
    config.data.path = str(tmp_path / "nothing.db")
    with pytest.raises(FileNotFoundError, match="nothing.db"):
        load_crystals(config)


def uneven(count: int) -> Source:
    """Crystals of 1 to 9 atoms and 1 to 30 rods; one in a hundred has 30 atoms."""
    rng = np.random.default_rng(0)
    atoms, rods = rng.integers(1, 10, count), rng.integers(1, 31, count)
    atoms[::100] = 30
    numbers = np.where(np.arange(32) < atoms[:, None], 6, 0)
    crystal = dx.Crystal(jnp.ones((count, 2, 2)), jnp.zeros((count, 32, 3)), jnp.asarray(numbers))
    hk = np.where(np.arange(36)[:, None] < rods[:, None, None], 1, 0) * np.ones(2, int)
    return Source(crystal, jnp.asarray(hk))


def test_a_batch_gets_the_room_it_needs_or_all_there_is():
    config, source = paper.get_config(), uneven(2000)
    config.train.batch, config.diffraction.tokens = 32, 24
    rows = np.flatnonzero(np.arange(2000) % 100)
    room = rooms(config, source, rows)
    drawn = [room(batch_indices(0, i, rows, 32).reshape(4, 8)) for i in range(100)]
    usual = max(set(drawn), key=drawn.count)
    assert drawn.count(usual) > 90 and set(drawn) <= {usual, Room()}
    assert usual.atoms == 9
    # Eight crystals a device, 136 places each.
    assert usual.tokens[0] < 8 * 136 / 2
    for shape in ((4, 8), (2, 16)):
        index = batch_indices(0, 0, rows, 32).reshape(shape)
        tokens = PaperTower.tokens(
            (np.asarray(source.crystal.numbers)[index] > 0).sum(-1),
            np.minimum((np.asarray(source.hk)[index] != 0).any(-1).sum(-1), 24),
        )
        fits = all(x.sum(1).max() <= y for x, y in zip(tokens, usual.tokens, strict=True))
        assert room(index) == (usual if fits else Room())
    assert room(np.full((4, 8), 100)) == Room()


def test_the_default_network_computes_all_places():
    assert rooms(tiny.config(), uneven(100), np.arange(100))(np.zeros((4, 2), int)) == Room()
