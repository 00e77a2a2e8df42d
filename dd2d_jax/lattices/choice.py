"""Whether spots lie on lattices as they are, on those of a bent or shifted pattern, or on none."""

from __future__ import annotations

import dataclasses

import numpy as np

from dd2d_jax.lattices.copies import copies
from dd2d_jax.lattices.reduction import reduce
from dd2d_jax.lattices.search import SHORTEST, Fit, shortest, sizes, square
from dd2d_jax.lattices.sets import Explained, double_diffraction, explain, seen, sparse, worth
from dd2d_jax.lattices.stretch import common_stretch, stretched, symmetric_stretch
from dd2d_jax.lattices.warp import Warp, straight
from dd2d_jax.util.errors import PatternError

# Of the strongest spots so many are on the lattices.
NEEDED = 2 / 3
# Where more of them are, nothing else is tried.
_ENOUGH = 0.9
# Fewer spots would lie on some lattice of a pattern that may be bent and shifted as well.
_MANY = 16
# By so much a bent or shifted pattern has to explain more.
_GAIN = 0.1
# Spots stronger than the one of this rank count as much as it does.
_ALIKE = 10
# A camera that bends rows of spots stretches them by no more than this.
_STRETCH = 0.04
# A radial term that moves the outermost spots by this share shows that a camera distorts.
_DISTORTS = 0.02
# Lengths that differ by less (logarithm) are equal after a stretch.
_ALIKE_LENGTHS = 0.015
# What q may have been multiplied with.
_FACTORS = {"with 2 pi": 2 * np.pi, "1/nm": 10.0, "1/nm with 2 pi": 20 * np.pi}
# Reciprocal vectors of usual cells, 1/angstrom, and a q that no pattern in 1/angstrom has.
_SPACING, _PIXELS = 0.27, 70.0
# Of a lattice that stands for one with too small a cell so many of the places are empty. Denser
# layers of atoms than one in this area (angstrom^2) there are not; graphene's have 2.6.
_EMPTY, _DENSEST = 0.45, 2.4


def share(found: Explained, intensity: np.ndarray) -> float:
    """Share of the spots on the lattices: of all, or of as many of the strongest as show it best.

    Those judged hold a quarter of the intensity at least, in which the few strongest count alike.
    """
    if not found.fits:
        return 0.0
    alike = np.minimum(intensity, intensity[min(_ALIKE, len(intensity)) - 1])
    judged = [n for n in sizes(len(alike)) if n >= 12 and 4 * alike[:n].sum() >= alike.sum()]
    return max(float(found.spots[:n].mean()) for n in judged or [len(alike)])


def best_explanation(
    q: np.ndarray, intensity: np.ndarray, tolerance: float, most: int
) -> tuple[Explained, Warp]:
    """Lattices for spots q (K, 2), strongest first, and what straightens the pattern for them.

    `fits` is empty where no lattices hold enough of the strongest spots.
    """
    found, warp = explain(q, tolerance, most), Warp()
    value = share(found, intensity)
    empty = any(sparse(f, q) for f in found.fits)
    if len(q) >= _MANY and (value < _ENOUGH or len(found.fits) > 1 or empty):
        for other in (*_bent(q, tolerance), *_shifted(q, tolerance)):
            if other.plain:
                continue
            flat = other(q)
            new = explain(flat, tolerance, most)
            gain = share(new, intensity) - value
            fewer = 0 < len(new.fits) < len(found.fits)
            full = empty and len(new.fits) == 1 and 2 * new.fits[0].area < found.fits[0].area
            if not (gain > _GAIN or (fewer or full) and gain > -0.03):
                if len(found.fits) < 2:
                    continue
                # A bent lattice whose outer spots stray is easily taken for two.
                new = explain(flat, tolerance, 1)
                if new.spots.mean() <= _ENOUGH or worth(new, flat) < worth(found, warp(q)):
                    continue
            found, warp, value = new, other, share(new, intensity)
            empty = any(sparse(f, q) for f in found.fits)
    found, warp = _with_copies(found, warp, q, most)
    value = share(found, intensity)
    flat = warp(q)
    unlikely = any(shortest(f.basis) < SHORTEST for f in found.fits)
    if value < NEEDED or unlikely or _multiple_of_short(found, flat, intensity, tolerance):
        return Explained([], np.zeros(len(q), bool), 0), warp
    stretch = 0.0 if warp.stretch else common_stretch([f.basis for f in found.fits])
    if stretch:
        warp = dataclasses.replace(warp, stretch=stretch)
        flat = warp(q)
        found = dataclasses.replace(found, fits=[_straight(f, stretch, flat) for f in found.fits])
    return found, warp


