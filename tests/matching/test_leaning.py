"""Tilted layers: found though their cell looks foreshortened, and their tilt told."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from ase import Atoms
from ase.build import mx2
from seen import WANTED, simulated

import diffraction as dx
from dd2d_jax.data import usable
from dd2d_jax.lattices.lattice import find
from dd2d_jax.libraries.library import Library
from dd2d_jax.matching.hypotheses import measured
from dd2d_jax.matching.leaning import leanings
from dd2d_jax.matching.retrieval import retrieve
from dd2d_jax.networks.trained import Model
from dd2d_jax.reports.comparison import predict
from dd2d_jax.reports.conclusion import conclusion

TILT = (13.0, -9.0)
SIZE = np.hypot(*TILT)
# Isotypes with cells between those of the tilted ones, and theirs.
NEAR = {
    "1H-MoSe2": mx2("MoSe2", "2H", a=3.29, thickness=3.34, vacuum=8),
    "1H-TaS2": mx2("TaS2", "2H", a=3.23, thickness=3.13, vacuum=8),
    "1T-ZrS2": mx2("ZrS2", "1T", a=3.45, thickness=2.9, vacuum=8),
}


def seen(atoms: Atoms, tilt: tuple[float, float]) -> dx.Pattern:
    """Spots of a tilted layer that noise would not hide."""
    crystal = dx.Crystal.from_ase(atoms)
    pattern = dx.simulate(crystal, dx.Electrons(80.0), 1.2, 0.5, tilt)
    bright = pattern.intensity > 3e-3 * pattern.intensity.max()
    return dataclasses.replace(pattern, mask=pattern.mask & bright)


def elliptic(pattern: dx.Pattern, by: float) -> dx.Pattern:
    return dataclasses.replace(pattern, q=pattern.q * jnp.array([1 + by, 1.0]))


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny.model()


@pytest.fixture(scope="module")
def library(model) -> Library:
    entries = [(atoms, {"uid": name}) for name, atoms in (WANTED | NEAR).items()]
    return Library.build(usable.from_atoms(entries), model)


@pytest.mark.parametrize("name", ["1H-MoS2", "1T-PtS2", "1H-MoSe2", "CrI3", "FeSe"])
def test_a_tilted_layer_is_first_and_its_tilt_is_told(name, library, model):
    found = retrieve(seen((WANTED | NEAR)[name], TILT), library, model, energy=80.0)
    assert found[0].uid == name and found[0].probability > 0.8
    assert found[0].leans == pytest.approx(SIZE, abs=0.5)
    # Which of the two senses, the intensities tell; a layer's mirror image scatters as it does.
    assert np.abs(np.abs(found[0].tilt) - np.abs(TILT)).max() < 0.5
    assert found[0].r_factor < 0.06 and abs(found[0].strain) < 0.004


@pytest.mark.parametrize("name", ["1H-MoS2", "1T-PtS2", "FeSe"])
def test_a_flat_layer_under_an_elliptic_camera_is_not_taken_for_tilted(name, library, model):
    for pattern in (simulated(WANTED[name]), elliptic(simulated(WANTED[name]), 0.025)):
        found = retrieve(pattern, library, model)
        assert found[0].uid == name and found[0].leans == 0


def test_larger_tilts_are_believed_less():
    base = find(simulated(WANTED["1H-MoS2"]))
    by = [
        leanings(dataclasses.replace(base, lattice=base.lattice * (c, 1.0)), measured()[0])
        for c in (0.98, 0.96, 0.93)
    ]
    log_p = [one[0].log_p for one in by]
    assert log_p[0] > log_p[1] > log_p[2]
    assert log_p[0] < np.log(0.01)


def test_a_tilted_candidate_is_shown_where_its_spots_were_seen(library, model):
    pattern = seen(WANTED["1H-MoS2"], TILT)
    found = retrieve(pattern, library, model, energy=80.0)
    shown = predict(found[0], found.indexed, energy=80.0)
    rows = shown.spot >= 0
    assert rows.sum() == len(found.indexed.q)
    off = np.linalg.norm(shown.q[rows] - found.indexed.q[shown.spot[rows]], axis=1)
    assert off.max() < 0.012
    scale = shown.observed[rows].sum() / shown.calculated[rows].sum()
    miss = np.abs(scale * shown.calculated[rows] - shown.observed[rows]).sum()
    assert miss < 0.08 * shown.observed[rows].sum()
    assert "tilted by 16 degrees" in conclusion(found)
    assert json.loads(json.dumps(found.to_dict()))["candidates"][0]["tilt"] == list(found[0].tilt)


def test_a_tilted_layer_is_refined_at_its_tilt(library, model):
    found = retrieve(seen(NEAR["1H-MoSe2"], TILT), library, model, energy=80.0, refine=True, k=3)
    assert found[0].uid == "1H-MoSe2" and found[0].leans
    assert found[0].r_factor < min(found[0].r_before, 0.03)
    a, b, gamma = found[0].structure.cell.cellpar()[[0, 1, 5]]
    assert a == pytest.approx(3.29, rel=5e-3) and b == pytest.approx(3.29, rel=5e-3)


def test_a_crystal_that_may_be_tilted_or_not_has_the_probability_of_both(library, model):
    pattern = elliptic(simulated(WANTED["FeSe"]), 0.05)
    found = retrieve(pattern, library, model, k=12)
    assert found[0].uid == "FeSe" and len({one.uid for one in found}) == len(found)
    total = sum(one.probability for one in found) + found.none
    assert total == pytest.approx(1, abs=0.01)
    assert found[0].score == pytest.approx(np.log(found[0].probability / found.none), abs=1e-3)
