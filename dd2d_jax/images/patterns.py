"""Patterns from what users have: spot lists, images, arrays, hyperspy signals; and back to files.

Files come from strangers: nothing in them is executed or unpickled, and their size is limited
(`limits`) before they are read. Lengths of q in 1/angstrom, no 2 pi.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import diffraction as dx
from dd2d_jax.images import readers
from dd2d_jax.images.image import Image, checked_energy
from dd2d_jax.images.microscopy import axes_say
from dd2d_jax.images.spot_lists import TEXT, from_rows, read_list
from dd2d_jax.util.errors import Notice, PatternError
from dd2d_jax.util.files import new_file
from dd2d_jax.util.limits import MAX_PIXELS

if TYPE_CHECKING:
    from dd2d_jax.images.calibration import Calibration
    from dd2d_jax.images.measurement import Measured

_ACCEPTED = (
    "a spot list (.csv, .tsv, .txt, .dat, .json, .npy) or an image (.png, .jpg, .bmp, .tif, .npy; "
    + ", ".join(readers.MICROSCOPY)
    + ")"
)
# From this relative error on a scale need not be told.
UNKNOWN_SCALE = 0.5
# Share of the pixels that a mask leaves at least.
_EMPTY = 0.05
# What `read_pattern` takes, by the file's suffix.
SUFFIXES = (*TEXT, ".json", ".npy", *readers.PICTURES, *readers.MICROSCOPY)


def as_pattern(value: Any) -> dx.Pattern:
    """A single pattern from whatever stands for one.

    Args:
        value: a `dx.Pattern`, a path (see `read_pattern`), an array or list of (qx, qy, intensity)
            rows in 1/angstrom, or a calibrated hyperspy signal of one diffraction pattern.

    Raises:
        PatternError: what is wrong, and where, in one line.
        FileNotFoundError: no such file.
    """
    if isinstance(value, dx.Pattern):
        return value
    if isinstance(value, str | Path):
        return read_pattern(value)
    if hasattr(value, "axes_manager") and hasattr(value, "data"):
        return _from_signal(value)
    try:
        rows = np.asarray(value, float)
    except (TypeError, ValueError, OverflowError) as error:
        raise PatternError(
            "a pattern is a dx.Pattern, a path, (qx, qy, intensity) rows or a hyperspy signal; "
            f"got {type(value).__name__}"
        ) from error
    return from_rows(rows, "the array")


class Read(NamedTuple):
    """A pattern, the image that it was measured in if it was, and lines for the user."""

    pattern: dx.Pattern
    image: Measured | None
    notes: tuple[str, ...]


def read_pattern(
    path: str | Path,
    scale: float | None = None,
    centre: tuple[float, float] | None = None,
    calibration: Any = None,
    undistort: bool = False,
    energy: float | None = None,
    **finding: Any,
) -> dx.Pattern:
    """Read a pattern from a spot list or an image; what should be known of it is a warning.

    Spot lists: text with columns qx, qy, intensity (1/angstrom, or the unit that the header names;
    separated by commas, semicolons, tabs or blanks; h, k and sigma may follow; a header may be
    missing), JSON with "q" (K, 2), "intensity" (K,) and optionally "hk", "sigma", "unit" and
    "energy", the DD2D authors' JSON with "X" (pixels and log intensities), or .npy with (K, 3)
    rows. Images: PNG, JPEG, BMP, TIFF or .npy, and with the extra `microscopy` dm3, dm4, emd, mrc,
    blo, hspy, zspy, ser, tvips and mib; of a stack the mean is taken. See `measurement.measure`,
    which keeps every step.

    Args:
        path: the file.
        scale: 1/angstrom per pixel, of images, of lists in pixels and of "X"; refused for other
            lists. None takes the calibration's, or what the image's file says.
        centre: column and row of the central beam in pixels; None takes the file's, or the
            pattern's centre of symmetry.
        calibration: of an image, from `calibration.calibrate` or its JSON file.
        undistort: fit an image's ellipticity and radial distortion to the pattern's own lattice.
        energy: of the electrons, keV; None takes what the file says.
        finding: mask (also a file, see `read_mask`), width, threshold, max_radius, beam_stop and
            gamma as in `spot_finding.find_spots`.

    Raises:
        PatternError: what is wrong, with file and row or field, in one line.
        FileNotFoundError: no such file.
    """
    found = read(path, scale, centre, calibration, undistort, energy, **finding)
    for note in found.notes:
        warnings.warn(note, Notice, stacklevel=2)
    return found.pattern


def read(
    path: str | Path,
    scale: float | None = None,
    centre: tuple[float, float] | None = None,
    calibration: Calibration | str | Path | None = None,
    undistort: bool = False,
    energy: float | None = None,
    likely_scale: bool = False,
    **finding: Any,
) -> Read:
    """What `read_pattern` reads, the image that it was measured in, and what should be known.

    likely_scale: of an image, see `measurement.measure`.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; give {_ACCEPTED}")
    if scale is not None and not (np.isfinite(scale) and scale > 0):
        raise PatternError(f"scale must be positive, in 1/angstrom per pixel, got {scale}")
    checked_energy(energy)
    if is_image(path):
        # Imported where there is an image: it takes a second.
        from dd2d_jax.images.measurement import measure

        if isinstance(finding.get("mask"), str | Path):
            finding["mask"] = read_mask(finding["mask"])
        measured = measure(
            path, scale, centre, calibration, undistort, energy, likely_scale, **finding
        )
        return Read(measured.pattern, measured, measured.image.notes)
    if path.suffix.lower() not in (*TEXT, ".json", ".npy"):
        raise PatternError(f"{path}: the format is unknown; give {_ACCEPTED}")
    if calibration is not None or undistort or finding:
        raise PatternError(
            f"{path}: is a list of spots; calibration, undistort and options of spot finding are "
            "for images"
        )
    pattern, notes = read_list(path, scale, centre, energy)
    return Read(pattern, None, notes)


