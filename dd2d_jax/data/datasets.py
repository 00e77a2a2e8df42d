"""Data sets of 2D crystals: prepared once (through TFDS), then read into padded arrays in a second.

Whatever the source, every crystal goes through `structures.layer`; what cannot be used is skipped,
counted by reason and reported. Lengths in angstrom.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from math import gcd
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ase
import numpy as np

from dd2d_jax.crystals.structures import Layer, StructureError, layer, to_atoms
from dd2d_jax.data import sources
from dd2d_jax.util import cache
from dd2d_jax.util.files import new_file
from dd2d_jax.util.limits import MAX_NAME

if TYPE_CHECKING:
    import diffraction

SAME = 0.05  # angstrom: canonical forms as near as this are structural duplicates
EXAMPLES = 5  # uids kept in the report for each reason

NEEDS_PATH = ("ase_db", "files", "dd2d_json")


@dataclasses.dataclass(frozen=True, eq=False)
class CrystalSet:
    """n crystals in canonical form, padded to N atoms.

    uid, formula, prototype (n,) text; known (n,) bool; lattice (n, 2, 2) float32 and positions (n,
    N, 3) float32 in angstrom; numbers (n, N) int32, 0 for padding. report: what was kept and what
    was skipped and why (`from_atoms`).
    """

    uid: np.ndarray
    formula: np.ndarray
    lattice: np.ndarray
    positions: np.ndarray
    numbers: np.ndarray
    known: np.ndarray
    prototype: np.ndarray
    report: dict[str, Any]

    def __len__(self) -> int:
        return len(self.uid)

    def take(self, indices: Sequence[int] | np.ndarray) -> "CrystalSet":
        """The crystals at `indices` (m,), in that order; N and the report stay as they are."""
        arrays = {
            f.name: getattr(self, f.name)[indices]
            for f in dataclasses.fields(self)
            if f.name != "report"
        }
        return CrystalSet(**arrays, report=self.report)

    def atoms(self, index: int) -> ase.Atoms:
        """One crystal with c = its thickness + 15 A, pbc (1, 1, 0) and its uid in `info`."""
        atoms = to_atoms(self.lattice[index], self.positions[index], self.numbers[index])
        atoms.info["uid"] = str(self.uid[index])
        return atoms

    @property
    def crystal(self) -> "diffraction.Crystal":
        """All of them as one batch."""
        import jax.numpy as jnp

        import diffraction

        return diffraction.Crystal(
            jnp.asarray(self.lattice), jnp.asarray(self.positions), jnp.asarray(self.numbers)
        )

    def write_db(self, path: str | Path) -> None:
        """Writes an ASE database (SQLite) with the keys `uid`, `known` and `prototype`.

        It is written beside and moved into place. Raises FileExistsError where `path` exists
        already, and ValueError where a uid is text that an ASE database cannot keep as it is (such
        as "1e5").
        """
        from ase.db import connect

        path = Path(path)
        if not path.parent.is_dir():
            raise FileNotFoundError(f"{path.parent}: no such folder; make it first")
        if path.exists():
            raise FileExistsError(f"{path}: exists already; choose another name or remove it")
        with new_file(path) as part, connect(part, type="db", use_lock_file=False) as database:
            for i in range(len(self)):
                self.write_row(database, i)

    def write_row(self, database: Any, index: int) -> None:
        """Writes one crystal to an open ASE database, as `write_db` does."""
        keys = {"uid": database_key(str(self.uid[index])), "known": bool(self.known[index])}
        if self.prototype[index]:
            keys["prototype"] = str(self.prototype[index])
        database.write(self.atoms(index), **keys)


def load(
    source: str = "prototypes", path: str | Path | None = None, data_dir: str | None = None
) -> CrystalSet:
    """A data set, prepared first where that has not been done for these very bytes.

    source: `prototypes` (needs no file), `ase_db` (an ASE database), `files` (a folder of CIF,
    POSCAR, XYZ or XSF files, or one of them), `dd2d_json` (the DD2D authors' format), `c2db` (the
    official c2db.db, put into data_dir/downloads/manual, or at `path`), `jarvis_2d` (downloaded, 8
    MB, or at `path`). Several are joined by "+", as in `prototypes+ase_db`; `path` is then for
    those that need one. data_dir: by default $DD2D_DATA_DIR or ~/.cache/dd2d.

    Raises ValueError for an unknown source, a missing path or data without one usable crystal, and
    FileNotFoundError where there is nothing at `path`.
    """
    if "+" in source:
        parts = source.split("+")
        paths = [path if part in NEEDS_PATH else None for part in parts]
        return concatenate([load(*each, data_dir) for each in zip(parts, paths, strict=True)])
    if source not in sources.READERS:
        raise ValueError(
            f"source {source!r} is unknown; choose one of {', '.join(sources.READERS)}"
        )
    if path is None and source in NEEDS_PATH:
        raise ValueError(f"source {source!r} needs a path; give path=")
    if path is not None and source == "prototypes":
        raise ValueError(
            "source 'prototypes' takes no path; leave it out or choose ase_db or files"
        )
    if path is not None:
        path = Path(path).expanduser().resolve()
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file or folder (source {source!r})")
        if path.is_dir() and source != "files":
            raise ValueError(
                f"{path}: a folder, but source {source!r} needs a file; folders go with 'files'"
            )
    root = Path(data_dir).expanduser().resolve() if data_dir else cache.folder()
    from dd2d_jax.data import builder  # late: importing TFDS takes a while

    infos, layers, report = builder.read(source, path, root)
    return crystal_set(infos, layers, report)


def concatenate(sets: Sequence[CrystalSet]) -> CrystalSet:
    """The crystals of several sets, one after another; reports are added up.

    Raises ValueError where a uid stands in two of them.
    """
    uid = np.concatenate([part.uid for part in sets])
    names, counts = np.unique(uid, return_counts=True)
    if (counts > 1).any():
        raise ValueError(
            f"{int((counts > 1).sum())} uids are in more than one set, the first is "
            f"{str(names[counts > 1][0])!r}; give each crystal its own"
        )
    return join(sets, merged_report(part.report for part in sets))


def join(sets: Sequence[CrystalSet], report: dict[str, Any]) -> CrystalSet:
    """Sets of crystals one after another, padded to the largest."""
    size = max(part.numbers.shape[1] for part in sets)

    def padded(array: np.ndarray) -> np.ndarray:
        return np.pad(array, [(0, 0), (0, size - array.shape[1])] + [(0, 0)] * (array.ndim - 2))

    return CrystalSet(
        positions=np.concatenate([padded(part.positions) for part in sets]),
        numbers=np.concatenate([padded(part.numbers) for part in sets]),
        report=report,
        **{
            name: np.concatenate([getattr(part, name) for part in sets])
            for name in ("uid", "formula", "lattice", "known", "prototype")
        },
    )


def from_atoms(entries: Iterable[sources.Entry]) -> CrystalSet:
    """A set in memory of (ase.Atoms, info) pairs; info may hold `uid`, `known` and `prototype`.

    Crystals that cannot be used are left out and counted in `report`: rows, kept, skipped ({reason:
    {count, examples}}), and duplicates (kept, but with the same structure as one before). Raises
    ValueError where none is left.
    """
    report = new_report()
    kept = list(usable(entries, report))
    return crystal_set([info for info, _ in kept], [crystal for _, crystal in kept], report)


def new_report() -> dict[str, Any]:
    """An empty report."""
    return {"rows": 0, "kept": 0, "skipped": {}, "duplicates": {"count": 0, "examples": []}}


def usable(
    entries: Iterable[sources.Entry], report: dict[str, Any]
) -> Iterator[tuple[dict[str, Any], Layer]]:
    """The usable crystals (info, Layer) of `entries`; `report` is filled on the way.

    Raises ValueError at the end where there was none.
    """
    yield from crystals_of(entries, report)
    check_kept(report)


def check_kept(report: dict[str, Any]) -> None:
    """Raise ValueError where a report says that nothing was kept."""
    if not report["kept"]:
        reasons = ", ".join(f"{entry['count']} {name}" for name, entry in report["skipped"].items())
        raise ValueError(
            f"no crystal can be used out of {report['rows']} ({reasons or 'the source is empty'})"
        )


def crystals_of(
    entries: Iterable[sources.Entry], report: dict[str, Any]
) -> Iterator[tuple[dict[str, Any], Layer]]:
    """As `usable`, for part of a source: there may be none."""
    uids: set[str] = set()
    seen: dict[bytes, list[tuple[str, Layer]]] = {}
    for atoms, info in entries:
        report["rows"] += 1
        info = {"known": False, "prototype": "", **info}
        uid, prototype = (
            # Half of a surrogate pair, which JSON allows, cannot be written anywhere.
            str(x).encode("utf-8", "replace").decode()
            for x in (info.get("uid", f"row-{report['rows']}"), info["prototype"])
        )
        info |= {"uid": uid, "prototype": prototype}
        try:
            for name in (uid, prototype):
                if len(name) > MAX_NAME:
                    uid = f"{uid[:40]}..."
                    raise StructureError(
                        "long name", f"{len(name)} characters; uid and prototype take {MAX_NAME}"
                    )
            if isinstance(atoms, StructureError):
                raise atoms
            if uid in uids:
                raise StructureError(
                    "duplicate uid", "an earlier row has the same uid; give each row its own"
                )
            crystal = layer(atoms)
        except StructureError as error:
            skip(report, error.reason, str(error.at(uid)))
            continue
        uids.add(uid)
        report["kept"] += 1
        same_atoms = seen.setdefault(crystal.numbers.tobytes(), [])
        twin = _twin(crystal, same_atoms)
        if twin is not None:
            _count(report["duplicates"], f"{uid} = {twin}")
        same_atoms.append((uid, crystal))
        info["formula"] = reduced_formula(crystal.numbers)
        yield info, crystal


def skip(report: dict[str, Any], reason: str, example: str, count: int = 1) -> None:
    """Count crystals in a report that were left out for a reason."""
    entry = report["skipped"].setdefault(reason, {"count": 0, "examples": []})
    _count(entry, example, count)


def merged_report(reports: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """One report of several parts; examples are those of the first."""
    total = new_report()
    for report in reports:
        total["rows"] += report["rows"]
        total["kept"] += report["kept"]
        pairs = [(total["duplicates"], report["duplicates"])]
        for reason, entry in report["skipped"].items():
            empty = {"count": 0, "examples": []}
            pairs.append((total["skipped"].setdefault(reason, empty), entry))
        for sums, entry in pairs:
            sums["count"] += entry["count"]
            sums["examples"] = (sums["examples"] + entry["examples"])[:EXAMPLES]
    return total


def print_report(report: dict[str, Any], title: str) -> None:
    """Shows a report on stderr."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("", "crystals", "for example", title=escape(title), title_justify="left")
    table.add_row("kept", str(report["kept"]), "")
    twins = report["duplicates"]
    example = escape("; ".join(twins["examples"][:2]))
    table.add_row("  structural duplicates among them", str(twins["count"]), example)
    for reason, entry in sorted(report["skipped"].items(), key=lambda item: -item[1]["count"]):
        table.add_row(f"skipped: {reason}", str(entry["count"]), escape(entry["examples"][0]))
    Console(stderr=True).print(table)


