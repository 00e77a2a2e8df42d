"""Where prepared data and compiled programs go."""

import subprocess
import sys

from ase.build import graphene
from ase.io import write
from paths import ROOT

from dd2d_jax.util import cache


def test_the_environment_says_where(monkeypatch, tmp_path):
    monkeypatch.setenv("DD2D_DATA_DIR", str(tmp_path / "here"))
    assert cache.folder() == tmp_path / "here"
    monkeypatch.delenv("DD2D_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.folder() == tmp_path / ".cache" / "dd2d"


def _simulate(tmp_path) -> str:
    """What a command in a process of its own says on stderr: the setting is global."""
    module, sheet = "dd2d_jax.commands.main", str(tmp_path / "graphene.xyz")
    program = [sys.executable, "-m", module, "simulate", sheet]
    write(tmp_path / "graphene.xyz", graphene(vacuum=10.0))
    done = subprocess.run(program, check=True, cwd=ROOT, capture_output=True, text=True)
    return done.stderr


def test_commands_keep_compiled_programs(monkeypatch, tmp_path):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("DD2D_DATA_DIR", str(tmp_path))
    _simulate(tmp_path)
    assert list((tmp_path / "jax").iterdir())


def test_programs_are_read_back_without_a_word(monkeypatch, tmp_path):
    for name in ("JAX_COMPILATION_CACHE_DIR", "XLA_FLAGS", "TF_CPP_MIN_LOG_LEVEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DD2D_DATA_DIR", str(tmp_path))
    first, again = _simulate(tmp_path), _simulate(tmp_path)
    assert list((tmp_path / "jax").iterdir())
    assert again == first == ""


def test_a_folder_that_the_user_set_stays(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "mine"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    monkeypatch.setenv("DD2D_DATA_DIR", str(tmp_path))
    _simulate(tmp_path)
    assert list((tmp_path / "mine").iterdir())
    assert not (tmp_path / "jax").exists()
