"""Layers of many kinds, and their patterns as a microscope sees them."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.build import graphene, mx2
from ase.spacegroup import crystal

import diffraction as dx


def flat(symbols: str, a: float, b: float, degrees: float, sites) -> Atoms:
    """A layer from its cell and sites (x, y fractional, z in angstrom)."""
    angle = np.deg2rad(degrees)
    cell = np.diag([a, b * np.sin(angle), 20.0])
    cell[1, 0] = b * np.cos(angle)
    sites = np.array(sites, float)
    positions = np.column_stack([sites[:, :2] @ cell[:2, :2], sites[:, 2] + 10])
    return Atoms(symbols, positions, cell=cell, pbc=(True, True, False))


def phosphorene() -> Atoms:
    sites = [(0, 0.08, 0), (0.5, 0.42, 0), (0.5, 0.58, 2.1), (0, 0.92, 2.1)]
    return flat("P4", 3.30, 4.62, 90, sites)


def trihalide(symbols: str, a: float, x: float = 0.35) -> Atoms:
    """CrI3-like: honeycomb of metal in edge-sharing octahedra."""
    up = [(x, 0, 1.56), (0, x, 1.56), (1 - x, 1 - x, 1.56)]
    down = [(1 - x, 0, -1.56), (0, 1 - x, -1.56), (x, x, -1.56)]
    return flat(symbols, a, a, 120, [(1 / 3, 2 / 3, 0), (2 / 3, 1 / 3, 0), *up, *down])


def litharge(symbols: str, a: float, height: float) -> Atoms:
    """FeSe-like."""
    return flat(symbols, a, a, 90, [(0, 0, 0), (0.5, 0.5, 0), (0, 0.5, height),
                                    (0.5, 0, -height)])  # fmt: skip


def oblique() -> Atoms:
    return flat("ReSSe", 3.1, 4.3, 100, [(0, 0, 0), (0.4, 0.3, 1.5), (0.7, 0.8, -1.4)])


WANTED = {
    "graphene": graphene(vacuum=8),
    "BN": graphene("BN", a=2.50, vacuum=8),
    "1H-MoS2": mx2("MoS2", "2H", a=3.16, vacuum=8),
    "1T-PtS2": mx2("PtS2", "1T", a=3.54, thickness=2.46, vacuum=8),
    "phosphorene": phosphorene(),
    "CrI3": trihalide("Cr2I6", 6.87),
    "FeSe": litharge("Fe2Se2", 3.77, 1.45),
    "ReSSe": oblique(),
}


def bulk(space_group: int, cell: tuple[float, ...], sites: dict[str, list]) -> Atoms:
    symbols = [symbol for symbol, some in sites.items() for _ in some]
    places = [place for some in sites.values() for place in some]
    return crystal(symbols, places, spacegroup=space_group, cellpar=cell)


def upright(atoms: Atoms, axis: int = 1) -> Atoms:
    """With that axis of an orthorhombic crystal up."""
    order = [(axis + 1) % 3, (axis + 2) % 3, axis]
    return Atoms(
        atoms.symbols, cell=atoms.cell.lengths()[order], pbc=True,
        scaled_positions=atoms.get_scaled_positions()[:, order],
    )  # fmt: skip


# Of the literature: a few bulk crystals, their layers upon each other along the third axis.
BULK = {
    "1H-MoS2": bulk(
        194, (3.16, 3.16, 12.294, 90, 90, 120),
        {"Mo": [(1 / 3, 2 / 3, 1 / 4)], "S": [(1 / 3, 2 / 3, 0.621)]},
    ),
    "graphene": bulk(
        194, (2.461, 2.461, 6.708, 90, 90, 120), {"C": [(0, 0, 1 / 4), (1 / 3, 2 / 3, 1 / 4)]}
    ),
    "BN": bulk(
        194, (2.504, 2.504, 6.661, 90, 90, 120),
        {"B": [(1 / 3, 2 / 3, 1 / 4)], "N": [(1 / 3, 2 / 3, 3 / 4)]},
    ),
    "phosphorene": upright(
        bulk(64, (3.3136, 10.478, 4.3763, 90, 90, 90), {"P": [(0, 0.10168, 0.08056)]})
    ),
}  # fmt: skip


# A crystal of polar layers, and one of them.
POLAR_BULK = upright(
    bulk(
        62, (11.501, 4.153, 4.445, 90, 90, 90),
        {"Sn": [(0.1180, 1 / 4, 0.1030)], "Se": [(0.8552, 1 / 4, 0.4818)]},
    ),
    axis=0,
)  # fmt: skip
POLAR = flat(
    "Sn2Se2", 4.153, 4.445, 90,
    [(0.25, 0.103, 1.518), (0.75, 0.603, -1.518), (0.75, 0.518, 1.210), (0.25, 0.018, -1.210)],
)  # fmt: skip


def simulated(atoms: Atoms, energy: float = 80.0, q_max: float = 1.25) -> dx.Pattern:
    """As the microscope sees the crystal in its own cell, not in the library's setting."""
    return dx.simulate(dx.Crystal.from_ase(atoms), dx.Electrons(energy), q_max, 0.5)


def turned(pattern: dx.Pattern, degrees: float, mirrored: bool = False) -> dx.Pattern:
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    turn = np.diag([1, -1 if mirrored else 1]) @ np.array([[c, s], [-s, c]])
    return dataclasses.replace(pattern, q=pattern.q @ jnp.asarray(turn, jnp.float32))


def slab(crystal: Atoms, cells: int) -> Atoms:
    """So many cells of a bulk crystal on each other, in vacuum."""
    out = crystal * (1, 1, cells)
    out.center(vacuum=8, axis=2)
    return out
