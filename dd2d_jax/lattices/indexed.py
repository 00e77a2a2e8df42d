"""What is known of a pattern once its lattice is found."""

from __future__ import annotations

import dataclasses

import numpy as np

from dd2d_jax.lattices.warp import Warp


@dataclasses.dataclass(frozen=True)
class Indexed:
    """Those of a pattern's spots that lie on one lattice.

    Attributes:
        lattice: (2, 2) angstrom, Gauss-reduced, 90 to 120 degrees, in the pattern's frame.
        q: (K, 2) 1/angstrom.
        hk: (K, 2) integers.
        intensity: (K,) relative to the pattern's strongest.
        explained: share of the pattern's spots, by number, that lie on this lattice.
        residual: root mean square distance of the spots from the lattice's, 1/angstrom.
        spots: (K,) their rows in the pattern's unmasked spots, `pattern.q[pattern.mask][spots]`.
        sigma: (4,) standard uncertainties of a, b (angstrom), the angle between them and
            `rotation` (degrees), of the fit alone: a wrong scale is not among them.
        intensity_sigma: (K,) standard uncertainties of `intensity`, in the same units; None where
            the pattern has none.
        strength: share of the pattern's spots that lie on this lattice, by intensity.
        parent: integer matrix (2, 2), None where there is none: `lattice = parent @ main cell`.
            The strongest spots are those of the main cell, the weak ones satellites of its
            superlattice, as those of a charge-density wave or of a weak distortion.
        satellites: (K,) True for spots that the main cell does not explain; None without a parent.
        alternatives: (2, 2) angstrom each: other cells that the spots do not rule out.
        stacked: whether the spots are those of layers stacked so that other rods of `lattice` than
            the sums of these cancel.
        warp: by which the pattern was straightened; `q` are straight.
        notes: lines that a person should read.
    """

    lattice: np.ndarray
    q: np.ndarray
    hk: np.ndarray
    intensity: np.ndarray
    explained: float
    residual: float
    spots: np.ndarray
    sigma: np.ndarray
    intensity_sigma: np.ndarray | None = None
    strength: float = 1.0
    parent: np.ndarray | None = None
    satellites: np.ndarray | None = None
    alternatives: tuple[np.ndarray, ...] = ()
    stacked: bool = False
    warp: Warp = Warp()
    notes: tuple[str, ...] = ()

    @property
    def main(self) -> np.ndarray:
        """(2, 2) angstrom: the main cell, or the lattice itself where it has no parent."""
        return self.lattice if self.parent is None else np.linalg.inv(self.parent) @ self.lattice

    @property
    def rotation(self) -> float:
        """Of a1 against the pattern's x axis, counter-clockwise, -180 to 180 degrees."""
        return float(np.rad2deg(np.arctan2(self.lattice[0, 1], self.lattice[0, 0])))
