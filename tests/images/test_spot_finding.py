"""From images to spots, on images whose spots are known, and on a measured one."""

import dataclasses
import io
import warnings
from pathlib import Path

import ase.build
import drawn
import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import PIL.ImageDraw
import pytest
import skimage.data
from scipy import ndimage
from scipy.spatial import cKDTree

import diffraction as dx
from dd2d_jax.images.centre import symmetry_centre
from dd2d_jax.images.image import Image
from dd2d_jax.images.measurement import measure
from dd2d_jax.images.patterns import read_pattern
from dd2d_jax.images.readers import read_image
from dd2d_jax.images.spot_finding import find_spots
from dd2d_jax.lattices import lattice
from dd2d_jax.util.errors import PatternError

SCALE = 0.006


def render(
    pattern: dx.Pattern, centre=(255.5, 255.5), peak=2e4, halo=300.0, beam="spot", seed=0
) -> tuple[np.ndarray, np.ndarray]:
    """An image of 512 x 512 counts and the true places (K, 2) of its spots."""
    rows, columns = np.indices((512, 512)).astype(float)
    radius = np.hypot(columns - centre[0], rows - centre[1])
    image = 5 + halo * np.exp(-radius * SCALE / 0.25)
    mask = np.asarray(pattern.mask)
    intensity = np.asarray(pattern.intensity)[mask]
    places = np.array(centre) + np.asarray(pattern.q)[mask] * [1, -1] / SCALE
    for (x, y), i in zip(places, intensity / intensity.max(), strict=True):
        image += i * peak * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 12.5)
    if beam != "none":
        image += 50 * peak * np.exp(-(radius**2) / (28 if beam == "spot" else 50))
    image = np.random.default_rng(seed).poisson(image).astype(float)
    if beam == "saturated":
        image = np.minimum(image, 65535)
    if beam == "stop":
        angle = np.arctan2(rows - centre[1], columns - centre[0])
        image[(radius < 12) | (np.abs(angle - 0.7) < 0.12)] = 0
    return image, places


@pytest.fixture(scope="module")
def mos2() -> dx.Pattern:
    pattern = dx.simulate(dx.Crystal.from_ase(ase.build.mx2("MoS2", vacuum=8)), q_max=1.4)
    turn = np.deg2rad(17.0)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return dx.Pattern(pattern.q @ rotation, pattern.intensity, pattern.hk, pattern.mask)


@pytest.mark.parametrize("beam", ["spot", "saturated", "none"])
@pytest.mark.parametrize("centre", [(255.5, 255.5), (240.3, 271.8)])
def test_every_spot_is_found_where_it_is_and_as_strong_as_it_is(mos2, beam, centre):
    image, places = render(mos2, centre, beam=beam)
    found = find_spots(image)
    np.testing.assert_allclose(found.centre, centre, atol=0.1)
    distance = np.linalg.norm(found.position[:, None] - places[None], axis=-1)
    assert distance.min(1).max() < 0.5, "a spot that is not there"
    assert distance.min(0).max() < 0.5, "a spot was missed"
    true = np.asarray(mos2.intensity)[np.asarray(mos2.mask)][distance.argmin(1)]
    ratio = found.intensity / true
    assert np.median(np.abs(np.log(ratio / np.median(ratio)))) < 0.02


def test_a_beam_stop_costs_the_spots_behind_it_and_adds_none(mos2):
    """But for one of the noise's, as the threshold lets through in an image."""
    image, places = render(mos2, beam="stop")
    found = find_spots(image)
    distance = np.linalg.norm(found.position[:, None] - places[None], axis=-1)
    assert (distance.min(1) > 1.0).sum() <= 1
    assert len(found.position) > 0.85 * len(places)
    np.testing.assert_allclose(found.centre, 255.5, atol=0.1)


