"""Checkpoints: the only module that speaks of Orbax.

A checkpoint folder holds `config.json`, `latest/` (the whole training state) and `best/` (the
parameters with the best validation accuracy).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from dd2d_jax.files import new_file


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or of another model; the message is one line."""


@dataclasses.dataclass(frozen=True)
class Restored:
    """A training state read back.

    Attributes:
        step: the number of steps that it has seen.
        state: the tree that was saved.
        metrics: what was saved beside it.
    """

    step: int
    state: Any
    metrics: dict


def write_json(path: Path, value: Any) -> None:
    """Write beside and move into place, so that no reader sees half a file."""
    with new_file(path) as part:
        part.write_text(json.dumps(value, indent=2) + "\n")


def write_config(directory: Path, config: ConfigDict) -> None:
    """Write the config as JSON."""
    write_json(directory / "config.json", config.to_dict())


def read_config(directory: Path) -> ConfigDict:
    """The config of a checkpoint folder.

    Raises:
        CheckpointError: no such folder, or not a checkpoint.
    """
    path = Path(directory) / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{directory}: no checkpoint here (config.json is missing)")
    try:
        value = json.loads(path.read_text())
    except (ValueError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: not a config but {value!r:.50}")
    return ConfigDict(value)


def _manager(directory: Path, keep: int | None = None):
    """A manager that keeps that many steps; None reads only, also where nothing may be written."""
    import orbax.checkpoint as ocp

    # Orbax logs what it reads, and of a damaged checkpoint a line before it raises. Here, as other
    # packages set the level back when they are imported.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    options = (
        ocp.CheckpointManagerOptions(read_only=True, create=False)
        if keep is None
        else ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
    )
    return ocp.CheckpointManager(Path(directory).absolute(), options=options)


def save(directory: Path, name: str, step: int, state: Any, metrics: dict, keep: int = 1) -> None:
    """Save a tree of arrays as step `step` of `directory/name`; older steps go once it is whole."""
    import orbax.checkpoint as ocp

    manager = _manager(Path(directory) / name, keep)
    host = jax.tree.map(np.asarray, state)
    if step not in manager.all_steps():
        manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(host), metrics=ocp.args.JsonSave(metrics)
            ),
        )
    manager.wait_until_finished()
    manager.close()


def restore(directory: Path, name: str, like: Any) -> Restored | None:
    """The newest step of `directory/name` that can be read, None where there is none.

    Args:
        directory: the checkpoint folder.
        name: "latest" or "best".
        like: a tree of arrays or shapes of the saved form.

    Raises:
        CheckpointError: steps are there but none can be read.
    """
    import orbax.checkpoint as ocp

    folder = Path(directory) / name
    if not folder.is_dir():
        return None
    try:
        manager = _manager(folder)
    except Exception as error:  # Orbax already reads the metrics of every step here
        raise CheckpointError(f"{folder}: damaged ({_first_line(error)})") from error
    template = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)
    problems = []
    for step in sorted(manager.all_steps(), reverse=True):
        try:
            found = manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(template), metrics=ocp.args.JsonRestore()
                ),
            )
        except Exception as error:  # noqa: BLE001  Orbax raises many kinds for damaged files
            problems.append(f"step {step}: {_first_line(error)}")
            continue
        manager.close()
        _check_shapes(folder, template, found.state)
        return Restored(step, found.state, found.metrics)
    manager.close()
    if problems:
        raise CheckpointError(f"{folder}: damaged or of another model ({'; '.join(problems)})")
    return None


def best_step(directory: str | Path) -> int:
    """How many steps the best parameters have seen; `restore` tells whether they can be read."""
    manager = _manager(Path(directory) / "best")
    steps = manager.all_steps()
    manager.close()
    return max(steps, default=0)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _check_shapes(folder: Path, template: Any, found: Any) -> None:
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(template), jax.tree.leaves(found), strict=True
    ):
        if np.shape(a) != np.shape(b):
            raise CheckpointError(
                f"{folder}: of another version or another config: {jax.tree_util.keystr(path)} has "
                f"shape {np.shape(b)}, here it is {np.shape(a)}; train again"
            )


def fingerprint(params: Any) -> str:
    """A short hash that names these parameters."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]
