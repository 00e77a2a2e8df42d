"""`dd2d retrieve` and `dd2d propose` as users type them: a pattern, several, a folder of them."""

import csv
import json
import re
import shutil
from pathlib import Path

import ase.build
import ase.io
import numpy as np
import pytest

from dd2d_jax.commands import main as cli


@pytest.mark.slow  # tests/matching/test_propose.py has the same in Python
def test_propose_says_what_a_crystal_was_made_from(dd2d):
    line = "propose mos2.csv --library lib --checkpoint run --elements W,S --count 20 -k 3 --json"
    status, out, err = dd2d(line)
    assert status == 0, err
    candidates = json.loads(out)["candidates"]
    made = {c["formula"]: c for c in candidates if c["parent"]}
    assert made["WS2"]["substitution"] in ("Mo->W", "Nb->W", "Se->S")
    assert all(set(c["structure"]["symbols"]) <= {"W", "S"} for c in candidates)


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
    assert status == 0 and "MoS2" in out and "BN" not in out
    status, out, _ = dd2d(f"{line} --all")
    assert status == 0 and out.index("MoS2") < out.index("BN")


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
    assert status == 0 and "skipped 1 that are not patterns: notes.md" in err
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
