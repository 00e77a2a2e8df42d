"""How much is read from files that come from strangers; docs/threats.md says why.

What is larger is refused, before it is decoded where the format allows that, with an error that
names the limit. Other limits stand where they belong: `structures.MAX_ATOMS`, and what
`trained.load` takes for a network.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

# Bytes of a spot list, a calibration, a config or a library's manifest.
MAX_TEXT = 2**25
# Characters of a line of a spot list.
MAX_LINE = 10_000
MAX_SPOTS = 100_000
# Values of an image, colours counted alone: 11520 x 8184 of the largest detectors and some more,
# and values of a stack that is averaged.
MAX_PIXELS = 2**27
MAX_STACK = 2**34
# Bytes of what lies in an image's file beside its pixels, when decompressed.
MAX_ASIDE = 2**26
# Bytes and structures of one file of structures (CIF: of one file).
MAX_STRUCTURES = 2**28
MAX_CIF = 2**24
MAX_FRAMES = 100_000
# Bytes of a data set in JSON, also when it comes in an archive.
MAX_JSON = 2**30
# Characters of a crystal's uid or prototype: arrays of text are as wide as the longest.
MAX_NAME = 200
# Bytes of weights or of a library's arrays, when decompressed.
MAX_ARRAYS = 2**32


def read_bytes(path: Path, limit: int, error: Callable[[str], Exception] = ValueError) -> bytes:
    """All of a regular file; `error` is raised where it is none or holds more than `limit`."""
    # No device, no pipe: they may never end.
    if not path.is_file():
        raise error(f"{path}: not a regular file")
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise error(f"{path}: {path.stat().st_size} bytes; at most {limit} are read")
    return data


def read_text(path: Path, limit: int, error: Callable[[str], Exception] = ValueError) -> str:
    """The same as text, UTF-8 with or without its mark."""
    try:
        return read_bytes(path, limit, error).decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise error(f"{path}: not a text file (UTF-8)") from problem


def read_json(
    path: Path, limit: int = MAX_TEXT, error: Callable[[str], Exception] = ValueError
) -> Any:
    """What a JSON file holds; `error` is raised where it is none, too large or too deep."""
    return parse_json(read_bytes(path, limit, error), path, error)


def parse_json(data: bytes, path: Path, error: Callable[[str], Exception] = ValueError) -> Any:
    """What the bytes of a JSON file hold; see `read_json`."""
    try:
        return json.loads(data.decode("utf-8-sig"))
    # Also of whole numbers of more than 4300 digits.
    except (ValueError, RecursionError) as problem:
        raise error(f"{path}: not valid JSON ({first_line(problem)})") from problem


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a .npz file, none of them pickled; ValueError where it is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            # No more is unpacked than is said here.
            size = sum(member.file_size for member in archive.infolist())
            if size > MAX_ARRAYS:
                raise ValueError(f"{size} bytes when unpacked; at most {MAX_ARRAYS} are read")
            out = {}
            for member in archive.infolist():
                with archive.open(member) as file:
                    out[member.filename.removesuffix(".npy")] = _npy(file, member.file_size)
            return out
    except Exception as problem:  # of damaged archives and headers errors of many kinds are raised
        raise ValueError(f"{path}: not a whole .npz of arrays ({first_line(problem)})") from problem


def _npy(file: Any, size: int) -> np.ndarray:
    """An array of a file of `size` bytes; its memory is taken only if they are there."""
    version = np.lib.format.read_magic(file)
    reader = {(1, 0): np.lib.format.read_array_header_1_0}.get(
        version, np.lib.format.read_array_header_2_0
    )
    shape, fortran, dtype = reader(file)
    if dtype.hasobject:
        raise ValueError("it holds objects, which are never unpickled")
    count = math.prod(shape)
    if min(shape, default=0) < 0 or count * dtype.itemsize > size:
        raise ValueError(f"cut short, {size} bytes for an array of {shape}")
    data = np.frombuffer(file.read(count * dtype.itemsize), dtype).copy()
    return data.reshape(shape, order="F" if fortran else "C")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its name where it has none; never long."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
