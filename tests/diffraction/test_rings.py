"""Ring profiles against Debye's sum over atoms, Warren's formula, and their own limits."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

import diffraction as dx
from diffraction.rings import ring_profile

A = 2.46
AREA = A**2 * np.sqrt(3) / 2
HEAD = 2 / (np.sqrt(3) * A)  # |g| of the six rods (10) of graphene
BEAM = dx.Electrons(80.0)
form_factor = jax.jit(dx.form_factor)


def graphene() -> dx.Crystal:
    lattice = jnp.array([[A, 0.0], [A / 2, A * np.sqrt(3) / 2]])
    positions = jnp.pad(jnp.array([[1 / 3, 1 / 3], [2 / 3, 2 / 3]]) @ lattice, [(0, 0), (0, 1)])
    return dx.Crystal(lattice, positions, jnp.array([6, 6]))


def amplitudes(crystal, q, b):
    """(Q, N) form factors with Debye-Waller factors."""
    f = form_factor(BEAM, crystal.numbers[None], jnp.asarray(q)[:, None] ** 2)
    return np.asarray(f) * np.exp(-b * q[:, None] ** 2 / 4)


def pair_sum(crystal, q, size, b=0.0):
    """Debye's sum sum_ij f_i f_j sin(2 pi q r) / (2 pi q r) of an endless layer, per cell.

    Pairs count as in a domain: with the share of the domain that overlaps itself when moved by
    their distance in the plane, exp(-pi d^2 / size^2) for one of Gaussian spots.
    """
    lattice, positions = np.asarray(crystal.lattice), np.asarray(crystal.positions)
    n = int(4 * size / np.sqrt(abs(np.linalg.det(lattice)))) + 4
    cells = np.stack(np.mgrid[-n : n + 1, -n : n + 1], -1).reshape(-1, 2) @ lattice
    f, total = amplitudes(crystal, q, b), np.zeros(len(q))
    for i in range(len(positions)):
        for j in range(len(positions)):
            d = positions[j] - positions[i]
            across = np.linalg.norm(cells + d[:2], axis=1)
            across = across[across < 3.3 * size]
            terms = np.sinc(2 * q[:, None] * np.hypot(across, d[2]))
            total += f[:, i] * f[:, j] * (terms @ np.exp(-np.pi * across**2 / size**2))
    return total


def zero_rod(crystal, q, size, b=0.0):
    """What the rod (0, 0), which is not part of a profile, adds to Debye's sum."""
    x, weights = np.polynomial.legendre.leggauss(60)
    sigma = 1 / (np.sqrt(2 * np.pi) * size)
    p = np.minimum(8 * sigma, q[:, None]) * (x + 1) / 2
    qz = np.sqrt(q[:, None] ** 2 - p**2)
    phase = np.exp(2j * np.pi * qz[..., None] * np.asarray(crystal.positions)[:, 2])
    squared = np.abs((amplitudes(crystal, q, b)[:, None] * phase).sum(-1)) ** 2
    density = p / sigma**2 * np.exp(-(p**2) / (2 * sigma**2)) * np.minimum(8 * sigma, q[:, None])
    area = abs(np.linalg.det(np.asarray(crystal.lattice)))
    return (density / 2 * squared / (2 * np.pi * q[:, None] * qz)) @ weights / area


Q = np.linspace(0.42, 1.1, 60)


def test_a_powder_of_any_layer_scatters_as_debyes_sum_over_its_pairs(x64, layer):
    """Five elements' form factors, heights of 4 A, no symmetry: bands and phases on both sides."""
    crystal, size, b = layer(), 16.0, 0.4
    found = ring_profile(crystal, BEAM, Q, size, b)
    expected = pair_sum(crystal, Q, size, b) - zero_rod(crystal, Q, size, b)
    np.testing.assert_allclose(found, expected, atol=1e-6 * expected.max())


