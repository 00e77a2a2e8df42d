"""Lists of spots from files: text tables, JSON, and what they say of units and energy.

Files come from strangers: their size is limited (`limits`) before they are read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import diffraction as dx
from dd2d_jax.images import readers
from dd2d_jax.images.image import checked_energy
from dd2d_jax.images.units import Unit, parse_unit
from dd2d_jax.util.errors import PatternError
from dd2d_jax.util.limits import MAX_LINE, MAX_SPOTS, MAX_TEXT, read_json, read_text
from dd2d_jax.util.text import printable

TEXT = (".csv", ".tsv", ".txt", ".dat")
FIELDS = ("qx", "qy", "intensity", "h", "k", "sigma")
_COLUMNS = {
    **dict.fromkeys(("qx", "q_x", "kx", "k_x", "gx", "g_x", "x"), "qx"),
    **dict.fromkeys(("qy", "q_y", "ky", "k_y", "gy", "g_y", "y"), "qy"),
    **dict.fromkeys(("intensity", "intensities", "i", "int", "counts"), "intensity"),
    "h": "h", "k": "k", "sigma": "sigma",
}  # fmt: skip
# A number whose decimals may stand behind a comma.
_NUMBER = re.compile(r"[-+]?(\d+([.,]\d*)?|[.,]\d+)([eE][-+]?\d+)?")
_ENERGY = re.compile(
    r"(?:energy|voltage|tension)\W{1,9}(?:of )?([\d.]{1,20}) ?(keV|kV|eV|V)\b", re.I
)
_POWER_ERROR = re.compile(r"power error: ([\d.e-]{1,20})", re.I)
_WITH_TWO_PI = re.compile(
    r"2 ?[*·]? ?(pi|π) ?/ ?(d\b|\|?d_?hkl)|4 ?[*·]? ?(pi|π) ?[*·]? ?sin", re.I
)
# Farther out than the first no pattern of electrons has spots; usual ones reach less far than the
# second, their innermost spot lies within the third, and their outermost beyond the last.
_NEVER, _HARDLY, _INNERMOST, _NEAR = 25.0, 6.0, 0.9, 0.12


class Table(NamedTuple):
    """A list as its file has it: rows (K, n) of `fields`, the lines they stand on, and the rest."""

    rows: np.ndarray
    lines: list[int] | None
    fields: list[str]
    unit: Unit | None = None
    energy: float | None = None
    notes: tuple[str, ...] = ()
    power_error: float | None = None


def read_list(
    path: Path, scale: float | None, centre: tuple[float, float] | None, energy: float | None = None
) -> tuple[dx.Pattern, tuple[str, ...]]:
    """A list of spots with q in 1/angstrom, and lines that the user should read.

    Args:
        path: .csv, .tsv, .txt, .dat, .json or .npy.
        scale: 1/angstrom per pixel, for lists in pixels only.
        centre: of lists in pixels, column and row; None takes the spots' centre of inversion.
        energy: keV; None takes what the file says.

    Raises:
        PatternError: what is wrong, with file and row or field.
    """
    suffix = path.suffix.lower()
    if suffix == ".json":
        data = read_json(path, MAX_TEXT, PatternError)
        if isinstance(data, dict) and "X" in data and "q" not in data:
            return _from_pixels(_numbers(data["X"], 2, path, "X"), path, scale, centre), ()
        table = _json_table(data, path)
    elif suffix == ".npy":
        table = Table(np.array(readers.open_npy(path), float), None, [])
    else:
        table = _text_table(path)
    if energy is None and table.energy is not None:
        try:
            energy = checked_energy(table.energy)
        except PatternError as error:
            raise PatternError(f"{path}: {error}") from error
    rows, notes = _in_angstrom(table, path, scale, centre, energy)
    pattern = from_rows(
        rows, str(path), table.lines, table.fields or None, energy, table.power_error
    )
    if table.unit is None or table.unit.kind == "q":
        notes = (*notes, *_check_reach(pattern, path))
    return pattern, (*table.notes, *notes)


def _in_angstrom(
    table: Table,
    path: Path,
    scale: float | None,
    centre: tuple[float, float] | None,
    energy: float | None,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Rows with q in 1/angstrom, and what was done for that."""
    unit, rows = table.unit, table.rows.copy()
    if unit is not None and unit.kind == "pixel":
        if scale is None:
            raise PatternError(f"{path}: is in pixels; give scale (--scale), 1/angstrom per pixel")
        from dd2d_jax.images.centre import points_centre

        middle = points_centre(rows[:, :2]) if centre is None else np.asarray(centre, float)
        rows[:, :2] = (rows[:, :2] - middle) * [scale, -scale]
        return rows[np.linalg.norm(rows[:, :2], axis=1) > 1.5 * scale], ()
    if scale is not None:
        raise PatternError(
            f"{path}: a spot list in 1/angstrom takes no scale; scale is for images and for lists "
            "in pixels, whose header says x (px), y (px)"
        )
    if unit is None or unit == Unit("q", 1.0):
        return rows, ()
    if unit.kind == "angle":
        if energy is None:
            raise PatternError(f"{path}: is in angles; give energy (--energy), keV")
        rows[:, :2] *= unit.factor / float(dx.Electrons(energy).wavelength)
        return rows, (f"{path}: angles are converted to 1/angstrom at {energy:g} keV",)
    rows[:, :2] *= unit.factor
    how = "q with 2 pi is" if unit.two_pi else "q is"
    return rows, (f"{path}: {how} converted to 1/angstrom without 2 pi, times {unit.factor:.4g}",)


