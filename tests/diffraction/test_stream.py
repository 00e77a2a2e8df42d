"""Simulating whole libraries: the same patterns as one by one, in few compilations."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffraction as dx
from diffraction import stream, stream_kernel

ELECTRONS = dx.Electrons(80.0)


def crystals(count=40, seed=0, largest=12, elements=(1, 6, 16, 42), dtype=np.float32):
    """Oblique cells of 15 to 45 square angstrom with 1 to `largest` atoms, padding among them."""
    rng = np.random.default_rng(seed)
    area = np.exp(rng.uniform(np.log(15), np.log(45), count))
    angle, ratio = rng.uniform(60, 120, count), rng.uniform(1, 1.5, count)
    a = np.sqrt(area / ratio / np.sin(np.deg2rad(angle)))
    lattice = np.zeros((count, 2, 2))
    lattice[:, 0, 0] = a
    lattice[:, 1] = (ratio * a)[:, None] * np.c_[
        np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    ]
    turn = rng.uniform(0, 2 * np.pi, count)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    lattice = np.einsum("nij,jkn->nik", lattice, rotation)
    numbers = rng.choice(elements, (count, largest))
    numbers[rng.random((count, largest)) < 0.4] = 0
    numbers[:, 0] = elements[-1]
    in_plane = np.einsum("nai,nij->naj", rng.uniform(-1, 2, (count, largest, 2)), lattice)
    positions = np.append(in_plane, rng.uniform(-4, 6, (count, largest, 1)), -1)
    return dx.Crystal(
        jnp.asarray(lattice, dtype), jnp.asarray(positions, dtype), jnp.asarray(numbers)
    )


def by_rod(pattern, row):
    """(h, k) -> (intensity, qx, qy) of the spots of one pattern that are not masked."""
    pattern = jax.tree.map(lambda x: np.asarray(x)[row], pattern)
    return {
        tuple(map(int, pattern.hk[i])): (pattern.intensity[i], *pattern.q[i])
        for i in np.flatnonzero(pattern.mask)
    }


def assert_same_patterns(batch, chunks, expected, rtol):
    seen = []
    for rows, pattern in chunks:
        assert len(rows) == len(pattern)
        for place, row in enumerate(rows):
            found, right = by_rod(pattern, place), by_rod(expected, row)
            assert found.keys() == right.keys()
            found, right = (np.array([x[key] for key in right]) for x in (found, right))
            strongest = right[:, 0].max()
            np.testing.assert_allclose(found[:, 0], right[:, 0], atol=rtol * strongest)
            np.testing.assert_allclose(found[:, 1:], right[:, 1:], atol=max(rtol / 10, 1e-12))
        seen += list(rows)
    assert sorted(seen) == list(range(len(batch)))


def both(batch, radiation, rtol, q_max=1.25, **options):
    expected = dx.simulate(batch, radiation, q_max, **options)
    assert_same_patterns(
        batch, dx.simulate_library(batch, radiation, q_max, **options), expected, rtol
    )


@pytest.mark.parametrize(
    ("radiation", "options"),
    [
        (ELECTRONS, {"b_iso": 0.5}),
        (dx.Electrons(200.0, "kirkland"), {"tilt": (12.0, -30.0)}),
        (dx.Xrays(0.9, polarisation=0.6), {"tilt": (3.0, 8.0)}),
    ],
    ids=["electrons", "tilted", "xrays"],
)
def test_patterns_are_those_of_simulate(x64, radiation, options):
    # Double precision has its own sines; the form factors' table is the same.
    both(crystals(12, dtype=np.float64), radiation, 1e-12, **options)


def test_patterns_are_those_of_simulate_in_single_precision():
    both(crystals(), ELECTRONS, 2e-6, b_iso=0.3)


def test_the_shortest_waves_reach_no_rod_that_simulate_does_not_reach(x64):
    both(crystals(8, dtype=np.float64), dx.Xrays(1.5406), 1e-12, q_max=1.25, tilt=(20.0, 0.0))


def test_displacements_occupancies_and_a_tilt_for_each_crystal(x64):
    batch = crystals(8, dtype=np.float64)
    n, atoms = batch.numbers.shape
    rng = np.random.default_rng(1)
    root = rng.normal(0, 0.1, (n, atoms, 3, 3))
    batch = dataclasses.replace(
        batch,
        occupancy=jnp.asarray(rng.uniform(0, 1, (n, atoms))),
        u=jnp.asarray(root @ root.swapaxes(-1, -2)),
    )
    tilt = rng.uniform(-10, 10, (n, 2))
    for b_iso in (rng.uniform(0, 1, n), rng.uniform(0, 1, (n, atoms))):
        both(batch, ELECTRONS, 1e-11, b_iso=b_iso, tilt=tilt)
    b_iso = {"H": 1.0, "C": 0.2, "S": 0.4, "Mo": 0.3}
    both(batch, ELECTRONS, 1e-11, b_iso=b_iso, tilt=(4.0, 0.0))


def test_small_and_large_cells_of_few_and_many_species():
    batch = crystals(6, largest=24, elements=(1, 6, 7, 8, 16, 34, 42, 52, 78))
    scale = jnp.asarray([0.4, 1.0, 1.0, 1.0, 1.0, 3.0])[:, None, None]
    batch = dataclasses.replace(
        batch, lattice=batch.lattice * scale, positions=batch.positions * scale
    )
    both(batch, ELECTRONS, 1e-4)


def test_what_padding_holds_changes_nothing():
    batch = crystals(5)
    shape = batch.numbers.shape
    batch = dataclasses.replace(batch, occupancy=jnp.ones(shape), u=jnp.zeros((*shape, 3, 3)))

    def pad(x):
        empty = np.full((5, 1, *x.shape[2:]), np.nan)
        wide = np.concatenate([np.repeat(empty, 30, 1), np.asarray(x), empty], 1)
        wide[~(numbers > 0)] = np.nan
        return wide.astype(np.float32)

    numbers = np.pad(batch.numbers, [(0, 0), (30, 1)])
    wide = dx.Crystal(
        batch.lattice, pad(batch.positions), numbers, pad(batch.occupancy), pad(batch.u)
    )
    b_iso = np.full(shape, 0.3)
    for one, two in ((0.3, 0.3), (pad(b_iso), b_iso)):
        found, expected = (
            [x for _, x in dx.simulate_library(c, ELECTRONS, b_iso=b)]
            for c, b in ((wide, one), (batch, two))
        )
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one.intensity, other.intensity, rtol=1e-5, atol=1e-4)


@pytest.mark.slow
def test_a_second_pass_over_16000_crystals_compiles_nothing():
    batch = crystals(16_000)

    def run(seed, radiation, **options):
        strain = np.random.default_rng(seed).normal(1, 1e-3, (len(batch), 1, 1))
        new = dataclasses.replace(
            batch,
            lattice=batch.lattice * jnp.asarray(strain, jnp.float32),
            positions=batch.positions * jnp.asarray(strain, jnp.float32),
        )
        told = []
        for rows, pattern in dx.simulate_library(
            new, radiation, memory=2 * 2**30, progress=lambda *x: told.append(x), **options
        ):
            assert len(rows) == len(pattern)
        assert told[-1] == (16_000, 16_000) and len(told) > 100

    run(1, ELECTRONS)
    before = stream_kernel.compiled()._cache_size()
    run(2, dx.Electrons(200.0), b_iso=0.7)
    run(3, ELECTRONS, tilt=(5.0, -2.0), q_max=1.2495)
    assert stream_kernel.compiled()._cache_size() == before


def test_chunks_keep_to_the_memory_given():
    batch = crystals(200)
    small = 2**20
    sizes = [
        pattern.mask.size for _, pattern in dx.simulate_library(batch, ELECTRONS, memory=small)
    ]
    assert len(sizes) > 10
    assert max(sizes) / 2 * stream._BYTES <= small


@pytest.mark.parametrize("options", [{}, {"with_u": True}])
def test_a_pair_takes_no_more_than_its_bytes(options):
    """What XLA says that the compiled kernel needs, with the patterns that are read meanwhile."""
    batch = crystals(64, elements=(1, 6, 7, 8, 16, 34, 42, 52), largest=40)
    if options:
        batch = dataclasses.replace(batch, u=jnp.zeros((*batch.numbers.shape, 3, 3)))
    host = stream._host(batch, 1.25, 0.0, (0.0, 0.0))
    rows, full, pairs, species = next(stream._chunks(host, 2**30))
    assert species == 8
    packed = stream._pack(host, np.resize(rows, full))
    lowered = stream_kernel.compiled().lower(ELECTRONS, *packed, pairs, species)
    memory = lowered.compile().memory_analysis()
    needed = (
        memory.temp_size_in_bytes + memory.argument_size_in_bytes + 2 * memory.output_size_in_bytes
    )
    assert needed <= full * pairs * stream._BYTES


def test_single_crystals_stream_in_and_progress_is_told(monkeypatch):
    monkeypatch.setattr(stream, "_GATHER", 16)
    batch = crystals(40)
    told, taken = [], []

    def one_by_one():
        for i in range(len(batch)):
            taken.append(i)
            yield batch[i]

    chunks = dx.simulate_library(
        one_by_one(), ELECTRONS, progress=lambda done, total: told.append((done, total))
    )
    first = next(chunks)
    assert len(taken) == 16  # not all of them are read for the first
    assert_same_patterns(batch, [first, *chunks], dx.simulate(batch, ELECTRONS), 2e-6)
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert told[-1] == (40, None)

    told.clear()
    for _ in dx.simulate_library(
        batch, ELECTRONS, progress=lambda done, total: told.append((done, total))
    ):
        pass
    assert told[-1] == (40, 40)


def test_a_crystal_without_a_rod_has_an_empty_pattern():
    batch = crystals(3)
    batch = dataclasses.replace(batch, lattice=batch.lattice.at[1].set(0.5 * jnp.eye(2)))
    patterns = {
        row: jax.tree.map(lambda x, i=i: np.asarray(x)[i], pattern)
        for rows, pattern in dx.simulate_library(batch, ELECTRONS)
        for i, row in enumerate(rows)
    }
    assert not patterns[1].mask.any() and (patterns[1].intensity == 0).all()
    assert patterns[0].mask.any()


def test_what_cannot_be_simulated_is_refused():
    batch = crystals(3)
    with pytest.raises(ValueError, match="batch"):
        dx.simulate_library(batch[0], ELECTRONS)
    with pytest.raises(ValueError, match="q_max must be positive"):
        dx.simulate_library(batch, ELECTRONS, q_max=-1.0)
    with pytest.raises(ValueError, match="needs .* bytes; memory is 100"):
        list(dx.simulate_library(batch, ELECTRONS, memory=100))
    for beam in (dx.Electrons(np.array([80.0, 90.0, 100.0])), dx.Xrays(1.0, np.zeros(3))):
        with pytest.raises(ValueError, match="one radiation for all crystals"):
            dx.simulate_library(batch, beam)
    with pytest.raises(ValueError, match="tilt must have the shape"):
        list(dx.simulate_library(batch, ELECTRONS, tilt=np.zeros((2, 2))))
    with pytest.raises(ValueError, match="b_iso must be"):
        list(dx.simulate_library(batch, ELECTRONS, b_iso=np.zeros(2)))
    with pytest.raises(ValueError, match="need.* a batch"):
        dx.simulate_library(iter([batch[0]]), ELECTRONS, b_iso=np.zeros(1))
    with pytest.raises(ValueError, match="no form factor for Z = \\[100\\]"):
        list(
            dx.simulate_library(
                dataclasses.replace(batch, numbers=batch.numbers.at[1, 0].set(100)),
                dx.Xrays(0.7),
            )
        )
    with pytest.raises(ValueError, match="lattice 2 has no area"):
        list(
            dx.simulate_library(
                dataclasses.replace(batch, lattice=batch.lattice.at[2].set(1.0)), ELECTRONS
            )
        )
