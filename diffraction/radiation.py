"""What is scattered: electrons or X-rays."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

# CODATA 2018: m_e c^2 in keV, h c in keV angstrom.
_REST_ENERGY = 510.99895
_HC = 12.398419843320026


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Electrons:
    """A parallel electron beam.

    Attributes:
        energy: kinetic energy in keV.
        table: form factors, "lobato" (Lobato and Van Dyck 2014) or "kirkland".

    Raises:
        ValueError: the energy is not positive, or the table unknown.
    """

    energy: float | jax.Array = 80.0
    table: str = dataclasses.field(default="lobato", metadata={"static": True})

    def __post_init__(self) -> None:
        _positive("energy", "keV", self.energy)
        if self.table not in ("lobato", "kirkland"):
            raise ValueError(f"table must be 'lobato' or 'kirkland', got {self.table!r}")

    @property
    def wavelength(self) -> jax.Array:
        """Relativistic de Broglie wavelength in angstrom."""
        energy = jnp.asarray(self.energy, dtype=float)
        return _HC / jnp.sqrt(energy * (energy + 2 * _REST_ENERGY))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Xrays:
    """A parallel, unpolarised, monochromatic X-ray beam (form factors: Waasmaier and Kirfel 1995).

    Attributes:
        wavelength: in angstrom.

    Raises:
        ValueError: the wavelength is not positive.
    """

    wavelength: float | jax.Array = 1.5406

    def __post_init__(self) -> None:
        _positive("wavelength", "angstrom", self.wavelength)


Radiation = Electrons | Xrays


def _positive(name: str, unit: str, value: object) -> None:
    # Only what a user types is checked: inside transformations values are tracers or placeholders.
    if isinstance(value, int | float | np.number) and not value > 0:
        raise ValueError(f"{name} must be positive, in {unit}, got {value}")
