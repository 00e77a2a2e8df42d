"""Structures from files: CIF, POSCAR, extended XYZ and XSF, and no others.

Files come from strangers: they are parsed from memory, by named formats of ASE, within `limits`.
"""

from __future__ import annotations

import io
import itertools
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ase
import numpy as np
from ase.data import chemical_symbols

from dd2d_jax.util import limits
from dd2d_jax.util.errors import Notice, StructureError
from dd2d_jax.util.text import printable

# Sites of a structure in a CIF, and comparisons of sites and symmetry operations: minutes.
MAX_SITES = 4000
_MAX_SYMMETRY = 2e7
_MAX_COLUMNS = 1000  # of an extended XYZ file

_FORMATS = {
    ".cif": "cif",
    ".vasp": "vasp",
    ".poscar": "vasp",
    ".contcar": "vasp",
    ".extxyz": "extxyz",
    ".xyz": "extxyz",
    ".xsf": "xsf",
}
_ACCEPTED = "CIF (.cif), POSCAR or CONTCAR (also .vasp, .poscar), .extxyz, .xyz and .xsf"
# Hydrogen's isotopes scatter as it does.
_TRITIUM = re.compile(r"T(?![a-z])")


def read_frames(path: str | Path) -> list[ase.Atoms]:
    """Every structure in a file: CIF, POSCAR, extended XYZ or XSF.

    Other formats are refused, as some of them can run code. Raises FileNotFoundError where there is
    no such file and StructureError where it cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give one of {_ACCEPTED}")
    kind = file_format(path)
    if kind is None:
        raise StructureError(
            "unknown format", f"{path}: the format is not accepted; give one of {_ACCEPTED}"
        )
    limit = limits.MAX_CIF if kind == "cif" else limits.MAX_STRUCTURES
    data = limits.read_bytes(path, limit, lambda text: StructureError("too large", text))
    try:
        _check_counts(kind, data)
        # A copy in memory: by a name ASE would unpack archives and look into other files.
        frames = list(itertools.islice(_frames(kind, data), limits.MAX_FRAMES + 1))
    except StructureError as error:
        raise error.at(str(path)) from error
    except KeyError as error:
        name = str(error.args[0]) if error.args else ""
        if name.isalpha() and len(name) <= 3 and name not in chemical_symbols:
            raise StructureError(
                "unknown element", f"{path}: {name!r} is not a chemical element"
            ) from error
        raise _unreadable(path, kind, error) from error
    except Exception as error:  # the readers raise anything from IndexError to AssertionError
        raise _unreadable(path, kind, error) from error
    if len(frames) > limits.MAX_FRAMES:
        raise StructureError(
            "too large", f"{path}: more than {limits.MAX_FRAMES} structures; split the file"
        )
    if not frames or not all(len(frame) for frame in frames):
        raise StructureError(
            "no structure", f"{path}: there are no atoms in it; a {kind} file with a cell is needed"
        )
    return frames


def read_structure(path: str | Path) -> ase.Atoms:
    """The one structure in a file (see `read_frames`); several are an error."""
    frames = read_frames(path)
    if len(frames) > 1:
        raise StructureError(
            "several structures",
            f"{path}: it holds {len(frames)} structures where one is needed; split the file",
        )
    return frames[0]


def file_format(path: Path) -> str | None:
    """The ASE format of a file by its name, None where it is not accepted."""
    if path.name.upper().startswith(("POSCAR", "CONTCAR")):
        return "vasp"
    return _FORMATS.get(path.suffix.lower())


def _frames(kind: str, data: bytes) -> Iterator[ase.Atoms]:
    """The structures in the bytes of a file."""
    if kind == "cif":
        from ase.io.cif import CIFBlock, parse_cif

        cost = 0.0
        for block in parse_cif(io.BytesIO(data)):
            if not block.has_structure():
                continue
            lists = {name: len(x) for name, x in block.items() if isinstance(x, list)}
            sites = max((n for name, n in lists.items() if name.startswith("_atom_site_")),
                        default=1)  # fmt: skip
            operations = max((n for name, n in lists.items() if "_xyz" in name), default=192)
            cost += sites * (sites + operations)
            if sites > MAX_SITES or operations > 10_000 or cost > _MAX_SYMMETRY:
                raise StructureError(
                    "too large",
                    f"{sites} sites and {operations} symmetry operations; at most {MAX_SITES} "
                    "sites of a structure are taken",
                )
            atoms = CIFBlock(block.name, _mended(block)).get_atoms()
            _compare_formula(atoms, block.get("_chemical_formula_sum"))
            yield atoms
        return
    import ase.io  # late: it takes 0.6 s

    yield from ase.io.iread(io.StringIO(data.decode("utf-8", "replace")), index=":", format=kind)


def _mended(block: Mapping[str, Any]) -> dict[str, Any]:
    """A CIF's tags with tritium as hydrogen, and occupancies that are not told as 1."""
    tags = dict(block)
    for name in ("_atom_site_type_symbol", "_atom_site_label"):
        if isinstance(tags.get(name), list):
            tags[name] = [_TRITIUM.sub("H", x, 1) if _is_tritium(x) else x for x in tags[name]]
    occupancies = tags.get("_atom_site_occupancy")
    if isinstance(occupancies, list):
        tags["_atom_site_occupancy"] = [1.0 if x in ("?", ".") else x for x in occupancies]
    return tags


