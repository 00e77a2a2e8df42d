"""A folder in which windows work."""

import shutil

import numpy as np
import pytest
import small_library
from skimage.measure import block_reduce

from dd2d_jax.images.examples import EXAMPLES
from dd2d_jax.images.readers import read_image, write_image


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """The library in `lib`, the network in `run`, an image in `small.tif`."""
    folder = tmp_path_factory.mktemp("window")
    small_library.make(folder)
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
