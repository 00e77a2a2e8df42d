"""Where prepared data and compiled programs go."""

import subprocess
import sys
from pathlib import Path

from dd2d_jax import cache


def test_the_environment_says_where(monkeypatch, tmp_path):
    monkeypatch.setenv("DD2D_DATA_DIR", str(tmp_path / "here"))
    assert cache.folder() == tmp_path / "here"
    monkeypatch.delenv("DD2D_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.folder() == tmp_path / ".cache" / "dd2d"


def test_compiled_programs_are_kept(monkeypatch, tmp_path):
    """In a process of its own: the setting is global."""
    monkeypatch.setenv("DD2D_DATA_DIR", str(tmp_path))
    program = (
        "from dd2d_jax import cache; cache.keep_compilations()\n"
        "import jax, jax.numpy as jnp\n"
        "jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)\n"
        "jax.jit(lambda x: jnp.sin(x) @ x.T)(jnp.ones((8, 8))).block_until_ready()\n"
    )
    root = Path(__file__).parent.parent
    subprocess.run([sys.executable, "-c", program], check=True, cwd=root)
    assert list((tmp_path / "jax").iterdir())
