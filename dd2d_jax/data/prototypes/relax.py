"""From a reference crystal to its decorations: bond lengths from tabulated radii.

A reference gives the topology. When its elements are exchanged, every bond should become as long as
it was, times the ratio of the sums of radii before and after: Shannon's ionic radii between a
cation and an anion, else covalent radii (`ase.data.covalent_radii`). The distances of second
neighbours, which hold the angles, should scale with the bonds that join them. A few steps of damped
Gauss-Newton find the positions and the in-plane strain that come nearest. One call does all
decorations of a reference at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase.data import covalent_radii

BOND_LIMIT = 1.25
"""Two atoms are bonded up to this multiple of the sum of their covalent radii."""
ANGLE_WEIGHT = 0.15
STEPS = 6
DAMPING = 1e-3
HELD_DAMPING = 0.05
"""Parts of a layer that no bond joins stay where they are when the cell is held."""
_SHARED = 0.04  # how much shorter both bonds over a third atom are that unbind a pair


@dataclass(frozen=True)
class Network:
    """Springs of a reference: pairs (i, j + shift), their lengths, weights and bond parents."""

    i: np.ndarray  # (P,)
    j: np.ndarray  # (P,)
    shift: np.ndarray  # (P, 2) lattice translations of j
    length: np.ndarray  # (P,) angstrom
    weight: np.ndarray  # (P,)
    start: np.ndarray  # (B,) first atoms of the bonds
    end: np.ndarray  # (B,) last atoms of the bonds
    parents: np.ndarray  # (P, B) every spring's share in the bonds: its ratio is parents @ theirs


def _pairs(cell: np.ndarray, positions: np.ndarray, cutoff: float):
    """All directed pairs (i, j, shift) nearer than cutoff, and their distances."""
    heights = abs(np.linalg.det(cell)) / np.linalg.norm(cell, axis=1)[::-1]
    n1, n2 = np.ceil(cutoff / heights).astype(int) + 1
    shifts = np.array([(p, q) for p in range(-n1, n1 + 1) for q in range(-n2, n2 + 1)])
    offset = np.zeros((len(shifts), 3))
    offset[:, :2] = shifts @ cell
    vector = positions[None, :, None] + offset[None, None] - positions[:, None, None]
    distance = np.linalg.norm(vector, axis=-1)
    i, j, s = np.nonzero((distance < cutoff) & (distance > 1e-6))
    return i, j, shifts[s], distance[i, j, s]


def network(numbers: np.ndarray, cell: np.ndarray, positions: np.ndarray) -> Network:
    """Bonds and second neighbours of a reference (cell (2, 2), positions (N, 3), angstrom)."""
    radii = covalent_radii[numbers]
    i, j, shift, distance = _pairs(cell, positions, BOND_LIMIT * 2 * radii.max())
    relative = distance / (radii[i] + radii[j])
    near = relative < BOND_LIMIT
    i, j, shift, distance, relative = (x[near] for x in (i, j, shift, distance, relative))
    links = {
        (a, b, *s): k
        for k, (a, b, s) in enumerate(zip(i.tolist(), j.tolist(), shift.tolist(), strict=True))
    }
    outgoing: dict[int, list[int]] = {}
    for k, a in enumerate(i.tolist()):
        outgoing.setdefault(a, []).append(k)

    def over_third(k: int, margin: float) -> bool:
        for m in outgoing[int(i[k])]:
            rest = tuple(shift[k] - shift[m])
            other = links.get((int(j[m]), int(j[k]), int(rest[0]), int(rest[1])))
            if other is not None and max(relative[m], relative[other]) < relative[k] - margin:
                return True
        return False

    is_bond = np.array([not over_third(k, _SHARED) for k in range(len(i))], bool)
    bonds = np.nonzero(is_bond)[0]
    column = {int(k): n for n, k in enumerate(bonds)}
    parents: dict[tuple[int, int, int, int], list[int]] = {}
    for k in bonds.tolist():
        for m in outgoing[int(j[k])]:
            if m in column:
                total = shift[k] + shift[m]
                end = (int(i[k]), int(j[m]), int(total[0]), int(total[1]))
                back = end[0] == end[1] and not total.any()
                if not back and links.get(end, -1) not in column:
                    parents.setdefault(end, []).extend([column[k], column[m]])
    return _assemble(i[bonds], j[bonds], shift[bonds], distance[bonds], parents, cell, positions)


def _assemble(i, j, shift, distance, parents, cell, positions) -> Network:
    """Bonds first, then second neighbours, each pair once."""
    ends = list(parents)
    second = np.array(ends, dtype=int).reshape(-1, 4)
    vector = positions[second[:, 1]] - positions[second[:, 0]]
    vector[:, :2] += second[:, 2:] @ cell
    matrix = np.zeros((len(i) + len(ends), len(i)))
    matrix[np.arange(len(i)), np.arange(len(i))] = 1.0
    for row, end in enumerate(ends):
        np.add.at(matrix[len(i) + row], parents[end], 1.0 / len(parents[end]))
    first, last = np.r_[i, second[:, 0]], np.r_[j, second[:, 1]]
    moves = np.concatenate([shift, second[:, 2:]])
    ahead = (moves[:, 0] > 0) | ((moves[:, 0] == 0) & (moves[:, 1] > 0))
    keep = (first < last) | ((first == last) & ahead)  # every pair was found from both ends
    lengths = np.r_[distance, np.linalg.norm(vector, axis=1)]
    weights = np.r_[np.ones(len(i)), np.full(len(ends), ANGLE_WEIGHT)]
    return Network(
        first[keep], last[keep], moves[keep], lengths[keep], weights[keep], i, j, matrix[keep]
    )


@dataclass(frozen=True)
class Radii:
    """Two radii for every place, in angstrom: covalent and ionic, (..., N) each."""

    covalent: np.ndarray
    ionic: np.ndarray


def redecorate(
    numbers: np.ndarray,
    cell: np.ndarray,
    positions: np.ndarray,
    old: Radii,
    new: Radii,
    signs: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Fit a reference to other elements.

    Args:
        numbers, cell, positions: the reference: (N,), (2, 2), (N, 3), angstrom.
        old, new: radii of the reference (N,) and of the K crystals wanted (K, N).
        signs: sign of the charge of every place (N,); bonds of unlike sign are ionic.

    Returns:
        cells (K, 2, 2) and positions (K, N, 3), angstrom.
    """
    net = network(numbers, cell, positions)
    ratio = ratios(net, old, new, signs)
    scale = scales(net, ratio, old, new)
    cells = scale[:, None, None] * cell
    moved = scale[:, None, None] * positions
    if len(net.start) == 0:
        return cells, moved
    target = net.length * (ratio @ net.parents.T)
    for _ in range(STEPS):
        cells, moved = _step(net, cells, moved, target)
    # linear algebra libraries differ in the last digits; the crystals should not
    return np.round(cells, 6) + 0.0, np.round(moved, 6) + 0.0


