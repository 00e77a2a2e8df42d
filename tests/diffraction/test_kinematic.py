"""Structure factors, the Ewald cut and the pattern: symmetries, limits, gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

import diffraction as dx
from diffraction.kinematic import detector_positions, lorentz_polarisation

Q_MAX = 1.25
# Short enough that the sphere reaches all rods, also for X-rays.
BEAMS = [dx.Electrons(80.0), dx.Xrays(0.7)]
EACH_BEAM = pytest.mark.parametrize("beam", BEAMS, ids=["electrons", "xrays"])
TILTS = [(0.0, 0.0), (5.0, -3.0), (-12.0, 20.0), (35.0, 10.0)]

# All that the fixture `layer` draws from.
ELEMENTS = ("H", "C", "O", "Si", "S", "Fe", "Mo", "I", "W")

# Compiled as a whole: quicker than one compilation an operation.
structure_factor = jax.jit(dx.structure_factor)
form_factor = jax.jit(dx.form_factor)
ewald_qz = jax.jit(dx.ewald_qz)


def spots(pattern):
    """hk -> (q, intensity) of what is not masked."""
    pattern = jax.tree.map(np.asarray, pattern)
    return {
        tuple(map(int, pattern.hk[i])): (pattern.q[i], float(pattern.intensity[i]))
        for i in np.flatnonzero(pattern.mask)
    }


def assert_same(found, expected, rtol=1e-10):
    """Two patterns, slot by slot; intensities relative to the strongest."""
    found, expected = jax.tree.map(np.asarray, (found, expected))
    np.testing.assert_array_equal(found.hk, expected.hk)
    np.testing.assert_array_equal(found.mask, expected.mask)
    np.testing.assert_allclose(found.q, expected.q, atol=rtol)
    scale = np.max(expected.intensity)
    np.testing.assert_allclose(found.intensity / scale, expected.intensity / scale, atol=rtol)


def direct_sum(crystal, q, beam, b=0.0):
    """F by complex numpy exponentials, shared with nothing but the form factors."""
    q, r = np.asarray(q, float), np.asarray(crystal.positions, float)
    squared = (q**2).sum(-1)[:, None]
    f = np.asarray(form_factor(beam, crystal.numbers[None, :], jnp.asarray(squared)))
    return (f * np.exp(-b * squared / 4) * np.exp(2j * np.pi * q @ r.T)).sum(-1)


def random_q(seed=0, count=20):
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, (count, 3)))


def disordered(layer, seed=0):
    """The crystal without symmetry, with occupancies and displacements."""
    rng = np.random.default_rng(seed)
    root = rng.normal(0, 0.1, (5, 3, 3))
    u = jnp.asarray(root @ np.swapaxes(root, 1, 2))
    return change(layer(seed), occupancy=jnp.asarray(rng.uniform(0.2, 1, 5)), u=u)


def change(crystal, **fields):
    return dataclasses.replace(crystal, **fields)


# Structure factors


def test_whole_numbers_are_numbers(layer):
    crystal = layer(0)
    whole, real = [[1, 0, 0]], [[1.0, 0.0, 0.0]]
    found, expected = (
        structure_factor(crystal, jnp.array(q), BEAMS[0], 0.5) for q in (whole, real)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(
        ewald_qz(jnp.array([[1, 0]]), 0.0418), ewald_qz(jnp.array([[1.0, 0.0]]), 0.0418), rtol=1e-6
    )
    for simulate in (dx.simulate, lambda c: list(dx.simulate_library(dx.stack([c])))):
        with pytest.raises(ValueError, match="floating point"):
            simulate(change(crystal, positions=jnp.zeros((5, 3), int)))


@pytest.mark.parametrize("tilt", [(90.0, 0.0), (0.0, 180.0), (60.0, 100.0), (np.nan, 0.0)])
def test_a_beam_from_below_is_refused(layer, tilt):
    crystal = layer(0)
    for function in (
        dx.simulate,
        lambda c, tilt: list(dx.simulate_library(dx.stack([c]), tilt=tilt)),
    ):
        with pytest.raises(ValueError, match="less than 90 degrees"):
            function(crystal, tilt=tilt)


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


# Occupancies and displacements


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
        with pytest.raises(ValueError, match=r"\['Xx'\], which are no elements"):
            run(crystals[0], b_iso={**b, "Xx": 0.3})


# Symmetries of the pattern


@EACH_BEAM
def test_translation_changes_nothing(x64, layer, beam):
    crystal = layer()
    moved = change(crystal, positions=crystal.positions + jnp.array([0.7, -1.3, 12.9]))
    for tilt in TILTS[:2]:
        assert_same(
            dx.simulate(moved, beam, Q_MAX, 0.3, tilt), dx.simulate(crystal, beam, Q_MAX, 0.3, tilt)
        )


def test_an_atom_may_stand_in_any_cell(x64, layer):
    crystal = layer()
    shifts = jnp.array([[1, 0], [0, -2], [3, 1], [0, 0], [-1, -1]]) @ crystal.lattice
    moved = change(crystal, positions=crystal.positions.at[:, :2].add(shifts))
    assert_same(dx.simulate(moved, tilt=(5.0, 2.0)), dx.simulate(crystal, tilt=(5.0, 2.0)))


def test_the_order_of_atoms_changes_nothing(x64, layer):
    crystal, order, b = layer(), jnp.array([3, 1, 4, 0, 2]), jnp.linspace(0.1, 0.9, 5)
    shuffled = change(crystal, positions=crystal.positions[order], numbers=crystal.numbers[order])
    assert_same(
        dx.simulate(shuffled, b_iso=b[order], tilt=(5.0, 2.0)),
        dx.simulate(crystal, b_iso=b, tilt=(5.0, 2.0)),
    )


def test_padding_changes_nothing_wherever_it_is(layer):
    beam = BEAMS[0]
    crystal = layer()
    expected = dx.simulate(crystal, beam, Q_MAX, 0.3, (3.0, 1.0))
    scale = expected.intensity.max()
    for garbage in (0.0, 7.3, 1e4):
        padded = dx.Crystal(
            crystal.lattice,
            jnp.concatenate([jnp.full((3, 3), garbage), crystal.positions]),
            jnp.concatenate([jnp.zeros(3, int), crystal.numbers]),
        )
        found = dx.simulate(padded, beam, Q_MAX, 0.3, (3.0, 1.0))
        # Only the order of the additions may differ.
        np.testing.assert_allclose(found.intensity, expected.intensity, atol=1e-6 * scale)


@EACH_BEAM
def test_padded_slots_have_gradients_of_exactly_zero(layer, beam):
    batch = dx.stack([layer(0, 5), layer(1, 2)], size=7)
    hk = dx.reflections(batch.lattice, Q_MAX)
    batch = change(batch, positions=jnp.where(batch.numbers[..., None] > 0, batch.positions, 3.3))

    def total(positions, b):
        crystal = change(batch, positions=positions)
        return jnp.sum(dx.simulate(crystal, beam, Q_MAX, b, (3.0, 1.0), hk=hk).intensity)

    for gradient in jax.jit(jax.grad(total, (0, 1)))(batch.positions, jnp.full((2, 7), 0.4)):
        real = np.asarray(batch.numbers > 0)
        assert np.isfinite(gradient).all()
        assert np.all(np.asarray(gradient)[~real] == 0)
        assert np.any(np.asarray(gradient)[real] != 0)


def test_padded_and_masked_spots_are_zero(layer):
    lattice = layer().lattice
    hk = np.concatenate([dx.reflections(lattice, 2.0), np.zeros((5, 2), int)])
    pattern = dx.simulate(layer(), q_max=0.8, hk=hk)
    mask = np.asarray(pattern.mask)
    assert 0 < mask.sum() < len(dx.reflections(lattice, 2.0))
    for values in (pattern.q, pattern.intensity, pattern.hk):
        assert not np.asarray(values)[~mask].any()
    assert np.all(np.linalg.norm(pattern.q[mask], axis=-1) <= 0.8)
    assert spots(pattern).keys() == spots(dx.simulate(layer(), q_max=0.8)).keys()


@EACH_BEAM
@pytest.mark.parametrize("angle", [17.0, 90.0, -133.0])
def test_the_pattern_turns_with_the_crystal(x64, layer, beam, angle):
    crystal = layer()
    r = jnp.asarray(Rotation.from_euler("z", angle, degrees=True).as_matrix())
    turned = change(
        crystal, lattice=crystal.lattice @ r[:2, :2].T, positions=crystal.positions @ r.T
    )
    found, expected = (spots(dx.simulate(c, beam, Q_MAX, 0.3)) for c in (turned, crystal))
    assert found.keys() == expected.keys()
    for hk, (q, intensity) in expected.items():
        np.testing.assert_allclose(found[hk][0], r[:2, :2] @ q, atol=1e-13)
        np.testing.assert_allclose(found[hk][1], intensity, rtol=1e-9)


@pytest.mark.parametrize("cell", [[[2, 0], [0, 1]], [[2, 1], [0, 3]], [[1, 1], [-1, 2]]])
@pytest.mark.parametrize("tilt", TILTS[:2])
def test_a_supercell_has_the_same_pattern(x64, layer, cell, tilt):
    crystal, cell = layer(), np.array(cell)
    times = round(abs(np.linalg.det(cell)))
    # Lattice points inside the supercell.
    points = np.stack(np.mgrid[-6:7, -6:7], -1).reshape(-1, 2)
    fraction = points @ np.linalg.inv(cell)
    points = points[((fraction > -1e-9) & (fraction < 1 - 1e-9)).all(1)]
    assert len(points) == times
    offsets = np.pad(points @ np.asarray(crystal.lattice), [(0, 0), (0, 1)])
    big = dx.Crystal(
        cell @ crystal.lattice,
        (crystal.positions[None] + offsets[:, None]).reshape(-1, 3),
        jnp.tile(crystal.numbers, times),
    )
    small = spots(dx.simulate(crystal, q_max=Q_MAX, b_iso=0.3, tilt=tilt))
    strongest = max(i for _, i in small.values())
    common = 0
    for hk, (q, intensity) in spots(dx.simulate(big, q_max=Q_MAX, b_iso=0.3, tilt=tilt)).items():
        index = np.linalg.solve(cell, hk)  # (H, K) = M (h, k)
        if np.allclose(index, np.round(index), atol=1e-9):
            expected = small[tuple(np.round(index).astype(int))]
            np.testing.assert_allclose(q, expected[0], atol=1e-12)
            np.testing.assert_allclose(intensity, times**2 * expected[1], rtol=1e-8)
            common += 1
        else:
            assert intensity < 1e-20 * strongest
    assert common == len(small)


def test_inversion_pairs_are_equal_for_flat_crystals_only(x64, layer):
    """The Ewald sphere cuts (h, k) and (-h, -k) at the same side, so thick crystals tell them."""
    flat, thick = (
        spots(dx.simulate(layer(thickness=t), q_max=Q_MAX, b_iso=0.3)) for t in (0.0, 4.0)
    )
    strongest = max(i for _, i in thick.values())
    differences = []
    for h, k in thick:
        np.testing.assert_allclose(flat[h, k][1], flat[-h, -k][1], rtol=1e-9)
        differences.append(abs(thick[h, k][1] - thick[-h, -k][1]) / strongest)
    assert max(differences) > 0.01


def test_turning_a_layer_over_exchanges_inversion_pairs(x64, layer):
    crystal = layer()
    over = change(crystal, positions=crystal.positions * jnp.array([1, 1, -1]))
    found, expected = (spots(dx.simulate(c, q_max=Q_MAX, b_iso=0.3)) for c in (over, crystal))
    for h, k in expected:
        np.testing.assert_allclose(found[h, k][1], expected[-h, -k][1], rtol=1e-9)


def test_a_mirrored_crystal_has_the_mirrored_pattern(x64, layer):
    """y to -y, and a tilt about x with it."""
    crystal = layer()
    mirrored = change(
        crystal,
        lattice=crystal.lattice * jnp.array([1, -1]),
        positions=crystal.positions * jnp.array([1, -1, 1]),
    )
    expected = spots(dx.simulate(crystal, q_max=Q_MAX, tilt=(6.0, 0.0)))
    found = spots(dx.simulate(mirrored, q_max=Q_MAX, tilt=(-6.0, 0.0)))
    assert found.keys() == expected.keys()
    for hk, (q, intensity) in expected.items():
        np.testing.assert_allclose(found[hk][0], q * [1, -1], atol=1e-13)
        np.testing.assert_allclose(found[hk][1], intensity, rtol=1e-9)


# Transformations and precision


def test_a_batch_is_its_crystals(layer):
    beam = BEAMS[1]
    crystals = [layer(0, 5), layer(1, 2), layer(2, 4)]
    batch = dx.stack(crystals)
    hk = dx.reflections(batch.lattice, Q_MAX)
    b = jnp.array([0.1, 0.5, 0.9])
    together = jax.tree.map(np.asarray, dx.simulate(batch, beam, Q_MAX, b, (3.0, 1.0)))
    assert len(together) == 3 and together.mask.shape == hk.shape[:2]

    def one(crystal, b, hk):
        return dx.simulate(crystal, beam, Q_MAX, b, (3.0, 1.0), hk=hk)

    mapped = jax.tree.map(np.asarray, jax.vmap(one)(batch, b, jnp.asarray(hk)))
    for i, crystal in enumerate(crystals):
        alone = one(crystal, b[i], hk[i])
        assert_same(together[i], alone, 2e-6)
        assert_same(mapped[i], alone, 2e-6)
        assert spots(alone).keys() == spots(dx.simulate(crystal, beam, Q_MAX)).keys()


def test_two_batch_axes_work_like_one(layer):
    beam = BEAMS[0]
    flat = dx.stack([layer(s) for s in range(4)])
    square = jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), flat)
    found = dx.simulate(square, beam, Q_MAX, 0.2)
    assert found.q.shape[:2] == (2, 2)
    back = jax.tree.map(lambda x: x.reshape(4, *x.shape[2:]), found)
    assert_same(back, dx.simulate(flat, beam, Q_MAX, 0.2), 2e-6)


@EACH_BEAM
def test_each_crystal_of_a_batch_may_have_its_tilt_and_its_beam(layer, beam):
    crystals = [layer(0), disordered(layer, 1), layer(2)]
    batch = dx.stack(crystals)
    hk = jnp.asarray(dx.reflections(batch.lattice, Q_MAX))
    tilts = jnp.array([[0.0, 0.0], [5.0, -3.0], [-2.0, 8.0]])
    if isinstance(beam, dx.Electrons):
        beams = dx.Electrons(jnp.array([60.0, 80.0, 300.0]))
    else:
        beams = dx.Xrays(jnp.array([0.7, 0.5, 0.6]), jnp.array([0.0, -0.5, 1.0]))
    together = dx.simulate(batch, beams, Q_MAX, 0.3, tilts, hk)
    mapped = jax.vmap(lambda c, r, t, hk: dx.simulate(c, r, Q_MAX, 0.3, t, hk))
    mapped = mapped(batch, beams, tilts, hk)
    where = detector_positions(together, beams, jnp.array([1.0, 2.0, 3.0]))
    for i in range(3):
        one = jax.tree.map(lambda x, i=i: x[i], beams)
        alone = dx.simulate(batch[i], one, Q_MAX, 0.3, tilts[i], hk[i])
        assert_same(together[i], alone, 2e-6)
        assert_same(mapped[i], alone, 2e-6)
        np.testing.assert_allclose(where[i], detector_positions(alone, one, 1.0 + i), atol=1e-5)


def test_compiled_or_not_is_the_same(layer):
    beam = BEAMS[1]
    crystal = layer()
    hk = dx.reflections(crystal.lattice, Q_MAX)
    compiled = jax.jit(lambda c, r: dx.simulate(c, r, Q_MAX, 0.2, (3.0, 1.0), hk=hk))
    with jax.disable_jit():
        plain = dx.simulate(crystal, beam, Q_MAX, 0.2, (3.0, 1.0), hk=hk)
    assert_same(compiled(crystal, beam), plain, 2e-6)
    assert_same(dx.simulate(crystal, beam, Q_MAX, 0.2, (3.0, 1.0)), plain, 2e-6)


@EACH_BEAM
def test_single_precision_is_close_to_double(layer, beam):
    def run():
        pattern = dx.simulate(layer(atoms=40), beam, Q_MAX, 0.2, (3.0, 1.0))
        assert pattern.q.dtype == pattern.intensity.dtype == layer().positions.dtype
        return jax.tree.map(np.asarray, pattern)

    single = run()
    with jax.enable_x64(True):
        double = run()
    assert single.q.dtype == np.float32 and double.q.dtype == np.float64
    assert_same(single, double, 1e-5)


# Gradients


def arguments(layer, beam):
    crystal = layer()
    number = jnp.asarray(beam.energy if isinstance(beam, dx.Electrons) else beam.wavelength)
    return {
        "positions": crystal.positions,
        "lattice": crystal.lattice,
        "b": jnp.linspace(0.2, 0.8, 5),
        "tilt": jnp.array([4.0, -2.0]),
        "beam": number,
    }


def loss_of(layer, beam, q_max=Q_MAX):
    """A function of the arguments above that weighs all spots and coordinates differently."""
    crystal = layer()
    hk = jnp.asarray(dx.reflections(crystal.lattice, q_max))
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(len(hk), 3)))

    def loss(values):
        c = change(crystal, positions=values["positions"], lattice=values["lattice"])
        # q_max is out of the way: spots that come and go have no derivative.
        pattern = dx.simulate(
            c, type(beam)(values["beam"]), q_max + 1, values["b"], values["tilt"], hk=hk
        )
        return jnp.sum(weights[:, 0] * pattern.intensity) + jnp.sum(weights[:, 1:] * pattern.q)

    return jax.jit(loss)


@EACH_BEAM
def test_gradients_are_the_finite_differences(x64, layer, beam):
    """With respect to positions, lattice, B, tilt and energy or wavelength."""
    values, loss = arguments(layer, beam), loss_of(layer, beam)
    gradients = jax.jit(jax.grad(loss))(values)
    for name, x in values.items():
        step = 1e-3 if name == "beam" and isinstance(beam, dx.Electrons) else 1e-5
        numeric = []
        for i in range(x.size):
            delta = np.zeros(x.size)
            delta[i] = step
            up, down = (loss({**values, name: x + s * delta.reshape(x.shape)}) for s in (1, -1))
            numeric.append((up - down) / (2 * step))
        gradient = np.ravel(gradients[name])
        assert np.abs(gradient).max() > 0
        tolerance = 1e-7 * np.abs(gradient).max()
        np.testing.assert_allclose(gradient, numeric, 1e-5, tolerance, err_msg=name)
    direction = jax.tree.map(jnp.ones_like, values)
    _, forward = jax.jvp(loss, (values,), (direction,))
    np.testing.assert_allclose(forward, sum(g.sum() for g in gradients.values()), rtol=1e-10)


def test_gradients_of_disorder_scale_and_polarisation_are_the_finite_differences(x64, layer):
    crystal = disordered(layer)
    hk = jnp.asarray(dx.reflections(crystal.lattice, 0.6))
    weights = jnp.asarray(np.random.default_rng(1).normal(size=len(hk)))

    @jax.jit
    def loss(values):
        s = values["scale"]
        c = dx.Crystal(
            *(s * crystal.lattice, s * crystal.positions, crystal.numbers),
            *(values["occupancy"], values["u"]),
        )
        beam = dx.Xrays(0.7, values["polarisation"])
        pattern = dx.simulate(c, beam, Q_MAX, {e: values["b"] for e in ELEMENTS}, (4, -2), hk)
        spread = jnp.sum(detector_positions(pattern, beam, values["length"]), -1)
        return jnp.sum(weights * (pattern.intensity + spread))

    number = {"scale": 1.0, "b": 0.4, "length": 1.5, "polarisation": 0.3}
    values = {"occupancy": crystal.occupancy, "u": crystal.u, **number}
    values = jax.tree.map(jnp.asarray, values)
    gradients = jax.jit(jax.grad(loss))(values)
    for name, x in values.items():
        numeric = []
        for i in range(x.size):
            delta = np.zeros(x.size)
            delta[i] = 1e-5
            up, down = (loss({**values, name: x + s * delta.reshape(x.shape)}) for s in (1, -1))
            numeric.append((up - down) / 2e-5)
        gradient = np.ravel(gradients[name])
        assert np.abs(gradient).max() > 0
        np.testing.assert_allclose(
            gradient, numeric, 1e-6, 1e-7 * np.abs(gradient).max(), err_msg=name
        )


def test_gradients_in_the_forward_direction_are_finite(layer):
    """Of |F|^2 at q = 0, with respect to q and all that a crystal has; also where F is zero."""
    crystal = disordered(layer)

    def intensity(q, fields, b):
        factor = dx.structure_factor(change(crystal, **fields), q[None], BEAMS[1], b)
        return (jnp.real(factor) ** 2 + jnp.imag(factor) ** 2)[0]

    gradient = jax.jit(jax.value_and_grad(intensity, (0, 1, 2)))
    fields = {"positions": crystal.positions, "occupancy": crystal.occupancy, "u": crystal.u}
    for occupancy in (crystal.occupancy, jnp.zeros(5)):
        value, found = gradient(jnp.zeros(3), {**fields, "occupancy": occupancy}, jnp.ones(5))
        assert (value == 0) == (not occupancy.any())
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))


@EACH_BEAM
def test_gradients_at_extinct_spots_are_finite(beam):
    # The second atom extinguishes all odd h.
    lattice = jnp.array([[4.0, 0.0], [0.0, 3.0]])
    numbers = jnp.array([26, 26])
    hk = dx.reflections(lattice, Q_MAX)

    def intensity(positions):
        return dx.simulate(dx.Crystal(lattice, positions, numbers), beam, Q_MAX, hk=hk).intensity

    positions = jnp.array([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    jacobian = jax.jit(jax.jacrev(intensity))(positions)
    assert np.isfinite(jacobian).all()
    assert np.abs(jacobian[hk[:, 0] % 2 == 1]).max() < 1e-3 * intensity(positions).max()


@pytest.mark.parametrize("beam", [dx.Xrays(1.5406), dx.Xrays(2.5), dx.Electrons(0.1)])
def test_rods_out_of_reach_leave_the_gradients_of_the_others_alone(x64, layer, beam):
    """The sphere of slow beams ends before q_max; the square root there has no derivative."""
    crystal = layer()
    hk = dx.reflections(crystal.lattice, Q_MAX)
    pattern = dx.simulate(crystal, beam, Q_MAX, hk=hk)
    near = np.linalg.norm(hk @ np.asarray(crystal.reciprocal), axis=-1) < 1 / beam.wavelength
    np.testing.assert_array_equal(pattern.mask, near & hk.any(-1))
    assert 0 < pattern.mask.sum() < hk.any(-1).sum()

    def total(values, hk):
        c = change(crystal, positions=values["positions"], lattice=values["lattice"])
        beam_ = type(beam)(values["beam"])
        return jnp.sum(dx.simulate(c, beam_, Q_MAX, values["b"], values["tilt"], hk=hk).intensity)

    values = {**arguments(layer, beam), "tilt": jnp.zeros(2)}
    gradient = jax.jit(jax.grad(total))
    all_rods = gradient(values, hk)
    reached = gradient(values, np.where(pattern.mask[:, None], hk, 0))
    for name in values:
        assert np.isfinite(all_rods[name]).all(), name
        np.testing.assert_allclose(all_rods[name], reached[name], rtol=1e-12)


# The Ewald sphere


@pytest.mark.parametrize("tilt", TILTS)
@pytest.mark.parametrize("energy", [30.0, 80.0, 300.0])
def test_scattering_is_elastic(x64, layer, tilt, energy):
    """|k0 + q| = |k0|: the beam runs along -z, the crystal is turned."""
    crystal, k = layer(), 1 / dx.Electrons(energy).wavelength
    q_par = jnp.asarray(dx.reflections(crystal.lattice, 2.0) @ np.asarray(crystal.reciprocal))
    q = np.concatenate([q_par, ewald_qz(q_par, 1 / k, tilt)[:, None]], -1)
    lab = Rotation.from_euler("xy", tilt, degrees=True).apply(q)
    np.testing.assert_allclose(np.linalg.norm(lab + [0, 0, -k], axis=-1), k, rtol=1e-14)


def test_normal_incidence_follows_the_closed_form(x64):
    q = jnp.linspace(0.0, 20.0, 50)
    for wavelength in (0.04176, 0.0197):
        closed = 1 / wavelength - np.sqrt(1 / wavelength**2 - q**2)
        found = ewald_qz(jnp.stack([q * 0.6, q * 0.8], -1), wavelength)
        np.testing.assert_allclose(found, closed, atol=1e-13)


def test_single_precision_does_not_cancel_near_the_axis():
    """1/lambda minus nearly the same would leave 2 digits in float32."""
    q = jnp.array([[0.3, 0.0]])
    np.testing.assert_allclose(ewald_qz(q, 0.0197), [0.0197 * 0.09 / 2], rtol=2e-5)


def test_beyond_the_sphere_there_is_no_cut():
    found = ewald_qz(jnp.array([[0.64, 0.0], [0.66, 0.0]]), 1.5406)
    np.testing.assert_array_equal(np.isnan(found), [False, True])


def test_tilting_up_a_side_lowers_the_cut_there(x64):
    # About x, positive: +y rises towards the source, by the right hand.
    wavelength, y, angle = 0.0418, 0.5, np.deg2rad(2.0)
    found = ewald_qz(jnp.array([[0.0, y], [0.0, -y]]), wavelength, (2.0, 0.0))
    flat = wavelength * y**2 / 2
    np.testing.assert_allclose(found, [flat - y * angle, flat + y * angle], atol=5e-4)
    # About y, positive: +x sinks.
    found = ewald_qz(jnp.array([[y, 0.0], [-y, 0.0]]), wavelength, (0.0, 2.0))
    np.testing.assert_allclose(found, [flat + y * angle, flat - y * angle], atol=5e-4)


@EACH_BEAM
@pytest.mark.parametrize("tilt", TILTS[1:])
def test_a_tilt_turns_the_atoms(x64, layer, beam, tilt):
    """Turn the atoms by an independent matrix: F at the detector's q, on the sphere, is the spot.

    So the reported q are the components across the beam, in the laboratory.
    """
    crystal = layer()
    k = 1 / beam.wavelength
    pattern = dx.simulate(crystal, beam, Q_MAX, 0.0, tilt)
    mask = np.asarray(pattern.mask)
    across = np.asarray(pattern.q)[mask]
    q = np.append(across, k - np.sqrt(k**2 - (across**2).sum(-1, keepdims=True)), 1)
    rotation = Rotation.from_euler("xy", tilt, degrees=True)
    turned = change(crystal, positions=jnp.asarray(rotation.apply(np.array(crystal.positions))))
    expected = np.abs(direct_sum(turned, q, beam)) ** 2
    if isinstance(beam, dx.Xrays):
        two_theta = 2 * np.arcsin(np.linalg.norm(q, axis=-1) / (2 * k))
        expected *= (1 + np.cos(two_theta) ** 2) / (2 * np.sin(two_theta))
    np.testing.assert_allclose(np.asarray(pattern.intensity)[mask], expected, rtol=1e-8)
    # They are rods of the crystal: back in its frame, q . a1 = h and q . a2 = k.
    inside = rotation.inv().apply(q)[:, :2]
    np.testing.assert_allclose(inside @ crystal.lattice.T, np.asarray(pattern.hk)[mask], atol=1e-10)


def test_a_dimer_on_end_rocks_as_a_cosine(x64):
    """Two atoms a height t apart: I = 4 f^2 cos^2(pi qz t), with qz set by the tilt."""
    height, wavelength = 3.0, dx.Electrons(80.0).wavelength
    crystal = dx.Crystal(
        jnp.array([[3.0, 0.0], [0.0, 3.0]]),
        jnp.array([[0, 0, 0], [0, 0, height]]),
        jnp.array([14, 14]),
    )
    for angle in (0.0, 5.0, 15.0, 25.0):
        _, intensity = spots(dx.simulate(crystal, q_max=0.5, tilt=(angle, 0.0)))[0, 1]
        # Bisection on the elastic condition, not the root under test.
        low, high = -0.5, 0.5
        for _ in range(80):
            qz = (low + high) / 2
            c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
            y, z = c / 3 - s * qz, s / 3 + c * qz
            above = np.hypot(y, z - 1 / wavelength) < 1 / wavelength
            low, high = (low, qz) if above else (qz, high)
        f = form_factor(dx.Electrons(), 14, jnp.array(1 / 9 + qz**2))
        np.testing.assert_allclose(
            intensity, 4 * f**2 * np.cos(np.pi * qz * height) ** 2, rtol=1e-8
        )


# Reflections


@settings(max_examples=40, deadline=None)
@given(
    a=st.floats(1.5, 9.0),
    b=st.floats(1.5, 9.0),
    gamma=st.floats(20.0, 160.0),
    turn=st.floats(0.0, 360.0),
    left=st.booleans(),
    q_max=st.floats(0.8, 2.0),
)
def test_reflections_are_complete_and_sorted(a, b, gamma, turn, left, q_max):
    angles = np.deg2rad([turn, turn + (-gamma if left else gamma)])
    lattice = np.array([[a], [b]]) * np.stack([np.cos(angles), np.sin(angles)], -1)
    h, k = np.mgrid[-25:26, -25:26]
    everything = np.stack([h.ravel(), k.ravel()], -1)
    length = np.linalg.norm(everything @ np.linalg.inv(lattice).T, axis=-1)
    assume((length[length > 0] < 0.99 * q_max).any())

    found = dx.reflections(lattice, q_max)
    assert len(found) % 32 == 0 and found.dtype == np.int32
    present = found.any(-1)
    kept = found[present]
    assert not found[len(kept) :].any()  # padding comes last

    surely = everything[(length > 0) & (length < q_max * (1 - 1e-5))]
    at_most = everything[(length > 0) & (length < q_max * (1 + 1e-5))]
    kept_set = set(map(tuple, kept))
    assert len(kept_set) == len(kept)
    assert set(map(tuple, surely)) <= kept_set <= set(map(tuple, at_most))
    lengths = np.linalg.norm(kept @ np.linalg.inv(lattice).T, axis=-1)
    assert (np.diff(lengths) > -2e-6).all()


def test_reflections_of_a_batch_are_those_of_each(layer):
    lattices = np.stack([np.asarray(layer(s).lattice) * (1 + s) for s in range(3)])
    found = dx.reflections(lattices, 1.0)
    for row, lattice in zip(found, lattices, strict=True):
        alone = dx.reflections(lattice, 1.0)
        np.testing.assert_array_equal(row[: len(alone)], alone)
        assert not row[len(alone) :].any()


@pytest.mark.parametrize("a", np.linspace(2.3, 4.0, 12))
def test_a_ring_on_q_max_is_kept_whole(a):
    """Rounding must not take two of six equivalent spots and leave four."""
    lattice = np.array([[a, 0.0], [-a / 2, a * np.sqrt(3) / 2]])
    crystal = dx.Crystal(jnp.asarray(lattice), jnp.zeros((1, 3)), jnp.array([6]))
    edge = 2 / (np.sqrt(3) * a)
    assert dx.simulate(crystal, q_max=edge).mask.sum() == 6
    assert dx.simulate(crystal, q_max=edge * np.sqrt(3)).mask.sum() == 12


# Analytic patterns


def test_one_atom_scatters_as_its_form_factor(x64):
    crystal = dx.Crystal(jnp.eye(2) * 2.5, jnp.array([[0.3, 0.1, 7.0]]), jnp.array([26]))
    pattern = dx.simulate(crystal, q_max=Q_MAX)
    mask = np.asarray(pattern.mask)
    across = (np.asarray(pattern.q)[mask] ** 2).sum(-1)
    k = 1 / dx.Electrons(80.0).wavelength
    squared = across + (k - np.sqrt(k**2 - across)) ** 2
    f = form_factor(dx.Electrons(), 26, jnp.asarray(squared))
    np.testing.assert_allclose(np.asarray(pattern.intensity)[mask], f**2, rtol=1e-10)


@EACH_BEAM
def test_a_centred_cell_extinguishes_odd_spots(x64, beam):
    lattice = jnp.array([[4.0, 0.5], [-1.0, 3.0]])
    positions = jnp.pad(jnp.array([[0.0, 0.0], [0.5, 0.5]]) @ lattice, [(0, 0), (0, 1)])
    one = dx.Crystal(lattice, positions[:1], jnp.array([26]))
    two = dx.Crystal(lattice, positions, jnp.array([26, 26]))
    single = spots(dx.simulate(one, beam, Q_MAX))
    for (h, k), (_, intensity) in spots(dx.simulate(two, beam, Q_MAX)).items():
        expected = 0.0 if (h + k) % 2 else 4 * single[h, k][1]
        np.testing.assert_allclose(intensity, expected, rtol=1e-10, atol=1e-22)


def test_graphene_rings_have_the_geometry_of_the_honeycomb(x64):
    """|1 + exp(2 pi i (h + 2k) / 3)|^2: 1 for (10), 4 for (11), whatever the form factor."""
    a = 2.46
    lattice = jnp.array([[a, 0.0], [-a / 2, a * np.sqrt(3) / 2]])
    positions = jnp.pad(jnp.array([[1 / 3, 2 / 3], [2 / 3, 1 / 3]]) @ lattice, [(0, 0), (0, 1)])
    crystal = dx.Crystal(lattice, positions, jnp.array([6, 6]))
    atom = dx.Crystal(lattice, positions[:1], jnp.array([6]))
    single = spots(dx.simulate(atom, q_max=1.7))
    for (h, k), (_, intensity) in spots(dx.simulate(crystal, q_max=1.7)).items():
        geometry = 4.0 if (h - k) % 3 == 0 else 1.0
        np.testing.assert_allclose(intensity / single[h, k][1], geometry, rtol=1e-9)
    assert {(1, 1), (1, 0), (2, 0)} <= single.keys()


@pytest.mark.parametrize("b", [0.5, 2.0])
def test_heat_damps_intensities_by_debye_and_waller(x64, layer, b):
    crystal = layer(thickness=0.0)
    cold, warm = (dx.simulate(crystal, q_max=Q_MAX, b_iso=x) for x in (0.0, b))
    across = (np.asarray(cold.q) ** 2).sum(-1)
    k = 1 / dx.Electrons(80.0).wavelength
    squared = across + (k - np.sqrt(k**2 - across)) ** 2
    np.testing.assert_allclose(
        warm.intensity, cold.intensity * np.exp(-b * squared / 2), rtol=1e-10
    )


def test_xrays_are_polarised_by_the_lorentz_polarisation_factor(x64, layer):
    beam = BEAMS[1]
    crystal = layer()
    pattern = dx.simulate(crystal, beam, Q_MAX)
    q_par = np.asarray(pattern.q)
    q = np.concatenate([q_par, ewald_qz(pattern.q, beam.wavelength)[:, None]], -1)
    mask = np.asarray(pattern.mask)
    two_theta = 2 * np.arcsin(beam.wavelength * np.linalg.norm(q, axis=-1) / 2)[mask]
    factor = (1 + np.cos(two_theta) ** 2) / (2 * np.sin(two_theta))
    squared = (q[mask] ** 2).sum(-1)
    np.testing.assert_allclose(lorentz_polarisation(squared, beam.wavelength), factor, rtol=1e-12)
    expected = np.abs(direct_sum(crystal, q[mask], beam)) ** 2 * factor
    np.testing.assert_allclose(np.asarray(pattern.intensity)[mask], expected, rtol=1e-9)


@pytest.mark.parametrize("tilt", TILTS[:3])
def test_polarised_xrays_scatter_as_dipoles(x64, layer, tilt):
    """A field along e drives dipoles along e, which radiate 1 - (k . e)^2 in the direction k."""
    crystal, wavelength = layer(), 0.7
    patterns = [dx.simulate(crystal, dx.Xrays(wavelength, p), Q_MAX, 0.0, tilt) for p in (0, 1, -1)]
    unpolarised, along_x, along_y = jax.tree.map(np.asarray, patterns)
    mask = unpolarised.mask
    # The scattered direction, by turning q with an independent matrix.
    q = np.pad(np.asarray(patterns[0].hk @ crystal.reciprocal), [(0, 0), (0, 1)])
    q[:, 2] = ewald_qz(jnp.asarray(q[:, :2]), wavelength, tilt)
    q = Rotation.from_euler("xy", tilt, degrees=True).apply(q)
    k = (q + [0, 0, -1 / wavelength])[mask] * wavelength
    np.testing.assert_allclose(np.linalg.norm(k, axis=-1), 1, rtol=1e-12)
    two_theta = np.arccos(-k[:, 2])
    dipoles = [1 - (k @ e) ** 2 for e in np.eye(3)[:2]]
    np.testing.assert_allclose(sum(dipoles) / 2, (1 + np.cos(two_theta) ** 2) / 2, rtol=1e-10)
    for found, dipole in ((along_x, dipoles[0]), (along_y, dipoles[1])):
        ratio = found.intensity[mask] / unpolarised.intensity[mask]
        np.testing.assert_allclose(ratio, dipole / (sum(dipoles) / 2), rtol=1e-9)
    assert np.abs(dipoles[0] - dipoles[1]).max() > 0.2


# The detector


@EACH_BEAM
@pytest.mark.parametrize("tilt", TILTS[:3])
def test_spots_fall_on_the_detector_at_twice_braggs_angle(x64, layer, beam, tilt):
    length = 1234.5
    pattern = dx.simulate(layer(), beam, Q_MAX, 0.0, tilt)
    mask, hk = np.asarray(pattern.mask), np.asarray(pattern.hk)
    found = np.asarray(detector_positions(pattern, beam, length))
    q_par = jnp.asarray(hk[mask] @ np.asarray(layer().reciprocal))
    q = np.hypot(np.linalg.norm(q_par, axis=-1), ewald_qz(q_par, beam.wavelength, tilt))
    two_theta = 2 * np.arcsin(q * beam.wavelength / 2)
    radius = np.linalg.norm(found, axis=-1)[mask]
    np.testing.assert_allclose(radius, length * np.tan(two_theta), rtol=1e-9)
    across = np.asarray(pattern.q)[mask]  # in the direction of q
    np.testing.assert_allclose(
        found[mask] / radius[:, None], across / np.linalg.norm(across, axis=-1)[:, None], rtol=1e-9
    )


def test_masked_spots_have_no_place_and_no_gradient(layer):
    pattern = dx.simulate(layer(), q_max=0.8)
    pattern = change(pattern, q=jnp.where(pattern.mask[:, None], pattern.q, 1e9))
    beam = dx.Electrons(80.0)

    def total(q, energy, length):
        where = detector_positions(change(pattern, q=q), dx.Electrons(energy), length)
        return jnp.sum(where**2), where

    gradient = jax.jit(jax.grad(total, (0, 1, 2), has_aux=True))
    (dq, de, dl), where = gradient(pattern.q, beam.energy, 300.0)
    mask = np.asarray(pattern.mask)
    assert 0 < mask.sum() < mask.size
    assert not np.asarray(where)[~mask].any() and not np.asarray(dq)[~mask].any()
    assert np.isfinite(dq).all() and de < 0 < dl


def test_what_the_sphere_does_not_reach_is_not_on_the_detector():
    pattern = dx.Pattern(
        jnp.array([[0.5, 0.0], [0.0, 0.8]]), jnp.ones(2), jnp.ones((2, 2), int), jnp.ones(2, bool)
    )
    found = detector_positions(pattern, dx.Xrays(1.5406), 1.0)
    np.testing.assert_array_equal(np.isnan(found), [[False, False], [True, True]])
    with pytest.raises(ValueError, match="camera length must be positive, got -1"):
        detector_positions(pattern, dx.Xrays(1.5406), -1.0)


# What is refused


@pytest.mark.parametrize(
    ("beam", "limit"), [(dx.Electrons(), 12), (dx.Electrons(table="peng"), 4), (dx.Xrays(0.1), 12)]
)
def test_spots_beyond_the_range_of_the_form_factors_are_refused(layer, beam, limit):
    hk = dx.reflections(layer().lattice, 1.0)
    dx.simulate(layer(), beam, limit, hk=hk)
    with pytest.raises(ValueError, match=f"q_max = {limit + 0.1} is beyond the .* up to {limit} "):
        dx.simulate(layer(), beam, limit + 0.1, hk=hk)
    with pytest.raises(ValueError, match=f"is beyond the .* up to {limit} "):
        dx.structure_factor(layer(), jnp.array([[0.0, limit, 1.0]]), beam)


def test_the_range_of_the_form_factors_is_that_of_the_spots_under_tilt(layer):
    """|q| of a spot across the beam at q is that on the sphere, whatever the tilt."""
    tilt, beam = (35.0, -20.0), dx.Electrons(80.0)
    k = 1 / float(beam.wavelength)

    def longest(q_max):
        across = np.square(np.asarray(dx.simulate(layer(), beam, q_max, tilt=tilt).q)).sum(-1)
        return np.sqrt(2 * k * (k - np.sqrt(k * k - across.max())))

    inside, outside = 2.6, 3.9
    assert longest(inside) < 4 < longest(outside)
    peng = dx.Electrons(80.0, "peng")
    dx.simulate(layer(), peng, inside, tilt=tilt)
    dx.simulate(layer(), peng, outside)
    for tilts in (tilt, np.array([[0.0, 0.0], tilt])):
        crystal = layer() if np.ndim(tilts) == 1 else dx.stack([layer(), layer()])
        with pytest.raises(ValueError, match=f"largest .q. = {longest(outside):.3f}.* up to 4 "):
            dx.simulate(crystal, peng, outside, tilt=tilts)
    with pytest.raises(ValueError, match="under this tilt the largest .* up to 4 "):
        dx.simulate_library([layer()], peng, outside, tilt=tilt)
    # A lattice that is traced says nothing of its spots.
    hk = dx.reflections(layer().lattice, outside)
    jax.jit(lambda c: dx.simulate(c, peng, outside, tilt=tilt, hk=hk))(layer())


@pytest.mark.parametrize("bad", [-0.1, float("nan"), np.array([-1.0]), {"C": -2.0}])
def test_a_negative_b_is_refused(layer, bad):
    crystal = change(layer(), numbers=jnp.where(layer().numbers > 0, 6, 0))
    calls = [
        lambda b: dx.simulate(crystal, b_iso=b),
        lambda b: dx.simulate(crystal, b_iso=b, method="multislice"),
        lambda b: dx.structure_factor(crystal, random_q(), dx.Electrons(), b),
        lambda b: dx.ring_profile(crystal, dx.Electrons(), np.array([0.5]), 50.0, b),
        lambda b: list(dx.simulate_library([crystal], b_iso=b)),
    ]
    for call in calls[: None if np.ndim(bad) == 0 else 1]:
        with pytest.raises(ValueError, match=r"b_iso( of C)? must be 0 or more, in angstrom"):
            call(bad)


@pytest.mark.parametrize("bad", [2.0, -0.1, float("nan")])
def test_an_occupancy_beyond_0_to_1_is_refused(layer, bad):
    crystal = change(layer(), occupancy=jnp.ones(5).at[1].set(bad))
    with pytest.raises(ValueError, match=rf"occupancies must lie in 0 to 1; atom 1 has {bad:g}"):
        dx.simulate(crystal)
    both = jnp.stack([jnp.ones(5), crystal.occupancy])
    batch = change(dx.stack([layer(), layer()]), occupancy=both)
    with pytest.raises(ValueError, match=r"atom \(1, 1\) has"):
        list(dx.simulate_library(batch))


@pytest.mark.parametrize("tilt", [1.0, (1.0, 2.0, 3.0), np.zeros((3, 2)), np.zeros((2, 1, 2))])
def test_a_tilt_is_two_angles_for_all_or_for_each(layer, tilt):
    with pytest.raises(ValueError, match=r"shape \(2,\) or \(2, 2\), one for each crystal; got"):
        dx.simulate(dx.stack([layer(0), layer(1)]), tilt=tilt)


@pytest.mark.parametrize("bad", [0, -1.0, float("nan"), float("inf")])
def test_a_bad_q_max_is_refused(layer, bad):
    hk = dx.reflections(layer().lattice, 1.0)
    with pytest.raises(ValueError, match="q_max must be positive"):
        dx.reflections(layer().lattice, bad)
    with pytest.raises(ValueError, match="q_max must be positive"):
        dx.simulate(layer(), q_max=bad)
    with pytest.raises(ValueError, match="q_max must be positive"):
        dx.simulate(layer(), q_max=bad, hk=hk)


def test_a_q_max_before_the_first_rod_is_refused(layer):
    with pytest.raises(ValueError, match="no rod lies within q_max = 0.01"):
        dx.simulate(layer(), q_max=0.01)


@pytest.mark.parametrize("lattice", [[[1.0, 1.0], [2.0, 2.0]], [[0.0, 0.0], [0.0, 1.0]]])
def test_a_lattice_without_area_is_refused(lattice):
    batch = np.stack([np.eye(2) * 3, np.array(lattice)])
    with pytest.raises(ValueError, match="lattice 1 has no area"):
        dx.reflections(batch, 1.0)


@pytest.mark.parametrize("z", [99, 103])
def test_xrays_of_elements_without_a_table_are_refused(layer, z):
    crystal = change(layer(), numbers=jnp.array([6, 6, z, 0, 1]))
    assert np.isfinite(dx.simulate(crystal).intensity).all()
    with pytest.raises(ValueError, match=rf"no form factor for Z = \[{z}\]"):
        dx.simulate(crystal, dx.Xrays())
    with pytest.raises(ValueError, match=rf"no form factor for Z = \[{z}\]"):
        dx.structure_factor(crystal, random_q(), dx.Xrays())


@pytest.mark.parametrize("z", [104, -1])
def test_unknown_elements_are_refused(layer, z):
    crystal = change(layer(), numbers=jnp.array([6, 6, z, 0, 1]))
    with pytest.raises(ValueError, match="0 to 103"):
        dx.simulate(crystal)


def test_a_traced_lattice_needs_its_rods(layer):
    with pytest.raises(ValueError, match="hk=reflections"):
        jax.jit(dx.simulate)(layer())


def test_a_pattern_is_indexed_along_its_batch_only(layer):
    pattern = dx.simulate(dx.stack([layer(0), layer(1)]))
    assert isinstance(pattern[1], dx.Pattern) and pattern[1].mask.ndim == 1
    with pytest.raises(TypeError):
        pattern[1][0]
    with pytest.raises(TypeError):
        len(pattern[1])
