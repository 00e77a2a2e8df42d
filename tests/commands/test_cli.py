"""The console script as users type it: results on stdout, one line for what is wrong."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import ase.build
import ase.io
import jax
import numpy as np
import pytest
from ase.db import connect
from paths import ROOT

import dd2d_jax
import diffraction as dx
from configs import smoke
from dd2d_jax import read_pattern
from dd2d_jax.commands import main as cli
from dd2d_jax.networks import checkpoint, trained

DICHALCOGENIDES = {
    "MoS2": (3.18, 3.19),
    "WSe2": (3.32, 3.35),
    "MoTe2": (3.55, 3.60),
    "NbS2": (3.33, 3.20),
    "HfSe2": (3.75, 3.10),
}


def damage(folder: Path, params) -> None:
    """Copies of the library and the model that cannot be used."""
    shutil.copytree(folder / "lib", folder / "hurt")
    data = bytearray((folder / "hurt/00000.shard").read_bytes())
    data[-1] ^= 1
    (folder / "hurt/00000.shard").write_bytes(data)
    shutil.copytree(folder / "run", folder / "torn")
    for path in (folder / "torn/best").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:20])
    (folder / "other").mkdir()
    checkpoint.write_config(folder / "other", checkpoint.read_config(folder / "run"))
    params = jax.tree.map(lambda x: x + 0.1, params)
    checkpoint.save(folder / "other", "best", 1, {"params": params}, {})


@pytest.fixture(scope="session")
def place(tmp_path_factory) -> Path:
    """A folder with an untrained model, crystals, their library, and what is wrong with others."""
    folder = tmp_path_factory.mktemp("cli")
    config = smoke.get_config()
    config.model.width = config.model.embedding = 16
    config.model.heads = 2
    config.data.data_dir = str(folder / "data")
    run = folder / "run"
    run.mkdir()
    checkpoint.write_config(run, config)
    params = trained.initial_params(config)
    checkpoint.save(run, "best", 1, {"params": params}, {})
    crystals = {"graphene": ase.build.graphene(vacuum=8), "BN": ase.build.graphene("BN", vacuum=8)}
    for formula, (a, thickness) in DICHALCOGENIDES.items():
        crystals[formula] = ase.build.mx2(formula, a=a, thickness=thickness, vacuum=8)
    with connect(folder / "all.db") as database:
        for uid, atoms in crystals.items():
            database.write(atoms, uid=uid, known=True)
    ase.io.write(folder / "mos2.cif", crystals["MoS2"])
    ase.io.write(folder / "bulk.cif", ase.build.bulk("Fe"))
    data = os.environ.get("DD2D_DATA_DIR")
    os.environ["DD2D_DATA_DIR"] = str(folder / "data")
    arguments = ["index", folder / "all.db", folder / "lib", "--checkpoint", run]
    assert cli.main([str(x) for x in arguments]) == 0
    arguments = ["simulate", folder / "mos2.cif", "--output", folder / "mos2.csv"]
    assert cli.main([str(x) for x in arguments]) == 0
    damage(folder, params)
    yield folder
    os.environ.pop("DD2D_DATA_DIR")
    if data is not None:
        os.environ["DD2D_DATA_DIR"] = data


@pytest.fixture
def dd2d(place, tmp_path, monkeypatch, command_line):
    """Runs a command line in a new folder with the files of `place`; status, stdout, stderr."""
    shutil.copytree(place, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return command_line


def console(line: str, **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "dd2d_jax.commands.main", *line.split()],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        **kwargs,
    )


def test_help_answers_at_once_without_jax():
    begin = time.perf_counter()
    done = console("--help")
    assert done.returncode == 0 and "retrieve" in done.stdout
    assert time.perf_counter() - begin < 1.0
    heavy = "{'jax', 'numpy', 'ase'}"
    code = f"import sys, dd2d_jax.commands.main; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_version_is_that_of_the_package(command_line):
    status, out, _ = command_line("--version")
    assert status == 0 and out == f"dd2d-jax {dd2d_jax.__version__}\n"


@pytest.mark.parametrize(
    "command",
    ["demo", "simulate", "index", "enumerate", "merge", "retrieve", "propose", "evaluate", "report",
     "snapshots"],
)
def test_every_command_has_help_with_an_example_and_json(command, capsys):
    with pytest.raises(SystemExit) as leave:
        cli.main([command, "--help"])
    text = capsys.readouterr().out
    assert leave.value.code == 0
    assert f"dd2d {command}" in text.split("example:")[1] and "--json" in text


def test_propose_says_what_a_crystal_was_made_from(dd2d):
    line = "propose mos2.csv --library lib --checkpoint run --elements W,S --count 20 -k 3 --json"
    status, out, err = dd2d(line)
    assert status == 0, err
    candidates = json.loads(out)["candidates"]
    made = {c["formula"]: c for c in candidates if c["parent"]}
    assert made["WS2"]["substitution"] in ("Mo->W", "Nb->W", "Se->S")
    assert all(set(c["structure"]["symbols"]) <= {"W", "S"} for c in candidates)


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
    for other in ("--table kirkland", "--method multislice"):
        assert spots[other] == pytest.approx(spots[""], rel=0.2)
        assert spots[other] != pytest.approx(spots[""], rel=1e-3)


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


def test_index_counts_and_says_what_it_left_out(dd2d):
    with connect("some.db") as database:
        database.write(ase.build.graphene(vacuum=8), uid="good")
        database.write(ase.build.bulk("Fe"), uid="bad")
    status, out, _ = dd2d("index some.db new --checkpoint run")
    assert status == 0
    assert "1 crystals out of 2" in out and "bulk" in out and "bad" in out
    status, out, _ = dd2d("index some.db newer --checkpoint run --json")
    report = json.loads(out)
    assert report["crystals"] == 1 and report["report"]["skipped"]["bulk"]["count"] == 1


def test_merge_and_append_count_what_was_there_before(dd2d):
    status, out, _ = dd2d("merge lib lib both --json")
    report = json.loads(out)
    assert status == 0
    assert report["report"]["skipped"]["duplicate uid"]["count"] == report["crystals"]
    status, out, _ = dd2d("index all.db both --checkpoint run --append")
    assert status == 0
    assert f"both: {report['crystals']} crystals out of {3 * report['crystals']}" in out


def test_enumerate_writes_a_database_that_is_never_overwritten(dd2d):
    status, out, _ = dd2d("enumerate made.db --count 20 --json")
    assert status == 0 and json.loads(out)["crystals"] == 20
    status, _, err = dd2d("enumerate made.db")
    assert status == 1 and "made.db: exists already" in err


def test_a_part_is_one_of_several(dd2d):
    status, _, err = dd2d("index all.db part --part 3/2")
    assert status == 2 and "'3/2' is not I/N" in err


def test_retrieve_finds_the_crystal_that_made_the_pattern(dd2d):
    line = "retrieve mos2.csv --library lib --checkpoint run"
    status, out, _ = dd2d(f"{line} --json -k 3")
    found = json.loads(out)
    assert status == 0 and found["candidates"][0]["uid"] == "MoS2"
    assert found["searched"] == 7 and len(found["candidates"]) == 3
    assert found["candidates"][0]["r_factor"] < 0.01
    np.testing.assert_allclose([found["lattice"]["a"], found["lattice"]["gamma"]], [3.18, 120],
                               rtol=1e-4)  # fmt: skip
    status, out, _ = dd2d(line)
    # What is next to impossible is shown only where it is asked for.
    assert status == 0 and "MoS2" in out and "NbS2" not in out
    status, out, _ = dd2d(f"{line} --all")
    assert status == 0 and out.index("MoS2") < out.index("NbS2")


def test_retrieve_keeps_to_the_elements(dd2d):
    line = "retrieve mos2.csv --library lib --checkpoint run --json --elements"
    status, out, _ = dd2d(f"{line} W,Se,B,N")
    assert status == 0
    assert {c["uid"] for c in json.loads(out)["candidates"]} == {"WSe2", "BN"}
    status, out, err = dd2d(f"{line} Qq")
    assert (status, out) == (1, "") and "unknown element 'Qq'" in err


def test_retrieve_writes_a_folder_of_results_once(dd2d):
    line = "retrieve mos2.csv --library lib --checkpoint run -k 2 --refine --output out"
    status, _, _ = dd2d(line)
    assert status == 0
    names = sorted(p.name for p in Path("out").iterdir())
    assert len(names) == 8 and {"01_MoS2.cif", "found.png", "page.html"} <= set(names)
    atoms = ase.io.read("out/01_MoS2.vasp")
    assert atoms.get_chemical_formula() == "MoS2"
    np.testing.assert_allclose(atoms.cell.lengths()[:2], 3.18, rtol=1e-3)
    with open("out/found.csv", newline="") as file:
        assert [row["rank"] for row in csv.DictReader(file)] == ["1", "2"]
    status, out, err = dd2d(line)
    assert (status, out) == (1, "") and "out: exists already" in err


def test_retrieve_writes_a_page_alone(dd2d):
    line = "retrieve mos2.csv --library lib --checkpoint run -k 1 --page p.html"
    before = set(Path().iterdir())
    status, _, err = dd2d(line)
    assert status == 0, err
    assert {p.name for p in set(Path().iterdir()) - before} == {"p.html"}
    made = Path("p.html").read_text()
    assert "MoS2" in made and "<svg" in made and 'href="data:chemical/x-cif' in made
    assert f"dd2d {line}" in made


def test_retrieve_takes_proposals_and_a_scale_that_is_not_known(dd2d):
    line = "retrieve mos2.csv --library lib --checkpoint run --json -k 3"
    status, out, err = dd2d(f"{line} --propose --elements W,S")
    assert status == 0, err
    assert any(c["parent"] for c in json.loads(out)["candidates"])
    rows = [row.split(",") for row in Path("mos2.csv").read_text().splitlines()[1:]]
    wrong = [",".join([repr(1.15 * float(x)), repr(1.15 * float(y)), z]) for x, y, z, *_ in rows]
    Path("wrong.csv").write_text("\n".join(wrong))
    line = line.replace("mos2.csv", "wrong.csv")
    status, out, err = dd2d(f"{line} --scale-error 0.2")
    found = json.loads(out)
    # Crystals of nearly its structure fit as well once the scale is free.
    first = {c["uid"]: c["r_factor"] for c in found["candidates"]}
    assert status == 0 and first["MoS2"] < 0.02
    assert found["none"] < 0.5 < json.loads(dd2d(line)[1])["none"]
    assert found["lattice"]["a"] == pytest.approx(3.18 / 1.15, rel=1e-3)


def test_an_image_without_any_scale_is_searched_at_many(dd2d):
    assert dd2d("simulate mos2.cif --q-max 1 --image m.npy --dose 1e7 --energy 60")[0] == 0
    line = "retrieve m.npy --library lib --checkpoint run --json -k 3 --rerank 3"
    status, _, err = dd2d(line)
    assert status == 1 and "--scale-error 1 needs none" in err
    status, out, err = dd2d(f"{line} --scale-error 1 --energy 60")
    assert status == 0 and "the scale is not known" in err
    assert json.loads(out)["candidates"]


def test_retrieve_takes_several_tilts_of_one_crystal(dd2d):
    assert dd2d("simulate mos2.cif --tilt 20 0 --output tilted.csv")[0] == 0
    options = "--library lib --checkpoint run --json -k 2 --tilts".split()
    assert cli.main(["retrieve", "mos2.csv", "tilted.csv", *options, "0,0 20,0"]) == 0


def folder_of_patterns() -> None:
    Path("in").mkdir()
    for name in ("a", "b"):
        shutil.copy("mos2.csv", f"in/{name}.csv")
    Path("in/bad.csv").write_text("qx,qy,intensity\n0.1,0.2,nan\n")
    Path("in/notes.md").write_text("not a pattern")


def written(folder: str) -> dict[str, str]:
    """All files that say the same whenever they are made, but for the date and their folder."""
    paths = [p for p in Path(folder).rglob("*") if p.suffix in (".json", ".csv", ".cif", ".html")]
    texts = {str(p.relative_to(folder)): p.read_text() for p in paths}
    stamp = rf"on \d{{4}}-\d\d-\d\d \d\d:\d\d \w+|--output {folder}"
    return {name: re.sub(stamp, "", text) for name, text in texts.items()}


def test_a_folder_goes_on_where_it_was_ended(dd2d, monkeypatch):
    from dd2d_jax.commands import folder as batch

    folder_of_patterns()
    line = "retrieve in --library lib --checkpoint run -k 1 --output"
    status, out, err = dd2d(f"{line} whole")
    assert status == 0 and "passed over 1 that are no patterns: notes.md" in err
    assert "line 2: intensity is nan" in out and out.count("MoS2") >= 2
    with open("whole/summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == ["a.csv", "b.csv", "bad.csv"]
    assert [row["uid"] for row in rows] == ["MoS2", "MoS2", ""]
    assert rows[2]["error"] and float(rows[0]["probability"]) > 0.5
    assert json.loads(Path("whole/summary.json").read_text())[0]["none"] < 0.5
    calls = []

    def ended(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return retrieve(*args, **kwargs)

    retrieve = batch.retrieve
    monkeypatch.setattr(batch, "retrieve", ended)
    assert dd2d(f"{line} part")[0] == 130
    assert sorted(p.name for p in Path("part").iterdir()) == ["a", "options.json"]
    monkeypatch.setattr(batch, "retrieve", retrieve)
    assert dd2d(f"{line} part")[0] == 0
    assert written("part") == written("whole") and len(written("whole")) == 12
    # All is done: nothing is retrieved any more.
    monkeypatch.setattr(batch, "retrieve", ended)
    status, out, _ = dd2d(f"{line} part --json")
    assert status == 0 and len(calls) == 2
    assert [row["error"] is None for row in json.loads(out)] == [True, True, False]
    status, out, err = dd2d(f"{line} part --elements Mo,S")
    assert (status, out) == (1, "") and "part: begun with elements None, not Mo,S" in err
    Path("in/a.csv").write_text("0.1 0.2 1\n")
    status, out, _ = dd2d(f"{line} part")
    assert status == 0 and "a.csv was changed after its results were made" in out


def test_files_of_one_name_have_folders_of_their_own(tmp_path):
    from dd2d_jax.commands.folder import _names

    files = [tmp_path / name for name in ("a.csv", "A.tif", "b.npy", "summary.csv.txt")]
    names = list(_names(files).values())
    assert names == ["a_csv", "A_tif", "b", "summary.csv_txt"]


METHODS = ["neural", "physics", "neural+rerank"]
NUMBERS = {"top1", "top3", "top5", "top10", "top50", "ms_per_query"}


AGREED = {
    "level", "library", "queries", "methods", "cell_alone", "setup_s", "no_lattice", "elements",
    "reliability",
}  # fmt: skip


def test_evaluate_gives_the_agreed_json(dd2d):
    line = "evaluate --checkpoint run --queries all.db --library all.db"
    status, out, _ = dd2d(f"{line} --json")
    result = json.loads(out)
    assert status == 0
    assert set(result) == AGREED
    assert (result["level"], result["library"], result["queries"]) == ("clean", 7, 7)
    assert list(result["methods"]) == METHODS
    assert all(set(m) == NUMBERS for m in result["methods"].values())
    assert result["methods"]["physics"]["top1"] == 100
    status, out, _ = dd2d(f"{line} --level perturbed --json o.json")
    assert status == 0 and "perturbed" in out
    assert json.loads(Path("o.json").read_text())["level"] == "perturbed"
    assert dd2d("index all.db stored --checkpoint run")[0] == 0
    status, out, _ = dd2d("evaluate --checkpoint run --queries all.db --library stored --json")
    assert status == 0 and json.loads(out)["library"] == 7


FREE = """
import numpy as np
from ase.calculators.calculator import Calculator, all_changes

