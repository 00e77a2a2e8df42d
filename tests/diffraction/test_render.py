"""Patterns as images: flux, places and widths of spots, detector, noise, and read back."""

import dataclasses

import ase.build
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffraction as dx
from dd2d_jax.images.patterns import read_pattern
from diffraction.render import SCHERRER, beam_stop, counts, render

SHAPE = (48, 64)
SCALE = 0.02
FWHM_OF_SIGMA = 2 * np.sqrt(2 * np.log(2))


def pattern_of(q, intensity=None, mask=None) -> dx.Pattern:
    q = jnp.asarray(q, float)
    intensity = jnp.ones(q.shape[:-1]) if intensity is None else jnp.asarray(intensity, float)
    mask = jnp.ones(q.shape[:-1], bool) if mask is None else jnp.asarray(mask)
    return dx.Pattern(q, intensity, jnp.zeros(q.shape, int), mask)


def moments(image):
    """Flux, centroid (column, row) and variances (column, row) of one image."""
    image = np.asarray(image, float)
    flux = image.sum()
    lines = image.sum(0) / flux, image.sum(1) / flux
    centroid = [(line * np.arange(line.size)).sum() for line in lines]
    variance = [
        (line * (np.arange(line.size) - c) ** 2).sum()
        for line, c in zip(lines, centroid, strict=True)
    ]
    return flux, np.array(centroid), np.array(variance)


# Subpixel places of single spots, and one in each direction.
PLACES = np.array([[0.0, 0.0], [0.111, 0.037], [-0.2, 0.13], [0.0833, -0.16], [0.01, 0.01]])


def test_each_spot_keeps_its_flux_however_wide_it_is(x64):
    widths = np.array([0.0, 1e-6, 1e-3, 0.3, 1.0, 4.0]) * SCALE
    q = np.broadcast_to(PLACES[:, None, None], (5, 6, 1, 2))
    image = render(pattern_of(q, np.full((5, 6, 1), 3.7)), SHAPE, SCALE, fwhm=widths)
    np.testing.assert_allclose(np.asarray(image).sum((-2, -1)), 3.7, rtol=1e-9)
    assert np.asarray(image).min() >= 0


def test_a_spot_stands_at_its_pixel_with_q_y_up(x64):
    image = render(pattern_of(PLACES[:, None]), SHAPE, SCALE, fwhm=3 * SCALE)
    for one, (qx, qy) in zip(image, PLACES, strict=True):
        _, centroid, _ = moments(one)
        np.testing.assert_allclose(centroid, [31.5 + qx / SCALE, 23.5 - qy / SCALE], atol=1e-4)
    moved = render(pattern_of(PLACES[1:2]), SHAPE, SCALE, centre=(20.25, 30.5), fwhm=3 * SCALE)
    expected = [20.25 + 0.111 / SCALE, 30.5 - 0.037 / SCALE]
    np.testing.assert_allclose(moments(moved)[1], expected, atol=1e-4)


def test_the_width_is_that_of_instrument_and_domain_in_quadrature(x64):
    """Beside the pixel's own variance of 1/12 (Sheppard)."""
    pattern = pattern_of(np.zeros((2, 1, 2)) + 0.013)
    fwhm, domain = 3 * SCALE, np.array([np.inf, 12.0])
    image = render(pattern, SHAPE, SCALE, fwhm=fwhm, domain_size=domain)
    expected = (fwhm**2 + (SCHERRER / domain) ** 2) / (FWHM_OF_SIGMA * SCALE) ** 2 + 1 / 12
    for one, variance in zip(image, expected, strict=True):
        np.testing.assert_allclose(moments(one)[2], variance, rtol=1e-4)


def test_a_domain_spreads_a_spot_over_an_integral_breadth_of_its_inverse(x64):
    """Flux over summit of the profile in one direction, what the Scherrer constant stands for."""
    fine = 1e-3
    image = render(pattern_of([[0.0, 0.0]]), (401, 401), fine, fwhm=0.0, domain_size=20.0)
    profile = np.asarray(image).sum(0)
    np.testing.assert_allclose(profile.sum() * fine / profile.max(), 1 / 20.0, rtol=3e-4)
    np.testing.assert_allclose(SCHERRER, 0.9394, atol=1e-4)


