"""What was found, on the terminal and as files: complete, safe, all or nothing."""

import csv
import dataclasses
import io
import json

import ase.build
import ase.io
import jax.numpy as jnp
import numpy as np
import pytest
from found_example import make_found, make_twisted
from matplotlib.figure import Figure
from rich.console import Console

import diffraction as dx
from dd2d_jax.evaluation.ranks import TOP
from dd2d_jax.reports import as_json, tables
from dd2d_jax.reports.conclusion import conclusion
from dd2d_jax.util.text import percent


@pytest.fixture
def undrawn(monkeypatch):
    """Nothing is drawn: pictures and pages are tested elsewhere."""
    monkeypatch.setattr("dd2d_jax.reports.figures.plot_found", lambda *_: Figure())
    monkeypatch.setattr("dd2d_jax.reports.query_page.page", lambda *args: "")


def shown(table) -> str:
    text = io.StringIO()
    Console(file=text, width=160).print(table)
    return text.getvalue()


def test_the_table_says_all_that_is_needed_to_judge():
    text = shown(tables.CandidateTable(make_found()))
    for part in ("mp-1", "MoS2", "2H", "known", "0.90", "42.1", "0.200 -> 0.100",
                 "3.180", "120.0", "100 %", "42 searched", "not in the library: 15.8", "+1.0",
                 "of 1, 2: z of S1, S2; B"):  # fmt: skip
        assert part in text
    text = shown(tables.CandidateTable(make_found(r_before=0.1, undetermined=())))
    assert "->" not in text and "not determined" not in text


def test_of_candidates_that_are_not_shown_nothing_is_said_either():
    found = make_found()
    unlikely = dataclasses.replace(found.candidates[1], probability=1e-5, undetermined=("tilt",))
    found = dataclasses.replace(found, candidates=(found.candidates[0], unlikely))
    text = shown(tables.CandidateTable(found))
    assert "of 1: z of S1, S2; B" in text and "tilt" not in text
    assert "of 2: tilt" in shown(tables.CandidateTable(found, every=True))


def test_what_is_not_known_is_a_dash_and_null():
    nan = float("nan")
    found = make_found(probability=nan, none=nan)
    text = shown(tables.CandidateTable(found))
    assert "nan" not in text and "not in the library" not in text
    data = json.loads(json.dumps(as_json.found_dict(found), allow_nan=False))
    assert data["none"] is None and data["candidates"][0]["probability"] is None


def test_at_80_columns_uid_formula_probability_and_origin_are_whole():
    found = make_found(uid="1234-a-name-of-30-characters-x", formula="Mo2W2S4Se4")
    text = io.StringIO()
    Console(file=text, width=80).print(tables.CandidateTable(found))
    (row,) = [line for line in text.getvalue().splitlines() if line.split()[:1] == ["1"]]
    for part in ("1234-a-name-of-30-characters-x", "Mo2W2S4Se4", "42.1", "known"):
        assert part in row
    assert all(len(line) <= 80 for line in text.getvalue().splitlines())


def test_what_is_not_in_the_library_is_said_above_the_candidates():
    text = shown(tables.CandidateTable(make_found(none=0.99, probability=0.004)))
    assert text.index("not in the library: 99.0 %") < text.index("mp-1")


def test_candidates_of_less_than_a_thousandth_are_shown_when_asked_for():
    found = make_found(probability=0.0004)
    text = shown(tables.CandidateTable(found))
    assert "mp-1" not in text and "2 further candidates of less than 0.1 %" in text
    assert "mp-1" in shown(tables.CandidateTable(found, every=True))


def test_entries_of_one_structure_and_superlattices_are_named():
    found = make_found()
    first = dataclasses.replace(found[0], entries=("mp-1", "mp-2", "x"), superlattice="3 x 3")
    text = shown(tables.CandidateTable(dataclasses.replace(found, candidates=(first,))))
    assert "3 entries" in text and "known, 3 x 3 superlattice" in text


def test_a_stack_of_shifted_layers_is_named_and_explained():
    found = make_found()
    first = dataclasses.replace(found[0], stacked=True)
    stack = dataclasses.replace(found, candidates=(first,))
    text = " ".join(shown(tables.CandidateTable(stack)).split())
    assert "known, shifted layers" in text and "read as a stack" in text
    assert "shifted layers" not in shown(tables.CandidateTable(found))
    assert as_json.found_dict(stack)["candidates"][0]["stacked"] is True
    assert "as a stack of shifted layers" in conclusion(stack)


@pytest.mark.parametrize(
    ("probability", "text"),
    [(0.0, "0.0"), (1e-9, "<0.1"), (0.5, "50.0"), (0.99999, ">99.9"), (1.0, "100.0")],
)
def test_nearly_certain_is_not_certain(probability, text):
    assert percent(probability) == text


