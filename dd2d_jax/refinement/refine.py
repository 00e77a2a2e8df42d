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
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

import diffraction as dx
from dd2d_jax.data.crystal_set import CrystalSet
from dd2d_jax.refinement.bonds import ratios
from dd2d_jax.refinement.dynamical import differences
from dd2d_jax.refinement.fit_model import Priors, Problem
from dd2d_jax.refinement.inputs import fields, on_lattice, problems, reshaped_tilts, stacked
from dd2d_jax.refinement.minima import LEAST, refine
from dd2d_jax.refinement.verdict import (
    ALONG_NORMAL,
    HEIGHTS_LIMIT,
    correlations,
    doubts,
    undetermined,
)
from dd2d_jax.spots import Conditions, Spots, atom_slots, filled, power_of_two, slots
from diffraction.kinematic import tilt_matrix

# Times that multiple scattering is computed where it is fitted.
_ROUNDS = 4
# Fields of `Fit` that are what `minima.refine` gives.
_AS_FOUND = (
    "b_atoms", "position_sigma", "b_sigma", "strain", "strain_sigma", "tilt", "tilt_sigma",
    "goodness", "minima",
)  # fmt: skip
# Candidates that are refined at once.
_CHUNK = 32
# Room for so many atoms, and twice as many displacements, at least: compiling costs more.
_ROOM = 16
# What `minima.refine` gives, of n candidates: arrays (n, ...), or a list where shapes differ.
_Fits = dict[str, np.ndarray | list[np.ndarray]]


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
        minima: (n,) how many minima fit alike; uncertainties cover them.
        undetermined: for each candidate what the data do not determine, such as "z of S2" (atoms
            are counted by element): its uncertainty is more than half of the prior's.
        correlations: for each candidate what trades off, such as ("B", "background", 0.9): of each
            two kinds of parameters the strongest correlation, where it is over 0.7.
        doubts: for each candidate why its uncertainties may be too small, in words; () where
            there is no reason.
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
    minima: np.ndarray | None = None
    undetermined: tuple[tuple[str, ...], ...] | None = None
    correlations: tuple[tuple[tuple[str, str, float], ...], ...] | None = None
    doubts: tuple[tuple[str, ...], ...] | None = None


@dataclasses.dataclass(frozen=True)
class _Task:
    """What is to be fitted, in numpy."""

    crystals: CrystalSet
    seen: dict[str, np.ndarray]
    tilts: np.ndarray
    cells: np.ndarray
    bonded: np.ndarray
    conditions: Conditions
    priors: Priors
    symmetry: list[tuple[np.ndarray, np.ndarray]]
    b_by_element: bool
    starts: int
    least: float


