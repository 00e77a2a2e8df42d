"""Comparison by simulation: exact where the crystal is exact, the same however it is computed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffraction as dx
from dd2d_jax.matching import score as scores
from dd2d_jax.matching.score import (
    lattice_likelihood,
    levels,
    score,
    simulate_table,
    strain_between,
    strains,
)
from dd2d_jax.networks.disturbances import clean_spots
from dd2d_jax.spots import Conditions, Spots, half_plane

CONDITIONS = Conditions(dx.Electrons(80.0), q_max=1.25, b_iso=0.5, tokens=512)
SHAPES = {
    "oblique": [[3.1, 0.0], [-0.9, 4.2]],
    "hexagonal": [[2.5, 0.0], [-1.25, 2.165]],
    "square": [[4.0, 0.0], [0.0, 4.0]],
    "long": [[3.0, 0.0], [-1.4, 17.0]],
    "small": [[2.2, 0.0], [-0.2, 2.4]],
}


@pytest.fixture(scope="module")
def crystals() -> dx.Crystal:
    """One of each shape, with different numbers of atoms."""
    random = np.random.default_rng(3)
    made = []
    for number, cell in enumerate(SHAPES.values()):
        atoms = 2 + number
        flat = random.random((atoms, 2)) @ np.array(cell)
        positions = np.column_stack([flat, 4 * random.random(atoms)]).astype(np.float32)
        kinds = random.choice([5, 8, 16, 34, 42, 74], atoms)
        made.append(dx.Crystal(np.array(cell, np.float32), positions, kinds.astype(np.int32)))
    return dx.stack(made)


@pytest.fixture(scope="module")
def queries(crystals) -> Spots:
    """The clean pattern of each crystal, every spot of it."""
    hk = half_plane(np.asarray(crystals.lattice), CONDITIONS.q_max)
    return clean_spots(crystals, jnp.asarray(hk), CONDITIONS)


@pytest.fixture(scope="module")
def table(crystals) -> scores.Table:
    return simulate_table(crystals, CONDITIONS)


@pytest.fixture(scope="module")
def simulated(crystals) -> list[tuple[np.ndarray, np.ndarray]]:
    """hk (K, 2) and relative intensities (K,) of each crystal, straight from the simulator."""
    reach = CONDITIONS.q_max * (1 + scores.EDGE)
    patterns = dx.simulate(crystals, CONDITIONS.radiation, reach, CONDITIONS.b_iso)
    out = []
    for hk, intensity, mask in zip(
        *(np.asarray(x) for x in (patterns.hk, patterns.intensity, patterns.mask)), strict=True
    ):
        out.append((hk[mask], intensity[mask] / intensity.max()))
    return out


def row(spots: Spots, index: int) -> Spots:
    return jax.tree.map(lambda x: x[index], spots)


def test_the_crystal_itself_scores_one_and_highest(table, queries):
    for i in range(len(SHAPES)):
        values = np.asarray(score(table, row(queries, i)))
        # The lattice's part is zero for equal lattices, but for float32 rounding.
        assert values[i] == pytest.approx(1.0, abs=2e-4)
        assert values.argmax() == i
        assert (np.delete(values, i) < 0.99).all()


def test_the_table_holds_the_simulators_intensity_of_every_rod(table, simulated):
    values = np.asarray(table.levels)
    reciprocals = np.linalg.inv(np.asarray(table.lattice)).transpose(0, 2, 1)
    for i, (hk, intensity) in enumerate(simulated):
        level = np.log1p(intensity / scores.SOFT)
        extent = np.asarray(table.extent[i])
        assert (np.abs(hk) <= extent).all()
        total = 0.0
        for (h, k), value in zip(hk.tolist(), level, strict=True):
            upper = h > 0 or (h == 0 and k > 0)
            h, k = (h, k) if upper else (-h, -k)
            place = int(table.offset[i]) + h * (2 * extent[1] + 1) + k + extent[1]
            assert values[place, 0 if upper else 1] == pytest.approx(value, abs=2e-4)
            if np.linalg.norm([h, k] @ reciprocals[i]) <= float(table.q_inner):
                total += value**2
        assert table.inner[i] == pytest.approx(total, rel=1e-4)


def test_each_crystals_levels_are_its_own(table):
    extent = np.asarray(table.extent)
    size = (extent[:, 0] + 1) * (2 * extent[:, 1] + 1)
    np.testing.assert_array_equal(table.offset, np.concatenate([[0], np.cumsum(size)[:-1]]))
    assert len(table.levels) == size.sum()
    for i, start in enumerate(np.asarray(table.offset)):
        # The central beam is no spot.
        np.testing.assert_array_equal(table.levels[start + extent[i, 1]], 0)


def written_out_r1(query, hk, measured, rods, intensity) -> float:
    own = {tuple(j): v for j, v in zip(rods.tolist(), np.sqrt(intensity), strict=True)}
    pairs = [
        (np.sqrt(value), own.get(tuple(sign * i), 0.0))
        for i, pair, there in zip(hk, np.asarray(query.intensity), measured, strict=True)
        for sign, value, ok in ((1, pair[0], there[0]), (-1, pair[1], there[1]))
        if ok
    ]
    observed, calculated = np.array(pairs).T
    scale = observed @ calculated / max(calculated @ calculated, 1e-12)
    return np.abs(observed - scale * calculated).sum() / observed.sum()


@pytest.mark.parametrize("index", range(len(SHAPES)))
def test_scores_are_the_written_out_sums(table, crystals, queries, simulated, index):
    """Against a sum written out, for a query that lacks spots and has some that no crystal has."""
    random = np.random.default_rng(index)
    query = row(queries, index)
    measured = np.asarray(query.measured) & (random.random(query.measured.shape) > 0.3)
    hk = np.asarray(query.hk).copy()
    hk[1] = (9, -30)
    query = dataclasses.replace(query, hk=jnp.asarray(hk), measured=jnp.asarray(measured))
    seen = {
        tuple(sign * i): float(np.log1p(value / scores.SOFT))
        for i, pair, there in zip(hk, np.asarray(query.intensity), measured, strict=True)
        for sign, value, ok in ((1, pair[0], there[0]), (-1, pair[1], there[1]))
        if ok
    }
    values = np.asarray(score(table, query))
    for i, (rods, intensity) in enumerate(simulated):
        level = np.log1p(intensity / scores.SOFT)
        own = {tuple(j): v for j, v in zip(rods.tolist(), level, strict=True)}
        dot = sum(value * own.get(j, 0.0) for j, value in seen.items())
        # What lies at the pattern's edge counts only where the query shows it.
        b = np.linalg.inv(np.asarray(crystals.lattice[i])).T
        inner = (1 - scores.EDGE) * CONDITIONS.q_max
        own = {j: v for j, v in own.items() if j in seen or np.linalg.norm(j @ b) <= inner}
        lengths = [np.sqrt(sum(v * v for v in levels.values())) for levels in (seen, own)]
        lattice = lattice_likelihood(crystals.lattice[i], query.lattice)
        r_factor = written_out_r1(query, hk, measured, rods, intensity)
        wanted = dot / np.prod(lengths) + scores.LATTICE_WEIGHT * float(lattice)
        wanted -= scores.R_WEIGHT * r_factor
        assert values[i] == pytest.approx(wanted, abs=1e-4, rel=1e-4)


def test_one_size_for_all_crystals_changes_no_score(crystals, queries, table):
    together = simulate_table(crystals, CONDITIONS, together=True)
    for i in range(len(SHAPES)):
        np.testing.assert_allclose(
            score(together, row(queries, i)), score(table, row(queries, i)), atol=1e-5
        )


def test_padding_changes_no_score(crystals, queries, table):
    random = np.random.default_rng(0)
    order = random.permutation(crystals.numbers.shape[1] + 3)

    def padded(x):
        x = np.pad(np.asarray(x), [(0, 0), (0, 3)] + [(0, 0)] * (x.ndim - 2))
        return jnp.asarray(x[:, order])

    more = dx.Crystal(crystals.lattice, padded(crystals.positions), padded(crystals.numbers))
    other = simulate_table(more, CONDITIONS)
    short = jax.tree.map(lambda x: x, row(queries, 0))
    last = int(np.asarray(short.mask).sum())
    cut = Spots(*(getattr(short, f)[:last] for f in ("q", "hk", "intensity", "measured")),
                short.lattice)  # fmt: skip
    np.testing.assert_allclose(score(other, cut), score(table, short), atol=1e-5)


def test_levels_are_the_logarithm_above_a_soft_floor():
    np.testing.assert_allclose(levels(jnp.array([0.0, scores.SOFT])), [0, np.log(2)], rtol=1e-6)


def test_equal_lattices_have_likelihood_zero_in_any_rotation():
    for cell in SHAPES.values():
        cell = jnp.asarray(cell)
        for degrees in (0.0, 30.0, 211.0):
            c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
            turn = jnp.array([[c, s], [-s, c]])
            # float32 and a square root at one: a shear of some 1e-4 cannot be told from none.
            assert -0.05 < lattice_likelihood(cell, cell @ turn) <= 0
            mirror = jnp.diag(jnp.array([1.0, -1.0]))
            assert -0.05 < lattice_likelihood(cell, cell @ turn @ mirror) <= 0


@pytest.mark.parametrize("strain", [-0.03, -0.005, 0.005, 0.01, 0.03])
def test_likelihood_is_quadratic_in_isotropic_strain(x64, strain):
    for cell in SHAPES.values():
        cell = jnp.asarray(cell, jnp.float64)
        wanted = -0.5 * (np.log1p(strain) / scores.STRAIN) ** 2
        assert lattice_likelihood(cell, cell * (1 + strain)) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("shear", [0.002, 0.01])
@pytest.mark.parametrize("direction", [0.0, 25.0, 70.0])
def test_likelihood_is_quadratic_in_pure_shear(x64, shear, direction):
    """A stretch by exp(s) along one direction and exp(-s) across it, the area kept."""
    c, s = np.cos(np.deg2rad(direction)), np.sin(np.deg2rad(direction))
    turn = np.array([[c, s], [-s, c]])
    stretch = turn.T @ np.diag(np.exp([shear, -shear])) @ turn
    for cell in SHAPES.values():
        cell = np.array(cell)
        wanted = -0.5 * (shear / scores.SHEAR) ** 2
        value = lattice_likelihood(jnp.asarray(cell), jnp.asarray(cell @ stretch))
        assert value == pytest.approx(wanted, rel=1e-4)


def test_likelihood_of_a_hopeless_lattice_is_finite():
    value = lattice_likelihood(jnp.eye(2) * 3, jnp.array([[30.0, 0.0], [0.0, 0.1]]))
    assert np.isfinite(value) and value < -1000


def test_shear_counts_more_than_strain(table, crystals, queries):
    """Scale is calibrated badly, shape is not: 1 % of shape costs more than 1 % of size."""
    assert scores.SHEAR < scores.STRAIN
    query = row(queries, 0)
    bigger = dataclasses.replace(query, lattice=query.lattice * 1.01)
    thinner = dataclasses.replace(query, lattice=query.lattice * jnp.array([1.01, 1 / 1.01]))
    own = [float(score(table, q)[0]) for q in (query, bigger, thinner)]
    assert own[0] > own[1] > own[2]


def test_a_rod_that_strain_moves_across_the_edge_costs_nothing(crystals, table):
    """Queries of a slightly larger and a slightly smaller cell: only the lattice's part is lost."""
    for factor in (0.985, 1.015):
        stretch = jnp.array([factor, factor, 1.0])
        strained = dx.Crystal(
            crystals.lattice * factor, crystals.positions * stretch, crystals.numbers
        )
        hk = half_plane(np.asarray(strained.lattice), CONDITIONS.q_max)
        spots = clean_spots(strained, jnp.asarray(hk), CONDITIONS)
        for i in range(len(SHAPES)):
            value = score(table, row(spots, i))[i]
            lattice = lattice_likelihood(crystals.lattice[i], strained.lattice[i])
            assert value - scores.LATTICE_WEIGHT * lattice > 0.99


