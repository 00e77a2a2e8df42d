"""From a diffraction pattern to the 2D crystal that made it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dd2d_jax.checkpoint import CheckpointError
    from dd2d_jax.lattice import PatternError
    from dd2d_jax.library import Library, LibraryError
    from dd2d_jax.patterns import read_pattern
    from dd2d_jax.retrieval import Candidate, Found, retrieve
    from dd2d_jax.structures import StructureError
    from dd2d_jax.trained import Model, load

# Imported when first used: `dd2d --help` must not wait for JAX.
_HOME = {
    "Candidate": "retrieval",
    "CheckpointError": "checkpoint",
    "Found": "retrieval",
    "Library": "library",
    "LibraryError": "library",
    "Model": "trained",
    "PatternError": "lattice",
    "StructureError": "structures",
    "load": "trained",
    "read_pattern": "patterns",
    "retrieve": "retrieval",
}

__all__ = [
    "Candidate",
    "CheckpointError",
    "Found",
    "Library",
    "LibraryError",
    "Model",
    "PatternError",
    "StructureError",
    "load",
    "read_pattern",
    "retrieve",
]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'dd2d_jax' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"dd2d_jax.{_HOME[name]}"), name)
    globals()[name] = value
    return value
