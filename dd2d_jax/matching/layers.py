"""Layers on each other: where the next one lies, and flakes of several as crystals of their own."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from dd2d_jax.data.crystal_set import CrystalSet
from dd2d_jax.spots import atom_slots

# angstrom from the atoms of one layer to those of the next: van der Waals gaps are 2.4 to 3.4.
GAP = 3.0


class Stacking(NamedTuple):
    """Where the next layer lies.

    Attributes:
        turned: every second layer is turned by 180 degrees about its normal.
        further: each layer is shifted against the one above it; False: every second one is.
        shift: in parts of the cell.
    """

    turned: bool
    further: bool
    shift: tuple[float, float]


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
_HALVES = ((1 / 2, 0.0), (0.0, 1 / 2), (1 / 2, 1 / 2))
_ALONG = ((1 / 3, 0.0), (0.0, 1 / 3), (1 / 3, 1 / 3), (2 / 3, 0.0), (0.0, 2 / 3), (2 / 3, 2 / 3))
_ON_TOP = (Stacking(False, False, (0.0, 0.0)),)
# As in 1T crystals, in graphite, in 3R crystals, and in 2H ones and h-BN.
_HEXAGONAL = (
    *_ON_TOP,
    *(Stacking(False, False, s) for s in _THIRDS),
    *(Stacking(False, True, s) for s in _THIRDS),
    *(Stacking(True, False, s) for s in ((0.0, 0.0), *_THIRDS)),
)
# Layers of larger hexagonal cells make monoclinic crystals, too: CrI3, FePS3.
_LARGE = (*_HEXAGONAL, *(Stacking(False, True, s) for s in _ALONG))
# As in black phosphorus, and in SnSe and MoO3.
_OTHER = tuple(
    Stacking(turned, False, s) for turned in (False, True) for s in ((0.0, 0.0), *_HALVES)
)
# angstrom.
_LARGE_CELL = 5.5


def stackings(lattice: np.ndarray) -> tuple[Stacking, ...]:
    """Those that layers with a canonical cell (2, 2), angstrom, may have; the first is on top."""
    if not _hexagonal(lattice):
        return _OTHER
    return _LARGE if np.linalg.norm(lattice[0]) > _LARGE_CELL else _HEXAGONAL


def _hexagonal(lattice: np.ndarray) -> bool:
    a, b = np.linalg.norm(lattice, axis=1)
    return abs(a / b - 1) < 0.01 and abs(lattice[0] @ lattice[1] / (a * b) + 0.5) < 0.01


def in_words(stacking: Stacking) -> str:
    """Such as "every second one turned by 180 degrees"."""
    which = "each one" if stacking.further else "every second one"
    shift = ", ".join(_share(x) for x in stacking.shift)
    moved = f"shifted by ({shift})" if any(stacking.shift) else ""
    if not stacking.turned:
        return f"{which} {moved}" if moved else "each on top of the next"
    return f"{which} turned by 180 degrees" + (f" and {moved}" if moved else "")


def _share(x: float) -> str:
    return str(Fraction(x).limit_denominator(3))


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


def flakes(crystals: CrystalSet, layers: np.ndarray, stacking: np.ndarray) -> CrystalSet:
    """Flakes of n crystals, the first layer on top.

    Args:
        crystals: n layers, without mixed sites where there are several on each other.
        layers: (n,) in each.
        stacking: (n,) which of `stackings`.
    """
    if (layers == 1).all():
        return crystals
    room = int(atom_slots(crystals.numbers).max())
    own, other = (np.asarray(x.positions)[:, :room] for x in (crystals, turned(crystals)))
    step = spacing(crystals)
    number = np.arange(int(layers.max()))
    how = [stackings(x)[s] for x, s in zip(crystals.lattice, stacking, strict=True)]
    turns, further = (np.array([x[k] for x in how]) for k in range(2))
    odd = number % 2
    times = np.where(further[:, None], number, odd)
    aside = np.einsum("nd,nde->ne", [x.shift for x in how], np.asarray(crystals.lattice))
    moved = np.concatenate(
        [times[..., None] * aside[:, None], -(number * step[:, None])[..., None]], -1
    )
    second = (turns[:, None] & (odd == 1))[..., None, None]
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