def ratios(net: Network, old: Radii, new: Radii, signs: np.ndarray) -> np.ndarray:
    """Ratios (K, B) by which every bond should grow; arguments as in `redecorate`."""
    s, e = net.start, net.end
    ratio = (new.covalent[:, s] + new.covalent[:, e]) / (old.covalent[s] + old.covalent[e])
    ionic = signs[s] * signs[e] < 0  # other bonds may have no ionic radii
    s, e = s[ionic], e[ionic]
    ratio[:, ionic] = (new.ionic[:, s] + new.ionic[:, e]) / (old.ionic[s] + old.ionic[e])
    return ratio


def scales(net: Network, ratio: np.ndarray, old: Radii, new: Radii) -> np.ndarray:
    """By how much the springs want the crystals (K,) to grow, before any relaxation."""
    if len(net.start) == 0:
        return new.covalent.mean(1) / old.covalent.mean()
    weight = net.length * net.weight
    return ratio @ (net.parents.T @ weight) / weight.sum()


def relax_in(
    net: Network, cells: np.ndarray, positions: np.ndarray, ratio: np.ndarray
) -> np.ndarray:
    """Positions (K, N, 3) that come nearest to the springs' lengths in cells that are held.

    Args:
        net: of the reference.
        cells: (K, 2, 2), angstrom.
        positions: (K, N, 3) to start from.
        ratio: (K, B), from `ratios`.
    """
    if len(net.start) == 0:
        return positions
    target = net.length * (ratio @ net.parents.T)
    for _ in range(STEPS):
        _, positions = _step(net, cells, positions, target, held=True)
    return positions


def _step(net: Network, cells, positions, target, held: bool = False):
    """One damped Gauss-Newton step in the positions and, if not held, the in-plane strain."""
    count, atoms = positions.shape[:2]
    vector = positions[:, net.j] - positions[:, net.i]
    vector[..., :2] += np.einsum("pi,kij->kpj", net.shift, cells)
    distance = np.linalg.norm(vector, axis=-1)
    unit = vector / distance[..., None]
    root = np.sqrt(net.weight)
    pairs = np.arange(len(net.i))
    jacobian = np.zeros((count, len(pairs), 3 * atoms + 3))
    for axis in range(3):
        jacobian[:, pairs, 3 * net.j + axis] += unit[..., axis]
        jacobian[:, pairs, 3 * net.i + axis] -= unit[..., axis]
    jacobian[..., -3] = unit[..., 0] * vector[..., 0]
    jacobian[..., -2] = unit[..., 1] * vector[..., 1]
    jacobian[..., -1] = unit[..., 0] * vector[..., 1] + unit[..., 1] * vector[..., 0]
    if held:
        jacobian[..., -3:] = 0.0
    jacobian *= root[:, None]
    misfit = (target - distance) * root
    damping = HELD_DAMPING if held else DAMPING
    transposed = jacobian.transpose(0, 2, 1)
    normal = transposed @ jacobian + damping * np.eye(3 * atoms + 3)
    move = np.linalg.solve(normal, transposed @ misfit[..., None])[..., 0]
    xx, yy, xy = move[:, -3], move[:, -2], move[:, -1]
    strain = np.array([[1 + xx, xy], [xy, 1 + yy]]).transpose(2, 0, 1)
    positions = positions + move[:, :-3].reshape(count, atoms, 3)
    positions[..., :2] = positions[..., :2] @ strain
    return cells @ strain, positions
