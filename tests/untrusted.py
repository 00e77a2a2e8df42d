"""Small valid files of every format that is read, and ways to spoil them."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import random
import re
import resource
import signal
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import ase.io
import numpy as np
import pytest
import tiny
from ase.build import mx2

SHEET = mx2("MoS2", "2H", a=3.18, vacuum=8)
SHEET.pbc = True
PIXELS = np.random.default_rng(0).poisson(100.0, (24, 32)).astype(np.uint8)
STACK = np.stack([PIXELS] * 3).astype(np.uint16)
SPOTS = [[0.3, 0.0, 1.0], [-0.3, 0.0, 0.9], [0.1, 0.3, 0.5], [-0.1, -0.3, 0.4]]


def structure(path: Path, kind: str) -> None:
    # As XSF files of strangers say it: no forces.
    ase.io.write(path, SHEET, format=kind)


def signal_of(data: np.ndarray) -> dict:
    """What rosettasciio writes."""
    names = ["y", "x", "ky", "kx"][-data.ndim :]
    axes = [
        {"name": name, "size": size, "scale": 0.1, "offset": 0.0, "units": "1/nm",
         "navigate": not name.startswith("k"), "index_in_array": place}
        for place, (name, size) in enumerate(zip(names, data.shape, strict=True))
    ]  # fmt: skip
    return {
        "data": data, "axes": axes, "original_metadata": {}, "package": "", "package_info": "",
        "metadata": {"General": {"title": "p"}, "Signal": {"signal_type": ""}},
        "tmp_parameters": {}, "package_version": "", "learning_results": {}, "models": {},
        "attributes": {"_lazy": False},
    }  # fmt: skip


def microscopy(path: Path) -> None:
    plugin = {".blo": "blockfile"}.get(path.suffix, path.suffix[1:])
    data = np.stack([PIXELS[:24, :24]] * 2)[None] if path.suffix == ".blo" else PIXELS
    data = STACK if path.suffix == ".tvips" else data
    made = signal_of(data)
    if path.suffix == ".blo":
        for axis in made["axes"]:
            axis["units"] = "nm" if axis["navigate"] else "cm"
    importlib.import_module(f"rsciio.{plugin}").file_writer(str(path), made)


def zipped_zspy(path: Path) -> None:
    import zarr

    store = zarr.storage.ZipStore(str(path), mode="w")
    importlib.import_module("rsciio.zspy").file_writer(store, signal_of(PIXELS))


def mrc(path: Path) -> None:
    height, width = PIXELS.shape
    header = bytearray(1024)
    header[:16] = struct.pack("<4i", width, height, 1, 0)
    header[40:52] = struct.pack("<3f", 32.0, 24.0, 1.0)
    header[208:216] = b"MAP " + b"\x44\x44\0\0"
    path.write_bytes(bytes(header) + PIXELS.tobytes())


def dm3(path: Path) -> None:
    """The fewest tags that make an image for Digital Micrograph."""

    def group(tags: dict, named: bool = True) -> bytes:
        out = struct.pack(">BBI", 1, 0, len(tags))
        for name, value in tags.items():
            label = name.encode() if named and not name.isdigit() else b""
            out += struct.pack(">BH", 20 if isinstance(value, dict) else 21, len(label)) + label
            out += group(value) if isinstance(value, dict) else b"%%%%" + value
        return out

    def long(value: int) -> bytes:
        return struct.pack(">II", 1, 5) + struct.pack("<I", value)

    def real(value: float) -> bytes:
        return struct.pack(">II", 1, 6) + struct.pack("<f", value)

    def text(value: str) -> bytes:
        encoded = value.encode("utf-16-le")
        return struct.pack(">IIII", 3, 20, 4, len(value)) + encoded

    axis = {"Scale": real(0.01), "Origin": real(0.0), "Units": text("1/nm")}
    data = struct.pack(">IIII", 3, 20, 10, PIXELS.size) + PIXELS.tobytes()
    image = {
        "ImageData": {
            "Calibrations": {"Dimension": {"0": axis, "1": axis}, "Brightness": axis},
            "Data": data,
            "DataType": long(6),
            "Dimensions": {"0": long(PIXELS.shape[1]), "1": long(PIXELS.shape[0])},
            "PixelDepth": long(1),
        },
        "ImageTags": {"Meta Data": {"Format": text("Diffraction image")}},
        "Name": text("p"),
    }
    root = group({"ImageList": {"0": image}, "ImageSourceList": {"0": {"ImageRef": long(0)}}})
    path.write_bytes(struct.pack(">III", 3, len(root), 1) + root + b"\0" * 8)


def picture(path: Path) -> None:
    from PIL import Image

    Image.fromarray(PIXELS).save(path)


def tiff(path: Path) -> None:
    import tifffile

    tifffile.imwrite(path, PIXELS, compression="zlib" if "zip" in path.stem else None)


def ser(path: Path, stack: np.ndarray) -> None:
    """As TIA writes it: lines from below."""
    count, (height, width) = len(stack), stack.shape[1:]
    head = struct.pack("<HHHIIII", 0x4949, 0x0197, 0x210, 0x4122, 0x4152, count, count)
    dimension = struct.pack("<IddIII", count, 0.0, 1.0, 0, 0, 0)
    table = len(head) + 8 + len(dimension)
    first, size = table + 8 * count, 50 + 2 * stack[0].size
    places = [first + (size + 8) * i for i in range(count)]
    tags = [place + size for place in places]
    with path.open("wb") as file:
        file.write(head + struct.pack("<II", table, 1) + dimension)
        file.write(struct.pack(f"<{2 * count}I", *places, *tags))
        for frame in stack:
            file.write(struct.pack("<ddI", 0.0, 5e7, 0) * 2)
            file.write(struct.pack("<HII", 2, width, height))
            file.write(frame[::-1].tobytes() + struct.pack("<HHI", 0x4152, 0, 0))


def mib(path: Path, stack: np.ndarray) -> None:
    """As a Merlin detector writes it: lines from below."""
    height, width = stack.shape[1:]
    with path.open("wb") as file:
        for i, frame in enumerate(stack):
            words = f"MQ1,{i + 1:06d},00384,01,{width:04d},{height:04d},U16,   1x1,01,"
            words += f"2020-01-01 00:00:{i:02d}.000000,0.001000,0,0,1.2E+2,"
            words += "2020-01-01T00:00:00.000000000Z,1000000ns,12,"
            file.write(words.encode().ljust(384) + frame[::-1].astype(">u2").tobytes())


def stacked(path: Path, **how: object) -> None:
    import tifffile

    tifffile.imwrite(path, STACK, **how)


def jarvis(path: Path) -> None:
    record = {
        "jid": "JVASP-1",
        "atoms": {
            "lattice_mat": SHEET.cell.array.tolist(),
            "coords": SHEET.get_scaled_positions().tolist(),
            "elements": SHEET.get_chemical_symbols(),
        },
    }
    text = json.dumps([record])
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("d2.json", text)
    else:
        path.write_text(text)


def dd2d(path: Path) -> None:
    seq = [*SHEET.cell.cellpar(), *np.c_[SHEET.positions, SHEET.numbers].ravel()]
    path.write_text(json.dumps({"a": {"seq": [float(x) for x in seq] + ["", ""]}}))


def calibration(path: Path) -> None:
    path.write_text(
        json.dumps(
            {"material": "Au", "shape": [24, 32], "centre": [15.5, 11.5], "scale": 0.01,
             "ellipticity": 0.01, "axis": 3.0, "radial": 0.0, "stretch": [0.005, 0.0],
             "sigma": {"scale": 1e-5}, "rings": [0.42, 0.49], "explained": 0.9}
        )
    )  # fmt: skip


def weights(path: Path) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{"param/tok_emb.fc1.weight": np.ones((8, 1), np.float32)})
    path.write_bytes(buffer.getvalue())


def crystals_db(path: Path) -> None:
    tiny.write_db(path)


# Of each format: a name, and what writes a valid file.
TEXTS: dict[str, Callable[[Path], object]] = {
    "s.cif": lambda p: structure(p, "cif"),
    "s.vasp": lambda p: structure(p, "vasp"),
    "s.xyz": lambda p: structure(p, "extxyz"),
    "s.xsf": lambda p: structure(p, "xsf"),
    "d.json": dd2d,
    "jarvis.json": jarvis,
    "p.csv": lambda p: p.write_text(
        "qx,qy,intensity\n" + "\n".join(",".join(map(str, row)) for row in SPOTS)
    ),
    "p.json": lambda p: p.write_text(
        json.dumps({"q": [row[:2] for row in SPOTS], "intensity": [row[2] for row in SPOTS]})
    ),
    "x.json": lambda p: p.write_text(json.dumps({"X": [[1, 9, 5], [4, 4, 8], [0.0, -1.0, -2.0]]})),
    "camera.json": calibration,
}
BINARIES: dict[str, Callable[[Path], object]] = {
    "crystals.db": crystals_db,
    "jarvis.zip": jarvis,
    "spots.npy": lambda p: np.save(p, np.array(SPOTS)),
    "i.npy": lambda p: np.save(p, PIXELS),
    "i.png": picture,
    "i.jpg": picture,
    "i.tif": tiff,
    "zip.tif": tiff,
    "i.stack.tif": lambda p: stacked(p, photometric="minisblack", metadata=None),
    "i.imagej.tif": lambda p: stacked(p, imagej=True),
    "i.bmp": picture,
    "i.stack.npy": lambda p: np.save(p, STACK),
    "i.ser": lambda p: ser(p, STACK),
    "i.mib": lambda p: mib(p, STACK),
    "i.x_000.tvips": microscopy,
    "i.hspy": microscopy,
    "i.emd": microscopy,
    "i.blo": microscopy,
    "i.zspy": zipped_zspy,
    "i.mrc": mrc,
    "i.dm3": dm3,
    "w.npz": weights,
}

_NUMBERS = (
    b"0", b"-1", b"1e400", b"nan", b"inf", b"-0.0", b"1e-300", b"1e300", b"4294967296",
    b"99999999999999999999", b"1_000_000_000", b"2147483647", b"1000000000000", b"9" * 5000,
)  # fmt: skip
_INTEGERS = (0, 1, -1, 127, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62)
_SIGNS = (b"(", b"[", b"{", b'"', b"<", b"\n", b"\r", b"\0", b"\xff", b",", b";", b"_", b" ")


def spoiled(data: bytes, random: random.Random) -> bytes:
    """The bytes with one to four things done to them that a stranger may do."""
    out = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4))):
        place = random.randrange(len(out) + 1)
        kind = random.randrange(9)
        if kind == 0 and out:
            for _ in range(random.choice((1, 8))):
                out[random.randrange(len(out))] ^= 1 << random.randrange(8)
        elif kind == 1:
            del out[place:]
        elif kind == 2:
            del out[place : place + random.choice((1, 4, 64, 1000))]
        elif kind == 3:
            out[place:place] = random.randbytes(random.choice((1, 4, 64)))
        elif kind == 4:
            start = random.randrange(len(out) + 1)
            out[place:place] = out[start : start + random.choice((4, 64, 1000))]
        elif kind == 5:
            word = random.choice(_INTEGERS)
            size, order = random.choice((2, 4, 8)), random.choice(("little", "big"))
            word = (word % 2 ** (8 * size)).to_bytes(size, order)
            # The beginning, where headers are, as often as all else.
            place = min(place, random.randrange(300)) if random.random() < 0.5 else place
            out[place : place + size] = word
        elif kind == 6:
            found = list(re.finditer(rb"[-+.\d]*\d[-+.\deE]*", bytes(out[:100_000])))
            if found:
                one = random.choice(found)
                out[one.start() : one.end()] = random.choice(_NUMBERS)
        elif kind == 7:
            out[place:place] = random.choice(_SIGNS) * random.choice((1, 3, 500, 20_000))
        else:
            end = place + random.choice((1, 4, 64))
            out[place:end] = bytes(len(out[place:end]))
    return bytes(out)


class Slow(BaseException):
    """More processor time than any small file may take; nothing catches it on the way."""


@contextlib.contextmanager
def bounded(seconds: float, gigabytes: float = 3.0) -> Iterator[None]:
    """While the body runs, so much processor time and so much more memory are all there is."""

    def late(*_):
        raise Slow(f"more than {seconds} s")

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    used = pages * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + int(gigabytes * 2**30), before[1]))
    handler = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def asked_too_much(error: BaseException | None) -> bool:
    """Whether memory ran out behind an error: readers turn that, too, into a refusal."""
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False


def tree(folder: Path) -> dict[str, bytes]:
    """All that lies in a folder."""
    return {
        os.fspath(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def refused(read, path, words: str, kind: type = ValueError) -> None:
    """`read` refuses the file in one line that holds the words, within time and memory."""
    with bounded(20.0), pytest.raises(kind, match=words) as error:
        read(path)
    assert "\n" not in str(error.value) and not asked_too_much(error.value)


class Canary:
    """Leaves a file where it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")
