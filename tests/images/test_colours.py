"""Colour pictures: numbers behind false colours, nothing behind coloured marks, grey as it is."""

import matplotlib
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageDraw

from dd2d_jax.images.colours import grey
from dd2d_jax.images.readers import read_image


def levels() -> np.ndarray:
    """Smooth numbers from 0 to 255, all of them."""
    rows, columns = np.indices((128, 128))
    return np.rint(255 * np.exp(-((rows - 60) ** 2 + (columns - 70) ** 2) / 2000))


@pytest.mark.parametrize("name", ["viridis", "inferno", "jet", "turbo", "hot", "gnuplot2"])
def test_numbers_are_read_from_false_colours(name):
    shown = np.rint(255 * matplotlib.colormaps[name](levels() / 255)[..., :3])
    found, note = grey(shown)
    assert f"colour map {name}" in note
    # Where a map hardly changes colour, neighbours on it are as near.
    assert np.abs(found - levels()).max() <= 4 and np.abs(found - levels()).mean() < 1


def test_coloured_marks_on_a_grey_image_are_not_measured(tmp_path):
    picture = Image.fromarray(levels().astype(np.uint8)).convert("RGB")
    ImageDraw.Draw(picture).line((10, 10, 60, 90), fill=(255, 190, 0), width=3)
    picture.save(tmp_path / "marked.png")
    image = read_image(tmp_path / "marked.png")
    hidden = np.isnan(image.pixels)
    assert hidden[50, 35] and 200 < hidden.sum() < 900
    np.testing.assert_array_equal(image.pixels[~hidden], levels()[~hidden])
    assert any("coloured marks" in note for note in image.notes)


def test_grey_in_three_channels_is_that_grey_and_nothing_is_said():
    found, note = grey(np.repeat(levels()[..., None], 3, 2))
    np.testing.assert_array_equal(found, levels())
    assert note == ""


def test_a_photograph_is_on_no_map():
    random = np.random.default_rng(0).integers(0, 256, (64, 64, 3))
    found, note = grey(random)
    np.testing.assert_allclose(found, random.mean(-1))
    assert "mean of red, green and blue" in note


@pytest.mark.parametrize("planes", ["contig", "separate"])
def test_false_colours_of_a_tiff_are_read_as_those_of_a_picture(tmp_path, planes):
    shown = matplotlib.colormaps["viridis"](levels() / 255)[..., :3]
    colours = np.rint(255 * shown).astype(np.uint8)
    Image.fromarray(colours).save(tmp_path / "p.png")
    stored = np.moveaxis(colours, 2, 0) if planes == "separate" else colours
    tifffile.imwrite(tmp_path / "p.tif", stored, photometric="rgb", planarconfig=planes)
    image = read_image(tmp_path / "p.tif")
    np.testing.assert_array_equal(image.pixels, read_image(tmp_path / "p.png").pixels)
    assert any("colour map viridis" in note for note in image.notes)
