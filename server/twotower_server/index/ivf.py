"""Search of inverted lists with 8-bit codes: the lists nearest to the query are walked until the best are found.

Without a filter the number of lists to walk was measured at build. With one, what is eligible may lie anywhere: near
the query, spread evenly, or only far away. How many lists are enough is therefore seen from the results themselves.
"""

from __future__ import annotations

import math
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from twotower_server.index.base import ItemIds
from twotower_server.index.exact import EXACT_ITEMS, ExactIndex, wanted_rows
from twotower_server.index.recall import MEASURED_K
from twotower_server.index.similarity import at_least_kth, best, similarities

# Up to so many exclusions it is cheaper to fetch more results than to build a bitmap over all items.
MAX_OVERFETCH = 256
# Comparing a vector exactly costs as much as so many codes under a bitmap, eligible or not (measured).
_CODES_A_VECTOR = 8
# Walking ends when twice as many lists changed at most this share of the best. Each doubling changes fewer than the one
# before it, so that all further ones together would bring about half as many again: recall stays above 0.95 (measured).
_LATE_SHARE = 0.1
# When an eighth of all lists is walked and the half that came last still gave most of the best, no list leads to them:
# they lie all around, as when only what is far away is eligible.
_LOST_SHARE = 0.5
# Codes that are compared in about a millisecond.
_BRIEF_VALUES = 4_000_000
# Faiss replaces constructors when it is imported; its type information shows the old ones.
_constructors: Any = faiss


class IvfSq8Index:
    """Inverted lists of 8-bit codes, walked nearest list first; what they find is compared again exactly.

    probes: lists to walk for `MEASURED_K` of all items; more results, or few eligible items, need more.
    """

    def __init__(self, index: Any, vectors: NDArray[np.float32], probes: int, item_ids: ItemIds) -> None:
        self._index = index
        self._vectors = vectors
        self._probes = probes
        self._item_ids = item_ids
        self._exact = ExactIndex(vectors, item_ids)
        quantizer = _constructors.downcast_index(index.quantizer)
        # A view: the index, which holds them, is held here.
        self._centroids = _constructors.rev_swig_ptr(quantizer.get_xb(), index.nlist * index.d)
        self._centroids = self._centroids.reshape(index.nlist, index.d)

    def search(
        self,
        query: NDArray[np.float32],
        k: int,
        *,
        excluded_rows: NDArray[np.int64] | None = None,
        eligible: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        items = len(self._vectors)
        excluded = 0 if excluded_rows is None else len(excluded_rows)
        if eligible is None and excluded <= MAX_OVERFETCH:
            k = min(k, items - excluded)
            found = self._nearest(query, k, excluded_rows) if k > 0 else None
            if found is None:
                return self._exact.search(query, k, excluded_rows=excluded_rows)
        else:
            wanted = wanted_rows(items, excluded_rows, eligible)
            k = min(k, int(np.count_nonzero(wanted)))
            found = self._nearest_wanted(query, k, k + excluded, wanted) if k > 0 else None
            if found is None:
                return self._exact.search(query, k, eligible=wanted)
        return best(found, similarities(self._vectors, found, query), k, self._item_ids)

    def is_brief(self, nearest: int) -> bool:
        return is_brief(self._index, probes_for(self._probes, nearest))

    def _nearest(
        self, query: NDArray[np.float32], k: int, excluded_rows: NDArray[np.int64] | None
    ) -> NDArray[np.int64] | None:
        """At least k rows, the k best probably among them; None when comparing everything costs no more."""
        excluded = 0 if excluded_rows is None else len(excluded_rows)
        # What is excluded counts as found: users have seen what is near them. It counts twice, for the last of a
        # ranking are found less surely than the first, and here only they are left.
        probes = math.ceil(probes_for(self._probes, k + 2 * excluded))
        fetched = k + excluded + _spare(k + excluded)
        while probes <= self._index.nlist // 2:
            parameters = _constructors.SearchParametersIVF(nprobe=probes)
            found: NDArray[np.int64] = self._index.search(query[None], fetched, params=parameters)[1][0]
            found = found[found >= 0]
            if excluded_rows is not None:
                found = found[~np.isin(found, excluded_rows, assume_unique=True)]
            if len(found) >= k:
                return found
            probes *= 2
        return None

    def _nearest_wanted(
        self, query: NDArray[np.float32], k: int, nearest: int, wanted: NDArray[np.bool_]
    ) -> NDArray[np.int64] | None:
        """As `_nearest`, of the wanted rows: bool [items].

        nearest: k and the exclusions together, which usually are what is nearest.
        """
        lists, count = self._index.nlist, int(np.count_nonzero(wanted))
        # The k best of a share of the items are, if the filter has nothing to do with the query, that share of so
        # many more of all. More lists are walked when it has.
        probes = max(2, math.ceil(probes_for(self._probes, k * len(wanted) / count)))
        if count <= max(EXACT_ITEMS, len(wanted) * probes / lists / _CODES_A_VECTOR):
            return None
        selector = _constructors.IDSelectorBitmap(np.packbits(wanted, bitorder="little"))
        order = np.argsort(-(self._centroids @ query))
        rows, values = np.empty(0, np.int64), np.empty(0, np.float32)
        fetched = k + _spare(nearest)
        begin, end = 0, probes // 2
        # From half of the lists on comparing everything costs no more.
        while end <= lists // 2:
            earlier = len(rows)
            new_rows, new_values = self._compared(query, order[begin:end], fetched, selector)
            rows, values = np.concatenate([rows, new_rows]), np.concatenate([values, new_values])
            # Of a few results alone the share that came late says nothing.
            judged = at_least_kth(values, max(k, MEASURED_K))
            late = np.count_nonzero(judged >= earlier)
            if begin and len(rows) >= k and late <= _LATE_SHARE * len(judged):
                return rows
            if begin and end >= lists // 8 and late > _LOST_SHARE * len(judged):
                return None
            kept = at_least_kth(values, fetched)
            rows, values = rows[kept], values[kept]
            begin, end = end, 2 * end
        return None

    def _compared(
        self, query: NDArray[np.float32], lists: NDArray[np.int64], count: int, selector: Any
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The `count` best codes of some lists, as rows and similarities of codes; fewer when they hold fewer."""
        rows, values = np.empty(count, np.int64), np.empty(count, np.float32)
        similar = np.zeros(len(lists), np.float32)  # the lists' similarities, which only codes of residuals need
        pointer = _constructors.swig_ptr
        # The method that takes arrays takes no selector.
        self._index.search_preassigned_c(
            1,
            pointer(query),
            count,
            pointer(lists),
            pointer(similar),
            pointer(values),
            pointer(rows),
            False,
            _constructors.SearchParametersIVF(nprobe=len(lists), sel=selector),
        )
        found = rows >= 0
        return rows[found], values[found]


def probes_for(probes: int, nearest: float) -> float:
    """Lists to walk for so many results: ten times as many lie in about three times as many lists (measured).

    probes: lists to walk for `MEASURED_K`.
    """
    return probes * math.sqrt(max(1.0, nearest / MEASURED_K))


def is_brief(index: Any, probes: float) -> bool:
    """Whether walking so many lists of an index of Faiss takes about a millisecond."""
    return bool(index.ntotal * index.d * probes <= _BRIEF_VALUES * index.nlist)


def _spare(nearest: int) -> int:
    """How many codes to fetch beyond those wanted: codes misorder neighbours, more of them the denser they lie."""
    return nearest // 4 + 8