def r_factors(
    crystals: CrystalSet,
    queries: Spots | Sequence[Spots],
    conditions: Conditions,
    tilts: np.ndarray | Sequence | None = None,
    sigma: np.ndarray | Sequence[np.ndarray] | None = None,
    told: np.ndarray | None = None,
    bonds: np.ndarray | None = None,
) -> Fit:
    """Simulate n candidates as they are at their queries' spots; arguments as of `fit`.

    `told` (n, T, 2): intensities that stand in for the simulated ones where they are not NaN.
    """
    seen = stacked(queries, sigma)
    batch = crystals.crystal
    tilt = reshaped_tilts(tilts, seen["hk"].shape[:2])
    intensity = _simulated(batch, seen["hk"], conditions, tilt)
    intensity = np.array(intensity)
    if told is not None:
        told = told.reshape(intensity.shape)
        intensity = np.where(np.isfinite(told), told, intensity)
    intensity *= _with_bonds(crystals, crystals.lattice, seen, tilt, conditions, bonds)
    r, wr, intensity = _agreement(seen, intensity)
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
    starts: int = 6,
    method: str = "kinematic",
    bonds: np.ndarray | None = None,
    say: Callable[[str], None] = lambda line: None,
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
            P queries one each. None: those that the queries have, else 5 % of the intensity and
            3e-4. What is stated is scaled up where chi^2 is too large, what is assumed also down.
        priors: how far the truth may be.
        symmetric: keep each candidate's layer group.
        b_by_element: one B for each element.
        starts: how many minima are looked for, from atoms displaced as their priors have it.
        method: "kinematic", where what multiple scattering adds to the start's intensities counts
            as an error as far as the pattern shows it; or "multislice", fitted to intensities of
            electrons that scatter more than once.
        bonds: (n,) share of the electrons in light atoms' bonds, see `diffraction.bonds`; None for
            free atoms.
        say: is told what is being done.

    Raises:
        ValueError: `tilts` or `sigma` do not fit the queries, the method is unknown or not for
            this radiation, or a candidate has mixed sites.
    """
    _check_asked(crystals, conditions, method)
    seen = stacked(queries, sigma)
    tilt = reshaped_tilts(tilts, seen["hk"].shape[:2])
    before = r_factors(crystals, queries, conditions, tilts, sigma, bonds=bonds)
    first = queries if isinstance(queries, Spots) else queries[0]
    cells = np.asarray(first.lattice)
    task = _Task(
        crystals, seen, tilt, cells,
        _with_bonds(crystals, cells, seen, tilt, conditions, bonds), conditions, priors,
        [fields(crystals, i, symmetric) for i in range(len(crystals))], b_by_element, starts,
        1.0 if seen["stated"].all() else LEAST,
    )  # fmt: skip
    start = on_lattice(crystals.crystal, jnp.asarray(task.cells))
    b_atoms = np.where(crystals.numbers > 0, max(float(conditions.b_iso), 0.1), 0)
    added = differences(start, b_atoms, seen["hk"], tilt, conditions, say)
    say(f"fitting {len(crystals)} candidates from {starts} starts each")
    if method == "kinematic":
        found = _all(task, np.zeros_like(added), added)
    else:
        # Multiple scattering changes slowly with the parameters: what it adds is held, and
        # computed again where the fit has come to. What it still changes by counts as an error.
        found = _all(task, added, added / 2)
        for number in range(2, _ROUNDS + 1):
            last = added
            added = differences(
                _fitted(found, crystals), found["b_atoms"], seen["hk"], found["tilt"], conditions
            )
            say(f"fitting multislice intensities, round {number} of {_ROUNDS}")
            found = _all(task, added, added - last)
    return _summary(task, before, found, queries, added, method)


def _with_bonds(
    crystals: CrystalSet,
    lattices: np.ndarray,
    seen: dict[str, np.ndarray],
    tilts: np.ndarray,
    conditions: Conditions,
    share: np.ndarray | None,
) -> np.ndarray:
    """By what a share (n,) of the bonds' electrons multiplies intensities (n, P, T, 2)."""
    out = np.ones((*seen["hk"].shape[:3], 2), np.float32)
    for i in range(out.shape[1] if share is not None else 0):
        hk = np.concatenate([seen["hk"][:, i], -seen["hk"][:, i]], 1)
        found = ratios(crystals, hk, lattices, conditions, tilts[:, i], share)
        out[:, i] = np.stack(np.split(found, 2, 1), -1)
    return out


def _check_asked(crystals: CrystalSet, conditions: Conditions, method: str) -> None:
    """Raise ValueError for what `fit` cannot do."""
    if method not in ("kinematic", "multislice"):
        raise ValueError(f"method must be 'kinematic' or 'multislice', got {method!r}")
    if method == "multislice" and not isinstance(conditions.radiation, dx.Electrons):
        raise ValueError("method='multislice' is for electrons; X-rays scatter kinematically")
    if crystals.mixed.any():
        raise ValueError(
            f"{crystals.uid[crystals.mixed][0]}: mixed sites (partial occupancies) are not refined"
        )


def _all(task: _Task, added: np.ndarray, neglected: np.ndarray) -> _Fits:
    """Every candidate's fit, in chunks of like size, by the names of `minima.refine`."""
    crystals = task.crystals
    rooms = np.array([power_of_two(max(int(n), _ROOM)) for n in atom_slots(crystals.numbers)])
    if len(rooms) <= _CHUNK:  # one compilation costs more than the padding
        rooms[:] = rooms.max()
    parts: list[tuple[np.ndarray, dict]] = []
    for room in np.unique(rooms):
        alike = np.flatnonzero(rooms == room)
        most = power_of_two(max(max(len(task.symmetry[i][0]) for i in alike), 2 * _ROOM))
        for begin in range(0, len(alike), _CHUNK):
            rows = alike[begin : begin + _CHUNK]
            full = filled(rows, power_of_two(len(rows)))
            of = {k: v[full] for k, v in task.seen.items() if k != "stated"}
            of |= problems(
                crystals, full, (room, most), task.cells, task.symmetry, task.b_by_element
            )
            of |= {
                "tilts": task.tilts, "bonded": task.bonded, "added": added, "neglected": neglected,
            }  # fmt: skip
            for name in ("tilts", "bonded", "added", "neglected"):
                of[name] = of[name][full]
            found = refine(
                Problem(**jax.device_put(of)), task.priors, task.conditions,
                jnp.asarray(task.least), task.starts,
            )  # fmt: skip
            parts.append((rows, {k: np.asarray(v)[: len(rows)] for k, v in found.items()}))
    return _joined(parts, len(crystals), crystals.numbers.shape[1])


