"""Where what can be made again is kept: prepared data sets and compiled programs."""

from __future__ import annotations

import os
from pathlib import Path


def folder() -> Path:
    """$DD2D_DATA_DIR, or ~/.cache/dd2d."""
    return Path(os.environ.get("DD2D_DATA_DIR") or "~/.cache/dd2d").expanduser().resolve()


def quiet_compiler() -> None:
    """Keep XLA from an error message for each program that it reads back; before jax is imported.

    jaxlib 0.10.1 takes its own tuning flags for features that the processor lacks.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def keep_compilations() -> None:
    """Let JAX keep compiled programs on disk, so that the next start does not wait for them.

    A folder that is set already ($JAX_COMPILATION_CACHE_DIR) stays.
    """
    quiet_compiler()
    import jax

    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(folder() / "jax"))
        # Also the small ones: a retrieval has some eighty of them.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
