"""Images from files: whatever the format, the same pixels, scale and energy; no more is claimed."""

import importlib
import sys

import numpy as np
import pytest
import tifffile

from dd2d_jax.images.readers import read_image, write_image
from dd2d_jax.util.errors import PatternError

PIXELS = np.random.default_rng(0).poisson(100.0, (24, 32)).astype(np.float32)


@pytest.mark.parametrize("suffix", [".tif", ".npy"])
def test_a_written_image_reads_back(tmp_path, suffix):
    path = tmp_path / f"p{suffix}"
    write_image(PIXELS, path, 0.00525)
    image = read_image(path)
    np.testing.assert_array_equal(image.pixels, PIXELS)
    if suffix == ".tif":
        np.testing.assert_allclose(image.scale, 0.00525)
    else:
        assert image.scale is None
    assert image.energy is None and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("unit", "scale"), [("1/nm", [0.005, 0.0025]), ("nm", None), ("", None), ("1/A", [0.05, 0.025])]
)
def test_imagej_tiffs_say_their_scale_in_reciprocal_units_alone(tmp_path, unit, scale):
    tifffile.imwrite(
        tmp_path / "p.tif", PIXELS, imagej=True, resolution=(20, 40), metadata={"unit": unit}
    )
    found = read_image(tmp_path / "p.tif").scale
    assert found is None if scale is None else np.allclose(found, scale)


def test_more_than_one_size_and_complex_pixels_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "two.tif") as file:
        file.write(PIXELS)
        file.write(PIXELS[:, :8])
    with pytest.raises(PatternError, match="two.tif: holds 2 images of different sizes"):
        read_image(tmp_path / "two.tif")
    tifffile.imwrite(tmp_path / "c.tif", PIXELS.astype(np.complex64))
    with pytest.raises(PatternError, match="complex64"):
        read_image(tmp_path / "c.tif")


@pytest.mark.parametrize("origin", [(10.25, 7.5), (15.5, 11.5), (0.0, 0.0)])
@pytest.mark.parametrize("program", ["gatan", "hyperspy", "imagej"])
def test_tags_of_microscopes_say_scale_and_beam(tmp_path, origin, program):
    """A beam in the very middle, or at the first pixel, is what programs write that know none."""
    path, (x, y), offsets = tmp_path / "p.tif", origin, origin
    if program == "imagej":
        about = {"unit": "1/nm", "xorigin": x, "yorigin": y}
        tifffile.imwrite(path, PIXELS, imagej=True, resolution=(20, 10), metadata=about)
    else:
        if program == "hyperspy":
            offsets = (-0.05 * x, -0.1 * y)
        numbers = {65006: offsets[0], 65007: offsets[1], 65009: 0.05, 65010: 0.1}
        tags = [(65003, "s", 5, "1/nm", True), (65004, "s", 5, "1/nm", True)]
        tags += [(tag, "d", 1, value, True) for tag, value in numbers.items()]
        tifffile.imwrite(path, PIXELS, extratags=tags)
    image = read_image(path)
    np.testing.assert_allclose(image.scale, [0.005, 0.01])
    if x == 10.25:
        np.testing.assert_allclose(image.centre, origin)
    else:
        assert image.centre is None


def test_what_is_dark_where_0_is_white_becomes_bright(tmp_path):
    counts = PIXELS.astype(np.uint16)
    tifffile.imwrite(tmp_path / "p.tif", 65535 - counts, photometric="miniswhite")
    image = read_image(tmp_path / "p.tif")
    np.testing.assert_array_equal(image.pixels, counts)
    assert "inverted" in image.notes[0]


def axes(shape: tuple[int, ...]) -> list[dict]:
    names = ["y", "x", "ky", "kx"][-len(shape) :]
    return [
        {
            "name": name,
            "size": size,
            "scale": 0.1 if name == "kx" else 0.2,
            "offset": 0.0,
            "units": "1/nm",
            "navigate": not name.startswith("k"),
            "index_in_array": place,
        }
        for place, (name, size) in enumerate(zip(names, shape, strict=True))
    ]


@pytest.mark.parametrize("suffix", [".hspy", ".zspy", ".blo"])
def test_signals_of_microscopes_have_their_scale_energy_and_mean(tmp_path, suffix):
    pytest.importorskip("rsciio")
    stack = np.random.default_rng(1).integers(0, 200, (2, 3, 32, 32)).astype(np.uint8)
    single = suffix != ".blo"
    data = stack[0, 0] if single else stack
    signal = {
        "data": data,
        "axes": axes(data.shape),
        "metadata": {
            "General": {"title": "p"},
            "Signal": {"signal_type": ""},
            "Acquisition_instrument": {"TEM": {"beam_energy": 80.0}},
        },
        "original_metadata": {},
        "package": "",
        "package_info": "",
        "tmp_parameters": {},
        "package_version": "",
        "learning_results": {},
        "models": {},
        "attributes": {"_lazy": False},
    }
    path = tmp_path / f"p{suffix}"
    if single:
        importlib.import_module(f"rsciio.{suffix[1:]}").file_writer(str(path), signal)
    else:
        from rsciio.blockfile import file_writer

        for axis in signal["axes"]:
            axis["units"] = "nm" if axis["navigate"] else "cm"
        file_writer(str(path), signal)
    image = read_image(path)
    if single:
        np.testing.assert_array_equal(image.pixels, data)
        np.testing.assert_allclose(image.scale, [0.01, 0.02])
        assert image.energy == 80.0 and image.notes == ()
    else:
        np.testing.assert_allclose(image.pixels, stack.mean((0, 1)))
        assert image.scale is None and "mean of 2 x 3 frames" in image.notes[0]


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "p.dm4").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "rsciio", None)
    monkeypatch.setitem(sys.modules, "rsciio.digitalmicrograph", None)
    with pytest.raises(PatternError, match=r"pip install '.\[microscopy\]'"):
        read_image(tmp_path / "p.dm4")


@pytest.mark.parametrize("suffix", [".dm3", ".emd", ".mrc", ".blo", ".hspy"])
def test_what_is_no_such_file_is_one_line(tmp_path, suffix):
    pytest.importorskip("rsciio")
    path = tmp_path / f"p{suffix}"
    path.write_bytes(b"nothing of the kind" * 20)
    with pytest.raises(PatternError, match="cannot be read as an image") as error:
        read_image(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
