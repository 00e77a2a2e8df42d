"""A diffraction image as its file has it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np

from dd2d_jax.util.errors import PatternError
from dd2d_jax.util.limits import MAX_PIXELS

# Energies of electron microscopes, keV.
LOWEST_ENERGY, HIGHEST_ENERGY = 1.0, 3000.0


@dataclasses.dataclass(frozen=True)
class Image:
    """A diffraction image as its file has it.

    Attributes:
        pixels: (H, W) counts or grey levels; NaN where the file has none.
        scale: (2,) 1/angstrom per column and per row; None where the file does not say.
        energy: of the beam, keV; None where the file does not say.
        notes: lines that the user should read, such as that a stack was averaged.
        angle: (2,) scattering angle per column and per row, radians, where the file says that.
        centre: (2,) column and row of the beam, where the file's axes say it.
    """

    pixels: np.ndarray
    scale: np.ndarray | None = None
    energy: float | None = None
    notes: tuple[str, ...] = ()
    angle: np.ndarray | None = None
    centre: np.ndarray | None = None

    def scale_at(self, energy: float | None) -> np.ndarray | None:
        """`scale`, or that of `angle` at an energy in keV; None where neither is known.

        q = theta / lambda for the small scattering angles theta of electrons.
        """
        if self.scale is not None or self.angle is None or energy is None:
            return self.scale
        import diffraction as dx

        return self.angle / float(dx.Electrons(energy).wavelength)


def checked_energy(energy: float | None) -> float | None:
    """An energy in keV that a microscope may have.

    Raises:
        PatternError: one that none has; in volts?
    """
    if energy is None or LOWEST_ENERGY <= energy <= HIGHEST_ENERGY:
        return energy
    asked = f"; is this in eV? then it is {energy / 1000:g} keV" if energy > HIGHEST_ENERGY else ""
    raise PatternError(
        f"an energy of {energy:g} keV; electron microscopes have {LOWEST_ENERGY:g} to "
        f"{HIGHEST_ENERGY:g} keV{asked}"
    )


def beam_place(origin: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    """Column and row (2,) of the beam by the origin of a file's axes, pixels.

    None where it lies outside of the image (H, W), or exactly in its middle, where programs put
    it that know of none.
    """
    place = np.asarray(origin, float)
    size = np.array(shape[::-1], float)
    if not (np.isfinite(place).all() and ((place > 1) & (place < size - 2)).all()):
        return None
    middle = any(np.abs(place - (size - less) / 2).max() < 0.01 for less in (0, 1))
    return None if middle else place


def check_pixels(path: Path, shape: tuple[int, ...], most: int = MAX_PIXELS) -> None:
    """Raise PatternError where a file's header speaks of more pixels than are taken."""
    if math.prod(map(int, shape)) > most:
        size = " x ".join(map(str, shape))
        raise PatternError(f"{path}: {size} pixels; at most {most} are taken")
