"""The cache of user vectors as the engine sees it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twotower_server.cache.memory import Entry, MemoryTier
from twotower_server.cache.policy import CachedUser, CacheKey, CachePolicy, RealTimeFeatures
from twotower_server.features.schema import TowerSchema


class Hit(NamedTuple):
    """values: float32 [dimension], read-only. age_ms: since they were computed."""

    values: NDArray[np.float32]
    age_ms: int


class UserCache:
    """One a worker; its methods are called on the event loop."""

    def __init__(self, policy: CachePolicy, memory: MemoryTier) -> None:
        self._policy = policy
        self._memory = memory
        self._real_time: dict[str, RealTimeFeatures] = {}

    def key(self, release: str, schema: TowerSchema, user: CachedUser) -> CacheKey | None:
        """The key of a user; None = not cached. schema: of the release's users."""
        real_time = self._real_time.get(release)
        if real_time is None:
            real_time = self._real_time[release] = RealTimeFeatures(self._policy.real_time, schema)
        return self._policy.key(release, real_time, user)

    def get(self, key: CacheKey) -> Hit | None:
        """What this worker's memory has."""
        entry = self._memory.get(key)
        if entry is None:
            return None
        age_ms = int((self._memory.clock() - entry.computed_at) * 1e3)
        return Hit(np.frombuffer(entry.values, "<f4"), age_ms)

    def put(self, key: CacheKey, values: NDArray[np.float32]) -> None:
        """Keeps a vector that was computed now, float32 [dimension]."""
        self._memory.put(key, Entry(values.astype("<f4", copy=False).tobytes(), self._memory.clock()))

    def forget(self, release: str) -> None:
        """Drops what is kept of a release that is closed."""
        self._real_time.pop(release, None)
        self._memory.forget(release)
