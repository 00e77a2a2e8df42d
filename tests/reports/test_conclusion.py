"""The first sentence of a page says what was found, and no more than was found."""

import dataclasses
import math

import pytest
from found_example import make_found

from dd2d_jax.reports.conclusion import conclusion, verdict


@pytest.mark.parametrize(
    ("probability", "none", "words"),
    [
        (0.97, 0.01, "The crystal is MoS2 (mp-1), with a probability of 97.0 %."),
        (0.99999, 0.0, ">99.9 %"),
        (0.6, 0.3, "most likely MoS2"),
        (0.01, 0.98, "not in the library (98.0 %); the nearest candidate, MoS2 (mp-1), has 1.0 %."),
        (0.3, 0.1, "No candidate stands out: the first is MoS2 (mp-1) with a probability of 30.0"),
        (0.3, 0.4, "it may well not be in the library (40.0 %)"),
        (math.nan, math.nan, "the most similar of the 42 crystals searched; no probabilities"),
    ],
)
def test_it_says_the_crystal_or_that_there_is_none(probability, none, words):
    made = conclusion(make_found(probability=probability, none=none))
    assert words in made and "nan" not in made
    assert ("library" in made) == (none in (0.98, 0.4))


def test_names_from_files_move_no_cursor():
    assert "\x1b" not in conclusion(make_found(uid="a\x1b[2J", formula="b\x1b"))


def test_a_superlattice_is_told():
    found = make_found(probability=0.95, none=0.01, count=1)
    over = dataclasses.replace(found[0], superlattice="3 x 3")
    made = conclusion(dataclasses.replace(found, candidates=(over,)))
    assert "MoS2 (mp-1) with a weak 3 x 3 superlattice, with a probability" in made


def test_nothing_found_is_said():
    nothing = dataclasses.replace(make_found(), candidates=())
    assert conclusion(nothing) == "No crystal of the library was compared with this pattern."


def test_what_is_not_known_is_no_verdict():
    assert verdict(None, None) == verdict(math.nan, 0.2) == "not compared"
    assert verdict(0.95, None) == "identified" and verdict(0.95, 0.97) == "not in the library"
