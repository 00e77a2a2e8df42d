"""`dd2d simulate`: what the detector sees, turned patterns, and crystals that no library holds."""

import json
from pathlib import Path

import ase.build
import ase.io
import numpy as np
import pytest

import diffraction as dx
from dd2d_jax.images.patterns import read_pattern
from dd2d_jax.images.readers import read_image

SHEET = ase.build.mx2("MoS2", a=3.18, vacuum=8)
IMAGE = "simulate mos2.cif --q-max 1 --image i.tif"


@pytest.fixture
def dd2d(tmp_path, monkeypatch, command_line):
    """Runs a command line in a folder with MoS2; status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    ase.io.write("mos2.cif", SHEET)
    return command_line


def image(dd2d, options: str = "") -> np.ndarray:
    status, _, err = dd2d(f"{IMAGE} {options}")
    assert status == 0, err
    return read_image("i.tif").pixels


def test_the_detector_has_the_size_stop_beam_and_halo_that_were_asked_for(dd2d):
    plain = image(dd2d)
    assert plain.shape == (512, 512)
    wide = image(dd2d, "--size 256 --halo 1.5 --beam 20")
    assert wide.shape == (256, 256)
    assert wide.sum() / plain.sum() == pytest.approx(1 + 1.5 + 20, rel=1e-3)
    stopped = image(dd2d, "--size 256 --halo 1.5 --beam 20 --beam-stop")
    rows, columns = np.indices((256, 256)) - 127.5
    near = np.hypot(rows, columns) * 2.2 / 256 < 0.075
    assert (stopped[near] == 0).all() and (stopped[200:, 127] == 0).all()
    seen = stopped > 0
    np.testing.assert_array_equal(stopped[seen], wide[seen])
    assert (image(dd2d, "--size 256 --halo 1 --beam-stop 0.3") == 0).sum() > (~seen).sum()


def test_a_rotation_turns_spots_and_image_alike(dd2d):
    assert dd2d("simulate mos2.cif --q-max 1 --output a.csv")[0] == 0
    assert dd2d(f"{IMAGE} --rotation 90 --output b.csv")[0] == 0
    a, b = read_pattern("a.csv"), read_pattern("b.csv")
    np.testing.assert_allclose(b.q, np.asarray(a.q) @ [[0, 1], [-1, 0]], atol=1e-6)
    turned = read_image("i.tif").pixels
    np.testing.assert_allclose(turned, np.rot90(image(dd2d)), atol=1e-3 * turned.max())
    assert a.energy is None
    assert dd2d("simulate mos2.cif --q-max 1 --energy 200 --output c.csv")[0] == 0
    assert read_pattern("c.csv").energy == 200.0


@pytest.mark.parametrize("option", ["--size 64", "--halo 1", "--beam 1", "--beam-stop"])
def test_what_is_of_an_image_needs_one(dd2d, option):
    status, _, err = dd2d(f"simulate mos2.cif {option}")
    assert status == 1 and f"{option.split()[0]} needs --image" in err


def test_a_mixed_site_scatters_as_the_mean_of_its_elements(dd2d):
    text = Path("mos2.cif").read_text()
    for name, share in (("mixed", 0.25), ("half", 0.5)):
        mixed = [
            line.replace("1.0000", str(1 - share))
            + "\n"
            + line.replace(" Mo ", " W ").replace("Mo1", "W1").replace("1.0000", str(share))
            if line.split()[:1] == ["Mo"]
            else line
            for line in text.replace("_chemical_formula_sum", "_dd2d_none").splitlines()
        ]
        Path(f"{name}.cif").write_text("\n".join(mixed) + "\n")
    spots = {}
    for name in ("mos2", "mixed", "half"):
        status, out, err = dd2d(f"simulate {name}.cif --q-max 0.7 --json")
        assert status == 0, err
        assert ("it is not checked whether its atoms form a layer" in err) == (name != "mos2")
        spots[name] = {tuple(hk): x for hk, x in zip(*map(json.loads(out).get, ("hk", "intensity")),
                       strict=True)}  # fmt: skip
    for hk in ((1, 1), (-1, 2)):
        # F is linear in the share of tungsten, real for these spots.
        f0, f1, f2 = (np.sqrt(spots[name][hk]) for name in ("mos2", "mixed", "half"))
        assert f1 - f0 == pytest.approx(f2 - f1, rel=0.02) and f1 > f0


def test_more_atoms_than_a_library_takes_are_simulated(dd2d):
    ase.io.write("many.vasp", SHEET.repeat((19, 19, 1)))
    status, out, err = dd2d("simulate many.vasp --q-max 0.7 --json")
    assert status == 0, err
    status, expected, _ = dd2d("simulate mos2.cif --q-max 0.7 --json")
    found, expected = json.loads(out), json.loads(expected)
    strong = [i for i, x in enumerate(found["intensity"]) if x > 1]
    assert len(strong) == len(expected["q"])
    total, one = sum(found["intensity"]), sum(expected["intensity"])
    assert total == pytest.approx(one * 19**4, rel=1e-3)
    status, _, err = dd2d("simulate many.vasp --q-max 12")
    assert status == 1 and "are too many for --q-max 12" in err


def test_a_formula_that_contradicts_the_atoms_is_said(dd2d):
    text = Path("mos2.cif").read_text().replace('"Mo1 S2"', '"Mo1 S1"')
    Path("wrong.cif").write_text(text)
    status, _, err = dd2d("simulate wrong.cif --q-max 0.7")
    assert status == 0 and "the CIF says 'Mo1 S1', but its atoms are Mo1 S2" in err


def test_simulate_prints_the_strongest_spots(dd2d):
    status, out, err = dd2d("simulate mos2.cif")
    assert (status, err) == (0, "")
    # {11} at 1.59 A is MoS2's strongest, {10} at 2.754 A the next.
    assert "1.5900" in out and "2.7540" in out and "100.000" in out


def test_simulate_json_holds_every_spot(dd2d):
    status, out, _ = dd2d("simulate mos2.cif --json --q-max 0.7")
    spots = json.loads(out)
    assert status == 0 and len(spots["q"]) == len(spots["intensity"]) == len(spots["hk"]) == 12
    np.testing.assert_allclose(
        sorted(np.linalg.norm(spots["q"], axis=1))[0], 2 / 3.18 / np.sqrt(3), rtol=1e-5
    )


def test_simulate_writes_and_draws(dd2d):
    status, _, _ = dd2d("simulate mos2.cif --xrays 0.7 --tilt 5 0 --output p.json --plot p.png")
    assert status == 0
    assert json.loads(Path("p.json").read_text())["q"]
    assert Path("p.png").read_bytes().startswith(b"\x89PNG")


def test_simulate_takes_tables_and_methods(dd2d):
    spots = {}
    for options in ("", "--table kirkland", "--method multislice"):
        status, out, err = dd2d(f"simulate mos2.cif --json {options}")
        assert (status, err) == (0, "")
        spots[options] = json.loads(out)["intensity"]
    for other, near in (("--table kirkland", 0.2), ("--method multislice", 0.35)):
        assert spots[other] == pytest.approx(spots[""], rel=near)
        assert spots[other] != pytest.approx(spots[""], rel=1e-3)


def test_simulate_adds_the_electrons_in_bonds_where_asked(dd2d):
    ase.io.write("graphene.cif", ase.build.graphene("C2", a=2.461, vacuum=8))
    ratio = []
    for options in ("", "--bonds"):
        status, out, err = dd2d(f"simulate graphene.cif --json --q-max 0.9 --b-iso 0 {options}")
        assert (status, err) == (0, "")
        spots = json.loads(out)
        inner = np.linalg.norm(spots["q"], axis=1) < 0.6
        intensity = np.array(spots["intensity"])
        ratio.append(intensity[~inner].mean() / intensity[inner].mean())
    np.testing.assert_allclose(ratio, [0.887, 1.10], atol=0.01)
    status, _, err = dd2d("simulate graphene.cif --bonds --method multislice")
    assert status == 1 and "--bonds is for --method kinematic" in err


def test_simulate_keeps_the_side_that_is_up(dd2d):
    atoms = ase.build.mx2("MoS2", kind="2H", a=3.25, thickness=3.2, vacuum=10)
    atoms.symbols[1] = "Se"
    upside = atoms.copy()
    upside.positions[:, 2] *= -1
    upside.center(10, axis=2)
    patterns = []
    for name, janus in (("up", atoms), ("down", upside)):
        janus.write(f"{name}.vasp")
        crystal = dx.Crystal.from_ase(ase.io.read(f"{name}.vasp"))
        expected = dx.simulate(crystal, q_max=0.7, b_iso=0.5, tilt=(12.0, 0.0))
        status, out, _ = dd2d(f"simulate {name}.vasp --q-max 0.7 --tilt 12 0 --json")
        assert status == 0
        patterns.append(json.loads(out)["intensity"])
        mask = np.asarray(expected.mask)
        assert patterns[-1] == pytest.approx(np.asarray(expected.intensity)[mask], rel=1e-4)
    assert patterns[0] != pytest.approx(patterns[1], rel=1e-2)


def test_simulate_writes_an_image_that_is_read_back(dd2d):
    status, _, err = dd2d("simulate mos2.cif --q-max 1 --image m.tif --dose 1e8")
    assert status == 0
    scale = float(err.split()[-2])
    seen = read_pattern("m.tif", scale=scale)
    assert 20 < seen.mask.sum() <= 42
    radii = np.linalg.norm(np.asarray(seen.q), axis=1)
    assert radii.min() == pytest.approx(2 / 3.18 / 3**0.5, rel=0.01)


def test_heavy_layers_are_reported_to_scatter_twice(dd2d):
    atoms = ase.build.mx2("WSe2", kind="2H", a=3.28, thickness=3.34, vacuum=10)
    stack = atoms.copy()
    for i in (1, 2):
        above = atoms.copy()
        above.translate([0, 0, 6.49 * i])
        stack += above
    stack.center(10, axis=2)
    stack.write("thick.cif")
    status, _, err = dd2d("simulate thick.cif")
    assert status == 0 and "--method multislice" in err
