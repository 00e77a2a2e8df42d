"""Layers on each other: where the next one lies, and flakes of several as crystals of their own."""

from __future__ import annotations

import dataclasses
import itertools
import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from dd2d_jax.crystals.symmetry import operations
from dd2d_jax.data.crystal_set import CrystalSet
from dd2d_jax.spots import atom_slots

# angstrom from the atoms of one layer to those of the next: van der Waals gaps are 2.4 to 3.4.
GAP = 3.0


class Stacking(NamedTuple):
    """Where the next layer lies, in each of n ways.

    Attributes:
        turned: (n,) every second layer is turned by 180 degrees about its normal.
        further: (n,) each layer is shifted against the one above it; False: every second one is.
        shift: (n, 2) in parts of the cell.
    """

    turned: np.ndarray
    further: np.ndarray
    shift: np.ndarray

    @classmethod
    def of(cls, *ways: tuple[bool, bool, tuple[float, float]]) -> Stacking:
        """Those of single ways."""
        turned, further, shift = zip(*ways, strict=True)
        return cls(np.array(turned), np.array(further), np.array(shift, float))


@dataclasses.dataclass(frozen=True)
class Flake:
    """A crystal as several layers on each other.

    Attributes:
        layers: how many, give or take one in ten.
        stacking: where the next one lies, in words.
        tilt: degrees about x and y, as in `dx.simulate`, of the candidate's setting.
    """

    layers: int
    stacking: str
    tilt: tuple[float, float]

    def __str__(self) -> str:
        leans = np.hypot(*self.tilt)
        return (
            f"a flake of about {self.layers} layers, {self.stacking}, tilted by {leans:.1f} degrees"
        )


_THIRDS = ((1 / 3, 2 / 3), (2 / 3, 1 / 3))
_ALONG = ((1 / 3, 0.0), (0.0, 1 / 3), (1 / 3, 1 / 3), (2 / 3, 0.0), (0.0, 2 / 3), (2 / 3, 2 / 3))
# As in 1T crystals, in graphite, in 3R crystals, and in 2H ones and h-BN.
_HEXAGONAL = (
    (False, False, (0.0, 0.0)),
    *((False, False, s) for s in _THIRDS),
    *((False, True, s) for s in _THIRDS),
    *((True, False, s) for s in ((0.0, 0.0), *_THIRDS)),
)
# Layers of larger hexagonal cells make monoclinic crystals, too: CrI3, FePS3.
_LARGE = (*_HEXAGONAL, *((False, True, s) for s in _ALONG))
# angstrom.
_LARGE_CELL = 5.5
# Shifts along a free axis that are tried first are so far apart, angstrom.
SLIDE = 0.8
# Planes mirror a layer to within this, angstrom.
_MIRRORED = 0.2


def stackings(lattice: np.ndarray, free: np.ndarray) -> Stacking:
    """Those that layers with a canonical cell (2, 2), angstrom, may have; the first is on top.

    In hexagonal nets symmetry pins the shift, in others not along a `free` axis (see `slides`),
    as in SnSe and 1T'-MoTe2: a search begins from these shifts.
    """
    if _hexagonal(lattice):
        large = np.linalg.norm(lattice[0]) > _LARGE_CELL
        return Stacking.of(*(_LARGE if large else _HEXAGONAL))
    halves = [(x, y) for x in (0.0, 0.5) for y in (0.0, 0.5)]
    others = []
    for axis in np.flatnonzero(free):
        count = 2 * math.ceil(np.linalg.norm(lattice[axis]) / (2 * SLIDE))
        for part, other in itertools.product(np.arange(count) / count, (0.0, 0.5)):
            where = (part, other) if axis == 0 else (other, part)
            if where not in halves:
                others.append(where)
    return Stacking.of(
        *((turned, False, part) for turned in (False, True) for part in (*halves, *others)),
        *((False, True, part) for part in others if 0 in part),
    )


def slides(crystal: CrystalSet) -> np.ndarray:
    """(2,) whether one layer may lie anywhere along each axis of its cell.

    It may where no mirror or glide plane is across the axis; in hexagonal nets symmetry pins it.
    """
    lattice = np.asarray(crystal.lattice[0], float)
    if _hexagonal(lattice):
        return np.zeros(2, bool)
    rectangular = abs(lattice[0] @ lattice[1]) < 0.01 * np.linalg.det(lattice)
    if not rectangular:
        return np.ones(2, bool)
    there = np.asarray(crystal.numbers[0]) > 0
    positions = np.asarray(crystal.positions[0][there], float)
    rotations, _ = operations(lattice, positions, crystal.numbers[0][there], _MIRRORED)
    along = lattice / np.linalg.norm(lattice, axis=1)[:, None]
    mirrors = np.eye(3) - np.pad(2 * along[:, :, None] * along[:, None], ((0, 0), (0, 1), (0, 1)))
    return ~np.array([np.abs(rotations - one).max((1, 2)).min() < 0.05 for one in mirrors])