def _check_reach(pattern: dx.Pattern, path: Path) -> tuple[str, ...]:
    """Lines about q that is far too large, or too small, to be 1/angstrom.

    Raises:
        PatternError: larger than in any pattern of electrons.
    """
    length = np.linalg.norm(np.asarray(pattern.q, float), axis=-1)
    reach = float(length.max())
    if reach == 0:
        return ()
    inner = float(length[length > 0.02 * reach].min())
    others = f"1/nm (then {reach / 10:.3g} 1/A) or with 2 pi (then {reach / 2 / math.pi:.3g} 1/A)"
    if reach > _NEVER:
        raise PatternError(
            f"{path}: q reaches {reach:.4g} 1/angstrom, farther than any electron pattern; is it "
            f"in pixels, in {others}? Name the unit in the header: qx (1/nm), qx (rad/A), qx (px)"
        )
    if reach > _HARDLY or inner > _INNERMOST:
        return (
            f"{path}: q lies between {inner:.3g} and {reach:.3g} 1/angstrom, spacings of "
            f"{1 / inner:.3g} to {1 / reach:.3g} A; is it in {others}?",
        )
    if reach < _NEAR:
        return (f"{path}: q reaches {reach:.3g} 1/angstrom only; is it in another unit?",)
    return ()


def _text_table(path: Path) -> Table:
    """A text table with or without a header; # begins a comment."""
    rows, lines, comments, header = [], [], [], None
    for number, line in enumerate(read_text(path, MAX_TEXT, PatternError).splitlines(), 1):
        if len(line) > MAX_LINE:
            raise PatternError(
                f"{path}, line {number}: {len(line)} characters; at most {MAX_LINE} are taken"
            )
        line, _, comment = line.partition("#")
        if comment.strip() and len(comments) < 100:
            comments.append(comment[:200])
        line = line.strip().strip(",;")
        if not line:
            continue
        if not rows and header is None and not _is_number(_split(line)[0].strip("\"'")):
            header = _Header.parse(line, path, number)
            continue
        fields = _split(line)
        header = header or _Header.bare(len(fields))
        try:
            values = [float(x) for x in fields]
        except ValueError:
            where = f"{path}, line {number}"
            raise PatternError(f"{where}: {line[:60]!r} does not consist of numbers") from None
        # Without a header four columns could be anything.
        few = len(header.names) not in (3, 5) and "sigma" not in header.names
        if max(header.order) >= len(values) or few:
            raise PatternError(
                f"{path}, line {number}: {len(values)} columns; qx, qy, intensity are needed"
            )
        rows.append([values[i] for i in header.order])
        lines.append(number)
        if len(rows) > MAX_SPOTS:
            raise PatternError(f"{path}: more than {MAX_SPOTS} rows")
    header = header or _Header.bare(3)
    unit, notes = header.unit, header.notes
    if unit is None:
        unit = _unit_of(comments)
    array = np.array(rows, float).reshape(len(rows), len(header.names))
    notes = tuple(f"{path}: {note}" for note in notes)
    power_error = _power_error_of(comments, path)
    return Table(array, lines, header.names, unit, _energy_of(comments), notes, power_error)