def digest(crystals: CrystalSet) -> str:
    """12 hex digits that change with the crystals."""
    value = hashlib.sha256()
    for field in dataclasses.fields(crystals):
        if field.name != "report":
            array = getattr(crystals, field.name)
            value.update(f"{field.name} {array.shape} {array.dtype}".encode() + array.tobytes())
    return value.hexdigest()[:12]


def split(
    crystals: CrystalSet,
    kind: str,
    seed: int = 0,
    limit: int | None = None,
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
) -> dict[str, np.ndarray]:
    """Disjoint sorted indices of the parts "train", "validation" and "test".

    limit: so many crystals are drawn at random first; None takes all.
    kind: "random", or "formula": no reduced formula in two of them. Train and validation are
    rounded down, test has the rest (of 7951: 6360, 795, 796); with "formula" the sizes are met as
    nearly as whole formulas allow. The same seed gives the same split. Raises ValueError for
    anything else.
    """
    if kind not in ("random", "formula"):
        raise ValueError(f"split kind {kind!r} is unknown; choose random or formula")
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(
            f"fractions {fractions} must be three numbers, none negative, that add up to 1"
        )
    if limit is not None and not 0 < limit <= len(crystals):
        raise ValueError(
            f"limit {limit} must be between 1 and the number of crystals, {len(crystals)}"
        )
    random = np.random.default_rng(seed)
    drawn = random.permutation(len(crystals))[:limit]
    ends = np.floor(np.cumsum([0, *fractions[:2]]) * len(drawn) + 1e-6).astype(int)
    ends[2] = ends[1] + int(np.floor(fractions[1] * len(drawn) + 1e-6))
    if kind == "formula":
        _, group, sizes = np.unique(
            crystals.formula[drawn], return_inverse=True, return_counts=True
        )
        order = random.permutation(len(sizes))
        rank = np.argsort(order)[group]
        drawn = drawn[np.argsort(rank, kind="stable")]
        edges = np.concatenate([[0], np.cumsum(sizes[order])])
        ends = edges[np.abs(edges[:, None] - ends).argmin(0)]
    parts = np.split(drawn, ends[1:])
    return dict(zip(("train", "validation", "test"), map(np.sort, parts), strict=True))