def test_the_rim_of_a_round_stop_in_a_bright_halo_is_no_spot(mos2):
    frame = {"shape": (512, 512), "scale": 0.0055, "centre": (250.2, 261.7)}
    flux = float(mos2.intensity.sum())
    halo = (flux / 2e4, 0.15)
    expected = dx.render(mos2, **frame, fwhm=0.02, halo=halo, beam=20 * flux)
    image = np.asarray(dx.counts(jax.random.key(0), expected, 1e7))
    seen = np.asarray(dx.beam_stop(**frame, radius=0.08, angle=40.0, width=0.05))
    found = find_spots(image * seen)
    offset = found.position - frame["centre"]
    places = np.asarray(mos2.q)[np.asarray(mos2.mask)] * [1, -1] / frame["scale"]
    distance = np.linalg.norm(offset[:, None] - places[None], axis=-1).min(1)
    rim = np.hypot(*offset.T) * frame["scale"] < 0.15
    assert not (rim & (distance > 2)).any()


def test_weak_spots_in_noise_still_give_the_lattice(mos2, tmp_path):
    image, _ = render(mos2, (240.3, 271.8), peak=300, halo=100)
    np.save(tmp_path / "p.npy", image)
    found = lattice.find(read_pattern(tmp_path / "p.npy", scale=SCALE))
    np.testing.assert_allclose(np.linalg.norm(found.lattice, axis=1), 3.18, rtol=2e-3)


@pytest.mark.parametrize("kind", ["u8.png", "u16.png", "rgb.png", "u16.tif", "f32.tif"])
def test_images_of_every_depth_give_the_lattice(mos2, tmp_path, kind):
    image, _ = render(mos2, peak=2000, beam="none")
    path = tmp_path / kind
    grey = np.clip(image / image.max() * 255, 0, 255).astype(np.uint8)
    if kind.startswith("u16"):
        PIL.Image.fromarray(image.astype(np.uint16)).save(path)
    elif kind.startswith("f32"):
        PIL.Image.fromarray(image.astype(np.float32)).save(path)
    elif kind.startswith("rgb"):
        PIL.Image.fromarray(np.stack([grey] * 3, -1)).save(path)
    else:
        PIL.Image.fromarray(grey).save(path)
    found = lattice.find(read_pattern(path, scale=SCALE))
    np.testing.assert_allclose(np.linalg.norm(found.lattice, axis=1), 3.18, rtol=3e-3)


def test_the_strong_spots_of_a_jpeg_are_found(mos2, tmp_path):
    image, places = render(mos2, peak=2000, beam="none")
    grey = np.clip(image / image.max() * 255, 0, 255).astype(np.uint8)
    PIL.Image.fromarray(grey).save(tmp_path / "p.jpg", quality=95)
    pattern = read_pattern(tmp_path / "p.jpg", scale=SCALE)
    strong = np.asarray(pattern.q)[np.argsort(-np.asarray(pattern.intensity))[:12]]
    true = (places - 255.5) * [SCALE, -SCALE]
    assert np.linalg.norm(strong[:, None] - true[None], axis=-1).min(1).max() < SCALE


def test_the_pattern_has_its_q_y_upwards(tmp_path):
    image = np.ones((128, 128))
    rows, columns = np.indices(image.shape)
    for x, y, peak in ((84, 34, 500), (44, 94, 300), (90, 80, 200), (38, 48, 200)):
        image += peak * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8)
    np.save(tmp_path / "p.npy", image)
    pattern = read_pattern(tmp_path / "p.npy", scale=0.01, centre=(64, 64))
    strongest = np.asarray(pattern.q)[int(np.argmax(pattern.intensity))]
    np.testing.assert_allclose(strongest, [0.2, 0.3], atol=2e-3)


def test_large_images_are_measured_in_their_own_pixels(mos2):
    image, _ = render(mos2, beam="none")
    found, same = find_spots(np.kron(image, np.ones((4, 4)))), find_spots(image)
    np.testing.assert_allclose(found.centre, same.centre * 4 + 1.5, atol=0.5)
    strongest = [s.position[np.argsort(-s.intensity)[:30]] for s in (found, same)]
    distance = np.linalg.norm(strongest[0][:, None] - strongest[1] * 4 - 1.5, axis=-1)
    assert distance.min(0).max() < 2


