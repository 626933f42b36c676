"""Similarity: one value a pair, wherever it is computed."""

from __future__ import annotations

import numpy as np
import pytest

from twotower_server.index.similarity import at_least_kth, best, similarities


@pytest.mark.parametrize("dimension", [1, 2, 3, 7, 8, 31, 32, 33, 64, 100, 768])
def test_a_row_has_one_similarity_whatever_stands_beside_it(dimension: int) -> None:
    rng = np.random.default_rng(dimension)
    vectors = rng.standard_normal((997, dimension), np.float32)
    query = rng.standard_normal(dimension, np.float32)
    all_of_them = similarities(vectors, None, query)
    np.testing.assert_allclose(all_of_them, vectors.astype(np.float64) @ query, atol=1e-4)
    for rows in ([0], [996], [5, 996, 5], rng.permutation(997), rng.integers(0, 997, 100)):
        asked = np.asarray(rows, np.int64)
        assert (similarities(vectors, asked, query) == all_of_them[asked]).all()
    for start in range(1, 9):
        # Another place in memory, another alignment.
        assert (similarities(vectors[start:], None, query) == all_of_them[start:]).all()


def test_gathering_in_chunks_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((70_000, 4), np.float32)
    query = rng.standard_normal(4, np.float32)
    rows = rng.permutation(70_000)
    assert (similarities(vectors, rows, query) == similarities(vectors, None, query)[rows]).all()


def test_a_zero_vector_has_similarity_0() -> None:
    vectors = np.array([[0, 0], [1, 2]], np.float32)
    assert similarities(vectors, None, np.array([3, 4], np.float32)).tolist() == [0, 11]
    assert similarities(vectors, None, np.zeros(2, np.float32)).tolist() == [0, 0]


def test_the_answer_can_be_changed() -> None:
    found = similarities(np.eye(2, dtype=np.float32), np.array([0, -1]), np.ones(2, np.float32))
    found[0] = 0.0
    assert found.tolist() == [0, 1]


def test_at_least_kth_holds_all_that_tie_with_the_last() -> None:
    values = np.array([1, 3, 2, 2, 0, 2], np.float32)
    assert at_least_kth(values, 1).tolist() == [1]
    assert at_least_kth(values, 2).tolist() == [1, 2, 3, 5]
    assert at_least_kth(values, 4).tolist() == [1, 2, 3, 5]
    assert at_least_kth(values, 9).tolist() == [0, 1, 2, 3, 4, 5]


def test_best_orders_by_similarity_then_by_id() -> None:
    ids = ["d", "c", "b", "a", "é", "z"]
    values = np.array([2, 1, 2, 2, 2, 3], np.float32)
    rows, found = best(np.arange(6), values, 4, lambda rows: [ids[row] for row in rows])
    assert [ids[row] for row in rows] == ["z", "a", "b", "d"]
    assert found.tolist() == [3, 2, 2, 2]
