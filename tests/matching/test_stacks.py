"""Stacks of layers, so shifted that most of their rods show no spot, are found as the layer."""

import dataclasses

import numpy as np
import pytest
import tiny
from ase import Atoms
from ase.build import mx2
from seen import WANTED, simulated, turned

import diffraction as dx
from dd2d_jax.data import usable
from dd2d_jax.lattices.lattice import find
from dd2d_jax.libraries.library import Library
from dd2d_jax.matching.rerank import Query, log_none
from dd2d_jax.matching.retrieval import retrieve
from dd2d_jax.matching.stacks import stacks
from dd2d_jax.networks.trained import Model

SHIFTS = {
    "1T-PtS2": (1 / 3, 2 / 3, 0),
    "1H-MoS2": (1 / 3, 2 / 3, 0),
    "CrI3": (1 / 3, 2 / 3, 0),
    "FeSe": (1 / 2, 1 / 2, 0),
    "phosphorene": (1 / 2, 0, 0),
}
# Rods of the layer's cell for each that is left.
LEFT = {"1T-PtS2": 3, "1H-MoS2": 3, "CrI3": 3, "FeSe": 2, "phosphorene": 2}


def stack(name: str, layers: int) -> Atoms:
    """Layers on each other, each shifted against the one below."""
    layer = WANTED[name]
    out = layer.copy()
    for i in range(1, layers):
        above = layer.copy()
        above.positions += i * (np.array(SHIFTS[name]) @ layer.cell.array) + [0, 0, 6.5 * i]
        out += above
    out.cell[2, 2] += 6.5 * layers
    return out


def seen(name: str, layers: int) -> dx.Pattern:
    """Spots of a stack, but for those that noise would hide."""
    pattern = simulated(stack(name, layers))
    return dataclasses.replace(
        pattern, mask=pattern.mask & (pattern.intensity > 2e-3 * pattern.intensity.max())
    )


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny.model()


@pytest.fixture(scope="module")
def library(model) -> Library:
    entries = [(atoms, {"uid": name}) for name, atoms in WANTED.items()]
    return Library.build(usable.from_atoms(entries), model)


@pytest.mark.parametrize("name", SHIFTS)
@pytest.mark.parametrize("degrees", [0, 73])
def test_the_layer_of_a_stack_is_first_though_most_of_its_rods_show_nothing(
    name, degrees, library, model
):
    found = retrieve(turned(seen(name, LEFT[name]), degrees), library, model)
    assert found[0].uid == name and found[0].probability > 0.5
    # Cells of twice the area are tried anyway, and explain so few spots as well.
    assert found[0].stacked or LEFT[name] == 2


def test_a_stack_whose_other_rods_show_weak_spots_is_found_as_well(library, model):
    # Four layers, each shifted by a third: a sixteenth of the layer's intensity there.
    found = retrieve(seen("1T-PtS2", 4), library, model)
    assert found[0].uid == "1T-PtS2" and found[0].stacked


@pytest.mark.parametrize("name", WANTED)
def test_a_single_layer_is_no_stack(name, library, model):
    assert not any(one.stacked for one in retrieve(simulated(WANTED[name]), library, model))


def test_rods_that_cancel_are_not_missed():
    # The same rods are expected of both cells: what a structure of any kind shows is as likely.
    single = simulated(WANTED["1T-PtS2"])
    left = (np.asarray(single.hk) @ [1, -1]) % 3 == 0
    indexed = find(dataclasses.replace(single, mask=single.mask & left))
    whole = log_none(Query.indexed(indexed, 1.25))
    (layer,) = [one.layer for one in stacks(indexed) if one.layer.stacked]
    assert np.linalg.norm(layer.lattice, axis=1) == pytest.approx([3.54, 3.54], abs=0.01)
    np.testing.assert_allclose(layer.hk @ np.linalg.inv(layer.lattice).T, layer.q, atol=1e-3)
    assert log_none(Query.indexed(layer, 1.25)) == pytest.approx(whole, abs=0.01)


def test_a_layer_most_of_whose_rods_are_weak_is_no_stack(model):
    # Titanium and selenium nearly cancel where h - k is no multiple of three.
    layers = {
        "1T-TiSe2": mx2("TiSe2", "1T", a=3.54, thickness=3.1, vacuum=8),
        "1T-ZrTe2": mx2("ZrTe2", "1T", a=3.95, thickness=3.5, vacuum=8),
    }
    entries = [(atoms, {"uid": name}) for name, atoms in (WANTED | layers).items()]
    library = Library.build(usable.from_atoms(entries), model)
    pattern = simulated(layers["1T-TiSe2"])
    bright = pattern.intensity > 0.02 * pattern.intensity.max()
    pattern = dataclasses.replace(pattern, mask=pattern.mask & bright)
    shown = np.asarray(pattern.hk)[np.asarray(pattern.mask)]
    assert ((shown[:, 0] - shown[:, 1]) % 3 == 0).all() or (shown.sum(1) % 3 == 0).all()
    found = retrieve(pattern, library, model)
    assert found[0].uid == "1T-TiSe2" and not found[0].stacked
