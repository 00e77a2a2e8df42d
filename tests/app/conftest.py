"""A folder with a small library and an untrained network, in which windows work."""

import shutil

import ase.build
import numpy as np
import pytest
from ase.db import connect
from skimage.measure import block_reduce

from configs import smoke
from dd2d_jax.commands import main as cli
from dd2d_jax.images.examples import EXAMPLES
from dd2d_jax.images.readers import read_image, write_image
from dd2d_jax.networks import checkpoint, trained

# Cells in angstrom and thicknesses.
LAYERS = {"MoS2": (3.18, 3.13), "WSe2": (3.3, 3.35), "WS2": (3.18, 3.14), "TaS2": (3.34, 3.12)}


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """The library in `lib`, the network in `run`."""
    folder = tmp_path_factory.mktemp("window")
    config = smoke.get_config()
    config.model.width = config.model.embedding = 16
    config.model.heads = 2
    config.data.data_dir = str(folder / "data")
    (folder / "run").mkdir()
    checkpoint.write_config(folder / "run", config)
    params = trained.initial_params(config)
    checkpoint.save(folder / "run", "best", 1, {"params": params}, {})
    with connect(folder / "all.db") as database:
        for uid, (a, thickness) in LAYERS.items():
            atoms = ase.build.mx2(uid, a=a, thickness=thickness, vacuum=8)
            database.write(atoms, uid=uid, known=True)
    line = ["index", folder / "all.db", folder / "lib", "--checkpoint", folder / "run"]
    assert cli.main([str(word) for word in line]) == 0
    # Of the shipped example, with a quarter of its pixels: found in a quarter of the time.
    image = read_image(EXAMPLES[0].path)
    write_image(block_reduce(image.pixels, 2, np.mean), folder / "small.tif", 2 * image.scale[0])
    return folder


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    """A working folder with `lib`, `run` and `small.tif` in it, the current one."""
    for name in ("lib", "run"):
        (tmp_path / name).symlink_to(made / name)
    shutil.copy(made / "small.tif", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path
