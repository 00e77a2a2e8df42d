"""What the simulator cannot do is refused in one line."""


import jax
import jax.numpy as jnp
import numpy as np
import pytest
from beams import change, random_q

import diffraction as dx


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

