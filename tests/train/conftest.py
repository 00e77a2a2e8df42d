"""Data, config and workdir of a small run, for the tests of the loop and of its folder."""

import os

import jax
import pytest
import tiny
from runs import make_config

from dd2d_jax.util.files import alone
from train import loop, step


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home of its own: the loop keeps compiled programs there, which saves these tests time."""
    before = jax.config.jax_compilation_cache_dir
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield
    jax.config.update("jax_compilation_cache_dir", before)
    jax.clear_caches()


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """A folder that all processes of the tests have."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "train"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def data(shared, home):
    folder = shared / "data"
    with alone(shared):
        if not folder.exists():
            folder.mkdir()
            tiny.write_db(folder / "tiny.db")
    return folder


@pytest.fixture(scope="module")
def compiled_once():
    """Runs of one config share their programs: tracing and compiling takes most of the time."""
    make, made = step.make_functions, {}

    def functions(config):
        key = config.to_json()
        if key not in made:
            made[key] = make(config)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "make_functions", functions)
        yield


@pytest.fixture
def config(data, compiled_once):
    return make_config(data)


@pytest.fixture(scope="module")
def whole(data, compiled_once, shared):
    """The workdir of a run that was never stopped; nobody changes it."""
    folder = shared / "run"
    with alone(shared):
        if not folder.exists():
            part = folder.with_name("part")
            loop.run(make_config(data), part)
            part.rename(folder)
    return folder
