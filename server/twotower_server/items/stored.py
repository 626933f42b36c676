"""The vectors of one catalog in Redis: their keys, and the order in which they are written and read quickest."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from twotower_server.items.catalog import Catalog
from twotower_server.items.redis import RedisStore

# What one batch may hold, so that vectors of many dimensions stay within Redis's buffers.
_BATCH_BYTES = 4 << 20


class StoredItems:
    """Rows of the catalog as keys of Redis, which hold float32, little-endian. For one thread."""

    def __init__(self, store: RedisStore, catalog: Catalog, beginning: str, dimension: int) -> None:
        """beginning: of every key; the item's id follows."""
        self._store = store
        self._catalog = catalog
        self._beginning = beginning
        self._batch = max(1, min(store.batch, _BATCH_BYTES // (dimension * 4)))

    def order(self) -> NDArray[np.int64]:
        """All rows; for a Cluster by slot, so that a batch takes few commands."""
        rows = np.arange(len(self._catalog))
        if not self._store.is_cluster:
            return rows
        slots = [self._store.slots(self.keys(batch)) for batch in self.batches(rows)]
        return np.argsort(np.concatenate(slots), kind="stable")

    def batches(self, rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Rows in as many pieces as Redis takes at once."""
        for start in range(0, len(rows), self._batch):
            yield rows[start : start + self._batch]

    def keys(self, rows: NDArray[np.int64]) -> list[str]:
        beginning = self._beginning
        return [beginning + item_id for item_id in self._catalog.item_ids(rows)]

    def write(self, rows: NDArray[np.int64], values: list[bytes]) -> None:
        """Writes the vectors of a batch. Raises StoreUnavailable and StoreRefused, as `read`."""
        self._store.write(dict(zip(self.keys(rows), values, strict=True)))

    def read(self, rows: NDArray[np.int64]) -> list[bytes | None]:
        """What is there of a batch; None where nothing is."""
        return self._store.read(self.keys(rows))
