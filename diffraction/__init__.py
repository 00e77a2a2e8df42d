"""Kinematic diffraction of 2D crystals along continuous rods, in JAX."""

from diffraction.crystal import Crystal, stack
from diffraction.form_factors import form_factor
from diffraction.kinematic import (
    detector_positions,
    ewald_qz,
    reflections,
    simulate,
    structure_factor,
)
from diffraction.paper import paper_intensity, paper_structure_function
from diffraction.pattern import Pattern
from diffraction.radiation import Electrons, Xrays
from diffraction.stream import simulate_library

__all__ = [
    "Crystal",
    "Electrons",
    "Pattern",
    "Xrays",
    "detector_positions",
    "ewald_qz",
    "form_factor",
    "paper_intensity",
    "paper_structure_function",
    "reflections",
    "simulate",
    "simulate_library",
    "stack",
    "structure_factor",
]
