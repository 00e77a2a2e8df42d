"""Diffraction patterns as JAX pytrees."""

from __future__ import annotations

import dataclasses

import jax


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
    """

    q: jax.Array
    intensity: jax.Array
    hk: jax.Array
    mask: jax.Array
    sigma: jax.Array | None = None
    energy: float | jax.Array | None = None

    def __len__(self) -> int:
        if self.mask.ndim < 2:
            raise TypeError("a single Pattern has no length; pattern.mask.sum() counts its spots")
        return self.mask.shape[0]

    def __getitem__(self, index) -> Pattern:
        """Index the batch axes."""
        if self.mask.ndim < 2:
            raise TypeError("a single Pattern cannot be indexed")
        return jax.tree.map(lambda x: x[index], self)
