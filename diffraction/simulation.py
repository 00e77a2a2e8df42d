"""The pattern of a crystal: the one way in, whatever the method."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import numpy as np

from diffraction.crystal import Crystal
from diffraction.kinematic import kinematic_pattern
from diffraction.multislice import multislice
from diffraction.pattern import Pattern
from diffraction.radiation import Electrons, Radiation


def simulate(
    crystal: Crystal,
    radiation: Radiation = Electrons(80.0),  # noqa: B008  (frozen)
    q_max: float = 1.25,
    b_iso: float | jax.Array | Mapping[str, float] = 0.0,
    tilt: tuple[float, float] | jax.Array = (0.0, 0.0),
    hk: np.ndarray | jax.Array | None = None,
    method: str = "kinematic",
    grid: tuple[int, int] | None = None,
    bonds: bool = False,
) -> Pattern:
    """The diffraction pattern of a 2D crystal or a batch of them.

    Rods are cut by the Ewald sphere; the beam runs against the layer normal. Electrons give
    |F|^2; X-rays |F|^2 times the Lorentz-polarisation factor, see `lorentz_polarisation`.
    The central beam is not part of the pattern.

    What a detector counts in a spot is |F|^2 / cos(angle between the scattered wave and the
    normal). This cosine is left out, as in all kinematic programs: between spots it makes 0.1 %
    at normal incidence, up to 1 % at 10 degrees of tilt and 4 % at 30 (80 kV, q = 1.25). For
    X-rays 1 / sin 2theta is the Lorentz factor of the DD2D paper, that of a crystal turned
    through the condition.

    Args:
        crystal: batch axes (...).
        radiation: `Electrons` or `Xrays`; one energy or wavelength, or one for each crystal.
        q_max: rods with in-plane |q_par| <= q_max are kept, 1/angstrom. Under tilt |q| itself is
            larger.
        b_iso: B in angstrom^2; a number, (...), (..., N), or by element as {"Mo": 0.3, "S": 0.5}.
            It comes on top of the crystal's U, if there are any.
        tilt: degrees; the crystal is turned about x by tilt[0], then about y by tilt[1]. One for
            all crystals, (2,), or one for each, (..., 2); less than 90 degrees in all.
        hk: (..., K, 2) rods from `reflections`, padded with (0, 0). Needed where the lattice is
            traced (under jit, vmap or grad); None finds them.
        method: "kinematic", or "multislice" for electrons that a heavy or thick layer scatters
            more than once, see `multislice`; `kinematic_error` says what the choice changes.
        grid: of the multislice, from `multislice_grid`. Needed where the lattice is traced.
        bonds: with the electrons that bonds between atoms of B, C and N hold beyond free atoms, see
            `diffraction.bonds`: they weaken the first ring of graphene and h-BN by 19 %. For
            method="kinematic" and a crystal that is not traced.

    Returns:
        Pattern with batch axes (...); spots beyond q_max or out of the sphere's reach are masked.

    Raises:
        ValueError: an element without a form factor or without a B, a negative B, an occupancy
            beyond 0 to 1, q_max not positive, spots beyond the range of the form factors (|q|
            under the tilt), a tilt of another shape, an unknown method, a traced lattice without
            `hk`, or `bonds` in a multislice or in a traced crystal.
    """
    if method not in ("kinematic", "multislice"):
        raise ValueError(f"method must be 'kinematic' or 'multislice', got {method!r}")
    if method == "multislice":
        if bonds:
            raise ValueError("bonds are for method='kinematic'")
        return multislice(crystal, radiation, q_max, b_iso, tilt, hk, grid=grid)
    return kinematic_pattern(crystal, radiation, q_max, b_iso, tilt, hk, bonds)
