"""Crystals held as padded arrays; lengths in angstrom."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from math import gcd
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ase
import numpy as np

from dd2d_jax.crystals.structures import Layer, to_atoms
from dd2d_jax.util.files import new_file

if TYPE_CHECKING:
    import diffraction


EXAMPLES = 5  # uids kept in the report for each reason
# Key of an ASE database under which a crystal's occupancies are, as a JSON list.
OCCUPANCIES = "occupancies"


@dataclasses.dataclass(frozen=True, eq=False)
class CrystalSet:
    """n crystals in canonical form, padded to N atoms.

    uid, formula, prototype (n,) text; known (n,) bool; lattice (n, 2, 2) float32 and positions (n,
    N, 3) float32 in angstrom; numbers (n, N) int32, 0 for padding. report: what was kept and what
    was skipped and why (`from_atoms`). ehull (n,) float32, energy above the convex hull in eV/atom,
    NaN where the source does not say it; layer_group (n,) text, "" where it does not; None stands
    for a source that says neither. occupancy (n, N) float32, the share of cells in which each atom
    is there, whatever for padding; atoms of one site add to at most 1. It is None wherever all
    atoms of all crystals are full.
    """

    uid: np.ndarray
    formula: np.ndarray
    lattice: np.ndarray
    positions: np.ndarray
    numbers: np.ndarray
    known: np.ndarray
    prototype: np.ndarray
    report: dict[str, Any]
    ehull: np.ndarray = None  # type: ignore[assignment]
    layer_group: np.ndarray = None  # type: ignore[assignment]
    occupancy: np.ndarray | None = None

    def __post_init__(self) -> None:
        # What has no mixed sites is simulated, stored and compared without them.
        if self.occupancy is not None and not self.mixed.any():
            object.__setattr__(self, "occupancy", None)
        if self.ehull is None:
            object.__setattr__(self, "ehull", np.full(len(self.uid), np.nan, np.float32))
        if self.layer_group is None:
            object.__setattr__(self, "layer_group", np.full(len(self.uid), "", "U1"))

    def __len__(self) -> int:
        return len(self.uid)

    @property
    def mixed(self) -> np.ndarray:
        """(n,) True for crystals with an atom that is not there in every cell."""
        if self.occupancy is None:
            return np.zeros(len(self), bool)
        return ((self.numbers > 0) & (self.occupancy != 1)).any(1)

    def take(self, indices: Sequence[int] | np.ndarray) -> "CrystalSet":
        """The crystals at `indices` (m,), in that order; N and the report stay as they are."""
        arrays = {name: array[indices] for name, array in arrays_of(self).items()}
        return CrystalSet(**arrays, report=self.report)

    def padded(self, size: int) -> "CrystalSet":
        """The same with room for `size` atoms, at least N."""

        def wide(array: np.ndarray) -> np.ndarray:
            rest = [(0, 0)] * (array.ndim - 2)
            return np.pad(array, [(0, 0), (0, size - array.shape[1]), *rest])

        by_atom = ("positions", "numbers", "occupancy")
        arrays = {name: wide(x) for name, x in arrays_of(self).items() if name in by_atom}
        return dataclasses.replace(self, **arrays)

    def atoms(self, index: int) -> ase.Atoms:
        """One crystal with c = its thickness + 15 A, pbc (1, 1, 0) and its uid in `info`."""
        shares = None if self.occupancy is None else self.take([index]).occupancy
        atoms = to_atoms(
            self.lattice[index], self.positions[index], self.numbers[index],
            None if shares is None else shares[0],
        )  # fmt: skip
        atoms.info["uid"] = str(self.uid[index])
        return atoms

    @property
    def crystal(self) -> "diffraction.Crystal":
        """All of them as one batch, with occupancies where any of them has a mixed site."""
        import jax

        import diffraction

        arrays = (self.lattice, self.positions, self.numbers, self.occupancy)
        return diffraction.Crystal(*jax.device_put(arrays))

    def write_db(self, path: str | Path) -> None:
        """Writes an ASE database (SQLite) with the keys `uid`, `known`, `prototype`, `ehull`
        and `layergroup`, the last three where they are known, and with the key `occupancies`, a
        JSON list, where sites are mixed.

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
        if np.isfinite(self.ehull[index]):
            keys["ehull"] = float(self.ehull[index])
        if self.layer_group[index]:
            keys["layergroup"] = str(self.layer_group[index])
        atoms = self.atoms(index)
        if OCCUPANCIES in atoms.arrays:
            keys[OCCUPANCIES] = json.dumps(atoms.arrays[OCCUPANCIES].tolist())
        database.write(atoms, **keys)


