"""One canonical setting for each layer, stable against noise and free of the input's own setting.

The cell is made primitive and Gauss-reduced. Of the bases with the same metric, on either side of
the layer, the one with the largest structure invariants is taken (`_score`), and an atom chosen the
same way is the in-plane origin (`_origin`). Lengths in angstrom.
"""

import numpy as np

SYMPREC = 0.01  # translations and lattice vectors equal to this are the same


def canonical_form(
    lattice: np.ndarray,
    positions: np.ndarray,
    numbers: np.ndarray,
    occupancy: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """Lattice (2, 2), positions (N, 3), numbers (N,) and occupancies (N,) of a layer in its
    canonical setting; no occupancies where none are given: all are 1.

    The layer's normal must be z. N shrinks where the cell was not primitive.
    """
    frac = positions[:, :2] @ np.linalg.inv(lattice)
    z = positions[:, 2] - (positions[:, 2].min() + positions[:, 2].max()) / 2
    basis = gauss_reduction(lattice)
    frac, lattice = frac @ np.linalg.inv(basis), basis @ lattice
    kinds = numbers if occupancy is None else kinds_of(numbers, occupancy)
    lattice, frac, z, keep = _primitive(lattice, frac, z, kinds)
    numbers, kinds = numbers[keep], kinds[keep]
    occupancy = None if occupancy is None else occupancy[keep]
    weights = numbers if occupancy is None else numbers * occupancy
    lattice, frac, z = _setting(lattice, frac, z, weights)
    frac = frac - _origin(frac, z, weights)
    frac -= np.floor(frac + 0.01)  # noise must not carry an atom on the cell's edge across it
    positions = np.column_stack([frac @ lattice, z])
    order = np.lexsort([_steps(positions[:, 0]), _steps(positions[:, 1]), _steps(z), kinds])
    occupancy = None if occupancy is None else occupancy[order]
    return lattice, positions[order], numbers[order], occupancy


def kinds_of(numbers: np.ndarray, occupancy: np.ndarray) -> np.ndarray:
    """Integers (N,), equal for atoms of one element and of one occupancy to three decimals.

    They rise with the atomic number, then with the occupancy.
    """
    pairs = np.column_stack([numbers, np.round(occupancy, 3)])
    return np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)


def gauss_reduction(lattice: np.ndarray) -> np.ndarray:
    """Integer matrix (2, 2) from `lattice` to its reduced basis: |a1| <= |a2|, a1.a2 <= 0."""
    basis = np.eye(2)
    for _ in range(1000):
        a, b = basis @ lattice
        if a @ a > b @ b * (1 + 1e-12):
            basis = basis[::-1]
            a, b = b, a
        step = np.round(a @ b / (a @ a))
        if abs(a @ b) <= a @ a * (0.5 + 1e-9):
            break
        basis = np.array([basis[0], basis[1] - step * basis[0]])
    if basis[0] @ lattice @ (basis[1] @ lattice) > 0:
        basis = np.array([basis[0], -basis[1]])
    return basis


