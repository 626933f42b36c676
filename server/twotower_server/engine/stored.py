"""Releases whose vectors stay in Redis: those that a call needs are read, and compared here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from twotower_server.engine.model import Found, Selection, UserVector
from twotower_server.engine.search import excluded_rows, found
from twotower_server.index.codes import CodesIndex, fetched_for
from twotower_server.index.similarity import best, similarities
from twotower_server.release.snapshot import Snapshot

if TYPE_CHECKING:  # redis-py takes 9 MB of each worker
    from twotower_server.items.redis_vectors import RedisVectors


class StoredVectors:
    """Vectors of items, some of which changes have put into memory. Methods raise STORE_UNAVAILABLE."""

    def __init__(self, store: RedisVectors) -> None:
        self._store = store

    @property
    def degraded(self) -> str:
        """What does not work; "" = everything does."""
        return self._store.degraded

    async def vectors(self, snapshot: Snapshot, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors of rows: float32 [n, dimension], zeros where a row is -1."""
        values = np.zeros((len(rows), snapshot.manifest.dimension), np.float32)
        for segment, at, local in snapshot.items.parts(rows):
            if segment.is_stored:
                ids = segment.catalog.item_ids(local)
                values[at] = await self._store.read(snapshot.release, ids, snapshot.manifest.dimension)
            else:
                values[at] = segment.vectors.take(local, 0)
        return values

    async def search(
        self,
        snapshot: Snapshot,
        query: NDArray[np.float32],
        selection: Selection,
        exclude: str,
        user: UserVector | None,
        run: Callable[..., asyncio.Future[tuple[NDArray[np.int64], NDArray[np.float32]]]],
    ) -> Found:
        """As `engine.search.search`. run: calls a function in a thread."""
        items, index, k = snapshot.items, snapshot.index, selection.k
        assert isinstance(index, CodesIndex), "a release without vectors is opened with such an index"
        excluded = excluded_rows(items, selection, exclude)
        count = 0 if excluded is None else len(excluded)
        fetched = fetched_for(k, count, filtered=selection.filter is not None)
        if selection.filter is None and items.is_brief(fetched + count):
            rows, values = items.search(query, fetched, excluded, None)
        else:
            rows, values = await run(items.search, query, fetched, excluded, selection.filter)
        rows = rows[: index.contenders(query, k, values)]
        vectors = await self.vectors(snapshot, rows)
        places, similar = best(
            np.arange(len(rows)), similarities(vectors, None, query), k, lambda at: items.item_ids(rows[at])
        )
        return found(snapshot, rows[places], similar, vectors[places], selection, user)
