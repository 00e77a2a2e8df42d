"""What bends a lattice: a beam that is not at the origin, an elliptic camera, a radial term.

Linear in all that is not known: q, straightened, is h B + k B' for every spot at once.
"""

from __future__ import annotations

import dataclasses

import numpy as np

# A term is taken where it is so many standard uncertainties from none,
_SIGNIFICANT = 6.0
# and where the mean squared distance of the spots from the lattice falls to this share of it.
_LESS = 0.75
# A camera bends no more than this at the outermost spot.
_MOST = 0.15


@dataclasses.dataclass(frozen=True)
class Warp:
    """q straightened: p + stretch p* + radial |p|^2 p with p = q - shift, as complex numbers.

    Attributes:
        shift: (2,) where the central beam is, 1/angstrom, in the q of the pattern.
        stretch: complex; circles were ellipses whose axes are as 1 + |stretch| to 1 - |stretch|,
            the long one at half the angle of -stretch.
        radial: third-order radial term, angstrom^2.
    """

    shift: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(2))
    stretch: complex = 0.0
    radial: float = 0.0

    def __call__(self, q: np.ndarray) -> np.ndarray:
        """Straight q (K, 2) of measured ones."""
        p = (np.asarray(q, float) - self.shift) @ [1, 1j]
        p = p + self.stretch * p.conj() + self.radial * np.abs(p) ** 2 * p
        return np.stack([p.real, p.imag], -1)

    def measured(self, q: np.ndarray) -> np.ndarray:
        """Where straight q (K, 2) are in the measured pattern."""
        u = np.asarray(q, float) @ [1, 1j]
        p = u
        for _ in range(20):  # each step gains a factor of the distortion, a few per cent
            p = u - self.stretch * p.conj() - self.radial * np.abs(p) ** 2 * p
        return np.stack([p.real, p.imag], -1) + self.shift

    def then(self, other: Warp) -> Warp:
        """Both, one after the other, to the first order in either."""
        return Warp(
            self.shift + other.shift, self.stretch + other.stretch, self.radial + other.radial
        )

    @property
    def ellipticity(self) -> float:
        """Long over short axis of what should be a circle, less 1."""
        return 2 * abs(self.stretch) / (1 - abs(self.stretch))

    @property
    def plain(self) -> bool:
        """Whether nothing is changed."""
        return not (self.stretch or self.radial or self.shift.any())


@dataclasses.dataclass(frozen=True)
class Straight:
    """A lattice fitted with a shift of the origin and a radial term.

    Attributes:
        basis: (2, 2) reciprocal vectors of the straight pattern.
        warp: shift and radial term, both none where they are not significant.
        rms: of the distances of the spots used, 1/angstrom.
    """

    basis: np.ndarray
    warp: Warp
    rms: float


def straight(
    q: np.ndarray, hk: np.ndarray, weight: np.ndarray, sure: bool = True
) -> Straight:
    """Least squares for basis, and where they are significant, origin and radial term.

    Args:
        q: (K, 2) of spots on the lattice.
        hk: (K, 2) their indices.
        weight: (K,) inverse squared uncertainties, in any unit.
        sure: take a term only where it is significant.
    """
    best = _solved(q, hk, weight, shift=False, radial=False)
    freedom = 2 * len(q)
    for shift, radial in ((True, False), (False, True), (True, True)):
        if freedom < 14 + 2 * (2 * shift + radial):
            continue
        try:
            new = _solved(q, hk, weight, shift, radial)
        except np.linalg.LinAlgError:
            continue
        bend = abs(new[0].warp.radial) * np.square(q).sum(1).max()
        better = new[0].rms**2 < _LESS * best[0].rms ** 2
        if bend < _MOST and (new[1] > _SIGNIFICANT and better or not sure and shift and radial):
            best = new
    return best[0]


def _solved(
    q: np.ndarray, hk: np.ndarray, weight: np.ndarray, shift: bool, radial: bool
) -> tuple[Straight, float]:
    """The fit, and how many uncertainties the least significant of its terms is from none."""
    count, h = len(q), hk.astype(float)
    one, none = np.ones((count, 1)), np.zeros((count, 1))
    cubic = np.square(q).sum(1, keepdims=True) * q
    columns = [np.c_[h, 0 * h], np.c_[0 * h, h]]
    if shift:
        columns = [np.c_[columns[0], one, none], np.c_[columns[1], none, one]]
    if radial:
        columns = [np.c_[c, -cubic[:, i]] for i, c in enumerate(columns)]
    design, target = np.concatenate(columns), q.T.ravel()
    root = np.sqrt(np.concatenate([weight, weight]))[:, None]
    normal = (design * root).T @ (design * root)
    x = np.linalg.solve(normal, (design * root).T @ (target * root[:, 0]))
    away = target - design @ x
    size = design.shape[1]
    variance = (away**2 * root[:, 0] ** 2).sum() / max(2 * count - size, 1)
    sigma = np.sqrt(np.maximum(np.diag(np.linalg.inv(normal)) * variance, 1e-30))
    ratio = np.inf
    warp = Warp()
    if shift:
        ratio = min(ratio, float(np.hypot(*(x[4:6] / sigma[4:6])) / np.sqrt(2)))
        # The radial term acts on what is measured from the origin: small of second order.
        warp = dataclasses.replace(warp, shift=x[4:6])
    if radial:
        ratio = min(ratio, float(abs(x[-1]) / sigma[-1]))
        warp = dataclasses.replace(warp, radial=float(x[-1]))
    rms = float(np.sqrt((away**2 * root[:, 0] ** 2).sum() / (root**2).sum() * 2))
    return Straight(x[:4].reshape(2, 2).T, warp, rms), ratio
