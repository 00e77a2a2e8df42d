"""What a refinement is given, brought into shape."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

import diffraction as dx
from dd2d_jax.crystals.symmetry import displacements
from dd2d_jax.data.crystal_set import CrystalSet
from dd2d_jax.spots import Spots, power_of_two

# Error of an intensity where none is given: a share of it, and of the strongest spot's.
RELATIVE, ABSOLUTE = 0.05, 3e-4


def on_lattice(crystal: dx.Crystal, lattice: jax.Array) -> dx.Crystal:
    """The same fractional coordinates on other cells (..., 2, 2)."""
    fractional = jnp.einsum(
        "...nd,...ed->...ne", crystal.positions[..., :2], crystal.reciprocal, precision="highest"
    )
    in_plane = jnp.einsum("...nd,...de->...ne", fractional, lattice, precision="highest")
    positions = jnp.concatenate([in_plane, crystal.positions[..., 2:]], -1)
    return dataclasses.replace(crystal, lattice=lattice, positions=positions)


def stacked(
    queries: Spots | Sequence[Spots], sigma: np.ndarray | Sequence[np.ndarray] | None
) -> dict[str, np.ndarray]:
    """hk, q, intensity, measured and sigma, (n, P, T, 2) each; T a power of two.

    `stated` (n, P) is True where errors were given, by `sigma` or by the queries.

    Raises:
        ValueError: sigma of another shape than the intensities, or not positive.
    """
    patterns = [queries] if isinstance(queries, Spots) else list(queries)
    given = [sigma] if isinstance(queries, Spots) and sigma is not None else sigma
    names = ("hk", "q", "intensity", "measured")
    out: dict[str, list[np.ndarray]] = {name: [] for name in (*names, "sigma", "stated")}
    size = power_of_two(max(max(p.hk.shape[1] for p in patterns), 16))
    for i, pattern in enumerate(patterns):
        arrays = {name: np.asarray(getattr(pattern, name)) for name in names}
        error = np.hypot(RELATIVE * arrays["intensity"], ABSOLUTE)
        if given is not None:
            error = _checked(given[i], arrays, i)
        elif pattern.sigma is not None:
            own = np.asarray(pattern.sigma, np.float32)
            error = np.where(own > 0, own, error)
        out["stated"].append(np.full(len(error), given is not None or pattern.sigma is not None))
        arrays["sigma"] = np.where(arrays["measured"], error, 1.0)
        for name, x in arrays.items():
            out[name].append(np.pad(x, [(0, 0), (0, size - x.shape[1]), (0, 0)]))
    joined = {name: np.stack(x, 1) for name, x in out.items()}
    joined["sigma"] = np.where(joined["measured"], joined["sigma"], 1.0).astype(np.float32)
    return joined


def _checked(given: np.ndarray, arrays: dict[str, np.ndarray], i: int) -> np.ndarray:
    error = np.asarray(given, np.float32)
    if error.shape != arrays["intensity"].shape:
        raise ValueError(
            f"sigma of pattern {i} must have the shape of its intensities, "
            f"{arrays['intensity'].shape}; got {error.shape}"
        )
    wrong = arrays["measured"] & ~((error > 0) & np.isfinite(error))
    if wrong.any():
        row = tuple(int(x) for x in np.argwhere(wrong)[0])
        raise ValueError(f"sigma of pattern {i}, spot {row}, is not a positive number")
    return error


def reshaped_tilts(tilts: np.ndarray | Sequence | None, shape: tuple[int, int]) -> np.ndarray:
    """Tilts (n, P, 2) in degrees."""
    values = np.zeros((shape[1], 2)) if tilts is None else np.asarray(tilts, float)
    if values.shape not in ((shape[1], 2), (*shape, 2)):
        raise ValueError(
            f"tilts must have the shape {(shape[1], 2)}, two angles for each pattern, or "
            f"{(*shape, 2)}; got {values.shape}"
        )
    return np.broadcast_to(values, (*shape, 2)).astype(np.float32)


def fields(crystals: CrystalSet, i: int, symmetric: bool) -> tuple[np.ndarray, np.ndarray]:
    real = crystals.numbers[i] > 0
    lattice, positions = crystals.lattice[i].astype(float), crystals.positions[i].astype(float)
    some, along_normal = displacements(
        lattice, positions[real], crystals.numbers[i][real], symmetric
    )
    fields = np.zeros((len(some), len(real), 3))
    fields[:, real] = some
    fields[..., :2] = fields[..., :2] @ np.linalg.inv(lattice)
    return fields, along_normal


def problems(
    crystals: CrystalSet,
    rows: np.ndarray,
    sizes: tuple[int, int],
    cells: np.ndarray,
    symmetry: list[tuple[np.ndarray, np.ndarray]],
    b_by_element: bool,
) -> dict[str, np.ndarray]:
    """The candidates' part of `Problem`, padded to so many atoms and fields."""
    room, count = sizes
    most = max(len(np.unique(x[x > 0])) for x in crystals.numbers) if b_by_element else 1
    kinds = np.zeros((len(rows), power_of_two(most), room))
    fields = np.zeros((len(rows), count, room, 3))
    along_normal = np.zeros((len(rows), count), bool)
    fractional, heights = np.zeros((len(rows), room, 2)), np.zeros((len(rows), room))
    numbers = np.zeros((len(rows), room), np.int32)
    slots = min(room, crystals.numbers.shape[1])
    for k, i in enumerate(rows):
        numbers[k, :slots] = crystals.numbers[i, :slots]
        real = numbers[k] > 0
        place = np.where(real[:slots, None], crystals.positions[i, :slots].astype(float), 0)
        fractional[k, :slots] = place[:, :2] @ np.linalg.inv(crystals.lattice[i].astype(float))
        heights[k, :slots] = place[:, 2]
        elements = np.unique(numbers[k][real]) if b_by_element else [None]
        for e, element in enumerate(elements):
            kinds[k, e] = real if element is None else numbers[k] == element
        some, flags = symmetry[i]
        fields[k, : len(some), :slots] = some[:, :slots]
        along_normal[k, : len(some)] = flags
    single = {"fractional": fractional, "heights": heights, "fields": fields, "kinds": kinds}
    single["lattice"] = cells[rows]
    return {k: v.astype(np.float32) for k, v in single.items()} | {
        "numbers": numbers, "along_normal": along_normal
    }  # fmt: skip