def test_the_centre_of_a_symmetric_image_is_exact():
    rows, columns = np.indices((100, 120))
    image = np.zeros((100, 120))
    for x, y in ((20, 5), (-20, -5), (7, -25), (-7, 25)):
        image += np.exp(-((columns - 57.3 - x) ** 2 + (rows - 51.8 - y) ** 2) / 8)
    np.testing.assert_allclose(symmetry_centre(image), [57.3, 51.8], atol=0.1)


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (np.zeros((64, 64)), "every pixel is 0"),
        (np.full((64, 64), 7.0), "every pixel is 7"),
        (np.random.default_rng(0).poisson(100.0, (256, 256)), "no spot"),
        (np.add.outer(np.arange(64.0), np.arange(64.0)), "spot"),
        (np.full((64, 64), np.nan), "not finite"),
        (np.ones((8, 8)), "16 x 16"),
        (np.ones((64, 64, 7)), "16 x 16"),
    ],
    ids=["black", "flat", "noise", "slope", "nan", "tiny", "stack"],
)
def test_an_image_without_spots_is_one_clear_line(image, says):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(PatternError, match=says) as error:
            find_spots(image)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["chelsea.png", "camera.png", "gravel.png"])
def test_a_photograph_is_no_lattice(name):
    image = read_image(Path(skimage.data.__file__).parent / name)
    with pytest.raises(PatternError, match="lattice|spot"):
        lattice.find(measure(image, 0.01).pattern)


def test_rings_are_no_lattice():
    rows, columns = np.indices((200, 200))
    radius = np.hypot(columns - 100, rows - 100)
    rings = sum(h * np.exp(-((radius - r) ** 2) / 8) for r, h in ((40, 100), (56, 60), (65, 60)))
    image = np.random.default_rng(0).poisson(5 + rings + 200 * np.exp(-radius / 20))
    with pytest.raises(PatternError, match="lattice|spot"):
        lattice.find(measure(Image(image.astype(float)), 0.01).pattern)


def test_intensities_scatter_as_their_uncertainties_say(mos2):
    """Of many exposures of one pattern."""
    found = [render(mos2, peak=800, beam="none", seed=seed)[0] for seed in range(5)]
    spots = [find_spots(image, (255.5, 255.5), width=2.5) for image in found]
    places = spots[0].position
    values, sigmas = [], []
    for s in spots:
        distance, place = cKDTree(s.position).query(places)
        values.append(np.where(distance < 1, s.intensity[place], np.nan))
        sigmas.append(s.sigma[place])
    pulls = (values - np.nanmean(values, 0)) / np.mean(sigmas, 0) / np.sqrt(4 / 5)
    assert np.isfinite(pulls).sum() > 250
    assert 0.8 < np.sqrt(np.nanmean(pulls**2)) < 1.25


def test_uncertainties_scale_with_the_image_and_not_with_its_noise_alone(mos2):
    image, _ = render(mos2, peak=5000, beam="none")
    one, seven = find_spots(image), find_spots(0.37 * image)
    assert len(one.position) == len(seven.position)
    ratio = seven.sigma / one.sigma / 0.37
    assert 0.8 < np.median(ratio) < 1.25


def test_a_saturated_spot_is_kept_and_says_so(mos2):
    image, places = render(mos2, peak=2e4, beam="none")
    found = find_spots(np.minimum(image, 4000.0))
    over = found.saturated
    assert 3 < over.sum() < len(places) / 2
    assert (found.sigma[over] > 0.02 * found.intensity[over]).all()
    distance = np.linalg.norm(found.position[over][:, None] - places[None], axis=-1).min(1)
    assert distance.max() < 0.5


def alike(found, raw):
    """Intensities (K,) of spots, and those of the same spots in the raw image."""
    distance, place = cKDTree(raw.position).query(found.position)
    assert distance.max() < 1
    return found.intensity, raw.intensity[place]


def jpeg(image):
    file = io.BytesIO()
    small = PIL.Image.fromarray(image.astype(np.uint8)).resize((400, 400))
    small.save(file, "JPEG", quality=90)
    return np.asarray(PIL.Image.open(file)).astype(float)


@pytest.mark.parametrize("top", [4000, 1500])
def test_saturated_spots_are_as_strong_as_their_flanks_say(mos2, top):
    image, _ = render(mos2, peak=2e4, beam="none")
    raw, found = find_spots(image), find_spots(np.minimum(image, top))
    ours, true = alike(found, raw)
    over = found.saturated
    # The strongest are 5 and 13 times as bright as the brightest that was recorded.
    np.testing.assert_allclose(ours[over], true[over], rtol=0.12)
    assert (np.abs(ours - true)[over] < 3 * found.sigma[over]).all()
    np.testing.assert_allclose(ours[~over], true[~over], rtol=0.03)


