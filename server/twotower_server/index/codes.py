"""Search of the 8-bit codes of inverted lists alone, where the vectors are not on this machine."""

from __future__ import annotations

import math
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from twotower_server.index.exact import wanted_rows
from twotower_server.index.ivf import MAX_OVERFETCH, is_brief, probes_for

_LEVELS = 255
# So many standard deviations below the k-th best, no code is of a vector that belongs to the k best (measured).
_ERRORS = 3
# Faiss replaces constructors when it is imported; its type information shows the old ones.
_constructors: Any = faiss


class CodesIndex:
    """As `IvfSq8Index`, but similarities are those of the codes, and so is the order: compare what is found again.

    For the k best search for `fetched_for(k)`, and compare the first `contenders` of them.
    """

    def __init__(self, index: Any, probes: int) -> None:
        """probes: lists to walk for `MEASURED_K` of all items. With a filter all lists are walked."""
        self._index = index
        self._probes = probes
        trained = faiss.vector_to_array(index.sq.trained)  # the least value of each dimension, then its range
        self._steps = trained[index.d :] / _LEVELS

    def search(
        self,
        query: NDArray[np.float32],
        k: int,
        *,
        excluded_rows: NDArray[np.int64] | None = None,
        eligible: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        excluded = 0 if excluded_rows is None else len(excluded_rows)
        wanted = None
        if eligible is not None or excluded > MAX_OVERFETCH:
            wanted = wanted_rows(self._index.ntotal, excluded_rows, eligible)
        count = self._index.ntotal - excluded if wanted is None else int(np.count_nonzero(wanted))
        k = min(k, count)
        if k < 1:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        if wanted is not None:
            selector = _constructors.IDSelectorBitmap(np.packbits(wanted, bitorder="little"))
            return self._walk(query, k, self._index.nlist, selector)
        probes = math.ceil(probes_for(self._probes, k + excluded))
        while True:
            rows, values = self._walk(query, k + excluded, min(probes, self._index.nlist), None)
            if excluded_rows is not None:
                kept = ~np.isin(rows, excluded_rows, assume_unique=True)
                rows, values = rows[kept], values[kept]
            if len(rows) >= k or probes >= self._index.nlist:
                return rows[:k], values[:k]
            probes *= 2

    def contenders(self, query: NDArray[np.float32], k: int, values: NDArray[np.float32]) -> int:
        """How many of the results of a search may belong to the k best. values: their similarities, falling."""
        if len(values) <= k:
            return len(values)
        # A value of a code is off by up to half a step, and anything in between is as likely.
        error = math.sqrt(float(np.sum((query * self._steps) ** 2)) / 12)
        return int(np.count_nonzero(values >= values[k - 1] - _ERRORS * error))

    def is_brief(self, nearest: int) -> bool:
        return is_brief(self._index, probes_for(self._probes, nearest))

    def _walk(
        self, query: NDArray[np.float32], count: int, probes: int, selector: Any
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The best codes of the nearest lists: rows and similarities, falling."""
        parameters = _constructors.SearchParametersIVF(nprobe=probes, sel=selector)
        values, rows = self._index.search(query[None], count, params=parameters)
        found = rows[0] >= 0
        return rows[0][found], values[0][found]


def fetched_for(k: int, excluded: int, *, filtered: bool) -> int:
    """How many results of codes surely hold the k best, with so many exclusions, and perhaps a filter."""
    # What is left then may lie as densely as nothing near the query does.
    return k + (min(8 * k + 100, 8_000) if filtered or excluded > k else k // 2 + 20)
