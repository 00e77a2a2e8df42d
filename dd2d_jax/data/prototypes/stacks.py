"""Bilayers and heterobilayers on a common cell, made from single layers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from ase import Atoms
from ase.data.vdw_alvarez import vdw_radii

from dd2d_jax.data.prototypes.layer import make_layer

MAX_MISMATCH = 0.04
"""Largest difference of lattice constants, relative, that two layers of a stack may have."""
REGISTRIES = {
    "hexagonal": {"AA": (0.0, 0.0), "AB": (1 / 3, 2 / 3), "BA": (2 / 3, 1 / 3)},
    "square": {"AA": (0.0, 0.0), "AB": (0.5, 0.5)},
    "rectangular": {"AA": (0.0, 0.0), "AB": (0.5, 0.5), "AC": (0.5, 0.0)},
}
_CLOSER = 0.88  # nearest atoms of two layers, in sums of their van der Waals radii
_VDW_UNKNOWN = 2.2  # angstrom


def lattice_kind(atoms: Atoms) -> str | None:
    """One of "hexagonal" (angle 120 degrees), "square" and "rectangular", or None."""
    a, b, _, _, _, gamma = atoms.cell.cellpar()
    if abs(gamma - 120) < 0.1 and abs(a - b) < 1e-3:
        return "hexagonal"
    if abs(gamma - 90) < 0.1:
        return "square" if abs(a - b) < 1e-3 else "rectangular"
    return None


def mismatch(lower: Atoms, upper: Atoms) -> float:
    """Largest relative difference of the two in-plane lattice constants."""
    a, b = lower.cell.lengths()[:2], upper.cell.lengths()[:2]
    return float(np.max(np.abs(a - b) / (a + b) * 2))


def bilayer(lower: Atoms, upper: Atoms, shift: tuple[float, float], flip: bool) -> Atoms:
    """Put one layer on another in their mean cell, at the distance of van der Waals contact.

    Args:
        lower, upper: layers of one lattice kind.
        shift: of the upper layer, in fractions of the cell.
        flip: turn the upper layer upside down (z -> -z) first.
    """
    cell = (lower.cell[:2, :2] + upper.cell[:2, :2]) / 2
    parts = []
    for atoms in (lower, upper):
        fractional = atoms.positions[:, :2] @ np.linalg.inv(atoms.cell[:2, :2])
        parts.append(np.column_stack([fractional, atoms.positions[:, 2]]))
    low, high = parts
    high[:, :2] += shift
    if flip:
        high[:, 2] *= -1
    radii = np.nan_to_num(vdw_radii, nan=_VDW_UNKNOWN)
    contact = _CLOSER * (radii[lower.numbers][:, None] + radii[upper.numbers][None])
    between = high[None, :, :2] - low[:, None, :2]
    images = np.array([(p, q) for p in range(-3, 4) for q in range(-3, 4)])
    plane = np.linalg.norm((between[:, :, None] + images) @ cell, axis=-1).min(-1)
    rise = np.sqrt(np.clip(contact**2 - plane**2, 0, None))
    high[:, 2] += np.max(rise + low[:, None, 2] - high[None, :, 2])
    both = np.concatenate([low, high])
    positions = np.column_stack([both[:, :2] @ cell, both[:, 2]])
    symbols = lower.get_chemical_symbols() + upper.get_chemical_symbols()
    return make_layer(symbols, cell, positions)


def stacks(
    layers: list[tuple[str, Atoms]], homo: int, hetero: int, seed: int
) -> Iterator[tuple[str, str, Atoms]]:
    """Bilayers of given single layers: yields prototype, label and atoms.

    Args:
        layers: uid and atoms of each layer.
        homo, hetero: how many of two equal and of two different layers are drawn at most.
        seed: chooses layers, registries and orientations.
    """
    rng = np.random.default_rng([seed, 1])
    kinds = [lattice_kind(atoms) for _, atoms in layers]
    equal = [(i, i) for i, kind in enumerate(kinds) if kind]
    unlike = [
        (i, j)
        for i, kind in enumerate(kinds)
        for j in range(i)
        if kind and kind == kinds[j] and mismatch(layers[i][1], layers[j][1]) < MAX_MISMATCH
    ]
    for pairs, count, name in ((equal, homo, "bilayer"), (unlike, hetero, "heterobilayer")):
        choices = [(i, j, r, f) for i, j in pairs for r in REGISTRIES[kinds[i]] for f in (0, 1)]
        for index in rng.permutation(len(choices))[:count]:
            i, j, registry, flip = choices[index]
            shift = REGISTRIES[kinds[i]][registry]
            atoms = bilayer(layers[i][1], layers[j][1], shift, bool(flip))
            label = f"{layers[i][0]}|{layers[j][0]} {registry}{' flipped' if flip else ''}"
            yield f"{name} ({kinds[i]})", label, atoms
