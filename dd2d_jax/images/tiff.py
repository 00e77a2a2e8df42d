"""Diffraction images in TIFF files, with what microscopes and ImageJ put into their tags.

Files come from strangers: sizes are checked (`limits`) before anything is decoded.
"""

from __future__ import annotations

import lzma
import math
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from dd2d_jax.images import frames
from dd2d_jax.images.image import Image, beam_place, check_pixels
from dd2d_jax.images.units import axis_scale
from dd2d_jax.util.errors import PatternError
from dd2d_jax.util.limits import MAX_PIXELS, MAX_STACK

_OURS = re.compile(r"^([0-9.eE+-]+) 1/angstrom per pixel$")
# Gatan's tags, along columns and along rows.
_GATAN_UNITS, _GATAN_ORIGINS, _GATAN_SCALES = (65003, 65004), (65006, 65007), (65009, 65010)
# A page that is a smaller copy of another.
_REDUCED = 1
# Colours stand first or last; more are further images.
_COLOURS = 4


def read_tiff(path: Path) -> Image:
    """The image in a TIFF, or the mean of its pages.

    Raises:
        PatternError: images of several sizes, pixels that are no real numbers, or too many.
    """
    import tifffile

    with tifffile.TiffFile(path) as file:
        pages = [p for p in file.pages if not int(p.subfiletype or 0) & _REDUCED] or file.pages[:1]
        page = pages[0]
        if any(p.shape != page.shape or p.dtype != page.dtype for p in pages):
            raise PatternError(
                f"{path}: holds {len(pages)} images of different sizes; save the one to be used"
            )
        colours = math.prod(n for n in page.shape if n <= _COLOURS)
        check_pixels(path, (*page.shape, 1), MAX_PIXELS * min(colours, _COLOURS))
        check_pixels(path, (len(pages), *page.shape), MAX_STACK)
        if page.dtype is None or page.dtype.kind not in "fiub":
            raise PatternError(f"{path}: pixels of type {page.dtype}; real numbers are needed")
        for one in pages:
            _check_unpacked(path, file, one)
        stack = _imagej_stack(path, file, page)
        if stack is not None:
            pixels, notes = frames.average(stack)
        elif len(pages) > 1:
            pixels, notes = frames.average(_Pages(pages))
        else:
            pixels, notes = _single(page.asarray())
        if int(page.photometric) == 0:
            pixels = _limit(page.dtype, pixels) - pixels
            notes = (*notes, "the file says that 0 is white: its values are inverted")
        scale, angle, centre = _calibration(file, page, pixels.shape)
        energy = _energy(file)
    notes = tuple(f"{path}: {note}" for note in notes)
    return Image(pixels, scale, energy, notes, angle, centre)


