"""From pixels to 1/angstrom and back, with the camera's distortion; and that from a lattice.

Offsets are (K, 2) pixels from the centre: columns to the right, rows downwards; q_y points up.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

import diffraction as dx
from dd2d_jax.lattices import lattice
from dd2d_jax.lattices.stretch import symmetric_stretch
from dd2d_jax.util.errors import PatternError


@dataclasses.dataclass(frozen=True)
class Mapping:
    """q = scale (w + a w* + radial |w|^2 w) / sqrt(1 - |a|^2) of the offset w = x + i y, y up.

    Attributes:
        scale: 1/angstrom per pixel at the centre: one number, or (2,) along columns and rows.
        stretch: a, complex: circles were ellipses whose axes are as 1 + |a| to 1 - |a|, the long
            one at half the angle of -a.
        radial: third-order radial term, 1/pixel^2; negative where the image is stretched outwards.
    """

    scale: float | np.ndarray
    stretch: complex = 0.0
    radial: float = 0.0

    def q(self, offset: np.ndarray) -> np.ndarray:
        """(K, 2) 1/angstrom."""
        w = offset[..., 0] - 1j * offset[..., 1]
        u = w * (1 + self.radial * (w.real**2 + w.imag**2)) + self.stretch * w.conj()
        u = u / np.sqrt(1 - abs(self.stretch) ** 2)
        return np.stack([u.real, u.imag], -1) * self.scale

    def pixels(self, q: np.ndarray) -> np.ndarray:
        """(K, 2) offsets."""
        u = (q / self.scale) @ [1, 1j] * np.sqrt(1 - abs(self.stretch) ** 2)
        w = u
        for _ in range(20):  # each step gains a factor of the distortion, a few per cent
            w = u - self.stretch * w.conj() - self.radial * np.abs(w) ** 2 * w
        return np.stack([w.real, -w.imag], -1)

    @property
    def ellipticity(self) -> float:
        """Long over short axis of what should be a circle, less 1."""
        return 2 * abs(self.stretch) / (1 - abs(self.stretch))

    @property
    def axis(self) -> float:
        """Direction of the long axis, degrees from +x towards +y (up), -90 to 90."""
        return float(np.degrees(np.angle(-self.stretch)) / 2)


def from_lattice(
    mapping: Mapping, offset: np.ndarray, intensity: np.ndarray
) -> tuple[Mapping, np.ndarray]:
    """A mapping under which the spots' lattice is straight and symmetric.

    The radial term is fitted by least squares. The stretch is the one that makes a nearly
    hexagonal, square, rectangular or rhombic lattice exactly so; where two would do, along and
    across a rectangle, none is assumed. The scale stays.

    Args:
        mapping: the calibration so far.
        offset: (K, 2) pixels from the centre.
        intensity: (K,).

    Returns:
        The mapping, and by how many pixels (2,) the centre moves.

    Raises:
        PatternError: no lattice, or one without symmetry, from which no stretch can be told.
    """
    best = None
    order = np.argsort(np.linalg.norm(offset, axis=1))
    # The radial term hardly matters near the centre: begin there and grow outwards.
    for share in (1.0, 0.6, 0.35):
        inner = order[: max(int(share * len(order)), 8)]
        try:
            found = lattice.find(spots_pattern(mapping.q(offset[inner]), intensity[inner]))
        except PatternError as error:
            failure = error
            continue
        fitted = _straighten(mapping, offset, np.linalg.inv(found.lattice).T, order)
        if best is None or fitted[3] > best[3] + 0.02:
            best = fitted
    if best is None:
        raise failure
    radial, basis, shift, _ = best
    stretch = symmetric_stretch(basis)
    before = mapping.stretch
    stretch = (before + stretch) / (1 + stretch * np.conj(before))
    turned = dataclasses.replace(mapping, stretch=complex(stretch), radial=float(radial))
    return turned, shift


def spots_pattern(q: np.ndarray, intensity: np.ndarray) -> dx.Pattern:
    """Spots q (K, 2) in 1/angstrom of intensity (K,) as a pattern."""
    return dx.Pattern(
        *jax.device_put((q, intensity, np.zeros(q.shape, np.int32), np.ones(len(q), bool)))
    )


def _straighten(
    mapping: Mapping, offset: np.ndarray, basis: np.ndarray, order: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray, float]:
    """Radial term, reciprocal basis, shift of the centre in pixels, share of spots explained."""
    flat = dataclasses.replace(mapping, radial=0.0)
    q = flat.q(offset)
    cubic = (np.linalg.norm(offset, axis=1) ** 2)[:, None] * q
    radial, shift = mapping.radial, np.zeros(2)
    near = 0.25 * min(np.linalg.norm(b) for b in lattice.reduce(basis) @ basis)
    for count in np.linspace(0.35, 1, 8):
        some = order[: max(int(count * len(order)), 8)]
        for _ in range(3):
            straight = q[some] + radial * cubic[some] - shift
            hk = np.rint(straight @ np.linalg.inv(basis))
            away = np.linalg.norm(straight - hk @ basis, axis=1)
            good = (away < near) & (away <= 3 * np.median(away) + 1e-4)
            if good.sum() < 6:
                break
            # q + radial cubic = hk basis + shift, linear in all that is not known.
            one, none = np.ones(good.sum()), np.zeros((good.sum(), 2))
            h, c = hk[good], cubic[some][good]
            rows = np.concatenate(
                [
                    np.c_[h, none, one, 0 * one, -c[:, 0]],
                    np.c_[none, h, 0 * one, one, -c[:, 1]],
                ]
            )
            x = np.linalg.lstsq(rows, q[some][good].T.ravel(), rcond=None)[0]
            basis, shift, radial = x[:4].reshape(2, 2).T, x[4:6], x[6]
    straight = q + radial * cubic - shift
    hk = np.rint(straight @ np.linalg.inv(basis))
    explained = np.linalg.norm(straight - hk @ basis, axis=1) < 0.5 * near
    return radial, basis, shift / mapping.scale * [1, -1], float(explained.mean())
