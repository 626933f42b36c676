"""Where user vectors come from: the cache where its policy allows and it has one, else the tower."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from twotower_server.cache.policy import CacheKey
from twotower_server.cache.user_cache import UserCache
from twotower_server.engine import embed
from twotower_server.engine.limits import Limits
from twotower_server.engine.model import CacheMode, Source, UserRow, UserVector
from twotower_server.errors import Refused
from twotower_server.features.encode import FeatureUse
from twotower_server.release.snapshot import Snapshot
from twotower_server.release.vectors import is_comparable


@dataclass(slots=True)
class UserBatch:
    """Vectors of many users: float32 [n, dimension], rows of refused ones zero.

    refused, ages_ms (of those from the cache): by index. uses: of features, None where they were not looked at.
    """

    values: NDArray[np.float32]
    refused: dict[int, Refused]
    uses: list[FeatureUse | None]
    ages_ms: dict[int, int] = field(default_factory=dict)


class UserVectors:
    """Serves one worker. Features of a user whose vector is cached are not looked at."""

    def __init__(self, limits: Limits, cache: UserCache | None) -> None:
        self._limits = limits
        self._cache = cache

    async def one(self, snapshot: Snapshot, user: UserRow, mode: int) -> UserVector:
        """The vector of one user."""
        cache = self._cache
        key = None if cache is None else self._key(cache, snapshot, user, mode)
        if cache is None or key is None:
            return self._compute(snapshot, user)
        if mode != CacheMode.REFRESH:
            hit = cache.get(key)
            if hit is None:
                await cache.fetch((key,), partial(_accepted, snapshot))
                hit = cache.get(key)
            if hit is not None:
                return UserVector(hit.values, snapshot.release, Source.CACHE, age_ms=hit.age_ms)
        computed = self._compute(snapshot, user)
        cache.put(key, computed.values)
        return computed

    async def many(self, snapshot: Snapshot, users: Sequence[UserRow], modes: Sequence[int]) -> UserBatch:
        """The vectors of many users; a bad one is refused alone. modes: aligned with them."""
        if self._cache is None:
            values, refused, uses = await embed.embed_users(snapshot, users, self._limits)
            return UserBatch(values, refused, [*uses])
        values = np.zeros((len(users), snapshot.manifest.dimension), np.float32)
        batch = UserBatch(values, {}, [None] * len(users))
        for start in range(0, len(users), embed.CHUNK_ROWS):
            if start:
                await asyncio.sleep(0)
            places = range(start, min(start + embed.CHUNK_ROWS, len(users)))
            await self._chunk(self._cache, snapshot, users, modes, places, batch)
        return batch

    async def _chunk(
        self,
        cache: UserCache,
        snapshot: Snapshot,
        users: Sequence[UserRow],
        modes: Sequence[int],
        places: range,
        batch: UserBatch,
    ) -> None:
        """Fills in some rows of a batch."""
        keys = {i: key for i in places if (key := self._key(cache, snapshot, users[i], modes[i])) is not None}
        readable = {i: key for i, key in keys.items() if modes[i] != CacheMode.REFRESH}
        await cache.fetch(readable.values(), partial(_accepted, snapshot))
        left: Sequence[int] = places
        while left:
            computed: list[int] = []
            later: list[int] = []  # their vector is being computed for another entry
            begun: set[CacheKey] = set()
            for i in left:
                key = readable.get(i)
                if key is None:
                    computed.append(i)
                elif (hit := cache.get(key)) is not None:
                    batch.values[i], batch.ages_ms[i] = hit
                elif key in begun:
                    later.append(i)
                else:
                    begun.add(key)
                    computed.append(i)
            await self._compute_into(batch, snapshot, users, computed)
            for i in computed:
                if i in keys and i not in batch.refused:
                    cache.put(keys[i], batch.values[i])
            left = later

    async def _compute_into(
        self, batch: UserBatch, snapshot: Snapshot, users: Sequence[UserRow], places: Sequence[int]
    ) -> None:
        """Computes some rows of a batch. It takes one chunk, so nothing else happens in between."""
        if not places:
            return
        values, refused, uses = await embed.embed_users(snapshot, [users[i] for i in places], self._limits)
        batch.values[places] = values
        for at, i in enumerate(places):
            batch.uses[i] = uses[at]
            if at in refused:
                batch.refused[i] = refused[at]

    def _compute(self, snapshot: Snapshot, user: UserRow) -> UserVector:
        values, use = embed.embed_user(snapshot, user, self._limits)
        return UserVector(values, snapshot.release, use=use)

    def _key(self, cache: UserCache, snapshot: Snapshot, user: UserRow, mode: int) -> CacheKey | None:
        """None = computed, and not kept; also for a user who will be refused."""
        if mode == CacheMode.BYPASS or not embed.is_within(user, self._limits):
            return None
        return cache.key(snapshot.release, snapshot.schema.user, user)


def _accepted(snapshot: Snapshot, values: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """A vector from outside, float32 [n], as this release keeps vectors (CONTRACT rule 6); None = not one of its."""
    if values.size != snapshot.manifest.dimension or not is_comparable(values):
        return None
    normalised: NDArray[np.float32] = snapshot.normalised(values[None])[0]
    return normalised
