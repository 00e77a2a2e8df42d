"""Displacements of atoms that keep a layer's symmetry."""

from __future__ import annotations

import numpy as np
import spglib

from dd2d_jax.crystals.structures import to_atoms

# Angstrom. Relaxed structures keep their symmetry to this; real distortions are larger.
TOLERANCE = 0.02


def operations(
    lattice: np.ndarray, positions: np.ndarray, numbers: np.ndarray, tolerance: float = TOLERANCE
) -> tuple[np.ndarray, np.ndarray]:
    """Operations of a crystal's layer group and where they take its atoms.

    Args:
        lattice: (2, 2) angstrom.
        positions: (N, 3) angstrom, no padding.
        numbers: (N,).
        tolerance: angstrom.

    Returns:
        Cartesian rotations (g, 3, 3), applied as R @ x, and images (g, N): operation k takes atom
        i to atom images[k, i]. The identity alone where spglib finds no symmetry.
    """
    atoms = to_atoms(lattice, positions, numbers)
    cell, fractional = atoms.cell.array, atoms.get_scaled_positions(wrap=False)
    found = spglib.get_symmetry_layerdataset(
        (cell, fractional, numbers), aperiodic_dir=2, symprec=tolerance
    )
    if found is None:
        return np.eye(3)[None], np.arange(len(numbers))[None]
    moved = np.einsum("gij,nj->gni", found.rotations, fractional) + found.translations[:, None]
    away = moved[:, :, None] - fractional
    away[..., :2] -= np.round(away[..., :2])
    distance = np.linalg.norm(away @ cell, axis=-1)
    distance = np.where(numbers[:, None] == numbers, distance, np.inf)
    images = distance.argmin(-1)
    rotations = cell.T @ found.rotations @ np.linalg.inv(cell.T)
    # An operation that is none of all atoms would tie together what is not equivalent.
    whole = (np.sort(images, -1) == np.arange(len(numbers))).all(-1)
    return rotations[whole], images[whole]


def displacements(
    lattice: np.ndarray, positions: np.ndarray, numbers: np.ndarray, symmetric: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Fields that span all displacements of atoms, or those that keep the layer group.

    An atom of a set of equivalent ones goes one angstrom along a direction that its site leaves
    free, and takes the others along. The fields' means are then taken off: intensities do not
    know the origin. Hence fields may depend on each other.

    Args:
        lattice: (2, 2) angstrom.
        positions: (N, 3) angstrom, no padding.
        numbers: (N,).
        symmetric: keep the layer group, found to within `TOLERANCE`.

    Returns:
        (m, N, 3) Cartesian fields, each in the plane or along the normal; and (m,) True for those
        along the normal.
    """
    count = len(numbers)
    if symmetric:
        rotations, images = operations(lattice, positions, numbers)
    else:
        rotations, images = np.eye(3)[None], np.arange(count)[None]
    fields, along_normal = [], []
    for first in np.unique(images.min(0)):
        fixing = images[:, first] == first
        for axes in (slice(0, 2), slice(2, 3)):
            # The mean of the site's rotations projects on what they leave alone.
            site = rotations[fixing][:, axes, axes].mean(0)
            _, size, directions = np.linalg.svd(site)
            for direction in directions[size > 0.5]:
                field = np.zeros((count, 3))
                field[images[:, first], axes] = rotations[:, axes, axes] @ direction
                field -= field.mean(0)
                if np.abs(field).max() > 1e-6:
                    fields.append(field)
                    along_normal.append(axes.start == 2)
    return np.reshape(fields, (-1, count, 3)), np.array(along_normal, bool)
