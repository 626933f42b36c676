"""Exact search: every eligible vector is compared."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from twotower_server.index.base import ItemIds
from twotower_server.index.similarity import at_least_kth, best, similarities

# Up to so many items, or eligible items of a larger catalog, comparing them all is as fast as walking lists.
EXACT_ITEMS = 50_000
# Values that are compared in about a millisecond: 16,000 vectors of 64 dimensions.
_BRIEF_VALUES = 1_000_000
# Reading a few vectors here and there is cheaper than all in order up to about a quarter of them.
_GATHER_SHARE = 4


def wanted_rows(
    items: int, excluded_rows: NDArray[np.int64] | None, eligible: NDArray[np.bool_] | None
) -> NDArray[np.bool_]:
    """Which rows a search may return: bool [items]."""
    wanted = np.ones(items, np.bool_) if eligible is None else eligible
    if excluded_rows is not None and len(excluded_rows):
        wanted = wanted if eligible is None else wanted.copy()
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
        wanted = wanted_rows(len(self._vectors), excluded_rows, eligible)
        count = int(np.count_nonzero(wanted))
        k = min(k, count)
        if k < 1:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        if count == len(wanted):
            values = similarities(self._vectors, None, query)
            top = at_least_kth(values, k)
            return best(top, values[top], k, self._item_ids)
        rows = np.flatnonzero(wanted)
        if count < len(wanted) // _GATHER_SHARE:
            values = similarities(self._vectors, rows, query)
        else:
            values = similarities(self._vectors, None, query).take(rows)
        top = at_least_kth(values, k)
        return best(rows[top], values[top], k, self._item_ids)

    def is_brief(self, nearest: int) -> bool:
        return self._vectors.size <= _BRIEF_VALUES
