"""Diffraction of 2D crystals along continuous rods, in JAX."""

from diffraction.crystal import Crystal, stack
from diffraction.form_factors import form_factor
from diffraction.kinematic import detector_positions, ewald_qz, reflections, structure_factor
from diffraction.multislice import (
    KinematicWarning,
    kinematic_error,
    multislice_grid,
    warn_kinematic,
)
from diffraction.paper import paper_intensity, paper_structure_function
from diffraction.pattern import Pattern
from diffraction.radiation import Electrons, Xrays
from diffraction.render import beam_stop, counts, image_axes, render
from diffraction.rings import ring_profile
from diffraction.simulation import simulate
from diffraction.stream import simulate_library

__all__ = [
    "Crystal",
    "Electrons",
    "KinematicWarning",
    "Pattern",
    "Xrays",
    "beam_stop",
    "counts",
    "detector_positions",
    "ewald_qz",
    "form_factor",
    "image_axes",
    "kinematic_error",
    "multislice_grid",
    "paper_intensity",
    "paper_structure_function",
    "reflections",
    "render",
    "ring_profile",
    "simulate",
    "simulate_library",
    "stack",
    "structure_factor",
    "warn_kinematic",
]
