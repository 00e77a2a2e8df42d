"""Diffraction images from files: their pixels, and what the file says of scale and energy.

PNG, JPEG, TIFF and NumPy; dm3, dm4, emd, mrc, blo, hspy and zspy through rosettasciio (extra
`microscopy`). Files come from strangers: nothing in them is executed or unpickled, and sizes are
checked before anything is decoded.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from dd2d_jax.files import new_file
from dd2d_jax.lattice import PatternError

MAX_PIXELS = 64_000_000
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
        PatternError: not such an image, more than one image, more than 64 million pixels, or
            rosettasciio is needed and not installed.
    """
    path = Path(path)
    suffix = path.suffix.lower()
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
        detail = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise PatternError(f"{path}: cannot be read as an image ({detail})") from error
    pixels = image.pixels
    if pixels.ndim == 3 and pixels.shape[2] in (2, 3, 4):
        pixels = pixels[..., : 1 if pixels.shape[2] == 2 else 3].mean(-1)
    if pixels.ndim != 2:
        raise PatternError(f"{path}: an image of shape {pixels.shape}; one single image is needed")
    return dataclasses.replace(image, pixels=pixels.astype(float))


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
        PatternError: not readable, not real numbers, or more than 64 million values.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        detail = str(error).splitlines()[0]
        raise PatternError(f"{path}: not a readable .npy array ({detail})") from error
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


def _check_pixels(path: Path, shape: tuple[int, ...]) -> None:
    if math.prod(float(n) for n in shape) > MAX_PIXELS:
        size = " x ".join(map(str, shape))
        raise PatternError(f"{path}: {size} pixels; at most {MAX_PIXELS // 10**6} million")


def _read_tiff(path: Path) -> Image:
    import tifffile

    with tifffile.TiffFile(path) as file:
        if len(file.pages) > 1:
            raise PatternError(f"{path}: holds {len(file.pages)} images; save the one to be used")
        page = file.pages[0]
        _check_pixels(path, page.shape[:2])
        pixels = page.asarray()
        scale = _tiff_scale(page, file.imagej_metadata or {})
    if pixels.dtype.kind not in "fiub":
        raise PatternError(f"{path}: pixels of type {pixels.dtype}; real numbers are needed")
    return Image(pixels, scale)


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
    try:
        plugin = importlib.import_module(f"rsciio.{MICROSCOPY[path.suffix.lower()]}")
    except ImportError as error:
        raise PatternError(
            f"{path}: {path.suffix} files need rosettasciio: pip install 'dd2d-jax[microscopy]'"
        ) from error
    signals = [s for s in plugin.file_reader(path, lazy=True) if np.ndim(s["data"]) >= 2]
    if len(signals) != 1:
        raise PatternError(f"{path}: holds {len(signals)} images; save the one to be used")
    data, axes = signals[0]["data"], signals[0]["axes"]
    _check_pixels(path, data.shape[-2:])
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
    instrument = signals[0].get("metadata", {}).get("Acquisition_instrument", {}).get("TEM", {})
    energy = instrument.get("beam_energy")
    return Image(np.asarray(data), scale, None if energy is None else float(energy), notes)
