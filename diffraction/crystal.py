"""2D crystals as JAX pytrees."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from diffraction.tabulated import SYMBOLS

if TYPE_CHECKING:
    import ase
    import pymatgen.core

# The least vacuum, in angstrom, that tells a layer from a bulk crystal in a fully periodic cell.
MIN_VACUUM = 5.0
# A gap that no layer has inside it, in angstrom: along an open axis it tells a layer that was cut.
_CUT = 10.0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Crystal:
    """A 2D crystal, or a batch of them with the batch axes in front.

    Attributes:
        lattice: (..., 2, 2) in angstrom; rows a1 and a2, in the layer's plane (x, y).
        positions: (..., N, 3) Cartesian in angstrom; z is the layer normal. There is no c axis.
        numbers: (..., N) integers, atomic numbers; 0 marks padding.
        occupancy: (..., N) from 0 to 1, the share of cells in which the atom is there; None: all
            are 1. Several atoms may share one place.
        u: (..., N, 3, 3) mean square displacements in angstrom^2, Cartesian as `positions` are,
            symmetric; None: all are 0.
    """

    lattice: jax.Array
    positions: jax.Array
    numbers: jax.Array
    occupancy: jax.Array | None = None
    u: jax.Array | None = None

    @property
    def reciprocal(self) -> jax.Array:
        """(..., 2, 2) in 1/angstrom; rows b1 and b2 with a_i . b_j = delta_ij (no 2 pi)."""
        return reciprocal(self.lattice)

    def __len__(self) -> int:
        if self.numbers.ndim < 2:
            raise TypeError("a single Crystal has no length; stack() makes a batch")
        return self.numbers.shape[0]

    def __getitem__(self, index) -> Crystal:
        """Index the batch axes."""
        if self.numbers.ndim < 2:
            raise TypeError("a single Crystal cannot be indexed; stack() makes a batch")
        return jax.tree.map(lambda x: x[index], self)

    @classmethod
    def from_ase(cls, atoms: ase.Atoms) -> Crystal:
        """A crystal from a layer in an `ase.Atoms`.

        The axis normal to the layer is the one that `atoms.pbc` leaves open, else the one with
        the largest vacuum. A layer cut by the cell boundary is joined; one that does not lie in
        (x, y) is turned there, a1 along x, the open axis up. The vacuum's length does not enter.

        Occupancies are read from `atoms.arrays`, "occupancies" or "occupancy", else from what ASE
        makes of a CIF
        (`atoms.info["occupancy"]`, by `atoms.arrays["spacegroup_kinds"]`), where each species on
        a mixed site becomes an atom. Displacements are read from `atoms.arrays["u"]`, (N, 9) or
        (N, 3, 3) in angstrom^2 and the frame of the positions; they are turned with the layer.

        Args:
            atoms: a layer; `cell` needs two vectors in its plane.

        Raises:
            ValueError: no atoms, an unknown element, a cell without two in-plane vectors, numbers
                that are not finite, no vacuum of 5 A along any axis (a bulk crystal), occupancies
                beyond 0 to 1 or that do not fit the atoms, or displacements not symmetric.
        """
        rows, numbers, occupancy = ase_sites(atoms)
        u = atoms.arrays.get("u")
        return cls._from_cell(
            np.asarray(atoms.cell, float),
            np.asarray(atoms.positions, float)[rows],
            np.asarray(atoms.pbc),
            numbers,
            occupancy,
            None if u is None else np.reshape(u, (-1, 3, 3))[rows],
        )

    def to_ase(self, vacuum: float = 15.0) -> ase.Atoms:
        """The crystal as `ase.Atoms`, periodic in the plane.

        `from_ase` gives the crystal back, at another height. Occupancies go into
        `atoms.arrays["occupancies"]` and where ASE has them for CIF files, displacements as
        (N, 9) into `atoms.arrays["u"]`. Of ASE's file formats CIF and extended XYZ keep
        occupancies, JSON, databases and POSCAR none; `atoms.rotate` does not turn displacements.

        Args:
            vacuum: length in angstrom that the c axis has beyond the layer's thickness.

        Raises:
            ValueError: a batch.
        """
        import ase

        cell, positions, numbers, occupancy, u = self._to_cell(vacuum, "to_ase")
        atoms = ase.Atoms(numbers, positions=positions, cell=cell, pbc=(True, True, False))
        if occupancy is not None:
            set_occupancies(atoms, occupancy)
        if u is not None:
            atoms.set_array("u", u.reshape(-1, 9))
        return atoms

    @classmethod
    def from_pymatgen(cls, structure: pymatgen.core.Structure) -> Crystal:
        """A crystal from a layer in a pymatgen `Structure`; see `from_ase`.

        A disordered site becomes one atom for each of its species, with its occupancy. The site
        property "u", (3, 3) in angstrom^2 and Cartesian, holds displacements; None is none.

        Raises:
            ValueError: as `from_ase`.
        """
        atoms = [(site, x, o) for site in structure for x, o in site.species.items()]
        u = None
        if "u" in structure.site_properties:
            rows = [site.properties.get("u") for site, _, _ in atoms]
            u = np.array([np.zeros((3, 3)) if x is None else x for x in rows], float)
        return cls._from_cell(
            np.array(structure.lattice.matrix),
            np.array([site.coords for site, _, _ in atoms]).reshape(-1, 3),
            np.array(structure.lattice.pbc),
            np.array([getattr(x, "Z", 0) for _, x, _ in atoms], int),
            np.array([o for _, _, o in atoms], float),
            u,
        )

    def to_pymatgen(self, vacuum: float = 15.0) -> pymatgen.core.Structure:
        """The crystal as a pymatgen `Structure`, periodic in the plane.

        `from_pymatgen` gives the crystal back, at another height. Neighbours in the list of atoms
        that stand at one place with the same displacements become one disordered site.

        Args:
            vacuum: length in angstrom that the c axis has beyond the layer's thickness.

        Raises:
            ValueError: a batch.
        """
        from pymatgen.core import Element, Lattice, Structure

        cell, positions, numbers, occupancy, u = self._to_cell(vacuum, "to_pymatgen")
        species, rows = [], []
        for i, z in enumerate(map(int, numbers)):
            share = 1.0 if occupancy is None else float(occupancy[i])
            joins = (
                rows
                and (positions[i] == positions[rows[-1]]).all()
                and (u is None or (u[i] == u[rows[-1]]).all())
                and Element.from_Z(z) not in species[-1]
                and share + sum(species[-1].values()) <= 1 + 1e-8
            )
            if not joins:
                species.append({})
                rows.append(i)
            species[-1][Element.from_Z(z)] = share
        return Structure(
            Lattice(cell, pbc=(True, True, False)),
            species,
            positions[rows],
            coords_are_cartesian=True,
            site_properties=None if u is None else {"u": u[rows].tolist()},
        )

    @classmethod
    def _from_cell(
        cls,
        cell: np.ndarray,
        positions: np.ndarray,
        pbc: np.ndarray,
        numbers: np.ndarray,
        occupancy: np.ndarray | None,
        u: np.ndarray | None,
    ) -> Crystal:
        """From atoms in a cell of three vectors; occupancies that are all 1 are left out."""
        if len(numbers) == 0:
            raise ValueError("the structure has no atoms; a 2D crystal needs at least one")
        if numbers.min() < 1 or numbers.max() > 103:
            raise ValueError(
                f"atomic numbers must lie in 1 to 103, got {np.unique(numbers).tolist()}"
            )
        if not (np.isfinite(cell).all() and np.isfinite(positions).all()):
            raise ValueError("the cell or the positions are not finite numbers")
        if occupancy is not None:
            bad = np.flatnonzero(~((occupancy >= 0) & (occupancy <= 1)))
            if len(bad):
                raise ValueError(
                    f"occupancies must lie in 0 to 1; atom {bad[0]} has {occupancy[bad[0]]}"
                )
            occupancy = None if (occupancy == 1).all() else jnp.asarray(occupancy)
        lattice, positions, frame = _layer_frame(cell, positions, pbc)
        if u is not None:
            bad = np.flatnonzero(
                ~np.isclose(u, np.swapaxes(u, 1, 2), rtol=1e-4, atol=1e-8).all((1, 2))
            )
            if len(bad):
                raise ValueError(
                    f"displacements u must be symmetric and finite; atom {bad[0]} has "
                    f"{u[bad[0]].tolist()}"
                )
            u = jnp.asarray(frame @ u @ frame.T)
        return cls(
            *jax.device_put((lattice, positions, np.asarray(numbers, np.int32))),
            occupancy,
            u,
        )

    def _to_cell(self, vacuum: float, name: str) -> tuple[np.ndarray | None, ...]:
        """cell, positions, numbers, occupancy, u of the real atoms, the layer amid the vacuum."""
        if self.numbers.ndim != 1:
            raise ValueError(f"{name} takes a single crystal; index the batch first")
        real = np.asarray(self.numbers) > 0
        positions = np.asarray(self.positions, float)[real]
        z = positions[:, 2]
        cell = np.zeros((3, 3))
        cell[:2, :2] = np.asarray(self.lattice, float)
        cell[2, 2] = np.ptp(z) + vacuum
        positions[:, 2] = z - (z.min() + z.max()) / 2 + cell[2, 2] / 2
        occupancy, u = self.occupancy, self.u
        if occupancy is not None:
            occupancy = _shortest(np.asarray(occupancy)[real])
        if u is not None:
            u = np.asarray(u, float)[real]
        return cell, positions, np.asarray(self.numbers)[real], occupancy, u


def set_occupancies(atoms: ase.Atoms, occupancy: np.ndarray) -> None:
    """Put occupancies (N,) where `Crystal.from_ase` and ASE's writer of CIF files look for them."""
    occupancy = _shortest(np.asarray(occupancy))
    atoms.set_array("occupancies", occupancy)
    atoms.set_array("spacegroup_kinds", np.arange(len(atoms)))
    pairs = zip(atoms.symbols, map(float, occupancy), strict=True)
    atoms.info["occupancy"] = {str(i): {x: o} for i, (x, o) in enumerate(pairs)}


