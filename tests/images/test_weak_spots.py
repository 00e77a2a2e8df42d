"""Spots that only the lattice's places and their number show: found where they are, and only there.

The images are sums of Gaussians with Poisson noise on a halo, made here.
"""

import numpy as np
import pytest

from dd2d_jax.images.image import Image
from dd2d_jax.images.measurement import measure
from dd2d_jax.images.spot_finding import find_spots
from dd2d_jax.lattices import lattice

SCALE, WIDTH, CENTRE = 0.01, 1.6, np.array([127.3, 126.8])
# Reciprocal vectors in pixels, of an oblique cell.
BASIS = np.array([[31.0, 4.0], [-9.0, 27.0]])


def places(step: float) -> np.ndarray:
    """All (N, 2) within the image but the centre, in steps of the lattice."""
    axis = np.arange(-8, 8 + step / 2, step)
    hk = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    hk = hk[(hk != 0).any(1)]
    at = CENTRE + hk @ BASIS
    return hk[((at > 0) & (at < 255)).all(1)]


def make(
    weak: float, seed: int = 0, halves: tuple[bool, bool] = (True, False)
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts (256, 256), the spots' indices (N, 2) and their summed counts (N,).

    Main spots have some thousands, those between them `weak` times as much on average.
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((256, 256))
    radius = np.hypot(columns - CENTRE[0], rows - CENTRE[1])
    out = 4 + 30 * np.exp(-radius / 40) + 2e4 * np.exp(-(radius**2) / 8)
    hk = places(0.5)
    between = hk % 1 != 0
    own = ~between.any(1)
    satellite = (between == np.array(halves)).all(1)
    # Friedel mates are alike.
    half = {tuple(-i): n for n, i in enumerate(hk)}
    mate = np.array([min(n, half.get(tuple(i), n)) for n, i in enumerate(hk)])
    drawn = np.where(own, 0.3, 0.0) + rng.exponential(1, len(hk))[mate]
    flux = 4000.0 * np.where(own, 1.0, weak * satellite) * drawn
    for (x, y), f in zip(CENTRE + hk @ BASIS, flux, strict=True):
        blob = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * WIDTH**2))
        out += f / (2 * np.pi * WIDTH**2) * blob
    return rng.poisson(out).astype(float), hk, flux


def image(*options, **more) -> np.ndarray:
    return make(*options, **more)[0]


def cell(pixels: np.ndarray) -> float:
    """Area of the cell found over that of the main spots."""
    found = lattice.find_all(measure(Image(pixels), SCALE).pattern)
    assert len(found) == 1
    area = abs(np.linalg.det(found[0].lattice))
    return area * abs(np.linalg.det(BASIS)) * SCALE**2


@pytest.mark.parametrize(
    ("weak", "halves"), [(0.006, (True, False)), (0.007, (False, True)), (0.006, (True, True))]
)
def test_a_superlattice_is_found_by_spots_of_which_hardly_one_is_significant(weak, halves):
    pixels = image(weak, halves=halves)
    alone = find_spots(pixels)
    index = (alone.position - alone.centre) @ np.linalg.inv(BASIS)
    assert (np.abs(index - np.rint(index)).max(1) > 0.3).sum() <= 3
    assert cell(pixels) == pytest.approx(2, rel=0.01)


@pytest.mark.parametrize("seed", range(4))
def test_noise_alone_makes_no_superlattice(seed):
    assert cell(image(0.0, seed)) == pytest.approx(1, rel=0.01)


def test_streaks_along_rows_of_spots_are_no_superlattice():
    pixels = image(0.0)
    across = np.array([BASIS[0, 1], -BASIS[0, 0]]) / np.linalg.norm(BASIS[0])
    rows, columns = np.indices(pixels.shape)
    away = (np.stack([columns, rows], -1) - CENTRE) @ across
    spacing = abs(BASIS[1] @ across)
    away = (away + spacing / 2) % spacing - spacing / 2
    streaks = np.random.default_rng(1).poisson(3 * np.exp(-(away**2) / (2 * WIDTH**2)))
    assert cell(pixels + streaks) == pytest.approx(1, rel=0.01)


def test_weak_spots_have_their_place_and_intensity_within_its_uncertainty():
    pulls = []
    for seed in (1, 3):
        pixels, hk, flux = make(0.007, seed)
        found, first = measure(Image(pixels), SCALE).spots, find_spots(pixels)
        new = slice(len(first.position), None)
        away = np.linalg.norm(found.position[new, None] - (CENTRE + hk @ BASIS), axis=-1)
        assert away.min(1).max() < 0.5
        true = flux[away.argmin(1)]
        pulls += ((found.intensity[new] - true) / found.sigma[new]).tolist()
    assert len(pulls) > 30
    assert abs(np.median(pulls)) < 0.5
    assert np.quantile(np.abs(pulls), 0.68) < 1.5


def test_what_an_export_cuts_off_leaves_no_spot_more_certain_than_its_grey_levels():
    # All but the spots is one value, as in a picture with 130 grey levels on a logarithmic scale.
    floor, step = 60.0, 1.04
    steps = np.rint(np.log(np.maximum(image(0.0), floor) / floor) / np.log(step))
    spots = measure(Image(floor * step**steps), SCALE).spots
    # Over the pixels of a spot, from one grey level to the next.
    least = floor * (step - 1) / np.sqrt(12) * np.sqrt(np.pi) * 2.5 * WIDTH
    assert spots.sigma.min() > least
