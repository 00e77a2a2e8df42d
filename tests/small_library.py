"""An untrained network and libraries made with it, for several test files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ase.build
from ase import Atoms
from ase.db import connect

from configs import smoke
from dd2d_jax.commands import main as cli
from dd2d_jax.networks import checkpoint, trained

# Cells in angstrom and thicknesses.
LAYERS = {"MoS2": (3.18, 3.13), "WSe2": (3.3, 3.35), "WS2": (3.18, 3.14), "TaS2": (3.34, 3.12)}


def make(folder: Path) -> None:
    """A library of four crystals in `lib`, the network in `run`."""
    untrained(folder)
    crystals = {
        uid: ase.build.mx2(uid, a=a, thickness=thickness, vacuum=8)
        for uid, (a, thickness) in LAYERS.items()
    }
    index(folder, crystals)


def untrained(folder: Path) -> Any:
    """A network in `run`; its parameters."""
    config = smoke.get_config()
    config.model.width = config.model.embedding = 16
    config.model.heads = 2
    config.data.data_dir = str(folder / "data")
    (folder / "run").mkdir()
    checkpoint.write_config(folder / "run", config)
    params = trained.initial_params(config)
    checkpoint.save(folder / "run", "best", 1, {"params": params}, {})
    return params


def index(folder: Path, crystals: Mapping[str, Atoms]) -> None:
    """Crystals by uid, all of them known, in `all.db`, and their library in `lib`."""
    with connect(folder / "all.db") as database:
        for uid, atoms in crystals.items():
            database.write(atoms, uid=uid, known=True)
    line = ["index", folder / "all.db", folder / "lib", "--checkpoint", folder / "run"]
    assert cli.main([str(word) for word in line]) == 0