def _split(line: str) -> list[str]:
    """The fields of a line; decimal commas become points where commas do not separate."""
    fields = re.split(r"\s*;\s*|\s+", line)
    if len(fields) >= 3 and all(_NUMBER.fullmatch(x) for x in fields):
        return [x.replace(",", ".") for x in fields]
    return re.split(r"\s*[,;]\s*|\s+", line)


class _Header(NamedTuple):
    """Names of the columns, where each stands, and the unit of q."""

    names: list[str]
    order: list[int]
    unit: Unit | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def bare(cls, count: int) -> _Header:
        return cls(list(FIELDS[:count]), list(range(min(count, len(FIELDS)))))

    @classmethod
    def parse(cls, line: str, path: Path, number: int) -> _Header:
        """Columns by their names; units stand in brackets or behind a slash."""
        units = []

        def put_aside(found: re.Match) -> str:
            units.append(found[1])
            return f"\0{len(units) - 1}"

        plain = re.sub(r"\s*[(\[]([^()\[\]]*)[)\]]", put_aside, re.sub("[\"']", "", line))
        place, given = {}, {}
        separated = re.search(r"[,;\t]", plain)
        for i, field in enumerate(
            re.split(r"\s*[,;\t]\s*" if separated else r"\s+", plain.strip())
        ):
            name, _, aside = field.partition("\0")
            unit = units[int(aside)] if aside.isdecimal() else ""
            if "/" in name and not unit:
                name, _, unit = name.partition("/")
            column = _COLUMNS.get(name.strip().lower())
            if column is not None and column not in place:
                place[column], given[column] = i, (name.strip().lower(), unit.strip())
        missing = [f for f in ("qx", "qy", "intensity") if f not in place]
        if missing:
            raise PatternError(
                f"{path}, line {number}: the header has no column {missing[0]!r}; qx, qy and "
                "intensity are needed"
            )
        whole = "h" in place and "k" in place
        names = [f for f in FIELDS if f in place and (whole or f not in ("h", "k"))]
        unit, notes = _unit_of_columns(given, path, number)
        return cls(names, [place[f] for f in names], unit, notes)


def _unit_of_columns(
    given: dict[str, tuple[str, str]], path: Path, number: int
) -> tuple[Unit | None, tuple[str, ...]]:
    """The unit of q by the header's names and units of qx and qy, and what to tell."""
    texts = {given[column][1] for column in ("qx", "qy")} - {""}
    if len({parse_unit(x) for x in texts}) > 1:
        raise PatternError(f"{path}, line {number}: qx and qy have different units")
    if texts:
        text = texts.pop()
        unit = parse_unit(text)
        if unit is None:
            return None, (
                f"the unit {printable(text)[:40]!r} of q is not known; 1/angstrom is taken",
            )
        return unit, ()
    if given["qx"][0] == "x":
        raise PatternError(
            f"{path}, line {number}: columns x and y without a unit; write x (px), y (px) for "
            "pixels or qx (1/A), qy (1/A)"
        )
    return None, ()


def _unit_of(comments: Iterable[str]) -> Unit | None:
    """The unit of q that comments name: "q in 1/nm", "units: nm^-1", "q = 2 pi / d"."""
    for comment in comments:
        if _WITH_TWO_PI.search(comment):
            return Unit("q", 1 / (2 * math.pi), True)
        if not re.search(r"\b(q|qx|units?)\b", comment, re.I) or "pixel" in comment.lower():
            continue
        found = {parse_unit(word.strip(".,;:")) for word in re.split(r"[\s()\[\]=]+", comment)}
        found = {unit for unit in found if unit is not None and unit.kind == "q"}
        if len(found) == 1:
            return found.pop()
    return None


