"""Crystals that everyone knows, simulated by the program itself, at any B and energy."""

import numpy as np
import pytest

import dd2d_jax
import diffraction as dx
from dd2d_jax.libraries.library import Library

NAMES = ("1H-MoS2", "graphene", "1H-WSe2", "1T-PtS2", "1T-SnS2", "phosphorene", "CrI3")


@pytest.fixture(scope="module")
def library() -> Library:
    return Library.load()


@pytest.fixture(scope="module")
def model():
    return dd2d_jax.load()


@pytest.mark.slow
@pytest.mark.parametrize("energy", [60.0, 80.0, 200.0, 300.0])
@pytest.mark.parametrize("name", NAMES)
def test_a_known_crystal_is_found_whatever_its_b_and_the_energy(library, model, name, energy):
    row = int(np.flatnonzero(library.crystals.uid == name)[0])
    crystal = library.crystals.take([row]).crystal[0]
    for b_iso in (0.0, 0.5, 1.0, 2.0, 3.0):
        pattern = dx.simulate(crystal, dx.Electrons(energy), 1.25, b_iso)
        found = dd2d_jax.retrieve(pattern, library, model, k=3, energy=energy)
        assert found[0].uid == name, (b_iso, [(c.uid, c.probability) for c in found])
