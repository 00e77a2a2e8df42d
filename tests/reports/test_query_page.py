"""The page of a query: everything on it, nothing from elsewhere, no text from files as a tag."""

import base64
import dataclasses
import re

import jax
import numpy as np
import pytest
from ase.build import mx2
from test_output import make_found, make_twisted

import diffraction as dx
from dd2d_jax.images.measurement import measure
from dd2d_jax.images.readers import Image
from dd2d_jax.lattices import lattice
from dd2d_jax.reports import overlay
from dd2d_jax.reports.query_page import page


def words(text: str) -> str:
    return " ".join(re.sub("<[^>]*>", " ", re.sub(r'"data:[^"]*"', "", text)).split())


def test_every_candidate_is_there_with_its_numbers_and_files():
    found = make_found(count=3)
    names = [f"uid-{i}" for i in range(3)]
    candidates = [dataclasses.replace(c, uid=u) for c, u in zip(found, names, strict=True)]
    made = page(dataclasses.replace(found, candidates=tuple(candidates)))
    text = words(made)
    for name in names:
        assert text.count(name) >= 2  # in the table and below its picture
    for part in ("42.1", "0.90", "0.200 → 0.100", "0.250 → 0.150", "None of these: 15.8 %",
                 "z of S1, S2; B", "3.180"):  # fmt: skip
        assert part in text
    assert made.count("<img") == 1 + 3
    files = re.findall(r'download="(\d\d_MoS2.cif)"', made)
    assert set(files) == {"01_MoS2.cif", "02_MoS2.cif", "03_MoS2.cif"}
    data = re.search(r'href="data:chemical/x-cif;base64,([^"]*)"', made)[1]
    assert b"_cell_length_a" in base64.b64decode(data)


def test_the_page_beside_the_files_links_them_and_loads_nothing(tmp_path):
    make_twisted(count=1).write(tmp_path / "out")
    made = (tmp_path / "out/page.html").read_text("utf-8")
    links = set(re.findall(r'href="([^"]*)"', made))
    assert links == {"01_MoS2.cif", "lattice2/01_MoS2.cif"}
    assert all((tmp_path / "out" / target).is_file() for target in links)
    assert all(source.startswith("data:image/png;base64,") for source in
               re.findall(r'src="([^"]*)"', made))  # fmt: skip
    bare = re.sub(r'"data:[^"]*"', "", made).replace("http-equiv", "")
    assert "<script" not in bare and "http" not in bare and "url(" not in bare
    assert "default-src 'none'" in made
    assert "Lattice 2, turned by 7.00 ± " in words(made)


def test_text_from_files_never_becomes_a_tag():
    hostile = '"><script>alert(1)</script>\x1b'
    made = page(make_found(uid=hostile, formula=hostile, count=1), title=hostile)
    assert "<script" not in made and "\x1b" not in made
    assert "&quot;&gt;&lt;script&gt;" in made


def test_what_is_not_known_is_not_shown_as_a_number():
    nan = float("nan")
    text = words(page(make_found(probability=nan, none=nan, undetermined=())))
    assert "nan" not in text and "None of these" not in text and "not determined" not in text


def janus() -> tuple[dx.Pattern, lattice.Indexed]:
    """A layer whose pattern has few symmetries, turned."""
    atoms = mx2("MoS2", vacuum=8)
    atoms.positions[1, :2] += (0.3, 0.2)
    pattern = dx.simulate(dx.Crystal.from_ase(atoms), q_max=0.9, b_iso=0.5)
    c, s = np.cos(0.6), np.sin(0.6)
    pattern = dataclasses.replace(pattern, q=pattern.q @ np.array([[c, s], [-s, c]], np.float32))
    return atoms, pattern, lattice.find(pattern)


def candidate_of(atoms, indexed):
    """As retrieval makes it, in the setting whose indices are the structure's own."""
    made = make_found(count=1)[0]
    settings = lattice.canonical_spots(indexed, 0.9, 64)
    axes = lattice.frames(indexed)
    crystal = dx.Crystal.from_ase(atoms)
    errors = []
    for s in range(len(settings.q)):
        hk, measured = settings.hk[s], settings.measured[s].T
        both = dx.simulate(crystal, q_max=2.0, b_iso=0.5, hk=np.concatenate([hk, -hk]))
        truth = np.asarray(both.intensity).reshape(2, -1)[measured]
        errors.append(np.abs(truth / truth.max() - settings.intensity[s].T[measured]).max())
    best = int(np.argmin(errors))
    assert errors[best] < 1e-3
    query = jax.tree.map(lambda x: x[best], settings)
    return dataclasses.replace(
        made, structure=atoms, query=query, axes=axes[best], simulated=query.intensity, b_iso=0.5
    )


def test_the_right_crystal_predicts_every_spot_where_and_as_strong_as_it_is():
    atoms, pattern, indexed = janus()
    predicted = overlay.predict(candidate_of(atoms, indexed), indexed)
    assert predicted.seen.all() and not predicted.hidden.any()
    away = np.linalg.norm(predicted.q[:, None] - indexed.q[None], axis=-1)
    assert away.min(1).max() < 1e-3
    np.testing.assert_allclose(predicted.intensity, indexed.intensity[away.argmin(1)], atol=2e-3)
    strong = indexed.intensity > 1.1 * overlay.FAINT
    assert (away.min(0)[strong] < 1e-3).all()


def test_a_spot_that_is_missing_is_told_from_one_that_was_not_measured():
    atoms, pattern, indexed = janus()
    candidate = candidate_of(atoms, indexed)
    scale, size = 0.01, 256
    image = np.array(dx.render(pattern, (size, size), scale, fwhm=0.03))
    image = image / image.max() * 1e4 + 20
    measured = measure(Image(np.random.default_rng(0).poisson(image).astype(float)), scale)
    found = lattice.find(measured.pattern)
    predicted = overlay.predict(candidate, found, measured)
    # What lies on the image is where its spots are.
    pixel = measured.spots.centre + measured.mapping.pixels(predicted.q[predicted.seen])
    away = np.linalg.norm(pixel[:, None] - measured.spots.position[None], axis=-1).min(1)
    assert predicted.seen.sum() > 10 and away.max() < 1.5
    gone = int(np.argmax(predicted.seen))
    near = np.linalg.norm(found.q - predicted.q[gone], axis=1) < 0.02
    fewer = dataclasses.replace(
        found, **{f: getattr(found, f)[~near] for f in ("q", "hk", "intensity", "spots")}
    )
    again = overlay.predict(candidate, fewer, measured)
    assert not again.seen[gone] and not again.hidden[gone]
    area = measured.spots.measured.copy()
    area[tuple(np.rint(pixel[0][::-1]).astype(int))] = False
    blind = dataclasses.replace(measured, spots=dataclasses.replace(measured.spots, measured=area))
    assert overlay.predict(candidate, fewer, blind).hidden[gone]
    figure = overlay.plot_overlay(fewer, again, measured)
    labels = [t.get_text() for t in figure.axes[0].get_legend().get_texts()]
    assert f"found ({len(fewer.q)})" in labels
    assert any(label.startswith("predicted, not found") for label in labels)


@pytest.mark.parametrize("count", [0, 1])
def test_a_page_of_nothing_is_a_page(count):
    assert "None of these" in words(page(make_found(count=count)))
