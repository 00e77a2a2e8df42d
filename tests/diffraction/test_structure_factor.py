"""Structure factors are the direct sum over atoms, with occupancies and displacements."""


import jax
import jax.numpy as jnp
import numpy as np
import pytest
from beams import (
    BEAMS,
    EACH_BEAM,
    Q_MAX,
    assert_same,
    change,
    direct_sum,
    disordered,
    form_factor,
    random_q,
    structure_factor,
)
from scipy.spatial.transform import Rotation

import diffraction as dx


@pytest.mark.parametrize(
    "beam",
    [*BEAMS, dx.Electrons(80.0, table="kirkland")],
    ids=["electrons", "xrays", "kirkland"],
)
def test_the_structure_factor_is_the_direct_sum(x64, layer, beam):
    crystal, q = layer(), random_q()
    b = np.array([0.1, 0.5, 0.0, 1.0, 2.0])
    found = structure_factor(crystal, q, beam, b)
    np.testing.assert_allclose(found, direct_sum(crystal, q, beam, b), rtol=1e-11)


def test_translation_turns_phases_only(x64, layer):
    crystal, q = layer(), random_q()
    shift = jnp.array([0.7, -1.3, 2.9])
    moved = change(crystal, positions=crystal.positions + shift)
    expected = structure_factor(crystal, q, BEAMS[0]) * jnp.exp(2j * jnp.pi * q @ shift)
    np.testing.assert_allclose(structure_factor(moved, q, BEAMS[0]), expected, rtol=1e-11)


def test_friedel_pairs_are_conjugate(x64, layer):
    crystal, q = layer(), random_q()
    there, back = (structure_factor(crystal, s * q, BEAMS[0]) for s in (1, -1))
    np.testing.assert_allclose(back, there.conj(), rtol=1e-12)


def test_structure_factors_far_from_the_origin_keep_their_digits(layer):
    """Float32 sines of large arguments would lose them: 200 A off, 1e-4 is what q itself has."""
    crystal = layer()
    q = random_q()
    far = change(crystal, positions=crystal.positions + jnp.array([128.0, 64.0, 32.0]))
    found = np.abs(structure_factor(far, q, BEAMS[0]))
    expected = np.abs(direct_sum(far, q, BEAMS[0]))
    np.testing.assert_allclose(found, expected, atol=2e-3 * expected.max())


def test_b_may_be_one_number_one_a_crystal_or_one_an_atom(x64, layer):
    beam = BEAMS[0]
    batch = dx.stack([layer(0), layer(1)])
    q = jnp.stack([random_q(0), random_q(1)])
    number = structure_factor(batch, q, beam, 0.7)
    for b in (jnp.full(2, 0.7), jnp.full((2, 5), 0.7)):
        np.testing.assert_allclose(structure_factor(batch, q, beam, b), number, rtol=1e-13)
    each = structure_factor(batch, q, beam, jnp.array([0.2, 0.9]))
    for i, b in enumerate((0.2, 0.9)):
        np.testing.assert_allclose(each[i], structure_factor(batch[i], q[i], beam, b))


@EACH_BEAM
def test_occupancies_weigh_and_displacements_damp_each_atom(x64, layer, beam):
    crystal, q, b = disordered(layer), np.asarray(random_q()), np.linspace(0.1, 0.9, 5)
    expected = 0
    for z, r, o, u, bj in zip(
        *(crystal.numbers, crystal.positions, crystal.occupancy, crystal.u, b), strict=True
    ):
        squared = (q**2).sum(-1)
        damped = np.exp(-bj * squared / 4) * [np.exp(-2 * np.pi**2 * x @ u @ x) for x in q]
        f = form_factor(beam, z, jnp.asarray(squared))
        expected = expected + o * f * damped * np.exp(2j * np.pi * q @ r)
    found = structure_factor(crystal, jnp.asarray(q), beam, b)
    np.testing.assert_allclose(found, expected, rtol=1e-11)


def test_equal_displacements_in_all_directions_are_b(x64, layer):
    crystal, q, b = layer(), random_q(), jnp.linspace(0.2, 0.9, 5)
    u = b[:, None, None] / (8 * jnp.pi**2) * jnp.eye(3)
    found = structure_factor(change(crystal, u=u), q, BEAMS[0])
    np.testing.assert_allclose(found, structure_factor(crystal, q, BEAMS[0], b), rtol=1e-12)


