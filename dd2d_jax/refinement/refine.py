"""Agreement of candidates with patterns, and its improvement by gradients through the simulator.

Least squares with priors, by Levenberg-Marquardt, all candidates at once. What is fitted: the
cell's strain (to the spots' positions), atoms within the layer group, the layer's thickness, B,
and for each pattern its tilt, its rotation in the plane, the scale and a constant background of
its intensities. Every parameter has a normal prior (`Priors`), which keeps a bad start from
running away, and with which what the data say of a parameter is compared.

Intensities cannot know the crystal's origin nor its height; the atoms' mean displacement is zero.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from ase.data import chemical_symbols

import diffraction as dx
from dd2d_jax.crystals.symmetry import displacements
from dd2d_jax.data.crystal_set import CrystalSet
from dd2d_jax.refinement.fit_model import LEAST, Priors, Problem, refine
from dd2d_jax.spots import Conditions, Spots, atom_slots, power_of_two
from diffraction.kinematic import tilt_matrix

# Error of an intensity where none is given: a share of it, and of the strongest spot's.
RELATIVE, ABSOLUTE = 0.05, 3e-4
# A parameter that keeps more than this share of its prior's standard deviation is undetermined.
_UNDETERMINED = 0.5
# Fields of `Fit` that are what `fit_model.refine` gives.
_AS_FOUND = (
    "b_atoms", "position_sigma", "b_sigma", "strain", "strain_sigma", "tilt", "tilt_sigma",
    "goodness",
)  # fmt: skip
# Candidates that are refined at once.
_CHUNK = 32
# Room for so many atoms, and twice as many displacements, at least: compiling costs more.
_ROOM = 16


@dataclasses.dataclass(frozen=True)
class Fit:
    """How n candidates agree with a pattern, or with several of one crystal.

    Uncertainties are standard deviations from the curvature at the minimum, data and priors
    together; None where nothing was refined.

    Attributes:
        crystals: a batch of n, on the pattern's lattice where refined.
        intensity: (n, T, 2) simulated at the pattern's spots, on the pattern's scale; of P
            patterns (n, P, T, 2), T that of the longest.
        r_factor: (n,) R1 = sum |sqrt(I_o) - s sqrt(I_c)| / sum sqrt(I_o), s by least squares, over
            all patterns.
        r_before: (n,) R1 before refinement.
        wr2: (n,) sqrt(sum w (I_o - s I_c)^2 / sum w I_o^2), w = 1 / sigma^2.
        wr2_before: (n,) before refinement.
        b_iso: (n,) angstrom^2; where fitted by element, the atoms' mean.
        b_atoms: (n, N) angstrom^2, B of each atom, 0 for padding.
        position_sigma: (n, N, 3) angstrom, relative to the atoms' mean; 0 where symmetry holds.
        b_sigma: (n, N) angstrom^2, of b_atoms.
        strain: (n, 2, 2) of the cell, from the measured one (the first pattern's).
        strain_sigma: (n, 2, 2).
        tilt: (n, P, 2) degrees.
        tilt_sigma: (n, P, 2) degrees.
        goodness: (n,) chi^2 of the intensities for each degree of freedom, by the errors given or
            assumed.
        undetermined: for each candidate what the data do not determine, such as "z of S2" (atoms
            are counted by element): its uncertainty is more than half of the prior's.
    """

    crystals: dx.Crystal
    intensity: np.ndarray
    r_factor: np.ndarray
    r_before: np.ndarray
    wr2: np.ndarray
    wr2_before: np.ndarray
    b_iso: np.ndarray
    b_atoms: np.ndarray | None = None
    position_sigma: np.ndarray | None = None
    b_sigma: np.ndarray | None = None
    strain: np.ndarray | None = None
    strain_sigma: np.ndarray | None = None
    tilt: np.ndarray | None = None
    tilt_sigma: np.ndarray | None = None
    goodness: np.ndarray | None = None
    undetermined: tuple[tuple[str, ...], ...] | None = None


def r_factors(
    crystals: CrystalSet,
    queries: Spots | Sequence[Spots],
    conditions: Conditions,
    tilts: np.ndarray | Sequence | None = None,
    sigma: np.ndarray | Sequence[np.ndarray] | None = None,
) -> Fit:
    """Simulate n candidates as they are at their queries' spots; arguments as of `fit`."""
    seen = _stacked(queries, sigma)
    batch = crystals.crystal
    tilt = _tilts(tilts, seen["hk"].shape[:2])
    intensity = _simulated(batch, seen["hk"], conditions, tilt)
    r, wr, intensity = _agreement(seen, np.asarray(intensity))
    b_iso = np.full(len(crystals), conditions.b_iso)
    return Fit(batch, _like(intensity, queries), r, r, wr, wr, b_iso)


def fit(
    crystals: CrystalSet,
    queries: Spots | Sequence[Spots],
    conditions: Conditions,
    tilts: np.ndarray | Sequence | None = None,
    sigma: np.ndarray | Sequence[np.ndarray] | None = None,
    priors: Priors = Priors(),  # noqa: B008  (frozen)
    symmetric: bool = True,
    b_by_element: bool = False,
) -> Fit:
    """Refine n candidates against n queries, candidate i against query i.

    Args:
        crystals: n candidates, in the setting of their queries.
        queries: the spots of n patterns (batch axis in front), or P of these, one for each tilt,
            all indexed in the same cell.
        conditions: radiation, and B to begin with.
        tilts: degrees as in `dx.simulate`, in the queries' frame (see `tilt_in_setting`): (P, 2)
            or (n, P, 2); None: the beam runs along the normal.
        sigma: (n, T, 2) errors of the intensities, relative to the strongest spot as they are; of
            P queries one each. What is given is scaled up where chi^2 is too large. None: 5 % of
            the intensity and 3e-4, scaled by chi^2.
        priors: how far the truth may be.
        symmetric: keep each candidate's layer group.
        b_by_element: one B for each element.

    Raises:
        ValueError: `tilts` or `sigma` do not fit the queries.
    """
    before = r_factors(crystals, queries, conditions, tilts, sigma)
    seen = _stacked(queries, sigma)
    tilt = _tilts(tilts, seen["hk"].shape[:2])
    first = queries if isinstance(queries, Spots) else queries[0]
    cells = np.asarray(first.lattice)
    symmetry = [_fields(crystals, i, symmetric) for i in range(len(crystals))]
    rooms = np.array([power_of_two(max(int(n), _ROOM)) for n in atom_slots(crystals.numbers)])
    if len(rooms) <= _CHUNK:  # one compilation costs more than the padding
        rooms[:] = rooms.max()
    least = jnp.asarray(LEAST if sigma is None else 1.0)
    parts: list[tuple[np.ndarray, dict]] = []
    for room in np.unique(rooms):
        alike = np.flatnonzero(rooms == room)
        most = power_of_two(max(max(len(symmetry[i][0]) for i in alike), 2 * _ROOM))
        for begin in range(0, len(alike), _CHUNK):
            rows = alike[begin : begin + _CHUNK]
            # The last row is repeated: few shapes are compiled.
            filled = rows[np.minimum(np.arange(power_of_two(len(rows))), len(rows) - 1)]
            problems = _problems(crystals, filled, (room, most), cells, symmetry, b_by_element)
            problems |= {k: v[filled] for k, v in seen.items()} | {"tilts": tilt[filled]}
            found = refine(
                Problem(**jax.tree.map(jnp.asarray, problems)), priors, conditions, least
            )
            parts.append((rows, {k: np.asarray(v)[: len(rows)] for k, v in found.items()}))
    found = _joined(parts, len(crystals), crystals.numbers.shape[1])
    refined = dx.Crystal(
        jnp.asarray(found["lattice"]), jnp.asarray(found["positions"]), before.crystals.numbers
    )
    r, wr, intensity = _agreement(seen, found["intensity"])
    atoms = np.maximum((crystals.numbers > 0).sum(1), 1)
    return Fit(
        crystals=refined,
        intensity=_like(intensity, queries),
        r_factor=r,
        r_before=before.r_factor,
        wr2=wr,
        wr2_before=before.wr2,
        b_iso=found["b_atoms"].sum(1) / atoms,
        undetermined=tuple(
            _undetermined(crystals.numbers[i], {k: v[i] for k, v in found.items()}, b_by_element)
            for i in range(len(crystals))
        ),
        **{name: found[name] for name in _AS_FOUND},
    )


def on_lattice(crystal: dx.Crystal, lattice: jax.Array) -> dx.Crystal:
    """The same fractional coordinates on other cells (n, 2, 2)."""
    fractional = jnp.einsum(
        "...nd,...ed->...ne", crystal.positions[..., :2], crystal.reciprocal, precision="highest"
    )
    in_plane = jnp.einsum("...nd,...de->...ne", fractional, lattice, precision="highest")
    positions = jnp.concatenate([in_plane, crystal.positions[..., 2:]], -1)
    return dataclasses.replace(crystal, lattice=lattice, positions=positions)


def tilt_in_setting(tilt: Sequence[float], frame: np.ndarray) -> np.ndarray:
    """The tilt (2,) in degrees as seen in a frame whose axes x, y are the rows of `frame` (2, 2).

    The frame may be left-handed, that of a layer seen from below: its pattern is then described
    by the mirrored one, spots at q and -q exchanged. A rotation in the plane, of second order in
    the tilt, is left to the refinement.
    """
    turn = np.eye(3)
    turn[:2, :2] = frame
    normal = (turn @ np.asarray(tilt_matrix(tilt), float) @ turn.T)[2]
    return np.rad2deg([np.arctan2(normal[1], normal[2]), -np.arcsin(np.clip(normal[0], -1, 1))])


# What fit is given, brought into shape.


def _stacked(
    queries: Spots | Sequence[Spots], sigma: np.ndarray | Sequence[np.ndarray] | None
) -> dict[str, np.ndarray]:
    """hk, q, intensity, measured and sigma, (n, P, T, 2) each; T a power of two."""
    patterns = [queries] if isinstance(queries, Spots) else list(queries)
    given = [sigma] if isinstance(queries, Spots) and sigma is not None else sigma
    names = ("hk", "q", "intensity", "measured")
    out: dict[str, list[np.ndarray]] = {name: [] for name in (*names, "sigma")}
    size = power_of_two(max(max(p.hk.shape[1] for p in patterns), 16))
    for i, pattern in enumerate(patterns):
        arrays = {name: np.asarray(getattr(pattern, name)) for name in names}
        if given is None:
            error = np.hypot(RELATIVE * arrays["intensity"], ABSOLUTE)
        else:
            error = np.asarray(given[i], np.float32)
            if error.shape != arrays["intensity"].shape:
                raise ValueError(
                    f"sigma of pattern {i} must have the shape of its intensities, "
                    f"{arrays['intensity'].shape}; got {error.shape}"
                )
            wrong = arrays["measured"] & ~((error > 0) & np.isfinite(error))
            if wrong.any():
                row = tuple(int(x) for x in np.argwhere(wrong)[0])
                raise ValueError(f"sigma of pattern {i}, spot {row}, is not a positive number")
        arrays["sigma"] = np.where(arrays["measured"], error, 1.0)
        for name, x in arrays.items():
            out[name].append(np.pad(x, [(0, 0), (0, size - x.shape[1]), (0, 0)]))
    stacked = {name: np.stack(x, 1) for name, x in out.items()}
    stacked["sigma"] = np.where(stacked["measured"], stacked["sigma"], 1.0).astype(np.float32)
    return stacked


def _like(intensity: np.ndarray, queries: Spots | Sequence[Spots]) -> np.ndarray:
    """Intensities (n, P, T, 2) without the padding, and without P where queries have none."""
    if isinstance(queries, Spots):
        return intensity[:, 0, : queries.hk.shape[1]]
    return intensity[:, :, : max(p.hk.shape[1] for p in queries)]


def _tilts(tilts: np.ndarray | Sequence | None, shape: tuple[int, int]) -> np.ndarray:
    """Tilts (n, P, 2) in degrees."""
    values = np.zeros((shape[1], 2)) if tilts is None else np.asarray(tilts, float)
    if values.shape not in ((shape[1], 2), (*shape, 2)):
        raise ValueError(
            f"tilts must have the shape {(shape[1], 2)}, two angles for each pattern, or "
            f"{(*shape, 2)}; got {values.shape}"
        )
    return np.broadcast_to(values, (*shape, 2)).astype(np.float32)


def _fields(crystals: CrystalSet, i: int, symmetric: bool) -> tuple[np.ndarray, np.ndarray]:
    real = crystals.numbers[i] > 0
    lattice, positions = crystals.lattice[i].astype(float), crystals.positions[i].astype(float)
    some, along_normal = displacements(
        lattice, positions[real], crystals.numbers[i][real], symmetric
    )
    fields = np.zeros((len(some), len(real), 3))
    fields[:, real] = some
    fields[..., :2] = fields[..., :2] @ np.linalg.inv(lattice)
    return fields, along_normal


def _problems(
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


@jax.jit
def _simulated(
    crystal: dx.Crystal, hk: jax.Array, conditions: Conditions, tilts: jax.Array
) -> jax.Array:
    """Intensities (n, P, T, 2) of n crystals at the rods (n, P, T, 2) and their opposites."""
    # The query's spots are compared also where strain has moved them beyond q_max.
    reach = conditions.q_max * 1.2

    def one(crystal, hk, tilt):
        both = jnp.concatenate([hk, -hk])
        pattern = dx.simulate(
            crystal, conditions.radiation, reach, conditions.b_iso, tilt, hk=both
        )
        return pattern.intensity.reshape(2, -1).T

    return jax.vmap(jax.vmap(one, (None, 0, 0)))(crystal, hk, tilts)


def _agreement(
    seen: dict[str, np.ndarray], calculated: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """R1 (n,), wR2 (n,) over all patterns, and the intensities on the patterns' scales."""
    used = seen["measured"]
    observed = np.where(used, seen["intensity"], 0)
    calculated = np.where(used, np.maximum(calculated, 0), 0)
    weight = used / seen["sigma"] ** 2

    def scale(a, b, w=1.0):
        ratio = (w * a * b).sum((2, 3)) / ((w * b * b).sum((2, 3)) + 1e-12)
        return ratio[:, :, None, None]

    a, b = np.sqrt(observed), np.sqrt(calculated)
    s = scale(a, b)
    every = (1, 2, 3)
    r = np.abs(a - s * b).sum(every) / (a.sum(every) + 1e-12)
    difference = observed - scale(observed, calculated, weight) * calculated
    wr = (weight * difference**2).sum(every) / ((weight * observed**2).sum(every) + 1e-12)
    return r, np.sqrt(wr), s**2 * calculated


# What comes out of it.


def _joined(parts: list[tuple[np.ndarray, dict]], count: int, slots: int) -> dict[str, np.ndarray]:
    """Chunks put together in the order of the candidates, atoms padded to `slots`."""
    by_atom = ("positions", "b_atoms", "b_sigma", "b_left", "position_sigma", "position_prior")
    out: dict[str, np.ndarray] = {}
    for rows, found in parts:
        for name, values in found.items():
            if name in by_atom:
                short = max(slots - values.shape[1], 0)
                values = np.pad(
                    values, [(0, 0), (0, short)] + [(0, 0)] * (values.ndim - 2)
                )[:, :slots]
            if name not in out:
                out[name] = np.zeros((count, *values.shape[1:]), values.dtype)
            out[name][rows] = values
    return out


def _undetermined(
    numbers: np.ndarray, found: dict[str, np.ndarray], b_by_element: bool
) -> tuple[str, ...]:
    """Names of what the data do not determine, of one candidate."""
    names = []
    seen: dict[int, int] = {}
    for i, number in enumerate(numbers.tolist()):
        if not number:
            continue
        seen[number] = seen.get(number, 0) + 1
        for d in range(3):
            prior = found["position_prior"][i, d]
            if prior > 1e-4 and found["position_sigma"][i, d] > _UNDETERMINED * prior:
                names.append(f"{'xyz'[d]} of {chemical_symbols[number]}{seen[number]}")
    for number in seen if b_by_element else list(seen)[:1]:
        if found["b_left"][numbers == number][0] > _UNDETERMINED:
            names.append(f"B of {chemical_symbols[number]}" if b_by_element else "B")
    if (found["strain_left"] > _UNDETERMINED).any():
        names.append("cell")
    for i, angles in enumerate(found["tilt_left"]):
        of = f" of pattern {i}" if len(found["tilt_left"]) > 1 else ""
        names += [f"tilt about {'xy'[d]}{of}" for d in range(2) if angles[d] > _UNDETERMINED]
    return tuple(names)
