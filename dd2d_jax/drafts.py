"""Crystals made for a measured cell: a library's structure types with other elements.

Parents are those of a library's crystals that explain a pattern best, a few of each structure type.
Their elements are exchanged for like ones (`prototypes.substitute`), and the sums of radii say how
large the cell should be: what is far from the measured one is no draft. A draft is its parent's
fractional coordinates and other atomic numbers; `build` moves the atoms of the few that are wanted
until bonds are as long as radii say, in the measured cell (`prototypes.relax`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from dd2d_jax.datasets import CrystalSet
from dd2d_jax.prototypes.relax import Network, network, relax_in, scales, targets
from dd2d_jax.prototypes.substitute import radii, substitutions

# Parents of one structure type.
_OF_TYPE = 2
# Standard deviations of what the cell that the radii give may differ from the measured one by.
STRETCH, SHEAR = 0.03, 0.01
# Beyond these many it is another crystal.
FAR = 4.0


@dataclasses.dataclass(frozen=True)
class Parent:
    """A crystal whose elements are exchanged.

    Attributes:
        row: in the library.
        cell: (2, 2) angstrom, that its children are put on.
        stretch, shear: from its own cell to that one (`score.strain_between`).
        worth: log-probability of its structure type.
    """

    row: int
    cell: np.ndarray
    stretch: float
    shear: float
    worth: float


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """K children of one parent, before their atoms are put into place."""

    parent: Parent
    numbers: np.ndarray  # (N,) the parent's atoms
    fractional: np.ndarray  # (N, 3), the last in angstrom
    net: Network
    own: np.ndarray  # (m,) the parent's elements
    elements: np.ndarray  # (K, m) those in their place
    target: np.ndarray  # (K, P) lengths of the springs
    scale: np.ndarray  # (K,) by which the parent would grow
    log_prior: np.ndarray  # (K,)

    def take(self, rows: np.ndarray) -> Family:
        """The children at `rows`, in that order."""
        each = ("elements", "target", "scale", "log_prior")
        return dataclasses.replace(self, **{name: getattr(self, name)[rows] for name in each})

    def children(self) -> tuple[np.ndarray, np.ndarray]:
        """Atomic numbers (K, N) and positions (K, N, 3), only heights scaled."""
        positions = np.empty((len(self.scale), *self.fractional.shape))
        positions[..., :2] = self.fractional[:, :2] @ self.parent.cell
        positions[..., 2] = self.fractional[:, 2] * self.scale[:, None]
        return self.elements[:, np.searchsorted(self.own, self.numbers)], positions

    def build(self) -> tuple[np.ndarray, np.ndarray]:
        """The same with the atoms moved to where their bonds have the right length."""
        numbers, positions = self.children()
        cells = np.broadcast_to(self.parent.cell, (len(positions), 2, 2))
        positions = relax_in(self.net, cells, positions, self.target)
        ends = positions[..., 2].max(1) + positions[..., 2].min(1)
        positions[..., 2] -= ends[:, None] / 2
        return numbers, positions


def families(
    library: CrystalSet, parents: list[Parent], limit: int, allowed: frozenset[int] | None, count: int
) -> Iterator[Family]:
    """Children of the first `limit` parents, no two of one type and the same elements.

    Nor are they crystals that are among the parents.

    Args:
        library: crystals in canonical setting.
        parents: the best first; of one structure type only the first few have children.
        limit: parents at most.
        allowed: atomic numbers that children may hold; None: any.
        count: children of one parent at most.
    """
    kinds = [structure_type(library, parent.row) for parent in parents]
    met = {(kind, min(orders)) for kind, orders in kinds}
    of_type: dict[tuple, int] = {}
    for parent, (kind, orders) in zip(parents, kinds, strict=True):
        of_type[kind] = of_type.get(kind, 0) + 1
        if of_type[kind] <= _OF_TYPE:
            family = _family(library, parent, allowed, count)
            yield family.take(_new(family, kind, orders, met))
            limit -= 1
        if not limit:
            return


def _family(
    library: CrystalSet, parent: Parent, allowed: frozenset[int] | None, count: int
) -> Family:
    numbers = library.numbers[parent.row]
    numbers = numbers[numbers > 0]
    lattice = library.lattice[parent.row].astype(float)
    positions = library.positions[parent.row][: len(numbers)].astype(float)
    fractional = np.column_stack([positions[:, :2] @ np.linalg.inv(lattice), positions[:, 2]])
    own, inverse, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    found = substitutions(own, counts, allowed)
    net = network(numbers, lattice, positions)
    old = radii(numbers, found.own[inverse])
    new = radii(found.numbers[:, inverse], found.charges[:, inverse])
    target = targets(net, old, new, np.sign(found.own[inverse]))
    scale = scales(net, target, old, new)
    misfit = (parent.stretch - np.log(scale)) / STRETCH
    log_prior = found.log_prior - 0.5 * (misfit**2 + (parent.shear / SHEAR) ** 2)
    near = np.flatnonzero(np.abs(misfit) < FAR)
    rows = near[np.argsort(-log_prior[near], kind="stable")[:count]]
    log_prior = log_prior + parent.worth
    family = Family(
        parent, numbers, fractional, net, own, found.numbers, target, scale, log_prior
    )
    return family.take(rows)


def _new(family: Family, kind: tuple, orders: tuple, met: set) -> np.ndarray:
    """Children that were not met as the same type with the same elements; they are from now on."""
    column = {z: i for i, z in enumerate(family.own.tolist())}
    places = [[column[z] for z in order] for order in orders]
    rows = []
    for k, elements in enumerate(family.elements.tolist()):
        key = (kind, min(tuple(elements[i] for i in place) for place in places))
        if key not in met:
            met.add(key)
            rows.append(k)
    return np.array(rows, int)


def structure_type(library: CrystalSet, row: int) -> tuple[tuple, tuple[tuple[int, ...], ...]]:
    """What a crystal has in common with those of other elements, and its elements in order.

    Space group of the layer in its vacuum and, along the layer's normal, which element takes which
    kind of site, both numbered as they come. Seen from below the same type may have its elements in
    another order: all orders are given.
    """
    import spglib

    atoms = library.atoms(int(row))
    cell = (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
    dataset = spglib.get_symmetry_dataset(cell, symprec=0.1)
    group, sites = (0, "a" * len(atoms)) if dataset is None else (dataset.number, dataset.wyckoffs)
    readings = []
    for side in (1, -1):
        height = np.round(side * atoms.positions[:, 2] / 0.3)
        order = np.lexsort([[ord(site) for site in sites], height])
        numbers, letters = atoms.numbers[order].tolist(), [sites[i] for i in order]
        elements, kinds = list(dict.fromkeys(numbers)), list(dict.fromkeys(letters))
        sequence = tuple(
            (elements.index(z), kinds.index(w)) for z, w in zip(numbers, letters, strict=True)
        )
        readings.append((sequence, tuple(elements)))
    least = min(sequence for sequence, _ in readings)
    return (group, least), tuple({e for sequence, e in readings if sequence == least})
