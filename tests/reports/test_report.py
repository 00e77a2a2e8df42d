"""The report: its numbers are those of `evaluate`, its page holds everything and loads nothing."""

import base64
import contextlib
import dataclasses
import io
import json
import re
from pathlib import Path

import html_pages
import jax
import numpy as np
import pytest
import tiny
from ase.build import graphene
from ase.db import connect
from ml_collections import ConfigDict
from springs import Springs

from dd2d_jax.commands import main as cli
from dd2d_jax.crystals.point_groups import point_group
from dd2d_jax.data import usable
from dd2d_jax.data.crystal_set import CrystalSet, join
from dd2d_jax.evaluation import snapshots as dynamics
from dd2d_jax.evaluation.ranks import accuracy
from dd2d_jax.networks import checkpoint
from dd2d_jax.networks.trained import Model, initial_params
from dd2d_jax.reports import report, report_numbers
from dd2d_jax.reports.network_answers import answer

QUERIES = 8
RECORDS = """{"step": 10, "loss": 3.5, "scale": 14}
{"step": 10, "validation": {"clean": {"top1": 25.0}, "no level": 3}}
{"step": 20, "loss": NaN}
[1, 2]
{"step": 30, "lo"""
EVIL = "<script>alert(1)</script>$\\frac{"


def params_of(config: ConfigDict):
    """Parameters at random; making the network's own takes seconds of compiling."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32),
        jax.eval_shape(lambda: initial_params(config)),
    )


def write_db(path: Path, entries: list) -> None:
    with connect(path) as database:
        for atoms, info in entries:
            database.write(atoms, **info)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Two untrained models, crystals, their snapshots and the report on the first model."""
    folder = tmp_path_factory.mktemp("report")
    sheets = tiny.sheets()[:16]
    sheets[0][1]["uid"] = EVIL
    for name in ("run", "paper"):
        config = tiny.config()
        if name == "paper":
            config.model.name, config.model.dropout = "paper", 0.1
        (folder / name).mkdir()
        checkpoint.write_config(folder / name, config)
        steps = 30 if name == "run" else 0
        checkpoint.save(folder / name, "best", steps, {"params": params_of(config)}, {})
    (folder / "run/metrics.jsonl").write_text(RECORDS)
    write_db(folder / "run/test.db", sheets[:QUERIES])
    write_db(folder / "all.db", sheets)
    crystals = usable.from_atoms(sheets[:5])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DD2D_DATA_DIR", str(folder / "data"))
        patch.chdir(folder)
        patch.setattr(dynamics, "calculator", lambda _: Springs(10.0))
        settings = dynamics.Settings("springs", 300, time=0.05)
        dynamics.make(crystals, folder / "s.db", settings)
        other = graphene("BN", a=2.5, vacuum=8)
        other.write(folder / "other.cif")
        line = "report --checkpoint run --library all.db --ablation paper --snapshots s.db --json"
        line += " --candidates-of other.cif"
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            assert cli.main([*line.split(), "--out", "new/folder"]) == 0
        (folder / "out.json").write_text(out.getvalue())
    return folder


@pytest.fixture(scope="module")
def numbers(place) -> dict:
    return json.loads((place / "new/folder/report.json").read_text())


@pytest.fixture(scope="module")
def page(place) -> str:
    return (place / "new/folder/report.html").read_text("utf-8")


@pytest.fixture(scope="module")
def library() -> CrystalSet:
    return usable.from_atoms(tiny.sheets()[:16])


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(tiny.config(), params_of(tiny.config()))


@pytest.fixture(scope="module")
def gallery(model, library) -> np.ndarray:
    return model.embed_crystals(library.crystal)


