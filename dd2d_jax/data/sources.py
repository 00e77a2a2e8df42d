"""Where crystals come from: one iterator for each source; what cannot be read becomes an error.

An entry is (atoms, info): `info` holds `uid` (text), `known` (bool: the crystal was made, not only
computed), `prototype` (text, empty where it does not apply), `ehull` (eV/atom above the convex
hull, NaN where it is not known) and `layer_group` (text, or empty). In place of `atoms` a
StructureError stands for a row that cannot be read, so that one bad row costs one row and is
counted.
"""

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ase
import numpy as np

from dd2d_jax.crystals.structure_files import file_format, read_frames
from dd2d_jax.data import database
from dd2d_jax.data.crystal_set import OCCUPANCIES
from dd2d_jax.util.errors import StructureError
from dd2d_jax.util.limits import MAX_JSON, first_line, parse_json, read_json

Entry = tuple[ase.Atoms | StructureError, dict[str, Any]]

# eV/atom; what is further from the hull is no energy.
_MAX_EHULL = 100.0
JARVIS_URL = "https://ndownloader.figshare.com/files/38521268"  # d2-12-12-2022.json.zip, CC BY 4.0


def ase_db(path: Path) -> tuple[Iterator[Entry], int]:
    """Every row of an ASE database (SQLite), with its keys `uid`, `known` and `prototype`.

    ASE keeps no occupancies in databases; they are read from the key `occupancies`, a JSON list of
    one number for each atom (see `CrystalSet.write_db`).
    The number beside it is the last row's. Raises ValueError where the file is no such database.
    """
    return database_rows(path), database.last_id(path)


def database_rows(path: Path, start: int = 0, stop: int = 2**62) -> Iterator[Entry]:
    """The rows start < id <= stop of an ASE database; the file's name begins missing uids."""
    for row in database.rows(path, start, stop):
        uid = row.keys.get("uid", f"{path.stem}-{row.id}")
        yield _occupied(row.atoms, row.keys), _info(uid, row.keys)


def server_rows(server: Any, name: str, start: int, stop: int) -> Iterator[Entry]:
    """The same of a server's database, open in ASE; `name` begins missing uids."""
    # By id, which has an index, not by offset, which counts from the first row.
    for row in server.select([f"id>{start}", f"id<={stop}"], include_data=False):
        try:
            atoms = row.toatoms()
        except (KeyError, ValueError, IndexError) as error:
            atoms = StructureError(
                "unreadable", f"row {row.id}: {error}; a row needs cell, positions and numbers"
            )
        uid = row.get("uid", f"{name}-{row.id}")
        yield _occupied(atoms, row), _info(uid, row)


def files(path: Path) -> tuple[Iterator[Entry], int]:
    """Every structure in the accepted files of a folder and its subfolders, or in one file.

    The uid is `uid` of an extended XYZ frame, or else the file's name within the folder, with #2,
    #3 ... for further structures in it. Raises ValueError where there is no such file.
    """
    found = accepted_files(path)
    return frames(found, path), len(found)


def frames(found: Sequence[Path], path: Path) -> Iterator[Entry]:
    """Every structure in some of the files of a folder (`path`), or in the one file."""
    for file in found:
        name = file.name if path.is_file() else file.relative_to(path).as_posix()
        try:
            structures = read_frames(file)
        except StructureError as error:
            yield error, _info(name)
            continue
        for number, atoms in enumerate(structures, 1):
            about = atoms.info
            uid = about.get("uid", name if number == 1 else f"{name}#{number}")
            yield atoms, _info(uid, about)


def dd2d_json(path: Path) -> tuple[Iterator[Entry], int]:
    """Records of the DD2D authors' data-set format: one, a list, or a dict of them by name.

    `seq` holds a, b, c (angstrom), alpha, beta, gamma (degrees), then x, y, z (Cartesian, angstrom)
    and Z of each atom, padded with ''. `X`, the pattern, is not read. Raises ValueError where the
    file is no such JSON.
    """
    data = _json(path)
    if isinstance(data, dict) and "seq" in data:
        records = [(path.stem, data)]
    elif isinstance(data, dict):
        records = list(data.items())
    elif isinstance(data, list):
        records = [(f"{path.stem}-{i}", record) for i, record in enumerate(data)]
    else:
        raise ValueError(
            f"{path}: a {type(data).__name__} where a record, a list or a dict of records is needed"
        )

    def entries() -> Iterator[Entry]:
        for uid, record in records:
            yield _guarded(_dd2d_atoms, record), _info(str(uid))

    return entries(), len(records)


def jarvis_2d(path: Path) -> tuple[Iterator[Entry], int]:
    """The JARVIS-DFT 2D archive (CC BY 4.0): a zip with one JSON list, or that; uid is `jid`."""
    records = _json(path)
    if not isinstance(records, list):
        raise ValueError(
            f"{path}: a {type(records).__name__} where JARVIS's list of records is needed"
        )

    def entries() -> Iterator[Entry]:
        for i, record in enumerate(records):
            uid = record.get("jid") if isinstance(record, dict) else None
            keys = {"ehull": record.get("ehull")} if isinstance(record, dict) else {}
            yield _guarded(_jarvis_atoms, record), _info(str(uid or f"jarvis-{i}"), keys)

    return entries(), len(records)


def prototypes(path: Path | None = None) -> tuple[Iterator[Entry], None]:
    """Crystals made from prototypes and element substitution: no file is needed."""
    from dd2d_jax.data.prototypes import generate

    return generate(seed=0), None


