"""ASE databases (SQLite) that come from strangers: read, never written, nothing in them run.

ASE's own reader makes tables in what is no database of its own, decodes arrays of any size that a
few bytes declare, and calls functions by names that stand in the file. Here atoms and
keys are read with plain queries, and nothing else.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import ase
import numpy as np

from dd2d_jax.util.errors import StructureError
from dd2d_jax.util.limits import first_line, parse_json

# Bytes of a row, calculated data included, which are not read.
_MAX_ROW = 2**28
_COLUMNS = ("id", "numbers", "positions", "cell", "pbc", "key_value_pairs")


class Row(NamedTuple):
    """One row: its id, its keys, and its atoms or why they cannot be read."""

    id: int
    keys: dict[str, Any]
    atoms: ase.Atoms | StructureError


def last_id(path: Path) -> int:
    """The largest id, 0 in an empty database: as many rows as there are, where none was deleted.

    Raises ValueError where the file is no ASE database.
    """
    with _open(path) as connection:
        return int(connection.execute("SELECT max(id) FROM systems").fetchone()[0] or 0)


def rows(path: Path, start: int = 0, stop: int = 2**62) -> Iterator[Row]:
    """The rows with start < id <= stop, by their ids. Raises ValueError as `last_id` does."""
    with _open(path) as connection:
        before = -(2**63)
        for row in connection.execute(
            f"SELECT {', '.join(_COLUMNS)} FROM systems WHERE id > ? AND id <= ? ORDER BY id",
            (start, stop),
        ):
            # A damaged tree can lead to the same rows again and again.
            if not before < row[0]:
                raise ValueError(f"{path}: damaged, row {row[0]} comes after {before}")
            before = row[0]
            yield _row(path, *row)


def metadata(path: Path) -> dict[str, Any]:
    """What was kept beside the rows. Raises ValueError as `last_id` does."""
    with _open(path) as connection:
        found = connection.execute("SELECT value FROM information WHERE name = 'metadata'")
        text = found.fetchone()
    value = parse_json(text[0], path) if text and isinstance(text[0], bytes) else {}
    return value if isinstance(value, dict) else {}


@contextlib.contextmanager
def _open(path: Path) -> Iterator[sqlite3.Connection]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        connection = sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True)
        with contextlib.closing(connection):
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_ROW)
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("PRAGMA cell_size_check = ON")
            connection.text_factory = bytes
            for table in ("systems", "information"):
                _check_table(connection, path, table)
            yield connection
    except (sqlite3.Error, OverflowError) as error:
        raise ValueError(
            f"{path}: not an ASE database ({first_line(error)}); give a SQLite file written by "
            "ase.db"
        ) from error


def _check_table(connection: sqlite3.Connection, path: Path, name: str) -> None:
    """Raise ValueError for a view, a virtual table or computed columns: they run what they say."""
    found = connection.execute(
        "SELECT type, sql FROM sqlite_master WHERE name = ? AND type != 'index'", (name,)
    ).fetchall()
    if not found and name == "information":
        # Databases of the first versions have none.
        return
    plain = len(found) == 1 and found[0][0] == b"table"
    plain = plain and (found[0][1] or b"").upper().startswith(b"CREATE TABLE")
    columns = connection.execute(f"PRAGMA table_xinfo({name})").fetchall() if plain else []
    if not columns or any(column[-1] for column in columns):
        raise ValueError(
            f"{path}: not an ASE database (there is no plain table {name}); give a SQLite file "
            "written by ase.db"
        )


def _row(path: Path, number: int, numbers: Any, positions: Any, cell: Any, pbc: Any, keys: Any):
    try:
        kept = parse_json(_json_part(keys), path)
        if not isinstance(kept, dict):
            raise ValueError("its keys are not a dictionary")
    except (TypeError, AttributeError, ValueError) as error:
        kept, atoms = {}, _unreadable(number, error)
    else:
        try:
            atoms = ase.Atoms(
                np.frombuffer(numbers, "<i4"),
                np.frombuffer(positions, "<f8").reshape(-1, 3),
                cell=np.frombuffer(cell, "<f8").reshape(3, 3),
                pbc=[bool(pbc & bit) for bit in (1, 2, 4)],
            )
        except Exception as error:  # whatever stands in place of an array
            atoms = _unreadable(number, error)
    return Row(number, kept, atoms)


def _json_part(keys: Any) -> bytes:
    """As text, or behind the arrays of ASE's binary form, as its first 8 bytes say."""
    if isinstance(keys, bytes) and not keys[:1] == b"{":
        return keys[int.from_bytes(keys[:8], "little") :]
    return keys


def _unreadable(number: int, error: Exception) -> StructureError:
    return StructureError(
        "unreadable",
        f"row {number}: {first_line(error)}; a row needs cell, positions and numbers",
    )