def read_mask(path: str | Path) -> np.ndarray:
    """A mask (H, W) from an image or a .npy, False where that is 0.

    Raises:
        PatternError: no image, or one that leaves hardly anything.
        FileNotFoundError: no such file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if not is_image(path):
        raise PatternError(
            f"{path}: a mask must be an image or .npy that is 0 where spots are ignored"
        )
    mask = readers.read_image(path).pixels != 0
    if mask.mean() < _EMPTY:
        raise PatternError(
            f"{path}: the mask leaves {100 * mask.mean():.2g} % of the pixels; 0 marks what is "
            "ignored: is it inverted?"
        )
    return mask


def is_image(path: str | Path) -> bool:
    """Whether a file is read as an image, by its suffix and for .npy by its shape.

    Raises:
        PatternError: a .npy that cannot be read.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".npy":
        shape = readers.open_npy(Path(path)).shape
        return len(shape) > 2 or len(shape) == 2 and shape[1] not in (3, 5)
    return suffix in readers.PICTURES or suffix in readers.MICROSCOPY


def write_pattern(pattern: dx.Pattern, path: str | Path) -> None:
    """Write a single pattern as .csv or .json, moved into place once it is whole.

    Raises:
        PatternError: a batch, or another suffix.
        OSError: the file cannot be written.
    """
    path = Path(path)
    data = pattern_dict(pattern)
    if path.suffix.lower() == ".json":
        text = json.dumps(data) + "\n"
    elif path.suffix.lower() == ".csv":
        columns = [*zip(*data["q"], strict=True), data["intensity"], *zip(*data["hk"], strict=True)]
        names = ["qx", "qy", "intensity", "h", "k"]
        if "sigma" in data:
            columns, names = [*columns, data["sigma"]], [*names, "sigma"]
        lines = [",".join(map(repr, row)) for row in zip(*columns, strict=True)]
        if "energy" in data:
            # Behind the spots: programs that know of no comments find the header first.
            lines.append(f"# energy: {data['energy']!r} keV")
        if "power_error" in data:
            lines.append(f"# power error: {data['power_error']!r}")
        text = "\n".join([",".join(names), *lines]) + "\n"
    else:
        raise PatternError(f"{path}: patterns are written as .csv or .json")
    with new_file(path) as part:
        part.write_text(text)


def pattern_dict(pattern: dx.Pattern) -> dict[str, Any]:
    """The spots of a single pattern as JSON: "q" (K, 2) in 1/angstrom, "intensity", "hk".

    "sigma" is there where the intensities' uncertainties are known, "energy" in keV, and
    "power_error" where they may be a power of counts.

    Raises:
        PatternError: a batch of patterns.
    """
    mask = np.asarray(pattern.mask, bool)
    if mask.ndim != 1:
        raise PatternError(f"a single pattern is needed, got a batch of shape {mask.shape}")
    # float(str()) of float32: the shortest digits that read back as the same number.
    data = {
        "q": [[float(str(x)) for x in row] for row in np.asarray(pattern.q)[mask]],
        "intensity": [float(str(x)) for x in np.asarray(pattern.intensity)[mask]],
        "hk": np.asarray(pattern.hk)[mask].astype(int).tolist(),
    }
    if pattern.sigma is not None:
        data["sigma"] = [float(str(x)) for x in np.asarray(pattern.sigma)[mask]]
    if pattern.energy is not None:
        data["energy"] = float(str(pattern.energy))
    if pattern.power_error is not None:
        data["power_error"] = float(str(pattern.power_error))
    return data


def _from_signal(signal: Any) -> dx.Pattern:
    """From a hyperspy signal, known by its axes_manager and data."""
    axes = tuple(signal.axes_manager.signal_axes)
    data = np.asarray(signal.data)
    if len(axes) != 2 or data.ndim != 2:
        raise PatternError(
            f"the signal has {len(axes)} signal axes and data of shape {data.shape}; give one 2D "
            "pattern (signal.inav[...] picks one)"
        )
    if data.size > MAX_PIXELS:
        raise PatternError(f"the signal has {data.size} pixels; at most {MAX_PIXELS} taken")
    about = [{n: getattr(axis, n, None) for n in ("scale", "offset", "units")} for axis in axes]
    scale, angle, origin = axes_say(about[::-1], data.shape)
    energy = None
    if hasattr(signal, "metadata"):
        energy = signal.metadata.get_item("Acquisition_instrument.TEM.beam_energy", default=None)
    image = Image(data.astype(float), scale, energy, (), angle, origin)
    if image.scale_at(energy) is None:
        axis = axes[0]
        raise PatternError(
            f"the signal is not calibrated: axis {getattr(axis, 'name', '')!s} has scale "
            f"{axis.scale} and units {axis.units!s}; 1/angstrom or 1/nm are needed, or mrad and "
            "the beam's energy"
        )
    from dd2d_jax.images.measurement import measure

    return measure(image).pattern
