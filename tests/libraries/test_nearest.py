"""Search: exact, for any number of parts, rows and settings."""

import numpy as np
import pytest

from dd2d_jax.libraries.nearest import nearest
from dd2d_jax.libraries.shards import Stacked


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((700, 16))
    values[300] = values[40]  # of equal ones the first comes first
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr("dd2d_jax.libraries.nearest._CPU_BLOCK", 128)


def queries(count: int, settings: int) -> np.ndarray:
    values = np.random.default_rng(1).standard_normal((count, settings, 16)).astype(np.float32)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


@pytest.mark.parametrize("parts", [[700], [300, 1, 0, 399]])
@pytest.mark.parametrize("share", [None, 0.5, 0.02])
def test_the_same_as_all_products_in_float32(rows, parts, share):
    stacked = Stacked(np.split(rows, np.cumsum(parts)[:-1]))
    asked = queries(3, 5)
    asked[0, 0] = rows[40]
    allowed = None if share is None else np.random.default_rng(2).random(700) < share
    exact = np.einsum("qsd,nd->qsn", asked, rows.astype(np.float32))
    best = exact.max(1)
    if allowed is not None:
        best = np.where(allowed, best, -np.inf)
    found, cosines = nearest(stacked, asked, 30, allowed)
    count = 30 if allowed is None else min(30, allowed.sum())
    assert found.shape == (3, count) and cosines.shape == (3, 5, count)
    for q in range(3):
        want = np.argsort(-best[q], kind="stable")[:count]
        assert set(found[q].tolist()) == set(want.tolist())
        np.testing.assert_allclose(best[q][found[q]], best[q][want], atol=1e-6)
        np.testing.assert_allclose(cosines[q], exact[q][:, found[q]], atol=1e-6)
    if allowed is None:
        assert found[0, :2].tolist() == [40, 300]


def test_more_than_there_are_gives_all(rows):
    found, _ = nearest(rows[:5], queries(1, 2), 100)
    assert sorted(found[0].tolist()) == [0, 1, 2, 3, 4]


def test_nothing_allowed_finds_nothing(rows):
    found, cosines = nearest(rows, queries(2, 1), 5, np.zeros(700, bool))
    assert found.shape == (2, 0) and cosines.shape == (2, 1, 0)
