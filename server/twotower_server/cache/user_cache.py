"""The cache of user vectors as the engine sees it: two tiers, and one look at the second for all who ask for a key."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from twotower_server.cache.memory import Entry, MemoryTier
from twotower_server.cache.policy import CachedUser, CacheKey, CachePolicy, RealTimeFeatures
from twotower_server.features.schema import TowerSchema

if TYPE_CHECKING:  # redis-py takes 9 MB of each worker
    from twotower_server.cache.redis import RedisTier

# Keys of one look at Redis: they take about 2.5 ms.
_KEYS = 64

# What a vector from Redis is checked with, float32 [dimension]; returns it as the release keeps vectors, or None.
Accept = Callable[[NDArray[np.float32]], NDArray[np.float32] | None]


class Hit(NamedTuple):
    """values: float32 [dimension], read-only. age_ms: since they were computed."""

    values: NDArray[np.float32]
    age_ms: int


class UserCache:
    """One a worker; its methods are called on the event loop."""

    def __init__(self, policy: CachePolicy, memory: MemoryTier, redis: RedisTier | None = None) -> None:
        """redis: the second tier; None = there is none. It takes the clock of `memory` to be the monotonic one."""
        self._policy = policy
        self._memory = memory
        self._redis = redis
        self._real_time: dict[str, RealTimeFeatures] = {}
        self._looks: dict[CacheKey, asyncio.Task[None]] = {}

    async def start(self) -> None:
        if self._redis is not None:
            await self._redis.start()

    async def close(self) -> None:
        if self._redis is not None:
            await self._redis.close()

    @property
    def degraded(self) -> str:
        """What does not work; "" = everything does."""
        return "" if self._redis is None else self._redis.degraded

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

    async def fetch(self, keys: Iterable[CacheKey], accept: Accept) -> None:
        """Brings into memory what Redis has of the keys, unless that takes too long.

        When several calls want a key, one look is enough: whoever then computes it first puts it into memory, and the
        others find it there.
        """
        redis = self._redis
        if redis is None:
            return
        wanted = [key for key in dict.fromkeys(keys) if self._memory.get(key) is None]
        for start in range(0, len(wanted), _KEYS):
            if not redis.is_readable:
                return
            some = wanted[start : start + _KEYS]
            own = [key for key in some if key not in self._looks]
            if own:
                self._looks.update(dict.fromkeys(own, asyncio.create_task(self._look(redis, own, accept))))
            # A look goes on when a caller leaves: others may wait for it, and its answer serves the next call.
            _, late = await asyncio.wait({self._looks[key] for key in some}, timeout=redis.budget_s)
            if late:
                redis.late()
                return

    async def _look(self, redis: RedisTier, keys: Sequence[CacheKey], accept: Accept) -> None:
        try:
            for key, entry in (await redis.get(keys)).items():
                values = accept(np.frombuffer(entry.values, "<f4")) if len(entry.values) % 4 == 0 else None
                if values is not None:
                    self._memory.put(key, Entry(_bytes(values), entry.computed_at))
        finally:
            for key in keys:
                del self._looks[key]

    def put(self, key: CacheKey, values: NDArray[np.float32]) -> None:
        """Keeps a vector that was computed now, float32 [dimension]."""
        entry = Entry(_bytes(values), self._memory.clock())
        self._memory.put(key, entry)
        if self._redis is not None:
            self._redis.put(key, entry)

    def forget(self, release: str) -> None:
        """Drops what is kept of a release that is closed. Its keys in Redis expire."""
        self._real_time.pop(release, None)
        self._memory.forget(release)


def _bytes(values: NDArray[np.float32]) -> bytes:
    return values.astype("<f4", copy=False).tobytes()
