"""Patterns of flakes of several layers are read as such."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny
from ase import Atoms
from ase.build import mx2
from seen import BULK, POLAR, POLAR_BULK, WANTED, slab, turned

import diffraction as dx
from dd2d_jax.data import usable
from dd2d_jax.libraries.library import Library
from dd2d_jax.matching import flake_search, readings
from dd2d_jax.matching.flake_search import search
from dd2d_jax.matching.flakes import simulated
from dd2d_jax.matching.layers import Stacking, slides, stackings
from dd2d_jax.matching.rerank import Way
from dd2d_jax.matching.retrieval import retrieve
from dd2d_jax.networks.trained import Model
from dd2d_jax.spots import Conditions, Spots, half_plane

CONDITIONS = Conditions(dx.Electrons(80.0), q_max=1.25, b_iso=0.5, tokens=48)


MOS2 = BULK["1H-MoS2"]


def seen(
    bulk: Atoms, cells: int, tilt: tuple[float, float], energy: float = 80.0
) -> dx.Pattern:
    """Spots of a bulk crystal's slab by the fine multislice, those that noise does not hide."""
    crystal = dx.Crystal.from_ase(slab(bulk, cells))
    pattern = dx.simulate(crystal, dx.Electrons(energy), 1.2, 0.5, tilt, method="multislice")
    visible = pattern.intensity > 1e-3 * pattern.intensity.max()
    return dataclasses.replace(pattern, mask=pattern.mask & visible)


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny.model()


@pytest.fixture(scope="module")
def library(model) -> Library:
    return Library.build(crystals(known=True), model)


def crystals(known: bool):
    entries = [(atoms, {"uid": name, "known": known}) for name, atoms in WANTED.items()]
    for name, numbers in {"1H-WSe2": {42: 74, 16: 34}, "1H-TaS2": {42: 73}}.items():
        other = WANTED["1H-MoS2"].copy()
        other.numbers = [numbers.get(z, z) for z in other.numbers]
        entries.append((other, {"uid": name, "known": known}))
    return usable.from_atoms(entries)


def flake(
    crystal, layers: int, stacking: int, tilt: tuple[float, float], sense: bool = False
) -> Way:
    """The way in which one of a crystal is seen."""
    every = stackings(crystal.lattice[0], slides(crystal))
    how = jax.tree.map(lambda x: x[[stacking]], every)
    return Way(
        np.zeros(1, bool), np.array([sense]), np.array([tilt]), np.array([layers]), how,
        np.zeros(1),
    )  # fmt: skip


def pairs(crystal, way: Way, b: float) -> Spots:
    """Every pair of one crystal's flake."""
    hk = half_plane(crystal.lattice, CONDITIONS.q_max)
    hk = hk[:, (hk[0] != 0).any(-1)]
    intensity = simulated(crystal, hk, CONDITIONS, np.array([b]), way)[0]
    order = np.argsort(-intensity.max(1))
    intensity = (intensity / intensity.max())[order].astype(np.float32)
    q = (hk[0] @ np.linalg.inv(crystal.lattice[0]).T)[order]
    return Spots(q, hk[0][order], intensity, intensity > 1e-4, crystal.lattice[0])


@pytest.mark.parametrize(
    ("stacking", "layers", "tilt", "sense"),
    [(0, 2, (1.2, -0.3), False), (7, 5, (-0.4, 0.7), True), (3, 12, (0.3, 0.5), False)],
)
def test_stacking_layers_and_tilt_of_a_flake_are_found(stacking, layers, tilt, sense):
    one = crystals(True)
    one = one.take(np.flatnonzero(one.uid == "1H-MoS2"))
    way = flake(one, layers, stacking, tilt, sense)
    found = search(one, pairs(one, way, 0.3), CONDITIONS)
    assert found.likeness[0] > 0.999
    best = jax.tree.map(lambda x: x[0], found.way)
    assert abs(best.layers - layers) <= 1
    # Mirror images are alike: the tilt is as large, its sense may be another.
    assert np.hypot(*best.lean) == pytest.approx(np.hypot(*tilt), abs=0.15)
    true = jax.tree.map(lambda x: x[0], way.stacking)
    assert best.stacking[:2] == true[:2]
    assert np.allclose(best.stacking.shift, true.shift) or sense != best.turned


def test_of_large_cells_inner_spots_tell_the_flake():
    vacancy = WANTED["1H-MoS2"] * (3, 3, 1)
    del vacancy[-1]
    one = usable.from_atoms([(vacancy, {"uid": "vacancy", "known": True})])
    assert abs(np.linalg.det(one.lattice[0])) > 70
    found = search(one, pairs(one, flake(one, 6, 0, (0.5, 0.7)), 0.3), CONDITIONS)
    assert found.likeness[0] > 0.99
    assert abs(found.way.layers[0] - 6) <= 1
    assert np.hypot(*found.way.lean[0]) == pytest.approx(np.hypot(0.5, 0.7), abs=0.2)


