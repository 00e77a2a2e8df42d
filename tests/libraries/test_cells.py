"""Cells are found exactly, whatever the setting, and as quickly among a million."""

import time

import numpy as np
import pytest

from dd2d_jax.libraries.cells import CellIndex
from dd2d_jax.matching.score import strain_between


@pytest.fixture(scope="module")
def cells() -> np.ndarray:
    random = np.random.default_rng(0)
    a = random.uniform(2.5, 8, 3000)
    b = a * random.uniform(1, 2, 3000)
    gamma = np.deg2rad(random.uniform(90, 120, 3000))
    zero = np.zeros(3000)
    rows = [a, zero, b * np.cos(gamma), b * np.sin(gamma)]
    return np.stack(rows, 1).reshape(-1, 2, 2).astype(np.float32)


def test_all_cells_within_the_strain_are_found_and_no_others(cells):
    asked = cells[:5] * 1.01
    found = CellIndex([cells[:1000], cells[1000:]]).near(asked, 0.05, 0.02)
    inside = np.zeros(len(cells), bool)
    for cell in asked:
        stretch, shear = (np.asarray(x) for x in strain_between(cells, cell))
        inside |= (np.abs(stretch) <= 0.05) & (shear <= 0.02)
    assert sorted(found.tolist()) == np.flatnonzero(inside).tolist()


def test_the_least_strained_come_first(cells):
    found = CellIndex([cells]).near(cells[7:8] * 1.001, 0.05, 0.02)
    assert found[0] == 7


def test_a_rotated_or_mirrored_cell_is_the_same(cells):
    index = CellIndex([cells])
    c, s = np.cos(1.0), np.sin(1.0)
    turned = cells[3] @ np.array([[c, s], [-s, c]]) @ np.diag([1, -1])
    for one, other in zip(
        index.near(cells[3:4], 0.03, 0.01), index.near(turned[None], 0.03, 0.01), strict=True
    ):
        assert one == other


def test_a_million_cells_are_searched_in_a_fraction_of_a_second(cells):
    random = np.random.default_rng(1)
    many = np.repeat(cells, 333, 0) * random.normal(1, 0.01, (len(cells) * 333, 1, 1))
    index = CellIndex([many.astype(np.float32)])
    begin = time.process_time()
    found = index.near(cells[:12], 0.045, 0.02)
    assert len(found) > 1000 and time.process_time() - begin < 2
