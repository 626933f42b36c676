"""Similarity as it leaves the server: computed in one way, so that Score and Recommend agree to the bit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from twotower_server.index.base import ItemIds

# Vectors gathered at once: 16 MiB of 64 dimensions.
_CHUNK_ROWS = 65_536


def similarities(
    vectors: NDArray[np.float32], rows: NDArray[np.int64] | None, query: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Dot products of the query with rows of `vectors` (None = all): float32 [n].

    vectors: float32 [items, d], C order; unit length when cosine, as is `query` [d].
    A row's value does not depend on the other rows. BLAS sums in an order that depends on the row's place, so
    that equal vectors would differ.
    """
    if rows is None:
        return _dot(vectors, query)
    if len(rows) <= _CHUNK_ROWS:
        return _dot(vectors.take(rows, 0), query)
    found = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _CHUNK_ROWS):
        chunk = rows[start : start + _CHUNK_ROWS]
        found[start : start + len(chunk)] = _dot(vectors.take(chunk, 0), query)
    return found


def _dot(vectors: NDArray[np.float32], query: NDArray[np.float32]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = np.vecdot(vectors, query)
    return found


def at_least_kth(values: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Positions of the values that are at least the k-th greatest: int64, ascending; k ≥ 1."""
    if k >= len(values):
        return np.arange(len(values))
    return np.flatnonzero(values >= np.partition(values, len(values) - k)[len(values) - k])


def best(
    rows: NDArray[np.int64], values: NDArray[np.float32], k: int, item_ids: ItemIds
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k best of `rows` by similarity falling, ties by item id, with their similarities `values`."""
    top = at_least_kth(values, k)
    top = top[np.argsort(-values[top], kind="stable")]
    rows, values = rows[top], values[top]
    same = values[1:] == values[:-1]
    if same.any():
        # Only what ties is named: among thousands of results a few always do.
        tied = np.flatnonzero(np.append(same, False) | np.insert(same, 0, False))
        ids = item_ids(rows[tied])
        by_id = np.array(sorted(range(len(ids)), key=ids.__getitem__))
        order = by_id[np.argsort(-values[tied][by_id], kind="stable")]
        rows[tied] = rows[tied][order]
    return rows[:k], values[:k]
