"""Diffraction images from files: their pixels, and what the file says of scale and energy.

PNG, JPEG, BMP, TIFF and NumPy; dm3, dm4, emd, mrc, blo, hspy, zspy, ser, tvips and mib through
rosettasciio (extra `microscopy`). Files come from strangers: nothing in them is executed or
unpickled, and sizes are checked (`limits`) before anything is decoded.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from dd2d_jax.images import frames, page
from dd2d_jax.images.colours import grey
from dd2d_jax.images.image import HIGHEST_ENERGY, Image, check_pixels
from dd2d_jax.images.microscopy import MICROSCOPY, read_microscopy
from dd2d_jax.images.tiff import read_tiff
from dd2d_jax.util.errors import PatternError
from dd2d_jax.util.files import new_file
from dd2d_jax.util.limits import MAX_PIXELS, MAX_STACK, first_line

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


def read_image(path: str | Path) -> Image:
    """An image from a file; of colours see `colours.grey`; the patterns of a stack are averaged.

    Raises:
        PatternError: not such an image, more than one image, one that is too large (`limits`), or
            rosettasciio is needed and not installed.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if not path.is_file() and not (suffix == ".zspy" and path.is_dir()):
        raise PatternError(f"{path}: not a regular file")
    try:
        if suffix in (".tif", ".tiff"):
            image = read_tiff(path)
        elif suffix in MICROSCOPY:
            image = read_microscopy(path)
        elif suffix == ".npy":
            image = _read_npy(path)
        else:
            image = Image(_read_picture(path))
    except PatternError:
        raise
    except Exception as error:  # the decoders raise anything, also struct.error and SyntaxError
        raise PatternError(f"{path}: cannot be read as an image ({first_line(error)})") from error
    pixels = image.pixels
    notes = image.notes
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        pixels = pixels[..., :-1]  # how opaque they are
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    pixels, more = _of_figure(pixels)
    notes = (*notes, *(f"{path}: {note}" for note in more))
    if pixels.ndim != 2:
        raise PatternError(f"{path}: an image of shape {pixels.shape}; one single image is needed")
    energy = _sound(image.energy)
    if energy is not None and HIGHEST_ENERGY < energy <= 1000 * HIGHEST_ENERGY:
        notes = (*notes, f"{path}: says {energy:g} keV; {energy / 1000:g} keV is taken")
        energy /= 1000
    return dataclasses.replace(
        image,
        pixels=pixels.astype(float),
        scale=_sound(image.scale),
        energy=energy,
        notes=notes,
        angle=_sound(image.angle),
    )


def _of_figure(pixels: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Levels of grey or of false colours, NaN around the picture of a figure, and what was done."""
    colour = pixels.ndim == 3 and pixels.shape[2] == 3
    if not colour and (pixels.ndim != 2 or pixels.dtype != np.uint8):
        return pixels, []
    part = page.picture(pixels) if pixels.dtype == np.uint8 else None
    levels = pixels if part is None else pixels[part]
    levels, note = grey(levels) if colour else (levels, "")
    notes = [note] if note else []
    if part is None:
        return levels, notes
    out = np.full(pixels.shape[:2], np.nan)
    out[part] = levels
    rows, columns = levels.shape
    return out, [f"the picture in a figure was used, {columns} x {rows} pixels", *notes]


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


def _read_npy(path: Path) -> Image:
    array = open_npy(path)
    if array.ndim == 2:
        pixels, notes = frames.single(np.array(array))
    elif array.ndim < 2 or array.ndim == 3 and array.shape[2] <= 4:
        check_pixels(path, array.shape, 4 * MAX_PIXELS)
        pixels, notes = array, ()
    else:
        check_pixels(path, array.shape[-2:])
        pixels, notes = frames.average(array)
    return Image(pixels, notes=tuple(f"{path}: {note}" for note in notes))


def open_npy(path: Path) -> np.ndarray:
    """A real array in a .npy file, mapped: nothing but its header is read yet.

    Raises:
        PatternError: not readable, not real numbers, or more than `limits.MAX_STACK` values.
    """
    if not path.is_file():
        raise PatternError(f"{path}: not a regular file")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # damaged headers raise tokenizing errors, too
        raise PatternError(f"{path}: not a readable .npy array ({first_line(error)})") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise PatternError(f"{path}: an archive of arrays; one .npy array is needed")
    if array.dtype.kind not in "fiub":
        raise PatternError(f"{path}: holds {array.dtype}, real numbers are needed")
    most = MAX_PIXELS if array.ndim < 3 else MAX_STACK
    if array.size > most:
        raise PatternError(f"{path}: {array.size} values; at most {most} are taken")
    return array


def _read_picture(path: Path) -> np.ndarray:
    from PIL import Image as Picture

    with Picture.open(path, formats=("PNG", "JPEG", "BMP")) as picture:
        check_pixels(path, picture.size)
        if picture.mode == "P" or picture.mode == "CMYK":
            picture = picture.convert("RGB")
        return np.asarray(picture)
