"""Ring patterns give back the camera that made them, and nothing where there are no rings."""

import json

import ase.build
import ase.io
import jax
import numpy as np
import pytest

import diffraction as dx
from dd2d_jax.images.calibration import Calibration
from dd2d_jax.images.crystal_calibration import HEXAGONAL
from dd2d_jax.images.distortion import Mapping
from dd2d_jax.images.image import Image
from dd2d_jax.images.measurement import measure
from dd2d_jax.images.readers import read_image
from dd2d_jax.images.ring_calibration import ring_positions
from dd2d_jax.images.standards import calibrate
from dd2d_jax.lattices import lattice
from dd2d_jax.util.errors import PatternError

TRUE = Mapping(0.0125, 0.02 * np.exp(1j * np.radians(50)), -2e-6)
CENTRE = np.array([104.3, 93.8])


def rings(
    material: str,
    mapping: Mapping,
    seed: int = 0,
    stop: bool = False,
    centre: tuple[float, float] = (104.3, 93.8),
    dose: float = 1.0,
) -> np.ndarray:
    """Counts (192, 200) of a powder's rings on a halo, the beam saturated or behind a stop."""
    rows, columns = np.indices((192, 200))
    offset = np.stack([columns, rows], -1).reshape(-1, 2) - centre
    q = np.linalg.norm(mapping.q(offset), axis=1)
    image = 30 + 300 * np.exp(-q / 0.15)
    for place, strength in zip(*ring_positions(material), strict=True):
        image += 600 * strength * np.exp(-0.5 * place**2 - (q - place) ** 2 / (2 * 0.02**2))
    image += 1e5 * np.exp(-((q / 0.03) ** 2))
    image = np.random.default_rng(seed).poisson(image * dose).reshape(rows.shape).astype(float)
    if stop:
        bar = (abs(rows - 94) < 4) & (columns > 104)
        image[bar | (np.hypot(columns - 104, rows - 94) < 14)] = 0
    return image


@pytest.mark.parametrize("stop", [False, True])
def test_the_camera_is_found_within_its_uncertainties(stop):
    made = calibrate(rings("Au", TRUE, stop=stop), "Au")
    assert made.mapping.scale == pytest.approx(TRUE.scale, rel=2e-3)
    assert abs(made.mapping.scale - TRUE.scale) < 4 * made.sigma["scale"]
    np.testing.assert_allclose(made.centre, CENTRE, atol=0.3)
    assert abs(made.mapping.stretch - TRUE.stretch) < 2e-3
    assert made.mapping.ellipticity == pytest.approx(0.0408, abs=0.004)
    assert made.mapping.axis == pytest.approx(-65, abs=4)
    assert made.mapping.radial == pytest.approx(TRUE.radial, abs=5e-7)


def test_a_radial_term_that_is_not_there_is_not_made_up():
    made = calibrate(rings("Al", Mapping(0.012)), "Al", scale=0.0125)
    assert made.mapping.radial == 0 and made.mapping.ellipticity < 2e-3
    assert made.mapping.scale == pytest.approx(0.012, rel=1e-3)


def test_a_cif_file_is_a_material(tmp_path):
    ase.io.write(tmp_path / "gold.cif", ase.build.bulk("Au", "fcc", a=4.0786, cubic=True))
    for known, read in zip(ring_positions("Au"), ring_positions(str(tmp_path / "gold.cif")),
                           strict=True):  # fmt: skip
        np.testing.assert_allclose(known, read, rtol=1e-4)
    q, strength = ring_positions("Au")
    # 111, 200 and 220; 8 and 6 lines, which scatter about as f^2 / q^2.
    np.testing.assert_allclose(q[:3], np.sqrt([3, 4, 8]) / 4.0786, rtol=1e-5)
    assert 0.3 < strength[1] / strength[0] < 0.75
    with pytest.raises(PatternError, match="'Xx' is neither a file nor one of Ag, Al"):
        ring_positions("Xx")


def textured(rings: np.ndarray, sharp: float) -> np.ndarray:
    """Two arcs of each ring instead of the whole, as films on a substrate have them."""
    rows, columns = np.indices(rings.shape)
    angle = np.arctan2(rows - CENTRE[1], columns - CENTRE[0])
    radius = np.hypot(rows - CENTRE[1], columns - CENTRE[0])
    # Each ring has its arcs in other directions.
    weight = np.exp(sharp * (np.cos(2 * (angle - 0.9 * np.rint(radius / 12))) - 1))
    level = 30 + 300 * np.exp(-radius * TRUE.scale / 0.15)
    return np.random.default_rng(1).poisson(level + np.maximum(rings - level, 0) * weight)


def test_textured_rings_give_the_same_camera():
    made = calibrate(textured(rings("Au", TRUE), 1.5), "Au")
    assert made.mapping.scale == pytest.approx(TRUE.scale, rel=4e-3)
    np.testing.assert_allclose(made.centre, CENTRE, atol=0.5)
    assert abs(made.mapping.stretch - TRUE.stretch) < 6e-3


@pytest.mark.parametrize(
    ("centre", "tolerance"), [((12.0, 180.0), 0.01), ((100.0, 4.0), 0.01)], ids=["corner", "edge"]
)
def test_a_beam_in_the_corner_or_at_the_edge_is_found(centre, tolerance):
    made = calibrate(rings("Au", TRUE, centre=centre), "Au")
    np.testing.assert_allclose(made.centre, centre, atol=0.6)
    assert made.mapping.scale == pytest.approx(TRUE.scale, rel=tolerance)