def bulk(path: Path | None = None) -> tuple[Iterator[Entry], None]:
    """Layers of well-known bulk crystals as measured: no file is needed."""
    from dd2d_jax.data.prototypes import generate_bulk

    return generate_bulk(), None


READERS: dict[str, Callable[..., tuple[Iterator[Entry], int | None]]] = {
    "prototypes": prototypes,
    "bulk": bulk,
    "ase_db": ase_db,
    "files": files,
    "c2db": ase_db,
    "jarvis_2d": jarvis_2d,
    "dd2d_json": dd2d_json,
}
# Those that need no file.
MADE_HERE = ("prototypes", "bulk")


def fingerprint(source: str, path: Path | None) -> str:
    """12 hex digits that change with the bytes of the source and with the code that reads it."""
    here = Path(__file__).parent
    code = [here / "sources.py", here / "database.py"]
    code.append(here.parent / "crystals" / "structures.py")
    if source in MADE_HERE:
        code += sorted(
            f for f in (here / "prototypes").rglob("*") if f.suffix in (".py", ".csv", ".json")
        )
    data = [] if path is None else accepted_files(path)
    digest = hashlib.sha256()
    for file in code + data:
        name = file.relative_to(path) if file in data and file != path else file.name
        digest.update(f"\0{name}\0".encode())
        with open(file, "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:12]


def accepted_files(path: Path) -> list[Path]:
    """The structure files of a folder and its subfolders, or the one file."""
    found = (
        [path]
        if path.is_file()
        else sorted(f for f in path.rglob("*") if f.is_file() and file_format(f))
    )
    if not found:
        raise ValueError(f"{path}: no CIF, POSCAR, .extxyz, .xyz or .xsf file in this folder")
    return found


def _info(uid: Any, keys: Any = None) -> dict[str, Any]:
    """What is kept of a row's keys; `keys` has the method `get` of a dict."""
    keys = {} if keys is None else keys
    # Files may hold anything under these names.
    known, prototype = keys.get("known", False), keys.get("prototype", "")
    known = known if isinstance(known, bool | int | np.bool_) else str(known).lower() == "true"
    try:
        ehull = float(keys.get("ehull", np.nan))
    except (TypeError, ValueError, OverflowError):
        ehull = np.nan
    group = keys.get("layergroup", "")
    return {
        "uid": str(uid),
        "known": bool(known),
        "prototype": str(prototype),
        "ehull": ehull if abs(ehull) < _MAX_EHULL else np.nan,
        "layer_group": group if isinstance(group, str) and _is_group(group) else "",
    }


def _occupied(atoms: ase.Atoms | StructureError, keys: Any) -> ase.Atoms | StructureError:
    """The atoms with the occupancies that a row's keys hold."""
    text = keys.get(OCCUPANCIES)
    if text is None or isinstance(atoms, StructureError):
        return atoms
    try:
        atoms.set_array(OCCUPANCIES, np.array(json.loads(text), float), shape=())
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        return StructureError(
            "wrong occupancy",
            f"{first_line(error)}; the key {OCCUPANCIES} takes a JSON list, a number for each atom",
        )
    return atoms


def _is_group(text: str) -> bool:
    """Whether text may be the symbol of a layer group, such as p-3m1."""
    return len(text) <= 20 and text.isascii() and text.isprintable()


def _json(path: Path) -> Any:
    if not zipfile.is_zipfile(path):
        return read_json(path, MAX_JSON)
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".json")]
            if not names:
                raise ValueError("no .json in it")
            # What the archive says of sizes need not be so: no more is unpacked.
            with archive.open(names[0]) as file:
                data = file.read(MAX_JSON + 1)
        if len(data) > MAX_JSON:
            raise ValueError(f"it unpacks to more than {MAX_JSON} bytes")
    except Exception as error:  # of damaged archives errors of many kinds are raised
        raise ValueError(f"{path}: not a readable archive ({first_line(error)})") from error
    return parse_json(data, path)


def _guarded(read: Callable[[Any], ase.Atoms], record: Any) -> ase.Atoms | StructureError:
    try:
        return read(record)
    except StructureError as error:
        return error
    except Exception as error:  # ASE asserts as well
        detail = f"{type(error).__name__}: {error}"
        return StructureError(
            "unreadable", f"{detail}; see the source's format in the documentation"
        )


def _dd2d_atoms(record: dict[str, Any]) -> ase.Atoms:
    from ase.geometry import cellpar_to_cell

    values = np.array([float(value) for value in record["seq"] if value != ""])
    if len(values) < 10 or len(values) % 4 != 2:
        raise StructureError(
            "unreadable", f"seq has {len(values)} numbers; it takes 6 and then 4 for each atom"
        )
    sites = values[6:].reshape(-1, 4)
    numbers = sites[:, 3]
    if (numbers != np.round(numbers)).any():
        raise StructureError(
            "unknown element", f"Z = {numbers[numbers % 1 != 0][0]:g} is not a whole number"
        )
    return ase.Atoms(numbers.astype(int), sites[:, :3], cell=cellpar_to_cell(values[:6]), pbc=True)


def _jarvis_atoms(record: dict[str, Any]) -> ase.Atoms:
    data = record["atoms"]
    unknown = sorted(set(data["elements"]) - set(ase.data.chemical_symbols[1:]))
    if unknown:
        raise StructureError("unknown element", f"{unknown[0]!r} is not a chemical element")
    where = "positions" if data.get("cartesian") else "scaled_positions"
    return ase.Atoms(
        data["elements"], cell=data["lattice_mat"], pbc=True, **{where: data["coords"]}
    )
