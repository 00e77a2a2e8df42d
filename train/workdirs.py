"""The folder of a run: whose it is, and which crystals it was begun with."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from dd2d_jax.data.crystal_set import CrystalSet, digest
from dd2d_jax.libraries.shards import digest as file_digest
from dd2d_jax.networks import checkpoint
from dd2d_jax.util.files import alone
from dd2d_jax.util.limits import read_json

CONFIG, DATA = "config.json", "data.json"
# More steps and other intervals are a longer run of the same thing; parts and what is computed
# again change the memory, and nothing but rounding.
FREE = {
    "train.steps", "train.evaluate_every", "train.patience", "train.accumulate", "train.remat",
    "data.data_dir",
}  # fmt: skip


def open_workdir(workdir: Path, config: ConfigDict, held: contextlib.ExitStack) -> None:
    """Make the folder of a run, or see that it holds one with the same config; others wait outside.

    Raises:
        ValueError: it holds something else, or a run with another config.
        BlockingIOError: another run is at work there.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    # Started again before the run that it goes on with has ended, it would overwrite its steps.
    held.enter_context(alone(workdir, wait=False))
    if (workdir / CONFIG).exists():
        _check_same_config(checkpoint.read_config(workdir), config, workdir)
    elif there := sorted(path.name for path in workdir.iterdir()):
        raise ValueError(
            f"{workdir}: not the folder of a run: it holds {there[0]!r} but no {CONFIG}; choose an "
            "empty or new --workdir"
        )


def _check_same_config(old: ConfigDict, new: ConfigDict, workdir: Path) -> None:
    # Runs of before a key lack it.
    before, after = ({path: value for path, value in _flatten(c.to_dict())} for c in (old, new))
    changed = [
        f"{k} was {before.get(k)!r} and is {after.get(k)!r}"
        for k in sorted(before.keys() | after.keys())
        if k not in FREE and before.get(k) != after.get(k)
    ]
    if changed:
        raise ValueError(
            f"{workdir} holds a run with another config ({'; '.join(changed)}); "
            "choose another --workdir"
        )


def _flatten(tree: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def describe(
    config: ConfigDict, workdir: Path, crystals: CrystalSet, splits: dict[str, np.ndarray]
) -> None:
    """Write config, validation and test crystals, and the fingerprint of all data; or compare it.

    Raises:
        ValueError: the run was begun with other crystals or another split, or one of its files was
            replaced.
    """
    path = workdir / DATA
    if path.exists():
        _check_same_data(read_json(path), crystals, splits, workdir)
        checkpoint.write_config(workdir, config)  # it may be a longer run now
        return
    if (workdir / "latest").exists():
        raise ValueError(
            f"{workdir}: {DATA} is missing, so it is unknown which crystals this run has seen; "
            "choose another --workdir"
        )
    checkpoint.write_config(workdir, config)
    names = ("validation", "test")
    for name in names:
        crystals.take(splits[name]).write_db(workdir / f"{name}.db")
    files = {f"{name}.db": file_digest(workdir / f"{name}.db") for name in names}
    checkpoint.write_json(path, {**_fingerprint(crystals, splits), "files": files})


def _fingerprint(crystals: CrystalSet, splits: dict[str, np.ndarray]) -> dict[str, Any]:
    uids = {name: "\n".join(map(str, crystals.uid[rows])) for name, rows in splits.items()}
    return {
        "crystals": len(crystals),
        "digest": digest(crystals),
        "splits": {name: hashlib.sha256(text.encode()).hexdigest() for name, text in uids.items()},
    }


def _check_same_data(
    before: dict[str, Any], crystals: CrystalSet, splits: dict[str, np.ndarray], workdir: Path
) -> None:
    now = _fingerprint(crystals, splits)
    if before.get("digest") != now["digest"]:
        raise ValueError(
            f"{workdir}: the data set has changed since this run began ({before.get('crystals')} "
            f"crystals then, {len(crystals)} now); restore the old one or choose another "
            "--workdir"
        )
    if before.get("splits") != now["splits"]:
        raise ValueError(
            f"{workdir}: the data set is split differently than when this run began: crystals of "
            "the test split would be used for training; choose another --workdir"
        )
    for name, value in before.get("files", {}).items():
        if not (workdir / name).is_file() or file_digest(workdir / name) != value:
            raise ValueError(
                f"{workdir / name}: not the file that this run wrote; put it back or choose "
                "another --workdir"
            )
