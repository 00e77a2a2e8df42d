"""Ring patterns give back the camera that made them, and nothing where there are no rings."""

import json

import ase.build
import ase.io
import numpy as np
import pytest

from dd2d_jax.images.calibration import Calibration
from dd2d_jax.images.distortion import Mapping
from dd2d_jax.images.readers import read_image
from dd2d_jax.images.ring_calibration import ring_positions
from dd2d_jax.images.standards import calibrate
from dd2d_jax.util.errors import PatternError

TRUE = Mapping(0.0125, 0.02 * np.exp(1j * np.radians(50)), -2e-6)
CENTRE = np.array([104.3, 93.8])


def rings(material: str, mapping: Mapping, seed: int = 0, stop: bool = False) -> np.ndarray:
    """Counts (192, 200) of a powder's rings on a halo, the beam saturated or behind a stop."""
    rows, columns = np.indices((192, 200))
    offset = np.stack([columns, rows], -1).reshape(-1, 2) - CENTRE
    q = np.linalg.norm(mapping.q(offset), axis=1)
    image = 30 + 300 * np.exp(-q / 0.15)
    for place, strength in zip(*ring_positions(material), strict=True):
        image += 600 * strength * np.exp(-0.5 * place**2 - (q - place) ** 2 / (2 * 0.02**2))
    image += 1e5 * np.exp(-((q / 0.03) ** 2))
    image = np.random.default_rng(seed).poisson(image).reshape(rows.shape).astype(float)
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
