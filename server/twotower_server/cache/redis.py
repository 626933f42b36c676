"""The second tier: user vectors in Redis, which the workers of all servers share.

A value is the bare vector, as the contract has it, so its age is read from how long its key has left to live. Nothing
here fails a request: what Redis does not give is computed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

from twotower_server.cache.memory import Entry
from twotower_server.cache.policy import CacheKey
from twotower_server.redis_link import PAUSE_S, RedisLink, fault_of

log = logging.getLogger(__name__)

_READS_AT_ONCE = 8
_WRITES_AT_ONCE = 64
# What waits to be written. More is dropped, the oldest first.
_PENDING = 10_000


class RedisTier:
    """One a worker; its methods are called on the event loop."""

    def __init__(self, url: str, authority: Path | None, prefix: str, ttl_s: float, budget_ms: int) -> None:
        """url: of a standalone server, or of any node of a Cluster. prefix: of all keys.

        authority: PEM of who has signed its certificate; None = one that the system trusts. budget_ms: callers wait for
        an answer for so long.
        """
        self._link = RedisLink("user cache", url, authority, budget_ms, self._probe)
        self.budget_s = self._link.budget_s
        self._prefix = prefix
        self._ttl_ms = int(ttl_s * 1e3)
        self._reading = asyncio.Semaphore(_READS_AT_ONCE)
        self._pending: dict[CacheKey, Entry] = {}
        self._has_pending = asyncio.Event()
        self._write_fault = ""
        self._writing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connects; where that fails, goes on trying until it works or the tier is closed."""
        self._writing = asyncio.create_task(self._write_behind())
        await self._link.start()

    async def close(self) -> None:
        """What has not been written by then is not written any more."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)
        await self._link.close()

    @property
    def is_readable(self) -> bool:
        """False while Redis is left alone because it failed."""
        return not self._link.fault

    @property
    def degraded(self) -> str:
        """What does not work; "" = everything does."""
        if self._link.fault:
            return f"user cache: Redis {self._link.fault}; each worker has only what it computed itself"
        if self._write_fault:
            return f"user cache: Redis {self._write_fault}; vectors computed now are not written to it"
        return ""

    async def get(self, keys: Sequence[CacheKey]) -> dict[CacheKey, Entry]:
        """What Redis has of them."""
        async with self._reading:
            if self._link.fault:  # it failed while this waited
                return {}
            start = time.monotonic()
            try:
                found = await self._read(keys)
            except Exception as error:  # whatever it is: requests are served, and this goes on
                self._link.failed(error)
                return {}
            if time.monotonic() - start < self.budget_s:
                self._link.succeeded()
            return found

    def late(self) -> None:
        """Somebody has waited for the whole budget in vain."""
        self._link.late()

    def put(self, key: CacheKey, entry: Entry) -> None:
        """Writes a vector, but not now."""
        self._pending.pop(key, None)  # the youngest is last
        self._pending[key] = entry
        if len(self._pending) > _PENDING:
            del self._pending[next(iter(self._pending))]
        self._has_pending.set()

    # ---- Redis itself

    async def _read(self, keys: Sequence[CacheKey]) -> dict[CacheKey, Entry]:
        pipeline = self._link.client.pipeline(transaction=False)
        for key in keys:
            name = redis_key(self._prefix, key)
            # In this order: if the key is written in between, its vector is younger than it seems, never older.
            pipeline.pttl(name)
            pipeline.get(name)
        answers = await pipeline.execute()
        now = time.monotonic()
        found = {}
        for key, left_ms, values in zip(keys, answers[::2], answers[1::2], strict=True):
            # A key that lives for ever, or longer than our vectors may, was not written under this policy.
            if values is not None and 0 < left_ms <= self._ttl_ms:
                found[key] = Entry(values, now - (self._ttl_ms - left_ms) / 1e3)
        return found

    async def _probe(self) -> None:
        await self._read((CacheKey("", "", ""),))  # no release is called that

    async def _write(self, entries: Mapping[CacheKey, Entry]) -> None:
        pipeline = self._link.client.pipeline(transaction=False)
        now = time.monotonic()
        for key, entry in entries.items():
            left_ms = self._ttl_ms - int((now - entry.computed_at) * 1e3)
            if left_ms > 0:
                pipeline.set(redis_key(self._prefix, key), entry.values, px=left_ms)
        await pipeline.execute()

    async def _write_behind(self) -> None:
        """Writes what is pending, for ever."""
        while True:
            await self._has_pending.wait()
            entries = dict(islice(self._pending.items(), _WRITES_AT_ONCE))
            try:
                if self._link.client is None:
                    raise ConnectionError
                await self._write(entries)
            except Exception as error:  # whatever it is: requests are served, and this goes on
                if not self._write_fault:
                    log.warning("user cache: Redis %s; vectors are not written to it: %s", fault_of(error), error)
                self._write_fault = fault_of(error)
                # Last in the queue now: they may be those of a Cluster's one lost node, and others are of the rest.
                self._pending |= self._done(entries)
                await self._link.look_anew()
                await asyncio.sleep(PAUSE_S)
                continue
            if self._write_fault:
                log.info("user cache: Redis takes vectors again")
                self._write_fault = ""
            self._done(entries)
            if not self._pending:
                self._has_pending.clear()

    def _done(self, entries: Mapping[CacheKey, Entry]) -> dict[CacheKey, Entry]:
        """Takes entries out of the queue, and returns them; not those that were replaced meanwhile."""
        waiting = {key: entry for key, entry in entries.items() if self._pending.get(key) is entry}
        for key in waiting:
            del self._pending[key]
        return waiting


def redis_key(prefix: str, key: CacheKey) -> str:
    """The key of a user's vector (CONTRACT: Redis keys)."""
    return f"{prefix}user_emb:{key.release}:{key.feature_version}:{key.user_id}"
