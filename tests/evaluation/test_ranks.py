"""Ranks: 1 + the number of other candidates that score at least as high as the true one."""

import numpy as np
import pytest

from dd2d_jax.evaluation.ranks import TOP, accuracy, embedding_ranks, rank, row_ranks

NAN = float("nan")


@pytest.mark.parametrize(
    ("scores", "truth", "expected"),
    [
        ([0.9, 0.5, 0.1], 0, 1),
        ([0.9, 0.5, 0.1], 1, 2),
        ([0.9, 0.5, 0.1], 2, 3),
        ([0.4], 0, 1),
        # Ties count against, wherever the true one stands.
        ([0.5, 0.5, 0.1], 0, 2),
        ([0.5, 0.5, 0.1], 1, 2),
        ([0.7, 0.7, 0.7, 0.7], 2, 4),
        # NaN never wins: neither for another candidate ...
        ([NAN, 0.5, 0.1], 1, 1),
        ([NAN, 0.5, 0.1], 2, 2),
        # ... nor for the true one, which then comes last.
        ([NAN, 0.5, 0.1], 0, 3),
        ([NAN, NAN, NAN], 1, 3),
        ([-np.inf, NAN, 0.0], 1, 3),
    ],
)
def test_rank_by_hand(scores, truth, expected):
    assert rank(np.array(scores), truth) == expected


def test_embedding_ranks_are_ranks_by_cosine():
    # More than one part of 256 queries, and a gallery in another order than the queries.
    rng = np.random.default_rng(0)
    gallery = rng.normal(size=(40, 5)).astype(np.float32)
    queries = rng.normal(size=(300, 5)).astype(np.float32)
    truth = rng.integers(0, 40, 300)
    cosine = queries.astype(float) @ gallery.T.astype(float)
    expected = [1 + sum(row > row[t]) for row, t in zip(cosine, truth, strict=True)]
    np.testing.assert_array_equal(embedding_ranks(queries, gallery, truth), expected)


def test_a_duplicate_in_the_gallery_counts_against():
    gallery = np.array([[1, 0], [0, 1], [1, 0]], float)
    np.testing.assert_array_equal(
        embedding_ranks(gallery[[0, 1, 2]], gallery, np.array([0, 1, 2])), [2, 1, 2]
    )


def test_equal_vectors_tie_whatever_their_products_round_to():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(300, 128)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    near = vectors + rng.normal(scale=0.05, size=vectors.shape).astype(np.float32)
    ranks = embedding_ranks(near, np.concatenate([vectors, vectors]), np.arange(300))
    np.testing.assert_array_equal(ranks, 2)
    just = np.array([0.5, 0.5 - 3e-7, 0.5 - 1e-5])
    assert rank(just, 0) == 1 and row_ranks(just[None], [0]) == [2]


def test_a_network_that_returns_nan_finds_nothing():
    gallery = np.full((20, 4), NAN)
    ranks = embedding_ranks(np.full((3, 4), NAN), gallery, np.arange(3))
    np.testing.assert_array_equal(ranks, 20)
    assert accuracy(ranks)["top10"] == 0


def test_accuracy_by_hand():
    found = accuracy(np.array([1, 1, 2, 3, 4, 5, 6, 10, 11, 51, 101, 101]))
    each = {"top1": 2, "top3": 4, "top5": 6, "top10": 8, "top50": 9, "top100": 10}
    assert found == {name: pytest.approx(100 * count / 12) for name, count in each.items()}
    assert list(found) == [f"top{k}" for k in TOP]
