"""What a window knows: each step from a file to candidates, without a browser."""

import json
import shlex

import imageio.v3 as iio
import numpy as np
import pytest

from dd2d_jax.app.session import Session
from dd2d_jax.commands import main as cli
from dd2d_jax.images.examples import EXAMPLES
from dd2d_jax.images.patterns import read, write_pattern
from dd2d_jax.images.readers import read_image
from dd2d_jax.util.errors import UserError

OWN = {"library": "lib", "checkpoint": "run"}


def searched(session: Session) -> dict:
    session.look()
    assert session.seen.problem == ""
    return session.search().to_dict()


def by_command(session: Session, capsys) -> dict:
    capsys.readouterr()
    words = shlex.split(session.asked.command())
    assert words[0] == "dd2d" and cli.main([*words[1:], "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def by_python(session: Session, capsys) -> dict:
    capsys.readouterr()
    space: dict = {}
    exec(session.asked.python(), space)
    return space["found"].to_dict()


def same(one, other) -> bool:
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def test_command_and_python_reproduce_what_is_on_the_screen(here, capsys):
    session = Session(".", **OWN)
    session.open_named("small.tif")
    first = searched(session)
    assert first["candidates"][0]["formula"] == "MoS2"
    session.change(
        threshold=8.0, centre=(115.5, 108.5), scale=0.0122, energy=100.0, scale_error=0.01,
        elements="Mo,W,S", excludes="Se", k=2,
        regions=[((150.0, 10.0), (220.0, 10.0), (220.0, 80.0))],
    )  # fmt: skip
    shown = searched(session)
    assert not same(first["lattice"], shown["lattice"])
    assert same(shown, by_command(session, capsys))
    assert same(shown, by_python(session, capsys))


def test_a_list_of_spots_is_reproduced_too(here, capsys):
    write_pattern(read("small.tif", energy=80.0).pattern, here / "spots.csv")
    session = Session(".", **OWN)
    session.open_named("spots.csv")
    session.change(contains="Mo")
    shown = searched(session)
    assert [c["formula"] for c in shown["candidates"]] == ["MoS2"]
    assert same(shown, by_command(session, capsys))
    assert same(shown, by_python(session, capsys))


def test_masked_regions_hold_no_spots(here):
    session = Session(".", **OWN)
    session.open_named("small.tif")
    corner = ((0.0, 0.0), (100.0, 0.0), (100.0, 100.0), (0.0, 100.0))

    def inside(seen) -> int:
        return int((seen.measured.spots.position < 99).all(1).sum())

    assert inside(session.look()) > 5
    assert session.change(regions=[corner])
    assert inside(session.look()) == 0
    assert session.change(regions=[])
    assert session.asked.mask is None and inside(session.look()) > 5


def test_a_new_scale_moves_the_spots_that_were_found(here, monkeypatch):
    session = Session(".", **OWN)
    session.open_named("small.tif")
    before = session.look()
    monkeypatch.setattr("dd2d_jax.images.measurement.find_spots", None)  # would be an error
    session.change(scale=0.013)
    after = session.look()
    assert np.array_equal(before.measured.spots.position, after.measured.spots.position)
    ratio = after.lattices[0].lattice / before.lattices[0].lattice
    assert np.allclose(ratio, 0.0124 / 0.013, rtol=1e-4)


def test_what_was_refined_is_forgotten_with_what_it_was_refined_for(here):
    session = Session(".", **OWN)
    session.open_named("small.tif")
    assert session.change(refine=True) and session.asked.refine
    assert not session.change(refine=True)
    assert session.change(scale=0.0123) and not session.asked.refine


def test_without_a_scale_spots_are_shown_and_the_scale_is_asked_for(here):
    pixels = read_image(here / "small.tif").pixels
    iio.imwrite(here / "export.png", np.clip(pixels / 4, 0, 255).astype(np.uint8))
    session = Session(".", **OWN)
    session.open_named("export.png")
    seen = session.look()
    assert "does not store its scale" in seen.problem and len(seen.measured.spots.position) > 20
    assert session.search() is None
    session.change(scale=0.0124)
    assert session.look().problem == "" and session.search() is not None


def test_what_cannot_be_read_is_said_and_shown(here):
    np.save(here / "noise.npy", np.random.default_rng(0).poisson(9, (96, 96)))
    session = Session(".", **OWN)
    session.open_named("noise.npy")
    session.change(scale=0.01)
    seen = session.look()
    assert seen.problem and seen.image.pixels.shape == (96, 96)
    assert session.search() is None
    with pytest.raises(UserError, match="nothing to save"):
        session.page()


def test_no_crystal_of_the_elements_is_a_problem_not_an_error(here):
    session = Session(".", **OWN)
    session.open_named("small.tif")
    session.change(elements="Au")
    session.look()
    assert session.search() is None and "Au" in session.seen.problem


def test_reports_are_written_beside_each_other(here):
    session = Session(".", **OWN)
    session.open_named("small.tif")
    searched(session)
    names = [session.page(), session.page()]
    assert names == ["dd2d-app/small.html", "dd2d-app/small-2.html"]
    text = (here / names[0]).read_text("utf-8")
    assert "The crystal is" in text and session.asked.command() in text.replace("&#39;", "'")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_examples_are_images_that_know_their_scale(example):
    image = read_image(example.path)
    assert image.scale is not None and image.pixels.shape == (448, 448)
    assert example.path.stat().st_size < 300_000
