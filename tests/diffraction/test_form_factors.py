"""Form factors: limits, sources against one another, padding and gaps in the tables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffraction as dx
from diffraction.form_factors import check_range
from diffraction.tabulated import RANGE, SYMBOLS, table

LOBATO, KIRKLAND, XRAYS = dx.Electrons(), dx.Electrons(table="kirkland"), dx.Xrays()
PENG = dx.Electrons(table="peng")
BEAMS = pytest.mark.parametrize(
    "beam", [LOBATO, KIRKLAND, PENG, XRAYS], ids=["lobato", "kirkland", "peng", "x"]
)
# Q^2 up to 3 1/angstrom, beyond any pattern here; angles where all sources are trusted end at 1.5.
Q = np.linspace(0.0, 3.0, 31)


form_factor = jax.jit(dx.form_factor)


def factors(beam, last):
    """(last, len(Q)) in float64, all elements from hydrogen."""
    numbers = jnp.arange(1, last + 1)[:, None]
    return np.asarray(form_factor(beam, numbers, jnp.asarray(Q**2)))


@BEAMS
def test_all_elements_are_positive_and_fall_with_angle(x64, beam):
    f = factors(beam, 98 if beam in (XRAYS, PENG) else 103)
    assert (f > 0).all()
    assert (np.diff(f, axis=1) < 0).all()


def test_xrays_see_all_electrons_in_the_forward_direction(x64):
    # 0.04 is the error of the published fit itself.
    np.testing.assert_allclose(factors(XRAYS, 98)[:, 0], np.arange(1, 99), atol=0.04)


def test_the_electron_tables_agree_with_each_other(x64):
    near = Q <= 1.5
    lobato, kirkland = factors(LOBATO, 103)[:, near], factors(KIRKLAND, 103)[:, near]
    np.testing.assert_allclose(lobato, kirkland, rtol=0.02)


def test_peng_follows_its_published_equation(x64):
    row, s = table("peng")[42], 0.4
    expected = (row[:5] * np.exp(-row[5:] * s**2)).sum()
    np.testing.assert_allclose(dx.form_factor(PENG, 42, (2 * s) ** 2), expected, rtol=1e-12)


IONS = ["H1-", "O1-", "O2-", "F1-", "Na1+", "Al3+", "Ti4+", "Fe2+", "Fe3+", "Mo6+", "I1-", "W6+"]


@pytest.mark.parametrize("ion", IONS)
def test_an_ion_scatters_xrays_as_its_electrons(x64, ion):
    """f(0) = Z - charge, and beyond the outer shell it is the neutral atom again."""
    symbol, charge = ion.rstrip("+-0123456789"), int(ion[-1] + ion[-2])
    z, squared = SYMBOLS.index(symbol), jnp.array([0.0, 3.0**2])
    charged = form_factor(dx.Xrays(ions=(ion,)), z, squared)
    neutral = form_factor(XRAYS, z, squared)
    # The error of the published fits themselves; that of O2- is the largest.
    np.testing.assert_allclose(charged[0], z - charge, atol=0.06)
    np.testing.assert_allclose(charged[1], neutral[1], atol=0.06)


def test_ions_leave_the_other_elements_as_they_are(x64):
    numbers = jnp.array([0, 8, 22, 26])
    charged, neutral = (form_factor(b, numbers, 0.04) for b in (dx.Xrays(ions=["O2-"]), XRAYS))
    np.testing.assert_array_equal(charged == neutral, [True, False, True, True])


def test_ions_are_those_of_xraydb(x64):
    """The same published fits, evaluated by another program."""
    import xraydb
    s = np.linspace(0, 2, 9)
    for ion in ("O2-", "Fe3+", "Mo6+", "Cs1+"):
        z = SYMBOLS.index(ion.rstrip("+-0123456789"))
        found = form_factor(dx.Xrays(ions=(ion,)), z, jnp.asarray((2 * s) ** 2))
        np.testing.assert_allclose(found, xraydb.f0(ion, s), rtol=1e-10)


def test_symbols_are_in_the_order_of_the_periodic_table():
    from ase.data import chemical_symbols

    assert SYMBOLS == chemical_symbols[:104]


def test_within_their_ranges_the_fits_agree_and_beyond_they_do_not(x64):
    """Why there is a limit: up to it the tables differ by 3 %, soon after it by a third."""

    def spread(beam, q):
        numbers = jnp.arange(1, 99)
        f, lobato = (np.asarray(form_factor(b, numbers, q * q)) for b in (beam, LOBATO))
        if beam is XRAYS:
            f = (np.arange(1, 99) - f) / (8 * np.pi**2 * 0.529177 * q * q / 4)
        return np.abs(f / lobato - 1)

    for beam, name in ((KIRKLAND, "kirkland"), (XRAYS, "waasmaier_kirfel")):
        assert max(spread(beam, q).max() for q in (3.0, RANGE[name])) < 0.03
    assert spread(PENG, RANGE["peng"]).mean() < 0.05 < 0.3 < spread(PENG, 6.0).mean()
    for beam, name in ((LOBATO, "lobato"), (PENG, "peng"), (XRAYS, "waasmaier_kirfel")):
        check_range(beam, RANGE[name])
        with pytest.raises(ValueError, match=f"beyond the {name} form factors"):
            check_range(beam, RANGE[name] + 0.01)


@pytest.mark.parametrize("beam", [LOBATO, KIRKLAND, PENG], ids=["lobato", "kirkland", "peng"])
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


@pytest.mark.parametrize("table", ["lobato", "kirkland", "peng"])
def test_single_precision_loses_nothing(table):
    numbers, x = np.arange(1, 99)[:, None], np.linspace(0, 2, 200)
    function = jax.jit(dx.form_factor)
    single = function(dx.Electrons(80.0, table), jnp.asarray(numbers), jnp.asarray(x, jnp.float32))
    with jax.enable_x64(True):
        double = np.asarray(
            function(dx.Electrons(80.0, table), jnp.asarray(numbers), jnp.asarray(x))
        )
    assert single.dtype == jnp.float32 and double.dtype == np.float64
    np.testing.assert_allclose(single / double[:, :1], double / double[:, :1], atol=1e-6)


def test_the_kirkland_table_is_not_that_of_the_edition_of_2010(x64):
    """Its source is named in tables/LICENSES.md; the edition's carbon begins with 0.2121."""
    carbon = table("kirkland")[6]
    assert carbon[1 - 1] == 0.253148417
    edition = np.array([
        0.212080767, 0.208605417, 0.199811865, 0.208610186, 0.168254385, 5.57870773,
        0.14204836, 1.33311887, 0.363830672, 3.80800263, 8.35012044e-4, 0.040398262,
    ])  # fmt: skip
    x = np.linspace(0, 2, 100) ** 2
    values = [
        sum(c[i] / (x + c[i + 1]) for i in (0, 2, 4))
        + sum(c[i] * np.exp(-c[i + 1] * x) for i in (6, 8, 10))
        for c in (carbon, edition)
    ]
    assert 1e-4 < np.abs(values[0] / values[1] - 1).max() < 0.01