def test_a_spot_far_below_a_pixel_is_in_the_pixels_it_touches(x64):
    at_pixel = (np.array([40, 10]) - [31.5, 23.5]) * [SCALE, -SCALE]
    corner = (np.array([40.5, 10.5]) - [31.5, 23.5]) * [SCALE, -SCALE]
    image = render(pattern_of([[at_pixel], [corner]]), SHAPE, SCALE, fwhm=1e-4 * SCALE)
    expected = np.zeros((2, *SHAPE))
    expected[0, 10, 40] = 1
    expected[1, 10:12, 40:42] = 0.25
    np.testing.assert_allclose(image, expected, atol=1e-9)


def test_only_what_lies_inside_is_in_the_image():
    image = render(pattern_of([[0.1, 0.1], [5.0, 0.0], [0.0, -0.6]], [1.0, 2.0, 4.0]), SHAPE, SCALE)
    np.testing.assert_allclose(image.sum(), 1.0, rtol=1e-5)


def test_masked_spots_are_not_there_and_have_gradients_of_zero():
    q, intensity = np.array([[0.1, 0.1], [0.2, -0.1], [7.0, 7.0]]), np.array([1.0, 2.0, 3.0])
    pattern = pattern_of(q, intensity, [True, False, False])
    radiation = dx.Xrays(1.5406)

    def image(pattern):
        return render(pattern, SHAPE, SCALE, radiation=radiation)

    alone = jax.tree.map(lambda x: x[:1], pattern)
    np.testing.assert_array_equal(image(pattern), image(alone))

    def total(q, intensity):
        new = dataclasses.replace(pattern, q=q, intensity=intensity)
        return jnp.sum(image(new) ** 2)

    for gradient in jax.jit(jax.grad(total, (0, 1)))(pattern.q, pattern.intensity):
        assert np.isfinite(gradient).all()
        assert not np.asarray(gradient)[1:].any() and np.asarray(gradient)[:1].all()


def test_a_batch_is_its_patterns_one_by_one_also_under_vmap():
    rng = np.random.default_rng(0)
    batch = pattern_of(
        rng.uniform(-0.4, 0.4, (3, 7, 2)), rng.random((3, 7)), rng.random((3, 7)) > 0.2
    )
    widths, beams = jnp.array([0.02, 0.05, 0.03]), jnp.array([0.0, 1.0, 2.0])
    found = render(batch, SHAPE, SCALE, fwhm=widths, beam=beams)
    each = [render(batch[i], SHAPE, SCALE, fwhm=widths[i], beam=beams[i]) for i in range(3)]
    np.testing.assert_allclose(found, np.stack(each), atol=1e-6)
    mapped = jax.vmap(lambda p, w, b: render(p, SHAPE, SCALE, fwhm=w, beam=b))
    np.testing.assert_allclose(found, jax.jit(mapped)(batch, widths, beams), atol=5e-6)


def test_gradients_are_those_of_finite_differences(x64):
    rng = np.random.default_rng(1)
    weight = jnp.asarray(rng.random(SHAPE))
    x = {
        "q": jnp.asarray(rng.uniform(-0.4, 0.4, (4, 2))),
        "intensity": jnp.asarray(rng.random(4) + 0.5),
        "fwhm": jnp.array(0.06, float),
        "domain_size": jnp.array(17.0, float),
        "scale": jnp.array(SCALE, float),
        "centre": jnp.asarray([30.2, 24.9]),
        "beam": jnp.array(2.0, float),
        "halo": jnp.asarray([0.01, 0.2]),
        "background": jnp.array(0.003, float),
        "wavelength": jnp.array(0.7, float),
    }

    @jax.jit
    def total(x):
        rest = {k: v for k, v in x.items() if k not in ("q", "intensity", "wavelength")}
        pattern = pattern_of(x["q"], x["intensity"])
        image = render(pattern, SHAPE, radiation=dx.Xrays(x["wavelength"]), **rest)
        return jnp.sum(weight * image**2) * 100

    gradient = jax.jit(jax.grad(total))(x)
    for name, value in x.items():
        step = 1e-5 * np.where(value == 0, 1, np.abs(value)).max()
        for index in np.ndindex(value.shape):
            up, down = (total({**x, name: value.at[index].add(s)}) for s in (step, -step))
            expected = (up - down) / (2 * step)
            np.testing.assert_allclose(gradient[name][index], expected, rtol=1e-5, atol=1e-7)


def test_halo_and_background_are_what_they_are_called(x64):
    empty = pattern_of([[0.0, 0.0]], [0.0])
    image = np.asarray(render(empty, (41, 61), 0.01, halo=(8.0, 0.1), background=0.5))
    np.testing.assert_allclose(image[20, 30], 8.5)
    np.testing.assert_allclose([image[20, 40], image[30, 30], image[26, 22]], 4.5)
    beam = np.asarray(render(empty, (41, 61), 0.01, beam=5.0))
    np.testing.assert_allclose(moments(beam)[1], [30, 20], atol=1e-9)
    np.testing.assert_allclose(beam.sum(), 5.0, rtol=1e-9)


