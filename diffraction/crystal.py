"""2D crystals as JAX pytrees."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    import ase

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
    """

    lattice: jax.Array
    positions: jax.Array
    numbers: jax.Array

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

        Args:
            atoms: a layer; `cell` needs two vectors in its plane.

        Raises:
            ValueError: no atoms, an unknown element, a cell without two in-plane vectors, numbers
                that are not finite, or no vacuum of 5 A along any axis (a bulk crystal).
        """
        numbers = np.asarray(atoms.numbers)
        if len(numbers) == 0:
            raise ValueError("the structure has no atoms; a 2D crystal needs at least one")
        if numbers.min() < 1 or numbers.max() > 103:
            raise ValueError(f"atomic numbers must lie in 1 to 103, got {sorted(set(numbers))}")
        cell, positions = np.asarray(atoms.cell, float), np.asarray(atoms.positions, float)
        if not (np.isfinite(cell).all() and np.isfinite(positions).all()):
            raise ValueError("the cell or the positions are not finite numbers")
        lattice, positions = _layer_frame(cell, positions, np.asarray(atoms.pbc))
        return cls(jnp.asarray(lattice), jnp.asarray(positions), jnp.asarray(numbers, jnp.int32))

    def to_ase(self, vacuum: float = 15.0) -> ase.Atoms:
        """The crystal as `ase.Atoms`, periodic in the plane.

        Args:
            vacuum: length in angstrom that the c axis has beyond the layer's thickness.
        """
        import ase

        if self.numbers.ndim != 1:
            raise ValueError("to_ase takes a single crystal; index the batch first")
        real = np.asarray(self.numbers) > 0
        positions = np.asarray(self.positions, float)[real]
        z = positions[:, 2]
        cell = np.zeros((3, 3))
        cell[:2, :2] = np.asarray(self.lattice, float)
        cell[2, 2] = np.ptp(z) + vacuum
        positions[:, 2] = z - (z.min() + z.max()) / 2 + cell[2, 2] / 2
        return ase.Atoms(
            numbers=np.asarray(self.numbers)[real],
            positions=positions,
            cell=cell,
            pbc=(True, True, False),
        )


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

    Args:
        crystals: single crystals.
        size: number of atom slots; None takes the largest crystal's.

    Raises:
        ValueError: nothing to stack, or a crystal with more than `size` atoms.
    """
    if not crystals:
        raise ValueError("stack needs at least one crystal")
    largest = max(c.numbers.shape[0] for c in crystals)
    size = largest if size is None else size
    if size < largest:
        raise ValueError(f"size={size} is too small for a crystal of {largest} atoms")

    def pad(x: jax.Array) -> np.ndarray:
        x = np.asarray(x)
        return np.pad(x, [(0, size - x.shape[0])] + [(0, 0)] * (x.ndim - 1))

    return Crystal(
        jnp.asarray(np.stack([np.asarray(c.lattice) for c in crystals])),
        jnp.asarray(np.stack([pad(c.positions) for c in crystals])),
        jnp.asarray(np.stack([pad(c.numbers) for c in crystals])),
    )


def _layer_frame(
    cell: np.ndarray, positions: np.ndarray, pbc: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """In-plane lattice (2, 2) and positions (N, 3) with the layer normal along z."""
    axis, joined = _join_layer(cell, positions, pbc)
    a1, a2 = cell[[i for i in range(3) if i != axis]]
    normal = np.cross(a1, a2)
    area = np.linalg.norm(normal)
    if area < 1e-3:
        raise ValueError("the cell has no two independent in-plane vectors; give both")
    normal /= area
    if abs(normal[2]) > 1 - 1e-9:
        return np.stack([a1[:2], a2[:2]]), joined
    if normal @ cell[axis] < 0:  # the same side is up whichever axis is the open one
        normal = -normal
    x = a1 / np.linalg.norm(a1)
    frame = np.stack([x, np.cross(normal, x), normal])
    return np.stack([frame[:2] @ a1, frame[:2] @ a2]), joined @ frame.T


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
    normal = np.cross(cell[(axis + 1) % 3], cell[(axis + 2) % 3])
    height = abs(normal @ cell[axis]) / np.linalg.norm(normal)
    fraction = np.linalg.solve(cell.T, positions.T)[axis]
    ordered = np.sort(fraction % 1.0)
    steps = np.diff(np.append(ordered, ordered[0] + 1.0))
    widest = int(np.argmax(steps))
    return steps[widest] * height, ordered[(widest + 1) % len(ordered)], fraction
