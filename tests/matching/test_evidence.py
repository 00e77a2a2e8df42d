"""The likelihood: what its formula says, computed another way, and what it is good for."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from ase.build import graphene
from ase.data import chemical_symbols
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

import diffraction as dx
from dd2d_jax.data import crystal_set, usable
from dd2d_jax.evaluation.evaluate import make_queries
from dd2d_jax.matching import evidence
from dd2d_jax.matching.evidence import log_evidence
from dd2d_jax.matching.hypotheses import Hypothesis, measured
from dd2d_jax.networks.disturbances import Disturbance
from dd2d_jax.refinement.bonds import ratios
from dd2d_jax.spots import Conditions, Spots, strongest

CONDITIONS = Conditions(dx.Electrons(80.0), q_max=1.25, b_iso=0.5, tokens=48)
STRAINED = Hypothesis(0.03, 0.1, 0.012, 0.003)
MOVED = Hypothesis(0.15, 0.1, 3e-4, 3e-4)
ANY = (Hypothesis(3e-4, 2e-3, 3e-4, 3e-4), STRAINED, MOVED)


@pytest.fixture(scope="module")
def library() -> crystal_set.CrystalSet:
    """Sheets of three atoms, no two alike."""
    return tiny.crystals()


def queries(crystals: crystal_set.CrystalSet, seed: int, **amount: float) -> list[Spots]:
    """A pattern of each crystal, its 32 strongest pairs."""
    spots = strongest(make_queries(crystals, CONDITIONS, Disturbance(**amount), seed), 32)
    return [jax.tree.map(lambda x, i=i: np.asarray(x[i]), spots) for i in range(len(crystals))]


def intensities(positions: np.ndarray, crystal: dx.Crystal, hk: np.ndarray) -> np.ndarray:
    """|F|^2 at rods, of atoms at other places; in double precision."""
    moved = dataclasses.replace(crystal, positions=jnp.asarray(positions))
    pattern = dx.simulate(moved, CONDITIONS.radiation, 2.0, CONDITIONS.b_iso, hk=jnp.asarray(hk))
    return np.asarray(pattern.intensity)


def directly(crystal: dx.Crystal, query: Spots, h: Hypothesis) -> float:
    """The density by scipy, from |F|^2 alone: slopes by differences, no Woodbury."""
    with jax.enable_x64(True):
        crystal = dx.Crystal(
            np.asarray(query.lattice, float),
            np.asarray(crystal.positions, float),
            np.asarray(crystal.numbers),
        )
        hk = np.concatenate([query.hk, -query.hk])
        here = np.asarray(crystal.positions)
        still = intensities(here, crystal, hk)
        slopes = []
        for place in np.ndindex(len(here), 2):
            step = np.zeros_like(here)
            step[place] = 1e-4
            forth, back = (intensities(here + s * step, crystal, hk) for s in (1, -1))
            slopes.append((forth - back) / 2e-4)
        alone = [
            intensities(
                here, dataclasses.replace(crystal, numbers=np.where(np.arange(3) == i,
                                                                    crystal.numbers, 0)), hk
            )
            for i in range(3)
        ]  # fmt: skip
        q = np.linalg.norm(hk @ np.linalg.inv(query.lattice).T, axis=-1)
        wavelength = float(CONDITIONS.radiation.wavelength)
        height = 1 / wavelength - np.sqrt(1 / wavelength**2 - q**2)
        damping = np.exp(-((2 * np.pi * h.displacement) ** 2) * (q**2 + height**2))
    diffuse = (1 - damping) * np.sum(alone, 0)
    mean = still * damping + diffuse
    measured = np.concatenate([query.measured[:, 0], query.measured[:, 1]])
    observed = np.concatenate([query.intensity[:, 0], query.intensity[:, 1]])
    mean, diffuse, observed = mean[measured], diffuse[measured], observed[measured]
    slope = (np.array(slopes) * damping)[:, measured]
    # Amplitudes by least squares: sqrt(observed) = a sqrt(mean).
    (root,), *_ = np.linalg.lstsq(np.sqrt(mean)[:, None], np.sqrt(observed))
    scale = root**2
    soft = scale * mean + evidence.SOFT
    columns = np.concatenate([h.displacement * scale * slope / soft, [scale * mean / soft]])
    covariance = columns.T @ columns + np.diag(
        h.noise**2 * ((scale * mean / soft) ** 2 + evidence.LEAST**2)
        + 0.5 * (scale * diffuse / soft) ** 2
    )
    constant = 0.5 * measured.sum() * np.log(2 * np.pi)
    found = multivariate_normal(np.log(soft), covariance).logpdf(np.log(observed + evidence.SOFT))
    return found + constant


@pytest.mark.parametrize("h", [STRAINED, MOVED])
def test_the_density_is_that_of_the_normal_distribution_written_out(library, h):
    few = library.take([0, 5])
    for i, query in enumerate(queries(few, 3, displacement=0.03, noise=0.1)):
        (found,) = log_evidence(few.take([i]), query, CONDITIONS, [h])
        # The query's cell is its crystal's.
        cell = -np.log(h.stretch) - 2 * np.log(h.shear)
        assert found == pytest.approx(cell + directly(few.take([i]).crystal[0], query, h), abs=0.1)


def test_the_scale_of_a_pattern_is_found(library):
    """Intensities are relative to the strongest spot; that of the moved atoms may be another."""
    (query,) = queries(library.take([6]), 0)
    weaker = dataclasses.replace(query, intensity=0.3 * query.intensity)
    for h in (STRAINED, MOVED):
        strong, weak = (
            log_evidence(library.take([6]), x, CONDITIONS, [h])[0] for x in (query, weaker)
        )
        # Not the same alone for what is read as SOFT.
        assert strong == pytest.approx(weak, rel=0.1)


def test_a_strained_cell_costs_what_its_normal_distribution_says(library):
    one = library.take([0])
    (query,) = queries(one, 0)
    wide, tight = Hypothesis(0.03, 0.1, 0.01, 0.003), Hypothesis(0.03, 0.1, 0.005, 0.003)
    stretched = dataclasses.replace(one, lattice=one.lattice * np.float32(np.exp(-0.01)))
    found = [float(log_evidence(stretched, query, CONDITIONS, [h])[0]) for h in (wide, tight)]
    # The intensities are those on the query's cell for both.
    assert found[0] - found[1] == pytest.approx(-0.5 + 2.0 - np.log(2), abs=2e-2)


def test_hypotheses_are_summed(library):
    few = library.take([1, 2])
    (query, _) = queries(few, 0, displacement=0.05, noise=0.1)
    each = [log_evidence(few, query, CONDITIONS, [h]) for h in (STRAINED, MOVED)]
    both = log_evidence(few, query, CONDITIONS, [STRAINED, MOVED])
    np.testing.assert_allclose(both, logsumexp(each, axis=0), rtol=1e-4, atol=1e-2)


def test_the_mean_intensity_is_that_of_many_displaced_copies(library):
    """exp(-w) |F|^2 + (1 - exp(-w)) sum |f|^2, w = (2 pi q s)^2."""
    crystal, s = library.take([7]).crystal[0], 0.1
    hk = dx.reflections(np.asarray(crystal.lattice), 1.2)
    hk = hk[(hk != 0).any(-1)]
    random = np.random.default_rng(0)
    moves = random.normal(0, s, (4000, *crystal.positions.shape))
    copies = dataclasses.replace(
        crystal,
        positions=jnp.asarray(np.asarray(crystal.positions) + moves, jnp.float32),
        lattice=jnp.broadcast_to(crystal.lattice, (4000, 2, 2)),
        numbers=jnp.broadcast_to(crystal.numbers, (4000, 3)),
    )
    pattern = dx.simulate(
        copies, CONDITIONS.radiation, 1.3, CONDITIONS.b_iso,
        hk=jnp.broadcast_to(hk, (4000, *hk.shape)),
    )  # fmt: skip
    sampled = np.asarray(pattern.intensity).mean(0)
    query = Spots(None, jnp.asarray(hk), None, None, crystal.lattice)
    q, shares = evidence._shares(crystal, query, CONDITIONS, jnp.zeros(2))
    q, shares = np.asarray(q)[: len(hk)], np.asarray(shares)[: len(hk)]
    damping = np.exp(-((2 * np.pi * s) ** 2) * (q**2).sum(-1))
    mean = np.abs(shares.sum(-1)) ** 2 * damping + (1 - damping) * (np.abs(shares) ** 2).sum(-1)
    np.testing.assert_allclose(sampled, mean, rtol=0.08)


def test_padding_and_what_was_not_measured_change_nothing(library):
    few = library.take([0, 9, 4])
    query = queries(few, 1, displacement=0.03, noise=0.1)[1]
    query.measured[5, 1] = False
    found = log_evidence(few, query, CONDITIONS, ANY)
    room = np.pad(few.positions, [(0, 0), (0, 20), (0, 0)], constant_values=7.0)
    padded = dataclasses.replace(
        few, positions=room[:, ::-1], numbers=np.pad(few.numbers, [(0, 0), (0, 20)])[:, ::-1]
    )
    spoilt = jax.tree.map(np.copy, query)
    spoilt.intensity[5, 1] = 0.7
    longer = Spots(
        *(np.pad(getattr(spoilt, f), [(0, 40), (0, 0)]) for f in ("q", "hk", "intensity",
                                                                  "measured")),
        query.lattice,
    )  # fmt: skip
    np.testing.assert_allclose(log_evidence(padded, longer, CONDITIONS, ANY), found, rtol=1e-4)


def test_a_clean_pattern_tells_its_crystal_from_one_that_differs_by_a_hundredth_of_an_angstrom(
    library,
):
    moved = np.random.default_rng(5).normal(0, 0.01, library.positions.shape).astype(np.float32)
    other = dataclasses.replace(library, positions=library.positions + moved)
    for i, query in enumerate(queries(library.take(range(8)), 0)):
        true, near = (
            log_evidence(c.take([i]), query, CONDITIONS, ANY)[0] for c in (library, other)
        )
        assert true > near + 1


@pytest.mark.parametrize(
    "amount",
    [{}, {"strain": 0.01, "displacement": 0.03, "noise": 0.1}, {"displacement": 0.15}],
    ids=["clean", "strained", "moved"],
)
def test_the_true_crystal_is_the_most_probable(library, amount):
    """Among 32 sheets of like cells; where atoms moved by 0.15 A their intensities are others."""
    first = [
        log_evidence(library, query, CONDITIONS, ANY).argmax() == i
        for i, query in enumerate(queries(library, 4, **amount))
    ]
    assert np.mean(first) > 0.8


SOFT_ATOMS = dataclasses.replace(STRAINED, softness=1.0)


def at_b(crystals: crystal_set.CrystalSet, b_iso: float) -> list[Spots]:
    conditions = dataclasses.replace(CONDITIONS, b_iso=b_iso)
    spots = strongest(make_queries(crystals, conditions, Disturbance(), 0), 32)
    return [jax.tree.map(lambda x, i=i: np.asarray(x[i]), spots) for i in range(len(crystals))]


def test_b_of_all_atoms_is_integrated_out(library):
    """The same as a sum over many B, each weighed with its prior."""
    one = library.take([3])
    (query,) = at_b(one, 1.3)
    grid = np.linspace(-0.5, 2.5, 121)
    each = [
        log_evidence(one, query, dataclasses.replace(CONDITIONS, b_iso=0.5 + b), [STRAINED])[0]
        for b in grid
    ]
    prior = -0.5 * grid**2 - 0.5 * np.log(2 * np.pi) + np.log(grid[1] - grid[0])
    found = log_evidence(one, query, CONDITIONS, [SOFT_ATOMS])[0]
    assert found == pytest.approx(logsumexp(np.array(each) + prior), abs=0.5)


def test_a_pattern_of_any_b_is_its_crystals(library):
    soft = [dataclasses.replace(h, softness=1.0) for h in (STRAINED, MOVED)]
    for b_iso in (0.0, 3.0):
        for i, query in enumerate(at_b(library.take(range(6)), b_iso)):
            found = evidence.explain(library, query, CONDITIONS, soft)
            assert found.value.argmax() == i
            assert found.b[i] == pytest.approx(b_iso - 0.5, abs=0.25)
            assert found.r1[i] < 0.1


def graded(query: Spots, gradient: tuple[float, float]) -> Spots:
    """The query, its intensities growing across the pattern to exp(gradient) at the farthest."""
    q = np.stack([query.q, -query.q], 1)
    farthest = np.linalg.norm(query.q[query.measured.any(1)], axis=-1).max()
    intensity = query.intensity * np.exp(q @ gradient / farthest)
    return dataclasses.replace(query, intensity=(intensity / intensity.max()).astype(np.float32))


def test_a_pattern_with_a_gradient_is_its_crystals(library):
    none = [dataclasses.replace(h, gradient=0.0) for h in measured()]
    for i, query in enumerate(at_b(library.take(range(6)), 0.5)):
        across = graded(query, (1.0, -0.6))
        found = log_evidence(library, across, CONDITIONS, measured())
        assert found.argmax() == i
        assert log_evidence(library.take([i]), across, CONDITIONS, none)[0] < found[i] - 20


def test_a_gradient_is_integrated_out(library):
    """The same as a sum over many, each weighed with its prior."""
    one = library.take([4])
    (query,) = at_b(one, 0.5)
    loose = dataclasses.replace(STRAINED, gradient=0.3)
    grid = np.linspace(-1.0, 1.0, 41)
    each = np.array(
        [
            log_evidence(one, graded(query, (0.4 - x, -y)), CONDITIONS, [STRAINED])[0]
            for x in grid
            for y in grid
        ]
    ).reshape(41, 41)
    prior = -0.5 * (grid / 0.3) ** 2 - np.log(0.3 * np.sqrt(2 * np.pi)) + np.log(grid[1] - grid[0])
    found = log_evidence(one, graded(query, (0.4, 0.0)), CONDITIONS, [loose])[0]
    assert found == pytest.approx(logsumexp(each + prior[:, None] + prior), abs=0.5)


def test_the_tilt_is_found_however_narrow_the_hypothesis_has_it(library):
    """By kinematic intensities of a thick layer, though a gradient may take some of them."""
    tall = dataclasses.replace(library, positions=library.positions * np.float32([1, 1, 3]))
    (query,) = at_b(tall.take([2]), 0.5)
    tilt = (0.3, -0.2)
    pattern = dx.simulate(
        tall.crystal[2], CONDITIONS.radiation, 2.0, CONDITIONS.b_iso, tilt,
        np.concatenate([query.hk, -query.hk]),
    )  # fmt: skip
    intensity = np.asarray(pattern.intensity).reshape(2, -1).T
    tilted = dataclasses.replace(query, intensity=intensity / intensity.max())
    for h in measured()[:3]:
        found = evidence.explain(tall.take([2]), tilted, CONDITIONS, [h])
        np.testing.assert_allclose(found.lean[0], tilt, atol=0.06)


def test_elements_may_have_a_b_of_their_own(library):
    one = library.take([4])
    symbols = [chemical_symbols[z] for z in set(one.numbers[0][one.numbers[0] > 0].tolist())]
    own = {symbol: 0.2 + 0.8 * i for i, symbol in enumerate(symbols)}
    (still,) = at_b(one, 0.5)
    pattern = dx.simulate(
        one.crystal[0], CONDITIONS.radiation, 2.0, own,
        hk=np.concatenate([still.hk, -still.hk]),
    )  # fmt: skip
    intensity = np.asarray(pattern.intensity).reshape(2, -1).T
    query = dataclasses.replace(still, intensity=intensity / intensity.max())
    apart = dataclasses.replace(SOFT_ATOMS, scatter=0.3, noise=0.02)
    together = dataclasses.replace(apart, scatter=0.0)
    found = [log_evidence(one, query, CONDITIONS, [h])[0] for h in (apart, together)]
    assert found[0] > found[1] + 10


def test_measured_uncertainties_count(library):
    """A wrong intensity that is told to be uncertain speaks against nothing."""
    one = library.take([2])
    (query,) = at_b(one, 0.5)
    wrong = np.array(query.intensity)
    wrong[3] *= 3
    sigma = np.zeros_like(wrong)
    sigma[3] = wrong[3]
    spoilt = dataclasses.replace(query, intensity=wrong)
    told = dataclasses.replace(spoilt, sigma=sigma)
    right, worse, better = (
        log_evidence(one, x, CONDITIONS, [STRAINED])[0] for x in (query, spoilt, told)
    )
    assert worse < right - 20
    assert better > right - 10


def test_the_cell_is_outside_the_temperature(library):
    one = library.take([0])
    (query,) = queries(one, 0)
    stretched = dataclasses.replace(one, lattice=one.lattice * np.float32(np.exp(-0.01)))
    hot = dataclasses.replace(STRAINED, temperature=3.0)
    cold, warm = (
        log_evidence(one, query, CONDITIONS, [h])[0]
        - log_evidence(stretched, query, CONDITIONS, [h])[0]
        for h in (STRAINED, hot)
    )
    # The rest is the intensities': heights do not scale with the cell.
    cell = 0.5 * (0.01 / 0.012) ** 2
    assert cold - cell == pytest.approx(3 * (warm - cell), abs=0.03)


def raised(query: Spots, power: float) -> Spots:
    return dataclasses.replace(query, intensity=np.asarray(query.intensity) ** power)


@pytest.mark.parametrize("power", [0.4, 0.7, 1.0])
def test_a_pattern_of_any_power_of_counts_is_its_crystals(library, power):
    for i, query in enumerate(at_b(library.take(range(6)), 0.5)):
        shown = raised(query, power)
        found = evidence.explain(library, shown, CONDITIONS, measured(power_error=0.2))
        counts = evidence.explain(library, shown, CONDITIONS, measured())
        assert found.value.argmax() == i
        assert found.power[i] == pytest.approx(power, abs=0.01)
        assert found.r1[i] < 0.02
        assert (counts.power == 1).all()
        assert power == 1 or counts.value[i] < found.value[i] - 20


def test_the_power_of_counts_is_integrated_out(library):
    """The same as a sum over many, each weighed with its prior."""
    one = library.take([4])
    (query,) = at_b(one, 0.5)
    query = raised(query, 0.75)
    grid = np.linspace(0.3, 1.3, 101)
    fixed = [dataclasses.replace(STRAINED, power=1e-4, flatter=float(p)) for p in grid]
    each = np.array([log_evidence(one, query, CONDITIONS, [h])[0] for h in fixed])
    prior = -0.5 * ((grid - 0.9) / 0.2) ** 2 - np.log(0.2 * np.sqrt(2 * np.pi))
    loose = dataclasses.replace(STRAINED, power=0.2, flatter=0.9)
    found = log_evidence(one, query, CONDITIONS, [loose])[0]
    assert found == pytest.approx(logsumexp(each + prior) + np.log(grid[1] - grid[0]), abs=0.1)


def test_a_power_of_one_is_none(library):
    (query,) = at_b(library.take([5]), 0.5)
    sure = dataclasses.replace(STRAINED, power=1e-5)
    ours, plain = (log_evidence(library, query, CONDITIONS, [h]) for h in (sure, STRAINED))
    np.testing.assert_allclose(ours, plain, atol=0.05)


def light_layers() -> crystal_set.CrystalSet:
    """Graphene and h-BN."""
    layers = [(graphene("C2", a=2.46, vacuum=8), "C"), (graphene("BN", a=2.5, vacuum=8), "BN")]
    return usable.from_atoms([(atoms, {"uid": uid}) for atoms, uid in layers])


def bonded(one: crystal_set.CrystalSet, share: float = 1.0) -> Spots:
    """The pattern of one crystal, intensities with a share of what bonds do."""
    (still,) = at_b(one, 0.5)
    hk = np.concatenate([still.hk, -still.hk])
    free, full = (
        np.asarray(
            dx.simulate(
                one.crystal[0], CONDITIONS.radiation, 2.0, CONDITIONS.b_iso, hk=hk, bonds=x
            ).intensity
        )
        for x in (False, True)
    )
    intensity = ((1 - share) * free + share * full).reshape(2, -1).T
    return dataclasses.replace(still, intensity=intensity / intensity.max())


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_layers_are_told_by_free_atoms_and_by_bonds_alike(share):
    layers = light_layers()
    for i in range(2):
        query = bonded(layers.take([i]), share)
        found = evidence.explain(layers, query, CONDITIONS, measured())
        assert found.value.argmax() == i
        assert found.bonds[i] == pytest.approx(share, abs=0.15)
        assert found.r1[i] < 0.006


def test_the_share_of_the_electrons_in_bonds_is_integrated_out(monkeypatch):
    """The same as a sum over many shares, each weighed with its prior."""
    one = light_layers().take([0])
    query = bonded(one, 0.8)
    found = log_evidence(one, query, CONDITIONS, [STRAINED])[0]
    hk = np.concatenate([query.hk, -query.hk])[None]
    flat = np.zeros((1, 2))
    grid = np.linspace(-1.5, 2.5, 81)
    each = []
    for share in grid:
        times = ratios(one, hk, query.lattice[None], CONDITIONS, flat, np.array([share]))
        free = np.abs(
            dx.structure_factor(one.crystal[0], vectors(one, hk[0]), CONDITIONS.radiation, 0.5)
        )
        with monkeypatch.context() as patch:
            patch.setattr(evidence, "bond_amplitudes", lambda *told: np.zeros(hk.shape[:2]))
            told = np.asarray(free)[None] ** 2 * times
            its = evidence.explain(one, query, CONDITIONS, [STRAINED], squares=lambda _, x=told: x)
        each.append(its.value[0])
    prior = -0.5 * ((grid - 0.5) / 0.5) ** 2 - np.log(0.5 * np.sqrt(2 * np.pi))
    total = logsumexp(np.array(each) + prior) + np.log(grid[1] - grid[0])
    assert found == pytest.approx(total, abs=0.2)


def vectors(one: crystal_set.CrystalSet, hk: np.ndarray) -> np.ndarray:
    flat = (hk @ np.linalg.inv(one.lattice[0]).T).astype(np.float32)
    return np.c_[flat, dx.ewald_qz(flat, CONDITIONS.radiation.wavelength)]


def test_intensities_of_several_layers_have_their_bonds_too():
    """What is told of free atoms that scatter otherwise is scaled as kinematic intensities are."""
    one = light_layers().take([1])
    query = bonded(one)
    hk = np.concatenate([query.hk, -query.hk])
    flat, height = vectors(one, hk)[:, :2], np.linalg.norm(hk, axis=-1) > 1.5
    free = dx.structure_factor(one.crystal[0], vectors(one, hk), CONDITIONS.radiation, 0.5)
    layers = np.where(height, 2.0, 1.0) * np.exp(-0.1 * (flat**2).sum(-1))
    told = (np.abs(np.asarray(free)) ** 2 * layers)[None]
    pairs = layers.reshape(2, -1).T
    thick = query.intensity * pairs
    thick = dataclasses.replace(query, intensity=thick / thick.max())
    found = evidence.explain(one, thick, CONDITIONS, measured(), squares=lambda _: told)
    assert found.r1[0] < 0.01
    assert found.bonds[0] == pytest.approx(1.0, abs=0.2)