@pytest.mark.parametrize("kind", ["signed", "few"])
def test_signed_and_few_counts_will_do(kind):
    image = rings("Au", TRUE) - 35 if kind == "signed" else rings("Au", TRUE, dose=0.02)
    made = calibrate(image, "Au")
    assert made.mapping.scale == pytest.approx(TRUE.scale, rel=3e-3)
    np.testing.assert_allclose(made.centre, CENTRE, atol=0.5)


def spots(a: float, camera: Mapping, width: int = 256) -> np.ndarray:
    """Counts of a honeycomb of carbon through a camera, the beam not in the middle."""
    crystal = dx.Crystal.from_ase(ase.build.graphene(a=a, vacuum=8))
    pattern = dx.simulate(crystal, q_max=1.3, b_iso=0.5)
    turned = np.asarray(pattern.q) @ [[np.cos(0.3), np.sin(0.3)], [-np.sin(0.3), np.cos(0.3)]]
    places = camera.pixels(turned) * [1, -1] * camera.scale
    seen = dx.Pattern(places, pattern.intensity, pattern.hk, pattern.mask)
    image = dx.render(seen, (width, width), camera.scale, (130.4, 121.2), fwhm=0.03)
    return np.asarray(dx.counts(jax.random.key(0), image + 0.02 * float(image.max()), 1e6), float)


@pytest.mark.parametrize(
    ("material", "camera"),
    [
        ("graphene", Mapping(0.011, 0.02j, -3e-6)),
        ("hBN", Mapping(0.009, 0.05 + 0.02j)),
        ("graphite", Mapping(0.012)),
    ],
)
def test_one_crystal_gives_scale_and_ellipse_at_once(material, camera):
    made = calibrate(spots(HEXAGONAL[material], camera), material)
    assert made.mapping.scale == pytest.approx(camera.scale, rel=2e-3)
    assert abs(made.mapping.stretch - camera.stretch) < 2e-3
    assert made.mapping.radial == pytest.approx(camera.radial, abs=6e-7)
    np.testing.assert_allclose(made.centre, (130.4, 121.2), atol=0.2)
    np.testing.assert_allclose(made.rings[0], 2 / np.sqrt(3) / HEXAGONAL[material])


def test_the_camera_of_one_crystal_is_that_of_the_next():
    camera = Mapping(0.011, 0.03j)
    made = calibrate(spots(HEXAGONAL["graphene"], camera), "graphene")
    measured = measure(Image(spots(2.7, camera)), calibration=made)
    np.testing.assert_allclose(
        np.linalg.norm(lattice.find(measured.pattern).lattice, axis=1), 2.7, rtol=5e-3
    )


def test_what_is_not_hexagonal_is_no_standard():
    rows, columns = np.indices((200, 200))
    grid = np.hypot((columns - 100 + 12) % 24 - 12, (rows - 100 + 12) % 24 - 12)
    square = np.random.default_rng(0).poisson(5 + 500 * np.exp(-(grid**2) / 4)).astype(float)
    with pytest.raises(PatternError, match="not that of graphene: its reciprocal vectors"):
        calibrate(square, "graphene")


def test_the_measured_graphite_gives_the_scale_of_its_camera(shared_data):
    image = read_image(shared_data / "experiment" / "graphite_ued.tif").pixels
    assert calibrate(image, "graphite").mapping.scale == pytest.approx(0.008645, rel=3e-3)


@pytest.mark.parametrize("kind", ["black", "halo", "spots"])
def test_no_rings_are_one_clear_line(kind):
    rng = np.random.default_rng(0)
    rows, columns = np.indices((160, 160))
    radius = np.hypot(columns - 80, rows - 80)
    image = {
        "black": np.zeros((160, 160)),
        "halo": rng.poisson(5 + 1000 * np.exp(-radius / 25)),
        "spots": rng.poisson(5 + 500 * np.exp(-np.hypot(columns % 20 - 10, rows % 20 - 10) ** 2)),
    }[kind].astype(float)  # fmt: skip
    with pytest.raises(PatternError, match="no rings") as error:
        calibrate(image, "Au")
    assert "\n" not in str(error.value)


def test_a_calibration_is_saved_and_read_back(tmp_path):
    sigma = {"scale": 1e-5, "centre": [0.1, 0.1], "ellipticity": 1e-3, "axis": 1.0, "radial": 0.0}
    made = Calibration("Au", (192, 200), (104.3, 93.8), TRUE, sigma, (0.42, 0.49), 0.9)
    made.save(tmp_path / "c.json")
    assert Calibration.load(tmp_path / "c.json") == made
    data = json.loads((tmp_path / "c.json").read_text())
    for change, says in (({"scale": -1}, "scale"), ({"scale": "x"}, "not a calibration")):
        (tmp_path / "d.json").write_text(json.dumps({**data, **change}))
        with pytest.raises(PatternError, match=says):
            Calibration.load(tmp_path / "d.json")
    del data["stretch"]
    (tmp_path / "d.json").write_text(json.dumps(data))
    with pytest.raises(PatternError, match="'stretch' is missing"):
        Calibration.load(tmp_path / "d.json")


def test_the_measured_gold_rings_give_scale_and_ellipticity(shared_data):
    made = calibrate(read_image(shared_data / "experiment" / "au_xgrating_20cm.tif").pixels)
    assert made.mapping.scale == pytest.approx(0.0100, abs=1e-4)
    np.testing.assert_allclose(made.centre, [127.4, 128.2], atol=0.5)
    assert 0.03 < made.mapping.ellipticity < 0.045 and made.explained > 0.8