def test_where_no_other_spot_shows_the_profile_saturated_ones_are_as_uncertain_as_they_are_strong():
    rows, columns = np.indices((256, 256)).astype(float)
    image = 20 + np.random.default_rng(0).normal(0, 1, rows.shape)
    for turn in np.arange(6) * np.pi / 3:
        x, y = 128 + 60 * np.cos(turn), 128 + 60 * np.sin(turn)
        image += 5000 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 12.5)
    found = find_spots(np.minimum(image, 1000), centre=(128, 128))
    assert len(found.position) == 6 and found.saturated.all()
    np.testing.assert_array_equal(found.sigma, found.intensity)


def test_saturated_spots_are_recognised_in_a_resampled_jpeg(mos2):
    image, _ = render(mos2, peak=2e4, beam="none")
    seen = np.rint(255 * np.minimum(image / 4000, 1))
    direct, lossy = find_spots(seen), find_spots(jpeg(seen))
    assert lossy.saturated.sum() >= 0.8 * direct.saturated.sum() > 6
    scaled = (direct.position + 0.5) * 400 / 512 - 0.5
    distance, place = cKDTree(scaled).query(lossy.position[lossy.saturated])
    assert distance.max() < 1
    ratio = lossy.intensity[lossy.saturated] / direct.intensity[place]
    assert ratio.std() < 0.15 * ratio.mean()


@pytest.mark.parametrize("gamma", [0.45, 0.6])
def test_a_gamma_shows_in_the_shape_of_spots_and_is_undone(mos2, gamma):
    image, _ = render(mos2, peak=2e4, beam="none")
    shown = np.rint(255 * np.minimum(image / 8000, 1) ** gamma)
    found, raw = find_spots(shown), find_spots(image)
    (note,) = (n for n in found.notes if "gamma" in n)
    assert float(note.split("gamma of ")[1].split(",")[0]) == pytest.approx(gamma, abs=0.06)
    ours, true = alike(found, raw)
    strong = true > 0.01 * true.max()
    power = np.polyfit(np.log(true[strong]), np.log(ours[strong]), 1)[0]
    assert power == pytest.approx(1, abs=0.08)
    left = find_spots(shown, gamma=1.0)
    ours, true = alike(left, raw)
    strong = true > 0.01 * true.max()
    assert np.polyfit(np.log(true[strong]), np.log(ours[strong]), 1)[0] < 0.85
    assert not any("gamma" in n for n in left.notes) and left.power_error is None


@pytest.mark.parametrize("dark", [2.0, 30.0])
def test_a_logarithmic_scale_shows_in_the_shape_of_spots_and_is_undone(mos2, dark):
    image, _ = render(mos2, peak=2e4, beam="none")
    shown = np.log1p(image / dark)
    found, raw = find_spots(np.rint(255 * shown / shown.max())), find_spots(image)
    assert any("logarithmic scale" in n for n in found.notes)
    ours, true = alike(found, raw)
    strong = true > 0.01 * true.max()
    power = np.polyfit(np.log(true[strong]), np.log(ours[strong]), 1)[0]
    assert power == pytest.approx(1, abs=0.15)
    assert found.power_error == 0.1


def test_a_gamma_shows_in_an_image_so_large_that_pixels_are_averaged(mos2):
    image, _ = render(mos2, peak=2e4, beam="none")
    large = ndimage.zoom(np.minimum(image / 8000, 1), 2.5, order=1)
    found = find_spots(np.rint(255 * large**0.5))
    assert found.searched.factor == 2
    (note,) = (n for n in found.notes if "gamma" in n)
    assert float(note.split("gamma of ")[1].split(",")[0]) == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("top", [2e3, 8e3, 2e4])
@pytest.mark.parametrize("peak", [2e3, 2e4])
def test_grey_levels_in_proportion_to_counts_show_no_gamma(mos2, top, peak):
    image, _ = render(mos2, peak=peak, beam="none")
    found = find_spots(np.rint(255 * np.minimum(image / top, 1)))
    assert not any("gamma of" in n for n in found.notes)


