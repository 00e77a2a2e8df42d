"""Patterns from what users have: spot lists, images, arrays, hyperspy signals; and back to files.

Files come from strangers: nothing in them is executed or unpickled, and their size is limited
(`limits`) before they are read. Lengths of q in 1/angstrom, no 2 pi.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

import diffraction as dx
from dd2d_jax.images import readers
from dd2d_jax.util.errors import PatternError
from dd2d_jax.util.files import new_file
from dd2d_jax.util.limits import MAX_LINE, MAX_PIXELS, MAX_SPOTS, MAX_TEXT, read_json, read_text

if TYPE_CHECKING:
    from dd2d_jax.images.calibration import Calibration
    from dd2d_jax.images.measurement import Measured

_FIELDS = ("qx", "qy", "intensity", "h", "k", "sigma")
_TEXT = (".csv", ".tsv", ".txt", ".dat")
_ACCEPTED = (
    "a spot list (.csv, .tsv, .txt, .dat, .json, .npy) or an image (.png, .jpg, .tif, .npy; "
    ".dm3, .dm4, .emd, .mrc, .blo, .hspy, .zspy)"
)
# What `read_pattern` takes, by the file's suffix.
SUFFIXES = (*_TEXT, ".json", ".npy", *readers.PICTURES, *readers.MICROSCOPY)
_COLUMNS = {
    "qx": "qx", "qy": "qy", "intensity": "intensity", "i": "intensity", "h": "h", "k": "k",
    "sigma": "sigma",
}  # fmt: skip


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
    return _from_rows(rows, "the array")


def read(
    path: str | Path,
    scale: float | None = None,
    centre: tuple[float, float] | None = None,
    calibration: Calibration | str | Path | None = None,
) -> tuple[dx.Pattern, Measured | None]:
    """A pattern as `read_pattern` reads it, and the image that it was measured in, if it was."""
    if Path(path).exists() and is_image(path):
        # Imported where there is an image: it takes a second.
        from dd2d_jax.images.measurement import measure

        measured = measure(path, scale, centre, calibration)
        return measured.pattern, measured
    return read_pattern(path, scale, centre, calibration), None


def read_pattern(
    path: str | Path,
    scale: float | None = None,
    centre: tuple[float, float] | None = None,
    calibration: Any = None,
    undistort: bool = False,
    **finding: Any,
) -> dx.Pattern:
    """Read a pattern from a spot list or an image.

    Spot lists: text with columns qx, qy, intensity (1/angstrom; comma or blank separated, with or
    without a header; h, k and sigma may follow), JSON with "q" (K, 2), "intensity" (K,) and
    optionally "hk" and "sigma", the DD2D authors' JSON with "X" (pixels and log intensities), or
    .npy with (K, 3) rows. Images: PNG, JPEG, TIFF or a 2D .npy, and with the extra `microscopy`
    dm3, dm4, emd, mrc, blo, hspy and zspy; see `measure.measure`, which keeps every step.

    Args:
        path: the file.
        scale: 1/angstrom per pixel, of images and "X"; refused for lists in 1/angstrom. None
            takes the calibration's, or what the image's file says.
        centre: column and row of the central beam in pixels; None takes the pattern's centre of
            symmetry.
        calibration: of an image, from `calibrate.calibrate` or its JSON file.
        undistort: fit an image's ellipticity and radial distortion to the pattern's own lattice.
        finding: mask, width, threshold, max_radius and beam_stop as in `image.find_spots`.

    Raises:
        PatternError: what is wrong, with file and row or field, in one line.
        FileNotFoundError: no such file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; give {_ACCEPTED}")
    if scale is not None and not (np.isfinite(scale) and scale > 0):
        raise PatternError(f"scale must be positive, in 1/angstrom per pixel, got {scale}")
    if is_image(path):
        from dd2d_jax.images.measurement import measure

        return measure(path, scale, centre, calibration, undistort, **finding).pattern
    if calibration is not None or undistort or finding:
        raise PatternError(
            f"{path}: a list of spots; calibration, undistort and how spots are found are for "
            "images"
        )
    suffix = path.suffix.lower()
    if suffix == ".json":
        return _from_json(path, scale, centre)
    if suffix == ".npy":
        _refuse_scale(path, scale)
        return _from_rows(np.array(readers.open_npy(path), float), str(path))
    if suffix in _TEXT:
        _refuse_scale(path, scale)
        rows, lines, fields = _read_text(path)
        return _from_rows(rows, str(path), lines, fields)
    raise PatternError(f"{path}: the format is unknown; give {_ACCEPTED}")


