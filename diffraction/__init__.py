"""Kinematic diffraction of 2D crystals along continuous rods, in JAX."""

from diffraction.crystal import Crystal, stack
from diffraction.form_factors import form_factor
from diffraction.kinematic import ewald_qz, reflections, simulate, structure_factor
from diffraction.paper import paper_intensity, paper_structure_function
from diffraction.pattern import Pattern
from diffraction.radiation import Electrons, Xrays

__all__ = [
    "Crystal",
    "Electrons",
    "Pattern",
    "Xrays",
    "ewald_qz",
    "form_factor",
    "paper_intensity",
    "paper_structure_function",
    "reflections",
    "simulate",
    "stack",
    "structure_factor",
]
