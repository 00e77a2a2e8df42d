"""What multiple scattering does to a fit is told apart from what is stated, named, and modelled."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import mx2

import diffraction as dx
from dd2d_jax.data import usable
from dd2d_jax.data.crystal_set import CrystalSet
from dd2d_jax.refinement.minima import components
from dd2d_jax.refinement.refine import fit
from dd2d_jax.refinement.verdict import doubts
from dd2d_jax.spots import Conditions, Spots, half_plane, select

CONDITIONS = Conditions(dx.Electrons(80.0), q_max=1.25, b_iso=0.5, tokens=64)


def test_residuals_are_split_into_stated_errors_and_multiple_scattering():
    rng = np.random.default_rng(0)
    dynamical = rng.exponential(20.0, 300)
    measured, taken = np.ones(300, bool), np.full(300, 0.05)
    for known, share in ((1.0, 0.0), (1.0, 1.0), (9.0, 0.0)):
        r = rng.normal(0, np.sqrt(known + share * dynamical)) * np.sqrt(0.95)
        arrays = (jnp.asarray(x) for x in (r, taken, dynamical, measured))
        found = components(*arrays, jnp.asarray(0.04))
        assert float(found[0]) == pytest.approx(known, rel=0.3)
        assert float(found[1]) == pytest.approx(share, abs=0.25 * share)


def seen_by_multislice(layers: int) -> tuple[CrystalSet, Spots]:
    """Layers that scatter electrons more than once, without any symmetry, and what is seen."""
    layer = mx2("PtTe2", "1T", a=4.02, thickness=2.8, vacuum=8)
    atoms = layer.copy()
    for i in range(1, layers):
        another = layer.copy()
        another.positions += np.array([1.3, 0.4, 6.0]) * i
        atoms += another
    atoms.set_cell(atoms.cell.array * [[1.0], [1.06], [1.0]], scale_atoms=True)
    atoms.center(8, 2)
    crystals = usable.from_atoms([(atoms, {"uid": "a"})])
    hk = half_plane(crystals.lattice, CONDITIONS.q_max)
    both = np.concatenate([hk, -hk], 1)
    pattern = dx.simulate(crystals.crystal, CONDITIONS.radiation, 1.25, 0.5, hk=both,
                          method="multislice")  # fmt: skip
    count = hk.shape[1]
    intensity = jnp.stack([pattern.intensity[:, :count], pattern.intensity[:, count:]], -1)
    q = pattern.q[:, :count]
    return crystals, select(q, jnp.asarray(hk), intensity, intensity > 0, 64)


@pytest.mark.parametrize(("error", "named"), [(0.01, False), (0.1, True)])
def test_multiple_scattering_that_was_left_out_is_named_where_it_counts(error, named):
    said = doubts({"goodness": 1.0, "minima": 1}, True, error)
    assert any("multiple scattering changes" in x for x in said) == named


@pytest.mark.slow
def test_heights_that_only_multiple_scattering_shows_are_undetermined():
    crystals, seen = seen_by_multislice(3)
    sigma = 0.02 * np.asarray(seen.intensity) + 1e-3
    found = fit(crystals, seen, CONDITIONS, sigma=sigma, starts=1)
    free = found.position_sigma[0, :, 2] > 0
    assert sum(name.startswith("z of") for name in found.undetermined[0]) == free.sum() == 8
    assert (found.position_sigma[0, free, 2] >= 0.1).all()


@pytest.mark.slow
def test_multiple_scattering_is_an_error_of_the_kinematic_fit_and_none_of_the_dynamical():
    crystals, seen = seen_by_multislice(1)
    sigma = 0.02 * np.asarray(seen.intensity) + 1e-3
    kinematic = fit(crystals, seen, CONDITIONS, sigma=sigma, starts=1)
    told = []
    dynamical = fit(
        crystals, seen, CONDITIONS, sigma=sigma, starts=1, method="multislice", say=told.append
    )
    assert dynamical.doubts[0] == () and any("round 2" in x for x in told)
    assert dynamical.r_factor[0] < 0.3 * kinematic.r_factor[0]
    real = crystals.numbers[0] > 0
    away = [
        np.asarray(f.crystals.positions)[0, real, 2] - crystals.positions[0, real, 2]
        for f in (kinematic, dynamical)
    ]
    for off, found in zip(away, (kinematic, dynamical), strict=True):
        sigma = found.position_sigma[0, real, 2]
        # Heights count from the atom that the layer group holds in its place.
        assert (np.abs(off - off[sigma.argmin()]) < 3 * sigma + 2e-3).all()
    with pytest.raises(ValueError, match="method must be"):
        fit(crystals, seen, CONDITIONS, method="bloch")
    xrays = dataclasses.replace(CONDITIONS, radiation=dx.Xrays())
    with pytest.raises(ValueError, match="is for electrons"):
        fit(crystals, seen, xrays, method="multislice")
