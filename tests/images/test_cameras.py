"""Spots are found, and nothing else, in what cameras make of one pattern."""

import time

import drawn
import numpy as np
import pytest
import skimage.data

from dd2d_jax.images.spot_finding import find_spots
from dd2d_jax.util.errors import PatternError

PLACES, STRENGTH = drawn.lattice()
LIGHT = drawn.expected(PLACES, STRENGTH)
# Strong enough to be seen in every one of them.
CLEAR = PLACES[STRENGTH > 0.1]


def check(image: np.ndarray, none: int = 0, missed: int = 0, **options):
    spots = find_spots(image, **options)
    gone = drawn.matched(spots.position, CLEAR)[0]
    extra = drawn.matched(spots.position, PLACES)[1]
    assert extra <= none and gone <= missed, (extra, gone)
    np.testing.assert_allclose(spots.centre, (128.4, 126.7), atol=0.3)
    return spots


def test_counts_and_blobs_of_a_scintillator_give_the_same_spots():
    one, two = check(drawn.counted(LIGHT)), check(drawn.scintillated(LIGHT))
    assert abs(len(one.position) - len(two.position)) <= 0.15 * len(one.position)


def test_intensities_are_unbiased_down_to_weak_spots():
    pulls = []
    for seed in range(3):
        spots = check(drawn.counted(LIGHT, seed))
        distance = np.linalg.norm(spots.position[:, None] - PLACES, axis=-1)
        true = 300.0 * STRENGTH[distance.argmin(1)] * 2 * np.pi * 1.6**2
        whole = np.median((spots.intensity / true)[true > 2000])
        assert 0.93 < whole < 1.03  # of the light lies in the disc that is summed
        weak = true < 2000
        pulls += list(((spots.intensity - whole * true) / spots.sigma)[weak])
    assert len(pulls) > 30
    assert abs(np.mean(pulls)) < 0.7 and 0.5 < np.std(pulls) < 1.6


def test_exports_with_eight_bits_and_a_clipped_floor_have_no_spots_of_noise():
    grey = np.clip((drawn.scintillated(LIGHT) - 140) / 12, 0, 255)
    check(np.rint(grey), missed=3)


def test_hot_pixels_and_dead_rows_are_no_spots():
    image = drawn.counted(LIGHT)
    row, column = np.random.default_rng(3).integers(5, 250, (2, 30))
    away = np.linalg.norm(np.stack([column, row], 1)[:, None] - PLACES, axis=-1).min(1) > 6
    image[row[away], column[away]] = 20000
    assert check(image).width == pytest.approx(1.6, abs=0.3)
    image[[70, 190]] = -1
    check(image, missed=6)


def test_spots_of_a_single_pixel_are_told_from_hot_pixels_by_their_mates():
    """As in a picture that was made smaller by leaving pixels out."""
    random = np.random.default_rng(3)
    rows, columns = np.indices((400, 400))
    image = random.poisson(3 + 60 * np.exp(-np.hypot(columns - 200, rows - 200) / 40))
    image = image.astype(float)
    column, row = np.rint(PLACES + 71.6).astype(int).T
    # Half of them fall between the pixels that were left, and their mates look like hot pixels.
    light = 400 * STRENGTH * np.where(random.random(len(row)) < 0.5, 1, 0.1)
    image[row, column] += light
    hot = random.integers(5, 395, (12, 2))
    image[hot[:, 1], hot[:, 0]] = 300
    spots = find_spots(image)
    clear = light > 100
    gone, _ = drawn.matched(spots.position, PLACES[clear] + 71.6)
    assert gone <= 0.2 * clear.sum(), gone
    assert drawn.matched(spots.position, hot.astype(float))[0] >= len(hot) - 1


def test_signed_counts_and_negatives_give_the_spots_of_the_positive():
    image = drawn.counted(LIGHT)
    usual = check(image)
    signed = check(image - 12, missed=7)
    assert len(signed.position) >= 0.8 * len(usual.position)
    turned = check(1000 + image.max() - image)
    assert any("negative" in note for note in turned.notes)
    assert not any("negative" in note for note in usual.notes)


def test_saturated_cores_stay_spots():
    spots = check(np.minimum(drawn.counted(4 * LIGHT), 500))
    assert 0 < spots.saturated.sum() < len(spots.position)


def ring(radii, image):
    rows, columns = np.indices((256, 256))
    radius = np.hypot(columns - 128, rows - 128)
    return image + sum(60 * np.exp(-((radius - r) ** 2) / 8) for r in radii)


HALO = drawn.expected(np.zeros((0, 2)), np.zeros(0), halo=300.0)
ROWS, COLUMNS = np.indices((256, 256))
FRINGES = 50 + sum(
    12 * np.cos(2 * np.pi * (a * ROWS + b * COLUMNS))
    for a, b in ((0.11, 0.02), (0.04, 0.1), (-0.07, 0.08))
)


@pytest.mark.parametrize(
    "image",
    [
        np.random.default_rng(0).normal(100, 10, (256, 256)),
        drawn.scintillated(np.full((256, 256), 0.3)),
        drawn.counted(HALO),
        drawn.counted(ring([60, 70, 99], HALO)),
        skimage.data.cat().mean(-1),
        drawn.counted(FRINGES),
    ],
    ids=["noise", "blobs", "halo", "powder", "cat", "real space"],
)
def test_what_is_no_pattern_is_refused_in_one_line_and_soon(image):
    from dd2d_jax.images.measurement import measure
    from dd2d_jax.images.readers import Image
    from dd2d_jax.lattices import lattice

    start = time.process_time()
    with pytest.raises(PatternError, match="--threshold|--centre|lattice") as error:
        lattice.find(measure(Image(image), 0.01).pattern)
    assert "\n" not in str(error.value) and time.process_time() - start < 5


def test_a_mask_that_leaves_nearly_nothing_is_asked_about():
    mask = np.zeros((256, 256), bool)
    mask[:3, :3] = True
    with pytest.raises(PatternError, match="inverted"):
        find_spots(LIGHT, mask=mask)
