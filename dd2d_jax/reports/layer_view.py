"""A layer as it is seen through a window: balls and bonds for whatever draws them, in angstrom."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from ase.data import covalent_radii
from scipy.spatial import cKDTree

from dd2d_jax.crystals.structures import SAME_SITE

if TYPE_CHECKING:
    import ase

# Balls are drawn smaller than atoms, so that bonds are seen between them.
BALL = 0.55
# Atoms this much nearer than the sum of their covalent radii are taken as bonded.
_BOND = 1.2
_WIDTH, _WIDEST = 12.0, 24.0
# Space around a layer that is seen from the side.
_MARGIN = 3.0
# Positions are this exact, angstrom: atoms on a boundary are inside.
_EXACT = 1e-3
_NONMETALS = (1, 2, 5, 6, 7, 8, 9, 10, 14, 15, 16, 17, 18, 32, 33, 34, 35, 36, 51, 52, 53, 54, 85)


@dataclasses.dataclass(frozen=True)
class View:
    """Atoms in the picture's plane, the farthest first, and their halves of bonds.

    Attributes:
        flat: (N, 2) atoms, x to the right and y up, from the window's centre.
        numbers: (N,) atomic numbers.
        radii: (N,) of the balls.
        halves: (M, 2, 2) from an atom to the middle of a bond, seen in perspective of no depth.
        owner: (M,) the atom that a half belongs to, a row of `flat`, in rising order.
        cell: (4, 2) corners of one cell; (0, 2) from the side.
        width, height: of the window.
    """

    flat: np.ndarray
    numbers: np.ndarray
    radii: np.ndarray
    halves: np.ndarray
    owner: np.ndarray
    cell: np.ndarray
    width: float
    height: float


def common_window(structures: Iterable[ase.Atoms]) -> tuple[float, float]:
    """Width and height (from the side) of a window that suits all layers at one scale.

    It shows a whole cell of each, unless that is very large.
    """
    extents, thickness = [_WIDTH], [0.0]
    for atoms in structures:
        extents.append(1.15 * float(np.ptp(corners(atoms), axis=0).max()))
        thickness.append(float(np.ptp(atoms.positions[:, 2])))
    return min(max(extents), _WIDEST), max(thickness) + _MARGIN


def top_view(atoms: ase.Atoms, width: float | None = None) -> View:
    """A layer from above, in a square window around the middle of one cell."""
    width = common_window([atoms])[0] if width is None else width
    middle = np.append(corners(atoms).mean(0), 0.0)
    positions, numbers = _around(atoms, middle[:2], width / 2)
    shown = (np.abs(positions[:, :2] - middle[:2]) <= width / 2 + 1.5).all(1)
    cell = corners(atoms) - middle[:2]
    return _view(positions - middle, numbers, shown, (0, 1), 2, cell, (width, width))


def side_view(
    atoms: ase.Atoms, width: float | None = None, height: float | None = None
) -> View:
    """A layer from the side, a1 to the right: one row of cells, atoms on its boundary included."""
    suits = common_window([atoms])
    width, height = suits[0] if width is None else width, suits[1] if height is None else height
    z = atoms.positions[:, 2]
    middle = np.append(corners(atoms).mean(0), (z.min() + z.max()) / 2)
    lattice = atoms.cell.array[:2, :2]
    positions, numbers = _around(atoms, middle[:2], width / 2 + np.linalg.norm(lattice[1]))
    positions = positions - middle
    along = lattice[0] / np.linalg.norm(lattice[0])
    across = np.array([-along[1], along[0]])
    rows = abs(float(lattice[1] @ across))
    turned = np.column_stack(
        [positions[:, :2] @ along, -positions[:, :2] @ across, positions[:, 2]]
    )
    shown = (np.abs(turned[:, 1]) <= rows / 2 + _EXACT) & (np.abs(turned[:, 0]) <= width / 2 + 1.5)
    return _view(turned, numbers, shown, (0, 2), 1, np.zeros((0, 2)), (width, height))


def corners(atoms: ase.Atoms) -> np.ndarray:
    """(4, 2) of one cell in the plane."""
    return np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) @ atoms.cell.array[:2, :2]


def bonds(positions: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Pairs (M, 2) of atoms that are bonded; of metals only where all atoms are metals."""
    if len(positions) < 2:
        return np.zeros((0, 2), int)
    radius = covalent_radii[numbers]
    pairs = cKDTree(positions).query_pairs(2 * _BOND * radius.max(), output_type="ndarray")
    first, second = pairs.T
    length = np.linalg.norm(positions[first] - positions[second], axis=1)
    # Atoms on one mixed site are not bonded.
    near = (length < _BOND * (radius[first] + radius[second])) & (length > SAME_SITE)
    metal = ~np.isin(numbers, _NONMETALS)
    if not metal.all():
        # Metals are near each other in most compounds without being bonded.
        near &= ~(metal[first] & metal[second])
    return pairs[near]


