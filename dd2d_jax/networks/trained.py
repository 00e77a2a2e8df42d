"""A trained twin tower, ready to embed crystals and patterns."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

import diffraction as dx
from dd2d_jax.networks.atom_network import AtomTower
from dd2d_jax.networks.checkpoint import fingerprint, read_config, restore
from dd2d_jax.networks.disturbances import clean_spots
from dd2d_jax.networks.paper_network import PaperTower
from dd2d_jax.networks.towers import Towers
from dd2d_jax.networks.twin_tower import TwoTower
from dd2d_jax.spots import Conditions, Spots, atom_slots, power_of_two, strongest_rods
from dd2d_jax.util.errors import CheckpointError
from dd2d_jax.util.limits import first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEFAULT_WEIGHTS = Path(__file__).parents[1] / "weights"
# Rows that go through the network at once.
CHUNK = 256
_ROUND = 16
# So many crystals are sorted by size before they are embedded.
_SORT_FROM = 4096
# What a config may ask for: far more than any network of ours, and no more than can be built.
_MOST = {
    "model": {"width": 4096, "layers": 64, "heads": 64, "embedding": 4096},
    "diffraction": {"tokens": 4096, "q_max": 10.0, "energy": 1e5, "b_iso": 100.0},
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Model:
    """Parameters and the config that they belong to.

    Attributes:
        config: of the training run.
        params: a tree of arrays.
    """

    config: ConfigDict
    params: Any

    @property
    def conditions(self) -> Conditions:
        """The conditions under which crystals are simulated for this model."""
        return Conditions.from_config(self.config.diffraction)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A short hash that names these parameters."""
        return fingerprint(self.params)

    @property
    def _functions(self) -> tuple[Callable, Callable]:
        return _encoders(
            FrozenConfigDict(self.config.model), FrozenConfigDict(self.config.diffraction)
        )

    def embed_crystals(self, crystals: dx.Crystal, hk: np.ndarray | None = None) -> np.ndarray:
        """Unit vectors (n, D) of a batch of n crystals in canonical setting.

        Args:
            crystals: batch axis (n,).
            hk: (n, C, 2) their strongest rods, where known and the network reads spots.

        Raises:
            ValueError: mixed sites, and a network that reads atoms.
        """
        tower = tower_of(self.config.model)
        if not tower.reads_spots and crystals.occupancy is not None:
            raise ValueError(
                "this network reads atoms and knows no mixed sites (partial occupancies); leave "
                "such crystals out, or take a network that reads their patterns"
            )
        if not tower.reads_spots:  # nothing is simulated
            hk = np.zeros((len(crystals), 1, 2), np.int16)
        elif hk is None:
            hk = strongest_rods(crystals, self.conditions, self.conditions.tokens)
        if tower.packs:
            atoms = (np.asarray(crystals.numbers) > 0).sum(-1)
            return self._embed(crystals, hk, tower.tokens(atoms, 0)[0])
        out = np.zeros((len(hk), self.config.model.embedding), np.float32)
        for rows, slots, pairs in _alike(np.asarray(crystals.numbers), hk):
            part = jax.tree.map(lambda x, r=rows: np.asarray(x)[r], crystals)
            cut = jax.tree.map(lambda x, slots=slots: x[:, :slots], part)
            cut = replace(cut, lattice=part.lattice)
            out[rows] = self._embed(cut, hk[rows, :pairs], None)
        return out

    def _embed(self, crystals: dx.Crystal, hk: np.ndarray, tokens: np.ndarray | None) -> np.ndarray:
        function, _ = self._functions
        return _in_chunks(
            lambda c, h, room: function(self.params, c, h, room), (crystals, hk), tokens
        )

    def embed_patterns(self, spots: Spots) -> np.ndarray:
        """Unit vectors (n, D) of a batch of n patterns."""
        _, function = self._functions
        tower = tower_of(self.config.model)
        pairs = np.asarray(spots.mask).sum(-1)
        tokens = tower.tokens(0, pairs)[1] if tower.packs else None
        return _in_chunks(lambda s, room: function(self.params, s, room), (spots,), tokens)


def tower_of(config: ConfigDict) -> Towers:
    """The network of the `model` part of a config: the one it names, or else the default one.

    Raises:
        ValueError: no network has that name.
    """
    name = config.get("name", "default")
    towers = {"default": TwoTower, "atoms": AtomTower, "paper": PaperTower}
    if name not in towers:
        raise ValueError(f"model.name = {name!r} is unknown; choose one of {', '.join(towers)}")
    return towers[name].from_config(config)