def _single(pixels: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """The only page, grey (H, W) or in colours (H, W, C), and what to tell."""
    if pixels.ndim == 2:
        return frames.single(pixels)
    if pixels.ndim == 3 and pixels.shape[0] <= _COLOURS < pixels.shape[2]:
        # Programs that write arrays also store a few frames as if they were colours.
        if pixels.dtype != np.uint8:
            return frames.average(pixels)
        pixels = np.moveaxis(pixels, 0, 2)
    return pixels, ()


class _Pages:
    """Pages of one size as an array (n, H, W) that is read page by page."""

    def __init__(self, pages: list):
        self.pages = pages
        self.shape = (len(pages), *_grey(pages[0].asarray()).shape)

    def __getitem__(self, some: tuple | slice) -> Any:
        if some == ():
            return self
        return np.stack([_grey(page.asarray()) for page in self.pages[some]])


def _grey(pixels: np.ndarray) -> np.ndarray:
    """The mean of colours that stand last; without opacity."""
    if pixels.ndim == 3 and pixels.shape[2] in (2, 3, 4):
        return pixels[..., : 1 if pixels.shape[2] == 2 else 3].mean(-1)
    return pixels


def _limit(dtype: np.dtype, pixels: np.ndarray) -> float:
    return float(np.iinfo(dtype).max) if dtype.kind == "u" else float(np.nanmax(pixels))


def _imagej_stack(path: Path, file: Any, page: Any) -> np.ndarray | None:
    """Frames (n, H, W) that ImageJ put behind one page, without pages of their own."""
    count = (file.imagej_metadata or {}).get("images", 1)
    if len(file.pages) > 1 or not isinstance(count, int) or count < 2 or len(page.shape) != 2:
        return None
    size = math.prod(page.shape) * page.dtype.itemsize
    if int(page.compression) != 1 or not page.is_contiguous:
        return None
    if page.dataoffsets[0] + count * size > file.filehandle.size:
        raise PatternError(f"{path}: cut short, it says {count} images, which do not follow")
    check_pixels(path, (count, *page.shape), MAX_STACK)
    kind = page.dtype.newbyteorder(file.byteorder)
    return np.memmap(path, kind, "r", page.dataoffsets[0], (count, *page.shape))


def _check_unpacked(path: Path, file: Any, page: Any) -> None:
    """Raise PatternError where pieces of a TIFF are more than the file, or unpack to far more
    than the image needs.

    tifffile takes the memory that is asked for, and unpacks these kinds by itself to any size.
    """
    if max(page.databytecounts, default=0) > file.filehandle.size:
        raise PatternError(f"{path}: cut short, its pieces are larger than the file")
    kinds = {8: zlib.decompressobj, 32946: zlib.decompressobj, 34925: lzma.LZMADecompressor}
    begin = kinds.get(int(page.compression))
    if begin is None:
        return
    # The last strip, or tiles at the edges, may be filled up.
    left = 2**20 + 4 * math.prod(page.shape) * page.dtype.itemsize
    for place, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        file.filehandle.seek(place)
        unpacking = begin()
        left -= len(unpacking.decompress(file.filehandle.read(count), left))
        if left <= 0:
            raise PatternError(f"{path}: unpacks to far more than {page.shape} pixels")


def _calibration(
    file: Any, page: Any, shape: tuple[int, ...]
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Scale, angle and beam by `write_image`'s description, Gatan's tags or ImageJ's."""
    ours = _OURS.match(page.description.strip())
    if ours and float(ours[1]) > 0:
        return np.full(2, float(ours[1])), None, None
    units = [_tag(page, number) for number in _GATAN_UNITS]
    steps = [_number(_tag(page, number)) for number in _GATAN_SCALES]
    origins = [_number(_tag(page, number)) for number in _GATAN_ORIGINS]
    if None in units or None in steps:
        about = file.imagej_metadata or {}
        units = [about.get("unit", ""), about.get("yunit", about.get("unit", ""))]
        ratios = [_tag(page, name) or (0, 1) for name in ("XResolution", "YResolution")]
        steps = [below / above if above else math.nan for above, below in ratios]
        origins = [_number(about.get(name)) for name in ("xorigin", "yorigin")]
    found = []
    for kind in ("q", "angle"):
        each = [axis_scale(s, _text(u), kind) for s, u in zip(steps, units, strict=True)]
        found.append(None if None in each else np.array(each))
    if all(x is None for x in found) or None in origins:
        return *found, None
    # The origin stands in pixels, or as the first pixel's place.
    places = (origins, [-o / s for o, s in zip(origins, steps, strict=True)])
    inside = [place for one in places if (place := beam_place(one, shape)) is not None]
    return *found, inside[0] if len(inside) == 1 else None


def _energy(file: Any) -> float | None:
    """keV, of the metadata of FEI's and TVIPS' programs, which have it in V."""
    fei, tvips = file.fei_metadata or {}, file.tvips_metadata or {}
    beam = fei.get("Beam") if isinstance(fei, dict) else None
    volts = beam.get("HV") if isinstance(beam, dict) else None
    if volts is None and isinstance(tvips, dict):
        volts = tvips.get("TEMHighTension", tvips.get("HighTension"))
    volts = _number(volts)
    return None if volts is None else volts / 1000


def _tag(page: Any, name: int | str) -> Any:
    return page.tags[name].value if name in page.tags else None


def _text(value: Any) -> str:
    """Some programs write UTF-16."""
    if isinstance(value, bytes):
        value = value.decode("utf-16-le" if b"\0" in value.rstrip(b"\0") else "utf-8", "replace")
    elif isinstance(value, tuple) and all(isinstance(x, int) and 0 < x < 256 for x in value):
        value = bytes(value).decode("latin-1")
    return str(value).replace("\0", "").strip()


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