def test_a_flat_detector_sees_the_tangent_of_the_angle(x64):
    """k_perp = sin(2 theta) / lambda, and the detector L tan(2 theta)."""
    wavelength, two_theta = 1.5406, np.deg2rad([3.0, 15.0, 35.0])
    q = np.sin(two_theta) / wavelength
    pattern = pattern_of(np.stack([-q, np.zeros(3)], -1)[:, None])
    image = render(pattern, (32, 201), 0.01, radiation=dx.Xrays(wavelength))
    found = [moments(one)[1][0] for one in image]
    np.testing.assert_allclose(found, 100 - np.tan(two_theta) / wavelength / 0.01, atol=1e-4)
    beyond = pattern_of([[0.9, 0.0], [0.0, 1 / wavelength]])
    assert not np.asarray(render(beyond, SHAPE, SCALE, radiation=dx.Xrays(wavelength))).any()


def test_counts_are_poisson_distributed_with_the_dose_in_the_image():
    image = np.array([[1.0, 10.0, 0.0], [100.0, 0.1, 3.0]])
    runs, doses = 2000, np.array([228.2, 1.7e4, 1e3])
    images = jnp.broadcast_to(image, (runs, 3, 2, 3)).at[:, 2].set(0.0)
    expected = image * doses[:2, None, None] / image.sum()
    drawn = np.asarray(counts(jax.random.key(0), images, jnp.asarray(doses)))
    assert np.issubdtype(drawn.dtype, np.integer)
    assert not drawn[:, 2].any()  # an image of nothing stays one, whatever the dose
    mean, variance = drawn[:, :2].mean(0), drawn[:, :2].var(0)
    assert (np.abs(mean - expected) <= 4.5 * np.sqrt(expected / runs)).all()
    # Variance of the sample variance of a Poisson distribution: (l + 2 l^2) / n.
    spread = np.sqrt((expected + 2 * expected**2) / runs)
    assert (np.abs(variance - expected) <= 4.5 * spread).all()
    assert not np.array_equal(drawn[0], drawn[1])
    again, other = (counts(jax.random.key(k), images, jnp.asarray(doses)) for k in (0, 1))
    np.testing.assert_array_equal(drawn, again)
    assert not np.array_equal(drawn, other)


def test_a_beam_stop_hides_a_disc_and_a_bar_from_the_centre_to_the_edge():
    seen = np.asarray(beam_stop((101, 121), 0.01, radius=0.1, angle=90.0, width=0.0401))
    assert seen.dtype == bool and seen.shape == (101, 121)
    qx, qy = (np.arange(121) - 60) * 0.01, (50 - np.arange(101)[:, None]) * 0.01
    radius = np.hypot(qx, qy)
    assert not seen[radius < 0.0999].any()
    bar = (np.abs(qx) < 0.0201) & (qy > 0)
    assert not seen[bar].any() and seen[~bar & (radius > 0.1001)].all()
    turned = np.asarray(beam_stop((101, 121), 0.01, radius=0.0, angle=-135.0, width=0.03))
    assert not turned[80, 30] and not turned[100, 10]  # down and left
    assert turned[80, 90] and turned[20, 30] and turned[20, 90]
    disc = np.asarray(beam_stop((101, 121), 0.01, centre=(20, 30), radius=0.1, width=0.0))
    middle = np.argwhere(~disc).mean(0)
    np.testing.assert_allclose(middle, [30, 20], atol=1e-9)
    np.testing.assert_allclose((~disc).sum(), np.pi * 100, rtol=0.03)


