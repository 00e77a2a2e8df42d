"""A folder with an untrained model, crystals and their library, and `dd2d` in a copy of it."""

import os
import shutil
from pathlib import Path

import ase.build
import ase.io
import jax
import pytest
import small_library

from dd2d_jax.commands import main as cli
from dd2d_jax.networks import checkpoint

DICHALCOGENIDES = {
    "MoS2": (3.18, 3.19),
    "WSe2": (3.32, 3.35),
    "MoTe2": (3.55, 3.60),
    "NbS2": (3.33, 3.20),
    "HfSe2": (3.75, 3.10),
}


def damage(folder: Path, params) -> None:
    """Copies of the library and the model that cannot be used."""
    shutil.copytree(folder / "lib", folder / "hurt")
    data = bytearray((folder / "hurt/00000.shard").read_bytes())
    data[-1] ^= 1
    (folder / "hurt/00000.shard").write_bytes(data)
    shutil.copytree(folder / "run", folder / "torn")
    for path in (folder / "torn/best").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:20])
    (folder / "other").mkdir()
    checkpoint.write_config(folder / "other", checkpoint.read_config(folder / "run"))
    params = jax.tree.map(lambda x: x + 0.1, params)
    checkpoint.save(folder / "other", "best", 1, {"params": params}, {})


@pytest.fixture(scope="session")
def place(tmp_path_factory) -> Path:
    """A folder with an untrained model, crystals, their library, and what is wrong with others."""
    folder = tmp_path_factory.mktemp("cli")
    params = small_library.untrained(folder)
    crystals = {"graphene": ase.build.graphene(vacuum=8), "BN": ase.build.graphene("BN", vacuum=8)}
    for formula, (a, thickness) in DICHALCOGENIDES.items():
        crystals[formula] = ase.build.mx2(formula, a=a, thickness=thickness, vacuum=8)
    ase.io.write(folder / "mos2.cif", crystals["MoS2"])
    ase.io.write(folder / "bulk.cif", ase.build.bulk("Fe"))
    data = os.environ.get("DD2D_DATA_DIR")
    os.environ["DD2D_DATA_DIR"] = str(folder / "data")
    small_library.index(folder, crystals)
    arguments = ["simulate", folder / "mos2.cif", "--output", folder / "mos2.csv"]
    assert cli.main([str(x) for x in arguments]) == 0
    damage(folder, params)
    yield folder
    os.environ.pop("DD2D_DATA_DIR")
    if data is not None:
        os.environ["DD2D_DATA_DIR"] = data


@pytest.fixture
def dd2d(place, tmp_path, monkeypatch, command_line):
    """Runs a command line in a new folder with the files of `place`; status, stdout, stderr."""
    shutil.copytree(place, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return command_line