def test_each_lattice_has_its_own_table_and_its_twist(tmp_path, undrawn):
    found = make_twisted()
    text = shown(tables.found_table(found))
    assert text.count("mp-1") == 4 and "lattice 2, rotated by 7.00 +- " in text
    data = as_json.found_dict(found)
    assert data["others"][0]["twist"]["degrees"] == pytest.approx(7, abs=1e-3)
    assert [c["rank"] for c in data["others"][0]["candidates"]] == [1, 2]
    found.write(tmp_path / "out")
    assert (tmp_path / "out/lattice2/02_MoS2.cif").is_file()
    with open(tmp_path / "out/found.csv", newline="") as file:
        rows = [(row["lattice"], row["rank"]) for row in csv.DictReader(file)]
    assert rows == [("1", "1"), ("1", "2"), ("2", "1"), ("2", "2")]


def test_names_from_files_are_text_not_markup_nor_terminal_codes():
    text = shown(tables.CandidateTable(make_found(uid="[red]x[/red]\x1b[2J")))
    assert "[red]x[/red]" in text and "\x1b" not in text


def test_the_dictionary_is_json_and_holds_the_structure():
    data = json.loads(json.dumps(as_json.found_dict(make_found()), allow_nan=False))
    first = data["candidates"][0]
    assert (data["searched"], first["rank"], first["uid"]) == (42, 1, "mp-1")
    atoms = ase.Atoms(
        first["structure"]["symbols"],
        positions=first["structure"]["positions"],
        cell=first["structure"]["cell"],
    )
    assert atoms.get_chemical_formula() == "MoS2"
    np.testing.assert_allclose([first["a"], first["b"], first["gamma"]], [3.18, 3.18, 120])


def test_written_structures_read_back_as_they_were(tmp_path, undrawn):
    found = make_found()
    found.write(tmp_path / "new" / "out")
    for suffix in ("cif", "vasp"):
        atoms = ase.io.read(tmp_path / "new" / "out" / f"02_MoS2.{suffix}")
        expected = found[0].structure
        assert sorted(atoms.symbols) == sorted(expected.symbols)
        assert np.ptp(atoms.positions[:, 2]) == pytest.approx(3.19, abs=1e-3)
        np.testing.assert_allclose(atoms.cell.lengths()[:2], 3.18, atol=1e-4)
    assert [p.name for p in tmp_path.iterdir()] == ["new"]


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "..", "", ".hidden", "a\nb", "x" * 500, "C\x00N"]
)
def test_no_name_leaves_the_folder(tmp_path, name, undrawn):
    make_found(uid=name, formula=name, count=1).write(tmp_path / "out")
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(files) == 6 and all(p.parent == tmp_path / "out" for p in files)
    assert json.loads((tmp_path / "out/found.json").read_text())["candidates"][0]["uid"] == name


def test_no_cell_of_the_csv_is_a_spreadsheet_formula(tmp_path, undrawn):
    make_found(uid="=cmd()", count=1).write(tmp_path / "out")
    with open(tmp_path / "out/found.csv", newline="") as file:
        assert next(csv.DictReader(file))["uid"] == "'=cmd()"


def test_what_is_there_is_kept_and_a_failure_leaves_nothing(tmp_path, monkeypatch, undrawn):
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError, match="exists already"):
        make_found().write(tmp_path / "out")

    def fail(*_args, **_kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("dd2d_jax.reports.figures.save", fail)
    with pytest.raises(OSError, match="disk full"):
        make_found().write(tmp_path / "other")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_the_spot_table_is_sorted_by_intensity():
    pattern = dx.Pattern(
        jnp.array([[0.5, 0.0], [0.0, 0.25], [0.0, 0.0]]),
        jnp.array([1.0, 4.0, 0.0]),
        jnp.array([[1, 0], [0, 1], [0, 0]]),
        jnp.array([True, True, False]),
    )
    lines = [x for x in shown(tables.pattern_table(pattern)).splitlines() if "." in x]
    assert "4.0000" in lines[0] and "100.000" in lines[0]
    assert "2.0000" in lines[1] and "25.000" in lines[1]
    assert len(lines) == 2


def test_the_evaluation_table_shows_every_method():
    accuracies = {f"top{n}": float(n) for n in TOP}
    methods = {m: {**accuracies, "ms_per_query": 1.25} for m in ("neural", "physics")}
    result = {"level": "clean", "library": 9, "queries": 5, "methods": methods,
              "cell_alone": accuracies, "setup_s": {"embed": 1.0}}  # fmt: skip
    text = shown(tables.evaluation_table(result))
    for part in ("neural", "physics", "clean: 5 queries, 9 crystals", "50.0", "1.25"):
        assert part in text
