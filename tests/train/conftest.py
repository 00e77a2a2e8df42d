"""Data, config and workdir of a small run, for the tests of the loop and of its folder."""

import jax
import pytest
import tiny
from runs import make_config

from train import loop


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home of its own: the loop keeps compiled programs there, which saves these tests time."""
    before = jax.config.jax_compilation_cache_dir
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield
    jax.config.update("jax_compilation_cache_dir", before)
    jax.clear_caches()


@pytest.fixture(scope="module")
def data(tmp_path_factory, home):
    folder = tmp_path_factory.mktemp("data")
    tiny.write_db(folder / "tiny.db")
    return folder


@pytest.fixture
def config(data):
    return make_config(data)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The workdir of a run that was never stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    loop.run(make_config(data), folder)
    return folder