def test_a_disc_of_graphene_has_the_bands_of_its_mean_chord(x64):
    """Debye's sum over a real flake, whose sharp edge is not that of Gaussian spots."""
    crystal, diameter = graphene(), 50.0
    cells = np.stack(np.mgrid[-40:41, -40:41], -1).reshape(-1, 2) @ np.asarray(crystal.lattice)
    atoms = (cells[:, None] + np.asarray(crystal.positions)[:, :2]).reshape(-1, 2)
    atoms = atoms[np.linalg.norm(atoms, axis=1) < diameter / 2]
    r = np.linalg.norm(atoms[:, None] - atoms, axis=-1)
    r, times = np.unique(np.round(r, 5), return_counts=True)
    disc = 2 * (np.sinc(2 * Q[:, None] * r) @ times) / len(atoms)
    disc = disc * amplitudes(crystal, Q, 0.0)[:, 0] ** 2
    size = 8 * diameter / (3 * np.pi)
    found = np.asarray(ring_profile(crystal, BEAM, Q, size))
    disc = disc - zero_rod(crystal, Q, size)
    assert np.corrcoef(found, disc)[0, 1] > 0.996
    for low, high in ((0.42, 0.7), (0.75, 1.0)):  # (10) and (11)
        band = (low < Q) & (Q < high)
        assert Q[band][found[band].argmax()] == Q[band][disc[band].argmax()]
        np.testing.assert_allclose(found[band].max(), disc[band].max(), rtol=0.05)
        np.testing.assert_allclose(found[band].sum(), disc[band].sum(), rtol=0.06)


def warren(a):
    """F(a) of Warren's Eq. 7, the integral over x from 0 of exp(-(x^2 - a)^2)."""
    return quad(lambda x: np.exp(-((x * x - a) ** 2)), 0, 6, limit=200)[0]


def ring_indices(crystal):
    """The six shortest rods, whichever way the lattice is written."""
    return dx.reflections(crystal.lattice, 1.01 * HEAD)


def test_the_head_of_a_band_is_warrens(x64):
    """m |F|^2 (1 + cos^2 2theta) / (2 sin^(3/2) theta) sqrt(L / (sqrt(pi) lambda)) F(a)."""
    crystal, beam, size = graphene(), dx.Xrays(1.5406), 1000.0
    a = np.linspace(-2.0, 6.0, 60)
    q = HEAD + a / (np.sqrt(np.pi) * size)
    found = ring_profile(crystal, beam, q, size, hk=ring_indices(crystal))
    squared = np.asarray(form_factor(beam, 6, jnp.asarray(q**2))) ** 2  # times |1 + e^(2pi i/3)|^2
    sin = beam.wavelength * q / 2
    formula = 6 * squared * (1 + (1 - 2 * sin**2) ** 2) / (2 * sin**1.5)
    formula *= np.sqrt(size / (np.sqrt(np.pi) * beam.wavelength)) * np.array([warren(x) for x in a])
    # In units of one electron and cell, K is (lambda / 2)^2 / (pi A).
    formula *= (beam.wavelength / 2) ** 2 / (np.pi * AREA)
    np.testing.assert_allclose(found, formula, rtol=3e-3, atol=1e-3 * formula.max())


def test_the_maximum_is_shifted_as_warren_says(x64):
    """By 0.16 lambda / L in sin(theta), 0.32 / L in q; the falling form factor holds it back."""
    size = 3000.0
    shift = np.linspace(0.2, 0.4, 60)
    found = ring_profile(graphene(), BEAM, HEAD + shift / size, size, hk=ring_indices(graphene()))
    np.testing.assert_allclose(shift[np.argmax(found)], 0.32, atol=0.02)


def test_the_tail_falls_with_the_height_at_which_the_rods_are_cut(x64):
    """6 |F|^2 / (2 pi A q sqrt(q^2 - g^2)), whatever the domain."""
    q = np.linspace(1.2, 3.0, 60) * HEAD
    found = ring_profile(graphene(), BEAM, q, 1500.0, hk=ring_indices(graphene()))
    squared = amplitudes(graphene(), q, 0.0)[:, 0] ** 2
    expected = 6 * squared / (2 * np.pi * AREA * q * np.sqrt(q**2 - HEAD**2))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_texture_is_marchs_function_of_the_angle_to_the_normal(x64):
    crystal, hk, size = graphene(), ring_indices(graphene()), 5000.0
    cos, weights = np.polynomial.legendre.leggauss(30)
    cos, weights = (cos + 1) / 2, weights / 2
    q = HEAD / np.sqrt(1 - cos**2)
    inside = (q - HEAD) * size > 20  # not at the head, where the angle is smeared
    random = np.asarray(ring_profile(crystal, BEAM, q, size, hk=hk))
    for r in (0.4, 1.0, 1.7):
        found = np.asarray(ring_profile(crystal, BEAM, q, size, texture=r, hk=hk)) / random
        expected = (r**2 * cos**2 + (1 - cos**2) / r) ** -1.5
        np.testing.assert_allclose(found[inside], expected[inside], rtol=2e-4)
        # No orientation is lost: the mean over the sphere is 1.
        np.testing.assert_allclose(weights @ found, 1, rtol=2e-3)


