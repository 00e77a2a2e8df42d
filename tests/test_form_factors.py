"""Form factors: limits, sources against one another, padding and gaps in the tables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffraction as dx
from diffraction.form_factors import table

LOBATO, KIRKLAND, XRAYS = dx.Electrons(), dx.Electrons(table="kirkland"), dx.Xrays()
BEAMS = pytest.mark.parametrize("beam", [LOBATO, KIRKLAND, XRAYS], ids=["lobato", "kirkland", "x"])
# Q^2 up to 3 1/angstrom, beyond any pattern here; angles where all sources are trusted end at 1.5.
Q = np.linspace(0.0, 3.0, 31)


def factors(beam, last):
    """(last, len(Q)) in float64, all elements from hydrogen."""
    numbers = jnp.arange(1, last + 1)[:, None]
    return np.asarray(jax.jit(dx.form_factor)(beam, numbers, jnp.asarray(Q**2)))


@BEAMS
def test_all_elements_are_positive_and_fall_with_angle(x64, beam):
    f = factors(beam, 98 if beam is XRAYS else 103)
    assert (f > 0).all()
    assert (np.diff(f, axis=1) < 0).all()


def test_xrays_see_all_electrons_in_the_forward_direction(x64):
    # 0.04 is the error of the published fit itself.
    np.testing.assert_allclose(factors(XRAYS, 98)[:, 0], np.arange(1, 99), atol=0.04)


def test_the_electron_tables_agree_with_each_other(x64):
    near = Q <= 1.5
    lobato, kirkland = factors(LOBATO, 103)[:, near], factors(KIRKLAND, 103)[:, near]
    np.testing.assert_allclose(lobato, kirkland, rtol=0.02)


@pytest.mark.parametrize("beam", [LOBATO, KIRKLAND], ids=["lobato", "kirkland"])
def test_electron_and_xray_tables_are_linked_by_mott_and_bethe(x64, beam):
    # f_e = (Z - f_x) / (8 pi^2 a0 s^2), which ties every row of two independent fits together.
    # Small angles are left out: the difference Z - f_x has no digits there.
    use = (Q >= 0.3) & (Q <= 1.5)
    z = np.arange(1, 99)[:, None]
    mott_bethe = (z - factors(XRAYS, 98)) / (8 * np.pi**2 * 0.529177 * np.maximum(Q, 0.1) ** 2 / 4)
    np.testing.assert_allclose(factors(beam, 98)[:, use], mott_bethe[:, use], rtol=0.045)


def test_lobato_follows_its_published_equation(x64):
    row = table("lobato")[42]
    expected = sum(
        a * (2 + b * 0.7) / (1 + b * 0.7) ** 2 for a, b in zip(row[:5], row[5:], strict=True)
    )
    np.testing.assert_allclose(dx.form_factor(LOBATO, 42, 0.7), expected, rtol=1e-12)


@BEAMS
def test_padding_scatters_nothing_and_has_a_zero_gradient(beam):
    f, slope = jax.value_and_grad(lambda x: dx.form_factor(beam, jnp.array(0), x))(0.0)
    assert f == 0 and slope == 0


@BEAMS
def test_gradients_are_finite_from_the_forward_direction_on(beam):
    slope = jax.vmap(jax.grad(lambda x: dx.form_factor(beam, jnp.array(79), x)))
    slope = jax.jit(slope)(jnp.asarray(Q**2))
    assert np.isfinite(slope).all() and (slope < 0).all()


def test_what_is_not_tabulated_is_nan_and_never_the_next_best_element():
    numbers = jnp.array([98, 99, 103, 104, 250, -1])
    np.testing.assert_array_equal(
        np.isnan(dx.form_factor(LOBATO, numbers, 0.1)), [False, False, False, True, True, True]
    )
    np.testing.assert_array_equal(
        np.isnan(dx.form_factor(XRAYS, numbers, 0.1)), [False, True, True, True, True, True]
    )


@BEAMS
def test_single_precision_is_enough(beam):
    single = factors(beam, 98)
    with jax.enable_x64(True):
        double = factors(beam, 98)
    assert single.dtype == np.float32 and double.dtype == np.float64
    # Lobato's terms for light elements cancel, which costs some digits.
    np.testing.assert_allclose(single, double, rtol=1e-3)
