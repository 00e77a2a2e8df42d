"""Diffraction images in the formats of microscopes, through rosettasciio (extra `microscopy`).

Files come from strangers: nothing in them is executed or unpickled, and sizes are checked
(`limits`) before anything is decoded.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dd2d_jax.images import frames
from dd2d_jax.images.image import Image, beam_place, check_pixels
from dd2d_jax.images.units import axis_scale, parse_unit
from dd2d_jax.util.errors import PatternError
from dd2d_jax.util.limits import MAX_ASIDE, MAX_PIXELS, MAX_STACK

# Suffixes of what rosettasciio reads, by the name of its plugin.
MICROSCOPY = {
    ".dm3": "digitalmicrograph", ".dm4": "digitalmicrograph", ".emd": "emd", ".mrc": "mrc",
    ".blo": "blockfile", ".hspy": "hspy", ".zspy": "zspy", ".ser": "tia", ".tvips": "tvips",
    ".mib": "quantumdetector",
}  # fmt: skip
# How zarr stores text.
_OF_TEXT = ("vlen-utf8", "vlen-bytes", "vlen-array", "msgpack2")
# Bytes of a number by its type in .ser files, and the first version with long addresses.
_SER_TYPES, _SER_LONG = {1: 1, 2: 2, 3: 4, 4: 1, 5: 2, 6: 4, 7: 4, 8: 8}, 0x220


def read_microscopy(path: Path) -> Image:
    """The image in such a file, or the mean of its frames.

    Raises:
        PatternError: rosettasciio is not installed, several images, no real numbers, or too many.
    """
    suffix = path.suffix.lower()
    try:
        plugin = importlib.import_module(f"rsciio.{MICROSCOPY[suffix]}")
    except ImportError as error:
        raise PatternError(
            f"{path}: {path.suffix} files need rosettasciio: pip install '.[microscopy]'"
        ) from error
    if suffix in (".hspy", ".emd"):
        _check_hdf5(path)
    elif suffix == ".ser":
        _check_ser(path)
    with _no_pickles():
        if suffix == ".zspy":
            _check_zarr(path)
        return _from_signals(path, plugin.file_reader(str(path), lazy=True))


def _from_signals(path: Path, found: list[dict]) -> Image:
    signals = [s for s in found if np.ndim(s.get("data")) >= 2]
    if len(signals) != 1:
        raise PatternError(f"{path}: holds {len(signals)} images; save the one to be used")
    # The axes of a lazy signal stand in the order of its data.
    data, axes = signals[0]["data"], signals[0]["axes"][-2:]
    check_pixels(path, data.shape[-2:])
    check_pixels(path, data.shape, MAX_STACK)
    if data.dtype.kind not in "fiub":
        raise PatternError(f"{path}: pixels of type {data.dtype}; real numbers are needed")
    if path.suffix.lower() == ".ser":
        axes = [_si(axis) for axis in axes]
    pixels, notes = frames.average(data) if data.ndim > 2 else frames.single(np.asarray(data))
    if any((unit := parse_unit(axis.get("units"))) and unit.two_pi for axis in axes):
        notes = (*notes, "its unit is that of q with 2 pi; 2 pi is taken out")
    about = signals[0].get("metadata", {})
    for name in ("Acquisition_instrument", "TEM", "beam_energy"):
        about = about.get(name) if isinstance(about, dict) else None
    energy = float(about) if isinstance(about, int | float | np.number) else None
    scale, angle, centre = axes_say(axes, pixels.shape)
    return Image(pixels, scale, energy, tuple(f"{path}: {note}" for note in notes), angle, centre)


def axes_say(
    axes: list[dict], shape: tuple[int, ...]
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Scale (1/angstrom), angle (radians) and place of the beam, each (2,) along columns and rows.

    Args:
        axes: "scale", "offset" and "units" of the rows and of the columns.
        shape: (H, W).
    """
    found = []
    for kind in ("q", "angle"):
        steps = [axis_scale(a.get("scale", math.nan), a.get("units"), kind) for a in axes]
        found.append(None if None in steps else np.array(steps[::-1]))
    if all(x is None for x in found):
        return None, None, None
    offsets = [a.get("offset") for a in axes[::-1]]
    if not all(isinstance(x, int | float | np.number) for x in offsets):
        return *found, None
    origin = [-float(x) / float(a["scale"]) for x, a in zip(offsets, axes[::-1], strict=True)]
    return *found, beam_place(origin, shape)


def _si(axis: dict) -> dict:
    """An axis of a .ser file, taken for nm: its unit is 1/m where its pixels would be metres."""
    metres = 1e-9 * axis["scale"]
    return {"scale": metres, "units": "1/m", "offset": 0.0} if abs(metres) > 1 else axis


