"""Tilted layers: several patterns at known tilts on one lattice, and tilts that a lattice shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

import diffraction as dx
from dd2d_jax.lattices import lattice as lattices
from dd2d_jax.lattices.indexed import Indexed
from dd2d_jax.lattices.parents import with_parent
from dd2d_jax.lattices.reduction import reduce
from dd2d_jax.lattices.warp import Warp
from dd2d_jax.spots import Conditions
from dd2d_jax.util.errors import PatternError
from diffraction.kinematic import tilt_matrix

# Spots of the other tilts may lie so far from their place, 1/angstrom, or so much of the shortest
# reciprocal vector, if that is less.
_TOLERANCE, _SHARE = 0.03, 0.2
# Before the energy is known: where the sphere cuts matters in the second order.
_WAVELENGTH = 0.037
# Degrees. Less is as often the camera's ellipticity, and changes little; more shows few spots.
_LEAST, _MOST = 8.0, 25.0


def least_tilt(tilts: Sequence[Sequence[float]]) -> int:
    """Which of the tilts is the smallest."""
    return int(np.argmin(np.hypot(*np.asarray(tilts, float).T)))


def in_plane(q: np.ndarray, tilt: Sequence[float], wavelength: float) -> np.ndarray:
    """Coordinates (K, 2) in the layer's plane of spots q (K, 2) across the beam, 1/angstrom.

    The scattered wave lies on the Ewald sphere, which gives the third component; the tilt, as in
    `dx.simulate`, is turned back. Exact where the tilt is.
    """
    k = 1 / wavelength
    squared = np.sum(q * q, -1)
    along = squared / (k + np.sqrt(np.maximum(k * k - squared, 0.0)))
    return (np.column_stack([q, along]) @ np.asarray(tilt_matrix(tilt), float))[:, :2]


def untilted(indexed: Indexed, tilt: Sequence[float], conditions: Conditions) -> Indexed:
    """The same spots where they would be without the tilt."""
    wavelength = float(conditions.radiation.wavelength)
    return dataclasses.replace(indexed, q=in_plane(indexed.q, tilt, wavelength))


def leaning(indexed: Indexed) -> list[tuple[Indexed, np.ndarray]]:
    """The tilts, degrees, at which a lattice is hexagonal or square, and it without them.

    A tilt shortens it in one direction, and both senses do so alike: two tilts, or none where the
    lattice is so already, or never. `q` stay as they were measured.
    """
    cell = reduce(indexed.lattice) @ indexed.lattice
    shapes = [_from_symmetric(cell, angle) for angle in (120.0, 90.0)]
    ratio, along = max(shapes, key=lambda one: one[0])
    size = float(np.degrees(np.arccos(min(ratio, 1.0))))
    if not _LEAST < size < _MOST:
        return []
    out = []
    for tilt in size * np.outer((1, -1), (-along[1], along[0])):
        basis = np.linalg.inv(indexed.lattice).T @ np.asarray(tilt_matrix(tilt), float)[:2, :2]
        flat = np.linalg.inv(basis).T
        one = dataclasses.replace(
            indexed, lattice=flat, parent=None, satellites=None, alternatives=()
        )
        out.append((one, tilt))
    return out


def _from_symmetric(cell: np.ndarray, angle: float) -> tuple[float, np.ndarray]:
    """Smaller over larger stretch from a hexagonal or square cell of that angle to this one, and
    the direction (2,) of the smaller one."""
    turn = np.radians(angle) * np.sign(np.linalg.det(cell))
    stretch = np.linalg.solve([[1, 0], [np.cos(turn), np.sin(turn)]], cell)
    _, sizes, directions = np.linalg.svd(stretch)
    return float(sizes[1] / sizes[0]), directions[1]


def from_tilts(patterns: Sequence[dx.Pattern], tilts: Sequence[Sequence[float]]) -> list[Indexed]:
    """Every pattern's spots, q as measured, on the lattice of the one with the least tilt.

    Args:
        patterns: of one crystal, whose axes in the plane are the same in all of them.
        tilts: (P, 2) degrees about x and y as in `dx.simulate`.

    Raises:
        ValueError: not as many tilts as patterns.
        PatternError: see `lattice.find`; or a pattern without spots on the lattice of the first.
    """
    values = np.asarray(tilts, float)
    if len(patterns) == 0 or values.shape != (len(patterns), 2):
        raise ValueError(
            f"{len(patterns)} patterns need as many tilts of two angles each; got an array of "
            f"shape {values.shape}"
        )
    first = least_tilt(tilts)
    spots = [lattices.checked(pattern)[:3] for pattern in patterns]
    flat = [in_plane(one[0], tilt, _WAVELENGTH) for one, tilt in zip(spots, values, strict=True)]
    whole = spots[first][1]
    reference = lattices.find(
        dx.Pattern(
            jnp.asarray(flat[first], jnp.float32),
            jnp.asarray(whole, jnp.float32),
            jnp.zeros(flat[first].shape, jnp.int32),
            jnp.ones(len(whole), bool),
        )
    )
    basis = np.linalg.inv(reference.lattice).T
    limit = min(_TOLERANCE, _SHARE * np.linalg.norm(basis, axis=1).min())
    out = []
    for number, ((q, intensity, sigma), places) in enumerate(zip(spots, flat, strict=True)):
        places = reference.warp(places)
        hk = np.rint(places @ reference.lattice.T).astype(int)
        good = (np.linalg.norm(places - hk @ basis, axis=1) < limit) & (hk != 0).any(1)
        if good.sum() < 3:
            raise PatternError(
                f"pattern {number} at tilt {tuple(values[number].tolist())}: {int(good.sum())} of "
                f"its spots lie on the lattice of pattern {first}; are the tilts and axes right?"
            )
        seen = dataclasses.replace(
            reference,
            parent=None,
            satellites=None,
            warp=Warp(),
            q=q[good],
            hk=hk[good],
            intensity=intensity[good] / intensity[good].max(),
            intensity_sigma=None if sigma is None else sigma[good] / intensity[good].max(),
            spots=np.flatnonzero(good),
            explained=float(good.mean()),
            strength=float(intensity[good].sum() / intensity.sum()),
        )
        out.append(with_parent(seen, reference.main))
    return out