def _shortest(values: np.ndarray) -> np.ndarray:
    """As doubles: 0.4, not the double next to float32's 0.4."""
    return values.astype(str).astype(float)


def ase_sites(atoms: ase.Atoms) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Rows of `atoms` (M,), one for each species on them, and their atomic numbers and occupancies.

    Occupancies (M,) are as they are given; None where every atom is there in all cells.

    Raises:
        ValueError: occupancies of 0, not one for each atom, or that do not fit the atoms.
    """
    numbers, rows = np.asarray(atoms.numbers), np.arange(len(atoms))
    name = next((x for x in ("occupancies", "occupancy") if x in atoms.arrays), None)
    if name is not None:
        occupancy = np.asarray(atoms.arrays[name], float)
        if occupancy.shape != numbers.shape:
            raise ValueError(
                f"atoms.arrays[{name!r}] has the shape {occupancy.shape}; one number for each of "
                f"{len(atoms)} atoms is needed"
            )
        if (occupancy == 0).any():
            raise ValueError(
                f"atom {int(np.argmax(occupancy == 0))} has occupancy 0, which ASE gives to atoms "
                "that are added; set atoms.arrays['occupancies']"
            )
        return rows, numbers, occupancy
    kinds = {str(k): site for k, site in atoms.info.get("occupancy", {}).items()}
    if all(list(site.values()) == [1] for site in kinds.values()):
        return rows, numbers, None
    # Without a space group, ASE counts the atoms themselves.
    kind = atoms.arrays.get("spacegroup_kinds", rows if len(kinds) == len(atoms) else None)
    if kind is None:
        raise ValueError(
            "atoms.info['occupancy'] has no atoms.arrays['spacegroup_kinds'] that says whose they "
            "are; set atoms.arrays['occupancies'] instead"
        )
    z = {x: i for i, x in enumerate(SYMBOLS)}  # what is unknown counts as 0, which is refused
    out: list[tuple[int, int, float]] = []
    for i, symbol in enumerate(atoms.symbols):
        site = kinds.get(str(kind[i]), {})
        if symbol not in site:
            raise ValueError(f"atoms.info['occupancy'] has no occupancy for atom {i} ({symbol})")
        out.extend((i, z.get(x, 0), float(o)) for x, o in site.items())
    rows, numbers, occupancy = zip(*out, strict=True)
    return np.array(rows), np.array(numbers), np.array(occupancy)


@jax.jit
def reciprocal(lattice: jax.Array) -> jax.Array:
    """Rows b1, b2 (..., 2, 2) in 1/angstrom of lattices (..., 2, 2) in angstrom."""
    a, b = lattice[..., 0, :], lattice[..., 1, :]
    area = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    rows = jnp.stack(
        [
            jnp.stack([b[..., 1], -b[..., 0]], -1),
            jnp.stack([-a[..., 1], a[..., 0]], -1),
        ],
        -2,
    )
    return rows / area[..., None, None]


def stack(crystals: Sequence[Crystal], size: int | None = None) -> Crystal:
    """Pad single crystals to one number of atoms and batch them.

    Where some have occupancies or displacements and others none, these get ones and zeros.

    Args:
        crystals: single crystals.
        size: number of atom slots; None takes the largest crystal's.

    Raises:
        ValueError: nothing to stack, or a crystal with more than `size` atoms.
    """
    if not crystals:
        raise ValueError("stack needs at least one crystal")
    for i, crystal in enumerate(crystals):
        if not isinstance(crystal, Crystal) or crystal.numbers.ndim != 1:
            kind = "batch" if isinstance(crystal, Crystal) else type(crystal).__name__
            raise ValueError(f"stack takes single crystals; number {i} is a {kind}")
    largest = max(c.numbers.shape[0] for c in crystals)
    size = largest if size is None else size
    if size < largest:
        raise ValueError(f"size={size} is too small for a crystal of {largest} atoms")

    def batch(values: Sequence[jax.Array | np.ndarray]) -> jax.Array:
        arrays = [np.asarray(x) for x in values]
        out = np.zeros((len(arrays), size, *arrays[0].shape[1:]), np.result_type(*arrays))
        for row, x in zip(out, arrays, strict=True):
            row[: len(x)] = x
        return jax.device_put(out)

    def optional(name: str, absent: Callable[[Crystal], np.ndarray]) -> jax.Array | None:
        values = [getattr(c, name) for c in crystals]
        if all(x is None for x in values):
            return None
        filled = zip(crystals, values, strict=True)
        return batch([absent(c) if x is None else x for c, x in filled])

    return Crystal(
        jnp.asarray(np.stack([np.asarray(c.lattice) for c in crystals])),
        batch([c.positions for c in crystals]),
        batch([c.numbers for c in crystals]),
        optional("occupancy", lambda c: np.ones(c.numbers.shape, c.positions.dtype)),
        optional("u", lambda c: np.zeros((*c.numbers.shape, 3, 3), c.positions.dtype)),
    )


def _layer_frame(
    cell: np.ndarray, positions: np.ndarray, pbc: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """In-plane lattice (2, 2), positions (N, 3) with the normal along z, the turn (3, 3) there."""
    axis, joined = _join_layer(cell, positions, pbc)
    a1, a2 = cell[[i for i in range(3) if i != axis]]
    normal = np.cross(a1, a2)
    area = np.linalg.norm(normal)
    if area < 1e-3:
        raise ValueError("the cell has no two independent in-plane vectors; give both")
    normal /= area
    if abs(normal[2]) > 1 - 1e-9:
        # Rounded in a file, or exact: the smallest turn to z, so that x stays where it is.
        x, y, z = normal * np.sign(normal[2])
        cross = np.array([[0.0, 0.0, -x], [0.0, 0.0, -y], [x, y, 0.0]])
        frame = np.eye(3) + cross + cross @ cross / (1 + z)
    else:
        if normal @ cell[axis] < 0:  # the same side is up whichever axis is the open one
            normal = -normal
        x = a1 / np.linalg.norm(a1)
        frame = np.stack([x, np.cross(normal, x), normal])
    return np.stack([frame[:2] @ a1, frame[:2] @ a2]), joined @ frame.T, frame


def _join_layer(cell: np.ndarray, positions: np.ndarray, pbc: np.ndarray) -> tuple[int, np.ndarray]:
    """The axis out of the plane and positions with the layer in one piece along it."""
    open_axes = [i for i in range(3) if not pbc[i] or not cell[i].any()]
    volume = abs(np.linalg.det(cell))
    if len(open_axes) == 1:
        axis = open_axes[0]
        if volume < 1e-3:
            return axis, positions
        # Files with wrapped positions cut layers along open axes, too. Only a layer within one
        # cell can have been wrapped; any other is as its positions say.
        gap, start, fraction = _widest_gap(cell, positions, axis)
        if gap < _CUT or np.ptp(fraction) >= 1:
            return axis, positions
    else:
        if volume < 1e-3:
            raise ValueError(
                "the cell needs two in-plane vectors and, where pbc does not say which axis is "
                "open, a third with vacuum; set atoms.pbc=(True, True, False)"
            )
        gaps = [_widest_gap(cell, positions, i) for i in range(3)]
        axis = int(np.argmax([gap for gap, _, _ in gaps]))
        gap, start, fraction = gaps[axis]
        if gap < MIN_VACUUM:
            raise ValueError(
                f"no layer: the largest gap along any axis is {gap:.1f} A, a 2D crystal "
                f"needs {MIN_VACUUM:.0f} A of vacuum (a bulk crystal?)"
            )
    shift = np.floor(fraction - start + 1e-9)
    return axis, positions - shift[:, None] * cell[axis]


def _widest_gap(
    cell: np.ndarray, positions: np.ndarray, axis: int
) -> tuple[float, float, np.ndarray]:
    """Along a periodic axis: the widest gap in angstrom, the fraction it ends at, fractions."""
    inverse = np.linalg.inv(cell)[:, axis]
    fraction = positions @ inverse
    ordered = np.sort(fraction % 1.0)
    steps = np.diff(np.append(ordered, ordered[0] + 1.0))
    widest = int(np.argmax(steps))
    height = 1 / np.linalg.norm(inverse)
    return steps[widest] * height, ordered[(widest + 1) % len(ordered)], fraction