class Free(Calculator):
    implemented_properties = ["forces"]

    def calculate(self, atoms=None, properties=("forces",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        if "B" in atoms.symbols:
            raise NotImplementedError("no boron")
        self.results = {"forces": np.zeros((len(atoms), 3))}
        print("greetings")
"""


def test_snapshots_are_made_once_and_evaluated(dd2d, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("free_atoms.py").write_text(FREE)
    line = "snapshots all.db s.db --calculator free_atoms:Free --time 0.005 --snapshots 2 --seed 1"
    status, out, err = dd2d(line)
    assert status == 0 and "greetings" in err and "greetings" not in out
    assert "s.db: 12 snapshots of 6 out of 7 crystals (0 were there already)" in out
    assert "skipped 1: calculator failed, for example BN: NotImplementedError: no boron" in out
    status, out, _ = dd2d(f"{line} --json")
    made = json.loads(out)
    assert status == 0 and (made["before"], made["snapshots"], made["seed"]) == (6, 12, 1)
    assert list(made["skipped"]["calculator failed"]) == ["BN"]
    status, out, err = dd2d(f"{line} --temperature 400")
    assert (status, out) == (1, "") and "made with temperature 300.0, not 400.0" in err
    status, out, err = dd2d(f"{EVALUATE} --level thermal --snapshots s.db --json")
    result = json.loads(out)
    assert status == 0 and (result["level"], result["queries"]) == ("thermal", 12)
    assert set(result) == AGREED | {"snapshots"}
    assert result["snapshots"]["without"] == ["BN"]
    assert result["methods"]["physics"]["top1"] == 100
    assert "s.db: crystals with snapshots: 6, without: 1, the first is 'BN'" in err


BAD_SPOTS = {
    "nan.csv": "qx,qy,intensity\n0.1,0.2,nan\n",
    "negative.csv": "0.1,0.2,-1\n",
    "empty.csv": "qx,qy,intensity\n",
    "line.csv": "0.3 0 1\n0.6 0 1\n0.9 0 1\n1.2 0 1\n",
}
RETRIEVE = "--library lib --checkpoint run"
EVALUATE = "evaluate --checkpoint run --queries all.db --library all.db"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("simulate gone.cif", "gone.cif: no such file"),
        ("simulate text.cif", "text.cif: cannot be read"),
        ("simulate bulk.cif", "bulk.cif: the widest gap"),
        ("simulate twice.vasp", "twice.vasp: atoms 0 and 1 are 0.00 A apart"),
        ("simulate unknown.vasp", "unknown.vasp: "),
        ("simulate mos2.cif --output gone/p.csv", "gone/p.csv: cannot be written"),
        ("simulate mos2.cif --output p.xyz", "p.xyz: the name must end in .csv or .json"),
        ("simulate mos2.cif --plot lib", "must end in .png"),
        ("simulate mos2.cif --dose 100", "give --image"),
        ("simulate mos2.cif --xrays 1 --method multislice", "--table are for electrons"),
        ("simulate mos2.cif --q-max 0.1", "mos2.cif: no rod"),
        (f"retrieve nan.csv {RETRIEVE}", "nan.csv, line 2: intensity"),
        (f"retrieve negative.csv {RETRIEVE}", "negative.csv, line 1: intensity -1"),
        (f"retrieve empty.csv {RETRIEVE}", "empty.csv: there is no spot"),
        (f"retrieve line.csv {RETRIEVE}", "line.csv: the spots lie on a line"),
        (f"retrieve gone.csv {RETRIEVE}", "gone.csv: no such file"),
        (f"retrieve mos2.csv --scale 0.1 {RETRIEVE}", "mos2.csv: a spot list"),
        (f"retrieve mos2.csv {RETRIEVE} --output mos2.csv/out", "mos2.csv is no writable folder"),
        (f"retrieve mos2.csv mos2.csv {RETRIEVE}", "2 patterns need --tilts"),
        (f"retrieve mos2.csv mos2.csv --tilts 0,0 {RETRIEVE}", "--tilts has 1 pairs of angles for"),
        (f"retrieve lib {RETRIEVE}", "lib: a folder of patterns needs --output"),
        (f"retrieve lib --tilts 0,0 --output o {RETRIEVE}", "--tilts and --page are for files"),
        (f"retrieve torn/best --output o {RETRIEVE}", "torn/best: holds no pattern"),
        (f"retrieve mos2.csv --page p.pdf {RETRIEVE}", "p.pdf: the name must end in .html"),
        ("retrieve mos2.csv --library gone --checkpoint run", "gone: no library here"),
        ("retrieve mos2.csv --library hurt --checkpoint run", "hurt/00000.shard: damaged"),
        ("retrieve mos2.csv --library lib --checkpoint other", "was built by model"),
        ("retrieve mos2.csv --library lib --checkpoint gone", "gone: no checkpoint here"),
        ("retrieve mos2.csv --library lib --checkpoint torn", "torn/best: damaged"),
        ("index gone.db new --checkpoint run", "gone.db: no such file"),
        ("index bulk.cif new --checkpoint run", "bulk.cif: no crystal can be used"),
        ("index all.db lib --checkpoint run", "lib: exists already"),
        ("evaluate --checkpoint run --queries mos2.cif --library all.db", "not in the library"),
        (f"{EVALUATE} --level thermal", "--level thermal and --snapshots S.db need each other"),
        (f"{EVALUATE} --level thermal --snapshots no.db", "no.db: no such file; make it with"),
        (f"{EVALUATE} --level thermal --snapshots all.db", "all.db: not a database of dd2d snap"),
        ("snapshots all.db s.db --calculator amber", "'amber' is unknown; choose emt"),
        ("snapshots all.db gone/s.db --calculator emt", "gone/s.db: cannot be written"),
        ("snapshots all.db s.db --calculator emt --limit 2 --time 0.001 --temperature 9e9",
         "no snapshot of any crystal"),
        ("evaluate --checkpoint run --queries all.db --library all.db --json gone/o.json",
         "gone/o.json: cannot be written"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_leaves_nothing_behind(dd2d, line, says):
    for name, text in BAD_SPOTS.items():
        Path(name).write_text(text)
    Path("text.cif").write_text("hello\n")
    cell = "x\n1\n3 0 0\n0 3 0\n0 0 20\n"
    Path("twice.vasp").write_text(f"{cell}C\n2\nDirect\n0 0 0.5\n0 0 0.5\n")
    Path("unknown.vasp").write_text(f"{cell}Qq\n1\nDirect\n0 0 0.5\n")
    before = sorted(Path().rglob("*"))
    status, out, err = dd2d(line)
    last = err.splitlines()[-1]
    assert (status, out) == (1, "")
    assert last.startswith("error: ") and says in last
    assert "Traceback" not in err
    assert sorted(p for p in Path().rglob("*") if "data" not in p.parts) == [
        p for p in before if "data" not in p.parts
    ]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "guess",
        "simulate",
        "simulate mos2.cif --energy -1",
        "simulate mos2.cif --energy 80 --xrays 1.5",
        "simulate mos2.cif --tilt nan 0",
        "retrieve mos2.csv -k 0",
        "retrieve mos2.csv -k 1.5",
        "retrieve mos2.csv --scale 0",
        "retrieve mos2.csv --tilts 0",
        "retrieve mos2.csv --scale-error -1",
        "snapshots all.db s.db",
        "snapshots all.db s.db --calculator emt --time 0",
        "evaluate --checkpoint run --queries all.db --library all.db --level hot",
    ],
)
def test_wrong_usage_is_status_2(dd2d, line):
    status, out, err = dd2d(line)
    assert (status, out) == (2, "") and "error: " in err


def test_debug_shows_where(dd2d):
    with pytest.raises(FileNotFoundError):
        dd2d("simulate gone.cif --debug")


def test_an_interrupt_is_one_line_and_130(dd2d, monkeypatch):
    def interrupt(_path):
        raise KeyboardInterrupt

    monkeypatch.setattr("dd2d_jax.crystals.structure_files.read_structure", interrupt)
    assert dd2d("simulate mos2.cif") == (130, "", "interrupted\n")


def test_a_reader_that_leaves_early_is_no_error(place):
    command = f"{sys.executable} -m dd2d_jax.commands.main simulate mos2.cif --q-max 6 --json"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} | head -n 1"],
        capture_output=True,
        text=True,
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout == "{\n" and done.stderr == "" and done.returncode == 0


def test_control_characters_in_names_do_not_reach_the_terminal(dd2d):
    Path("evil\x1b[31m.csv").write_text("0.1,0.2,nan\n")
    status, _, err = dd2d("retrieve evil\x1b[31m.csv --library lib --checkpoint run")
    assert status == 1 and "evil[31m.csv, line 1" in err and "\x1b" not in err
