"""Diffraction patterns as JAX pytrees."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

# Spots that a notebook's picture shows, the strongest, and its size in pixels.
_DRAWN, _SIDE = 400, 300


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pattern:
    """Spots of a diffraction pattern, or of a batch with the batch axes in front.

    Attributes:
        q: (..., K, 2) components of the scattering vector across the beam, 1/angstrom (no 2 pi).
        intensity: (..., K) in the units of the source: |F|^2 in angstrom^2 from `simulate` with
            electrons, counts from a measurement. Zero where masked.
        hk: (..., K, 2) Miller indices of the rods; zero where unknown or masked.
        mask: (..., K) True for a spot, False for padding.
        sigma: (..., K) standard uncertainties of the intensities; None where they are unknown.
        energy: (...) kinetic energy of the electrons in keV; None where it is unknown.
        power_error: standard uncertainty of the power of counts that the intensities are, as those
            of an image that was exported for the screen; None where they are proportional to them.
    """

    q: jax.Array
    intensity: jax.Array
    hk: jax.Array
    mask: jax.Array
    sigma: jax.Array | None = None
    energy: float | jax.Array | None = None
    power_error: float | None = None

    def __len__(self) -> int:
        if self.mask.ndim < 2:
            raise TypeError("a single Pattern has no length; pattern.mask.sum() counts its spots")
        return self.mask.shape[0]

    def __getitem__(self, index) -> Pattern:
        """Index the batch axes."""
        if self.mask.ndim < 2:
            raise TypeError("a single Pattern cannot be indexed")
        return jax.tree.map(lambda x: x[index], self)

    def _repr_html_(self) -> str:
        """What notebooks show: how many spots there are, and where."""
        if self.mask.ndim != 1:
            count = int(np.asarray(self.mask).sum())
            return f"<p>{self.mask.shape[0]} patterns, {count} spots in all</p>"
        mask = np.asarray(self.mask, bool)
        q = np.asarray(self.q, float)[mask]
        intensity = np.clip(np.asarray(self.intensity, float)[mask], 0, None)
        energy = "" if self.energy is None else f", {float(self.energy):g} keV"
        reach = float(np.linalg.norm(q, axis=1).max(initial=0)) or 1.0
        radius = 0.5 + 6 * np.sqrt(intensity / (intensity.max(initial=0) or 1.0))
        places = _SIDE / 2 * (1 + q / (1.08 * reach) * [1, -1])
        circles = "".join(
            f'<circle cx="{places[i, 0]:.1f}" cy="{places[i, 1]:.1f}" r="{radius[i]:.1f}"/>'
            for i in np.argsort(-intensity, kind="stable")[:_DRAWN]
        )
        return (
            f"<p>{len(q)} spots within {reach:.3f} 1/\u00c5{energy}</p>"
            f'<svg width="{_SIDE}" height="{_SIDE}" role="img" aria-label="spots">'
            f'<rect width="{_SIDE}" height="{_SIDE}" fill="#0d1321"/>'
            f'<g fill="#ffffff">{circles}</g></svg>'
        )