def _multiple_of_short(
    found: Explained, q: np.ndarray, intensity: np.ndarray, tolerance: float
) -> bool:
    """Whether a lattice is only a multiple of one whose cell no crystal has."""
    if len(found.fits) != 1 or seen(found.fits[0], q[found.fits[0].good]) > 1 - _EMPTY:
        return False
    short = _short(q, intensity, tolerance, share(found, intensity) - 0.02)
    return short is not None and 1 / abs(np.linalg.det(short)) < _DENSEST


def _short(
    q: np.ndarray, intensity: np.ndarray, tolerance: float, least: float
) -> np.ndarray | None:
    """Reciprocal basis of a lattice of this share of the spots, its cell smaller than crystals'."""
    for factor in (2, 5, 12):
        new = explain(q / factor, tolerance / factor, 1)
        if new.fits and share(new, intensity) >= least:
            return new.fits[0].basis * factor
    return None


def _with_copies(
    found: Explained, warp: Warp, q: np.ndarray, most: int
) -> tuple[Explained, Warp]:
    """The first lattice with turned copies of it, where they explain what is on no lattice.

    In place of other lattices where they explain more than those.
    """
    if not found.fits or most < 2:
        return found, warp
    flat = warp(q)
    main = found if len(found.fits) == 1 else double_diffraction(found.fits[:1], flat)
    stretch, more = copies(main.fits[0], flat, ~main.spots, most - 1)
    if not more:
        return found, warp
    turned = dataclasses.replace(warp, stretch=stretch)
    flat = turned(q)
    new = double_diffraction([_straight(main.fits[0], stretch, flat), *more], flat)
    if main is not found and worth(new, flat) < worth(found, warp(q)):
        return found, warp
    return new, turned


def _straight(fit: Fit, stretch: complex, q: np.ndarray) -> Fit:
    """A lattice after a stretch, of points q (K, 2) that were stretched as well."""
    return dataclasses.replace(fit, basis=stretched(fit.basis, stretch)).on(q)


def symmetric(basis: np.ndarray, warp: Warp, q_max: float) -> tuple[np.ndarray, Warp]:
    """Reciprocal basis and warp with the stretch that makes a nearly symmetric lattice so.

    Of a pattern whose camera is known to distort by its radial term; else nothing is changed.
    """
    if warp.stretch or abs(warp.radial) * q_max**2 < _DISTORTS:
        return basis, warp
    try:
        stretch = symmetric_stretch(basis, _ALIKE_LENGTHS)
    except PatternError:
        return basis, warp
    if abs(stretch) > _STRETCH:
        return basis, warp
    return stretched(basis, stretch), dataclasses.replace(warp, stretch=stretch)


def _bent(q: np.ndarray, tolerance: float) -> list[Warp]:
    """Radial terms and origins with which a lattice of the inner spots grows outwards."""
    order = np.argsort(square(q), kind="stable")
    out = []
    for part in (0.6, 0.35):
        inner = np.sort(order[: int(part * len(q))])
        if len(inner) < 8:
            continue
        found = explain(q[inner], tolerance, 1)
        if found.fits:
            out.append(_grown(found.fits[0], q, order))
    return [w for w in out if w is not None]