def _hexagonal(lattice: np.ndarray) -> bool:
    a, b = np.linalg.norm(lattice, axis=1)
    return abs(a / b - 1) < 0.01 and abs(lattice[0] @ lattice[1] / (a * b) + 0.5) < 0.01


def in_words(turned: bool, further: bool, shift: np.ndarray) -> str:
    """Such as "every second one turned by 180 degrees"."""
    which = "each one" if further else "every second one"
    parts = ", ".join(_share(x) for x in shift)
    moved = f"shifted by ({parts})" if np.any(shift) else ""
    if not turned:
        return f"{which} {moved}" if moved else "each on top of the next"
    return "every second one turned by 180 degrees" + (f" and {moved}" if moved else "")


def _share(x: float) -> str:
    near = Fraction(x).limit_denominator(3)
    return str(near) if abs(x - near) < 1e-6 else f"{x:.2f}"


def spacing(crystals: CrystalSet) -> np.ndarray:
    """(n,) from one layer to the next, angstrom."""
    there, z = np.asarray(crystals.numbers) > 0, np.asarray(crystals.positions)[..., 2]
    return np.where(there, z, -np.inf).max(1) - np.where(there, z, np.inf).min(1) + GAP


def turned(crystals: CrystalSet) -> CrystalSet:
    """Layers turned by 180 degrees about a normal.

    In hexagonal layers it goes through the first atom, which is mostly on an axis of theirs; in
    others through the point that is most nearly a centre of their projection.
    """
    positions = np.array(crystals.positions)
    for i, there in enumerate(np.asarray(crystals.numbers) > 0):
        lattice = np.asarray(crystals.lattice[i], float)
        own = positions[i, there, :2]
        about = own[0] if _hexagonal(lattice) else _centre(own, crystals.numbers[i][there], lattice)
        positions[i, there, :2] = 2 * about - own
    return dataclasses.replace(crystals, positions=positions)


def _centre(positions: np.ndarray, numbers: np.ndarray, lattice: np.ndarray) -> np.ndarray:
    """Of points midway between two like atoms the one (2,) about which all fit best after a turn
    by 180 degrees; positions (N, 2) in the plane.
    """
    first, second = np.nonzero(np.triu(numbers[:, None] == numbers))
    middle = (positions[first] + positions[second]) / 2
    apart = 2 * middle[:, None, None] - positions[:, None] - positions
    parts = apart @ np.linalg.inv(lattice)
    away = np.linalg.norm((parts - np.rint(parts)) @ lattice, axis=-1)
    away = np.where(numbers[:, None] == numbers, away, np.inf).min(-1)
    return middle[away.sum(-1).argmin()]


def flakes(crystals: CrystalSet, layers: np.ndarray, stacking: Stacking) -> CrystalSet:
    """Flakes of n crystals, the first layer on top.

    Args:
        crystals: n layers, without mixed sites where there are several on each other.
        layers: (n,) in each.
        stacking: of each.
    """
    if (layers == 1).all():
        return crystals
    room = int(atom_slots(crystals.numbers).max())
    own, other = (np.asarray(x.positions)[:, :room] for x in (crystals, turned(crystals)))
    step = spacing(crystals)
    number = np.arange(int(layers.max()))
    odd = number % 2
    times = np.where(stacking.further[:, None], number, odd)
    aside = np.einsum("nd,nde->ne", stacking.shift, np.asarray(crystals.lattice))
    moved = np.concatenate(
        [times[..., None] * aside[:, None], -(number * step[:, None])[..., None]], -1
    )
    second = (stacking.turned[:, None] & (odd == 1))[..., None, None]
    positions = np.where(second, other[:, None], own[:, None]) + moved[:, :, None]
    there = (number < layers[:, None])[..., None]
    numbers = np.where(there, np.asarray(crystals.numbers)[:, None, :room], 0)
    numbers = numbers.reshape(len(layers), -1)
    # Padding to the end.
    order = np.argsort(numbers == 0, axis=1, kind="stable")
    positions = positions.reshape(*numbers.shape, 3)
    return dataclasses.replace(
        crystals,
        numbers=np.take_along_axis(numbers, order, 1),
        positions=np.take_along_axis(positions, order[..., None], 1).astype(np.float32),
        occupancy=None,
    )
