"""Sources too large for the memory: any range of their rows is read on its own, by any process."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dd2d_jax import datasets, sources
from dd2d_jax.datasets import CrystalSet
from dd2d_jax.library import read_source

Report = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Stream:
    """A source of crystals, read in ranges of rows.

    Attributes:
        name: as the user gave it, without a password.
        identity: changes where the source holds something else.
        rows: how many there are, used or not.
        read: the usable crystals of rows [start, stop), padded; the set's report speaks of these.
    """

    name: str
    identity: str
    rows: int
    read: Callable[[int, int], CrystalSet]


def open_stream(source: str | Path | CrystalSet, data_dir: str | None = None) -> Stream:
    """A stream of a source: see `Library.build`, and further "enumerate:N", "postgresql://...".

    Databases and folders are read in ranges, generated crystals are made in ranges; other sources
    are held in memory.

    Raises:
        ValueError: the source cannot be read.
        FileNotFoundError: nothing at that path.
    """
    if isinstance(source, CrystalSet):
        return _of_set("crystals in memory", source)
    text = str(source)
    if text.startswith("enumerate:"):
        from dd2d_jax.enumerate import Enumeration

        made = Enumeration.parse(text)
        return Stream(text, made.identity, made.rows, made.read)
    if text.startswith(("postgresql://", "postgres://")):
        return _of_server(text)
    path = Path(source)
    if path.suffix.lower() == ".db" and path.is_file():
        return _of_database(path)
    if path.is_dir():
        found = sources.accepted_files(path)
        identity = sources.fingerprint("files", path)
        return Stream(text, identity, len(found), _reader(
            lambda start, stop: sources.frames(found[start:stop], path)
        ))
    return _of_set(text, read_source(source, data_dir))


def _reader(entries: Callable[[int, int], Iterator[sources.Entry]]) -> Callable:
    def read(start: int, stop: int) -> CrystalSet:
        report = datasets.new_report()
        kept = list(datasets.crystals_of(entries(start, stop), report))
        return datasets.crystal_set([info for info, _ in kept], [c for _, c in kept], report)

    return read


def _of_set(name: str, crystals: CrystalSet) -> Stream:
    def read(start: int, stop: int) -> CrystalSet:
        part = crystals.take(range(start, min(stop, len(crystals))))
        # What was left out when the set was made is told by the first part.
        report = datasets.new_report() if start else {**crystals.report}
        skipped = sum(entry["count"] for entry in report["skipped"].values())
        report.update(rows=len(part) + skipped, kept=len(part))
        return dataclasses.replace(part, report=report)

    digest = datasets.digest(crystals)
    return Stream(name, digest, len(crystals), read)


def _of_database(path: Path) -> Stream:
    from ase.db import connect

    try:
        database = connect(path, type="db", use_lock_file=False)
        rows = _last_id(database)
    except sqlite3.Error as error:
        raise ValueError(
            f"{path}: not an ASE database ({error}); give a SQLite file written by ase.db"
        ) from error
    return Stream(
        str(path),
        sources.fingerprint("ase_db", path),
        rows,
        _reader(lambda start, stop: _range(database, path.stem, start, stop)),
    )


def _of_server(url: str) -> Stream:
    """An ASE database on PostgreSQL."""
    try:
        from ase.db import connect

        database = connect(url)
    except ImportError as error:
        raise ValueError(
            f"PostgreSQL needs the extra `postgresql`: pip install 'dd2d-jax[postgresql]' ({error})"
        ) from error
    place = urlsplit(url)
    port = f":{place.port}" if place.port else ""
    name = f"postgresql://{place.hostname or ''}{port}{place.path}"
    try:
        rows, count = _last_id(database), database.count()
    except Exception as error:  # the driver's own errors; it is not imported here
        raise ValueError(f"{name}: {' '.join(str(error).split())}") from error
    return Stream(
        name,
        f"{name} {count} rows, last id {rows}",
        rows,
        _reader(lambda start, stop: _range(database, place.path.strip("/"), start, stop)),
    )


def _last_id(database: Any) -> int:
    return next((row.id for row in database.select(sort="-id", limit=1, columns=["id"])), 0)


def _range(database: Any, name: str, start: int, stop: int) -> Iterator[sources.Entry]:
    # By id, which has an index, not by offset, which counts from the first row.
    return sources.database_rows(database, name, f"id>{start}", f"id<={stop}")
