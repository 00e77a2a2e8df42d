"""Draws the pictures of the README: `python -m benchmarks.pictures` (with the default weights)."""

from __future__ import annotations

from pathlib import Path

import ase.build

import dd2d_jax
import diffraction as dx
from dd2d_jax.figures import plot_pattern_and_structure, save

FOLDER = Path(__file__).parent.parent / "docs" / "figures"


def main() -> None:
    """1H-MoS2: its pattern beside its structure, and its retrieval from the default library."""
    atoms = ase.build.mx2("MoS2", kind="2H", a=3.18, thickness=3.13, vacuum=10)
    crystal = dx.Crystal.from_ase(atoms)
    pattern = dx.simulate(crystal, dx.Electrons(80.0), q_max=1.5, b_iso=0.5)
    FOLDER.mkdir(parents=True, exist_ok=True)
    save(plot_pattern_and_structure(crystal, pattern), FOLDER / "pattern.png")
    save(dd2d_jax.retrieve(pattern).plot(), FOLDER / "retrieval.png")


if __name__ == "__main__":
    main()
