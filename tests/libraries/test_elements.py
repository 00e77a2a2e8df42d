"""Elements are understood as people write them, and keep what was asked for."""

import numpy as np
import pytest
from ase.build import graphene, mx2

from dd2d_jax.data import usable
from dd2d_jax.libraries.elements import allowed_rows, element_symbols, weights_of
from dd2d_jax.libraries.library import Library


@pytest.fixture(scope="module")
def library() -> Library:
    sheets = [graphene(vacuum=8), *(mx2(x, vacuum=8) for x in ("MoS2", "WS2", "MoO2"))]
    crystals = usable.from_atoms((atoms, {"uid": f"{i}"}) for i, atoms in enumerate(sheets))
    return Library(crystals, np.zeros((4, 3), np.float16), "none")


@pytest.mark.parametrize(
    ("text", "symbols"),
    [
        ("Mo,S", ["Mo", "S"]),
        ("MoS2", ["Mo", "S"]),
        ("mos2", ["Mo", "S"]),
        ("MOS2", ["Mo", "S"]),
        ("mo s", ["Mo", "S"]),
        ("nbse2", ["Nb", "Se"]),
        ("bn", ["B", "N"]),
        ("CO", ["C", "O"]),
        ("Co", ["Co"]),
        ("Mg(OH)2", ["Mg", "O", "H"]),
        (["Mo", "S", "Mo"], ["Mo", "S"]),
    ],
)
def test_formulas_and_lower_case_are_understood(text, symbols):
    assert element_symbols(text) == symbols


@pytest.mark.parametrize("text", ["Qq", "Xx2", "", "jjj"])
def test_what_is_no_element_is_named(text):
    with pytest.raises(ValueError, match="element"):
        element_symbols(text)


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        ({}, [0, 1, 2, 3]),
        ({"elements": "mos2"}, [1]),
        ({"elements": "Mo,S,O,W"}, [1, 2, 3]),
        ({"elements": "nonmetals,Mo"}, [0, 1, 3]),
        ({"contains": "S"}, [1, 2]),
        ({"contains": ["Mo"], "excludes": "O"}, [1]),
        ({"excludes": "metals"}, [0]),
        ({"elements": "MoS2", "weights": {"O": 0.1}}, [1, 3]),
    ],
)
def test_crystals_of_the_elements_are_kept(library, limits, kept):
    assert np.flatnonzero(allowed_rows(library, **limits)).tolist() == kept


def test_an_element_that_leaves_nothing_is_told(library):
    with pytest.raises(ValueError, match="no crystal made only of Mo, S, without S"):
        allowed_rows(library, elements="MoS2", excludes="S")


def test_weights_multiply_what_has_the_element(library):
    assert weights_of(library, None) is None
    assert weights_of(library, {"S": 0.5, "Mo": 3}).tolist() == [1, 1.5, 0.5, 3]
    with pytest.raises(ValueError, match="weight of S must be a positive number"):
        weights_of(library, {"S": 0})