def reduced_formula(numbers: np.ndarray) -> str:
    """Reduced formula text of atomic numbers (N,), metals first: MoS2."""
    from ase.formula import Formula

    kinds, counts = np.unique(numbers[numbers > 0], return_counts=True)
    divisor = gcd(*counts.tolist())
    symbols = {
        ase.data.chemical_symbols[z]: int(c) // divisor for z, c in zip(kinds, counts, strict=True)
    }
    return Formula.from_dict(symbols).format("metal")


def crystal_set(
    infos: list[dict[str, Any]], layers: list[Layer], report: dict[str, Any]
) -> CrystalSet:
    """Infos and layers of `usable` as a set in memory."""
    count, size = len(layers), max((len(crystal.numbers) for crystal in layers), default=1)
    positions = np.zeros((count, size, 3), np.float32)
    numbers = np.zeros((count, size), np.int32)
    for i, crystal in enumerate(layers):
        positions[i, : len(crystal.numbers)] = crystal.positions
        numbers[i, : len(crystal.numbers)] = crystal.numbers
    text = {
        name: np.array([info[name] for info in infos], str)
        for name in ("uid", "formula", "prototype")
    }
    return CrystalSet(
        lattice=np.array([crystal.lattice for crystal in layers], np.float32).reshape(-1, 2, 2),
        positions=positions,
        numbers=numbers,
        known=np.array([info["known"] for info in infos], bool),
        report=report,
        **text,
    )


def _count(entry: dict[str, Any], example: str, count: int = 1) -> None:
    entry["count"] += count
    if len(entry["examples"]) < EXAMPLES:
        entry["examples"].append(example)


def _twin(crystal: Layer, others: list[tuple[str, Layer]]) -> str | None:
    """uid of the first of `others` (same atomic numbers) with the same canonical form."""
    if not others:
        return None
    lattices = np.array([other.lattice for _, other in others])
    near = np.flatnonzero((np.abs(lattices - crystal.lattice) < SAME).all((1, 2)))
    for i in near:
        delta = others[i][1].positions - crystal.positions
        frac = delta[:, :2] @ np.linalg.inv(crystal.lattice)
        delta[:, :2] = (frac - np.round(frac)) @ crystal.lattice
        if np.abs(delta).max() < SAME:
            return others[i][0]
    return None


def database_key(uid: str) -> str | int:
    """The uid as ASE databases take it: they refuse text that reads as a number."""
    try:
        float(uid)
    except ValueError:
        return uid
    if uid.isdecimal() and str(int(uid)) == uid:
        return int(uid)
    raise ValueError(
        f"uid {uid!r} reads as a number, which an ASE database cannot keep as text; rename it"
    )
