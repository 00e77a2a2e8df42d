"""Crystals on the device and batches as a pure function of (seed, step)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import diffraction as dx
from dd2d_jax.data import crystal_set, datasets, splits, usable
from dd2d_jax.networks.trained import tower_of
from dd2d_jax.spots import Conditions, atom_slots, strongest_rods

# Rods simulated for each token: disturbed atoms may lift a weak spot among the strongest.
_SPARE = 1.5
# Batches looked at to find what a batch needs, the share of them that has to fit, and the number
# of tokens that room is made in.
_BATCHES, _SHARE, _ROUND = 200, 0.98, 128


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Source:
    """Crystals and their strongest rods, n of each, resident on the devices.

    Attributes:
        crystal: Crystal with batch axis (n,).
        hk: (n, C, 2) rods.
    """

    crystal: dx.Crystal
    hk: jax.Array

    def take(self, index: jax.Array) -> Source:
        """Rows `index`."""
        return jax.tree.map(lambda x: jnp.take(x, index, axis=0), self)


def load_source(crystals: crystal_set.CrystalSet, conditions: Conditions) -> Source:
    """Find each crystal's strongest rods and put both on the device."""
    count = int(conditions.tokens * _SPARE)
    hk = strongest_rods(crystals.crystal, conditions, count)
    return Source(crystals.crystal, jnp.asarray(hk, jnp.int32))


def load_crystals(config: ConfigDict) -> tuple[crystal_set.CrystalSet, dict[str, np.ndarray]]:
    """The data set that the config names, and its splits as indices.

    Raises:
        ValueError: it cannot be read, or has fewer crystals than the config asks for.
    """
    data = config.data
    crystals = datasets.load(data.source, data.path or None, data.data_dir or None)
    # Not every network can read them, and all networks are compared on the same crystals.
    crystals = crystal_set.without_mixed(crystals)
    usable.check_kept(crystals.report)
    if not 0 <= data.limit <= len(crystals):
        raise ValueError(
            f"config.data.limit = {data.limit}, but {data.path or data.source} has "
            f"{len(crystals)} crystals; 0 takes all"
        )
    parts = splits.split(crystals, data.split, data.split_seed, data.limit or None)
    return crystals, parts


def batches(config: ConfigDict, source: Source, rows: np.ndarray) -> Callable[[int], np.ndarray]:
    """A function of the step: the rows of its batch, see `batch_indices` and `alike_order`."""
    alike = config.train.get("alike", 0)
    lattice = np.asarray(source.crystal.lattice, float)

    @functools.lru_cache(maxsize=2)
    def order(epoch: int) -> np.ndarray:
        return alike_order(config.seed, epoch, rows, lattice, alike)

    batch = config.train.batch
    return lambda step: batch_indices(config.seed, step, rows, batch, order if alike else None)


def batch_indices(
    seed: int,
    step: int,
    rows: np.ndarray,
    batch: int,
    order: Callable[[int], np.ndarray] | None = None,
) -> np.ndarray:
    """Rows (batch,) of one step: each epoch a new order, the last incomplete batch left out.

    A data set smaller than a batch is drawn from with repetition. `order`: the rows as they come in
    an epoch; None is at random.
    """
    if len(rows) < batch:
        return np.random.default_rng((seed, step)).choice(rows, batch)
    epoch, position = divmod(step, len(rows) // batch)
    if order is None:
        every = np.random.default_rng((seed, epoch)).permutation(rows)
    else:
        every = order(epoch)
    return every[position * batch : (position + 1) * batch]


def alike_order(
    seed: int, epoch: int, rows: np.ndarray, lattice: np.ndarray, most: int
) -> np.ndarray:
    """Rows of an epoch in groups of at most `most` crystals whose cells are alike, in random order.

    Of the rivals in a library those count whose cells are like the crystal's own, and in a random
    batch there are few of them. The groups are halved along a random direction again and again, so
    that each epoch has others.

    Args:
        seed, epoch: which order.
        rows: (m,) of the crystals.
        lattice: (n, 2, 2) of all crystals.
        most: of a group.
    """
    random = np.random.default_rng((seed, epoch))
    length = np.linalg.norm(lattice, axis=-1)
    cosine = (lattice[:, 0] * lattice[:, 1]).sum(-1) / length.prod(-1)
    shape = np.c_[np.log(length), cosine / 2]
    groups = [random.permutation(rows)]
    while len(groups[-1]) > most:  # the last is the largest
        halves = []
        for group in groups:
            along = np.argsort(shape[group] @ random.normal(size=3), kind="stable")
            halves += np.array_split(group[along], [len(group) // 2])
        groups = halves
    return np.concatenate([groups[i] for i in random.permutation(len(groups))])


def count_parts(config: ConfigDict) -> int:
    """In how many parts a batch is embedded, on all devices together."""
    return jax.device_count() * config.train.get("accumulate", 1)


class Room(NamedTuple):
    """What of a batch is computed on a device: the step is compiled once for each.

    Attributes:
        atoms: slots for atoms of each crystal; None leaves them as they are.
        tokens: of all crystals and of all patterns that a device embeds at once (see Towers).
    """

    atoms: int | None = None
    tokens: tuple[int | None, int | None] = (None, None)


def rooms(config: ConfigDict, source: Source, rows: np.ndarray) -> Callable[[np.ndarray], Room]:
    """A function that finds the room for rows (parts, B / parts) of a whole batch.

    A part is what a device embeds at once. Padding costs as much as tokens do. There are two sizes:
    one for nearly all batches drawn from `rows`, and for the others all that there is.
    """
    tower = tower_of(config.model)
    if not tower.packs:
        return lambda _: Room()
    numbers = np.asarray(source.crystal.numbers)
    slots = atom_slots(numbers)
    pairs = (np.asarray(source.hk) != 0).any(-1).sum(1)
    tokens = tower.tokens((numbers > 0).sum(1), np.minimum(pairs, config.diffraction.tokens))

    def needed(rows: np.ndarray) -> np.ndarray:
        return np.array([slots[rows].max(), *(x[rows].sum(1).max() for x in tokens)])

    parts = count_parts(config)
    batch = batches(config, source, rows)
    drawn = (batch(i) for i in range(_BATCHES))
    most = np.quantile([needed(x.reshape(parts, -1)) for x in drawn], _SHARE, axis=0)
    atoms, *usual = (-(-most // [1, _ROUND, _ROUND])).astype(int) * [1, _ROUND, _ROUND]
    usual = Room(int(atoms), tuple(int(x) for x in usual))

    def room(rows: np.ndarray) -> Room:
        fits = needed(rows) <= [usual.atoms, *usual.tokens]
        return usual if fits.all() else Room()

    return room
