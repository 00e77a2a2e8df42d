"""The stretch of an elliptic camera, from lattices that are symmetric without it."""

from __future__ import annotations

import numpy as np
from scipy import optimize

from dd2d_jax.lattices.reduction import reduce
from dd2d_jax.util.errors import PatternError

# How far from a more symmetric lattice's angle (degrees) and ratio of lengths one counts as it.
_ANGLE, _RATIO = 5.0, 0.05
# Lattices this near to hexagonal (logarithm of b / a, degrees) are so after a common
# stretch, or are not; and the largest stretch that is taken.
_NEAR, _MOST = (0.012, 0.8), 0.06


def stretched(vectors: np.ndarray, a: complex) -> np.ndarray:
    """q + a q* of vectors q (K, 2) of reciprocal space, taken as complex numbers; (K, 2)."""
    q = vectors @ [1, 1j]
    q = q + a * q.conj()
    return np.stack([q.real, q.imag], -1)


def common_stretch(bases: list[np.ndarray]) -> complex:
    """The stretch that makes all of several lattices hexagonal; 0 where none does.

    Two numbers for two or more of two conditions each: it is not found by chance.
    """
    if len(bases) < 2:
        return 0.0
    direct = [np.linalg.inv(b).T for b in bases]
    direct = [reduce(d) @ d @ [1, 1j] for d in direct]

    def wrong(a: np.ndarray) -> np.ndarray:
        out = []
        for v in direct:
            # Direct vectors turn with the inverse transposed: r - a r*, up to a factor.
            u = v - (a[0] + 1j * a[1]) * v.conj()
            angle = abs(np.degrees(np.angle(u[1] / u[0])))
            out.append([np.log(abs(u[1] / u[0])), np.radians(angle - 120)])
        return np.array(out)

    before = np.abs(wrong(np.zeros(2)))
    fit = optimize.least_squares(lambda a: wrong(a).ravel(), np.zeros(2), diff_step=1e-4)
    after = np.abs(wrong(fit.x))
    limits = np.array([_NEAR[0], np.radians(_NEAR[1])])
    if (after < limits).all() and (before > limits).any() and np.hypot(*fit.x) < _MOST:
        return complex(*fit.x)
    return 0.0


def symmetric_stretch(basis: np.ndarray, alike: float = _RATIO) -> complex:
    """The smallest a for which the lattice of q + a q* (rows of `basis`) is symmetric.

    Lengths whose logarithms differ by less than `alike` are meant to be equal.

    Raises:
        PatternError: a lattice that is not nearly symmetric.
    """
    change = reduce(np.linalg.inv(basis).T)
    direct = change @ np.linalg.inv(basis).T

    def shape(a: np.ndarray) -> tuple[float, float]:
        """Logarithm of b / a and angle, degrees, of the direct cell."""
        # Direct vectors turn with the inverse transposed: r - a r*, up to a factor.
        v = direct @ [1, 1j]
        v = v - (a[0] + 1j * a[1]) * v.conj()
        return np.log(abs(v[1]) / abs(v[0])), abs(np.degrees(np.angle(v[1] / v[0])))

    ratio, angle = shape(np.zeros(2))
    # b + a / 2 stands across a in a centred rectangle.
    centred = np.degrees(np.arccos(-0.5 * np.exp(-ratio)))
    if abs(angle - 120) < _ANGLE and ratio < alike:
        wrong = lambda a: [shape(a)[0], np.radians(shape(a)[1] - 120)]  # noqa: E731
    elif abs(angle - 90) < _ANGLE and ratio < alike:
        wrong = lambda a: [shape(a)[0], np.radians(shape(a)[1] - 90)]  # noqa: E731
    elif abs(angle - 90) < _ANGLE:
        wrong = lambda a: [np.radians(shape(a)[1] - 90)]  # noqa: E731
    elif ratio < alike:
        wrong = lambda a: [shape(a)[0]]  # noqa: E731
    elif abs(angle - centred) < _ANGLE:
        wrong = lambda a: [np.cos(np.radians(shape(a)[1])) + 0.5 * np.exp(-shape(a)[0])]  # noqa: E731
    else:
        raise PatternError(
            f"the lattice (angle {angle:.1f} degrees, b / a = {np.exp(ratio):.3f}) has no symmetry "
            "from which a distortion could be derived; calibrate with dd2d calibrate"
        )
    fit = optimize.least_squares(lambda a: [*wrong(a), *(1e-4 * a)], np.zeros(2))
    return complex(*fit.x)
