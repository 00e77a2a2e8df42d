"""Sources too large for the memory: any range of their rows is read on its own, by any process."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dd2d_jax.data import crystal_set, database, sources, usable
from dd2d_jax.data.crystal_set import CrystalSet
from dd2d_jax.data.datasets import read_source

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
        from dd2d_jax.data.enumeration import Enumeration

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
        report = crystal_set.new_report()
        kept = list(usable.crystals_of(entries(start, stop), report))
        return crystal_set.crystal_set([info for info, _ in kept], [c for _, c in kept], report)

    return read


def _of_set(name: str, crystals: CrystalSet) -> Stream:
    def read(start: int, stop: int) -> CrystalSet:
        part = crystals.take(range(start, min(stop, len(crystals))))
        # What was left out when the set was made is told by the first part.
        report = crystal_set.new_report() if start else {**crystals.report}
        skipped = sum(entry["count"] for entry in report["skipped"].values())
        report.update(rows=len(part) + skipped, kept=len(part))
        return dataclasses.replace(part, report=report)

    digest = crystal_set.digest(crystals)
    return Stream(name, digest, len(crystals), read)


def _of_database(path: Path) -> Stream:
    return Stream(
        str(path),
        sources.fingerprint("ase_db", path),
        database.last_id(path),
        _reader(lambda start, stop: sources.database_rows(path, start, stop)),
    )


def server_name(url: str) -> str:
    """A server's address without user and password, whatever signs are in them."""
    # What follows "?" may name a password, too.
    return f"postgresql://{url.partition('://')[2].rpartition('@')[2].partition('?')[0]}"


def _of_server(url: str) -> Stream:
    """An ASE database on PostgreSQL."""
    name = server_name(url)
    try:
        from ase.db import connect

        server = connect(url)
        rows, count = _last_id(server), server.count()
    except ImportError as error:
        raise ValueError(
            f"PostgreSQL needs the extra `postgresql`: pip install 'dd2d-jax[postgresql]' ({error})"
        ) from error
    except Exception as error:  # the driver's own errors; it is not imported here
        raise ValueError(f"{name}: {_without_secrets(str(error), url)}") from None
    short = name.rpartition("/")[2]
    return Stream(
        name,
        f"{name} {count} rows, last id {rows}",
        rows,
        _reader(lambda start, stop: sources.server_rows(server, short, start, stop)),
    )


def _without_secrets(text: str, url: str) -> str:
    """A driver's message, which may quote the address or parts of it."""
    rest = url.partition("://")[2]
    login, query = rest.rpartition("@")[0], rest.rpartition("@")[2].partition("?")[2]
    password = login.partition(":")[2]
    for secret in (login, query, password, *password.split("/")):
        text = text.replace(secret, "...") if secret else text
    return " ".join(text.split())


def _last_id(database: Any) -> int:
    return next((row.id for row in database.select(sort="-id", limit=1, columns=["id"])), 0)