def _fitted(found: _Fits, crystals: CrystalSet) -> dx.Crystal:
    return dx.Crystal(
        jnp.asarray(found["lattice"]), jnp.asarray(found["positions"]), crystals.crystal.numbers
    )


def _summary(
    task: _Task,
    before: Fit,
    found: _Fits,
    queries: Spots | Sequence[Spots],
    added: np.ndarray,
    method: str,
) -> Fit:
    crystals, seen = task.crystals, task.seen
    r, wr, intensity = _agreement(seen, found["intensity"])
    kinematic = np.asarray(_simulated(_fitted(found, crystals), seen["hk"], task.conditions,
                                      found["tilt"]))  # fmt: skip
    errors = _dynamical_r(seen["measured"], kinematic, added)
    if method == "multislice":
        errors[:] = 0
    _forget_heights(found, errors)
    each = [{k: v[i] for k, v in found.items()} for i in range(len(crystals))]
    by_element = task.b_by_element
    rows = list(zip(crystals.numbers, each, strict=True))
    return Fit(
        crystals=_fitted(found, crystals),
        intensity=_like(intensity, queries),
        r_factor=r,
        r_before=before.r_factor,
        wr2=wr,
        wr2_before=before.wr2,
        b_iso=found["b_atoms"].sum(1) / np.maximum((crystals.numbers > 0).sum(1), 1),
        undetermined=tuple(undetermined(numbers, one, by_element) for numbers, one in rows),
        correlations=tuple(correlations(numbers, one, by_element) for numbers, one in rows),
        doubts=tuple(
            doubts(one, bool(seen["stated"][i].all()), errors[i]) for i, one in enumerate(each)
        ),
        **{name: found[name] for name in _AS_FOUND},
    )


def _forget_heights(found: _Fits, dynamical: np.ndarray) -> None:
    """Heights that only multiple scattering (R factors (n,)) shows are as uncertain as before."""
    along = (np.abs(found["tilt"]) < ALONG_NORMAL).all((1, 2))
    lost = (along & (dynamical > HEIGHTS_LIMIT))[:, None]
    sigma, prior = (found[name][..., 2] for name in ("position_sigma", "position_prior"))
    found["position_sigma"][..., 2] = np.where(lost, np.maximum(sigma, prior), sigma)


def _dynamical_r(measured: np.ndarray, kinematic: np.ndarray, added: np.ndarray) -> np.ndarray:
    """R factors (n,) of kinematic against multislice intensities, as `dx.kinematic_error`."""
    kinematic, added = (np.where(measured, x, 0) for x in (kinematic, added))
    true = kinematic + added
    total = true.sum((2, 3), keepdims=True)
    scale = total / np.maximum(kinematic.sum((2, 3), keepdims=True), 1e-12)
    return np.abs(true - scale * kinematic).sum((1, 2, 3)) / np.maximum(total.sum((1, 2, 3)), 1e-12)


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


def _like(intensity: np.ndarray, queries: Spots | Sequence[Spots]) -> np.ndarray:
    """Intensities (n, P, T, 2) without the padding, and without P where queries have none."""
    if isinstance(queries, Spots):
        return intensity[:, 0, : queries.hk.shape[1]]
    return intensity[:, :, : max(p.hk.shape[1] for p in queries)]


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


def _joined(parts: list[tuple[np.ndarray, dict]], count: int, room: int) -> _Fits:
    """Chunks put together in the order of the candidates, atoms padded to `room`.

    What has as many entries as a chunk's fits have parameters becomes a list, one array each.
    """
    by_atom = ("positions", "b_atoms", "b_sigma", "b_left", "position_sigma", "position_prior")
    out: _Fits = {}
    for rows, found in parts:
        for name, values in found.items():
            if name in by_atom:
                values = slots(values, room)
            if name in ("covariance", "turn", "kinds") or name.startswith("index_"):
                each = out.setdefault(name, [None] * count)
                for row, value in zip(rows, values, strict=True):
                    each[row] = value
                continue
            if name not in out:
                out[name] = np.zeros((count, *values.shape[1:]), values.dtype)
            out[name][rows] = values
    return out
