"""Equations 1 and 2 of the DD2D paper against the simulator."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffraction as dx
from diffraction.kinematic import lorentz_polarisation

# Compiled as a whole: quicker than one compilation an operation.
structure_factor = jax.jit(dx.structure_factor)
form_factor = jax.jit(dx.form_factor)
paper_intensity = jax.jit(dx.paper_intensity)
paper_structure_function = jax.jit(dx.paper_structure_function)
lp_factor = jax.jit(lorentz_polarisation)
ewald_qz = jax.jit(dx.ewald_qz)

EACH_BEAM = pytest.mark.parametrize(
    "beam", [dx.Electrons(80.0), dx.Xrays(0.7)], ids=["electrons", "xrays"]
)


def graphene(tile=1):
    a = 2.46
    lattice = np.array([[a, 0.0], [-a / 2, a * np.sqrt(3) / 2]])
    basis = np.array([[1 / 3, 2 / 3], [2 / 3, 1 / 3]])
    cells = np.stack(np.mgrid[:tile, :tile], -1).reshape(-1, 1, 2)
    positions = np.pad((basis + cells).reshape(-1, 2) @ lattice, [(0, 0), (0, 1)])
    return dx.Crystal(
        jnp.asarray(tile * lattice), jnp.asarray(positions), jnp.full(len(positions), 6)
    )


def cut_rods(crystal, beam, q_max=1.2):
    """3D scattering vectors of the rods on the Ewald sphere, (K, 3), without padding."""
    hk = dx.reflections(crystal.lattice, q_max)
    q_par = jnp.asarray(hk[hk.any(-1)]) @ crystal.reciprocal
    return jnp.concatenate([q_par, ewald_qz(q_par, beam.wavelength)[:, None]], -1)


def somewhere(seed=0, count=30):
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, (count, 3)))


@EACH_BEAM
@pytest.mark.parametrize("b", [0.0, 0.6])
def test_both_forms_agree_for_graphene(x64, beam, b):
    """Eq. 1 is |F|^2 / N with the Debye-Waller and the Lorentz-polarisation factor: exactly."""
    crystal = graphene()
    q = cut_rods(crystal, beam)
    factor = structure_factor(crystal, q, beam, b)
    squared = jnp.sum(q * q, -1)
    expected = np.abs(factor) ** 2 / 2 * lp_factor(squared, beam.wavelength)
    found = paper_intensity(crystal, q, beam, b)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    # As printed: AFF^2 S, with S of Eq. 2.
    form = form_factor(beam, 6, squared)
    printed = form**2 * paper_structure_function(crystal, q)
    printed *= lp_factor(squared, beam.wavelength) * jnp.exp(-b * squared / 2)
    np.testing.assert_allclose(found, printed, rtol=1e-12)


def test_the_xray_pattern_is_n_times_the_paper(x64):
    beam, crystal = dx.Xrays(0.7), graphene()
    pattern = dx.simulate(crystal, beam, q_max=1.2, b_iso=0.4)
    found = paper_intensity(crystal, cut_rods(crystal, beam), beam, 0.4)
    np.testing.assert_allclose(pattern.intensity[np.asarray(pattern.mask)], 2 * found, rtol=1e-12)


@EACH_BEAM
def test_several_elements_keep_their_form_factors_inside_the_sum(x64, layer, beam):
    crystal, q = layer(), somewhere()
    factor = structure_factor(crystal, q, beam, 0.3)
    lp = lp_factor(jnp.sum(q * q, -1), beam.wavelength)
    found = paper_intensity(crystal, q, beam, 0.3, i0=3.0)
    np.testing.assert_allclose(found, 3 * lp * np.abs(factor) ** 2 / 5, rtol=1e-9)


def test_the_structure_function_is_the_mean_over_pairs(x64, layer):
    """S as printed: a complex double sum over all pairs; it is real, at least 0, at most N."""
    crystal, q = layer(), somewhere()
    r = np.asarray(crystal.positions)
    pairs = np.exp(-2j * np.pi * np.einsum("kd,ijd->kij", q, r[:, None] - r[None])).sum((1, 2)) / 5
    found = paper_structure_function(crystal, q)
    np.testing.assert_allclose(found, pairs.real, atol=1e-12)
    np.testing.assert_allclose(pairs.imag, 0, atol=1e-12)
    assert (found > -1e-12).all() and (found <= 5).all()
    np.testing.assert_allclose(paper_structure_function(crystal, jnp.zeros((1, 3))), [5.0])


def test_the_paper_counts_atoms_once_a_crystal(x64):
    """S grows as N at Bragg spots: a supercell of four cells has four times the intensity."""
    beam = dx.Electrons(80.0)
    q = cut_rods(graphene(), beam)
    one, four = (paper_intensity(graphene(tile), q, beam) for tile in (1, 2))
    np.testing.assert_allclose(four, 4 * one, rtol=1e-9)


def test_padding_does_not_enter(x64, layer):
    crystal, q, beam = layer(), somewhere(), dx.Electrons(80.0)
    padded = dx.stack([crystal], size=9)[0]
    for function in (
        lambda c: paper_structure_function(c, q),
        lambda c: paper_intensity(c, q, beam, 0.4),
    ):
        np.testing.assert_allclose(function(padded), function(crystal), rtol=1e-12)


def test_elements_without_a_table_are_refused(layer):
    crystal = dx.Crystal(layer().lattice, layer().positions, jnp.full(5, 99))
    with pytest.raises(ValueError, match=r"Z = \[99\]"):
        dx.paper_intensity(crystal, somewhere(), dx.Xrays())