def _check_ser(path: Path) -> None:
    """Raise PatternError where a .ser file speaks of more than it holds.

    After the reference of TIA's format: Boothroyd's description of .ser files.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(34)
        version, kind = struct.unpack_from("<HI", head, 4)
        total, valid = struct.unpack_from("<II", head, 14)
        layout = "<QI" if version >= _SER_LONG else "<II"
        offsets, dimensions = struct.unpack_from(layout, head, 22)
        file.seek(22 + struct.calcsize(layout))
        for _ in range(min(dimensions, 9)):
            file.seek(24, 1)
            for _ in range(2):
                file.seek(struct.unpack("<I", file.read(4))[0], 1)
        file.seek(offsets)
        (first,) = struct.unpack("<Q" if version >= _SER_LONG else "<I",
                                 file.read(8 if version >= _SER_LONG else 4))  # fmt: skip
        file.seek(first + 40)
        number, width, height = struct.unpack("<HII", file.read(10))
    if kind != 0x4122 or dimensions > 8:
        raise PatternError(f"{path}: holds no images")
    check_pixels(path, (width, height))
    if valid != total:
        raise PatternError(f"{path}: {valid} of its {total} frames were taken; save those")
    if valid * (50 + width * height * _SER_TYPES.get(number, 16)) > size:
        raise PatternError(f"{path}: cut short, {valid} frames of {width} x {height} pixels")


@contextlib.contextmanager
def _no_pickles() -> Iterator[None]:
    """While the body runs, zarr cannot unpickle: what a .zspy file names as a codec is called."""
    try:
        from numcodecs.registry import codec_registry
    except ImportError:
        yield
        return
    kept = codec_registry.pop("pickle", None)
    try:
        yield
    finally:
        if kept is not None:
            codec_registry["pickle"] = kept


def _check_hdf5(path: Path) -> None:
    """Raise PatternError for arrays that lead to other files, or unpack to too much.

    rosettasciio reads the image piece by piece, and all else at once.
    """
    import h5py

    aside = 0

    # What is returned ends the visit: h5py does not bear exceptions here.
    def check_link(name: str, link: Any) -> str | None:
        # They may lead to other files, or round and round.
        return None if isinstance(link, h5py.HardLink) else f"{name} is a link"

    def check(name: str, item: Any) -> str | None:
        nonlocal aside
        if not isinstance(item, h5py.Dataset):
            return None
        if item.is_virtual or item.external:
            return f"{name} lies in another file"
        image = re.fullmatch("Experiments/[^/]+/data|Data/Image/[^/]+/Data", name)
        if not image and not (name.endswith("/data") and "emd_group_type" in item.parent.attrs):
            aside += item.nbytes
        return _too_much(name, item, aside)

    with h5py.File(path, "r") as file:
        wrong = file.visititems_links(check_link) or file.visititems(check)
    if wrong:
        raise PatternError(f"{path}: {wrong}")


def _check_zarr(path: Path) -> None:
    """The same for .zspy, a folder or a zip archive of pieces, and for chains of compressors."""
    import zarr

    if path.is_dir():
        inside = list(path.rglob("*"))
        if any(p.is_symlink() or not (p.is_file() or p.is_dir()) for p in inside):
            raise PatternError(f"{path}: holds links; everything must lie in the folder itself")
        store = str(path)
    else:
        store = zarr.storage.ZipStore(str(path), mode="r")
    aside = 0

    def check(name: str, item: Any) -> str | None:
        nonlocal aside
        if not hasattr(item, "chunks"):
            return None
        # Filters may unpack what was unpacked before; those of text are none.
        if any(one.codec_id not in _OF_TEXT for one in item.filters or ()):
            return f"{name} is filtered; save it without filters"
        if not re.fullmatch("Experiments/[^/]+/data", name):
            aside += item.nbytes
        return _too_much(name, item, aside)

    wrong = zarr.open_group(store, mode="r").visititems(check)
    if not isinstance(store, str):
        store.close()
    if wrong:
        raise PatternError(f"{path}: {wrong}")


def _too_much(name: str, item: Any, aside: int) -> str | None:
    """What is wrong with the size of an array of a file, or of all beside the image, so far."""
    if math.prod(map(int, item.shape or ())) > MAX_STACK:
        return f"{name} holds {item.shape} values; at most {MAX_STACK} are taken"
    if aside > MAX_ASIDE:
        return f"more than {MAX_ASIDE} bytes beside the image, in {name}"
    if math.prod(map(int, item.chunks or ())) * item.dtype.itemsize > 16 * MAX_PIXELS:
        return f"{name} is stored in pieces of {item.chunks}, which are too large"
    return None
