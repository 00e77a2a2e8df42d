"""Brings each 2D crystal into one canonical setting.

`layer` is the one way in: whatever cell a crystal was published in (rotated, centred, a supercell,
vacuum along x), the same layer comes out. Lengths in angstrom.
"""

from typing import NamedTuple

import ase
import numpy as np
from ase.data import covalent_radii
from ase.data.vdw_alvarez import vdw_radii

from dd2d_jax.crystals.canonical import canonical_form, gauss_reduction
from dd2d_jax.util.errors import StructureError

MIN_GAP = 5.0  # layers of a bulk van der Waals crystal are 2.5 to 4 apart, vacuum is 10 or more
MAX_NUMBER = 103  # form factors end here
MAX_ATOMS = 1000  # all pairs are held in memory
CONTACT = 0.5  # beyond the summed van der Waals radii atoms do not hold a sheet together
SHORTEST = 0.5  # of the summed covalent radii: no two atoms of a crystal are closer
SAME_SITE = 0.5
FULL = 1e-3  # occupancies that are nearer to 1 are 1, and those of one site add to no more
MAX_LENGTH = 1e5  # angstrom, of cells and coordinates: squares and inverses stay exact enough
_MAX_PAIRS = 2e7  # of atoms and images that are looked at: a gigabyte


class Layer(NamedTuple):
    """A 2D crystal in canonical form.

    lattice (2, 2): a1, a2 as rows, angstrom; |a1| <= |a2| and 90 <= gamma <= 120 degrees (both to
    0.01 A), a1 along +x, a2 with y > 0. positions (N, 3): Cartesian, angstrom, in-plane inside the
    cell, z along the normal and centred on 0. numbers (N,): atomic numbers. occupancy (N,): above 0
    and at most 1, those of several atoms on one site add to at most 1; None: all are 1.
    """

    lattice: np.ndarray
    positions: np.ndarray
    numbers: np.ndarray
    occupancy: np.ndarray | None = None


def layer(atoms: ase.Atoms) -> Layer:
    """The canonical form of the layer in `atoms`, whatever its cell, setting or vacuum axis.

    Only proper rotations are used, so a chiral layer keeps its hand; its two sides are equivalent.

    Raises StructureError, with the category in `.reason`, where `atoms` is not a 2D crystal.
    """
    _check_numbers(atoms)
    _check_count(len(atoms))
    rows, numbers, occupancy = _species(atoms)
    _check_count(len(rows))
    lattice, positions = _flatten(atoms)
    positions, numbers = positions[rows], np.asarray(numbers, np.int32)
    _check_network(lattice, positions, numbers, occupancy)
    return Layer(*canonical_form(lattice, positions, numbers, occupancy))


def check_disordered(atoms: ase.Atoms) -> bool:
    """Whether `atoms` has partial occupancies, or more than `MAX_ATOMS` atoms.

    It can be simulated whatever `layer` says of it: disorder may be described in many ways.

    Raises:
        StructureError: no atoms, or numbers that no crystal has.
    """
    _check_numbers(atoms)
    return len(atoms) > MAX_ATOMS or _species(atoms)[2] is not None


def to_atoms(
    lattice: np.ndarray,
    positions: np.ndarray,
    numbers: np.ndarray,
    occupancy: np.ndarray | None = None,
    vacuum: float = 15.0,
) -> ase.Atoms:
    """ase.Atoms of a layer (`lattice` (2, 2), `positions` (N, 3), `numbers` (N,), 0 for padding).

    c is the thickness plus `vacuum` (angstrom), the layer in its middle; pbc = (1, 1, 0). Where
    `occupancy` (N,) is not None, it is put where ASE and `dx.Crystal.from_ase` read it.
    """
    real = np.asarray(numbers) > 0
    positions = np.array(positions, np.float64)[real]
    z = positions[:, 2]
    height = z.max() - z.min() + vacuum
    positions[:, 2] += height / 2 - (z.max() + z.min()) / 2
    cell = np.zeros((3, 3))
    cell[:2, :2], cell[2, 2] = lattice, height
    atoms = ase.Atoms(
        np.asarray(numbers)[real], positions=positions, cell=cell, pbc=(True, True, False)
    )
    if occupancy is not None:
        from diffraction.crystal import set_occupancies  # late: it takes jax along

        set_occupancies(atoms, np.asarray(occupancy)[real])
    return atoms


