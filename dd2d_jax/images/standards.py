"""Calibration by whatever standard was in the microscope: a polycrystal or a single crystal."""

from __future__ import annotations

import numpy as np

from dd2d_jax.images.calibration import Calibration
from dd2d_jax.images.crystal_calibration import HEXAGONAL, calibrate_crystal
from dd2d_jax.images.ring_calibration import POWDERS, calibrate_rings
from dd2d_jax.util.errors import PatternError

MATERIALS = tuple(dict.fromkeys((*POWDERS, *HEXAGONAL)))


def calibrate(
    image: np.ndarray,
    material: str = "Au",
    scale: float | None = None,
    centre: tuple[float, float] | None = None,
) -> Calibration:
    """Scale, centre, ellipticity and radial distortion from the pattern of a known material.

    Args:
        image: (H, W).
        material: "graphene" or "hBN", of which a single crystal's spots are looked for;
            "graphite", spots or else rings; another name of `MATERIALS`, or a CIF or other
            structure file, of which rings are.
        scale: about, 1/angstrom per pixel; of rings within 15 %. None looks everywhere.
        centre: column and row of the beam in pixels, where to begin; None looks for it.

    Raises:
        PatternError: neither rings nor spots of this material, or no such material.
    """
    if material not in HEXAGONAL:
        return calibrate_rings(image, material, scale, centre)
    try:
        return calibrate_crystal(image, material, scale, centre)
    except PatternError as no_spots:
        if material not in POWDERS:
            raise
        try:
            return calibrate_rings(image, material, scale, centre)
        except PatternError as no_rings:
            raise PatternError(f"{no_rings}; and no single crystal: {no_spots}") from no_rings
