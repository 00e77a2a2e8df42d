"""Checkpoints: the only module that speaks of Orbax.

A checkpoint folder holds `config.json`, `latest/` (the whole training state) and `best/` (the
parameters with the best validation accuracy).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
import re
import shutil
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from dd2d_jax.util.errors import CheckpointError
from dd2d_jax.util.files import new_file
from dd2d_jax.util.limits import MAX_ARRAYS, MAX_JSON, first_line, read_json, read_text


@dataclasses.dataclass(frozen=True)
class Restored:
    """A training state read back.

    Attributes:
        step: the number of steps that it has seen.
        state: the tree that was saved.
        metrics: what was saved beside it.
        damaged: newer steps that could not be read, and why, one line each.
    """

    step: int
    state: Any
    metrics: dict
    damaged: dict[int, str]


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
    value = read_json(path, error=CheckpointError)
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: not a config but {value!r:.50}")
    try:
        return ConfigDict(value)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a config ({first_line(error)})") from error


def read_records(directory: str | Path) -> list[dict[str, Any]]:
    """What training recorded in `metrics.jsonl`, one object a line; nothing where there is none.

    A line that is not such an object, as the last one of a killed run, is left out.
    """
    path, found = Path(directory) / "metrics.jsonl", []
    text = read_text(path, MAX_JSON, CheckpointError) if path.is_file() else ""
    for line in text.splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            record = json.loads(line)
            if isinstance(record, dict) and isinstance(record.get("step"), int):
                found.append(record)
    return found


def _checkpointer():
    """Reads and writes one step; of several processes each by itself, waiting for no other."""
    import orbax.checkpoint as ocp

    # Orbax logs what it reads, and of a damaged checkpoint a line before it raises. Here, as other
    # packages set the level back when they are imported.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    here = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=here, active_processes={here})
    handler = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=alone),
        state=ocp.StandardCheckpointHandler(multiprocessing_options=alone),
        metrics=ocp.JsonCheckpointHandler("metrics", multiprocessing_options=alone),
    )
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _steps(folder: Path) -> list[int]:
    """Steps that were saved, the newest first; what a killed save left behind is none."""
    if not folder.is_dir():
        return []
    names = [p.name for p in folder.iterdir() if re.fullmatch("[0-9]{1,18}", p.name)]
    return sorted(map(int, names), reverse=True)


def save(directory: Path, name: str, step: int, state: Any, metrics: dict, keep: int = 1) -> None:
    """Save a tree of arrays as step `step` of `directory/name`.

    It is written beside and moved into place; older steps but `keep` - 1 go once it is whole. Of
    several processes one calls this.

    Raises:
        OSError: it cannot be written; the steps before are still there.
    """
    import orbax.checkpoint as ocp

    folder = (Path(directory) / name).absolute()
    host = jax.tree.map(np.asarray, state)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        with _checkpointer() as checkpointer:
            checkpointer.save(
                folder / str(step),
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(host), metrics=ocp.args.JsonSave(metrics)
                ),
                force=True,
            )
    except Exception as error:  # of a full disk Orbax makes errors of many kinds
        _sweep_patiently(folder)
        raise OSError(f"{folder / str(step)}: cannot be saved ({first_line(error)})") from error
    for old in [x for x in _steps(folder) if x < step][keep - 1 :]:
        shutil.rmtree(folder / str(old))


def _sweep(folder: Path) -> bool:
    """Remove what saves that were killed left behind; whether there was any."""
    left = list(folder.glob("*.orbax-checkpoint-tmp*"))
    for path in left:
        shutil.rmtree(path)
    return bool(left)


def _sweep_patiently(folder: Path) -> None:
    """Sweep after a failed save, of which other arrays may still be on their way to the disk."""
    for _ in range(10):
        time.sleep(0.1)
        with contextlib.suppress(OSError):
            if not _sweep(folder):
                return


def restore(directory: Path, name: str, like: Any | None) -> Restored | None:
    """The newest step of `directory/name` that can be read, None where there is none.

    Args:
        directory: the checkpoint folder.
        name: "latest" or "best".
        like: a tree of arrays or shapes of the saved form; None takes what is there.

    Raises:
        CheckpointError: steps are there but none can be read.
    """
    import orbax.checkpoint as ocp

    folder = (Path(directory) / name).absolute()
    if _nbytes(jax.tree.leaves(like)) > MAX_ARRAYS:
        raise CheckpointError(f"{directory}: its config asks for more than {MAX_ARRAYS} bytes")
    damaged = {}
    for step in _steps(folder):
        try:
            with _checkpointer() as checkpointer:
                stored = _check_stored(folder / str(step), checkpointer)
                template = jax.tree.map(
                    lambda x: np.zeros(x.shape, x.dtype), stored if like is None else like
                )
                found = checkpointer.restore(
                    folder / str(step),
                    args=ocp.args.Composite(
                        state=ocp.args.StandardRestore(template), metrics=ocp.args.JsonRestore()
                    ),
                )
            if found.state is None or found.metrics is None:
                raise ValueError("state or metrics are missing")
        except Exception as error:  # noqa: BLE001  Orbax raises many kinds for damaged files
            damaged[step] = first_line(error)
            continue
        _check_shapes(folder, template, found.state)
        return Restored(step, found.state, found.metrics, damaged)
    if damaged:
        problems = "; ".join(f"step {step}: {problem}" for step, problem in damaged.items())
        raise CheckpointError(f"{folder}: damaged or of another model ({problems})")
    return None


def forget(directory: Path, name: str, step: int) -> None:
    """Remove one step, e.g. one that is damaged."""
    shutil.rmtree(Path(directory) / name / str(step))


def last_step(directory: str | Path, name: str) -> int:
    """The newest step saved under `name`, 0 for none; `restore` tells whether it can be read."""
    return max(_steps(Path(directory) / name), default=0)


def _check_stored(folder: Path, checkpointer: Any) -> Any:
    """The tree of what is stored; ValueError where that is larger than any network of ours."""
    for path in folder.rglob("*"):
        # No device, no pipe: they may never end.
        if not (path.is_file() or path.is_dir()):
            raise ValueError(f"{path.name} is not a regular file")
    stored = getattr(checkpointer.metadata(folder).item_metadata, "state", None)
    arrays = [x for x in jax.tree.leaves(stored) if getattr(x, "shape", None) is not None]
    if _nbytes(arrays) > MAX_ARRAYS:
        raise ValueError(f"more than {MAX_ARRAYS} bytes of arrays")
    for array in arrays:
        chunk = getattr(array.storage, "chunk_shape", None) or ()
        if math.prod(chunk) > 2 * max(math.prod(array.shape), 1):
            raise ValueError(f"{array.name} is stored in pieces of {chunk}")
    return getattr(stored, "tree", None)


def _nbytes(arrays: list[Any]) -> int:
    return sum(math.prod(x.shape) * (np.dtype(x.dtype).itemsize if x.dtype else 8) for x in arrays)


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