def arrays_of(crystals: CrystalSet) -> dict[str, np.ndarray]:
    """All arrays that it has, by name."""
    names = [f.name for f in dataclasses.fields(crystals) if f.name != "report"]
    return {x: getattr(crystals, x) for x in names if getattr(crystals, x) is not None}


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
    arrays = [arrays_of(part.padded(size)) for part in sets]
    if any("occupancy" in each for each in arrays):
        for each in arrays:
            each.setdefault("occupancy", np.ones(each["numbers"].shape, np.float32))
    whole = {name: np.concatenate([each[name] for each in arrays]) for name in arrays[0]}
    return CrystalSet(**whole, report=report)


def without_mixed(crystals: CrystalSet) -> CrystalSet:
    """Those without mixed sites; the others are counted in the report as skipped."""
    mixed = crystals.mixed
    if not mixed.any():
        return crystals
    uids = crystals.uid[mixed].tolist()
    message = "a network that reads atoms knows no mixed sites"
    entry = {
        "count": len(uids), "examples": [f"{uid}: {message}" for uid in uids[:EXAMPLES]]
    }  # fmt: skip
    skipped = {**crystals.report["skipped"], "partial occupancy": entry}
    kept = crystals.report["kept"] - len(uids)
    report = {**crystals.report, "kept": kept, "skipped": skipped}
    return dataclasses.replace(crystals.take(np.flatnonzero(~mixed)), report=report)


def new_report() -> dict[str, Any]:
    """An empty report."""
    return {"rows": 0, "kept": 0, "skipped": {}, "duplicates": {"count": 0, "examples": []}}


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


def digest(crystals: CrystalSet) -> str:
    """12 hex digits that change with the crystals."""
    value = hashlib.sha256()
    for name, array in arrays_of(crystals).items():
        value.update(f"{name} {array.shape} {array.dtype}".encode() + array.tobytes())
    return value.hexdigest()[:12]


def reduced_formula(numbers: np.ndarray, occupancy: np.ndarray | None = None) -> str:
    """Reduced formula text of atomic numbers (N,), metals first: MoS2.

    Amounts that are not all whole numbers stay as they are in the cell: Mo0.5W0.5S2.
    """
    from ase.formula import Formula

    kinds, place, counts = np.unique(
        numbers[numbers > 0], return_inverse=True, return_counts=True
    )
    symbols = [ase.data.chemical_symbols[z] for z in kinds]
    if occupancy is not None:
        amounts = np.round(np.bincount(place, occupancy[numbers > 0]), 3)
        if (amounts != np.round(amounts)).any():
            told = dict(zip(symbols, (f"{x:g}" for x in amounts), strict=True))
            order = Formula.from_dict(dict.fromkeys(symbols, 1)).convert("metal").count()
            return "".join(x + ("" if told[x] == "1" else told[x]) for x in order)
        counts = amounts.astype(int)
    divisor = gcd(*counts.tolist())
    each = {x: int(c) // divisor for x, c in zip(symbols, counts, strict=True)}
    return Formula.from_dict(each).format("metal")


def crystal_set(
    infos: list[dict[str, Any]], layers: list[Layer], report: dict[str, Any]
) -> CrystalSet:
    """Infos and layers of `usable` as a set in memory."""
    count, size = len(layers), max((len(crystal.numbers) for crystal in layers), default=1)
    positions = np.zeros((count, size, 3), np.float32)
    numbers = np.zeros((count, size), np.int32)
    occupancy = np.ones((count, size), np.float32)
    for i, crystal in enumerate(layers):
        positions[i, : len(crystal.numbers)] = crystal.positions
        numbers[i, : len(crystal.numbers)] = crystal.numbers
        if crystal.occupancy is not None:
            occupancy[i, : len(crystal.numbers)] = crystal.occupancy
    text = {
        name: np.array([info[name] for info in infos], str)
        for name in ("uid", "formula", "prototype")
    }
    text["layer_group"] = np.array([info.get("layer_group", "") for info in infos], str)
    return CrystalSet(
        lattice=np.array([crystal.lattice for crystal in layers], np.float32).reshape(-1, 2, 2),
        positions=positions,
        numbers=numbers,
        known=np.array([info["known"] for info in infos], bool),
        ehull=np.array([info.get("ehull", np.nan) for info in infos], np.float32),
        occupancy=occupancy,
        report=report,
        **text,
    )


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
