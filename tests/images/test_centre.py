"""The centre is where mates of like intensity are opposite of each other."""

import drawn
import numpy as np
import pytest

from dd2d_jax.images.centre import find_centre
from dd2d_jax.images.image import Image
from dd2d_jax.images.measurement import measure
from dd2d_jax.images.spot_finding import find_spots

FLAKE = np.array([122.0, 131.0])


def found(places, strength, centre, halo=20.0):
    image = drawn.expected(places, strength, centre=centre, halo=halo)
    return find_centre(image, np.ones(image.shape, bool), places, strength, 1.6)


@pytest.mark.parametrize("centre", [(128.4, 126.7), (90.2, 160.5), (60.0, 75.0)])
def test_like_intensities_say_which_lattice_point_is_the_centre(centre):
    places, strength = drawn.lattice(centre=centre)
    centre_found = found(places, strength, centre)
    np.testing.assert_allclose(centre_found.place, centre, atol=0.05)
    assert centre_found.support > 0.9 and not len(centre_found.others)


def test_without_halo_or_intensities_the_centre_is_not_sure():
    places, strength = drawn.lattice(centre=(100.0, 128.0))
    assert len(found(places, np.ones(len(strength)), (100.0, 128.0), halo=0.0).others)


def tilted_flake(laue, halo) -> np.ndarray:
    """Counts of a thick one, its beam behind a stop: bright spots lie about the Laue circle's."""
    places, strength = drawn.lattice(centre=FLAKE, spacing=45.0)
    away = np.linalg.norm(places - FLAKE + laue, axis=1)
    strength = strength * (4 * np.exp(-((away / 55.0) ** 2)) + 0.08)
    image = drawn.expected(places, strength, centre=FLAKE, width=3.0, halo=halo)
    image[120:, 113:132] = 2
    return drawn.counted(image)


LAUE = pytest.mark.parametrize("laue", [(48.0, -20.0), (25.0, -10.0), (90.0, 30.0)])


@LAUE
def test_the_halo_tells_the_centre_of_a_thick_tilted_flake(laue):
    spots = find_spots(tilted_flake(laue, halo=400.0))
    np.testing.assert_allclose(spots.centre, FLAKE, atol=1.5)
    assert any("the centre is uncertain" in note for note in spots.notes)


@pytest.mark.parametrize("laue", [(130.0, -60.0), (70.0, 110.0), (-20.0, -90.0)])
def test_a_halo_of_single_electrons_tells_it_too(laue):
    centre, shape = np.array([390.0, 371.0]), (768, 768)
    places, strength = drawn.lattice(shape, centre, spacing=118.0)
    away = np.linalg.norm(places - centre + laue, axis=1)
    strength = strength * (4 * np.exp(-((away / 200.0) ** 2)) + 0.05)
    image = drawn.expected(places, strength, shape, centre, width=2.0, peak=40.0, halo=0.0)
    rows, columns = np.indices(shape)
    halo = np.exp(-np.hypot(columns - centre[0], rows - centre[1]) / 120)
    image = drawn.counted(image - 1.98 + 2.0 * halo)
    assert np.median(image) == 0
    found = find_centre(image, np.ones(shape, bool), places, strength, 2.0)
    np.testing.assert_allclose(found.place, centre, atol=1.5)


@LAUE
def test_where_the_halo_is_weak_the_centre_of_a_thick_tilted_flake_is_doubted(laue):
    spots = find_spots(tilted_flake(laue, halo=60.0))
    assert any("the centre is uncertain" in note for note in spots.notes)


def test_a_sloping_background_does_not_move_a_centre_that_nearly_all_mates_tell():
    centre = (128.4, 126.7)
    places, strength = drawn.lattice(centre=centre)
    slope = np.linspace(0, 300, 256)
    image = drawn.expected(places, strength, centre=centre, peak=3000.0, halo=150.0) + slope
    np.testing.assert_allclose(find_spots(drawn.counted(image)).centre, centre, atol=0.1)


def test_a_beam_near_the_edge_is_found_in_the_image_itself():
    places, strength = drawn.lattice(centre=(45.3, 60.8))
    image = drawn.expected(places, strength, centre=(45.3, 60.8), halo=60.0)
    spots = find_spots(drawn.counted(image))
    np.testing.assert_allclose(spots.centre, (45.3, 60.8), atol=0.5)


def test_a_beam_outside_of_the_image_can_be_told():
    places, strength = drawn.lattice(centre=(-20.0, 128.0))
    image = drawn.counted(drawn.expected(places, 5 * strength, centre=(-20.0, 128.0)))
    spots = find_spots(image, centre=(-20.0, 128.0))
    missed, none = drawn.matched(spots.position, places[strength > 0.1])
    np.testing.assert_array_equal(spots.centre, (-20.0, 128.0))
    assert missed == 0 and len(spots.position) >= 4


def test_bright_spots_that_bloom_do_not_move_the_centre_once_the_lattice_stands():
    true = (126.3, 131.6)
    places, strength = drawn.lattice(centre=true)
    bright = np.argsort(-strength)[:14]
    bloomed = places.copy()
    bloomed[bright] += (0.5, 0.0)
    image = drawn.counted(drawn.expected(bloomed, strength, centre=true, halo=30.0))
    off = [
        np.linalg.norm(made.centre - true)
        for made in (find_spots(image), measure(Image(image), scale=0.01).spots)
    ]
    assert off[0] > 0.1 and off[1] < 0.05


def test_a_centre_that_is_given_is_not_moved():
    places, strength = drawn.lattice(centre=(128.0, 127.0))
    image = drawn.counted(drawn.expected(places, strength, centre=(128.0, 127.0)))
    made = measure(Image(image), scale=0.01, centre=(128.3, 127.2))
    np.testing.assert_array_equal(made.spots.centre, (128.3, 127.2))
