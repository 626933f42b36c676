"""The first tier: user vectors in one worker's memory, the least recently used of them dropped first."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from twotower_server.cache.policy import CacheKey

# What an entry takes beside its texts and values: dictionary, tuples, headers of the objects (measured).
ENTRY_BYTES = 400


class Entry(NamedTuple):
    """A cached vector: float32, little-endian, as bytes; and when it was computed, by the cache's clock."""

    values: bytes
    computed_at: float


class MemoryTier:
    """Bounded by bytes. Not for several threads."""

    def __init__(self, size_bytes: int, ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._ttl_s = ttl_s
        self._free_bytes = size_bytes
        self._entries: OrderedDict[CacheKey, Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: CacheKey) -> Entry | None:
        """The vector of a key, unless it is too old."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if self.clock() - entry.computed_at >= self._ttl_s:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return entry

    def put(self, key: CacheKey, entry: Entry) -> None:
        """Keeps a vector, unless a younger one is there."""
        old = self._entries.get(key)
        if old is not None:
            if old.computed_at > entry.computed_at:
                return
            self._drop(key)
        self._entries[key] = entry
        self._free_bytes -= _size_bytes(key, entry)
        while self._free_bytes < 0:
            self._drop(next(iter(self._entries)))

    def forget(self, release: str) -> None:
        """Drops every vector of a release."""
        for key in [key for key in self._entries if key.release == release]:
            self._drop(key)

    def _drop(self, key: CacheKey) -> None:
        self._free_bytes += _size_bytes(key, self._entries.pop(key))


def _size_bytes(key: CacheKey, entry: Entry) -> int:
    # Of a text that is not ASCII each character may take four bytes.
    texts = len(key.user_id) * (1 if key.user_id.isascii() else 4) + len(key.feature_version)
    return ENTRY_BYTES + texts + len(entry.values)