def test_an_image_is_read_back_as_its_pattern(tmp_path):
    """Through the reader of measured images, which shares nothing with this: 0.1 pixel, few %."""
    atoms = ase.build.mx2("MoS2", vacuum=8)
    atoms.rotate(17.0, "z", rotate_cell=True)
    true = dx.simulate(dx.Crystal.from_ase(atoms), dx.Electrons(80.0), q_max=1.4, b_iso=0.5)
    shape, scale, centre = (320, 336), 0.0096, (160.3, 162.8)
    total = float(true.intensity.sum())
    image = render(
        true, shape, scale, centre, fwhm=0.03, beam=20 * total,
        halo=(2e-5 * total, 0.2), background=2e-7 * total,
    )  # fmt: skip
    stop = beam_stop(shape, scale, centre, radius=0.1, angle=-50.0, width=0.05)
    drawn = counts(jax.random.key(3), image * stop, 3e8)
    np.save(tmp_path / "image.npy", np.asarray(drawn))
    found = read_pattern(tmp_path / "image.npy", scale=scale)
    # The rim of the beam stop, at 0.1, may leave faint spots.
    outer = np.linalg.norm(np.asarray(found.q), axis=-1) > 0.15
    found = jax.tree.map(lambda x: x[outer], found)

    mask = np.asarray(true.mask)
    q, intensity = np.asarray(true.q)[mask], np.asarray(true.intensity)[mask]
    distance = np.linalg.norm(np.asarray(found.q)[:, None] - q, axis=-1)
    nearest = distance.argmin(1)
    assert len(set(nearest)) == len(nearest) > 0.85 * len(q)
    # The centre of symmetry that the reader finds shifts all spots alike, by a tenth or less.
    shift = (np.asarray(found.q) - q[nearest]) / scale
    assert np.linalg.norm(np.median(shift, 0)) < 0.1
    strong = intensity[nearest] > 0.05 * intensity.max()
    assert strong.sum() > 20
    assert np.linalg.norm(shift - np.median(shift, 0), axis=1)[strong].max() < 0.1
    ratio = np.asarray(found.intensity)[strong] / intensity[nearest][strong]
    np.testing.assert_allclose(ratio / np.median(ratio), 1, atol=0.05)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"scale": 0.0}, "scale must be positive"),
        ({"fwhm": -0.1}, "fwhm must be 0 or more"),
        ({"domain_size": 0.0}, "domain_size must be positive"),
        ({"halo": (1.0, 0.0)}, "the halo's width must be positive"),
    ],
)
def test_bad_values_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        render(pattern_of([[0.0, 0.0]]), **bad)


def test_bad_doses_and_beam_stops_are_refused():
    with pytest.raises(ValueError, match="dose must be positive"):
        counts(jax.random.key(0), jnp.ones((2, 2)), 0.0)
    for bad in ({"scale": -1.0}, {"radius": -0.1}, {"width": float("nan")}):
        with pytest.raises(ValueError, match=f"{next(iter(bad))} must be"):
            beam_stop(**bad)


@pytest.mark.parametrize(("pixel", "shown"), [(np.nan, "nan"), (-1.0, "-1.0"), (np.inf, "inf")])
def test_an_image_that_is_no_expectation_is_refused(pixel, shown):
    image = jnp.ones((2, 3)).at[1, 2].set(pixel)
    with pytest.raises(ValueError, match=rf"0 or more; pixel \(1, 2\) is {shown}"):
        counts(jax.random.key(0), image, 100.0)


def test_counts_that_the_integers_do_not_hold_are_refused():
    image = jnp.zeros((2, 2)).at[0, 0].set(1.0)
    drawn = counts(jax.random.key(0), image, 2e9)
    assert drawn.dtype == jnp.int32 and abs(int(drawn[0, 0]) - 2e9) < 5 * 2e9**0.5 + 200
    with pytest.raises(ValueError, match=r"3e\+09 counts, more than int32 holds"):
        counts(jax.random.key(0), image, 3e9)


def test_in_double_precision_counts_are_held_beyond_32_bits(x64):
    image = jnp.zeros((2, 2)).at[0, 0].set(1.0)
    drawn = counts(jax.random.key(0), image, 1e12)
    assert abs(int(drawn[0, 0]) - 1e12) < 5 * 1e6


def test_axes_give_each_spot_its_q():
    """Read as hyperspy does: value = offset + scale * index, rows first."""
    pattern = dx.Pattern(
        jnp.array([[0.31, -0.22]]), jnp.ones(1), jnp.zeros((1, 2), int), jnp.ones(1, bool)
    )
    options = {"shape": (120, 200), "scale": 0.01, "centre": (90.0, 61.0)}
    image = np.asarray(dx.render(pattern, **options))
    rows, columns = dx.image_axes(**options)
    assert (rows["name"], columns["name"]) == ("qy", "qx")
    assert (rows["size"], columns["size"]) == image.shape
    row, column = np.unravel_index(image.argmax(), image.shape)
    qx = columns["offset"] + columns["scale"] * column
    qy = rows["offset"] + rows["scale"] * row
    np.testing.assert_allclose([qx, qy], pattern.q[0], atol=1e-6)
