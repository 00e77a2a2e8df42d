"""A data set and a config small enough to train in seconds, for several test files."""

from pathlib import Path

import ase
from ase.build import mx2
from ase.db import connect
from ml_collections import ConfigDict

from configs import base, paper, smoke
from dd2d_jax.data import crystal_set, usable
from dd2d_jax.networks.trained import Model, initial_params

METALS = ("Mo", "W", "Ti", "Zr", "Hf", "V", "Nb", "Ta")


def sheets() -> list[tuple[ase.Atoms, dict]]:
    """32 sheets of three atoms."""
    return [
        (
            mx2(f"{metal}{other}2", kind, a=a + 0.03 * i, vacuum=8),
            {"uid": f"{metal}{other}2-{kind}"},
        )
        for i, metal in enumerate(METALS)
        for other, a in (("S", 3.2), ("Se", 3.4))
        for kind in ("2H", "1T")
    ]


def crystals() -> crystal_set.CrystalSet:
    """The sheets as a data set in memory."""
    return usable.from_atoms(sheets())


def write_db(path: Path) -> Path:
    """The sheets as an ASE database."""
    with connect(path) as database:
        for atoms, info in sheets():
            database.write(atoms, **info)
    return path


def config() -> ConfigDict:
    """`base` made tiny."""
    tiny = base.get_config()
    tiny.diffraction.q_max = 0.8
    tiny.diffraction.tokens = 8
    tiny.model.width = 16
    tiny.model.layers = 1
    tiny.model.heads = 2
    tiny.model.embedding = 8
    tiny.train.batch = 8
    tiny.train.steps = 6
    tiny.train.warmup = 2
    tiny.train.evaluate_every = 3
    return tiny


def paper_config(**changes) -> ConfigDict:
    """The paper's config with a network of 12 numbers."""
    config = paper.get_config()
    config.diffraction.tokens = 4
    config.model.update({"width": 12, "heads": 2, "layers": 1, **changes})
    return config


def model() -> Model:
    """Untrained: it sees a crystal as its clean pattern."""
    small = smoke.get_config()
    small.model.width = small.model.embedding = 16
    return Model(small, initial_params(small))