def _energy_of(comments: Iterable[str]) -> float | None:
    """keV, where a comment says so."""
    for comment in comments:
        found = _ENERGY.search(comment)
        if found and _is_number(found[1]):
            return float(found[1]) / (1000 if found[2].lower() in ("ev", "v") else 1)
    return None


def _power_error_of(comments: Iterable[str], path: Path) -> float | None:
    """As `write_pattern` writes it."""
    found = next(filter(None, map(_POWER_ERROR.search, comments)), None)
    if found is None:
        return None
    return _checked_power_error(float(found[1]) if _is_number(found[1]) else found[1], path)


def _checked_power_error(value: Any, path: Path) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise PatternError(f"{path}: the power error must be a number above 0, at most 1")
    return float(value)


def _is_number(text: str) -> bool:
    return bool(_NUMBER.fullmatch(text)) or text.strip("+-").lower() in ("nan", "inf", "infinity")


def _json_table(data: Any, path: Path) -> Table:
    if not (isinstance(data, dict) and "q" in data and "intensity" in data):
        raise PatternError(
            f'{path}: a JSON pattern has "q" and "intensity", or "X" (DD2D data sets)'
        )
    q = _numbers(data["q"], 2, path, "q")
    intensity = _numbers(data["intensity"], 1, path, "intensity")
    columns, fields = [q, intensity[:, None]], list(FIELDS[:3])
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
    text, energy = data.get("unit", data.get("units")), data.get("energy")
    unit = None if text is None else parse_unit(text)
    if text is not None and unit is None:
        raise PatternError(
            f"{path}: unit {printable(str(text))[:40]!r} is not known; 1/A, 1/nm ..."
        )
    if energy is not None and (isinstance(energy, bool) or not isinstance(energy, int | float)):
        raise PatternError(f"{path}: energy must be a number, keV")
    power_error = _checked_power_error(data.get("power_error"), path)
    return Table(np.concatenate(columns, 1), None, fields, unit, energy, (), power_error)


def from_rows(
    rows: np.ndarray,
    where: str,
    lines: list[int] | None = None,
    fields: Sequence[str] | None = None,
    energy: float | None = None,
    power_error: float | None = None,
) -> dx.Pattern:
    """Rows (K, n) of `fields`: qx, qy, intensity, then h and k, sigma or all three, or neither.

    Without `fields` they are told by their number; `lines` names each row in its file, whose name
    is `where`. `energy` in keV; `power_error` as in `dx.Pattern`.

    Raises:
        PatternError: no spot, or what no spot can be.
    """
    if fields is None:
        fields = FIELDS[: rows.shape[1]] if rows.ndim == 2 and rows.shape[1] in (3, 5) else ()
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
        sigma = sigma.astype(np.float32)
    q, intensity = rows[:, :2].astype(np.float32), rows[:, 2].astype(np.float32)
    there = np.ones(len(rows), bool)
    made = jax.device_put((q, intensity, hk.astype(np.int32), there, sigma))
    return dx.Pattern(*made, energy, power_error)


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
        column = int(np.argmax(bad))
        raise PatternError(f"{path}: X, column {column} has values that are not finite")
    from dd2d_jax.images.centre import points_centre

    middle = points_centre(x[:2].T) if centre is None else np.asarray(centre, float)
    # Pixels are whole numbers, so the central beam may stand one off its place.
    outer = np.linalg.norm(x[:2].T - middle, axis=1) > 1.5
    if not outer.any():
        raise PatternError(f"{path}: X holds no spot except the central beam")
    x = x[:, outer]
    rows = np.c_[(x[:2].T - middle) * scale, np.exp(x[2] - x[2].max())]
    return from_rows(rows, str(path))
