"""Stacks and wrapped counts: the mean of what was counted, in every format, and what is told."""

import importlib
import struct

import numpy as np
import pytest
import tifffile
from untrusted import mib, ser, signal_of

from dd2d_jax.images.frames import unwrapped
from dd2d_jax.images.readers import read_image

RNG = np.random.default_rng(0)
Y, X = np.indices((32, 40))
SPOTS = sum(np.exp(-((X - x) ** 2 + (Y - y) ** 2) / 4) for x, y in [(8, 9), (30, 7), (20, 25)])
STACK = RNG.poisson(5 + 60 * SPOTS, (12, 32, 40)).astype(np.uint16)


def write(path, stack: np.ndarray) -> None:
    suffix = path.suffix
    if path.stem == "imagej":
        tifffile.imwrite(path, stack, imagej=True)
    elif suffix == ".tif":
        tifffile.imwrite(path, stack, photometric="minisblack", metadata=None)
    elif suffix == ".npy":
        np.save(path, stack)
    elif suffix == ".mrc":
        header = bytearray(1024)
        header[:16] = struct.pack("<4i", *stack.shape[::-1], 6)
        header[208:216] = b"MAP " + b"\x44\x44\0\0"
        path.write_bytes(bytes(header) + stack.tobytes())
    elif suffix in (".ser", ".mib"):
        {".ser": ser, ".mib": mib}[suffix](path, stack)
    else:
        importlib.import_module(f"rsciio.{suffix[1:]}").file_writer(str(path), signal_of(stack))


NAMES = ["p.tif", "imagej.tif", "p.npy", "p.hspy", "p.mrc", "p.ser", "p.mib", "p_000.tvips"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_a_stack_is_averaged_and_a_frame_that_differs_is_told(tmp_path, name):
    if name[-3:] not in ("tif", "npy"):
        pytest.importorskip("rsciio")
    stack = STACK.copy()
    stack[4] = RNG.poisson(5, stack[4].shape)
    write(tmp_path / name, stack)
    image = read_image(tmp_path / name)
    np.testing.assert_allclose(image.pixels, stack.mean(0))
    assert "the mean of 12 frames" in image.notes[0]
    assert "1 of the 12 frames differ from the others (5)" in image.notes[1]
    if name.endswith("ser"):
        np.testing.assert_allclose(image.scale, 5e-3)


@pytest.mark.parametrize("count", [3, 4])
def test_a_few_frames_that_a_tiff_holds_as_if_they_were_colours_are_averaged(tmp_path, count):
    few = STACK[:count].astype(np.float32)
    tifffile.imwrite(tmp_path / "p.tif", few, photometric="rgb", planarconfig="separate")
    image = read_image(tmp_path / "p.tif")
    np.testing.assert_allclose(image.pixels, few.mean(0), rtol=1e-6)
    assert f"the mean of {count} frames" in image.notes[0]


@pytest.mark.parametrize("suffix", [".tif", ".npy"])
def test_frames_that_are_alike_are_averaged_without_a_word_more(tmp_path, suffix):
    write(tmp_path / f"p{suffix}", STACK)
    assert len(read_image(tmp_path / f"p{suffix}").notes) == 1


@pytest.mark.parametrize("suffix", [".tif", ".npy", ".mrc"])
@pytest.mark.parametrize("count", [1, 3])
def test_counts_that_wrapped_below_zero_are_restored(tmp_path, suffix, count):
    if suffix == ".mrc":
        pytest.importorskip("rsciio")
    true = np.stack([RNG.poisson(40 + 60000 * SPOTS) for _ in range(count)])
    wrapped = true.astype(np.uint16).astype(np.int16)
    if suffix == ".mrc":
        header = bytearray(1024)
        header[:16] = struct.pack("<4i", *wrapped.shape[::-1], 1)
        header[208:216] = b"MAP " + b"\x44\x44\0\0"
        (tmp_path / "p.mrc").write_bytes(bytes(header) + wrapped.tobytes())
    else:
        write(tmp_path / f"p{suffix}", wrapped if count > 1 else wrapped[0])
    image = read_image(tmp_path / f"p{suffix}")
    np.testing.assert_allclose(image.pixels, true.mean(0))
    assert f"{(wrapped < 0).sum()} pixels" in image.notes[-1]


def test_what_is_negative_after_subtraction_stays_so():
    signed = (RNG.poisson(30 + 3000 * SPOTS) - 30).astype(np.int16)
    signed[3, 4] = -4000  # a dead pixel
    found, count = unwrapped(signed)
    assert count == 0 and (found == signed).all()


@pytest.mark.parametrize("name", ["int16_wrapped", "dark_subtracted_int"])
def test_counts_of_real_like_images_are_restored(shared_data, name):
    image = read_image(shared_data / "cases" / f"{name}.tif")
    assert image.pixels.min() > -100 and image.pixels.max() > 60000
