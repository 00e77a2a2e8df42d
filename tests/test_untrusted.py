"""Files from strangers: a result or one clear line, within bounds, and nothing in them is run.

DD2D_FUZZ=SECONDS spoils each format for so long, with other files each time; without it the same
files are tried every time.
"""

from __future__ import annotations

import functools
import json
import os
import random
import re
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from untrusted import BINARIES, TEXTS, asked_too_much, bounded, spoiled, tree

from dd2d_jax.crystals.structure_files import read_frames
from dd2d_jax.crystals.structures import layer
from dd2d_jax.data import sources, usable
from dd2d_jax.images.calibration import Calibration
from dd2d_jax.images.patterns import read_pattern
from dd2d_jax.images.readers import read_image
from dd2d_jax.libraries.library import Library
from dd2d_jax.networks.trained import load
from dd2d_jax.reports import html_page
from dd2d_jax.util.errors import CheckpointError, LibraryError, PatternError, StructureError
from dd2d_jax.util.limits import read_npz
from dd2d_jax.util.text import inert, printable, safe_name

SECONDS = float(os.environ.get("DD2D_FUZZ", 0))
COUNT = 60


def structures(path) -> None:
    for frame in read_frames(path):
        layer(frame)


def crystals(source, path) -> None:
    entries, _ = sources.READERS[source](path)
    usable.from_atoms(entries)


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


def kept(data: bytes, number: int, name: str) -> str:
    """Where a file on which a test failed was put."""
    path = Path(f"/tmp/spoiled-{number}-{name}")
    path.write_bytes(data)
    return f"kept as {path}"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*TEXTS, *BINARIES])
def test_a_spoiled_file_is_read_or_refused_in_one_line(tmp_path, name):
    if name.endswith(("hspy", "zspy", "emd", "blo", "mrc", "dm3", "ser", "mib", "tvips")):
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
            assert not asked_too_much(error), kept(before[name], number, name)
            assert text and "\n" not in text and len(text) < 2000, number
        except BaseException as error:
            where = kept(before[name], number, name)
            raise AssertionError(f"{where}: {error!r:.300}") from error
        assert tree(tmp_path) == before, number
    assert refused


KEYS = (
    "q", "intensity", "hk", "sigma", "X", "seq", "atoms", "elements", "coords", "lattice_mat",
    "cartesian", "jid", "format", "model", "report", "shards", "crystals", "sha256", "name",
    "scale", "radial", "stretch", "centre", "shape", "material", "rings", "explained", "width",
    "diffraction", "tokens", "layers", "rows", "kept", "skipped", "duplicates",
)  # fmt: skip
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner),
    max_leaves=12,
)


def checkpoint(path) -> None:
    path.replace(path.with_name("config.json"))
    load(path.parent)


@pytest.mark.parametrize(
    ("read", "refusal"),
    [
        (pattern, PatternError),
        (Calibration.load, PatternError),
        (functools.partial(crystals, "dd2d_json"), ValueError),
        (functools.partial(crystals, "jarvis_2d"), ValueError),
        (lambda path: Library.load(path.parent), LibraryError),
        (checkpoint, CheckpointError),
    ],
)
def test_any_json_is_read_or_refused_in_one_line(tmp_path, read, refusal):
    @settings(
        max_examples=100 if SECONDS else 25, derandomize=not SECONDS, deadline=None, database=None
    )
    @given(JSONS)
    def check(value):
        path = tmp_path / "manifest.json"
        path.write_text(json.dumps(value))
        try:
            with bounded(20.0):
                read(path)
        except refusal as error:
            assert "\n" not in str(error)

    check()


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.sampled_from("a=+-@\t\r\n＝＋－＠<\"'"), st.text(max_size=60))
def test_names_of_strangers_stay_text(first, rest):
    name = first + rest
    page = html_page._environment().from_string("<p title='{{ name }}'>{{ name }}</p>")
    shown = page.render(name=name)
    inner = shown.removeprefix("<p title='").removesuffix("</p>").replace("'>", "", 1)
    assert not set("<>\"'") & set(inner)
    assert printable(name).isprintable()
    assert re.fullmatch("[A-Za-z0-9_-]{1,40}", safe_name(name))
    assert inert(name)[:1] not in tuple("=+-@\t\r\n＝＋－＠")
