"""Accuracy of a network on the parts of a run's data."""

from __future__ import annotations

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from dd2d_jax.evaluation.ranks import TOP, accuracy, embedding_ranks
from dd2d_jax.networks.disturbances import LEVELS, PATTERNS, observe
from dd2d_jax.networks.trained import Model
from dd2d_jax.spots import Conditions, Spots
from train import inputs

# One program instead of hundreds of operations.
_observe = jax.jit(observe)


def queries(source: inputs.Source, rows: np.ndarray, config: ConfigDict, level: str) -> Spots:
    """Patterns of crystals `rows` at a level, in their own setting; the same on every call."""
    conditions = Conditions.from_config(config.diffraction)
    key = jax.random.fold_in(jax.random.key(config.seed), list(LEVELS).index(level))
    parts = []
    for number, start in enumerate(range(0, len(rows), 256)):
        part = source.take(np.asarray(rows[start : start + 256]))
        parts.append(
            _observe(
                jax.random.fold_in(key, number), part.crystal, part.hk, conditions, LEVELS[level]
            )
        )
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def deciding(config: ConfigDict) -> list[str]:
    """The levels whose mean top-1 says which step is best.

    Those that training has seen: the clean queries are soon all found, and decide only where
    there are no others.
    """
    seen = [level for level in PATTERNS if config[level].share]
    disturbed = any(config.disturbance.values()) or config.thermal.share or seen
    return ["perturbed", *seen] if disturbed else ["clean"]


def split_accuracy(model: Model, source: inputs.Source, rows: np.ndarray) -> dict:
    """Accuracy at every level with the split itself as the gallery."""
    part = source.take(np.asarray(rows))
    gallery = model.embed_crystals(part.crystal, part.hk[:, : model.conditions.tokens])
    return {
        level: accuracy(
            embedding_ranks(
                model.embed_patterns(queries(source, rows, model.config, level)),
                gallery,
                np.arange(len(rows)),
            )
        )
        for level in LEVELS
    }


def test_table(model: Model, source: inputs.Source, splits: dict[str, np.ndarray]) -> dict:
    """Accuracy of the test queries, gallery the test split and gallery every crystal.

    Every one: also those that config.data.limit keeps from training.
    """
    rows = splits["test"]
    everything = model.embed_crystals(
        source.crystal, np.asarray(source.hk)[:, : model.conditions.tokens]
    )
    table = {}
    for level in LEVELS:
        found = model.embed_patterns(queries(source, rows, model.config, level))
        table[level] = {
            "split": accuracy(embedding_ranks(found, everything[rows], np.arange(len(rows)))),
            "full": accuracy(embedding_ranks(found, everything, rows)),
        }
    return table


def print_table(table: dict, queries: int, crystals: int, console: Console) -> None:
    """The test table, in percent: the queries are the one gallery, all crystals the other."""
    sizes = {"split": queries, "full": crystals}
    view = Table(title=f"test: {queries} queries, neural alone, percent")
    for column in ("level", "gallery", *(f"top-{k}" for k in TOP)):
        view.add_column(column, justify="right")
    for level, galleries in table.items():
        for gallery, found in galleries.items():
            numbers = [f"{v:.1f}" for v in found.values()]
            view.add_row(level, f"{gallery} ({sizes[gallery]})", *numbers)
    console.print(view)
