"""`canonical_form` of many layers of one size at once, step by step the same."""

from __future__ import annotations

import numpy as np

from dd2d_jax.crystals.canonical import (
    _LEFT,
    _PHASES,
    _RIGHT,
    _STEP,
    _SUM,
    _UNIMODULAR,
    _WEIGHTS,
    _WEIGHTS3,
    SYMPREC,
    _primitive,
    canonical_form,
    gauss_reduction,
)

_ORDERS = np.arange(-2, 3)


def canonical_forms(
    lattice: np.ndarray, positions: np.ndarray, numbers: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Canonical settings of K layers of N atoms, their normals along z.

    Args:
        lattice: (K, 2, 2); positions (K, N, 3), angstrom; numbers (K, N) without padding.

    Returns:
        The same in canonical setting; numbers are 0 where a cell was not primitive.
    """
    z = positions[..., 2] - (positions[..., 2].min(1) + positions[..., 2].max(1))[:, None] / 2
    basis = np.array([gauss_reduction(cell) for cell in lattice])
    frac = positions[..., :2] @ np.linalg.inv(lattice) @ np.linalg.inv(basis)
    cells = basis @ lattice
    smaller = np.array(
        [
            len(_primitive(*layer)[3]) < numbers.shape[1] if _may_repeat(layer[3]) else False
            for layer in zip(cells, frac, z, numbers, strict=True)
        ],
        bool,
    )
    cells, frac, z = _settings(cells, frac, z, numbers)
    frac = frac - _origins(frac, z, numbers)[:, None]
    frac -= np.floor(frac + 0.01)
    placed = np.concatenate([frac @ cells, z[..., None]], -1)
    order = np.lexsort(
        [_steps(placed[..., 0]), _steps(placed[..., 1]), _steps(z), numbers], axis=-1
    )
    placed = np.take_along_axis(placed, order[..., None], 1)
    sorted_numbers = np.take_along_axis(numbers, order, 1)
    for i in np.flatnonzero(smaller):
        cells[i], few, kinds, _ = canonical_form(lattice[i], positions[i], numbers[i])
        placed[i], sorted_numbers[i] = 0, 0
        placed[i, : len(few)], sorted_numbers[i, : len(few)] = few, kinds
    return cells, placed, sorted_numbers


def _may_repeat(numbers: np.ndarray) -> bool:
    counts = np.unique(numbers, return_counts=True)[1]
    return bool(np.gcd.reduce(counts) > 1)


def _settings(
    lattice: np.ndarray, frac: np.ndarray, z: np.ndarray, numbers: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `_setting` of one layer."""
    metric = lattice @ lattice.transpose(0, 2, 1)
    metrics = _UNIMODULAR @ metric[:, None] @ _UNIMODULAR.transpose(0, 2, 1)
    square = np.diagonal(metric, axis1=1, axis2=2)
    slack = 2 * SYMPREC * np.sqrt(square[:, :, None] * square[:, None])
    slack = slack / np.sqrt(square.min(1))[:, None, None]
    allowed = (np.abs(metrics - metric[:, None]) <= slack[:, None]).all((2, 3))
    up = np.sign(np.linalg.det(lattice))
    best = np.full(len(lattice), -np.inf)
    out = lattice.copy(), frac.copy(), z.copy()
    for number in np.flatnonzero(allowed.any(0)):
        basis = _UNIMODULAR[number]
        rows = np.flatnonzero(allowed[:, number])
        side = up[rows] * np.round(np.linalg.det(basis))
        trial = frac[rows] @ np.linalg.inv(basis), side[:, None] * z[rows]
        score = _scores(*trial, numbers[rows])
        better = score > best[rows] + 1e-9
        rows, trial = rows[better], [x[better] for x in trial]
        best[rows] = score[better]
        for array, new in zip(out, (basis @ lattice[rows], *trial), strict=True):
            array[rows] = new
    chosen, frac, z = out
    length = np.linalg.norm(chosen[:, 0], axis=1)
    along = (chosen[:, 0] * chosen[:, 1]).sum(1) / length
    area = np.abs(np.linalg.det(chosen))
    cells = np.zeros_like(chosen)
    cells[:, 0, 0], cells[:, 1, 0], cells[:, 1, 1] = length, along, area / length
    return cells, frac, z


def _waves(frac: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """exp(2 pi i q.r) as a product: in the plane (K, 25, N), and along the rods (K, 5, N)."""
    x, y, up = (
        np.exp(2j * np.pi * v)[:, None] ** _ORDERS[:, None]
        for v in (frac[..., 0], frac[..., 1], _STEP * z)
    )
    plane = x[:, :, None] * y[:, None]
    return plane.reshape(len(frac), 25, -1), up


def _factors(plane: np.ndarray, up: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    weight = numbers / numbers.sum(1, keepdims=True)
    return ((plane * weight[:, None]) @ up.transpose(0, 2, 1)).reshape(len(plane), -1)


def _scores(frac: np.ndarray, z: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    factors = _factors(*_waves(frac, z), numbers)
    triples = factors[:, _LEFT] * factors[:, _RIGHT] * factors[:, _SUM].conj()
    return np.abs(factors) ** 2 @ _WEIGHTS + triples.imag @ _WEIGHTS3


def _origins(frac: np.ndarray, z: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    plane, up = _waves(frac, z)
    weighted = (_PHASES * _factors(plane, up, numbers)).reshape(len(frac), 25, 5)
    density = ((weighted @ up.conj()) * plane.conj()).sum(1).real
    atom = (density > density.max(1, keepdims=True) - 1e-9).argmax(1)
    return frac[np.arange(len(frac)), atom]


def _steps(values: np.ndarray) -> np.ndarray:
    """As `_steps` of one layer, along the last axis of (K, N)."""
    order = np.argsort(values, axis=1, kind="stable")
    rising = np.take_along_axis(values, order, 1)
    steps = np.cumsum(np.diff(rising, prepend=rising[:, :1], axis=1) > SYMPREC, 1)
    ranks = np.empty(values.shape, int)
    np.put_along_axis(ranks, order, steps, 1)
    return ranks