@pytest.mark.parametrize("dose", [0.03, 0.3, 1.0])
def test_grey_levels_may_be_a_power_of_counts_unless_they_are_single_electrons(mos2, dose):
    image, _ = render(mos2, beam="none", halo=30.0)
    counts = np.random.default_rng(1).poisson(dose * image / 30).astype(float)
    assert len(np.unique(counts)) < 3 * 256
    electrons = find_spots(counts)
    assert electrons.power_error is None and not electrons.notes
    shown = np.rint(255 * np.minimum(counts / counts.max(), 1) ** 0.7)
    export = find_spots(shown)
    assert export.power_error == 0.2
    assert any("power of the counts" in n or "gamma of" in n for n in export.notes)
    assert find_spots(shown, gamma=0.7).power_error is None
    assert find_spots(image).power_error is None


def test_the_residual_is_of_counts_whatever_the_grey_levels_are(mos2):
    image, _ = render(mos2, beam="none")
    shown = np.rint(255 * np.log1p(image / 10) / np.log1p(image / 10).max())
    for grey in (image, image.max() - image, shown, 255 - shown):
        found = find_spots(grey)
        bright = np.zeros(image.shape, bool)
        bright[tuple(np.rint(found.position[:, ::-1]).astype(int).T)] = True
        around = ndimage.binary_dilation(bright, iterations=9)
        residual = found.residual
        assert residual.shape == image.shape
        assert residual[bright].min() > 4 * residual[~around].std()
        assert abs(np.median(residual[~around])) < 0.2 * residual[~around].std()


def test_a_white_frame_hides_nothing(mos2):
    image, _ = render(mos2, beam="none")
    page = np.full((600, 640), 255.0)
    page[40:552, 60:572] = np.rint(255 * np.minimum(image / image.max(), 1))
    framed, alone = find_spots(page), find_spots(page[40:552, 60:572])
    np.testing.assert_allclose(framed.centre - [60, 40], alone.centre, atol=0.1)
    distance, _ = cKDTree(framed.position - [60, 40]).query(alone.position)
    assert distance.max() < 0.5


@pytest.mark.parametrize("screen", [False, True])
def test_a_negative_with_a_white_stop_is_inverted(mos2, screen):
    """A stop, and what lies outside of a round screen, are brighter than all else."""
    image, _ = render(mos2, beam="stop", halo=4000.0, peak=3000.0)
    rows, columns = np.indices(image.shape)
    if screen:
        image[np.hypot(columns - 255.5, rows - 255.5) > 250] = 0
    grey = np.rint(255 * np.minimum(image / 3500, 1))
    negative, found = find_spots(255 - grey), find_spots(grey)
    assert any("negative" in note for note in negative.notes)
    np.testing.assert_allclose(negative.centre, found.centre, atol=0.5)
    distance, _ = cKDTree(negative.position).query(found.position)
    assert len(found.position) > 30 and (distance < 0.5).mean() > 0.95


def test_letters_and_a_scale_bar_on_an_export_are_no_spots(mos2):
    image, _ = render(mos2, beam="none")
    plain = PIL.Image.fromarray(np.rint(255 * np.minimum(image / 8000, 1) ** 0.6).astype(np.uint8))
    marked = plain.copy()
    pen = PIL.ImageDraw.Draw(marked)
    pen.text((30, 440), "10 1/nm", fill=255, font_size=34)
    pen.rectangle((30, 485, 160, 491), fill=255)
    pen.text((20, 16), "b)", fill=255, font_size=40)
    without, found = (find_spots(np.asarray(x, float)) for x in (plain, marked))
    assert any("letters" in note for note in found.notes)
    assert not any("letters" in note for note in without.notes)
    distance, _ = cKDTree(without.position).query(found.position)
    assert distance.max() < 0.5
    assert len(found.position) > len(without.position) - 6


def test_a_known_gamma_is_undone_and_needs_levels_above_zero(mos2):
    image, _ = render(mos2, peak=2e4, beam="none")
    raw, found = find_spots(image), find_spots(255 * (image / image.max()) ** 0.5, gamma=0.5)
    ours, true = alike(found, raw)
    np.testing.assert_allclose(ours / ours.sum(), true / true.sum(), rtol=0.02, atol=1e-4)
    with pytest.raises(PatternError, match="background was subtracted"):
        find_spots(image - 400, gamma=0.5)


