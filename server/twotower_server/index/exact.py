"""Exact search: every eligible vector is compared."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from twotower_server.index.base import ItemIds
from twotower_server.index.similarity import at_least_kth, best, similarities


def wanted_rows(
    items: int, excluded_rows: NDArray[np.int64] | None, eligible: NDArray[np.bool_] | None
) -> NDArray[np.bool_]:
    """Which rows a search may return: bool [items]."""
    if excluded_rows is None:
        return np.ones(items, np.bool_) if eligible is None else eligible
    wanted = np.ones(items, np.bool_) if eligible is None else eligible.copy()
    wanted[excluded_rows] = False
    return wanted


class ExactIndex:
    """Compares the query with every eligible vector; nothing is approximated, ties at the cut included.

    vectors: float32 [items, dimension], memory-mapped. item_ids: names the items that tie.
    """

    def __init__(self, vectors: NDArray[np.float32], item_ids: ItemIds) -> None:
        self._vectors = vectors
        self._item_ids = item_ids

    def search(
        self,
        query: NDArray[np.float32],
        k: int,
        *,
        excluded_rows: NDArray[np.int64] | None = None,
        eligible: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        rows = None
        if excluded_rows is not None or eligible is not None:
            rows = np.flatnonzero(wanted_rows(len(self._vectors), excluded_rows, eligible))
        values = similarities(self._vectors, rows, query)
        if not len(values) or k < 1:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        top = at_least_kth(values, k)
        return best(top if rows is None else rows[top], values[top], k, self._item_ids)
