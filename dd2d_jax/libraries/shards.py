"""Part of a library in one file, mapped into memory: only what is touched is read.

A file is the magic, the length of a JSON header in 8 bytes (little endian), the header, and arrays
that begin at multiples of 64 bytes. The header names each array's dtype, shape and place; it holds
no code, and what it says is checked against the file. Crystals are stored without padding, one
after another.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dd2d_jax.crystals.structures import MAX_ATOMS, MAX_NUMBER
from dd2d_jax.data.crystal_set import CrystalSet, join
from dd2d_jax.util.errors import LibraryError
from dd2d_jax.util.files import new_file
from dd2d_jax.util.limits import MAX_NAME, first_line, parse_json

_MAGIC = b"dd2dpart"
_ALIGN = 64
_MAX_HEADER = 2**26
# Angstrom. A cell of the most atoms that touch is no longer, and no lattice has rows so close.
MAX_CELL, MIN_HEIGHT = 1e4, 0.1
# Name: dtype, and the shape of a row. `_at` says where the entries of a ragged array end.
_ARRAYS = {
    "embeddings": ("<f2", None),
    "lattice": ("<f4", (2, 2)),
    "elements": ("<u8", (2,)),
    "known": ("|u1", ()),
    "prototype": ("<u4", ()),
    "atoms_at": ("<u4", ()),
    "positions": ("<f4", (3,)),
    "numbers": ("|u1", ()),
    "uid_at": ("<u4", ()),
    "uid": ("|u1", ()),
    "formula_at": ("<u4", ()),
    "formula": ("|u1", ()),
}
# Arrays that parts of formats before have not; that of occupancies is only where sites are mixed.
_NEW = {"ehull": ("<f4", ()), "layer_group": ("<u4", ()), "occupancy": ("<f4", ())}
_BY_ATOM = ("positions", "numbers", "occupancy")
_RAGGED = {**dict.fromkeys(_BY_ATOM, "atoms_at"), "uid": "uid_at", "formula": "formula_at"}


def element_masks(numbers: np.ndarray) -> np.ndarray:
    """Bit z of (n, 2) uint64 is set where a crystal of `numbers` (n, N) has the element z."""
    masks = np.zeros((len(numbers), 2), np.uint64)
    for column in np.asarray(numbers).T:
        bit = np.uint64(1) << (column % 64).astype(np.uint64)
        for half in (0, 1):
            masks[:, half] |= np.where((column > 0) & (column // 64 == half), bit, np.uint64(0))
    return masks


class Shard:
    """An open part of a library.

    Attributes:
        path: its file.
        report: of the rows that it was made of, see `usable.from_atoms`.
        arrays: by name, mapped into memory: embeddings (n, D) float16, lattice (n, 2, 2), elements
            (n, 2), known (n,), and those that `take` reads.
    """

    def __init__(self, path: Path):
        """Raises LibraryError where the file is missing or damaged."""
        self.path = path
        if path.exists() and not path.is_file():
            raise LibraryError(f"{path}: not a regular file, build the library again")
        try:
            header, start = _header(path)
            data = np.memmap(path, np.uint8, "r")
            self.report, self._prototypes = checked_report(header["report"]), header["prototypes"]
            self._groups = header.get("layer_groups", [""])
            self.model = header["model"]
            self.arrays = _views(data, header["arrays"], start)
            _check(self.arrays, self._prototypes, self._groups)
        except FileNotFoundError as error:
            raise LibraryError(f"{path}: missing, build the library again") from error
        except (KeyError, TypeError, ValueError, AttributeError, OSError, RecursionError) as error:
            raise LibraryError(
                f"{path}: damaged ({first_line(error)}), build the library again"
            ) from error

    def __len__(self) -> int:
        return len(self.arrays["lattice"])

    @property
    def mixed(self) -> bool:
        """Whether any crystal has mixed sites."""
        return "occupancy" in self.arrays

    def texts(self, name: str) -> list[str]:
        """All of "uid" or "formula"."""
        ends, blob = self.arrays[f"{name}_at"].tolist(), self.arrays[name].tobytes()
        pairs = zip(ends[:-1], ends[1:], strict=True)
        return [blob[a:b].decode("utf-8", "replace") for a, b in pairs]

    def take(self, rows: np.ndarray, report: dict[str, Any] | None = None) -> CrystalSet:
        """The crystals at `rows` (m,), in that order."""
        arrays = self.arrays
        at = arrays["atoms_at"].astype(np.int64)
        first, count = at[rows], at[rows + 1] - at[rows]
        real = np.arange(count.max(initial=1)) < count[:, None]
        places = (first[:, None] + np.arange(real.shape[1]))[real]
        positions = np.zeros((*real.shape, 3), np.float32)
        numbers = np.zeros(real.shape, np.int32)
        positions[real], numbers[real] = arrays["positions"][places], arrays["numbers"][places]
        occupancy = np.ones(real.shape, np.float32) if self.mixed else None
        if self.mixed:
            occupancy[real] = arrays["occupancy"][places]
        names, groups = np.array(self._prototypes, str), np.array(self._groups, str)
        return CrystalSet(
            uid=self._text("uid", rows),
            formula=self._text("formula", rows),
            lattice=np.array(arrays["lattice"][rows]),
            positions=positions,
            numbers=numbers,
            known=arrays["known"][rows].astype(bool),
            prototype=names[arrays["prototype"][rows]] if len(names) else np.zeros(0, "U1"),
            ehull=np.array(arrays["ehull"][rows]),
            layer_group=groups[arrays["layer_group"][rows]] if len(groups) else np.zeros(0, "U1"),
            occupancy=occupancy,
            report=self.report if report is None else report,
        )

    def _text(self, name: str, rows: np.ndarray) -> np.ndarray:
        ends, blob = self.arrays[f"{name}_at"], self.arrays[name]
        words = [
            blob[a:b].tobytes().decode("utf-8", "replace")
            for a, b in zip(ends[rows].tolist(), ends[rows + 1].tolist(), strict=True)
        ]
        return np.array(words, str)


def write_shard(path: Path, crystals: CrystalSet, embeddings: np.ndarray, model: str) -> None:
    """Write crystals and their embeddings (n, D), kept as float16, beside and moved into place.

    The same crystals and embeddings give the same bytes.
    """
    real = crystals.numbers > 0
    prototypes, prototype = np.unique(crystals.prototype, return_inverse=True)
    groups, group = np.unique(crystals.layer_group, return_inverse=True)
    arrays = {
        "embeddings": embeddings,
        "lattice": crystals.lattice,
        "elements": element_masks(crystals.numbers),
        "known": crystals.known,
        "prototype": prototype,
        "ehull": crystals.ehull,
        "layer_group": group,
        "atoms_at": _ends(real.sum(1)),
        "positions": crystals.positions[real],
        "numbers": crystals.numbers[real],
    }
    if crystals.occupancy is not None:
        arrays["occupancy"] = crystals.occupancy[real]
    for name in ("uid", "formula"):
        words = [word.encode() for word in getattr(crystals, name).tolist()]
        arrays[f"{name}_at"] = _ends([len(word) for word in words])
        arrays[name] = np.frombuffer(b"".join(words), np.uint8)
    names = [name for name in _ARRAYS | _NEW if name in arrays]
    places, end = {}, 0
    for name in names:
        dtype = (_ARRAYS | _NEW)[name][0]
        arrays[name] = np.ascontiguousarray(arrays[name], dtype)
        places[name] = {"dtype": dtype, "shape": arrays[name].shape, "at": end}
        end += -(-arrays[name].nbytes // _ALIGN) * _ALIGN
    header = {
        "model": model,
        "report": crystals.report,
        "prototypes": prototypes.tolist(),
        "layer_groups": groups.tolist(),
        "arrays": places,
    }
    text = json.dumps(header, sort_keys=True).encode()
    with new_file(path) as part, part.open("wb") as file:
        file.write(_MAGIC + len(text).to_bytes(8, "little") + text)
        for name in names:
            file.write(b"\0" * (-file.tell() % _ALIGN))
            file.write(arrays[name].tobytes())
        # Moved into place only when the disk has it: no half file after a power failure.
        file.flush()
        os.fsync(file.fileno())


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _ends(lengths: Sequence[int]) -> np.ndarray:
    ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    if ends[-1] >= 2**32:
        raise ValueError(f"{ends[-1]} entries do not fit into one part of a library")
    return ends


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The header, and where the arrays begin."""
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise ValueError("not a part of a library")
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length < _MAX_HEADER:
            raise ValueError(f"a header of {length} bytes")
        text = file.read(length)
        end = file.tell()
    if len(text) < length:
        raise ValueError("cut short within its header")
    return parse_json(text, path), -(-end // _ALIGN) * _ALIGN


def _views(data: np.ndarray, places: dict[str, Any], start: int) -> dict[str, np.ndarray]:
    views = {}
    for name, (dtype, row) in (_ARRAYS | _NEW).items():
        if name in _NEW and name not in places:
            continue
        place = places[name]
        shape, at = tuple(place["shape"]), place["at"]
        whole = all(isinstance(x, int) and x >= 0 for x in (*shape, at)) and at % _ALIGN == 0
        if place["dtype"] != dtype or not whole or (row is not None and shape[1:] != row):
            raise ValueError(f"{name} has another type, shape or place")
        size = np.dtype(dtype).itemsize * int(np.prod([int(x) for x in shape], dtype=object))
        if start + at + size > len(data):
            raise ValueError(f"cut short within {name}")
        views[name] = data[start + at : start + at + size].view(dtype).reshape(shape)
    count = len(views["lattice"])
    views.setdefault("ehull", np.full(count, np.nan, np.float32))
    views.setdefault("layer_group", np.zeros(count, np.uint32))
    return views


def checked_report(report: Any) -> dict[str, Any]:
    """A report of `crystal_set.new_report` as it was; ValueError where it is none."""
    twins, skipped = report["duplicates"], report["skipped"]
    entries = [twins, *skipped.values()]
    numbers = [report["rows"], report["kept"], *(entry["count"] for entry in entries)]
    texts = [text for entry in entries for text in entry["examples"]]
    whole = all(type(n) is int and n >= 0 for n in numbers) and all(
        isinstance(text, str) for text in texts
    )
    if not whole or not all(entry["examples"] for entry in skipped.values()):
        raise ValueError("its report is not valid")
    return dict(report)


def check_crystals(lattice: np.ndarray, positions: np.ndarray, numbers: np.ndarray) -> None:
    """Raise ValueError for crystals (n, 2, 2), (N, 3), (N,) that no source of ours gives.

    Of larger or thinner cells a pattern has spots without end.
    """
    if len(lattice):
        # Also false for what is no number.
        area = np.abs(np.linalg.det(lattice.astype(np.float64)))
        length = np.abs(lattice).max((1, 2)).astype(np.float64)
        if not (length.max() <= MAX_CELL and (area >= MIN_HEIGHT * length).all()):
            raise ValueError(f"cells beyond {MIN_HEIGHT:g} to {MAX_CELL:g} A")
        if not np.abs(positions).max(initial=0) <= MAX_CELL:
            raise ValueError(f"positions beyond {MAX_CELL:g} A")
        if not 1 <= numbers.min() <= numbers.max() <= MAX_NUMBER:
            raise ValueError("atomic numbers out of range")


def _check(arrays: dict[str, np.ndarray], prototypes: Any, groups: Any) -> None:
    """Raise ValueError where arrays do not fit together: nothing may lead beyond them."""
    # Arrays of text and of padded crystals are as wide as the longest.
    for names in (prototypes, groups):
        if not all(isinstance(name, str) and len(name) <= MAX_NAME for name in names):
            raise ValueError("prototypes or layer groups are not short names")
    for name, most in (("uid", 4 * MAX_NAME), ("formula", 4 * MAX_NAME), ("atoms", MAX_ATOMS)):
        if np.diff(arrays[f"{name}_at"].astype(np.int64)).max(initial=0) > most:
            raise ValueError(f"{name} of a crystal beyond {most}")
    count = len(arrays["lattice"])
    if arrays["embeddings"].ndim != 2:
        raise ValueError("embeddings are not a table")
    for name in ("embeddings", "elements", "known", "prototype", "ehull", "layer_group"):
        if len(arrays[name]) != count:
            raise ValueError(f"{len(arrays[name])} {name} for {count} crystals")
    for name, ends in _RAGGED.items():
        if name not in arrays:
            continue
        at = arrays[ends]
        if len(at) != count + 1 or at[0] != 0 or at[-1] != len(arrays[name]):
            raise ValueError(f"{ends} does not fit {name}")
        if (np.diff(at.astype(np.int64)) < (name in _BY_ATOM)).any():
            raise ValueError(f"{ends} does not rise")
    if count and arrays["prototype"].max() >= len(prototypes):
        raise ValueError("a prototype without a name")
    if count and arrays["layer_group"].max() >= len(groups):
        raise ValueError("a layer group without a name")
    check_crystals(*(arrays[name] for name in ("lattice", "positions", "numbers")))
    shares = arrays.get("occupancy", np.ones(1))
    if not ((shares > 0) & (shares <= 1)).all():
        raise ValueError("occupancies beyond 0 to 1")


class Stacked:
    """Arrays one below another, without a copy: rows are read where they are.

    Attributes:
        parts: arrays of one dtype, of the shape (n_i, ...).
        starts: (parts + 1,) the row at which each begins.
    """

    def __init__(self, parts: Sequence[np.ndarray]):
        self.parts = tuple(parts)
        self.starts = _starts(self.parts)
        self.shape = (int(self.starts[-1]), *self.parts[0].shape[1:])
        self.dtype = self.parts[0].dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        """One row, a slice, a mask or an array of rows."""
        rows = _rows(rows, len(self))
        out = np.empty((*rows.shape, *self.shape[1:]), self.dtype)
        for part, mine, local in _by_part(rows, self.starts):
            out[mine] = self.parts[part][local]
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("the rows lie in several files: a copy is needed")
        whole = np.concatenate(self.parts)
        return whole if dtype is None else whole.astype(dtype)


class StoredCrystals:
    """The crystals of many shards, read where they are asked for.

    Attributes:
        shards: the open files.
        report: what was kept, and what was skipped and why, of all of them.
        lattice: (n, 2, 2) angstrom. known: (n,). elements: (n, 2), see `element_masks`.
        ehull: (n,) eV/atom, NaN where it is not known.
    """

    def __init__(self, shards: Sequence[Shard], report: dict[str, Any]):
        self.shards = tuple(shards)
        self.report = report
        self._starts = _starts(self.shards)
        self.lattice, self.known, self.elements, self.ehull = (
            Stacked([shard.arrays[name] for shard in self.shards])
            for name in ("lattice", "known", "elements", "ehull")
        )

    def __len__(self) -> int:
        return int(self._starts[-1])

    def take(self, rows: Sequence[int] | np.ndarray) -> CrystalSet:
        """The crystals at `rows` (m,), in that order."""
        rows = _rows(np.asarray(rows), len(self))
        pieces, where = [], []
        for part, mine, local in _by_part(rows, self._starts):
            pieces.append(self.shards[part].take(local, self.report))
            where.append(np.flatnonzero(mine))
        if not pieces:
            return self.shards[0].take(rows, self.report)
        return join(pieces, self.report).take(np.argsort(np.concatenate(where)))

    # All of one field, read when first asked for and kept: of millions it takes time and memory.
    @functools.cached_property
    def uid(self) -> np.ndarray:
        """(n,)."""
        return np.array([word for shard in self.shards for word in shard.texts("uid")], str)

    @functools.cached_property
    def formula(self) -> np.ndarray:
        """(n,)."""
        return np.array([word for shard in self.shards for word in shard.texts("formula")], str)

    @functools.cached_property
    def whole(self) -> CrystalSet:
        """All of them in memory."""
        return self.take(np.arange(len(self)))

    @property
    def prototype(self) -> np.ndarray:
        """(n,)."""
        return self.whole.prototype

    @property
    def layer_group(self) -> np.ndarray:
        """(n,)."""
        return self.whole.layer_group

    @property
    def positions(self) -> np.ndarray:
        """(n, N, 3) angstrom, padded."""
        return self.whole.positions

    @property
    def numbers(self) -> np.ndarray:
        """(n, N), 0 for padding."""
        return self.whole.numbers

    @property
    def occupancy(self) -> np.ndarray | None:
        """(n, N); None where no site is mixed."""
        return self.whole.occupancy


def _starts(parts: Sequence[Any]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum([len(part) for part in parts], dtype=np.int64)])


def _rows(rows: Any, count: int) -> np.ndarray:
    if isinstance(rows, slice):
        return np.arange(*rows.indices(count))
    rows = np.asarray(rows)
    if rows.dtype == bool:
        return np.flatnonzero(rows)
    rows = rows.astype(np.int64)
    if rows.size and (rows.min() < -count or rows.max() >= count):
        raise IndexError(f"row {rows.min()} or {rows.max()} of {count} crystals")
    return np.where(rows < 0, rows + count, rows)


def _by_part(rows: np.ndarray, starts: np.ndarray):
    """For each part that rows lie in: its number, which rows, and where they are in it."""
    part = np.searchsorted(starts, rows, side="right") - 1
    for number in np.unique(part):
        mine = part == number
        yield int(number), mine, rows[mine] - starts[number]