def test_full_and_empty_places_are_atoms_and_none(x64, layer):
    crystal, q = layer(), random_q()
    expected = structure_factor(crystal, q, BEAMS[0])
    full = change(crystal, occupancy=jnp.ones(5), u=jnp.zeros((5, 3, 3)))
    np.testing.assert_allclose(structure_factor(full, q, BEAMS[0]), expected, rtol=1e-14)
    # An atom half there and half on another, equal place is there once.
    twice = jax.tree.map(lambda x: jnp.concatenate([x, x[:1]]), full)
    twice = change(twice, lattice=crystal.lattice)
    twice = change(twice, occupancy=jnp.ones(6).at[jnp.array([0, 5])].set(0.5))
    np.testing.assert_allclose(structure_factor(twice, q, BEAMS[0]), expected, rtol=1e-12)
    empty = change(twice, occupancy=jnp.ones(6).at[5].set(0.0))
    np.testing.assert_allclose(structure_factor(empty, q, BEAMS[0]), expected, rtol=1e-12)


def test_displacements_turn_with_the_crystal(x64, layer):
    crystal, q = disordered(layer), random_q()
    r = jnp.asarray(Rotation.from_euler("xyz", [20, -35, 70], degrees=True).as_matrix())
    turned = change(crystal, positions=crystal.positions @ r.T, u=r @ crystal.u @ r.T)
    found = structure_factor(turned, q @ r.T, BEAMS[0])
    np.testing.assert_allclose(found, structure_factor(crystal, q, BEAMS[0]), rtol=1e-11)
    other = structure_factor(change(turned, u=crystal.u), q @ r.T, BEAMS[0])
    assert np.abs(other - found).max() > 0.01 * np.abs(found).max()


def test_displacements_along_the_beam_are_not_seen_by_flat_rods(layer):
    """q_z is small at normal incidence: heat along the normal dims spots 300 times less."""

    def dimming(axis):
        u = jnp.zeros((5, 3, 3)).at[:, axis, axis].set(0.02)
        return 1 - dx.simulate(change(layer(), u=u)).intensity.sum() / plain.intensity.sum()

    plain = dx.simulate(layer())
    assert dimming(0) > 0.03 and dimming(1) > 0.03 and abs(dimming(2)) < 1e-3


def test_padding_may_hold_anything_as_occupancy_displacement_or_b(layer):
    crystal = disordered(layer)
    hk = dx.reflections(crystal.lattice, Q_MAX)
    padded = dx.stack([crystal], size=7)[0]
    filled = change(
        padded,
        occupancy=padded.occupancy.at[5:].set(jnp.nan),
        u=padded.u.at[5:].set(-1e30),
    )
    b = jnp.full(7, 0.3).at[5:].set(-1e30)

    @jax.jit
    def run(c, b):
        def total(fields, b):
            pattern = dx.simulate(change(c, **fields), BEAMS[0], Q_MAX, b, hk=hk)
            return jnp.sum(pattern.intensity), pattern.intensity

        fields = {x: getattr(c, x) for x in ("positions", "occupancy", "u")}
        return jax.grad(total, (0, 1), has_aux=True)(fields, b)

    (gradient, b_gradient), found = run(filled, b)
    (expected, _), intensity = run(crystal, b[:5])
    np.testing.assert_allclose(found, intensity, atol=1e-6 * intensity.max())
    for name, x in {**gradient, "b": b_gradient}.items():
        assert np.all(np.asarray(x[5:]) == 0), name
        assert np.any(np.asarray(x[:5]) != 0), name
    for name, x in expected.items():
        np.testing.assert_allclose(gradient[name][:5], x, atol=1e-5 * np.abs(x).max())


def test_b_may_be_given_by_element(x64, layer):
    crystals = [change(layer(s), numbers=jnp.array([42, 16, 6, 16, 42][: 5 - s])) for s in (0, 1)]
    crystals[1] = change(crystals[1], positions=crystals[1].positions[:4])
    batch = dx.stack(crystals)
    b = {"Mo": 0.3, "S": 0.5, "C": 0.9, "W": 7.0}
    each = jnp.array([[0.3, 0.5, 0.9, 0.5, 0.3], [0.3, 0.5, 0.9, 0.5, 0.0]])
    assert_same(dx.simulate(batch, b_iso=b), dx.simulate(batch, b_iso=each))
    q = random_q()
    found = structure_factor(crystals[0], q, BEAMS[0], b)
    np.testing.assert_allclose(found, structure_factor(crystals[0], q, BEAMS[0], each[0]))
    for run in (dx.simulate, lambda c, b_iso: dx.structure_factor(c, q, BEAMS[0], b_iso)):
        with pytest.raises(ValueError, match=r"no B for S; it has \['Mo', 'C'\]"):
            run(crystals[0], b_iso={"Mo": 0.3, "C": 0.2})
        with pytest.raises(ValueError, match=r"\['Xx'\], which are not elements"):
            run(crystals[0], b_iso={**b, "Xx": 0.3})

