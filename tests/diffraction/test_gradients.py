"""Gradients through the simulator are those of finite differences, and finite everywhere."""


import jax
import jax.numpy as jnp
import numpy as np
import pytest
from beams import BEAMS, EACH_BEAM, Q_MAX, change, disordered

import diffraction as dx
from diffraction.kinematic import detector_positions

# All that the fixture `layer` draws from.
ELEMENTS = ("H", "C", "O", "Si", "S", "Fe", "Mo", "I", "W")


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

