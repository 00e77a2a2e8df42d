"""Diffraction images from files: their pixels, and what the file says of scale and energy.

PNG, JPEG, TIFF and NumPy; dm3, dm4, emd, mrc, blo, hspy and zspy through rosettasciio (extra
`microscopy`). Files come from strangers: nothing in them is executed or unpickled, and sizes are
checked (`limits`) before anything is decoded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import lzma
import math
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dd2d_jax.util.errors import PatternError
from dd2d_jax.util.files import new_file
from dd2d_jax.util.limits import MAX_ASIDE, MAX_PIXELS, MAX_STACK, first_line

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
# Suffixes of what rosettasciio reads, by the name of its plugin.
MICROSCOPY = {
    ".dm3": "digitalmicrograph", ".dm4": "digitalmicrograph", ".emd": "emd", ".mrc": "mrc",
    ".blo": "blockfile", ".hspy": "hspy", ".zspy": "zspy",
}  # fmt: skip
# 1/angstrom in one unit, by the unit's name without blanks, brackets and carets.
_PER_ANGSTROM = {
    "1/å": 1.0, "å-1": 1.0, "1/a": 1.0, "a-1": 1.0, "1/angstrom": 1.0, "angstrom-1": 1.0,
    "1/nm": 0.1, "nm-1": 0.1, "1/pm": 100.0, "pm-1": 100.0,
}  # fmt: skip
# How zarr stores text.
_OF_TEXT = ("vlen-utf8", "vlen-bytes", "vlen-array", "msgpack2")
_OURS = re.compile(r"^([0-9.eE+-]+) 1/angstrom per pixel$")


@dataclasses.dataclass(frozen=True)
class Image:
    """A diffraction image as its file has it.

    Attributes:
        pixels: (H, W) counts or grey levels; NaN where the file has none.
        scale: (2,) 1/angstrom per column and per row; None where the file does not say.
        energy: of the beam, keV; None where the file does not say.
        notes: lines that the user should read, such as that a stack was averaged.
    """

    pixels: np.ndarray
    scale: np.ndarray | None = None
    energy: float | None = None
    notes: tuple[str, ...] = ()


def read_image(path: str | Path) -> Image:
    """An image from a file; colours are averaged, and so are the patterns of a stack.

    Raises:
        PatternError: not such an image, more than one image, one that is too large (`limits`), or
            rosettasciio is needed and not installed.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if not path.is_file() and not (suffix == ".zspy" and path.is_dir()):
        raise PatternError(f"{path}: no regular file")
    try:
        if suffix in (".tif", ".tiff"):
            image = _read_tiff(path)
        elif suffix in MICROSCOPY:
            image = _read_microscopy(path)
        elif suffix == ".npy":
            image = Image(np.array(open_npy(path), float))
        else:
            image = Image(_read_picture(path))
    except PatternError:
        raise
    except Exception as error:  # the decoders raise anything, also struct.error and SyntaxError
        raise PatternError(f"{path}: cannot be read as an image ({first_line(error)})") from error
    pixels = image.pixels
    if pixels.ndim == 3 and pixels.shape[2] in (2, 3, 4):
        pixels = pixels[..., : 1 if pixels.shape[2] == 2 else 3].mean(-1)
    if pixels.ndim != 2:
        raise PatternError(f"{path}: an image of shape {pixels.shape}; one single image is needed")
    return Image(pixels.astype(float), _sound(image.scale), _sound(image.energy), image.notes)


def _sound(value: Any) -> Any:
    """None where a file says what no scale and no energy can be."""
    sound = value is not None and bool(np.all((np.asarray(value) > 1e-12) & (value < 1e12)))
    return value if sound else None


def write_image(image: np.ndarray, path: str | Path, scale: float) -> None:
    """Write an image (H, W) as .tif or .npy, moved into place once it is whole.

    `scale`, 1/angstrom per pixel, is kept in the description of a .tif.

    Raises:
        OSError: the file cannot be written.
    """
    import tifffile

    path = Path(path)
    with new_file(path) as part:
        if path.suffix.lower() == ".npy":
            np.save(part, image, allow_pickle=False)
        else:
            tifffile.imwrite(part, image, description=f"{scale:g} 1/angstrom per pixel")


def open_npy(path: Path) -> np.ndarray:
    """A real array in a .npy file, mapped: nothing but its header is read yet.

    Raises:
        PatternError: not readable, not real numbers, or more than `limits.MAX_PIXELS` values.
    """
    if not path.is_file():
        raise PatternError(f"{path}: no regular file")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # damaged headers raise tokenizing errors, too
        raise PatternError(f"{path}: not a readable .npy array ({first_line(error)})") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise PatternError(f"{path}: an archive of arrays; one .npy array is needed")
    if array.dtype.kind not in "fiub":
        raise PatternError(f"{path}: holds {array.dtype}, real numbers are needed")
    if array.size > MAX_PIXELS:
        raise PatternError(f"{path}: {array.size} values; at most {MAX_PIXELS} are taken")
    return array


