"""Files from strangers: a result or one clear line, within bounds, and nothing in them is run.

DD2D_FUZZ=SECONDS spoils each format for so long, with other files each time; without it the same
files are tried every time.
"""

from __future__ import annotations

import functools
import os
import random
import time

import numpy as np
import pytest
from untrusted import BINARIES, TEXTS, bounded, spoiled, tree

from dd2d_jax import datasets, sources
from dd2d_jax.calibrate import Calibration
from dd2d_jax.lattice import PatternError
from dd2d_jax.limits import read_npz
from dd2d_jax.patterns import read_pattern
from dd2d_jax.readers import read_image
from dd2d_jax.structures import StructureError, layer, read_frames

SECONDS = float(os.environ.get("DD2D_FUZZ", 0))
COUNT = 60


def structures(path) -> None:
    for frame in read_frames(path):
        layer(frame)


def crystals(source, path) -> None:
    entries, _ = sources.READERS[source](path)
    datasets.from_atoms(entries)


def pattern(path) -> None:
    found = read_pattern(path, scale=0.01 if path.name == "x.json" else None)
    assert np.isfinite(np.asarray(found.q)).all() and np.isfinite(np.asarray(found.intensity)).all()


def image(path) -> None:
    found = read_image(path)
    assert found.pixels.ndim == 2 and found.pixels.dtype == float


READERS = {
    **dict.fromkeys(("s.cif", "s.vasp", "s.xyz", "s.xsf"), (structures, StructureError)),
    "crystals.db": (functools.partial(crystals, "ase_db"), ValueError),
    "d.json": (functools.partial(crystals, "dd2d_json"), ValueError),
    "jarvis.json": (functools.partial(crystals, "jarvis_2d"), ValueError),
    "jarvis.zip": (functools.partial(crystals, "jarvis_2d"), ValueError),
    **dict.fromkeys(("p.csv", "p.json", "x.json", "spots.npy"), (pattern, PatternError)),
    **{name: (image, PatternError) for name in BINARIES if name.startswith(("i.", "zip."))},
    "camera.json": (Calibration.load, PatternError),
    "w.npz": (read_npz, ValueError),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*TEXTS, *BINARIES])
def test_a_spoiled_file_is_read_or_refused_in_one_line(tmp_path, name):
    if name.endswith(("hspy", "zspy", "emd", "blo", "mrc", "dm3")):
        pytest.importorskip("rsciio")
    path, (read, refusal) = tmp_path / name, READERS[name]
    {**TEXTS, **BINARIES}[name](path)
    read(path)
    data, end = path.read_bytes(), time.monotonic() + SECONDS
    number = time.time_ns() if SECONDS else 0
    refused, last = 0, number + COUNT
    while time.monotonic() < end if SECONDS else number < last:
        number += 1
        path.write_bytes(spoiled(data, random.Random(f"{name} {number}")))
        before = tree(tmp_path)
        try:
            with bounded(20.0):
                read(path)
        except refusal as error:
            refused += 1
            text = str(error)
            assert text and "\n" not in text and len(text) < 2000, number
        except BaseException as error:
            kept = f"/tmp/spoiled-{number}-{name}"
            open(kept, "wb").write(before[name])
            raise AssertionError(f"{name} {number}, kept as {kept}: {error!r:.300}") from error
        assert tree(tmp_path) == before, number
    assert refused