def _is_tritium(symbol: Any) -> bool:
    return isinstance(symbol, str) and bool(_TRITIUM.match(symbol))


def _compare_formula(atoms: ase.Atoms, formula: Any) -> None:
    """Give notice where a CIF's formula is not that of its atoms, whatever the number of units."""
    if not isinstance(formula, str) or len(formula) > 1000:
        return
    words = re.findall(r"([A-Z][a-z]?)(\d+\.?\d*|\.\d+)?", formula)
    told = Counter()
    for symbol, count in words:
        told[{"D": "H", "T": "H"}.get(symbol, symbol)] += float(count or 1)
    there = Counter()
    kinds = atoms.arrays.get("spacegroup_kinds", np.arange(len(atoms)))
    shares = atoms.info.get("occupancy") or {}
    for symbol, kind in zip(atoms.symbols, kinds, strict=True):
        for name, share in (shares.get(str(kind)) or {symbol: 1.0}).items():
            there[name] += float(share)
    total, whole = sum(told.values()), sum(there.values())
    if not told or not whole or not total:
        return
    if any(abs(told[x] / total - there[x] / whole) > 0.01 for x in told | there):
        found = " ".join(f"{x}{there[x]:.4g}" for x in sorted(there))
        warnings.warn(
            f"the CIF says {printable(formula)[:60]!r}, but its atoms are {found}: the "
            "atoms are used",
            Notice,
            stacklevel=2,
        )


def _check_counts(kind: str, data: bytes) -> None:
    """Raise StructureError for what ASE would go on and on with: counts beyond the file's lines.

    In XSF files the lines themselves are counted. Extremely long lines take ASE's patterns the
    square of their length, but for extended XYZ, which is read sign by sign.
    """
    lines = data.split(b"\n")
    if kind != "extxyz" and max(map(len, lines)) > limits.MAX_LINE:
        raise StructureError("too large", f"a line of more than {limits.MAX_LINE} bytes")
    if kind == "cif":
        blocks = sum(line.lstrip()[:5].lower() == b"data_" for line in lines)
        if blocks > limits.MAX_FRAMES:
            raise StructureError("too large", f"{blocks} blocks; at most {limits.MAX_FRAMES}")
    elif kind == "vasp":
        for line in lines[5:7]:
            counts = [n for word in line.split() if (n := _whole(word)) is not None]
            if sum(map(abs, counts)) > len(lines):
                raise StructureError("too large", f"{sum(counts)} atoms in {len(lines)} lines")
    elif kind == "extxyz":
        from ase.io.extxyz import key_val_str_to_dict

        text, place = data.decode("utf-8", "replace").split("\n"), 0
        while place < len(text) and (count := _whole(text[place].strip())) is not None:
            if not 0 <= count <= len(text) - place - 2:
                raise StructureError(
                    "unreadable", f"line {place + 1} says {count} atoms, which do not follow"
                )
            about = key_val_str_to_dict(text[place + 1])
            columns = str(about.get("Properties", "")).split(":")[2::3]
            if sum(_whole(word) or 0 for word in columns) > _MAX_COLUMNS:
                raise StructureError("too large", f"more than {_MAX_COLUMNS} columns")
            place += count + 2
            # Cell vectors may follow.
            while place < len(text) and text[place].lstrip().startswith("VEC"):
                place += 1


def _whole(word: str | bytes) -> int | None:
    """As ASE reads a count."""
    try:
        return int(word)
    except ValueError:
        return None


def _unreadable(path: Path, kind: str, error: Exception) -> StructureError:
    detail = f"{type(error).__name__}: {error}"[:200]
    if kind == "vasp" and "'name'" in detail:
        # ASE would look for them in other files of the folder.
        detail = "it does not name its elements"
    return StructureError(
        "unreadable", f"{path}: cannot be read as {kind} ({detail}); give one of {_ACCEPTED}"
    )
