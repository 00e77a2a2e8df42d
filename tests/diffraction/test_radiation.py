"""Wavelengths, and beams as pytrees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffraction as dx

# CODATA 2018, SI.
PLANCK, MASS, CHARGE, LIGHT = 6.62607015e-34, 9.1093837015e-31, 1.602176634e-19, 299792458.0


@pytest.mark.parametrize("energy", [1e-3, 20.0, 60.0, 80.0, 200.0, 300.0, 1000.0])
def test_wavelength_is_planck_over_relativistic_momentum(x64, energy):
    kinetic = energy * 1e3 * CHARGE
    momentum = np.sqrt(kinetic**2 + 2 * kinetic * MASS * LIGHT**2) / LIGHT
    np.testing.assert_allclose(dx.Electrons(energy).wavelength, PLANCK / momentum * 1e10, rtol=1e-9)


def test_default_is_single_precision_and_close():
    wavelength = dx.Electrons(80.0).wavelength
    assert wavelength.dtype == jnp.float32
    np.testing.assert_allclose(wavelength, 0.041757, rtol=1e-5)


def test_the_derivative_with_respect_to_the_energy_is_the_finite_difference(x64):
    wavelength = lambda e: dx.Electrons(e).wavelength  # noqa: E731
    slope = (wavelength(80.001) - wavelength(79.999)) / 0.002
    np.testing.assert_allclose(jax.grad(wavelength)(80.0), slope, rtol=1e-7)


def test_beams_pass_through_transformations():
    energies = jnp.array([60.0, 80.0, 300.0])
    mapped = jax.vmap(lambda beam: beam.wavelength)(dx.Electrons(energies))
    np.testing.assert_allclose(mapped, [dx.Electrons(float(e)).wavelength for e in energies], 1e-6)
    assert jax.jit(lambda beam: beam)(dx.Electrons(80.0, "kirkland")).table == "kirkland"
    beam = jax.tree.map(lambda x: 2 * x, dx.Xrays(0.7))
    assert isinstance(beam, dx.Xrays) and beam.wavelength == 1.4


@pytest.mark.parametrize("bad", [0, 0.0, -80.0, float("nan"), np.float32(-1), np.int64(0)])
def test_a_beam_that_is_not_positive_is_refused(bad):
    with pytest.raises(ValueError, match="energy must be positive, in keV"):
        dx.Electrons(bad)
    with pytest.raises(ValueError, match="wavelength must be positive, in angstrom"):
        dx.Xrays(bad)


@pytest.mark.parametrize("bad", [[60.0, -80.0], [0.0], [80.0, np.nan]])
def test_known_arrays_are_checked_too(bad):
    for array in (np.array(bad), jnp.array(bad)):
        with pytest.raises(ValueError, match="energy must be positive"):
            dx.Electrons(array)
        with pytest.raises(ValueError, match="wavelength must be positive"):
            dx.Xrays(array)


@pytest.mark.parametrize("bad", [80000.0, 200_000, np.array([80.0, 3e5])])
def test_an_energy_in_ev_is_refused_and_said_in_kev(bad):
    with pytest.raises(ValueError, match=rf"must be in keV.* then {np.max(bad) / 1e3:g} keV"):
        dx.Electrons(bad)
    assert dx.Electrons(3000.0).energy == 3000.0  # of ultrafast sources


def test_a_gradient_with_respect_to_a_beam_may_be_negative():
    """It has a beam's form and is none: nothing about it is to be checked."""
    slope = jax.jit(jax.grad(lambda beam: beam.wavelength))(dx.Electrons(80.0))
    assert isinstance(slope, dx.Electrons) and slope.energy < 0


@pytest.mark.parametrize("bad", [1.01, -2.0, np.nan, np.array([0.5, -1.5])])
def test_a_beam_is_polarised_by_100_percent_at_most(bad):
    with pytest.raises(ValueError, match="polarisation must lie in -1 to 1"):
        dx.Xrays(0.7, polarisation=bad)


@pytest.mark.parametrize(
    ("ions", "message"),
    [
        (("Mo4+",), "no ion 'Mo4\\+'; it has Mo3\\+, Mo5\\+, Mo6\\+"),
        (("S2-",), "no ions of 'S'"),
        (("Fe",), "it has Fe2\\+, Fe3\\+"),
        (("Fe2+", "Fe3+"), "each element once"),
        ("Fe2+", "a tuple of symbols"),
    ],
)
def test_ions_that_are_not_tabulated_are_refused_with_those_that_are(ions, message):
    with pytest.raises(ValueError, match=message):
        dx.Xrays(ions=ions)


def test_an_unknown_table_is_refused_by_name():
    with pytest.raises(ValueError, match="'doyle'"):
        dx.Electrons(80.0, table="doyle")