def test_spots_that_crowd_a_ring_in_an_image_without_background_are_all_found():
    layer = ase.build.mx2("MoS2", a=3.18, thickness=3.13, vacuum=10)
    pattern = dx.simulate(dx.Crystal.from_ase(layer), q_max=1.5, b_iso=0.5)
    expected = dx.render(pattern, (512, 512), 0.00645, fwhm=0.025)
    image = np.asarray(dx.counts(jax.random.key(0), expected, 1e6)).astype(float)
    found = find_spots(image)
    places = np.array([255.5, 255.5]) + np.asarray(pattern.q) * [1, -1] / 0.00645
    places = places[np.asarray(pattern.mask)]
    distance, _ = cKDTree(found.position).query(places)
    assert len(found.position) == len(places) and distance.max() < 0.5


@pytest.mark.parametrize("top", [None, 255])
@pytest.mark.parametrize(
    "symbols, sizes",
    [("MoS2", (3.18, 3.18, 120)), ("PbI2", (4.56, 4.56, 120)), ("SnSe", (4.15, 4.45, 90))],
)
def test_every_ring_of_an_ideal_image_is_found(symbols, sizes, top):
    """The innermost, too, though all around the centre there is nothing but spots' tails."""
    rows, columns = np.indices((512, 512)).astype(float)
    a, b, gamma = sizes
    spacing = 1 / np.array([a, b]) / np.sin(np.deg2rad(gamma))
    hk = np.stack(np.meshgrid(*[np.arange(-9, 10)] * 2), -1).reshape(-1, 2)
    angle = np.deg2rad([10.0, 10.0 + 180.0 - gamma])
    q = hk @ (spacing[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1))
    length = np.linalg.norm(q, axis=1)
    q, length = q[(length > 0) & (length < 1.3)], length[(length > 0) & (length < 1.3)]
    places = 255.5 + q * [1, -1] / 0.006
    image = np.zeros((512, 512))
    for (x, y), far in zip(places, length, strict=True):
        image += np.exp(-far / 0.4 - ((columns - x) ** 2 + (rows - y) ** 2) / 8)
    if top:
        image = np.rint(top * image / image.max()).astype(np.uint8)
    distance, _ = cKDTree(find_spots(image).position).query(places)
    assert distance.max() < 0.5, f"{symbols}: spots at {length[distance > 0.5]} were missed"


@pytest.mark.parametrize("noise", [False, True])
def test_wide_spots_that_crowd_all_rings_are_found_though_they_are_their_scatter(noise):
    rows, columns = np.indices((512, 512)).astype(float)
    hk = np.stack(np.meshgrid(*[np.arange(-8, 9)] * 2), -1).reshape(-1, 2)
    hk = hk[(hk != 0).any(1)]
    q = hk @ (29.0 * np.array([[0.5, np.sqrt(0.75)], [-0.5, np.sqrt(0.75)]]))
    q = q[np.linalg.norm(q, axis=1) < 235]
    # Rings of one strength: what differs at like radius is spots alone.
    ring, number = np.unique(np.rint(np.linalg.norm(q, axis=1)), return_inverse=True)
    strength = 0.03 ** np.random.default_rng(3).random(len(ring))[number]
    image = np.zeros((512, 512))
    for (x, y), height in zip(255.5 + q, strength, strict=True):
        image += height * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 3.4**2))
    if noise:
        image = np.random.default_rng(0).poisson(5000 * image + 2).astype(float)
    found = find_spots(image).position
    distance, _ = cKDTree(found).query(255.5 + q)
    assert distance.max() < 0.7, f"{(distance > 0.7).sum()} of {len(q)} were missed"
    assert cKDTree(255.5 + q).query(found)[0].max() < 1


def test_single_bright_pixels_on_nothing_are_spots():
    image = np.zeros((512, 512))
    q = np.stack(np.meshgrid(*[np.arange(-5, 6)] * 2), -1).reshape(-1, 2) * [46, 37]
    q = q[(q != 0).any(1)]
    image[tuple(256 + q.T)] = np.random.default_rng(1).random(len(q)) + 0.1
    image[tuple(256 - q.T)] = image[tuple(256 + q.T)]
    found = find_spots(image).position
    distance, _ = cKDTree(found[:, ::-1]).query(256 + q)
    assert distance.max() < 0.5 and len(found) == len(q)


