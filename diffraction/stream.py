"""Patterns of any number of crystals, fast: the kinematic simulator for whole libraries.

Where the time goes is phases: one sine and cosine for each pair of rod and atom. Everything else
is done once for many: form factors once for each species and |q|, rods once for each Friedel
pair, one compilation for crystals of like size. Rods are the last axis, so that each operation
runs over long vectors, and the loop over atoms ends with the largest crystal of a chunk.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping

import jax
import numpy as np

from diffraction.crystal import Crystal, stack
from diffraction.kinematic import (
    _EDGE,
    _check_q_max,
    b_values,
    check_concrete,
    check_lattices,
    check_reach,
    check_tilt,
)
from diffraction.pattern import Pattern
from diffraction.radiation import Electrons, Radiation
from diffraction.stream_kernel import UNROLL, compiled

# Numbers of Friedel pairs that are compiled for; more of them where most crystals are.
_SIZES = np.sort([*(8 * 2 ** np.arange(24)), 24, 48, 96])
# Bytes that a Friedel pair takes at most, with its chunk and the one that is read meanwhile.
_BYTES = 640
# Larger chunks leave the cache of a CPU's core; accelerators are filled by millions.
_CPU_PAIRS = 2**13
# Single crystals are gathered to batches of this many.
_GATHER = 4096


def simulate_library(
    crystals: Crystal | Iterable[Crystal],
    radiation: Radiation = Electrons(80.0),  # noqa: B008  (frozen)
    q_max: float = 1.25,
    b_iso: float | np.ndarray | Mapping[str, float] = 0.0,
    tilt: tuple[float, float] | np.ndarray = (0.0, 0.0),
    memory: int = 2 * 2**30,
    progress: Callable[[int, int | None], None] | None = None,
) -> Iterator[tuple[np.ndarray, Pattern]]:
    """Simulate any number of crystals in chunks of like size; the same physics as `simulate`.

        for rows, pattern in dx.simulate_library(crystals, dx.Electrons(80.0), q_max=1.25):
            strongest[rows] = pattern.intensity.max(-1)

    Each shape of chunk is compiled once; another lattice, tilt, energy, B or q_max of the same
    shape does not compile again.

    Args:
        crystals: a concrete batch (n), or any iterable of single crystals, which is read as it is
            needed.
        radiation: `Electrons` or `Xrays`, the same for all.
        q_max: rods with in-plane |q_par| <= q_max are kept, 1/angstrom.
        b_iso: B in angstrom^2; a number, by element as {"Mo": 0.3, "S": 0.5}, or, for a batch,
            (n,) or (n, N).
        tilt: degrees as in `simulate`; (2,), or, for a batch, (n, 2).
        memory: bytes that the simulation may take on the device. What becomes of the patterns is
            the caller's.
        progress: called as progress(done, total) after each chunk; total is None for an iterable.

    Returns:
        An iterator over (rows, pattern): rows (m,), the places of m crystals in the batch or the
        iterable, and their patterns with the batch axis (m). Each crystal comes once, in an order
        of its own. Spots stand in Friedel pairs: of K slots, j and j + K / 2 hold a rod and its
        opposite. A crystal without a rod has all of them masked.

    Raises:
        ValueError: as `simulate`; an empty batch, energies or polarisations by crystal, or a
            memory too small for the largest crystal.
    """
    _check_q_max(q_max)
    check_reach(radiation, q_max, tilt)
    shape = np.shape(radiation.wavelength) or np.shape(getattr(radiation, "polarisation", 0.0))
    if shape:
        raise ValueError(
            f"one radiation for all crystals is needed, got one of the shape {shape}; `simulate` "
            "takes one for each"
        )
    if isinstance(crystals, Crystal):
        if crystals.numbers.ndim != 2 or not len(crystals):
            raise ValueError(
                f"a batch of crystals is needed, numbers (n, N); got {crystals.numbers.shape}"
            )
        batches, total = iter([crystals]), len(crystals)
    else:
        if np.ndim(tilt) > 1 or not (isinstance(b_iso, Mapping) or np.ndim(b_iso) == 0):
            raise ValueError("a tilt or B for each crystal needs a batch: dx.stack(crystals)")
        batches, total = _gather(crystals), None

    def stream() -> Iterator[tuple[np.ndarray, Pattern]]:
        offset = 0
        for batch in batches:
            done = 0
            for rows, pattern in _simulate_batch(batch, radiation, q_max, b_iso, tilt, memory):
                done += len(rows)
                if progress is not None:
                    progress(offset + done, total)
                yield rows + offset, pattern
            offset += len(batch)

    return stream()


def _gather(crystals: Iterable[Crystal]) -> Iterator[Crystal]:
    crystals = iter(crystals)
    while part := list(itertools.islice(crystals, _GATHER)):
        yield stack(part)


@dataclasses.dataclass
class _Host:
    """A batch of n crystals in numpy, one row a crystal.

    Rods are the half plane h >= 0 in runs along k, see `_rods`.
    """

    numbers: np.ndarray  # (n, N)
    positions: np.ndarray  # (n, N, 3)
    lattice: np.ndarray  # (n, 2, 2) float64
    b_iso: np.ndarray  # (n,)
    tilt: np.ndarray  # (n, 2)
    occupancy: np.ndarray | None  # (n, N)
    u: np.ndarray | None  # (n, N, 6): xx, yy, zz, xy, xz, yz
    start: np.ndarray  # (n, H)
    jump: np.ndarray  # (n, H)
    pairs: np.ndarray  # (n,)


def _host(batch: Crystal, q_max, b_iso, tilt) -> _Host:
    numbers, positions = np.asarray(batch.numbers), np.asarray(batch.positions)
    lattice = np.asarray(batch.lattice, float)
    check_lattices(lattice)
    n, atoms = numbers.shape
    b_iso = np.asarray(b_values(b_iso, batch.numbers), positions.dtype)
    tilt = np.asarray(tilt, positions.dtype)
    if b_iso.shape not in ((), (n,), (n, atoms)):
        raise ValueError(f"b_iso must be a number, ({n},) or ({n}, {atoms}); got {b_iso.shape}")
    check_tilt(tilt, (n,))
    u = None
    if batch.u is not None:
        u = np.asarray(batch.u)[..., (0, 1, 2, 0, 0, 1), (0, 1, 2, 1, 2, 2)]
    if b_iso.ndim == 2:
        isotropic = b_iso[..., None] / (8 * np.pi**2) * np.array([1, 1, 1, 0, 0, 0])
        u, b_iso = isotropic + (0 if u is None else u), np.zeros(n)
    # What padding holds may not turn a zero into NaN.
    present = numbers > 0
    occupancy = batch.occupancy
    if occupancy is not None:
        occupancy = np.where(present, occupancy, 0)
    if u is not None:
        u = np.where(present[..., None], u, 0)
    return _Host(
        numbers=numbers,
        positions=positions,
        lattice=lattice,
        b_iso=np.broadcast_to(b_iso, n),
        tilt=np.broadcast_to(tilt, (n, 2)),
        occupancy=occupancy,
        u=u,
        **_rods(lattice, q_max),
    )


def _rods(lattice: np.ndarray, q_max: float) -> dict[str, np.ndarray]:
    """One rod of each Friedel pair with |q_par| <= q_max: for each h >= 0 a run along k.

    Args:
        lattice: (n, 2, 2) in angstrom.
        q_max: 1/angstrom.

    Returns:
        start: (n, H) the place of the first rod of each h.
        jump: (n, H) what k - place becomes larger by where the run of this h starts.
        pairs: (n,) the number of rods.
    """
    q_max = q_max * _EDGE
    a, b = lattice[:, 0], lattice[:, 1]
    aa, bb, ab = (a * a).sum(1)[:, None], (b * b).sum(1)[:, None], (a * b).sum(1)[:, None]
    h = np.arange(int(q_max * np.sqrt(aa.max())) + 1)
    # |q|^2 <= q_max^2 is quadratic in k, with the determinant of the metric for its coefficient.
    middle = h * ab / aa
    squared = (bb - ab**2 / aa) * (q_max**2 - h**2 / aa)
    inside = squared >= 0
    half = np.sqrt(np.where(inside, squared, 0.0))
    first = np.ceil(middle - half)
    first[:, 0] = 1  # of (0, k) and (0, -k) the first; (0, 0) is the central beam
    count = np.where(inside, np.maximum(np.floor(middle + half) - first + 1, 0.0), 0.0)
    end = np.cumsum(count, 1)
    start = end - count
    jump = np.diff(first - start, axis=1, prepend=0)
    return {
        k: x.astype(np.int32)
        for k, x in {"start": start, "jump": jump, "pairs": end[:, -1]}.items()
    }


def _simulate_batch(
    batch: Crystal, radiation: Radiation, q_max, b_iso, tilt, memory: int
) -> Iterator[tuple[np.ndarray, Pattern]]:
    check_concrete(radiation, batch)
    host = _host(batch, q_max, b_iso, tilt)
    before = None
    for rows, full, pairs, species in _chunks(host, memory):
        pattern = compiled()(radiation, *_pack(host, np.resize(rows, full)), pairs, species)
        # One chunk is computed while the one before it is read.
        if before is not None:
            yield _ready(*before)
        before = rows, pattern
    yield _ready(*before)


def _ready(rows: np.ndarray, pattern: Pattern) -> tuple[np.ndarray, Pattern]:
    """The pattern when it is computed, without what fills up its batch."""
    jax.block_until_ready(pattern)
    if len(rows) < len(pattern):
        pattern = jax.tree.map(lambda x: np.asarray(x)[: len(rows)], pattern)
    return rows, pattern


def _chunks(host: _Host, memory: int) -> Iterator[tuple[np.ndarray, int, int, int]]:
    """Rows of crystals of like size; how many, how many pairs and species a chunk has room for."""
    each = _BYTES * host.positions.dtype.itemsize // 4
    limit = memory // each
    if jax.default_backend() == "cpu":
        limit = min(limit, _CPU_PAIRS)
    ordered = np.sort(host.numbers, axis=1)
    species = np.count_nonzero(np.diff(ordered, axis=1, prepend=0), axis=1)
    species = np.maximum(4, 2 ** np.ceil(np.log2(np.maximum(species, 1)))).astype(int)
    size = _SIZES[np.searchsorted(_SIZES, host.pairs)]
    row = int(np.argmax(size))
    if memory < each * size[row]:
        raise ValueError(
            f"crystal {row} has {2 * host.pairs[row]} rods within q_max and needs "
            f"{each * size[row]} bytes; memory is {memory}"
        )
    for kind in np.unique(species):
        members = np.flatnonzero(species == kind)
        members = members[np.lexsort((_atoms(host.numbers[members]), size[members]))[::-1]]
        full = 0
        while len(members):
            # What is left over goes into one more chunk of the size before.
            if len(members) > full:
                largest = int(size[members[0]])
                full = max(1, limit // largest)
            rows, members = members[:full], members[full:]
            yield rows, full, largest, int(kind)


def _atoms(numbers: np.ndarray) -> np.ndarray:
    """(n,) atom slots up to the last atom: padding may stand anywhere."""
    return numbers.shape[1] - (numbers[:, ::-1] > 0).argmax(1)


def _pack(host: _Host, rows: np.ndarray) -> tuple:
    """What the kernel takes of M crystals, crystals on the last axis: few arrays of few shapes.

    Returns:
        cells (7, M): lattice, B and tilt. values (N, C, M): z, and the fractions x and y in two
        parts each, then occupancy and U where there are any. integers (N + 2 H + 1, M): atomic
        numbers, `start` and `jump` of the rods, and their number. turns (2,): of the loops over
        rods and atoms. with_occupancy, with_u.
    """
    dtype = host.positions.dtype
    numbers = host.numbers[rows]
    atoms = int(_atoms(numbers).max())
    positions = host.positions[rows, :atoms].T.astype(float)
    x, y, z = np.where(numbers[:, :atoms].T > 0, positions, 0.0)
    lattice = host.lattice[rows].reshape(-1, 4).T
    ax, ay, bx, by = lattice / (lattice[0] * lattice[3] - lattice[1] * lattice[2])
    columns = [z]
    for fraction in (x * by - y * bx, y * ax - x * ay):
        # In two parts: the products of the first with h and k are exact also in float32.
        fraction -= np.rint(fraction)
        coarse = np.rint(fraction * 4096) / 4096
        columns += [coarse, fraction - coarse]
    if host.occupancy is not None:
        columns.append(host.occupancy[rows, :atoms].T)
    if host.u is not None:
        columns.extend(host.u[rows, :atoms].transpose(2, 1, 0))
    slots, runs = _shape(host.numbers.shape[1]), _shape(host.start.shape[1])
    values = np.zeros((slots, len(columns), len(rows)), dtype)
    for i, column in enumerate(columns):
        values[:atoms, i] = column
    integers = np.zeros((slots + 2 * runs + 1, len(rows)), np.int32)
    integers[:atoms] = numbers[:, :atoms].T
    start, jump, pairs = host.start[rows].T, host.jump[rows].T, host.pairs[rows]
    integers[slots : slots + len(start)] = start
    integers[slots + len(start) : slots + runs] = pairs  # runs that never start
    integers[slots + runs : slots + runs + len(jump)] = jump
    integers[-1] = pairs
    used = int(np.flatnonzero((start < pairs).any(1)).max(initial=0)) + 1
    return (
        np.concatenate([lattice, host.b_iso[rows][None], host.tilt[rows].T]).astype(dtype),
        values,
        integers,
        np.array([-(-used // UNROLL), -(-atoms // UNROLL)], np.int32),
        host.occupancy is not None,
        host.u is not None,
    )


def _shape(n: int) -> int:
    return max(16, 1 << (n - 1).bit_length())


