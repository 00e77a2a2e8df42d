"""Files and folders that are written beside and moved into place: nobody sees half of one."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None


def numbered(path: str | Path) -> Iterator[Path]:
    """Path, path-2, path-3 ..., the suffix kept, without end."""
    path = Path(path)
    yield path
    for number in itertools.count(2):
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")


def first_free(path: str | Path) -> Path:
    """The first of `numbered` where nothing is, not even a link that leads nowhere."""
    return next(one for one in numbered(path) if not (one.exists() or one.is_symlink()))


@contextlib.contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """A path beside `path`, of the same suffix, to write to; it takes the place of `path`.

    What was written is removed, and `path` stays as it was, where the body raises.
    """
    path = Path(path)
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(directory: str | Path) -> Iterator[Path]:
    """An empty folder beside `directory` to fill; it becomes `directory`.

    What was written is removed where the body raises.

    Raises:
        FileExistsError: something is at `directory` already.
    """
    directory = Path(directory)
    if directory.exists() or directory.is_symlink():
        raise FileExistsError(f"{directory}: exists already; choose another name or remove it")
    part = directory.with_name(f".{directory.name}.{os.getpid()}.part")
    part.mkdir(parents=True)
    try:
        yield part
        part.rename(directory)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextlib.contextmanager
def alone(directory: str | Path, wait: bool = True) -> Iterator[None]:
    """While the body runs, no other process is in it with the same folder.

    Where the file system knows no locks, nothing is held.

    Args:
        directory: a folder that exists.
        wait: until the other one has left; else it is an error.

    Raises:
        BlockingIOError: another process is in it.
    """
    if fcntl is None:
        yield
        return
    folder = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(
                f"{directory}: another process is at work there; let it end, or choose another "
                "folder"
            ) from error
        except OSError:
            pass
        yield
    finally:
        os.close(folder)
