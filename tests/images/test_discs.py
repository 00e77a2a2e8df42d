"""Spots that are discs, as of a convergent beam, are summed over them and found like any others."""

import drawn
import numpy as np
import pytest
from scipy import ndimage

from dd2d_jax.images import discs
from dd2d_jax.images.grey_levels import prepared
from dd2d_jax.images.spot_finding import find_spots

CENTRE = (128.4, 126.7)


@pytest.mark.parametrize(("radius", "spacing"), [(7, 35), (9, 35), (12, 40), (15, 45)])
def test_discs_are_found_and_their_intensities_are_those_of_the_discs(radius, spacing):
    places, strength = drawn.lattice(centre=CENTRE, spacing=spacing)
    image = drawn.counted(drawn.discs(places, strength, radius, centre=CENTRE))
    assert discs.radius(prepared(image, None)) == pytest.approx(radius, rel=0.15)
    spots = find_spots(image)
    np.testing.assert_allclose(spots.centre, CENTRE, atol=0.5)
    assert any("discs of a radius" in note for note in spots.notes)
    away = np.linalg.norm(spots.position[:, None] - places, axis=-1)
    assert (away.min(1) < 0.3 * radius).mean() > 0.95
    # Those that the image's edge cuts are no whole discs.
    inside = (np.abs(places - 128) < 128 - 1.5 * radius).all(1)
    assert (away.min(0)[inside] < 0.3 * radius).all()
    one = away.argmin(0)[inside]
    assert np.std(np.log(spots.intensity[one] / strength[inside])) < 0.08


def test_a_gamma_is_undone_before_discs_are_summed():
    places, strength = drawn.lattice(centre=CENTRE, spacing=40)
    image = drawn.discs(places, strength, 9, centre=CENTRE, peak=300.0) + 300
    shown = (drawn.counted(image) / image.max()) ** 0.5
    spots = find_spots(shown, gamma=0.5)
    assert any("discs of a radius" in note for note in spots.notes)
    away = np.linalg.norm(spots.position[:, None] - places, axis=-1)
    one = away.argmin(1)
    true = (away.min(1) < 3) & (strength[one] > 0.2)
    assert true.sum() > 20
    assert np.std(np.log(spots.intensity[true] / strength[one[true]])) < 0.1


@pytest.mark.parametrize("radius", [6, 9])
def test_spots_out_of_focus_that_have_become_rings_are_found_as_a_whole(radius):
    places, strength = drawn.lattice(centre=CENTRE, spacing=36)
    sharp = drawn.expected(places, strength, centre=CENTRE, width=1.0, peak=2e4)
    y, x = np.mgrid[-radius - 3 : radius + 4, -radius - 3 : radius + 4]
    ring = np.exp(-0.5 * (np.hypot(x, y) - radius) ** 2)
    spots = find_spots(drawn.counted(ndimage.convolve(sharp, ring / ring.sum(), mode="nearest")))
    away = np.linalg.norm(spots.position[:, None] - places, axis=-1)
    assert (away.min(1) < 2).mean() > 0.9
    inside = (np.abs(places - 128) < 128 - 2 * radius).all(1)
    assert (away.min(0)[inside] < 2).all()
    one = away.argmin(0)[inside]
    assert np.std(np.log(spots.intensity[one] / strength[inside])) < 0.1


def test_of_few_electrons_the_noise_is_not_taken_for_discs():
    places, strength = drawn.lattice(centre=CENTRE, spacing=40)
    image = drawn.counted(drawn.discs(places, strength, 12, centre=CENTRE, peak=0.3))
    spots = find_spots(image)
    away = np.linalg.norm(spots.position[:, None] - places, axis=-1)
    assert len(spots.position) >= 12 and (away.min(1) < 0.3 * 12).mean() > 0.9


@pytest.mark.parametrize("top", [np.inf, 120.0])
@pytest.mark.parametrize("width", [1.6, 3.0, 6.0])
def test_spots_that_are_no_discs_are_none_however_wide_or_saturated(width, top):
    places, strength = drawn.lattice(centre=CENTRE, spacing=45)
    image = drawn.expected(places, strength, centre=CENTRE, width=width)
    assert discs.radius(prepared(np.minimum(drawn.counted(image), top), None)) is None


def test_noise_has_no_discs():
    assert discs.radius(prepared(drawn.counted(np.full((256, 256), 5.0)), None)) is None


def test_the_brighter_side_of_discs_is_not_taken_for_spots():
    """Multiple scattering makes discs uneven, opposite ones in opposite directions."""
    places, strength = drawn.lattice(centre=CENTRE, spacing=45)
    rows, columns = np.indices((256, 256)).astype(float)
    image = np.full((256, 256), 2.0)
    for (x, y), height in zip(places, strength, strict=True):
        inside = 1 / (1 + np.exp(np.hypot(columns - x, rows - y) / 0.5 - 20))
        side = np.sign(x - CENTRE[0] + 0.1 * (y - CENTRE[1]))
        image += 2e4 * height * inside * (1 + 0.3 * side * np.sin(0.15 * (columns - x)))
    found = find_spots(drawn.counted(image)).position
    assert np.linalg.norm(found[:, None] - places, axis=-1).min(1).max() < 2