def _grown(fit: Fit, q: np.ndarray, order: np.ndarray) -> Warp | None:
    basis, warp = fit.basis, Warp()
    near = 0.2 * float(np.sqrt(square(basis).min()))
    for count in np.linspace(0.35, 1, 8):
        some = order[: max(int(count * len(order)), 8)]
        for _ in range(3):
            flat = warp(q[some])
            hk = np.rint(flat @ np.linalg.inv(basis)).astype(int)
            away = np.sqrt(square(flat - hk @ basis))
            good = (away < near) & (hk != 0).any(1)
            if good.sum() < 8:
                return None
            good &= away < 3 * np.median(away[good]) + 1e-4
            if good.sum() < 8 or np.linalg.matrix_rank(hk[good]) < 2:
                return None
            new = straight(q[some][good], hk[good], np.ones(good.sum()), sure=False)
            basis, warp = new.basis, new.warp
    return warp


def _shifted(q: np.ndarray, tolerance: float) -> list[Warp]:
    """Origins of lattices that pass through one of the strongest spots, nearest to the one told."""
    out = []
    for start in q[:2]:
        moved = q - start
        rest = square(moved) > 0.02**2
        found = explain(moved[rest], tolerance, 1)
        if found.fits:
            fit = found.fits[0].on(moved)
            good = (fit.distance < fit.reach) | ~rest
            basis = fit.basis
            cell = (q[good] - np.rint(moved[good] @ np.linalg.inv(basis)) @ basis).mean(0)
            steps = np.stack(np.meshgrid(*(np.arange(-1, 2),) * 2), -1).reshape(-1, 2)
            places = cell + (steps - np.rint(cell @ np.linalg.inv(basis))) @ basis
            out.append(Warp(shift=places[int(np.argmin(square(places)))]))
    return out


def refusal(q: np.ndarray, intensity: np.ndarray, tolerance: float) -> str:
    """Why spots have no lattice, and where another unit would give one, which."""
    named = []
    factors = dict(_FACTORS)
    if np.sqrt(square(q).max()) > _PIXELS:
        step = np.sqrt(np.sort(square(q))[:4].mean())
        factors = {"pixels": step / _SPACING}
    for name, factor in factors.items():
        fits = explain(q / factor, tolerance, 1)
        if not fits.fits or share(fits, intensity) < NEEDED:
            continue
        cell = _lengths(fits.fits[0].basis)
        if cell[0] > SHORTEST and cell[1] < 15:
            named.append((name, cell, factor))
    if named:
        # A cell too short in one unit was doubled there.
        least = min(np.prod(cell) / factor**2 for _, cell, factor in named)
        named = [n for n in named if np.prod(n[1]) / n[2] ** 2 < 1.2 * least]
        a, b = named[0][1] / named[0][2]
        if named[0][0] == "pixels":
            return (
                f"the cell would be {a:.2g} x {b:.2g} A; are these pixels? multiply them by the "
                "scale in 1/angstrom per pixel"
            )
        kinds = " or ".join(f"{n} (then it is {c[0]:.2f} x {c[1]:.2f} A)" for n, c, _ in named)
        return f"the cell would be {a:.2f} x {b:.2f} A; are these {kinds}? q is needed in 1/A"
    short = _short(q, intensity, tolerance, NEEDED)
    if short is not None:
        a, b = _lengths(short)
        if a < SHORTEST:
            cell = f"{a:.2f} x {b:.2f} A"
            return f"the cell would be {cell}, which no crystal has; is the scale right?"
    found = explain(q, tolerance, 4)
    part = share(found, intensity)
    return (
        f"no 2D lattice explains the spots: {part:.0%} of the strongest of the {len(q)} spots lie "
        "on lattices that random spots would not lie on as well; two thirds are needed"
    )


def _lengths(basis: np.ndarray) -> np.ndarray:
    direct = np.linalg.inv(basis).T
    return np.linalg.norm(reduce(direct) @ direct, axis=1)
