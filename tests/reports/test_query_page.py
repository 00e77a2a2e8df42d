"""The page of a query: everything on it, nothing from elsewhere, no text from files as a tag."""

import base64
import dataclasses
import io
import json
import re

import ase.io
import html_pages
import numpy as np
import pytest
from ase.build import mx2
from found_example import make_found, make_twisted
from html_pages import words

import diffraction as dx
from dd2d_jax.images.measurement import measure
from dd2d_jax.images.readers import Image
from dd2d_jax.lattices import lattice
from dd2d_jax.lattices.notes import notes
from dd2d_jax.reports import query_page
from dd2d_jax.reports.query_page import DRAWN, page


def test_every_candidate_is_there_with_its_numbers():
    found = make_found(count=3)
    names = [f"uid-{i}" for i in range(3)]
    candidates = [dataclasses.replace(c, uid=u) for c, u in zip(found, names, strict=True)]
    made = page(dataclasses.replace(found, candidates=tuple(candidates)))
    html_pages.check(made)
    text = words(made)
    for name in names:
        assert text.count(name) >= 2  # in the table and beside its pictures
    for part in ("42.1", "0.90", "0.200 → 0.100", "0.250 → 0.150", "made this pattern: 15.8 %",
                 "z of S1, S2; B", "3.180", "{1 0}", "layer group p-6m2",
                 "0.012 eV/atom above", "strained by +1.00 %"):  # fmt: skip
        assert part.lower() in text.lower(), part


def test_the_head_says_where_it_all_comes_from():
    about = {"file": "mine.csv", "command": "dd2d retrieve mine.csv", "library": "my library"}
    text = words(page(make_found(probability=0.95, none=0.01), about=about))
    start = text.index("Crystals that may have made mine.csv")
    assert text.index("The crystal is MoS2 (mp-1), with a probability of 95.0 %.") > start
    assert "command dd2d retrieve mine.csv" in text
    assert "library my library; 42 crystals searched" in text and "energy not given" in text


def test_an_angle_of_nearly_nothing_has_no_sign():
    found = make_found(count=1)
    turned = dataclasses.replace(found.indexed, lattice=np.array([[3.18, -1e-5], [-1.59, 2.754]]))
    assert "a lies at 0.00 ±" in words(page(dataclasses.replace(found, indexed=turned)))


def test_a_superlattice_and_other_cells_are_told():
    found = make_found(count=1)
    satellites = np.arange(len(found.indexed.q)) % 3 > 0
    indexed = dataclasses.replace(
        found.indexed, parent=3 * np.eye(2, dtype=int), satellites=satellites,
        alternatives=(np.diag([4.0, 5.0]),), notes=("the beam is off the centre",),
    )  # fmt: skip
    text = words(page(dataclasses.replace(found, indexed=indexed)))
    assert f"{satellites.sum()} of its spots are weak satellites" in text
    assert "superlattice of a main cell 1.060 × 1.060 Å, 120.0°" in text
    assert "do not rule out: 4.000 × 5.000 Å, 90.0°. The beam is off the centre." in text


def test_cells_that_the_lattices_notes_tell_too_are_told_once():
    found = make_found(count=1)
    seen = dataclasses.replace(
        found.indexed, parent=3 * np.eye(2, dtype=int), alternatives=(np.diag([4.0, 5.0]),),
        satellites=np.arange(len(found.indexed.q)) % 3 > 0,
    )  # fmt: skip
    seen = dataclasses.replace(seen, notes=(*notes(seen, len(seen.q), None), "a doubt"))
    assert len(seen.notes) == 3
    text = words(page(dataclasses.replace(found, indexed=seen)))
    told = text[text.index("The uncertainties") : text.index("Probability that no crystal")]
    assert told.count("superlattice") == told.count("do not rule out") == 1
    assert told.rstrip().endswith("A doubt.")


def test_structures_are_in_the_page_as_files_to_save():
    elements = html_pages.check(page(make_found(count=2)))
    files = {a["download"]: a["href"] for tag, a in elements if "download" in a}
    assert set(files) == {f"{i:02d}_MoS2.{kind}" for i in (1, 2) for kind in ("cif", "vasp")}
    for name, kind in (("01_MoS2.cif", "cif"), ("02_MoS2.vasp", "vasp")):
        data = base64.b64decode(files[name].split(",")[1]).decode()
        file = io.BytesIO(data.encode()) if kind == "cif" else io.StringIO(data)
        atoms = ase.io.read(file, format=kind)
        assert atoms.get_chemical_formula("metal") == "MoS2"
        np.testing.assert_allclose(atoms.cell.lengths()[:2], 3.18, atol=1e-3)


def test_a_page_beside_files_needs_none_of_them(tmp_path):
    make_twisted(count=1).write(tmp_path / "out")
    made = (tmp_path / "out/page.html").read_text("utf-8")
    html_pages.check(made)
    assert "Lattice 2, rotated by 7.00 ± " in words(made)
    assert (tmp_path / "out/lattice2/01_MoS2.cif").is_file()


