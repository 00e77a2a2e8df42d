"""What is scattered: electrons or X-rays."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffraction.tabulated import table

# CODATA 2018: m_e c^2 in keV, h c in keV angstrom.
_REST_ENERGY = 510.99895
_HC = 12.398419843320026
# keV. No microscope goes beyond; what is above was given in eV.
_HIGHEST = 1e4
_TABLES = ("lobato", "kirkland", "peng")


def _register(leaves: tuple[str, ...], static: tuple[str, ...]) -> Any:
    """Makes a dataclass a pytree that is not checked when it is put together again.

    What comes out of a transformation need not be a beam: a gradient with respect to an energy
    may well be negative.
    """

    def decorate(cls: type) -> type:
        def children(beam: Any) -> tuple[tuple, tuple]:
            return tuple(getattr(beam, x) for x in leaves), tuple(getattr(beam, x) for x in static)

        def with_keys(beam: Any) -> tuple[tuple, tuple]:
            values, aux = children(beam)
            keys = (jax.tree_util.GetAttrKey(x) for x in leaves)
            return tuple(zip(keys, values, strict=True)), aux

        def build(aux: tuple, values: tuple) -> Any:
            beam = object.__new__(cls)
            for name, value in zip(leaves + static, (*values, *aux), strict=True):
                object.__setattr__(beam, name, value)
            return beam

        jax.tree_util.register_pytree_with_keys(cls, with_keys, build, children)
        return cls

    return decorate


@_register(leaves=("energy",), static=("table",))
@dataclasses.dataclass(frozen=True)
class Electrons:
    """A parallel electron beam.

    Attributes:
        energy: kinetic energy in keV; a number, or (...) with one for each crystal of a batch.
        table: form factors, "lobato" (Lobato and Van Dyck 2014, |q| up to 12 1/angstrom),
            "kirkland" (three Lorentzians and three Gaussians as in Kirkland's Eq. C.15, up to
            12; not the numbers of his edition of 2010, see tables/LICENSES.md) or "peng" (Peng et
            al. 1996 as International Tables C, Table 4.3.2.2, have it, up to 4).

    Raises:
        ValueError: an energy is not positive or above 10,000 keV, or the table unknown.
    """

    energy: float | jax.Array = 80.0
    table: str = "lobato"

    def __post_init__(self) -> None:
        _positive("energy", "keV", self.energy)
        energy = _concrete(self.energy)
        if energy is not None and energy.size and energy.max() > _HIGHEST:
            raise ValueError(
                f"energy must be in keV, at most {_HIGHEST:g}; got {energy.max():g} "
                f"(in eV? then {energy.max() / 1e3:g} keV)"
            )
        if self.table not in _TABLES:
            raise ValueError(f"table must be one of {', '.join(_TABLES)}, got {self.table!r}")

    @property
    def wavelength(self) -> jax.Array:
        """Relativistic de Broglie wavelength in angstrom."""
        energy = jnp.asarray(self.energy, dtype=float)
        return _HC / jnp.sqrt(energy * (energy + 2 * _REST_ENERGY))


@_register(leaves=("wavelength", "polarisation"), static=("ions",))
@dataclasses.dataclass(frozen=True)
class Xrays:
    """A parallel, monochromatic X-ray beam (form factors: Waasmaier and Kirfel 1995).

    Attributes:
        wavelength: in angstrom; a number, or (...) with one for each crystal of a batch.
        polarisation: degree of linear polarisation along the laboratory's x axis, from -1 (all
            along y) by 0 (unpolarised) to 1 (all along x); a number or (...).
        ions: symbols such as ("Fe3+", "O2-") whose form factors take the place of the neutral
            atoms' of their elements.

    Raises:
        ValueError: a wavelength is not positive, a polarisation beyond -1 to 1, an ion that is
            not tabulated, or two ions of one element.
    """

    wavelength: float | jax.Array = 1.5406
    polarisation: float | jax.Array = 0.0
    ions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _positive("wavelength", "angstrom", self.wavelength)
        p = _concrete(self.polarisation)
        if p is not None and not (np.abs(p) <= 1).all():
            raise ValueError(f"polarisation must lie in -1 to 1, got {self.polarisation}")
        if isinstance(self.ions, str):
            raise ValueError(f"ions must be a tuple of symbols, got the text {self.ions!r}")
        object.__setattr__(self, "ions", tuple(self.ions))
        if self.ions:
            table("waasmaier_kirfel", self.ions)


Radiation = Electrons | Xrays


def _concrete(value: object) -> np.ndarray | None:
    """The value as an array, None where it is not known (traced)."""
    known = isinstance(value, int | float | np.number | np.ndarray | list | tuple | jax.Array)
    return np.asarray(value) if known and not isinstance(value, jax.core.Tracer) else None


def _positive(name: str, unit: str, value: object) -> None:
    array = _concrete(value)
    if array is not None and not (array > 0).all():
        raise ValueError(f"{name} must be positive, in {unit}, got {value}")
