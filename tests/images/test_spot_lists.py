"""Lists of spots: whatever unit, separator and decimals they have, the same spots come out."""

import dataclasses
import json
import math

import numpy as np
import pytest

import diffraction as dx
from dd2d_jax.images.patterns import read, read_pattern, write_pattern
from dd2d_jax.util.errors import PatternError

ROWS = np.array(
    [[0.3125, 0.125, 5.5], [-0.3125, -0.125, 4.5], [0.125, 0.375, 2.0], [-0.125, -0.375, 1.25]]
)


def text(head: str, factor: float = 1.0, separator: str = ",", comma: bool = False) -> str:
    lines = [separator.join(repr(float(x)) for x in row) for row in ROWS * [factor, factor, 1]]
    return "\n".join([head] * bool(head) + [x.replace(".", ",") if comma else x for x in lines])


TWO_PI = 2 * math.pi
NM = 10.0


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (text("qx (1/nm),qy (1/nm),intensity (a.u.)", NM), "times 0.1"),
        (text("qx [nm^-1],qy [nm^-1],I", NM), "times 0.1"),
        (text("q_x / nm^-1;q_y / nm^-1;Intensity", NM, ";"), "times 0.1"),
        (text("qx (1/nm)\tqy (1/nm)\tcounts", NM, "\t"), "times 0.1"),
        (text("# q in 1/nm\nqx qy intensity", NM, " "), "times 0.1"),
        (text("qx (rad/A),qy (rad/A),intensity", TWO_PI), "with 2 pi"),
        (text("# q = 2 pi / d\nqx,qy,intensity", TWO_PI), "with 2 pi"),
        (text("kx (2π/Å),ky (2π/Å),intensity", TWO_PI), "with 2 pi"),
        (text("qx (1/m),qy (1/m),intensity", 1e10), "times 1e-10"),
        (text("qx,qy,intensity", 1, ";", True), ""),
        (text("qx\tqy\tintensity", 1, "\t", True), ""),
        (text("", 1, " ", True), ""),
        (text("gx (1/Å),gy (1/Å),intensity"), ""),
    ],
)
def test_units_and_decimals_are_those_of_the_file(tmp_path, content, told):
    (tmp_path / "p.txt").write_text(content, encoding="utf-8")
    pattern, _, notes = read(tmp_path / "p.txt")
    np.testing.assert_allclose(np.c_[pattern.q, pattern.intensity], ROWS, rtol=1e-6)
    assert told in " ".join(notes) and bool(told) == bool(notes)


def test_what_is_done_to_a_list_is_a_warning_in_python(tmp_path):
    (tmp_path / "p.csv").write_text(text("qx (1/nm),qy (1/nm),intensity", NM))
    with pytest.warns(UserWarning, match="converted to 1/angstrom"):
        read_pattern(tmp_path / "p.csv")


def test_angles_become_q_with_the_energy_alone(tmp_path):
    wavelength = float(dx.Electrons(200.0).wavelength)
    path = tmp_path / "p.csv"
    path.write_text(text("qx (mrad),qy (mrad),intensity", 1000 * wavelength))
    with pytest.raises(PatternError, match="--energy"):
        read(path)
    np.testing.assert_allclose(read(path, energy=200.0).pattern.q, ROWS[:, :2], rtol=1e-5)
    path.write_text(path.read_text() + "\n# energy: 200 kV\n")
    pattern = read(path).pattern
    np.testing.assert_allclose(pattern.q, ROWS[:, :2], rtol=1e-5)
    assert pattern.energy == 200.0


def test_pixels_become_q_with_a_scale_about_the_centre_of_inversion(tmp_path):
    places = np.array([256.25, 250.5]) + ROWS[:, :2] / 0.005 * [1, -1]
    rows = "\n".join(f"{x},{y},{i}" for (x, y), i in zip(places, ROWS[:, 2], strict=True))
    path = tmp_path / "p.csv"
    path.write_text(f"x (px),y (px),intensity\n{rows}\n256.25,250.5,1000")
    with pytest.raises(PatternError, match="in pixels; give scale"):
        read(path)
    for centre in (None, (256.25, 250.5)):
        found = read(path, scale=0.005, centre=centre).pattern
        np.testing.assert_allclose(found.q, ROWS[:, :2], atol=1e-6)
    path.write_text(f"x,y,intensity\n{rows}")
    with pytest.raises(PatternError, match=r"write x \(px\)"):
        read(path)


@pytest.mark.parametrize(("factor", "inner"), [(NM, "1/nm"), (TWO_PI, "2 pi"), (0.1, "only")])
def test_q_that_is_hardly_in_1_per_angstrom_is_asked_about(tmp_path, factor, inner):
    (tmp_path / "p.csv").write_text(text("qx,qy,intensity", factor))
    assert inner in " ".join(read(tmp_path / "p.csv").notes)


def test_q_that_no_pattern_has_and_units_that_differ_are_refused(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text(text("qx,qy,intensity", 500))
    with pytest.raises(PatternError, match="is it in pixels"):
        read(path)
    path.write_text(text("qx (1/nm),qy (1/A),intensity"))
    with pytest.raises(PatternError, match="different units"):
        read(path)
    path.write_text(text("qx (apples),qy (apples),intensity"))
    assert "'apples' of q is not known; 1/angstrom is taken" in read(path).notes[0]


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_the_energy_is_written_and_read(tmp_path, suffix):
    path = tmp_path / f"p{suffix}"
    (tmp_path / "p.txt").write_text(text("qx,qy,intensity"))
    write_pattern(read(tmp_path / "p.txt", energy=60.0).pattern, path)
    assert read(path).pattern.energy == 60.0
    assert read(path, energy=80.0).pattern.energy == 80.0
    assert len(read(path).pattern.q) == 4


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_that_intensities_may_be_a_power_of_counts_is_written_and_read(tmp_path, suffix):
    path = tmp_path / f"p{suffix}"
    (tmp_path / "p.txt").write_text(text("qx,qy,intensity"))
    counts = read(tmp_path / "p.txt").pattern
    assert counts.power_error is None
    write_pattern(dataclasses.replace(counts, power_error=0.2), path)
    assert read(path).pattern.power_error == 0.2
    path.write_text(path.read_text().replace("0.2", "7.0"))
    with pytest.raises(PatternError, match="power error must be a number above 0"):
        read(path)


def test_an_energy_in_volts_is_asked_about(tmp_path):
    path = tmp_path / "p.json"
    path.write_text(json.dumps({"q": ROWS[:, :2].tolist(), "intensity": [1] * 4, "energy": 80000}))
    with pytest.raises(PatternError, match="p.json: an energy of 80000 keV.*is this in eV.*80 keV"):
        read(path)
    with pytest.raises(PatternError, match="is this in eV"):
        read(path, energy=2e5)


@pytest.mark.parametrize(
    "name", ["comma_semicolon.csv", "comma_tab.txt", "nm_header.csv", "nm_brackets.csv"]
)
def test_lists_as_users_have_them_hold_the_lattice_of_ws2(shared_data, name):
    q = np.asarray(read(shared_data / "cases" / name).pattern.q)
    assert np.linalg.norm(q, axis=1).min() == pytest.approx(2 / math.sqrt(3) / 3.18, rel=1e-4)
