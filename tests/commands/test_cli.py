"""The console script as users type it: results on stdout, one line for what is wrong."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import ase.build
import ase.io
import pytest
from ase.db import connect
from paths import ROOT

import dd2d_jax
from dd2d_jax.commands import main as cli


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


BAD_SPOTS = {
    "nan.csv": "qx,qy,intensity\n0.1,0.2,nan\n",
    "negative.csv": "0.1,0.2,-1\n",
    "empty.csv": "qx,qy,intensity\n",
    "line.csv": "0.3 0 1\n0.6 0 1\n0.9 0 1\n1.2 0 1\n",
}
EVALUATE = "evaluate --checkpoint run --queries all.db --library all.db"
RETRIEVE = "--library lib --checkpoint run"


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
        ("simulate mos2.cif --dose 100", "--dose needs --image FILE"),
        ("simulate mos2.cif --xrays 1 --method multislice", "--table are for electrons"),
        ("simulate mos2.cif --q-max 0.1", "mos2.cif: no rod"),
        (f"retrieve nan.csv {RETRIEVE}", "nan.csv, line 2: intensity"),
        (f"retrieve negative.csv {RETRIEVE}", "negative.csv, line 1: intensity -1"),
        (f"retrieve empty.csv {RETRIEVE}", "empty.csv: there is no spot"),
        (f"retrieve line.csv {RETRIEVE}", "line.csv: the spots lie on a line"),
        (f"retrieve gone.csv {RETRIEVE}", "gone.csv: no such file"),
        (f"retrieve mos2.csv --scale 0.1 {RETRIEVE}", "mos2.csv: a spot list"),
        (
            f"retrieve mos2.csv {RETRIEVE} --output mos2.csv/out",
            "mos2.csv is not a writable folder",
        ),
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
        (
            f"{EVALUATE} --level thermal",
            "--level thermal and --snapshots S.db must be given together",
        ),
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
