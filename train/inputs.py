"""Crystals on the device and batches as a pure function of (seed, step)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import diffraction as dx
from dd2d_jax import datasets
from dd2d_jax.spots import Conditions, strongest_rods

# Rods simulated for each token: disturbed atoms may lift a weak spot among the strongest.
_SPARE = 1.5


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


def load_source(crystals: datasets.CrystalSet, conditions: Conditions) -> Source:
    """Find each crystal's strongest rods and put both on the device."""
    count = int(conditions.tokens * _SPARE)
    hk = strongest_rods(crystals.crystal, conditions, count)
    return Source(crystals.crystal, jnp.asarray(hk, jnp.int32))


def load_crystals(config: ConfigDict) -> tuple[datasets.CrystalSet, dict[str, np.ndarray]]:
    """The data set that the config names, and its splits as indices."""
    data = config.data
    crystals = datasets.load(data.source, data.path or None, data.data_dir or None)
    splits = datasets.split(crystals, data.split, data.split_seed, data.limit or None)
    return crystals, splits


def batch_indices(seed: int, step: int, rows: np.ndarray, batch: int) -> np.ndarray:
    """Rows (batch,) of one step: each epoch a new order, the last incomplete batch left out.

    A data set smaller than a batch is drawn from with repetition.
    """
    if len(rows) < batch:
        return np.random.default_rng((seed, step)).choice(rows, batch)
    epoch, position = divmod(step, len(rows) // batch)
    order = np.random.default_rng((seed, epoch)).permutation(rows)
    return order[position * batch : (position + 1) * batch]
