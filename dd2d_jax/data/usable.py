"""Which crystals of a source can be used; what cannot is skipped, counted and reported."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from dd2d_jax.crystals.structures import Layer, layer
from dd2d_jax.data import sources
from dd2d_jax.data.crystal_set import EXAMPLES, CrystalSet, crystal_set, new_report, reduced_formula
from dd2d_jax.util.errors import StructureError
from dd2d_jax.util.limits import MAX_NAME

SAME = 0.05  # angstrom: canonical forms as near as this are structural duplicates


def from_atoms(entries: Iterable[sources.Entry]) -> CrystalSet:
    """A set in memory of (ase.Atoms, info) pairs; info may hold `uid`, `known` and `prototype`.

    Crystals that cannot be used are left out and counted in `report`: rows, kept, skipped ({reason:
    {count, examples}}), and duplicates (kept, but with the same structure as one before). Raises
    ValueError where none is left.
    """
    report = new_report()
    kept = list(usable(entries, report))
    return crystal_set([info for info, _ in kept], [crystal for _, crystal in kept], report)


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
        info = {"known": False, "prototype": "", "ehull": np.nan, "layer_group": "", **info}
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
        same_atoms = seen.setdefault(_atoms_key(crystal), [])
        twin = _twin(crystal, same_atoms)
        if twin is not None:
            _count(report["duplicates"], f"{uid} = {twin}")
        same_atoms.append((uid, crystal))
        info["formula"] = reduced_formula(crystal.numbers, crystal.occupancy)
        yield info, crystal


def skip(report: dict[str, Any], reason: str, example: str, count: int = 1) -> None:
    """Count crystals in a report that were left out for a reason."""
    entry = report["skipped"].setdefault(reason, {"count": 0, "examples": []})
    _count(entry, example, count)


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


def _count(entry: dict[str, Any], example: str, count: int = 1) -> None:
    entry["count"] += count
    if len(entry["examples"]) < EXAMPLES:
        entry["examples"].append(example)


def _atoms_key(crystal: Layer) -> bytes:
    """The same for crystals of the same atomic numbers and occupancies."""
    shares = () if crystal.occupancy is None else np.round(crystal.occupancy, 3)
    return crystal.numbers.tobytes() + np.asarray(shares).tobytes()


def _twin(crystal: Layer, others: list[tuple[str, Layer]]) -> str | None:
    """uid of the first of `others` (same atoms) with the same canonical form."""
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