def _primitive(
    lattice: np.ndarray, frac: np.ndarray, z: np.ndarray, kinds: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The same layer in a reduced primitive cell, averaged over the translations.

    Atoms of one of `kinds` (N,) are alike. Gives lattice, positions and the rows that are kept.
    """
    tolerance = SYMPREC
    for _ in range(4):
        moves, images = _translations(lattice, frac, z, kinds, tolerance)
        count = len(moves)
        grid = np.round(moves * count)
        closed = len({tuple(row) for row in (grid % count).tolist()}) == count
        if closed and np.abs((moves * count - grid) @ lattice).max() < 4 * tolerance * count:
            break
        tolerance /= 4  # nearly periodic: not a group at this tolerance
    else:
        count = 1
    if count == 1:
        return lattice, frac, z, np.arange(len(kinds))
    moves = grid / count
    basis = _shortest_basis(moves, lattice, count)
    there = frac[images]  # (count, N, 2): where each move's partner sits; moved back they agree
    back = there - moves[:, None] - frac
    frac = frac + (back - np.round(back)).mean(0)
    z = z[images].mean(0)
    keep = np.array(sorted({int(column.min()) for column in images.T}))
    lattice = basis @ lattice
    frac = frac[keep] @ np.linalg.inv(basis)
    inner = gauss_reduction(lattice)
    return inner @ lattice, frac @ np.linalg.inv(inner), z[keep], keep


def _translations(
    lattice: np.ndarray, frac: np.ndarray, z: np.ndarray, kinds: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Fractional translations (M, 2) that keep the layer, and where they take atoms (M, N)."""
    each, counts = np.unique(kinds, return_counts=True)
    rare = np.flatnonzero(kinds == each[np.argmin(counts)])
    common = np.gcd.reduce(counts)
    moves, images = [np.zeros(2)], [np.arange(len(kinds))]
    same = (kinds[:, None] == kinds) & (np.abs(z[:, None] - z) < tolerance)
    for target in rare[1:] if common > 1 else ():
        if not same[rare[0], target]:
            continue
        move = (frac[target] - frac[rare[0]]) % 1.0
        delta = frac[:, None] + move - frac
        delta = (delta - np.round(delta)) @ lattice
        image = np.where(same, (delta**2).sum(-1), np.inf).argmin(1)
        miss = delta[np.arange(len(kinds)), image]
        drift = miss.mean(0)  # away from the move that fits all atoms best: no atom is special
        fits = np.linalg.norm(miss - drift, axis=1).max() < tolerance
        if fits and same[np.arange(len(kinds)), image].all():
            moves.append(move - drift @ np.linalg.inv(lattice))
            images.append(image)
    return np.array(moves), np.array(images)


def _shortest_basis(moves: np.ndarray, lattice: np.ndarray, count: int) -> np.ndarray:
    """Basis (2, 2), in units of the reduced `lattice`, that `moves` (count, 2) refine it to."""
    cells = np.stack(np.meshgrid(*(np.arange(-1, 2),) * 2), -1).reshape(-1, 1, 2)
    vectors = (moves + cells).reshape(-1, 2)
    lengths = np.linalg.norm(vectors @ lattice, axis=1)
    vectors = vectors[np.argsort(lengths, kind="stable")]
    vectors = vectors[np.abs(vectors).max(1) > 1e-6]
    areas = np.abs(vectors[0, 0] * vectors[:, 1] - vectors[0, 1] * vectors[:, 0])
    return np.array([vectors[0], vectors[np.argmax(np.abs(areas - 1 / count) < 1e-6)]])


_UNIMODULAR = np.array([m for m in np.ndindex(3, 3, 3, 3)]).reshape(-1, 2, 2) - 1
_UNIMODULAR = _UNIMODULAR[np.abs(np.linalg.det(_UNIMODULAR)).round() == 1]


def _setting(
    lattice: np.ndarray, frac: np.ndarray, z: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best-scoring of all reduced bases with the same metric, on both sides of the layer."""
    metric = lattice @ lattice.T
    metrics = _UNIMODULAR @ metric @ _UNIMODULAR.transpose(0, 2, 1)
    slack = 2 * SYMPREC * np.sqrt(np.outer(np.diag(metric), np.diag(metric)))
    slack = slack / np.sqrt(np.diag(metric).min())
    best, choice = -np.inf, None
    up = np.sign(np.linalg.det(lattice))
    for basis in _UNIMODULAR[(np.abs(metrics - metric) <= slack).all((1, 2))]:
        side = up * np.round(np.linalg.det(basis))  # a left-handed basis is right-handed from below
        trial = (frac @ np.linalg.inv(basis), side * z)
        score = _score(*trial, weights)
        if score > best + 1e-9:
            best, choice = score, (basis @ lattice, *trial)
    chosen, frac, z = choice
    length = np.linalg.norm(chosen[0])
    along = chosen[0] @ chosen[1] / length
    area = abs(np.linalg.det(chosen))
    return np.array([[length, 0.0], [along, area / length]]), frac, z


# Structure invariants: h, k = -2 ... 2 and five heights on each rod, with fixed weights that no
# symmetry shares.
_STEP = 0.07  # 1/A along the rods
_H, _K, _L = np.indices((5, 5, 5)).reshape(3, -1) - 2
_SMALL = np.flatnonzero(np.abs([_H, _K, _L]).max(0) < 2)
_LEFT, _RIGHT = (index.ravel() for index in np.meshgrid(_SMALL, _SMALL))
_SUM = np.ravel_multi_index([axis[_LEFT] + axis[_RIGHT] + 2 for axis in (_H, _K, _L)], (5, 5, 5))
_WEIGHTS = np.cos(1.0 + 0.7 * np.arange(len(_H)) ** 2)
_PHASES = np.exp(1j * np.arange(len(_H)) ** 2)  # real ones would be blind to inversion
_WEIGHTS3 = np.cos(2.0 + 0.3 * np.arange(len(_LEFT)) ** 2)


def _waves(frac: np.ndarray, z: np.ndarray) -> np.ndarray:
    """exp(2 pi i q.r), (125, N)."""
    return np.exp(
        2j * np.pi * (np.outer(_H, frac[:, 0]) + np.outer(_K, frac[:, 1]) + np.outer(_STEP * _L, z))
    )


def _score(frac: np.ndarray, z: np.ndarray, weights: np.ndarray) -> float:
    """A number that no shift changes, equal for two settings only if symmetry relates them.

    A weighted sum of |F|^2, blind to inversion, and of Im F(p) F(q) F(-p-q), which changes sign
    under it. A smooth sum rather than an ordered comparison: noise moves it by as little as it
    moves the atoms.
    """
    factors = _waves(frac, z) @ (weights / weights.sum())
    triples = factors[_LEFT] * factors[_RIGHT] * factors[_SUM].conj()
    return float(_WEIGHTS @ np.abs(factors) ** 2 + _WEIGHTS3 @ triples.imag)


def _origin(frac: np.ndarray, z: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """In-plane place (2,) of the atom where a weighted Fourier sum of the layer is largest.

    Phases of single structure factors would not do: glide lines make them vanish.
    """
    waves = _waves(frac, z)
    density = (waves.conj().T @ (_PHASES * (waves @ (weights / weights.sum())))).real
    return frac[int(np.argmax(density > density.max() - 1e-9))]


def _steps(values: np.ndarray) -> np.ndarray:
    """Ranks (N,), equal for neighbours within SYMPREC: rounding cannot reorder atoms."""
    order = np.argsort(values, kind="stable")
    ranks = np.empty(len(values), int)
    ranks[order] = np.cumsum(np.diff(values[order], prepend=values[order[0]]) > SYMPREC)
    return ranks
