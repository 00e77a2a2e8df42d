"""The lattice behind a list of spots: found whatever the setting, refused where there is none."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import graphene, mx2
from ase.db import connect
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from lattice_points import Q_MAX, RING, cell, hexagonal, pattern, points, spoiled, turned

import diffraction as dx
from dd2d_jax.crystals.structures import Layer, layer
from dd2d_jax.lattices import lattice as lattices
from dd2d_jax.lattices.notes import notes_of_all
from dd2d_jax.util.errors import PatternError, StructureError


def flat(symbols: str, cell, scaled) -> Atoms:
    """A layer from in-plane cell vectors and (x, y, z) with z in angstrom."""
    cell, scaled = np.array(cell, float), np.array(scaled, float)
    positions = np.column_stack([scaled[:, :2] @ cell, scaled[:, 2] + 10])
    full = np.zeros((3, 3))
    full[:2, :2], full[2, 2] = cell, 20
    return Atoms(symbols, positions, cell=full, pbc=(True, True, False))


def superstructure() -> Atoms:
    """2 x 2 MoS2 with one atom moved a little: three in four spots are weak."""
    atoms = mx2("MoS2", vacuum=8).repeat((2, 2, 1))
    atoms.positions[0] += (0.05, 0.03, 0.0)
    return atoms


CRYSTALS = {
    "hexagonal": graphene(vacuum=8),
    "hexagonal, three kinds of sites": mx2("PtS2", "1T", vacuum=8),
    "square": flat("Fe2Se2", np.diag([3.77, 3.77]), [(0, 0, 0), (0.5, 0.5, 0), (0, 0.5, 1.5),
                                                     (0.5, 0, -1.5)]),
    "rectangular": flat("P4", np.diag([3.30, 4.62]), [(0, 0.08, 0), (0.5, 0.42, 0),
                                                      (0.5, 0.58, 2.1), (0, 0.92, 2.1)]),
    "centred": flat("MoSe2", [[3.1, 1.8], [-3.1, 1.8]], [(0, 0, 0), (0.4, 0.4, 1.6),
                                                         (0.7, 0.7, -1.6)]),
    "oblique": flat("ReS2", [[3.1, 0.2], [-0.9, 4.2]], [(0, 0, 0), (0.4, 0.3, 1.5),
                                                        (0.7, 0.8, -1.4)]),
    "weak superstructure": superstructure(),
}  # fmt: skip


def spots(crystal: Layer) -> tuple[np.ndarray, np.ndarray]:
    """q (K, 2) and intensities (K,) of a crystal in its canonical setting."""
    hk = dx.reflections(crystal.lattice, Q_MAX)
    # Few sizes, so that few are compiled.
    hk = np.pad(hk, [(0, -len(hk) % 512), (0, 0)])
    count = len(crystal.numbers)
    batch = dx.stack([dx.Crystal(*crystal)], size=count + -count % 32)
    made = dx.simulate(batch, q_max=Q_MAX, b_iso=0.5, hk=hk[None])[0]
    real = np.asarray(made.mask)
    return np.asarray(made.q, float)[real], np.asarray(made.intensity, float)[real]


def misfit(found: np.ndarray, true: np.ndarray) -> float:
    """How far (angstrom) the nearest setting of the lattice found is from the true one."""
    metrics = [(s @ found) @ (s @ found).T for s in lattices.settings(found)]
    true = true @ true.T
    return min(np.abs(m - true).max() for m in metrics) / np.sqrt(true.max())


@pytest.mark.parametrize("name", CRYSTALS)
@pytest.mark.parametrize("mirrored", [False, True])
def test_lattice_is_found_at_any_rotation_and_from_either_side(name, mirrored):
    crystal = layer(CRYSTALS[name])
    q, intensity = spots(crystal)
    for degrees in (0.0, 11.0, 90.0, 163.0):
        found = lattices.find(pattern(turned(q, degrees, mirrored), intensity))
        assert misfit(found.lattice, crystal.lattice) < 1e-3
        assert found.explained == 1.0
        assert found.residual < 1e-5
        np.testing.assert_allclose(found.hk @ np.linalg.inv(found.lattice).T, found.q, atol=1e-5)


@pytest.mark.parametrize("name", CRYSTALS)
def test_lattice_is_found_without_a_fifth_of_the_spots(name):
    crystal = layer(CRYSTALS[name])
    q, intensity = spots(crystal)
    for seed in range(3):
        seen = np.random.default_rng(seed).random(len(q)) > 0.2
        found = lattices.find(pattern(q[seen], intensity[seen]))
        assert misfit(found.lattice, crystal.lattice) < 1e-3


@pytest.mark.parametrize("name", CRYSTALS)
def test_lattice_is_found_among_spurious_spots_which_are_left_out(name):
    crystal = layer(CRYSTALS[name])
    q, intensity = spots(crystal)
    # Between rods, and on no common superlattice.
    stray = [(1.43, 0.37), (-0.61, 1.29), (0.33, -0.72)] @ np.linalg.inv(crystal.lattice).T
    bright = np.full(3, 0.3 * intensity.max())
    found = lattices.find(pattern(np.concatenate([q, stray]), np.append(intensity, bright)))
    assert misfit(found.lattice, crystal.lattice) < 1e-3
    assert found.explained < 1
    assert len(found.q) == (intensity > 1e-5 * intensity.max()).sum()


@pytest.mark.parametrize("name", CRYSTALS)
def test_lattice_is_found_from_noisy_positions(name):
    crystal = layer(CRYSTALS[name])
    q, intensity = spots(crystal)
    for seed in range(3):
        noise = np.random.default_rng(seed).normal(0, 0.002, q.shape)
        found = lattices.find(pattern(q + noise, intensity))
        # The error of a mean over many spots, far below that of a single one.
        assert misfit(found.lattice, crystal.lattice) < 0.02
        assert 0.001 < found.residual < 0.004


def test_lattices_of_real_crystals_are_found(shared_data):
    database = connect(shared_data / "twodmatpedia.db")
    random = np.random.default_rng(1)
    missed, count = [], 0
    for number in random.choice(5390, 70, replace=False) + 1:
        row = database.get(int(number))
        try:
            crystal = layer(row.toatoms())
        except StructureError:
            continue
        q, intensity = spots(crystal)
        q = turned(q, random.uniform(0, 360), random.random() < 0.5)
        seen = random.random(len(q)) > 0.2
        count += 1
        try:
            found = lattices.find(pattern(q[seen], intensity[seen]))
        except PatternError:
            missed.append(row.uid)
            continue
        if misfit(found.lattice, crystal.lattice) > 1e-3:
            missed.append(row.uid)
    assert count > 55
    # A superstructure whose spots are all fainter than 1e-5 cannot be seen: 1 in 200 has such.
    assert len(missed) <= 1, missed


@pytest.mark.parametrize("name", CRYSTALS)
def test_one_setting_is_that_of_the_library(name):
    """The same cell, the same indices: each spot has the intensity that the simulator gives it."""
    crystal = layer(CRYSTALS[name])
    q, intensity = spots(crystal)
    hk = np.rint(q @ crystal.lattice.T).astype(int)
    true = {tuple(i): v for i, v in zip(hk, intensity / intensity.max(), strict=True)}
    for degrees, mirrored in ((0, False), (37, False), (200, True)):
        found = lattices.find(pattern(turned(q, degrees, mirrored), intensity))
        rows = lattices.canonical_spots(found, Q_MAX, len(q))
        errors = []
        for s in range(len(rows.q)):
            seen = np.asarray(rows.measured[s])
            pairs = np.stack([rows.hk[s], -rows.hk[s]], 1)[seen]
            wanted = [true.get(tuple(i), np.inf) for i in pairs.tolist()]
            wrong = np.abs(np.asarray(rows.intensity[s])[seen] - wanted).max()
            errors.append(max(np.abs(rows.lattice[s] - crystal.lattice).max(), wrong))
        assert min(errors) < 1e-3
        area = np.abs(np.linalg.det(np.asarray(rows.lattice)))
        own = area < 1.5 * area.min()
        assert own.sum() == len(lattices.settings(found.lattice))
        np.testing.assert_allclose(area[~own], 2 * area.min(), rtol=1e-3)


def test_a_superstructure_that_is_not_seen_is_still_among_the_settings():
    """Only the spots of the half cell are there; the crystal's own cell is tried all the same.

    No crystal has a lattice vector of half of 3.3 angstrom: the cell that is twice as large is
    found, and others as large are named.
    """
    crystal = layer(CRYSTALS["rectangular"])
    q, intensity = spots(crystal)
    hk = np.rint(q @ crystal.lattice.T).astype(int)
    for parity in (hk[:, 0], hk[:, 1], hk.sum(1)):
        half = parity % 2 == 0
        found = lattices.find(pattern(turned(q[half], 37, False), intensity[half]))
        assert np.linalg.norm(found.lattice, axis=1).min() > 2
        rows = lattices.canonical_spots(found, Q_MAX, len(q))
        errors = np.abs(np.asarray(rows.lattice) - crystal.lattice).max((1, 2))
        assert errors.min() < 1e-3


def test_canonical_spots_keep_the_strongest_within_q_max():
    found = lattices.find(pattern(*spots(layer(CRYSTALS["oblique"]))))
    rows = lattices.canonical_spots(found, 0.8, 5)
    assert rows.q.shape[1:] == (5, 2)
    assert (np.linalg.norm(rows.q, axis=-1) <= 0.8).all()
    inside = found.intensity[np.linalg.norm(found.q, axis=1) <= 0.8]
    np.testing.assert_allclose(rows.intensity.max((1, 2)), 1.0)
    weakest = np.asarray(rows.intensity).max(-1).min()
    assert weakest >= np.sort(inside)[-10] / inside.max() - 1e-6
    with pytest.raises(PatternError, match="q_max"):
        lattices.canonical_spots(found, 0.1, 5)


@pytest.mark.parametrize(
    ("lattice", "count"),
    [
        (cell(3, 3, 120), 12),
        (cell(3, 3, 90), 8),
        (cell(3, 4, 90), 4),
        (cell(3, 3, 104), 4),
        (cell(3, 4, 95), 2),
        # Nearly hexagonal or square: what noise may have hidden is tried, too.
        (cell(3, 3.03, 119), 12),
        (cell(3, 3.03, 90.5), 8),
    ],
)
def test_settings_are_the_symmetries_of_the_lattice(lattice, count):
    changes = lattices.settings(lattice)
    assert len(changes) == count
    assert len({c.tobytes() for c in changes}) == count
    assert {round(abs(np.linalg.det(c))) for c in changes} == {1}
    # Both hands, each as often; an oblique lattice has one basis of 90 to 120 degrees and its
    # inverse, whichever side is up.
    hands = sum(np.linalg.det(c) for c in changes)
    assert abs(hands) == pytest.approx(2 if count == 2 else 0)


@given(
    st.floats(2, 20), st.floats(1, 3), st.floats(60, 120), st.floats(0, 360),
    st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), max_size=6),
)  # fmt: skip
@examples(max_examples=200, deadline=None)
def test_reduction_is_unimodular_and_shortest(a, ratio, degrees, turn, shears):
    lattice = turned(cell(a, a * ratio, degrees), turn, False)
    skewed = lattice
    for first, steps in shears:
        shear = np.array([[1, steps], [0, 1]] if first else [[1, 0], [steps, 1]])
        skewed = shear @ skewed
    change = lattices.reduce(skewed)
    assert change.dtype.kind == "i"
    assert abs(round(np.linalg.det(change))) == 1
    one, two = change @ skewed
    slack = 1e-6 * (two @ two)
    assert one @ one <= two @ two + slack
    assert -0.5 * (one @ one) - slack <= one @ two <= slack
    # The area is the invariant that no basis changes.
    assert abs(np.linalg.det(change @ skewed)) == pytest.approx(abs(np.linalg.det(lattice)))


def test_a_cell_however_skewed_gives_the_same_lattice():
    crystal = layer(CRYSTALS["oblique"])
    atoms = CRYSTALS["oblique"].copy()
    atoms.set_cell(np.array([[2, 1, 0], [1, 1, 0], [0, 0, 1]]) @ atoms.cell.array)
    q, intensity = spots(layer(atoms))
    assert misfit(lattices.find(pattern(q, intensity)).lattice, crystal.lattice) < 1e-3


def with_value(array: np.ndarray, value: float) -> np.ndarray:
    array = np.array(array, float)
    array.flat[4] = value
    return array


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (spoiled(np.zeros((0, 2))), "empty"),
        (spoiled(mask=np.zeros(8, bool)), "every spot is masked"),
        (spoiled(with_value(RING, np.nan)), "spot 2: q is not a finite"),
        (spoiled(intensity=with_value(np.ones(8), np.nan)), "spot 4: intensity is not a finite"),
        (spoiled(intensity=with_value(np.ones(8), np.inf)), "spot 4: intensity is not a finite"),
        (spoiled(intensity=with_value(np.ones(8), -2)), "spot 4: intensity -2 is negative"),
        (spoiled(intensity=np.zeros(8)), "no spot with an intensity"),
        (spoiled(np.zeros((8, 2))), "no spot with an intensity except the central"),
        (spoiled(RING[:2]), "2 spots are too few to find a lattice; at least 4"),
        (spoiled(np.outer(np.arange(-4, 5), [0.2, 0.1])), "on a line"),
        (dx.Pattern(RING[None], np.ones((1, 8)), np.zeros((1, 8, 2)), np.ones((1, 8), bool)),
         "a single pattern is needed, got a batch"),
    ],
)  # fmt: skip
def test_bad_patterns_are_refused_in_one_line(bad, words):
    with pytest.raises(PatternError, match=words) as error:
        lattices.find(bad)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("seed", range(5))
def test_spots_strewn_at_random_have_no_lattice(seed):
    random = np.random.default_rng(seed)
    q = random.uniform(-1.0, 1.0, (60, 2))
    with pytest.raises(PatternError, match="no 2D lattice explains"):
        lattices.find(spoiled(q, random.random(60)))


def test_masked_spots_and_the_central_beam_do_not_count():
    q, intensity = spots(layer(CRYSTALS["square"]))
    alone = lattices.find(pattern(q, intensity))
    more = np.concatenate([q, [(0.0, 0.001), (np.nan, 0.3), (0.123, 0.456)]])
    much = np.append(intensity, [1e6 * intensity.max(), np.nan, intensity.max()])
    mask = np.append(np.ones(len(q), bool), [True, False, False])
    found = lattices.find(spoiled(more, much, mask))
    np.testing.assert_allclose(found.lattice, alone.lattice, rtol=1e-5)
    np.testing.assert_allclose(found.intensity, alone.intensity, rtol=1e-5)


def test_a_wrong_basis_that_fits_without_area_is_passed_over():
    """Five spots of a real pattern and a stray one: least squares made one trial basis a line."""
    q = [
        (-0.5219247341156006, 0.0),
        (0.0, 0.6026667952537537),
        (-0.7828871011734009, 0.45200011134147644),
        (0.0, 0.9040001630783081),
        (-0.653800173579411, 0.3365167439494008),
        (-0.3730478888969242, -0.0859558833081131),
    ]
    try:
        found = lattices.find(spoiled(q, [227.84, 13.21, 51.37, 51.37, 47.98, 25.13]))
        assert found.explained >= 2 / 3
    except PatternError as error:
        assert "\n" not in str(error)


def test_a_superstructure_stays_one_lattice():
    crystal = layer(CRYSTALS["weak superstructure"])
    found = lattices.find_all(pattern(*spots(crystal)))
    assert len(found) == 1
    assert misfit(found[0].lattice, crystal.lattice) < 1e-3


def test_uncertainties_are_the_spread_over_repetitions():
    true = turned(cell(3.1, 4.2, 99), 25, False)
    q = points(true)
    runs = []
    for seed in range(40):
        noise = np.random.default_rng(seed).normal(0, 0.002, q.shape)
        f = lattices.find(pattern(q + noise, np.ones(len(q))))
        a, b = f.lattice
        length = np.linalg.norm(f.lattice, axis=1)
        angle = np.rad2deg(np.arccos(a @ b / length.prod()))
        # a1 and -a1 are the same lattice.
        runs.append(([*length, angle, (f.rotation + 90) % 180 - 90], f.sigma))
    values, sigmas = np.array([r[0] for r in runs]), np.array([r[1] for r in runs])
    np.testing.assert_allclose(values.mean(0), [3.1, 4.2, 99, 25], atol=0.02)
    np.testing.assert_allclose(sigmas.mean(0), values.std(0), rtol=0.35)


def test_uncertainties_of_intensities_go_with_their_spots():
    q = points(hexagonal(3.18))
    intensity = np.arange(1.0, len(q) + 1)
    made = dx.Pattern(q, intensity, np.zeros(q.shape, int), np.ones(len(q), bool), 0.1 * intensity)
    found = lattices.find(made)
    np.testing.assert_allclose(found.intensity_sigma, 0.1 * found.intensity)
    assert lattices.find(pattern(q, intensity)).intensity_sigma is None


def test_uncertainties_go_with_their_spots_into_every_setting():
    """Also where two spots of one place become their mean, and whatever the strongest is."""
    crystal = dx.Crystal.from_ase(mx2("MoS2", vacuum=8))
    pattern = dx.simulate(crystal, q_max=1.0, b_iso=0.5)
    sigma = 0.01 * pattern.intensity + 0.3 * jnp.abs(pattern.q[:, 0])
    seen = dx.Pattern(pattern.q, 7 * pattern.intensity, pattern.hk, pattern.mask, 7 * sigma)
    spots = lattices.canonical_spots(lattices.find(seen), 1.0, 32)
    strongest = float(pattern.intensity.max())
    for s in range(len(spots.hk)):
        measured = spots.measured[s]
        there = np.sort(spots.sigma[s][measured])
        wanted = np.sort(np.asarray(sigma)[np.asarray(pattern.mask)] / strongest)
        np.testing.assert_allclose(there, wanted, rtol=1e-4, atol=1e-7)
    plain = lattices.canonical_spots(lattices.find(dataclasses.replace(seen, sigma=None)), 1.0, 32)
    assert plain.sigma is None
    np.testing.assert_array_equal(plain.intensity, spots.intensity)


def test_what_is_true_of_a_further_lattice_alone_names_it():
    q = points(hexagonal(3.18))
    one = lattices.find(pattern(q, np.ones(len(q))))
    first = dataclasses.replace(one, notes=("both", "the first"))
    second = dataclasses.replace(one, notes=("both", "the second"))
    assert notes_of_all([first, second]) == ["both", "the first", "lattice 2: the second"]
