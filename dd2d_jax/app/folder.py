"""The folder that the window works in: what may be opened there, and what is put there.

What is dropped on the window, masks and pages go into `dd2d-app` within it; nothing there is
ever overwritten, and nothing outside of the folder is read.
"""

from __future__ import annotations

import hashlib
import io
import itertools
from pathlib import Path

import numpy as np

from dd2d_jax.images.patterns import SUFFIXES
from dd2d_jax.util.errors import UserError
from dd2d_jax.util.files import first_free, new_file, numbered
from dd2d_jax.util.text import safe_name

# Where the window puts its files.
OWN = "dd2d-app"
# Bytes of a file that is dropped on the window; larger ones are opened from the folder.
MAX_DROPPED = 2**27
# Names that a menu lists.
_MOST = 500


class Folder:
    """A folder and what the window may do in it."""

    def __init__(self, path: str | Path):
        self.path = Path(path).resolve()

    def patterns(self) -> list[str]:
        """Names of images and spot lists in the folder and in its `dd2d-app`, sorted."""
        found = []
        for place in (self.path, self.path / OWN):
            if place.is_dir():
                found += sorted(
                    one.relative_to(self.path).as_posix()
                    for one in place.iterdir()
                    if self._may_be_pattern(one)
                )
        return found[:_MOST]

    def _may_be_pattern(self, path: Path) -> bool:
        return (
            path.suffix.lower() in SUFFIXES
            and not path.name.startswith((".", "mask-"))
            and (path.is_file() or path.suffix.lower() == ".zspy")
            and self._within(path)
        )

    def _within(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self.path)

    def inside(self, name: str) -> str:
        """A name that a browser gave, if it is that of a pattern within the folder.

        Raises:
            UserError: it is not, or leads out of the folder.
        """
        path = self.path / name
        if Path(name).is_absolute() or not self._within(path) or not self._may_be_pattern(path):
            raise UserError(f"{name}: no image or spot list in {self.path}")
        return path.relative_to(self.path).as_posix()

    def keep(self, name: str, data: bytes) -> str:
        """A dropped file, as a name within the folder; it is written unless it is there already.

        Raises:
            UserError: too large, or of a format that is not read.
        """
        suffix = Path(name).suffix.lower()
        if suffix not in SUFFIXES:
            raise UserError(f"{name[-60:]}: the format is unknown; known are {' '.join(SUFFIXES)}")
        if len(data) > MAX_DROPPED:
            raise UserError(
                f"{name[-60:]}: {len(data) / 2**20:.0f} MiB; at most {MAX_DROPPED / 2**20:.0f} MiB "
                f"are taken this way: put it into {self.path} and choose it in the list"
            )
        plain = safe_name(Path(name).stem) + suffix
        own = itertools.takewhile(Path.exists, numbered(self.path / OWN / plain))
        for place in (self.path / plain, *own):
            if place.is_file() and self._within(place) and _same(place, data):
                return place.relative_to(self.path).as_posix()
        return self._write(self.free(plain), data)

    def mask(self, measured: np.ndarray) -> str:
        """A mask (H, W) as an image, 0 where not to look; of one mask always the same name."""
        from PIL import Image

        file = io.BytesIO()
        Image.fromarray(np.where(measured, 255, 0).astype(np.uint8)).save(file, "png")
        digest = hashlib.sha256(measured.shape.__repr__().encode() + measured.tobytes())
        path = self.path / OWN / f"mask-{digest.hexdigest()[:10]}.png"
        return path.relative_to(self.path).as_posix() if path.exists() else self._write(
            path, file.getvalue()
        )

    def write(self, name: str, text: str) -> str:
        """A text under the first free name like `name`, as a name within the folder."""
        return self._write(self.free(name), text.encode())

    def free(self, name: str) -> Path:
        """A path in `dd2d-app` where nothing is: a number is added where need be."""
        return first_free(self.path / OWN / name)

    def _write(self, path: Path, data: bytes) -> str:
        path.parent.mkdir(exist_ok=True)
        with new_file(path) as part:
            part.write_bytes(data)
        return path.relative_to(self.path).as_posix()


def _same(path: Path, data: bytes) -> bool:
    return path.stat().st_size == len(data) and path.read_bytes() == data
