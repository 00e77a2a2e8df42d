"""Libraries of any size, part by part: streamed, resumable, by several processes; appended, merged.

A part is made of one range of the source's rows and of nothing else, so that whoever makes it, and
after whatever interruption, makes the same bytes. A folder without a manifest is no library yet:
the same command goes on with it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dd2d_jax.data import crystal_set, usable
from dd2d_jax.data.crystal_set import CrystalSet
from dd2d_jax.data.row_ranges import Stream, open_stream
from dd2d_jax.libraries.library import (
    MANIFEST,
    SHARD,
    Library,
    read_manifest,
    shard_name,
    write_manifest,
)
from dd2d_jax.libraries.shards import Shard, write_shard
from dd2d_jax.networks.checkpoint import write_json
from dd2d_jax.networks.trained import Model
from dd2d_jax.spots import power_of_two
from dd2d_jax.util.errors import LibraryError
from dd2d_jax.util.files import alone, new_folder
from dd2d_jax.util.progress import progress

_PLAN = "unfinished.json"


def build(
    source: str | Path | CrystalSet,
    directory: str | Path,
    model: Model,
    data_dir: str | None = None,
    part: tuple[int, int] = (1, 1),
    append: bool = False,
    say: Callable[[str], None] = lambda line: None,
    known: Sequence[str] = (),
) -> dict[str, Any] | None:
    """Embed every crystal of a source into a library's folder; called again, it goes on.

    Args:
        source: see `open_stream`.
        directory: a new folder, or one that this function began.
        model: from `dd2d_jax.load`.
        data_dir: where prepared data sets are kept.
        part: (i, n): this process makes every n-th part, from the i-th. The one that finds all
            parts made finishes the library.
        append: add to the library in `directory`, which can be read meanwhile.
        say: is told what happens.
        known: uids of crystals that were made, beside those that the source says it of.

    Returns:
        The report of what was kept and skipped (`usable.from_atoms`), of all rows of the
        library; None where other processes still have parts to make. Rows whose uid came before
        are left out and counted. Structural duplicates are counted within a part.

    Raises:
        FileExistsError: a library, or something else, is there already.
        LibraryError: what is there was begun with another source or model; to append, no library.
        ValueError: the source cannot be read or holds no usable crystal.
        OSError: the folder cannot be written; what was made before stays.
    """
    directory = Path(directory)
    stream = open_stream(source, data_dir)
    plan = {
        "source": stream.name,
        "identity": stream.identity,
        "rows": stream.rows,
        "part": SHARD,
        "model": model.fingerprint,
        "known": _hash_of(known),
    }
    first = _begin(directory, plan, append)
    if first is None:
        return read_manifest(directory)["report"]
    ranges = list(range(0, max(stream.rows, 1), SHARD))
    paths = [directory / shard_name(first + i) for i in range(len(ranges))]
    mine = [i for i in range(len(ranges)) if i % part[1] == part[0] - 1]
    missing = [i for i in mine if not _made(paths[i], say)]
    if missing != mine:
        say(f"{directory}: {len(mine) - len(missing)} of {len(mine)} parts are there already")
    rows = sum(min(SHARD, stream.rows - ranges[i]) for i in missing)
    work = ((i, _make(stream, ranges[i], paths[i], model, known)) for i in missing)
    for _ in progress(work, rows, "indexing", weight=lambda done: done[1]):
        pass
    if not all(path.exists() for path in paths):
        left = sum(not path.exists() for path in paths)
        say(f"{directory}: {left} of {len(paths)} parts are left to other processes")
        return None
    with alone(directory):
        if not (directory / _PLAN).exists():  # another process was faster
            return read_manifest(directory)["report"]
        before = [directory / shard_name(i) for i in range(first)]
        report = _finish(directory, before + paths, model.fingerprint)
        (directory / _PLAN).unlink()
    return report


def merge(libraries: Sequence[str | Path], directory: str | Path) -> dict[str, Any]:
    """One library of several, without embedding anything again; returns its report.

    Crystals whose uid came before are left out and counted.

    Raises:
        FileExistsError: something is at `directory` already.
        LibraryError: one is missing or damaged, or they were built by several models.
    """
    opened = [Library.load(path) for path in libraries]
    models = {library.model for library in opened}
    if len(models) > 1:
        raise LibraryError(
            f"the libraries were built by several models ({', '.join(sorted(models))}); "
            "build them with one"
        )
    with new_folder(directory) as folder:
        paths: list[Path] = []
        for library in opened:
            for shard in library.crystals.shards:
                paths.append(folder / shard_name(len(paths)))
                shutil.copyfile(shard.path, paths[-1])
        return _finish(folder, paths, models.pop())


def _begin(directory: Path, plan: dict[str, Any], append: bool) -> int | None:
    """The number of the first part to make; None where the library is finished."""
    path = directory / _PLAN
    made = (directory / MANIFEST).is_file()
    before = None
    if path.is_file():
        try:
            before = json.loads(path.read_text())
            first = before.pop("first")
        except (ValueError, KeyError, AttributeError) as error:
            raise LibraryError(f"{path}: damaged; remove {directory} and begin again") from error
        if before != plan:
            key = next((k for k in plan if before.get(k) != plan[k]), "source")
            raise LibraryError(
                f"{directory}: begun with {key} {before.get(key)}, not {plan[key]}; go on with "
                "that, or choose another folder"
            )
    elif append:
        if not made:
            raise LibraryError(f"{directory}: no library here to append to")
        manifest = read_manifest(directory)
        if manifest["model"] != plan["model"]:
            raise LibraryError(
                f"{directory}: built by model {manifest['model']}, not {plan['model']}; append "
                "with that model"
            )
        first = len(manifest["shards"])
    elif made or (directory.exists() and any(directory.iterdir())) or directory.is_symlink():
        raise FileExistsError(f"{directory}: exists already; choose another name or remove it")
    else:
        first = 0
    if before is None:
        directory.mkdir(parents=True, exist_ok=True)
        write_json(path, {**plan, "first": first})
    elif made and len(read_manifest(directory)["shards"]) > first:
        # Ended between its last two steps.
        path.unlink()
        return None
    return first


def _made(path: Path, say: Callable[[str], None]) -> bool:
    if not path.exists():
        return False
    try:
        Shard(path)
    except LibraryError as error:
        say(f"{error}; it is built again")
        return False
    return True


def _make(stream: Stream, start: int, path: Path, model: Model, known: Sequence[str]) -> int:
    """Make one part; returns the number of rows that it was made of."""
    stop = min(start + SHARD, stream.rows)
    crystals = stream.read(start, stop)
    if len(known):
        made = crystals.known | np.isin(crystals.uid, list(known))
        crystals = dataclasses.replace(crystals, known=made)
    if len(crystals):
        # Every other number of slots would be compiled, and stay in memory.
        padded = crystals.padded(power_of_two(crystals.numbers.shape[1]))
        embeddings = model.embed_crystals(padded.crystal)
    else:
        embeddings = np.zeros((0, model.config.model.embedding))
    write_shard(path, crystals, embeddings, model.fingerprint)
    return stop - start


def _finish(directory: Path, paths: list[Path], model: str) -> dict[str, Any]:
    """Leave out repeated uids, and write the manifest of these parts."""
    _leave_out_repeated(paths)
    report = crystal_set.merged_report(Shard(path).report for path in paths)
    try:
        usable.check_kept(report)
    except ValueError:
        shutil.rmtree(directory)
        raise
    for left in directory.glob(".*.part*"):  # of processes that were killed
        left.unlink()
    write_manifest(directory, paths, model, report)
    return report


def _leave_out_repeated(paths: list[Path]) -> None:
    """Write parts again without crystals whose uid is in a part before."""
    # 8 bytes for each uid: text of millions would not fit.
    hashes = [_hashes(Shard(path).texts("uid")) for path in paths]
    values, counts = np.unique(np.concatenate(hashes), return_counts=True)
    repeated = values[counts > 1]
    if not len(repeated):
        return
    met: set[str] = set()
    for path, own in zip(paths, hashes, strict=True):
        suspects = np.flatnonzero(np.isin(own, repeated))
        if not len(suspects):
            continue
        shard = Shard(path)
        uids = shard.texts("uid")
        again = [i for i in suspects.tolist() if uids[i] in met]
        met.update(uids[i] for i in suspects.tolist())
        if again:
            report = json.loads(json.dumps(shard.report))
            report["kept"] -= len(again)
            for i in again:
                usable.skip(report, "duplicate uid", f"{uids[i]}: an earlier row has it")
            keep = np.delete(np.arange(len(shard)), again)
            crystals = shard.take(keep, report)
            write_shard(path, crystals, shard.arrays["embeddings"][keep], shard.model)


def _hash_of(words: Sequence[str]) -> str:
    """Of a list in any order; "" of none."""
    text = "\n".join(sorted(set(words))).encode()
    return hashlib.blake2b(text, digest_size=8).hexdigest() if text else ""


def _hashes(words: list[str]) -> np.ndarray:
    digests = b"".join(hashlib.blake2b(word.encode(), digest_size=8).digest() for word in words)
    return np.frombuffer(digests, np.uint64)