def _check_count(count: int) -> None:
    if count > MAX_ATOMS:
        raise StructureError(
            "too large",
            f"{count} atoms; at most {MAX_ATOMS} are taken, as weighing larger cells takes too "
            "long (dd2d simulate takes them)",
        )


def _check_numbers(atoms: ase.Atoms) -> None:
    if len(atoms) == 0:
        raise StructureError("no structure", "there are no atoms; a 2D crystal has at least one")
    bad = np.flatnonzero((atoms.numbers < 1) | (atoms.numbers > MAX_NUMBER))
    if bad.size:
        raise StructureError(
            "unknown element",
            f"atom {bad[0]} has atomic number {atoms.numbers[bad[0]]}; 1 to {MAX_NUMBER} are known",
        )
    if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all()):
        raise StructureError(
            "not a number", "the positions or the cell are not finite; finite numbers are needed"
        )
    largest = max(np.abs(atoms.positions).max(), np.abs(atoms.cell.array).max())
    if largest > MAX_LENGTH:
        raise StructureError(
            "too large", f"coordinates of {largest:g} A; at most {MAX_LENGTH:g} A are allowed"
        )


def _species(atoms: ase.Atoms) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Rows of `atoms`, one for each species on them, atomic numbers and occupancies, (M,) each.

    Occupancies are None where all are 1.
    """
    every = np.arange(len(atoms)), atoms.numbers, None
    told = {"occupancies", "occupancy"} & atoms.arrays.keys()
    if not told and not isinstance(atoms.info.get("occupancy"), dict):
        return every
    from diffraction.crystal import ase_sites  # late: it takes jax along

    try:
        rows, numbers, occupancy = ase_sites(atoms)
    except (TypeError, ValueError, AttributeError) as error:
        raise StructureError("wrong occupancy", str(error)) from error
    if occupancy is None:
        return every
    occupancy = np.where(np.abs(occupancy - 1) <= FULL, 1.0, occupancy)
    bad = np.flatnonzero(~((occupancy > 0) & (occupancy <= 1)))
    if bad.size:
        raise StructureError(
            "wrong occupancy",
            f"atom {rows[bad[0]]} has an occupancy of {occupancy[bad[0]]:g}; it must be above 0 "
            "and at most 1",
        )
    if not ((numbers >= 1) & (numbers <= MAX_NUMBER)).all():
        raise StructureError(
            "unknown element", f"on a mixed site; atomic numbers 1 to {MAX_NUMBER} are known"
        )
    return rows, numbers, None if (occupancy == 1).all() else occupancy


def _flatten(atoms: ase.Atoms) -> tuple[np.ndarray, np.ndarray]:
    """In-plane lattice (2, 2), a1 along x, and positions (N, 3) in one piece, z the normal."""
    rank = np.linalg.matrix_rank(atoms.cell.array, tol=1e-3)
    if rank < 2:
        raise StructureError(
            "no lattice",
            f"the cell has {rank} independent vectors; a 2D crystal needs two, or three",
        )
    cell = atoms.cell.complete().array
    if abs(np.linalg.det(cell)) < 1e-3:
        raise StructureError(
            "no lattice", "the cell's vectors lie in one plane; give three independent ones"
        )
    missing = np.flatnonzero(~atoms.cell.any(1))
    pbc = np.ones(3, bool) if sum(atoms.pbc) != 2 else atoms.pbc
    frac = atoms.positions @ np.linalg.inv(cell)
    axis = int(missing[0]) if missing.size else _vacuum_axis(cell, frac, pbc)
    first, second = cell[(axis + 1) % 3], cell[(axis + 2) % 3]
    normal = np.cross(first, second)
    normal /= np.linalg.norm(normal)
    height = abs(cell[axis] @ normal)
    along = frac[:, axis]
    positions = atoms.positions
    # files cut layers along open axes, too, but atoms more than a cell apart were never wrapped
    hole = np.diff(np.sort(along), prepend=along.min()).max() * height
    if not missing.size and (pbc[axis] or (np.ptp(along) < 1 and hole >= MIN_GAP)):
        _, cut = _gap(along)  # the vector that joins the layer may be tilted, so move by all of it
        positions = positions + np.round((along - cut) % 1.0 + cut - along)[:, None] * cell[axis]
    x = first / np.linalg.norm(first)
    frame = np.array([x, np.cross(normal, x), normal]).T
    return (np.array([first, second]) @ frame)[:, :2], positions @ frame


def _vacuum_axis(cell: np.ndarray, frac: np.ndarray, pbc: np.ndarray) -> int:
    """The cell axis out of the layer: the only non-periodic one, else that of most vacuum."""
    gaps = [_gap_along(index, cell, frac) for index in np.eye(3)]
    widest = int(np.argmax(gaps))
    if pbc.sum() == 2:
        axis = int(np.argmin(pbc))
        if gaps[axis] >= MIN_GAP or gaps[widest] < MIN_GAP:
            return axis
    if gaps[widest] >= MIN_GAP:
        return widest
    tilted = [index for index in np.ndindex(5, 5, 5) if index > (2, 2, 2)]
    if any(_gap_along(np.array(index) - 2, cell, frac) >= MIN_GAP for index in tilted):
        raise StructureError(
            "not flat in the cell",
            "the layer lies across the cell; choose two of the cell's vectors in its plane",
        )
    raise StructureError(
        "bulk",
        f"the widest gap is {gaps[widest]:.1f} A; a layer needs {MIN_GAP:g} A of vacuum",
    )


def _gap_along(index: np.ndarray, cell: np.ndarray, frac: np.ndarray) -> float:
    """Widest gap (angstrom) between lattice planes of Miller index `index`."""
    spacing = 1 / np.linalg.norm(np.linalg.inv(cell) @ index)
    return _gap(frac @ index)[0] * spacing


def _gap(along: np.ndarray) -> tuple[float, float]:
    """Widest gap between numbers modulo 1, and the number in its middle."""
    along = np.sort(along % 1.0)
    gaps = np.diff(along, append=along[0] + 1)
    widest = int(np.argmax(gaps))
    return float(gaps[widest]), float(along[widest] + gaps[widest] / 2)


def _check_network(
    lattice: np.ndarray,
    positions: np.ndarray,
    numbers: np.ndarray,
    occupancy: np.ndarray | None,
) -> None:
    """Raises where atoms are too close, or where contacts do not join the atoms into a sheet.

    Atoms whose occupancies add to at most 1 need not be there together: they may be close.

    Bonds alone would not do: sheets of chains or molecules (HgI2, SbSI, AgCl) are 2D crystals as
    well, with a pattern like any other's. Lone chains and clusters are those that do not even touch
    their neighbours.
    """
    shortest = np.linalg.norm(gauss_reduction(lattice)[0] @ lattice)
    if shortest < SAME_SITE:
        raise StructureError(
            "two atoms on one site",
            f"the cell repeats every {shortest:.2f} A; {SAME_SITE} A or more is plausible",
        )
    bonded = covalent_radii[numbers]
    touching = vdw_radii[numbers]
    touching = np.where(np.isnan(touching), bonded + 0.8, touching)  # not tabled: a usual excess
    i, j, shift, distance = _neighbours(lattice, positions, 2 * touching.max() + CONTACT)
    together = np.ones(len(i), bool)
    if occupancy is not None:
        _check_sites(i, j, distance, occupancy)
        together = occupancy[i] + occupancy[j] > 1 + FULL
    first, second = i[together], j[together]
    _check_distances(first, second, distance[together], bonded[first] + bonded[second])
    touch = distance < touching[i] + touching[j] + CONTACT
    rank = _periodicity(len(numbers), i[touch], j[touch], shift[touch])
    if rank < 2:
        name = ("cluster", "chain")[rank]
        raise StructureError(
            name,
            f"the atoms form isolated {name}s; in a 2D crystal, contacts join them into a sheet",
        )


def _check_sites(
    i: np.ndarray, j: np.ndarray, distance: np.ndarray, occupancy: np.ndarray
) -> None:
    """Raises where the occupancies of atoms on one site add to more than 1."""
    near = distance < SAME_SITE
    total = occupancy + np.bincount(i[near], occupancy[j[near]], len(occupancy))
    most = int(np.argmax(total))
    if total[most] > 1 + FULL:
        raise StructureError(
            "wrong occupancy",
            f"the occupancies of atom {most} and of those on its site add to {total[most]:g}; they "
            "must add to at most 1",
        )


def _check_distances(i: np.ndarray, j: np.ndarray, distance: np.ndarray, bond: np.ndarray) -> None:
    """Raises for neighbours i, j (P,) that are absurdly near, given `bond` (P,), summed radii."""
    if not distance.size:
        return
    nearest = int(np.argmin(distance))
    if distance[nearest] >= SAME_SITE:
        nearest = int(np.argmin(distance / bond))
    who = f"atoms {i[nearest]} and {j[nearest]} are {distance[nearest]:.2f} A apart"
    if distance[nearest] < SAME_SITE:
        raise StructureError(
            "two atoms on one site", f"{who}; keep one atom per site, {SAME_SITE} A or more apart"
        )
    if distance[nearest] < SHORTEST * bond[nearest]:
        raise StructureError(
            "atoms too close", f"{who}; at least {SHORTEST * bond[nearest]:.2f} A is plausible"
        )


def _neighbours(
    lattice: np.ndarray, positions: np.ndarray, cutoff: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Neighbours within `cutoff`: i, j (P,), lattice shift (P, 2) of j, and distance (P,)."""
    lattice = gauss_reduction(lattice) @ lattice
    frac = positions[:, :2] @ np.linalg.inv(lattice)
    heights = abs(np.linalg.det(lattice)) / np.linalg.norm(lattice, axis=1)[::-1]
    reach = np.floor(cutoff / heights + 0.5).astype(int)
    images = np.stack(
        np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), -1
    ).reshape(-1, 2)
    if len(images) * len(frac) ** 2 > _MAX_PAIRS:
        raise StructureError(
            "two atoms on one site",
            f"{len(frac)} atoms in a cell of {abs(np.linalg.det(lattice)):.3g} A^2 are too many",
        )
    delta = frac[None, :] - frac[:, None]
    nearest = np.round(delta)
    plane = (delta - nearest)[None] @ lattice + (images @ lattice)[:, None, None]
    height = positions[None, :, 2] - positions[:, None, 2]
    distance = np.sqrt((plane**2).sum(-1) + height**2)
    near = distance < cutoff
    near[(images == 0).all(1), np.arange(len(frac)), np.arange(len(frac))] = False
    image, i, j = np.nonzero(near)
    return i, j, (images[image] - nearest[i, j]).astype(int), distance[near]


def _periodicity(count: int, i: np.ndarray, j: np.ndarray, shift: np.ndarray) -> int:
    """In how many directions (0, 1, 2) the most extended bonded network repeats."""
    bonds: list[list[tuple[int, int, int]]] = [[] for _ in range(count)]
    for a, b, u, v in zip(i.tolist(), j.tolist(), *shift.T.tolist(), strict=True):
        bonds[a].append((b, u, v))
    place: dict[int, tuple[int, int]] = {}
    best = 0
    for start in range(count):
        if start in place:
            continue
        place[start], todo, first = (0, 0), [start], None
        while todo:
            a = todo.pop()
            for b, u, v in bonds[a]:
                here = (place[a][0] + u, place[a][1] + v)
                if b not in place:
                    place[b] = here
                    todo.append(b)
                    continue
                loop = (here[0] - place[b][0], here[1] - place[b][1])
                if loop == (0, 0):
                    continue
                if first is None:
                    first, best = loop, max(best, 1)
                elif first[0] * loop[1] != first[1] * loop[0]:
                    return 2
    return best
