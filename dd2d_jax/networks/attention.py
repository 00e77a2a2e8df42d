"""What the crystal's tower looks at: attention between the tokens of one crystal.

Published as Fig. 2 of Fu et al., Communications Physics 8, 221 (2025).
"""

from __future__ import annotations

import dataclasses
import re

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from ase.data import chemical_symbols

import diffraction as dx
from dd2d_jax.networks.atom_network import HEAD, AtomTower
from dd2d_jax.networks.disturbances import clean_spots
from dd2d_jax.networks.paper_inputs import END, PADDING, sequences
from dd2d_jax.networks.paper_network import PaperTower
from dd2d_jax.networks.trained import Model, tower_of
from dd2d_jax.spots import Spots, strongest_rods

_ANGLES = ("α", "β", "γ")


@dataclasses.dataclass(frozen=True)
class Attention:
    """Attention within one encoder for one crystal.

    Attributes:
        encoder: what it reads: "spots" (the default network), "atoms" (that of configs/twin.py) or
            "sequence" (the published one).
        tokens: (T,) what each token is, in words.
        kinds: (T,) the sort of each token.
        layers: (2,) or (1,) which blocks, counted from 1: the first and the last.
        weights: (L, H, T, T): row t of a head is what token t looks at; rows add up to 1.
    """

    encoder: str
    tokens: list[str]
    kinds: list[str]
    layers: list[int]
    weights: np.ndarray

    def shares(self) -> dict[str, np.ndarray]:
        """Share (L, H) of the attention that falls on each kind of token, over all rows."""
        kinds = np.array(self.kinds)
        mean = self.weights.mean(-2)
        return {kind: mean[..., kinds == kind].sum(-1) for kind in dict.fromkeys(self.kinds)}

    def effective(self) -> np.ndarray:
        """How many tokens a row looks at, exp of its entropy, mean over rows (L, H)."""
        log = np.log(np.where(self.weights > 0, self.weights, 1))
        return np.exp(-(self.weights * log).sum(-1)).mean(-1)


def attention(model: Model, crystal: dx.Crystal) -> Attention:
    """Attention maps of the crystal's tower.

    Args:
        model: of any network.
        crystal: a single crystal in canonical setting, without batch axes.
    """
    batch = jax.tree.map(lambda x: x[None], crystal)
    conditions = model.conditions
    tower, spots = tower_of(model.config.model), None
    if tower.reads_spots:
        hk = jnp.asarray(strongest_rods(batch, conditions, conditions.tokens))
        spots = jax.jit(clean_spots)(batch, hk, conditions)

    @jax.jit
    def look(params, crystal, spots):
        _, state = tower.apply(
            {"params": params},
            crystal,
            spots,
            method="encode_crystal",
            mutable=["intermediates"],
        )
        return state["intermediates"]

    found = flax.traverse_util.flatten_dict(look(model.params, batch, spots))
    blocks = {
        int(re.search(r"\d+$", path[-2]).group()): np.asarray(weight[0], np.float64)
        for path, (weight,) in found.items()
    }
    if isinstance(tower, PaperTower):
        return _attention("sequence", *_sequence_tokens(batch), blocks)
    if isinstance(tower, AtomTower):
        return _attention("atoms", *_atom_tokens(crystal), blocks)
    return _attention("spots", *_spot_tokens(spots), blocks)


def _attention(
    encoder: str, tokens: list[str], kinds: list[str], real: np.ndarray, blocks: dict
) -> Attention:
    """`tokens` and `kinds` are those of the places in `real`; the others are padding."""
    chosen = sorted({min(blocks), max(blocks)})
    weights = np.stack([blocks[i][:, real][:, :, real] for i in chosen])
    return Attention(encoder, tokens, kinds, [i + 1 for i in chosen], weights)


def _sequence_tokens(batch: dx.Crystal) -> tuple[list[str], list[str], np.ndarray]:
    sequence = np.asarray(sequences(batch)[0])
    end = int((sequence == END).argmax())
    tokens = ["start", "a", "b", "c", *_ANGLES]
    kinds = ["start", *["cell"] * 6]
    numbers = sequence[10:end:4].round().astype(int)
    for name in _numbered(numbers):
        tokens += [f"{name} {part}" for part in ("x", "y", "z", "Z")]
        kinds += ["coordinates"] * 3 + ["elements"]
    real = np.flatnonzero(sequence != PADDING)
    return [*tokens, "end"], [*kinds, "end"], real


def _atom_tokens(crystal: dx.Crystal) -> tuple[list[str], list[str], np.ndarray]:
    """Class tokens and cell first, as `atom_network` has them; atoms as they come."""
    numbers = np.asarray(crystal.numbers)
    there = np.flatnonzero(numbers > 0)
    tokens = ["start", "a", "b", "γ", *_numbered(numbers[there]), "end"]
    kinds = ["start", *["cell"] * 3, *["atoms"] * len(there), "end"]
    real = np.concatenate([np.arange(HEAD), HEAD + there, [HEAD + len(numbers)]])
    return tokens, kinds, real


def _spot_tokens(spots: Spots) -> tuple[list[str], list[str], np.ndarray]:
    real = np.flatnonzero(np.asarray(spots.mask[0]))
    names = [f"({h} {k})" for h, k in np.asarray(spots.hk[0])[real]]
    return ["cell", *names], ["cell", *["spots"] * len(names)], np.append(0, real + 1)


def _numbered(numbers: np.ndarray) -> list[str]:
    """Elements with a number where there are several: Mo, S1, S2."""
    seen: dict[int, int] = {}
    names = []
    for number in numbers.tolist():
        seen[number] = seen.get(number, 0) + 1
        alone = (numbers == number).sum() == 1
        names.append(chemical_symbols[number] + ("" if alone else str(seen[number])))
    return names