@pytest.mark.parametrize("beam", [BEAM, dx.Xrays(0.7)], ids=["electrons", "xrays"])
def test_flat_layers_give_symmetric_rings_of_the_spots_that_make_them(x64, layer, beam):
    """Thick layers, which the Ewald sphere cuts off their middle, at q_z = lambda q^2 / 2."""
    crystal, size = layer(), 400.0
    pattern = jax.tree.map(np.asarray, dx.simulate(crystal, beam, 0.8))
    strongest = np.argmax(pattern.intensity)
    g = np.linalg.norm(pattern.q[strongest])
    ring = np.abs(np.linalg.norm(pattern.q, axis=-1) - g) < 1e-6
    x, weights = np.polynomial.legendre.leggauss(61)  # one at the middle
    p = g + x * 6 / size
    qz = dx.ewald_qz(jnp.stack([p, 0 * p], -1), beam.wavelength)
    q = np.hypot(p, qz)
    hk = np.where(ring[:, None], pattern.hk, 0)
    found = np.asarray(ring_profile(crystal, beam, q, size, texture="flat", hk=hk))

    intensity = pattern.intensity[ring].sum()
    if isinstance(beam, dx.Xrays):  # the Lorentz factor 1 / sin(2 theta) is a single spot's
        intensity *= beam.wavelength * g
    area = abs(np.linalg.det(np.asarray(crystal.lattice)))
    total = (found * 2 * np.pi * p) @ weights * 6 / size
    np.testing.assert_allclose(total, intensity / area, rtol=1e-3)
    breadth = total / (found * 2 * np.pi * p).max()
    np.testing.assert_allclose(breadth, 1 / size, rtol=0.01)
    np.testing.assert_allclose((found * p) @ (weights * x) / (found @ (weights * p)), 0, atol=2e-3)


def test_xrays_are_polarised_and_nothing_else_depends_on_the_wavelength(x64):
    long, short = 1.5406, 0.7
    profile = [np.asarray(ring_profile(graphene(), dx.Xrays(w), Q, 40.0)) for w in (long, short)]
    cos = [np.cos(2 * np.arcsin(w * Q / 2)) for w in (long, short)]
    expected = (1 + cos[0] ** 2) / (1 + cos[1] ** 2)
    np.testing.assert_allclose(profile[0] / profile[1], expected, rtol=1e-9)
    beyond = np.asarray(ring_profile(graphene(), dx.Xrays(long), np.linspace(1.2, 1.4, 60), 40.0))
    reached = np.linspace(1.2, 1.4, 60) < 2 / long
    assert (beyond[reached] > 0).all() and not beyond[~reached].any()


def test_cell_origin_order_and_padding_change_nothing(x64):
    crystal = dataclasses.replace(graphene(), numbers=jnp.array([5, 7]))
    moved = crystal.positions + jnp.array([0.3, 0.7, 5.0])
    double = dx.Crystal(
        crystal.lattice * jnp.array([[2.0], [1.0]]),
        jnp.concatenate([moved, moved + jnp.append(crystal.lattice[0], 0.0)]),
        jnp.array([5, 7, 5, 7]),
    )
    padded = dx.Crystal(
        crystal.lattice,
        jnp.concatenate([jnp.full((1, 3), 7.3), crystal.positions[::-1], jnp.zeros((1, 3))]),
        jnp.array([0, 7, 5, 0]),
    )
    hk, double_hk = (dx.reflections(c.lattice, 1.4) for c in (crystal, double))
    padded_hk = np.zeros_like(double_hk)
    padded_hk[-len(hk) - 1 : -1] = hk
    expected = ring_profile(crystal, BEAM, Q, 25.0, hk=hk)
    found = ring_profile(padded, BEAM, Q, 25.0, hk=padded_hk)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    # Twice the cell scatters twice as much.
    found = ring_profile(double, BEAM, Q, 25.0, hk=double_hk) / 2
    np.testing.assert_allclose(found, expected, atol=1e-7 * expected.max())


