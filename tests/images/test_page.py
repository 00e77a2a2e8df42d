"""The picture in a figure: without axes, letters and colour bar, and all of what is no figure."""

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from dd2d_jax.images.image import Image
from dd2d_jax.images.measurement import measure
from dd2d_jax.images.page import picture
from dd2d_jax.images.readers import read_image
from dd2d_jax.lattices import lattice

SPACING, WIDTH, SCALE = 40.0, 3.0, 0.01


def pattern() -> np.ndarray:
    """A hexagonal pattern on nothing, as it is simulated."""
    rows, columns = np.indices((512, 512))
    hk = np.stack(np.meshgrid(*[np.arange(-6, 7)] * 2), -1).reshape(-1, 2)
    q = hk[(hk != 0).any(1)] @ (SPACING * np.array([[1, 0], [0.5, np.sqrt(0.75)]]))
    image = np.zeros((512, 512))
    for x, y in q[np.linalg.norm(q, axis=1) < 230]:
        away = (columns - 255.5 - x) ** 2 + (rows - 255.5 - y) ** 2
        image += np.exp(-np.hypot(x, y) / 100 - away / (2 * WIDTH**2))
    return image


@pytest.mark.parametrize("name", ["gray", "gray_r", "viridis", "magma"])
@pytest.mark.parametrize("bar", [False, True])
def test_a_figure_of_a_pattern_gives_its_lattice(tmp_path, name, bar):
    figure = Figure()
    axes = figure.subplots()
    shown = axes.imshow(pattern() ** 0.5, cmap=name)
    axes.set(title="MoS2", xlabel="q", ylabel="q")
    if bar:
        figure.colorbar(shown)
    figure.savefig(tmp_path / "figure.png")
    width = axes.get_window_extent().width
    image = read_image(tmp_path / "figure.png")
    assert any("picture in a figure" in note for note in image.notes)
    seen = np.isfinite(image.pixels)
    assert width - 12 < seen.any(0).sum() < width and 0.95 < seen.sum() / width**2 < 1
    found = lattice.find_all(measure(image, SCALE * 512 / width).pattern)
    assert len(found) == 1
    area = 2 / np.sqrt(3) / (SCALE * SPACING) ** 2
    assert abs(np.linalg.det(found[0].lattice)) == pytest.approx(area, rel=0.02)


def test_a_picture_that_fills_its_file_is_used_whole():
    levels = np.rint(255 * pattern() / pattern().max()).astype(np.uint8)
    rows, columns = np.indices(levels.shape)
    halo = np.hypot(rows - 255, columns - 255) < 200  # round, on white, as in a negative
    for whole in (levels, 255 - levels, np.where(halo, 90, 255).astype(np.uint8)):
        assert picture(whole) is None


def test_false_colours_that_are_mostly_black_are_read_from_their_map(tmp_path):
    shown = matplotlib.colormaps["inferno"](pattern() / pattern().max())[..., :3]
    colours = np.rint(255 * shown).astype(np.uint8)
    assert (np.ptp(colours, axis=-1) > 40).mean() < 0.1
    matplotlib.image.imsave(tmp_path / "p.png", colours)
    image = read_image(tmp_path / "p.png")
    assert any("inferno" in note for note in image.notes)
    np.testing.assert_allclose(image.pixels / 255, pattern() / pattern().max(), atol=0.02)
    assert isinstance(image, Image)