def test_few_electrons_give_no_spots_where_there_are_none(mos2):
    pattern = dataclasses.replace(mos2, hk=jnp.zeros(mos2.q.shape, int))
    expected = dx.render(pattern, (512, 512), SCALE, fwhm=0.02)
    halo = float(expected.sum()) / 512**2
    image = np.asarray(dx.counts(jax.random.key(0), expected + halo, 2e4)).astype(float)
    found = find_spots(image)
    places = np.array([255.5, 255.5]) + np.asarray(mos2.q) * [1, -1] / SCALE
    places = places[np.asarray(mos2.mask)]
    distance = np.linalg.norm(found.position[:, None] - places[None], axis=-1).min(1)
    assert len(found.position) > 20
    assert (distance > 3).sum() <= 1
    flat = np.asarray(dx.counts(jax.random.key(1), np.full((512, 512), 1.0), 2e4)).astype(float)
    with pytest.raises(PatternError, match="spot"):
        find_spots(flat)


def test_gaps_and_masks_are_not_measured(mos2):
    image, places = render(mos2, beam="none")
    gaps = image.copy()
    gaps[100:112] = -1
    gaps[300, 300] = np.nan
    mask = np.ones(image.shape, bool)
    mask[:, :150] = False
    found = find_spots(gaps, mask=mask)
    np.testing.assert_allclose(found.centre, 255.5, atol=0.3)
    assert (found.position[:, 0] > 150).all()
    assert not found.measured[100:112].any() and not found.measured[:, :150].any()
    distance = np.linalg.norm(found.position[:, None] - places[None], axis=-1).min(1)
    assert distance.max() < 1.0
    with pytest.raises(PatternError, match="mask"):
        find_spots(image, mask=mask[1:])


def test_every_choice_can_be_overridden(mos2):
    image, _ = render(mos2, beam="stop")
    usual = find_spots(image)
    assert find_spots(image, max_radius=120).position.shape[0] < len(usual.position) / 2
    weak, _ = render(mos2, peak=300)
    assert len(find_spots(weak, threshold=20).position) < len(find_spots(weak).position)
    assert find_spots(image, width=4.0).width == 4.0
    assert find_spots(image, beam_stop=False).measured.all() and not usual.measured.all()


def test_an_image_needs_its_scale(tmp_path):
    PIL.Image.fromarray(np.zeros((32, 32), np.uint8)).save(tmp_path / "p.png")
    with pytest.raises(PatternError, match="p.png: an image needs its scale"):
        read_pattern(tmp_path / "p.png")
    with pytest.raises(PatternError, match="p.png: the image has no spots"):
        read_pattern(tmp_path / "p.png", scale=0.01)


def test_an_image_too_large_is_refused_before_it_is_decoded(tmp_path):
    PIL.Image.new("1", (12000, 12000)).save(tmp_path / "p.png")
    with pytest.raises(PatternError, match="12000 x 12000"):
        read_pattern(tmp_path / "p.png", scale=0.01)