@pytest.fixture
def dd2d(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    monkeypatch.setenv("DD2D_DATA_DIR", str(place / "data"))

    def run(line: str) -> tuple[int, str]:
        status = cli.main(line.split())
        return status, capsys.readouterr().err.splitlines()[-1]

    return run


def test_the_folder_holds_page_numbers_and_figures(place, numbers):
    names = {path.name for path in (place / "new/folder").iterdir()}
    figures = {"attention", "point_groups", "candidates", "ranks", "learning"}
    assert names == {"report.html", "report.json", *(f"{name}.png" for name in figures)}
    for name in figures:
        assert (place / f"new/folder/{name}.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((place / "out.json").read_text()) == numbers


def test_table_and_figures_speak_of_the_same_answers(numbers):
    """The network's ranks are those that `evaluate` counted, on every level of known setting."""
    levels = {result["level"]: result for result in numbers["accuracy"]["levels"]}
    assert list(levels) == ["clean", "perturbed", "measured", "microscope", "thermal"]
    del levels["measured"], levels["microscope"]
    for level, result in levels.items():
        failed = sum(numbers["failures"]["ranks"][level].values())
        found = round(result["methods"]["neural"]["top1"] * result["queries"] / 100)
        assert found + failed == result["queries"], level
    assert levels["thermal"]["queries"] == 5 and levels["clean"]["queries"] == QUERIES
    for level in ("clean", "perturbed"):
        neural = levels[level]["methods"]["neural"]
        assert numbers["ablation"][0][level] == {k: v for k, v in neural.items() if "top" in k}


def test_candidates_are_drawn_of_the_crystal_asked_for_which_joins_the_gallery(numbers, page):
    drawn, rows = numbers["candidates"], numbers["candidates"]["candidates"]
    assert drawn["truth"]["uid"] == "other.cif" and drawn["truth"]["formula"] == "BN"
    assert 1 <= drawn["rank"] <= 17 and len(rows) == 10
    assert [row["rank"] for row in rows if row["true"]] == [drawn["rank"]] * (drawn["rank"] <= 10)
    assert "asked for, added to the gallery" in page
    # Nobody else's gallery is larger for it.
    assert all(level["library"] == 16 for level in numbers["accuracy"]["levels"])


def test_what_training_recorded_is_read_as_far_as_it_goes(numbers):
    assert numbers["learning"] == {"loss": [[10, 3.5]], "validation": {"clean": [[10, 25.0]]}}


def test_the_compared_networks_are_told_by_size_and_steps(numbers):
    one, other = numbers["ablation"]
    assert (one["checkpoint"], one["network"], one["steps"]) == ("run", "default", 30)
    assert (other["checkpoint"], other["network"], other["steps"]) == ("paper", "paper", 0)
    sizes = {key: one[key] for key in ("heads", "layers", "width")}
    assert sizes == {"heads": 2, "layers": 1, "width": 16}
    assert one["parameters"] == numbers["about"]["parameters"] != other["parameters"]


def test_the_page_loads_nothing_and_is_whole(page):
    elements = html_pages.check(page)
    pictures = [a for tag, a in elements if tag in ("img", "source")]
    assert len(pictures) == 10
    links = [a.get("src") or a["srcset"] for a in pictures]
    assert all(link.startswith("data:image/") for link in links)
    assert len(page.encode()) < 2e6


def test_figures_suit_dark_screens_too(page):
    dark, light = re.findall(r'srcset="data:[^,]*,([^"]*)"|<img src="data:[^,]*,([^"]*)"', page)[:2]
    assert b"#14171c" in base64.b64decode(dark[0]) and b"#14171c" not in base64.b64decode(light[1])


def test_names_from_files_are_text_on_the_page(page, numbers):
    # The evil one is the first query, whose attention is drawn.
    assert numbers["attention"]["uid"] == EVIL
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;$\\frac{" in page


def test_the_page_shows_the_published_numbers_as_such(page):
    for row in ("<td>published</td><td class=\"number\">62.0</td><td class=\"number\">92.0</td>",
                "<td>published</td><td class=\"number\">55.0</td><td class=\"number\">83.0</td>"):
        assert row in page  # fmt: skip
    assert "Fu et al." in page


def test_point_groups_are_counted_over_all_candidates(numbers, library):
    groups = numbers["point_groups"]
    assert groups["symbols"] == ["-3m", "-6m2"]
    true = [point_group(library.atoms(i)) for i in range(QUERIES)]
    for part in groups["attempts"]:
        table, k = np.array(part["counts"]), part["attempts"]
        wanted = [k * true.count(symbol) for symbol in groups["symbols"]]
        np.testing.assert_array_equal(table.sum(1), wanted)
        assert part["right"] == pytest.approx(100 * np.trace(table) / table.sum())
        # Half of the library's crystals are of each kind.
        assert part["chance"] == pytest.approx(50)
        assert part["others_chance"] == pytest.approx(100 * 7 / 15)
        hits = sum(table.sum(1)) - part["others"]
        assert part["others_right"] == pytest.approx(
            100 * (np.trace(table) - hits) / part["others"]
        )


def test_a_report_is_written_once(place, dd2d):
    before = (place / "new/folder/report.html").stat().st_mtime_ns
    status, says = dd2d("report --checkpoint run --out new/folder")
    assert status == 1 and "new/folder: exists already" in says
    assert (place / "new/folder/report.html").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--checkpoint run --crystal nobody", "no query has the uid 'nobody'"),
        (
            "--checkpoint paper",
            "paper/test.db: no such file; give the crystals to find with --queries Q.db",
        ),
        ("--checkpoint run --candidates-of all.db", "all.db: one crystal is needed, there are 16"),
        ("--checkpoint run --ablation gone", "gone: no checkpoint here"),
        ("--checkpoint run --queries gone.db", "gone.db: no such file"),
        ("--checkpoint run --snapshots all.db", "all.db: not a database of dd2d snap"),
        ("--checkpoint run --queries all.db --library run/test.db", "not in the library"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(place, dd2d, line, says):
    before = sorted(place.iterdir())
    status, last = dd2d(f"report {line}")
    assert status == 1 and last.startswith("error: ") and says in last
    assert sorted(place.iterdir()) == before


def test_candidates_stand_at_their_ranks_also_among_equals(model, library, gallery):
    twins = dataclasses.replace(library, uid=np.array([f"twin of {u}" for u in library.uid]))
    both = join([library, twins], {})
    doubled = np.concatenate([gallery, gallery])
    found = answer(model, doubled, library, both, "perturbed")
    assert found.order.shape == (16, 10) and (found.ranks >= 2).all()
    for i, rank in enumerate(found.ranks):
        if rank <= 10:
            assert found.order[i, rank - 1] == found.truth[i] == i
    assert (found.ranks <= 10).any()


def test_numbers_that_are_none_come_last(model, library, gallery):
    broken = gallery.copy()
    broken[3] = np.nan
    found = answer(model, broken, library.take([3, 5]), library, "clean")
    assert found.ranks[0] == 16 and 3 not in found.order[0]
    assert accuracy(found.ranks)["top10"] <= 50


def test_the_query_drawn_is_the_first_near_miss():
    assert report._shown(np.array([1, 14, 1, 3, 2])) == 3
    assert report._shown(np.array([1, 14, 1])) == 0


def test_attention_is_drawn_of_a_small_crystal_or_the_one_named(library):
    numbers = np.zeros((3, 8), int)
    for row, count in enumerate((1, 8, 4)):
        numbers[row, :count] = 6
    some = dataclasses.replace(library.take([0, 1, 2]), numbers=numbers)
    assert report._pick(some, None) == 2
    assert report._pick(some.take([0, 1]), None) == 0
    assert report._pick(some, str(some.uid[1])) == 1


def test_ranks_of_failures_fall_into_bins():
    found = report_numbers.failed(np.array([1, 2, 2, 3, 5, 6, 10, 11, 50, 100, 101, 5000]))
    assert found == {"2": 2, "3": 1, "4-5": 1, "6-10": 2, "11-20": 1, "21-50": 1, "51-100": 1,
                     "> 100": 2}  # fmt: skip