def is_image(path: str | Path) -> bool:
    """Whether a file is read as an image, by its suffix and for .npy by its shape.

    Raises:
        PatternError: a .npy that cannot be read.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".npy":
        shape = readers.open_npy(Path(path)).shape
        return len(shape) == 2 and shape[1] not in (3, 5)
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
        text = "\n".join([",".join(names), *lines]) + "\n"
    else:
        raise PatternError(f"{path}: patterns are written as .csv or .json")
    with new_file(path) as part:
        part.write_text(text)


def pattern_dict(pattern: dx.Pattern) -> dict[str, list]:
    """The spots of a single pattern as JSON: "q" (K, 2) in 1/angstrom, "intensity", "hk".

    "sigma" is there where the intensities' uncertainties are known.

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
    return data


def _from_rows(
    rows: np.ndarray,
    where: str,
    lines: list[int] | None = None,
    fields: Sequence[str] | None = None,
) -> dx.Pattern:
    """Rows (K, n) of `fields`: qx, qy, intensity, then h and k, sigma or all three, or neither.

    Without `fields` they are told by their number; `lines` names each row in its file.
    """
    if fields is None:
        fields = _FIELDS[: rows.shape[1]] if rows.ndim == 2 and rows.shape[1] in (3, 5) else ()
    if not fields:
        raise PatternError(
            f"{where}: has shape {rows.shape}; rows of qx, qy, intensity (K, 3) are needed"
        )
    if len(rows) == 0:
        raise PatternError(f"{where}: there is no spot in it")
    if len(rows) > MAX_SPOTS:
        raise PatternError(f"{where}: {len(rows)} spots; at most {MAX_SPOTS} are taken")

    def name(row: int) -> str:
        return f"row {row}" if lines is None else f"line {lines[row]}"

    for column, field in enumerate(fields):
        # Numbers that float32 cannot hold count as infinite.
        bad = ~(np.abs(rows[:, column]) < 3e38)
        if bad.any():
            row = int(np.argmax(bad))
            raise PatternError(
                f"{where}, {name(row)}: {field} is {rows[row, column]:g}, not a finite number"
            )
    if (rows[:, 2] < 0).any():
        row = int(np.argmax(rows[:, 2] < 0))
        raise PatternError(
            f"{where}, {name(row)}: intensity {rows[row, 2]:g} is negative; subtract less "
            "background"
        )
    hk, sigma = np.zeros((len(rows), 2)), None
    if "h" in fields:
        hk = rows[:, 3:5]
        if (np.abs(hk) > 1e4).any():
            raise PatternError(f"{where}: Miller indices h, k beyond 10000")
    if "sigma" in fields:
        sigma = rows[:, list(fields).index("sigma")]
        if (sigma < 0).any():
            row = int(np.argmax(sigma < 0))
            raise PatternError(f"{where}, {name(row)}: sigma {sigma[row]:g} is negative")
        sigma = jnp.asarray(sigma, jnp.float32)
    return dx.Pattern(
        jnp.asarray(rows[:, :2], jnp.float32),
        jnp.asarray(rows[:, 2], jnp.float32),
        jnp.asarray(hk, jnp.int32),
        jnp.ones(len(rows), bool),
        sigma,
    )


def _refuse_scale(path: Path, scale: float | None) -> None:
    if scale is not None:
        raise PatternError(
            f"{path}: a spot list in 1/angstrom takes no scale; scale is for images, per pixel"
        )


def _read_text(path: Path) -> tuple[np.ndarray, list[int], list[str]]:
    """Rows of a text table, the lines that they stand on and the columns' names."""
    rows, lines, order, names = [], [], None, list(_FIELDS[:3])
    for number, line in enumerate(read_text(path, MAX_TEXT, PatternError).splitlines(), 1):
        if len(line) > MAX_LINE:
            raise PatternError(
                f"{path}, line {number}: {len(line)} characters; at most {MAX_LINE} are taken"
            )
        line = line.split("#")[0].strip().strip(",;")
        if not line:
            continue
        fields = re.split(r"\s*[,;]\s*|\s+", line)
        if not rows and order is None:
            place = _header(line, path, number)
            if place is not None:
                names, order = list(place), list(place.values())
                continue
            order = list(range(len(fields)))
            names = list(_FIELDS[: len(order)])
        try:
            values = [float(x) for x in fields]
        except ValueError:
            raise PatternError(f"{path}, line {number}: {line[:60]!r} is not numbers") from None
        # Without a header four columns could be anything.
        if max(order) >= len(values) or len(names) not in (3, 5) and "sigma" not in names:
            raise PatternError(
                f"{path}, line {number}: {len(values)} columns; qx, qy, intensity are needed"
            )
        rows.append([values[i] for i in order])
        lines.append(number)
        if len(rows) > MAX_SPOTS:
            raise PatternError(f"{path}: more than {MAX_SPOTS} rows")
    return np.array(rows, float).reshape(len(rows), len(names)), lines, names


