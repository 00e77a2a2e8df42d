"""From a file to q: scale, calibration and distortion are applied, and what is missing is named."""

import ase.build
import jax
import numpy as np
import pytest

import diffraction as dx
from dd2d_jax.images.calibration import Calibration
from dd2d_jax.images.distortion import Mapping
from dd2d_jax.images.image import Image
from dd2d_jax.images.measurement import measure
from dd2d_jax.images.patterns import read_pattern, write_pattern
from dd2d_jax.images.readers import write_image
from dd2d_jax.lattices import lattice
from dd2d_jax.reports.diagnostics import missed, plot_steps
from dd2d_jax.util.errors import PatternError

CAMERA = Mapping(0.011, 0.02j, -3e-6)


@pytest.fixture(scope="module")
def graphene() -> dx.Pattern:
    return dx.simulate(dx.Crystal.from_ase(ase.build.graphene(vacuum=8)), q_max=1.2, b_iso=0.5)


@pytest.fixture(scope="module")
def image(graphene) -> np.ndarray:
    """Counts (256, 256) through a camera that distorts."""
    q = np.asarray(graphene.q)
    places = CAMERA.pixels(q) * [1, -1] * CAMERA.scale
    seen = dx.Pattern(places, graphene.intensity, graphene.hk, graphene.mask)
    made = dx.render(seen, (256, 256), CAMERA.scale, fwhm=0.03)
    made = made + 0.02 * float(made.max())
    return np.asarray(dx.counts(jax.random.key(0), made, 1e6)).astype(float)


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return Calibration("Au", (256, 256), (127.5, 127.5), CAMERA, {}, (0.42,), 0.9)


def cell(pattern: dx.Pattern) -> np.ndarray:
    return np.linalg.norm(lattice.find(pattern).lattice, axis=1)


def test_a_calibration_undoes_the_distortion(image, calibration, tmp_path):
    plain, right = (measure(Image(image), **x).pattern for x in (
        {"scale": CAMERA.scale}, {"calibration": calibration}))  # fmt: skip
    np.testing.assert_allclose(cell(right), 2.46, rtol=3e-3)
    assert np.ptp(cell(plain)) > 0.03 or abs(cell(plain).mean() / 2.46 - 1) > 0.01
    calibration.save(tmp_path / "c.json")
    np.save(tmp_path / "p.npy", image)
    read = read_pattern(tmp_path / "p.npy", calibration=tmp_path / "c.json")
    np.testing.assert_array_equal(np.asarray(read.q), np.asarray(right.q))
    np.testing.assert_array_equal(np.asarray(read.sigma), np.asarray(right.sigma))
    with pytest.raises(PatternError, match="256 x 200 pixels, but the calibration is of"):
        measure(Image(image[:, :200]), calibration=calibration)


def test_a_lattice_straightens_itself_when_asked(image):
    made = measure(Image(image), CAMERA.scale, undistort=True)
    np.testing.assert_allclose(cell(made.pattern), 2.46, rtol=5e-3)
    assert abs(made.mapping.stretch - CAMERA.stretch) < 3e-3


def test_the_file_says_the_scale_unless_the_user_does(image, tmp_path):
    write_image(image, tmp_path / "p.tif", 0.011)
    assert measure(tmp_path / "p.tif").mapping.scale == 0.011
    assert measure(tmp_path / "p.tif", scale=0.02).mapping.scale == 0.02
    with pytest.raises(PatternError, match="dd2d calibrate"):
        measure(Image(image))


@pytest.mark.parametrize(
    ("scale", "told"),
    [
        (0.0111, ""),
        (0.022, "the file says 0.011 1/A per pixel, but the one that was given is 0.022 (2 times"),
        (0.11, "if the scale is in 1/nm, give 0.011"),
        (0.0691, "if it includes 2 pi, 0.011"),
        (0.0011, "reaches 0.141 1/A only"),
    ],
)
def test_a_scale_that_the_file_or_reason_contradicts_is_told_and_counts(image, scale, told):
    made = measure(Image(image, np.full(2, 0.011)), scale=scale)
    assert made.mapping.scale == scale
    notes = " ".join(made.image.notes)
    assert told in notes and bool(told) == bool(notes)


def test_angles_of_the_file_need_the_energy_alone(image):
    wavelength = float(dx.Electrons(80.0).wavelength)
    angles = Image(image, angle=np.full(2, 0.011 * wavelength))
    with pytest.raises(PatternError, match="--energy"):
        measure(angles)
    made = measure(angles, energy=80.0)
    assert made.mapping.scale == pytest.approx(0.011, rel=1e-5)
    assert made.pattern.energy == 80.0 and made.image.energy == 80.0
    with pytest.raises(PatternError, match="80000 keV.*is this in eV"):
        measure(angles, energy=8e4)


def test_the_beam_stands_where_the_file_says_unless_the_user_knows_better(image):
    known = Image(image, np.full(2, 0.011), centre=np.array([127.0, 128.25]))
    np.testing.assert_array_equal(measure(known).spots.centre, [127.0, 128.25])
    np.testing.assert_array_equal(measure(known, centre=(127.5, 127.5)).spots.centre, 127.5)


def test_without_any_scale_a_usual_one_is_taken_where_that_will_do(image):
    made = measure(Image(image), likely_scale=True)
    assert 0.5 < made.mapping.scale / CAMERA.scale < 2
    assert "scale is not known" in made.image.notes[0]
    assert measure(Image(image), 0.011, likely_scale=True).mapping.scale == 0.011


def test_pyxem_files_say_scale_centre_and_energy(shared_data):
    pytest.importorskip("rsciio")
    made = measure(shared_data / "cases" / "pyxem_units.hspy")
    np.testing.assert_allclose(cell(made.pattern), 3.18, rtol=0.01)
    np.testing.assert_allclose(made.spots.centre, [256.8, 253.4], atol=0.01)
    assert made.pattern.energy == 200.0


def test_uncertainties_are_written_and_read_back(image, tmp_path):
    pattern = measure(Image(image), 0.011).pattern
    assert (np.asarray(pattern.sigma) > 0).all()
    for name in ("p.csv", "p.json"):
        write_pattern(pattern, tmp_path / name)
        again = read_pattern(tmp_path / name)
        for field in ("q", "intensity", "hk", "sigma"):
            np.testing.assert_array_equal(getattr(again, field), getattr(pattern, field))


def test_places_without_a_spot_are_shown_where_they_are(image, calibration):
    made = measure(Image(image), calibration=calibration)
    found = lattice.find(made.pattern)
    whole = missed(made, found)
    gone = int(np.argmax(np.linalg.norm(found.q, axis=1) < 0.6))
    keep = np.ones(len(made.spots.position), bool)
    keep[gone] = False
    pattern = dx.Pattern(*(x[keep] for x in (
        made.pattern.q, made.pattern.intensity, made.pattern.hk, made.pattern.mask)))  # fmt: skip
    less = missed(type(made)(made.image, made.spots, made.mapping, pattern), found)
    assert len(less) == len(whole) + 1
    away = np.linalg.norm(less - made.spots.position[gone], axis=1).min()
    assert away < 2
    figure = plot_steps(made, found)
    assert len(figure.axes) == 4 and "a = 2.4" in figure.axes[3].get_title()
    assert "no lattice" in plot_steps(made, None, "why").axes[3].get_title()