def test_a_truncated_image_is_refused(tmp_path):
    PIL.Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "p.png")
    data = (tmp_path / "p.png").read_bytes()
    (tmp_path / "p.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(PatternError, match="cannot be read as an image"):
        read_pattern(tmp_path / "p.png", scale=0.01)


def test_the_measured_spots_of_moo3_lie_on_its_rectangle(shared_data):
    pattern = read_pattern(shared_data / "experiment" / "moo3_20cm.tif", scale=0.0106)
    assert 60 < int(pattern.mask.sum()) < 110
    # The image is sheared and stretched: spots stray by up to 0.03 1/angstrom, the cell by 5 %.
    found = lattice.find(pattern, tolerance=0.025)
    np.testing.assert_allclose(np.linalg.norm(found.lattice, axis=1), [3.70, 3.96], rtol=0.03)


@pytest.mark.parametrize(("side", "specks"), [(256, 150), (384, 500)])
def test_specks_that_look_like_spots_do_not_hide_a_few_bright_ones(side, specks):
    """Where they are many there is no symmetry, where very many there is some, by chance."""
    spacing, centre = 0.172 * side, (side / 2 + 0.4, side / 2 - 1.3)
    places, strength = drawn.lattice((side, side), centre, spacing)
    bright = strength > 0.15
    rng = np.random.default_rng(2)
    image = drawn.expected(
        np.concatenate([places[bright], rng.uniform(8, side - 8, (specks, 2))]),
        np.concatenate([1 + strength[bright], rng.uniform(0.1, 0.3, specks)]),
        (side, side),
        centre,
    )
    made = measure(Image(drawn.counted(image)), scale=0.005)
    (found,) = lattice.find_all(made.pattern)
    lengths = np.linalg.norm(found.lattice, axis=1)
    np.testing.assert_allclose(lengths, 2 / (np.sqrt(3) * spacing * 0.005), rtol=0.01)
    assert any("looks like spots" in note for note in made.image.notes)


@pytest.mark.parametrize("spacing", [6.5, 8.0, 10.0])
def test_spots_a_pixel_wide_that_crowd_a_small_image_are_found(spacing):
    shape, centre = (128, 128), (64.3, 62.8)
    places, strength = drawn.lattice(shape, centre, spacing)
    image = drawn.counted(drawn.expected(places, strength, shape, centre, 0.6, 3e4, 500.0))
    spots = find_spots(image)
    np.testing.assert_allclose(spots.centre, centre, atol=0.1)
    assert spots.width < 0.8
    strong = strength > 0.02
    assert drawn.matched(spots.position, places)[1] < 0.02 * len(places)
    assert drawn.matched(spots.position, places[strong])[0] < 0.05 * strong.sum()
    away = np.linalg.norm(spots.position[:, None] - places, axis=-1)
    one = away.argmin(1)
    sure = (away.min(1) < 1) & (strength[one] > 0.1)
    assert np.std(np.log(spots.intensity[sure] / strength[one[sure]])) < 0.15
    assert spots.residual.shape == spots.measured.shape == spots.level.shape == shape


def test_so_many_of_the_brightest_spots_alone_are_used():
    places, strength = drawn.lattice()
    image = drawn.counted(drawn.expected(places, strength))
    every, some = find_spots(image), find_spots(image, brightest=20)
    assert len(some.position) == 20 < len(every.position)
    assert some.intensity.min() >= np.sort(every.intensity)[-21] * 0.9


def test_a_spot_that_the_edge_of_a_beam_stop_cuts_is_none_though_no_halo_shows_the_stop():
    places, strength = drawn.lattice(spacing=27.0)
    image = drawn.expected(places, 5 * strength + 2, halo=0.0, width=2.0)
    whole = find_spots(drawn.counted(image)).position
    near = np.linalg.norm(places - [128.4, 126.7], axis=1)
    x, y = places[np.argsort(np.abs(near - 54))[0]]
    rows, columns = np.indices(image.shape)
    # A bar from the middle of the spot to the right.
    image[(columns > x + 0.5) & (columns < x + 9) & (np.abs(rows - y) < 12)] = 2
    cut = find_spots(drawn.counted(image)).position
    gone = [p for p in whole if np.linalg.norm(cut - p, axis=1).min() > 2]
    assert len(gone) == 1 and np.linalg.norm(gone[0] - [x, y]) < 2


def test_sharper_spots_of_a_second_lattice_are_not_cut_nor_streaks_along_one_axis():
    """The domains of a second layer are larger; those of the first are rippled."""
    centre = (128.4, 126.7)
    places, strength = drawn.lattice(spacing=27.0)
    other, _ = drawn.lattice(spacing=27.0, turn=41.0)
    other = other[cKDTree(places).query(other)[0] > 12]
    rows, columns = np.indices((256, 256))
    image = drawn.expected(places[:0], strength[:0], halo=60.0)
    shapes = [(12, 8)] * len(places) + [(5, 5)] * len(other)
    every = np.concatenate([places, other])
    height = np.random.default_rng(2).uniform(400, 3000, len(every))
    for (x, y), (wide, high), peak in zip(every, shapes, height, strict=True):
        image += peak * np.exp(-((columns - x) ** 2) / wide - (rows - y) ** 2 / high)
    found = find_spots(drawn.counted(image), centre=centre, beam_stop=False).position
    away = np.linalg.norm(every - centre, axis=1)
    assert drawn.matched(found, every[(away > 30) & (away < 90)])[0] == 0
