"""Draws the pictures of the README: `python -m benchmarks.pictures` (with the default weights)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import ase.build
import jax
import numpy as np
from matplotlib.figure import Figure

import dd2d_jax
import diffraction as dx
from dd2d_jax.images.measurement import Measured, measure
from dd2d_jax.images.readers import Image
from dd2d_jax.reports.figures import save

FOLDER = Path(__file__).parent.parent / "docs" / "figures"


def main() -> None:
    """1H-MoS2: from an image to its structure, and its retrieval from the default library."""
    atoms = ase.build.mx2("MoS2", kind="2H", a=3.18, thickness=3.13, vacuum=10)
    crystal = dx.Crystal.from_ase(atoms)
    pattern = dx.simulate(crystal, dx.Electrons(80.0), q_max=1.5, b_iso=0.5)
    FOLDER.mkdir(parents=True, exist_ok=True)
    seen = photographed(pattern)
    save(dd2d_jax.retrieve(seen.pattern, k=1).plot(seen), FOLDER / "image.png", dpi=110)
    found = dd2d_jax.retrieve(pattern)
    save(found.plot(), FOLDER / "retrieval.png", dpi=110)
    save(simulator(pattern), FOLDER / "simulator.png", dpi=80)


def photographed(pattern: dx.Pattern) -> Measured:
    """The spots of an image of the pattern as a camera takes it: turned, noisy, with beam stop."""
    seen = {"shape": (512, 512), "scale": 0.006}
    c, s = np.cos(0.4), np.sin(0.4)
    turned = dataclasses.replace(pattern, q=pattern.q @ np.array([[c, s], [-s, c]], np.float32))
    image = dx.render(turned, **seen, fwhm=0.02, beam=5e3, halo=(0.15, 0.1), background=2e-4)
    counted = dx.counts(jax.random.key(0), image, 3e6) * dx.beam_stop(**seen)
    return measure(Image(np.asarray(counted, float), energy=80.0), seen["scale"])


def simulator(pattern: dx.Pattern) -> Figure:
    """An image of the pattern as a detector counts it, and graphene as powder and as film."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.35))
    seen = {"shape": (400, 400), "scale": 0.008}
    image = dx.render(pattern, **seen, fwhm=0.03, beam=5e3, halo=(0.15, 0.1), background=2e-4)
    counted = dx.counts(jax.random.key(0), image, 3e6) * dx.beam_stop(**seen)
    extent = np.array([-1, 1, -1, 1]) * 200 * seen["scale"]
    left.imshow(np.log1p(counted), cmap="magma", extent=extent)
    left.set(
        xlabel="q$_x$ (1/Å)", ylabel="q$_y$ (1/Å)", title="1H-MoS$_2$, 80 kV, 3 million counts"
    )

    graphene = dx.Crystal.from_ase(ase.build.graphene(a=2.46, vacuum=10))
    q = np.linspace(0.3, 1.1, 800)
    for label, beam, options in (
        ("X-rays, layers at random, 100 Å", dx.Xrays(1.5406), {"domain_size": 100.0}),
        ("the same, 30 Å", dx.Xrays(1.5406), {"domain_size": 30.0}),
        (
            "electrons, a flat film, 100 Å",
            dx.Electrons(80.0),
            {"domain_size": 100.0, "texture": "flat"},
        ),
    ):
        profile = dx.ring_profile(graphene, beam, q, b_iso=0.4, **options)
        right.plot(q, profile / profile.max(), label=label)
    right.set(xlabel="q (1/Å)", ylabel="intensity", title="graphene", yticks=[])
    right.legend(frameon=False)
    return figure


if __name__ == "__main__":
    main()