def _header(line: str, path: Path, number: int) -> dict[str, int] | None:
    """Columns by their names in a header, None where the line is numbers."""
    # Units in brackets are words of their own.
    plain = re.sub(r"\([^)]*\)|\[[^\]]*\]", "", line).lower().replace('"', "").strip()
    fields = re.split(r"\s*[,;]\s*|\s+", plain)
    if _is_number(fields[0]):
        return None
    place = {_COLUMNS[f]: i for i, f in reversed(list(enumerate(fields))) if f in _COLUMNS}
    missing = [f for f in ("qx", "qy", "intensity") if f not in place]
    if missing:
        raise PatternError(
            f"{path}, line {number}: the header has no column {missing[0]!r}; qx, qy and "
            "intensity are needed"
        )
    whole = "h" in place and "k" in place
    return {f: place[f] for f in _FIELDS if f in place and (whole or f not in ("h", "k"))}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _from_json(path: Path, scale: float | None, centre: tuple[float, float] | None) -> dx.Pattern:
    data = read_json(path, MAX_TEXT, PatternError)
    if isinstance(data, dict) and "q" in data and "intensity" in data:
        _refuse_scale(path, scale)
        q = _numbers(data["q"], 2, path, "q")
        intensity = _numbers(data["intensity"], 1, path, "intensity")
        columns, fields = [q, intensity[:, None]], list(_FIELDS[:3])
        if data.get("hk"):
            columns.append(_numbers(data["hk"], 2, path, "hk"))
            fields += ["h", "k"]
        if data.get("sigma"):
            columns.append(_numbers(data["sigma"], 1, path, "sigma")[:, None])
            fields.append("sigma")
        if len({len(c) for c in columns}) > 1 or sum(c.shape[1] for c in columns) != len(fields):
            raise PatternError(
                f"{path}: q must be (K, 2), intensity and sigma (K,) and hk (K, 2) of one length "
                "K; got " + ", ".join(str(c.shape) for c in columns)
            )
        return _from_rows(np.concatenate(columns, 1), str(path), None, fields)
    if isinstance(data, dict) and "X" in data:
        return _from_pixels(_numbers(data["X"], 2, path, "X"), path, scale, centre)
    raise PatternError(f'{path}: a JSON pattern has "q" and "intensity", or "X" (DD2D data sets)')


def _numbers(value: Any, dimensions: int, path: Path, field: str) -> np.ndarray:
    try:
        array = np.asarray(value, float)
    except (TypeError, ValueError, OverflowError):  # whole numbers may be of any size
        array = None
    if array is not None and array.size == 0:
        raise PatternError(f"{path}: {field} is empty, there is no spot in it")
    if array is None or array.ndim != dimensions:
        raise PatternError(f"{path}: {field} must be a {dimensions}-dimensional list of numbers")
    return array


def _from_pixels(
    x: np.ndarray, path: Path, scale: float | None, centre: tuple[float, float] | None
) -> dx.Pattern:
    """The DD2D authors' spots (3, K): pixel x, pixel y, natural logarithm of the intensity."""
    if len(x) != 3:
        raise PatternError(f"{path}: X has {len(x)} rows; pixel x, pixel y, log intensity needed")
    if scale is None:
        raise PatternError(
            f"{path}: X is in pixels; give scale in 1/angstrom per pixel (0.025 in DD2D data)"
        )
    if x.shape[1] > MAX_SPOTS:
        raise PatternError(f"{path}: {x.shape[1]} spots; at most {MAX_SPOTS} are taken")
    bad = ~np.isfinite(x).all(0)
    if bad.any():
        raise PatternError(f"{path}: X, column {int(np.argmax(bad))} is not finite numbers")
    from dd2d_jax.images.centre import points_centre

    middle = points_centre(x[:2].T) if centre is None else np.asarray(centre, float)
    # Pixels are whole numbers, so the central beam may stand one off its place.
    outer = np.linalg.norm(x[:2].T - middle, axis=1) > 1.5
    if not outer.any():
        raise PatternError(f"{path}: X holds no spot beside the central beam")
    x = x[:, outer]
    rows = np.c_[(x[:2].T - middle) * scale, np.exp(x[2] - x[2].max())]
    return _from_rows(rows, str(path))


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
    scale = []
    for axis in axes:
        scale.append(readers.axis_scale(axis.scale, axis.units))
        if scale[-1] is None:
            raise PatternError(
                f"the signal is not calibrated: axis {getattr(axis, 'name', '')!s} has scale "
                f"{axis.scale} and units {axis.units!s}; 1/angstrom or 1/nm are needed"
            )
    # Where the origin of q lies inside, the calibration names the centre.
    origin = np.array([-float(axis.offset) / float(axis.scale) for axis in axes])
    inside = ((origin > 1) & (origin < np.array(data.shape[::-1]) - 2)).all()
    from dd2d_jax.images.measurement import measure

    image = readers.Image(data.astype(float), np.array(scale))
    return measure(image, centre=tuple(origin) if inside else None).pattern