def test_each_candidate_has_an_overlay_to_choose():
    found = make_found(count=3)
    elements = html_pages.check(page(found))
    picks = [a for tag, a in elements if tag == "input" and a.get("type") == "radio"]
    assert [a["value"] for a in picks] == ["1", "2", "3"]
    assert ["checked" in a for a in picks] == [True, False, False]
    groups = [a["class"] for tag, a in elements if tag == "g" and "predicted" in a["class"]]
    assert groups == [f"of of-{i} predicted" for i in (1, 2, 3)]
    made = page(found)
    tips = re.findall(r"<title>(h k[^<]*)</title>", made)
    assert len(tips) >= 3 * len(found.indexed.q)
    pattern = r"h k = -?\d+ -?\d+; q = \d\.\d{4} 1/Å; I observed = [\d.]+; I calculated = [\d.]+"
    assert all(re.fullmatch(pattern, tip) for tip in tips)


def test_structures_for_scripts_are_data_and_no_script():
    made = page(make_found(count=1))
    (model,) = re.findall(r'<script type="application/json" id="model-1-1">(.*?)</script>', made)
    data = json.loads(model)
    assert set(data["symbols"]) == {"Mo", "S"} == set(data["colours"])
    assert len(data["positions"]) == len(data["symbols"]) > 20
    assert np.max(data["bonds"]) < len(data["symbols"])


def test_scripts_and_licence_of_others_are_there_once():
    made = page(make_twisted(count=2))
    assert made.count("root[\"3Dmol\"]=factory()") == 1
    assert made.count("University of Pittsburgh") == 1


def test_text_from_files_never_becomes_a_tag():
    hostile = '"></title></script><script>alert(1)</script>\x1b'
    found = make_found(uid=hostile, formula=hostile, count=1)
    candidate = dataclasses.replace(found[0], prototype=hostile, undetermined=(hostile,))
    found = dataclasses.replace(found, candidates=(candidate,))
    made = page(found, about=dict.fromkeys(("file", "command", "library"), hostile))
    elements = html_pages.check(made)
    clean = html_pages.check(page(make_found(count=1)))
    scripts = [[tag for tag, _ in each].count("script") for each in (elements, clean)]
    assert scripts[0] == scripts[1] and "\x1b" not in made
    assert "<script>alert" not in made and "&lt;script&gt;alert(1)" in made


def test_what_is_not_known_is_not_shown_as_a_number():
    nan = float("nan")
    text = words(page(make_found(probability=nan, none=nan, undetermined=())))
    assert "nan" not in text.lower().split() and "made this pattern:" not in text
    assert "left open" not in text


@pytest.mark.parametrize("count", [0, 1])
def test_a_page_of_nothing_is_a_page(count):
    made = page(make_found(count=count))
    html_pages.check(made)
    assert "made this pattern: 15.8 %" in words(made)


def test_a_page_of_very_many_stays_small():
    made = page(make_found(count=DRAWN + 30))
    html_pages.check(made)
    assert len(made.encode()) < 5e6
    text = words(made)
    assert "30 more candidates are in the table only" in text and f" {DRAWN + 30} MoS2" in text


@pytest.mark.parametrize(("marks", "count"), [(1, 1), (450, 2), (10**6, 4)])
def test_fewer_candidates_are_drawn_where_each_needs_many_marks(marks, count, monkeypatch):
    monkeypatch.setattr(query_page, "_MARKS", marks)
    made = page(make_found(count=4))
    html_pages.check(made)
    assert made.count('class="card"') == made.count('type="radio"') == count
    assert made.count('href="#candidate-1-') == count


@pytest.fixture(scope="module")
def measured():
    """An image of 700 pixels with a beam stop, and its lattice."""
    pattern = dx.simulate(dx.Crystal.from_ase(mx2("MoS2", vacuum=8)), q_max=0.9, b_iso=0.5)
    size, scale = 700, 0.003
    image = np.array(dx.render(pattern, (size, size), scale, fwhm=0.03))
    image = np.random.default_rng(0).poisson(image / image.max() * 1e4 + 20).astype(float)
    seen = measure(Image(image, energy=80.0), scale)
    return seen, lattice.find(seen.pattern)


def test_the_image_is_below_the_spots_and_the_page_stays_small(measured):
    seen, indexed = measured
    found = dataclasses.replace(make_found(count=4), indexed=indexed)
    made = page(found, seen)
    elements = html_pages.check(made)
    assert len(made.encode()) < 5e6
    pictures = [a["href"] for tag, a in elements if tag == "image"]
    assert pictures[0].startswith("data:image/jpeg") and len(pictures) <= 2
    assert "scale 0.003 1/Å per pixel" in words(made) and "energy 80 keV" in words(made)
    # Rings of found spots lie where the image is bright.
    from PIL import Image as Pictures

    picture = Pictures.open(io.BytesIO(base64.b64decode(pictures[0].split(",")[1])))
    levels = np.asarray(picture, float)
    circles = re.search(r'<g class="found">(.*?)</g>', made, re.DOTALL)[1]
    places = re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', circles)
    places = np.array(places, float) * levels.shape[1] / 1000
    rows, columns = (places[:, i].astype(int) for i in (1, 0))
    assert len(places) == len(indexed.q)
    assert levels[rows, columns].min() > np.median(levels) + 30