def _around(
    atoms: ase.Atoms, middle: np.ndarray, reach: float
) -> tuple[np.ndarray, np.ndarray]:
    """Atoms within a square of half side `reach`, and as far beyond it as a bond reaches."""
    reach = reach + 2 * _BOND * float(covalent_radii[atoms.numbers].max()) + 1.5
    lattice = atoms.cell.array[:2, :2]
    far = reach * np.sqrt(2) + np.linalg.norm(lattice, axis=1).sum()
    count = np.ceil(far * np.linalg.norm(np.linalg.inv(lattice), axis=0)).astype(int)
    grid = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in count)), -1).reshape(-1, 2)
    shifts = np.concatenate([grid @ lattice, np.zeros((len(grid), 1))], 1)
    positions = (shifts[:, None] + atoms.positions[None]).reshape(-1, 3)
    inside = (np.abs(positions[:, :2] - middle) <= reach).all(1)
    return positions[inside], np.tile(atoms.numbers, len(grid))[inside]


def _view(
    positions: np.ndarray,
    numbers: np.ndarray,
    shown: np.ndarray,
    axes: tuple[int, int],
    depth: int,
    cell: np.ndarray,
    window: tuple[float, float],
) -> View:
    """Atoms in order of depth, with their halves of bonds to all others, shown or not."""
    order = np.flatnonzero(shown)[np.argsort(positions[shown, depth], kind="stable")]
    place = np.full(len(positions), -1)
    place[order] = np.arange(len(order))
    pairs = bonds(positions, numbers)
    both = np.concatenate([pairs, pairs[:, ::-1]])
    both = both[place[both[:, 0]] >= 0]
    both = both[np.argsort(place[both[:, 0]], kind="stable")]
    flat = positions[:, list(axes)]
    halves = np.stack([flat[both[:, 0]], flat[both].mean(1)], 1)
    radii = BALL * covalent_radii[numbers[order]]
    return View(flat[order], numbers[order], radii, halves, place[both[:, 0]], cell, *window)


def solid(
    atoms: ase.Atoms, width: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[tuple[int, np.ndarray]], np.ndarray]:
    """A square piece of a layer in space, around the middle of one cell.

    Returns:
        Atomic numbers (N,), positions (N, 3), bonds (M, 2) between them; for each bond to an atom
        outside the piece its atom and the middle of the bond; the cell's corners (4, 3).
    """
    cell = corners(atoms)
    z = atoms.positions[:, 2]
    middle = np.append(cell.mean(0), (z.min() + z.max()) / 2)
    positions, numbers = _around(atoms, middle[:2], width / 2)
    positions = positions - middle
    inside = (np.abs(positions[:, :2]) <= width / 2 + _EXACT).all(1)
    place = np.cumsum(inside) - 1
    pairs = bonds(positions, numbers)
    whole = inside[pairs].all(1)
    both = np.concatenate([pairs, pairs[:, ::-1]])
    cut = both[inside[both[:, 0]] & ~inside[both[:, 1]]]
    stubs = [(int(place[i]), (positions[i] + positions[j]) / 2) for i, j in cut]
    outline = np.concatenate([cell - middle[:2], np.zeros((4, 1))], 1)
    return numbers[inside], positions[inside], place[pairs[whole]], stubs, outline
