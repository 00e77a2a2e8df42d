"""Images that others made give the crystal's own lattice: a fast part of benchmarks/measured.py."""

import pytest

from benchmarks import measured

SMALL = ("mose2_flat.tif", "mose2_tilt_left.tif", "ws2_hanlab.tif", "snse_ued.tif")


@pytest.mark.parametrize("name", SMALL)
def test_a_measured_image_gives_its_lattice_and_centre(shared_data, name):
    (truth,) = [t for t in measured.experiment(shared_data / "experiment") if t.path.name == name]
    row = measured.score(truth, None)
    assert measured.good(row), row


@pytest.mark.parametrize("camera", ["counting", "scintillator"])
def test_an_image_by_abtem_gives_its_lattice_and_centre(shared_data, camera):
    truths = measured.abtem(shared_data / "abtem", shared_data / "c2db.db")
    (truth,) = [t for t in truths if t.path.name.startswith("004_") and camera in t.path.name
                and "1e+05" in t.path.name]  # fmt: skip
    row = measured.score(truth, None)
    assert measured.good(row), row