@pytest.mark.parametrize(
    ("name", "cells", "tilt"),
    [("1H-MoS2", 1, (0.5, 0.3)), ("1H-MoS2", 4, (0.4, -0.7))],
)
def test_a_bulk_crystals_flake_is_found_as_its_layer(library, model, name, cells, tilt):
    pattern = seen(BULK[name], cells, tilt)
    found = retrieve(turned(pattern, 17), library, model, k=4, energy=80.0)
    assert found[0].uid == name
    assert found[0].probability > 0.4
    assert abs(found[0].flake.layers - 2 * cells) <= 1
    assert np.hypot(*found[0].flake.tilt) == pytest.approx(np.hypot(*tilt), abs=0.2)
    assert found[0].r_factor < 0.12
    without = retrieve(
        turned(pattern, 17), Library.build(crystals(known=False), model), model, energy=80.0
    )
    assert all(c.flake is None for c in without)
    assert without[0].r_factor > 2 * found[0].r_factor


def test_layers_slide_where_symmetry_lets_them(model, monkeypatch):
    """Those of SnSe lie on each other as no mirror plane tells."""
    others = [(WANTED[name], {"uid": name, "known": True}) for name in ("FeSe", "phosphorene")]
    entries = [(POLAR, {"uid": "SnSe", "known": True}), *others]
    library = Library.build(usable.from_atoms(entries), model)
    pattern = turned(seen(POLAR_BULK, 2, (0.4, -0.6)), 23)
    found = retrieve(pattern, library, model, k=1, energy=80.0)[0]
    assert found.uid == "SnSe" and abs(found.flake.layers - 4) <= 1 and found.r_factor < 0.12
    halves = Stacking.of(
        *((turns, False, (x, y)) for turns in (False, True) for x in (0, 0.5) for y in (0, 0.5))
    )
    monkeypatch.setattr(flake_search, "slides", lambda crystal: np.zeros(2, bool))
    monkeypatch.setattr(flake_search, "stackings", lambda lattice, free: halves)
    assert retrieve(pattern, library, model, k=1, energy=80.0)[0].r_factor > 0.25


def test_the_power_of_an_exports_intensities_is_found_with_the_flake(library, model):
    pattern = seen(MOS2, 6, (0.4, -0.7))
    exported = dataclasses.replace(pattern, intensity=pattern.intensity**0.7, power_error=0.2)
    found = retrieve(exported, library, model, k=1, energy=80.0)[0]
    assert found.uid == "1H-MoS2" and abs(found.flake.layers - 12) <= 1
    assert found.power == pytest.approx(0.7, abs=0.05) and found.r_factor < 0.12


def test_a_single_layer_is_no_flake(library, model):
    pattern = dx.simulate(
        dx.Crystal.from_ase(WANTED["1H-MoS2"]), dx.Electrons(80.0), 1.2, 0.5, (0.3, 0.2),
        method="multislice",
    )  # fmt: skip
    found = retrieve(pattern, library, model, energy=80.0)
    assert found[0].uid == "1H-MoS2" and found[0].flake is None


def test_a_crystal_that_is_far_behind_as_a_layer_is_weighed_as_a_flake(model, monkeypatch):
    """As single layers graphene and a superlattice are likelier than it: it may be left behind."""
    monkeypatch.setattr(readings, "_FAR", 1.0)
    layer = mx2("CdI2", "1T", a=4.26, thickness=3.4, vacuum=8)
    bulk = layer.copy()
    bulk.cell[2, 2] = 6.84
    pattern = seen(bulk, 16, (0.8, 0.3), 120.0)
    found = {}
    for known in (True, False):
        told = [{"uid": uid, "known": known} for uid in ("1T-CdI2", "graphene")]
        entries = list(zip((layer, WANTED["graphene"]), told, strict=True))
        some = Library.build(usable.from_atoms(entries), model)
        found[known] = retrieve(pattern, some, model, energy=120.0)
    assert found[False][0].uid == "graphene"
    assert found[True][0].uid == "1T-CdI2" and abs(found[True][0].flake.layers - 16) <= 1


def test_a_flake_is_not_refined_and_this_is_told(library, model):
    with pytest.warns(UserWarning, match="they are flakes of layers: 1H-MoS2"):
        found = retrieve(
            seen(MOS2, 2, (0.4, 0.4)), library, model, k=1, refine=True, energy=80.0
        )
    assert found[0].flake is not None and found[0].cif is None
    assert found[0].r_before == found[0].r_factor


def test_what_is_shown_of_a_flake_is_its_pattern(library, model):
    found = retrieve(seen(MOS2, 3, (0.4, -0.7)), library, model, k=2, energy=80.0)
    one = found[0]
    measured = np.asarray(one.query.measured)
    o, c = (np.sqrt(np.asarray(x)[measured]) for x in (one.query.intensity, one.simulated))
    assert one.r_factor == pytest.approx(np.abs(o - c).sum() / o.sum(), rel=1e-3)
    assert f"about {one.flake.layers} layers" in str(one.flake)
    # The pattern's B is 0.5.
    assert one.b_iso == pytest.approx(0.5, abs=0.2)
    assert found.to_dict()["candidates"][0]["flake"]["layers"] == one.flake.layers
