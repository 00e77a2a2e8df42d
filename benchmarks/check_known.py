"""Compare the known monolayers of `dd2d_jax.data.prototypes` with two computed databases.

    python benchmarks/check_known.py [--c2db FILE] [--twodmatpedia FILE] [--hypothetical]

A counterpart has the same atoms in the cell and the same space group (of the layer in its vacuum
cell); of several, the one nearest in lattice and heights is taken. Compared are the reduced lattice
(a, b, gamma), the thickness, the heights of the elements and the shortest distance of every pair of
elements. Ends with status 1 where a difference over the limits is not explained in the tables.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import ase.db
import numpy as np
import spglib
from ase import Atoms
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dd2d_jax.data.prototypes import generate  # noqa: E402
from dd2d_jax.data.prototypes.reference import references  # noqa: E402
from dd2d_jax.data.prototypes.unique import distances  # noqa: E402

LATTICE_LIMIT = 3.0
"""Percent, of a and b (and of gamma in units of 90 degrees)."""
HEIGHT_LIMIT = 0.15
"""Angstrom, of thickness and heights, or 5 % of the thickness where that is more."""
BOND_LIMIT = 5.0
"""Percent, of the shortest distance of every pair of elements."""
DATA = Path("../shared/data")


@dataclass(frozen=True)
class Difference:
    """How far a known monolayer is from its counterpart."""

    uid: str
    lattice: tuple[float, float, float]
    percent: float
    height: float
    height_limit: float
    bond: float

    @property
    def small(self) -> bool:
        return (
            self.percent <= LATTICE_LIMIT
            and self.height <= self.height_limit
            and self.bond <= BOND_LIMIT
        )

    @property
    def size(self) -> float:
        return self.percent / LATTICE_LIMIT + self.height / HEIGHT_LIMIT + self.bond / BOND_LIMIT


@dataclass(frozen=True)
class Row:
    """One known monolayer and what was found for it; `found` has an item for each database."""

    uid: str
    prototype: str
    atoms: Atoms
    verdict: str
    found: tuple[Difference | None, ...]
    explained: str


def reduced_lattice(atoms: Atoms) -> tuple[float, float, float]:
    """a <= b in angstrom and gamma (degrees, 60 to 90) of the shortest in-plane basis."""
    short, long = (np.array(v) for v in atoms.cell[:2, :2])
    while True:
        if short @ short > long @ long:
            short, long = long, short
        steps = round(float(short @ long / (short @ short)))
        if steps == 0:
            break
        long = long - steps * short
    a, b = np.linalg.norm(short), np.linalg.norm(long)
    gamma = np.degrees(np.arccos(np.clip(abs(short @ long) / (a * b), -1, 1)))
    return float(a), float(b), float(gamma)


def space_group(atoms: Atoms) -> int:
    """Space group number of the layer in its vacuum cell, positions good to 0.1 angstrom."""
    cell = (atoms.cell[:], atoms.get_scaled_positions(), atoms.numbers)
    found = spglib.get_symmetry_dataset(cell, symprec=0.1)
    return found.number if found is not None else 0


def heights(atoms: Atoms) -> np.ndarray:
    """Thickness, then the mean distance of each element from the middle, angstrom."""
    z = atoms.positions[:, 2]
    middle = (z.max() + z.min()) / 2
    means = [np.abs(z[atoms.numbers == n] - middle).mean() for n in np.unique(atoms.numbers)]
    return np.array([np.ptp(z), *means])


def shortest(atoms: Atoms) -> np.ndarray:
    """Shortest distance of every pair of elements, angstrom."""
    distance = distances(atoms.cell[None, :2, :2], atoms.positions[None])[0].min(-1)
    elements = np.unique(atoms.numbers)
    return np.array(
        [
            distance[np.ix_(atoms.numbers == x, atoms.numbers == y)].min()
            for i, x in enumerate(elements)
            for y in elements[i:]
        ]
    )


def difference(ours: Atoms, theirs: Atoms, uid: str) -> Difference:
    """Measure how far two crystals of the same atoms are from each other."""
    mine, other = reduced_lattice(ours), reduced_lattice(theirs)
    scale = (other[0], other[1], 90.0)
    percent = max(abs(m - o) / s * 100 for m, o, s in zip(mine, other, scale, strict=True))
    thickness = np.ptp(theirs.positions[:, 2])
    near = shortest(theirs)
    return Difference(
        uid=uid,
        lattice=other,
        percent=float(percent),
        height=float(np.abs(heights(ours) - heights(theirs)).max()),
        height_limit=max(HEIGHT_LIMIT, 0.05 * float(thickness)),
        bond=float((np.abs(shortest(ours) - near) / near).max() * 100),
    )


def read_database(path: Path, formulas: set[str]) -> dict[str, list[tuple[str, Atoms]]]:
    """Crystals of the given formulas (Hill order, whole cell) from an ASE database."""
    found = defaultdict(list)
    for row in ase.db.connect(path).select():
        atoms = row.toatoms()
        formula = atoms.get_chemical_formula()
        if formula in formulas:
            found[formula].append((row.uid, atoms))
    return found


def nearest(ours: Atoms, candidates: Iterable[tuple[str, Atoms]]) -> Difference | None:
    """The counterpart of a crystal among candidates of the same formula, if there is one."""
    group = space_group(ours)
    same = [(uid, atoms) for uid, atoms in candidates if space_group(atoms) == group]
    if not same:
        return None
    return min((difference(ours, atoms, uid) for uid, atoms in same), key=lambda d: d.size)


def compare(paths: list[Path]) -> list[Row]:
    """Compare every known monolayer with every database."""
    known = [reference for reference in references() if reference.known]
    formulas = {reference.atoms.get_chemical_formula() for reference in known}
    databases = [read_database(path, formulas) for path in paths]
    rows = []
    for reference in known:
        formula = reference.atoms.get_chemical_formula()
        found = tuple(nearest(reference.atoms, base.get(formula, ())) for base in databases)
        there = [d for d in found if d is not None]
        if not there:
            verdict = "no counterpart"
        elif all(d.small for d in there):
            verdict = "OK"
        else:
            verdict = "explained" if reference.explained else "DIFFERS"
        rows.append(
            Row(
                reference.uid,
                reference.prototype,
                reference.atoms,
                verdict,
                found,
                reference.explained,
            )
        )
    return rows


def hypothetical_errors(path: Path) -> np.ndarray:
    """Lattice differences in percent of decorated crystals that the database has, too."""
    made = [a for a, i in generate() if ":" in i["uid"] and "layer" not in i["prototype"]]
    base = read_database(path, {atoms.get_chemical_formula() for atoms in made})
    pairs = ((atoms, base.get(atoms.get_chemical_formula(), ())) for atoms in made)
    found = [nearest(atoms, entries) for atoms, entries in pairs if entries]
    return np.array([d.percent for d in found if d is not None])


def _cells(found: Difference | None) -> list[str]:
    if found is None:
        return ["-", "", "", "", ""]
    a, b, gamma = found.lattice
    lattice = f"{a:.2f} {b:.2f} {gamma:.0f}"
    return [found.uid, lattice, f"{found.percent:.1f}", f"{found.height:.2f}", f"{found.bond:.1f}"]


def main() -> int:
    """Print the table; 1 where a difference is not explained."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--c2db", type=Path, default=DATA / "c2db.db")
    parser.add_argument("--twodmatpedia", type=Path, default=DATA / "twodmatpedia.db")
    parser.add_argument("--only", default="", help="print only rows of this verdict")
    parser.add_argument("--hypothetical", action="store_true", help="also measure the decorations")
    options = parser.parse_args()
    rows = compare([options.c2db, options.twodmatpedia])
    table = Table("uid", "prototype", "a b gamma")
    for name in ("C2DB", "2DMatPedia"):
        for column in (name, "a b gamma", "lattice %", "height A", "bond %"):
            table.add_column(column)
    table.add_column("verdict")
    for row in rows:
        if options.only and row.verdict != options.only:
            continue
        a, b, gamma = reduced_lattice(row.atoms)
        cells = [cell for one in row.found for cell in _cells(one)]
        text = f"{row.verdict}: {row.explained}" if row.explained else row.verdict
        table.add_row(row.uid, row.prototype, f"{a:.2f} {b:.2f} {gamma:.0f}", *cells, text)
    console = Console(width=220)
    console.print(table)
    verdicts = [row.verdict for row in rows]
    for verdict in ("OK", "explained", "no counterpart", "DIFFERS"):
        console.print(f"{verdict}: {verdicts.count(verdict)}")
    single = sum(row.found[0] is None and row.found[1] is not None for row in rows)
    console.print(f"of these with a counterpart in 2DMatPedia alone: {single}")
    for path in [options.c2db, options.twodmatpedia] if options.hypothetical else []:
        errors = hypothetical_errors(path)
        quartiles = ", ".join(f"{q:.1f}" for q in np.percentile(errors, [25, 50, 75]))
        console.print(f"{path.name}: {len(errors)} decorations, lattice %: {quartiles} (quartiles)")
    return 1 if "DIFFERS" in verdicts else 0


if __name__ == "__main__":
    sys.exit(main())