def test_a_batch_is_its_crystals_one_by_one():
    """With a size, a wavelength, B factors and a texture each."""
    one, two = graphene(), dataclasses.replace(graphene(), lattice=graphene().lattice * 1.1)
    batch, hk = dx.stack([one, two]), dx.reflections(one.lattice, 1.0)
    sizes, b, r = jnp.array([20.0, 50.0]), jnp.array([0.3, 0.0]), jnp.array([1.0, 0.5])
    found = ring_profile(batch, dx.Xrays(jnp.array([0.7, 1.5])), Q, sizes, b, r, hk)
    for i, wavelength in enumerate((0.7, 1.5)):
        beam, hot = dx.Xrays(wavelength), {"C": float(b[i])}
        each = ring_profile(batch[i], beam, Q, sizes[i], hot, r[i], hk)
        np.testing.assert_allclose(found[i], each, atol=1e-5 * each.max())


@pytest.mark.parametrize("texture", [0.6, "flat"])
def test_gradients_are_those_of_finite_differences(x64, layer, texture):
    crystal = layer(atoms=3)
    hk = dx.reflections(crystal.lattice, 0.5)
    assert not hk[-1].any()  # there is padding
    # From below the first rod to beyond the last, the first rod's own length among them.
    first = float(np.linalg.norm(hk[0] @ np.asarray(crystal.reciprocal)))
    q = np.append(np.linspace(0.1, 0.6, 19), first)
    weight = np.cos(np.arange(20.0))
    x = {
        "lattice": crystal.lattice,
        "positions": crystal.positions,
        "size": jnp.array(30.0, float),
        "b": jnp.array([0.2, 0.5, 0.9]),
    }
    if texture != "flat":
        x["r"] = jnp.array(texture, float)

    def total(x):
        new = dataclasses.replace(crystal, lattice=x["lattice"], positions=x["positions"])
        profile = ring_profile(new, BEAM, q, x["size"], x["b"], x.get("r", texture), hk=hk)
        return jnp.sum(weight * profile)

    @jax.jit
    def slope(x, step):
        return jax.jvp(total, (x,), (step,))

    rng, zero = np.random.default_rng(0), jax.tree.map(jnp.zeros_like, x)
    for name, value in x.items():
        step = 1e-5 * jnp.asarray(rng.normal(size=value.shape)) * jnp.maximum(jnp.abs(value), 1)
        (up, _), (down, _) = (slope({**x, name: value + s}, zero) for s in (step, -step))
        _, found = slope(x, {**zero, name: step})
        np.testing.assert_allclose(found, (up - down) / 2, rtol=1e-5, err_msg=name)


def test_single_precision_is_accurate_and_its_gradients_are_finite(layer):
    """From far below the first rod, and at its very length."""
    crystal, size = layer(atoms=3), 16.0
    hk = dx.reflections(crystal.lattice, 0.65)
    first = np.linalg.norm(hk[0] @ np.asarray(crystal.reciprocal))
    q = np.append(np.geomspace(1e-3, 0.48, 39), first)

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1, 2), has_aux=True)
    def profile(lattice, positions, size):
        new = dx.Crystal(lattice, positions, crystal.numbers)
        found = ring_profile(new, BEAM, q, size, 0.3, hk=hk)
        return jnp.sum(found), found

    gradients, found = profile(crystal.lattice, crystal.positions, jnp.asarray(size))
    assert found.dtype == jnp.float32 and np.isfinite(found).all()
    assert all(np.isfinite(x).all() for x in gradients)
    far = q > 0.22  # where the numerical integral over the rod (0, 0) is good
    expected = pair_sum(crystal, q[far], size, 0.3) - zero_rod(crystal, q[far], size, 0.3)
    np.testing.assert_allclose(found[far], expected, atol=1e-4 * expected.max())


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"q": 0.5}, r"q must be a list \(Q,\)"),
        ({"q": [0.0, 0.5]}, "q must be positive"),
        ({"q": [0.5, np.nan]}, "q must be positive"),
        ({"domain_size": 0.0}, "domain_size must be positive"),
        ({"domain_size": np.inf}, "domain_size must be positive"),
        ({"texture": "round"}, "texture must be 'random', 'flat' or a number, got 'round'"),
        ({"texture": 0.0}, "a positive number, got 0.0"),
        ({"q": [0.01]}, "no rod lies within"),
        ({"q": [0.5, 13.0]}, "q = 13 is beyond the lobato form factors"),
    ],
)
def test_bad_values_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        ring_profile(graphene(), BEAM, **{"q": [0.5], "domain_size": 100.0, **bad})


def test_what_is_traced_needs_its_rods():
    with pytest.raises(ValueError, match="hk=reflections"):
        jax.jit(lambda size: ring_profile(graphene(), BEAM, Q, size))(30.0)
