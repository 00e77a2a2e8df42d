"""What an image's numbers are is told from the numbers alone."""

import drawn
import numpy as np
import pytest

from dd2d_jax.images import pixel_values

PLACES, STRENGTH = drawn.lattice()
IMAGE = drawn.counted(drawn.expected(PLACES, STRENGTH))


def test_lines_of_one_negative_number_are_gaps_and_signed_noise_is_not():
    signed = IMAGE - 12
    assert (signed < 0).mean() > 0.2 and not pixel_values.unmeasured(signed).any()
    gaps = IMAGE.copy()
    gaps[100:104] = -1
    gaps[:, 60] = -2
    np.testing.assert_array_equal(pixel_values.unmeasured(gaps), gaps < 0)
    dead = IMAGE.copy()
    dead[5, 7] = dead[90, 33] = -1
    assert pixel_values.unmeasured(dead).sum() == 2


def test_an_area_of_one_value_was_masked_and_a_clipped_floor_was_not():
    masked = IMAGE + np.random.default_rng(0).normal(0, 0.1, IMAGE.shape)
    masked[110:146, 110:146] = 9.0
    assert pixel_values.unmeasured(masked)[111:145, 111:145].all()
    assert pixel_values.unmeasured(masked).sum() == 36**2
    assert not pixel_values.unmeasured(np.maximum(IMAGE, 12.0)).any()


@pytest.mark.parametrize("camera", [drawn.counted, drawn.scintillated])
def test_a_negative_is_told_from_a_positive(camera):
    image = camera(drawn.expected(PLACES, STRENGTH))
    measured = np.ones(image.shape, bool)
    film = np.clip(np.rint(255 - 60 * np.log10(1 + image - image.min())), 0, 255)
    assert not pixel_values.negative(image, measured)
    assert pixel_values.negative(image.max() - image, measured)
    assert pixel_values.negative(film, measured)


def test_a_negative_of_few_counts_with_a_beam_stop_is_told_from_a_positive():
    rows, columns = np.indices(IMAGE.shape) - 128
    radius = np.hypot(rows, columns)
    light = 0.05 * drawn.expected(PLACES, STRENGTH) + 1000 * np.exp(-radius / 8)
    light[(radius < 14) | ((abs(rows) < 5) & (columns > 0))] = 0.02
    image, measured = drawn.counted(light), np.ones(IMAGE.shape, bool)
    assert not pixel_values.negative(image, measured)
    assert pixel_values.negative(image.max() - image, measured)


@pytest.mark.parametrize("camera", [drawn.counted, drawn.scintillated])
def test_single_bright_pixels_are_no_spots_and_spots_are_no_single_pixels(camera):
    image = camera(drawn.expected(PLACES, STRENGTH))
    measured = np.ones(image.shape, bool)
    assert not pixel_values.single(image, measured, 1.6).any()
    row, column = np.random.default_rng(3).integers(5, 250, (2, 20))
    away = np.linalg.norm(np.stack([column, row], 1)[:, None] - PLACES, axis=-1).min(1) > 8
    row, column = row[away], column[away]
    image[row, column] = 30000
    hot = pixel_values.single(image, measured, 1.6)
    assert hot[row, column].all() and hot.sum() == len(row) > 5


def test_a_negative_floor_that_most_pixels_have_is_measured():
    rng = np.random.default_rng(0)
    image = np.full((64, 64), -30)
    image[20:40, 20:40] = rng.poisson(100, (20, 20))
    assert not pixel_values.unmeasured(image).any()
