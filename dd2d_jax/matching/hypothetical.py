"""Crystals made for a measured cell: a library's structure types with other elements.

Parents are those of a library's crystals that explain a pattern best, a few of each structure type.
Their elements are exchanged for like ones (`prototypes.substitute`), and the sums of radii say how
large the cell should be: what is far from the measured one is no draft. A draft is its parent's
fractional coordinates with other atomic numbers. Its elements' sublattices are the parent's, so
that tens of thousands are compared with a pattern in a second (`glance`). `build` moves the atoms
of the few that are wanted until bonds are as long as radii say, in the measured cell
(`prototypes.relax`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from dd2d_jax.data.crystal_set import CrystalSet
from dd2d_jax.data.prototypes.relax import Network, network, ratios, relax_in, scales
from dd2d_jax.data.prototypes.substitute import radii, substitutions
from dd2d_jax.matching.score import R_WEIGHT, SOFT
from dd2d_jax.spots import Conditions, Spots
from diffraction.form_factors import form_factor
from diffraction.kinematic import ewald_qz

# Parents of one structure type.
_OF_TYPE = 2
# Standard deviations of what the cell that the radii give may differ from the measured one by.
STRETCH, SHEAR = 0.03, 0.01
# Beyond these many it is another crystal.
FAR = 4.0
# Log-probability that a difference of 1 in `score` counts.
WORTH = 200.0
# Children of one parent that are looked at, and at how many of the strongest spot pairs.
_LOOKED_AT = 20_000
_PAIRS = 48


@dataclasses.dataclass(frozen=True)
class Parent:
    """A crystal whose elements are exchanged.

    Attributes:
        row: in the library.
        query: the pattern (T,) in the setting that it fits best.
        stretch, shear: from its own cell to the measured (`score.strain_between`).
        worth: log-probability of its structure type.
    """

    row: int
    query: Spots
    stretch: float
    shear: float
    worth: float

    @property
    def cell(self) -> np.ndarray:
        """(2, 2) angstrom, that its children are put on."""
        return np.asarray(self.query.lattice, float)


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """K children of one parent, before their atoms are put into place."""

    parent: Parent
    numbers: np.ndarray  # (N,) the parent's atoms
    fractional: np.ndarray  # (N, 3), the last in angstrom
    net: Network
    own: np.ndarray  # (m,) the parent's elements
    elements: np.ndarray  # (K, m) those in their place
    ratio: np.ndarray  # (K, B) by which bonds should grow
    scale: np.ndarray  # (K,) by which the parent would grow
    log_prior: np.ndarray  # (K,) of elements and cell
    value: np.ndarray  # (K,) from `glance`

    def take(self, rows: np.ndarray) -> Family:
        """The children at `rows`, in that order."""
        each = ("elements", "ratio", "scale", "log_prior", "value")
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
        positions = relax_in(self.net, cells, positions, self.ratio)
        ends = positions[..., 2].max(1) + positions[..., 2].min(1)
        positions[..., 2] -= ends[:, None] / 2
        return numbers, positions


def families(
    library: CrystalSet,
    parents: list[Parent],
    limit: int,
    conditions: Conditions,
    allowed: frozenset[int] | None,
    count: int,
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
            family = _family(library, parent, allowed)
            value = glance(family, conditions)
            best = np.argsort(-(family.log_prior + WORTH * value), kind="stable")[:count]
            family = dataclasses.replace(family, value=value).take(best)
            yield family.take(_new(family, kind, orders, met))
            limit -= 1
        if not limit:
            return


def glance(family: Family, conditions: Conditions) -> np.ndarray:
    """How well each child (K,) explains its parent's query, by the measured spots alone.

    As `score` without what a candidate shows beside them, and with the parent's coordinates.
    """
    query = family.parent.query
    hk, intensity, measured = (
        np.asarray(x)[:_PAIRS] for x in (query.hk, query.intensity, query.measured)
    )
    hk = np.concatenate([hk, -hk])
    observed = np.concatenate([intensity[:, 0], intensity[:, 1]])
    seen = np.concatenate([measured[:, 0], measured[:, 1]])
    hk, observed = hk[seen], observed[seen]
    flat = hk @ np.linalg.inv(family.parent.cell).T
    height = np.asarray(ewald_qz(flat, conditions.radiation.wavelength))
    q_squared = (flat**2).sum(1) + height**2
    turns = hk @ family.fractional[:, :2].T + height[:, None] * family.fractional[:, 2]
    waves = np.exp(2j * np.pi * turns - 0.25 * conditions.b_iso * q_squared[:, None])
    sublattices = [waves[:, family.numbers == z].sum(1) for z in family.own]
    kinds = np.unique(family.elements)
    factors = np.asarray(
        form_factor(conditions.radiation, jnp.asarray(kinds)[:, None], jnp.asarray(q_squared))
    )
    total = np.zeros((len(family.elements), len(hk)), np.complex64)
    for sublattice, column in zip(sublattices, family.elements.T, strict=True):
        shares = (factors * sublattice).astype(np.complex64)
        total += shares[np.searchsorted(kinds, column)]
    amplitude = np.abs(total)
    amplitude /= amplitude.max(1, keepdims=True) + 1e-12
    level, seen = np.log1p(amplitude**2 / SOFT), np.log1p(observed / SOFT)
    cosine = level @ seen / (np.linalg.norm(level, axis=1) * np.linalg.norm(seen) + 1e-9)
    root = np.sqrt(observed)
    scale = amplitude @ root / ((amplitude**2).sum(1) + 1e-12)
    r_factor = np.abs(root - scale[:, None] * amplitude).sum(1) / (root.sum() + 1e-12)
    return cosine - R_WEIGHT * r_factor


def _family(library: CrystalSet, parent: Parent, allowed: frozenset[int] | None) -> Family:
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
    ratio = ratios(net, old, new, np.sign(found.own[inverse]))
    scale = scales(net, ratio, old, new)
    misfit = (parent.stretch - np.log(scale)) / STRETCH
    log_prior = found.log_prior - 0.5 * (misfit**2 + (parent.shear / SHEAR) ** 2)
    near = np.flatnonzero(np.abs(misfit) < FAR)
    rows = near[np.argsort(-log_prior[near], kind="stable")[:_LOOKED_AT]]
    log_prior = log_prior + parent.worth
    family = Family(
        parent, numbers, fractional, net, own, found.numbers, ratio, scale, log_prior,
        np.zeros(len(scale)),
    )  # fmt: skip
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

    atoms = library.take([int(row)]).atoms(0)
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