def test_no_shear_is_found_where_there_is_none(crystals):
    """A strain alike in all directions, in single precision, also of skewed and long cells."""
    lattice = np.asarray(crystals.lattice)
    stretch, shear = strain_between(jnp.asarray(lattice), jnp.asarray(lattice * np.float32(1.001)))
    np.testing.assert_allclose(stretch, np.log(1.001), atol=2e-6)
    np.testing.assert_allclose(shear, 0.0, atol=2e-5)


def test_a_shear_is_half_the_logarithm_of_its_ratio_of_axes():
    square = jnp.eye(2) * 3.0
    sheared = square * jnp.exp(jnp.array([0.01, -0.01]))
    stretch, shear = strain_between(square, sheared)
    assert float(stretch) == pytest.approx(0.0, abs=1e-6)
    assert float(shear) == pytest.approx(0.01, rel=1e-3)


def test_strains_of_any_number_of_cells_are_one_program():
    cells = np.eye(2, dtype=np.float32) * np.linspace(3, 4, 200, dtype=np.float32)[:, None, None]
    strains(cells[:65], cells[0])
    before = strain_between._cache_size()
    for count in (70, 99, 128):
        stretch, shear = strains(cells[:count], cells[0])
        np.testing.assert_allclose(stretch, np.log(3 / cells[:count, 0, 0]), atol=1e-6)
        assert len(shear) == count
    assert strain_between._cache_size() == before
    assert len(strains(cells[:0], cells[0])[0]) == 0
