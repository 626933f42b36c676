"""Recall: how many of the truly best items an index finds."""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

from twotower_server.index.base import Index
from twotower_server.index.similarity import similarities

MEASURED_K = 100
_CHUNK_ROWS = 65_536


@dataclass(frozen=True, slots=True)
class Truth:
    """What exact search finds for some queries, to measure an index against.

    queries: float32 [n, dimension]. k: 100, or all items of a smaller catalog.
    kth: float32 [n], the similarity of each query's k-th best item: what is as similar counts as found, so
    that ties do not matter.
    """

    queries: NDArray[np.float32]
    k: int
    kth: NDArray[np.float32]

    @classmethod
    def of(cls, vectors: NDArray[np.float32], queries: NDArray[np.float32], k: int = MEASURED_K) -> Truth:
        """Compares every query with every vector, float32 [items, dimension], read in chunks."""
        queries = np.ascontiguousarray(queries, np.float32)
        k = min(k, len(vectors))
        values = np.empty((len(queries), 0), np.float32)
        rows = np.empty((len(queries), 0), np.int64)
        for start in range(0, len(vectors), _CHUNK_ROWS):
            chunk = np.ascontiguousarray(vectors[start : start + _CHUNK_ROWS])
            found, places = faiss.knn(queries, chunk, min(k, len(chunk)), metric=faiss.METRIC_INNER_PRODUCT)
            values, rows = np.hstack([values, found]), np.hstack([rows, places + start])
            top = np.argsort(-values, axis=1)[:, :k]
            values, rows = np.take_along_axis(values, top, 1), np.take_along_axis(rows, top, 1)
        # Faiss sums in another order: the values to compare with are computed as `search` does.
        kth = [similarities(vectors, best, query).min() for best, query in zip(rows, queries, strict=True)]
        return cls(queries, k, np.array(kth, np.float32))

    def recalls(self, index: Index) -> NDArray[np.float64]:
        """The share of the k best that the index finds, per query: float64 [n]."""
        found = [index.search(query, self.k)[1] for query in self.queries]
        hits = [(values >= least).sum() for values, least in zip(found, self.kth, strict=True)]
        return np.array(hits, np.float64) / self.k