@functools.lru_cache(maxsize=8)
def _encoders(model: FrozenConfigDict, diffraction: FrozenConfigDict) -> tuple[Callable, Callable]:
    # One for all models of a config: training makes a Model at each evaluation.
    tower, conditions = tower_of(model), Conditions.from_config(diffraction)

    @functools.partial(jax.jit, static_argnames="room")
    def crystals(params, crystal, hk, room):
        spots = None
        if tower.reads_spots:
            spots = clean_spots(crystal, hk, replace(conditions, tokens=hk.shape[-2]))
        return tower.apply({"params": params}, crystal, spots, room, method="encode_crystal")

    @functools.partial(jax.jit, static_argnames="room")
    def patterns(params, spots, room):
        return tower.apply({"params": params}, spots, room, method="encode_pattern")

    return crystals, patterns


def _alike(numbers: np.ndarray, hk: np.ndarray) -> Iterator[tuple[np.ndarray, int, int]]:
    """Rows (m,) of crystals of like size, the atom slots and the pairs of rods that they need.

    Few crystals stay together, as each size is compiled.
    """
    count, most = hk.shape[:2]
    if count < _SORT_FROM:
        yield np.arange(count), numbers.shape[1], most
        return
    used = (hk != 0).any(-1)
    # Sorted by strength, padding last.
    pairs = np.array([most // 2, 3 * most // 4, most])
    pairs = pairs[np.searchsorted(pairs, atom_slots(used))]
    slots = 2 ** np.ceil(np.log2(np.maximum(atom_slots(numbers), 8))).astype(int)
    slots = np.minimum(slots, numbers.shape[1])
    for size, tokens in np.unique(np.c_[slots, pairs], axis=0).tolist():
        yield np.flatnonzero((slots == size) & (pairs == tokens)), size, tokens


def _in_chunks(function: Callable, trees: tuple, tokens: np.ndarray | None) -> np.ndarray:
    """Apply a jitted function to slices of one size; the last slice is filled up with its end.

    `tokens` (n,) are those that are no padding; the function is told how many a slice needs.
    """
    count = jax.tree.leaves(trees)[0].shape[0]
    size = min(CHUNK, power_of_two(count))
    out = []
    for start in range(0, count, size):
        index = np.minimum(np.arange(start, start + size), count - 1)
        part = jax.tree.map(lambda x, i=index: x[i], trees)
        # In steps of some tokens a row: few sizes are compiled.
        step = _ROUND * size
        room = None if tokens is None else -(-int(tokens[index].sum()) // step) * step
        out.append(np.asarray(function(*part, room))[: count - start])
    return np.concatenate(out)


def load(checkpoint: str | Path | None = None) -> Model:
    """A trained model from a training run's folder.

    Args:
        checkpoint: the workdir of a run of `train.main`; None takes the weights in the package.

    Raises:
        CheckpointError: nothing there, damaged, or parameters that do not fit the config.
    """
    folder = DEFAULT_WEIGHTS if checkpoint is None else Path(checkpoint)
    config = read_config(folder)
    # The package's own fit its network, and tracing that takes a quarter of a second.
    shapes = None if checkpoint is None else {"params": _shapes(config, folder)}
    found = restore(folder, "best", shapes)
    if found is None:
        raise CheckpointError(f"{folder}: no weights here (best/ is missing or empty)")
    return Model(config, found.state["params"])


def _shapes(config: ConfigDict, folder: Path) -> Any:
    """The parameters' shapes, of a config from `folder`."""
    try:
        check_config(config)
        return jax.eval_shape(lambda: initial_params(config))
    except Exception as error:  # the network's modules raise errors of many kinds
        raise CheckpointError(f"{folder / 'config.json'}: {first_line(error)}") from error


def check_config(config: ConfigDict) -> None:
    """Raise ValueError where a config asks for a network that cannot be meant."""
    for part, most in _MOST.items():
        for name, largest in most.items():
            value = config[part].get(name, largest)
            fits = type(value) is int or (isinstance(largest, float) and type(value) is float)
            if not (fits and (0 < value <= largest or name == "b_iso" and value == 0)):
                raise ValueError(f"{part}.{name} = {value!r:.50} must be up to {largest:g}")


def initial_params(config: ConfigDict) -> Any:
    """The parameters before training."""
    pairs = jnp.zeros((1, config.diffraction.tokens, 2))
    crystal = dx.Crystal(jnp.eye(2)[None], jnp.zeros((1, 1, 3)), jnp.ones((1, 1), jnp.int32))
    spots = Spots(pairs, pairs.astype(jnp.int32), pairs, pairs > 0, crystal.lattice)
    return _initial(tower_of(config.model), jax.random.key(config.seed), crystal, spots)


# Operation by operation it takes many times as long; compiled once for every network of a config.
@functools.partial(jax.jit, static_argnums=0)
def _initial(tower: Towers, key: jax.Array, crystal: dx.Crystal, spots: Spots) -> Any:
    return tower.init(key, crystal, spots, spots)["params"]