def axis_scale(step: Any, units: Any) -> float | None:
    """1/angstrom per pixel of an axis, None where its units are not those of 1/length."""
    unit = re.sub(r"[\s^${}()\\]", "", str(units)).replace("⁻¹", "-1")
    unit = unit.replace("\u212b", "å").lower()  # the sign for angstrom, not the letter
    factor = _PER_ANGSTROM.get(unit)
    if factor is None or not (math.isfinite(step) and step != 0):
        return None
    return abs(float(step)) * factor


def _check_pixels(path: Path, shape: tuple[int, ...], most: int = MAX_PIXELS) -> None:
    if math.prod(map(int, shape)) > most:
        size = " x ".join(map(str, shape))
        raise PatternError(f"{path}: {size} pixels; at most {most} are taken")


def _read_tiff(path: Path) -> Image:
    import tifffile

    with tifffile.TiffFile(path) as file:
        if len(file.pages) > 1:
            raise PatternError(f"{path}: holds {len(file.pages)} images; save the one to be used")
        page = file.pages[0]
        # Colours stand first or last; more than four, or further axes, are no image of ours.
        colours = math.prod(n for n in page.shape if n <= 4)
        _check_pixels(path, (*page.shape, 1), MAX_PIXELS * min(colours, 4))
        if page.dtype is None or page.dtype.kind not in "fiub":
            raise PatternError(f"{path}: pixels of type {page.dtype}; real numbers are needed")
        _check_unpacked(path, file, page)
        pixels = page.asarray()
        scale = _tiff_scale(page, file.imagej_metadata or {})
    return Image(pixels, scale)


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


def _tiff_scale(page: Any, imagej: dict) -> np.ndarray | None:
    """By the description that `write_image` leaves, or by ImageJ's unit and resolution."""
    ours = _OURS.match(page.description.strip())
    if ours and float(ours[1]) > 0:
        return np.full(2, float(ours[1]))
    steps = []
    for name in ("XResolution", "YResolution"):
        above, below = page.tags[name].value if name in page.tags else (0, 1)
        steps.append(axis_scale(below / above if above else math.nan, imagej.get("unit", "")))
    return None if None in steps else np.array(steps)


def _read_picture(path: Path) -> np.ndarray:
    from PIL import Image as Picture

    with Picture.open(path, formats=("PNG", "JPEG")) as picture:
        _check_pixels(path, picture.size)
        if picture.mode == "P" or picture.mode == "CMYK":
            picture = picture.convert("RGB")
        return np.asarray(picture)


def _read_microscopy(path: Path) -> Image:
    suffix = path.suffix.lower()
    try:
        plugin = importlib.import_module(f"rsciio.{MICROSCOPY[suffix]}")
    except ImportError as error:
        raise PatternError(
            f"{path}: {path.suffix} files need rosettasciio: pip install 'dd2d-jax[microscopy]'"
        ) from error
    if suffix in (".hspy", ".emd"):
        _check_hdf5(path)
    with _no_pickles():
        if suffix == ".zspy":
            _check_zarr(path)
        return _from_signals(path, plugin.file_reader(str(path), lazy=True))


def _from_signals(path: Path, found: list[dict]) -> Image:
    signals = [s for s in found if np.ndim(s.get("data")) >= 2]
    if len(signals) != 1:
        raise PatternError(f"{path}: holds {len(signals)} images; save the one to be used")
    data, axes = signals[0]["data"], signals[0]["axes"]
    _check_pixels(path, data.shape[-2:])
    _check_pixels(path, data.shape, MAX_STACK)
    if data.dtype.kind not in "fiub":
        raise PatternError(f"{path}: pixels of type {data.dtype}; real numbers are needed")
    notes = ()
    if data.ndim > 2:
        size = " x ".join(map(str, data.shape[:-2]))
        notes = (f"{path}: the mean of {size} patterns is taken",)
        data = data.mean(tuple(range(data.ndim - 2)), dtype=float)
    # The axes of a lazy signal stand in the order of its data.
    steps = [axis_scale(axis.get("scale", math.nan), axis.get("units")) for axis in axes[-2:]]
    scale = None if None in steps else np.array(steps[::-1])
    about = signals[0].get("metadata", {})
    for name in ("Acquisition_instrument", "TEM", "beam_energy"):
        about = about.get(name) if isinstance(about, dict) else None
    energy = float(about) if isinstance(about, int | float | np.number) else None
    return Image(np.asarray(data), scale, energy, notes)


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
