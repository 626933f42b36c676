"""The second tier: user vectors in Redis, which the workers of all servers share.

A value is the bare vector, as the contract has it, so its age is read from how long its key has left to live. Nothing
here fails a request: what Redis does not give is computed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, OutOfMemoryError, ReadOnlyError
from redis.exceptions import TimeoutError as RedisTimeoutError

from twotower_server.cache.memory import Entry
from twotower_server.cache.policy import CacheKey

log = logging.getLogger(__name__)

# Reads that may fail one after another before Redis is left alone, and for how long at a time.
_FAILURES = 5
_PAUSE_S = 1.0
# Callers wait for much less; a connection that has just begun may take this long.
_COMMAND_S = 1.0
_READS_AT_ONCE = 8
_WRITES_AT_ONCE = 64
# What waits to be written. More is dropped, the oldest first.
_PENDING = 10_000

_FAULTS = {
    AuthenticationError: "refuses the login",
    NoPermissionError: "denies this user the command",
    OutOfMemoryError: "is out of memory",
    ReadOnlyError: "is a replica, which takes no writes",
    RedisTimeoutError: "does not answer in time",
    TimeoutError: "does not answer in time",
}


class RedisTier:
    """One a worker; its methods are called on the event loop."""

    def __init__(self, url: str, authority: Path | None, prefix: str, ttl_s: float, budget_ms: int) -> None:
        """url: of a standalone server, or of any node of a Cluster. prefix: of all keys.

        authority: PEM of who has signed its certificate; None = one that the system trusts. budget_ms: callers wait for
        an answer for so long.
        """
        self.budget_s = budget_ms / 1e3
        self._url = url
        self._authority = authority
        self._prefix = prefix
        self._ttl_ms = int(ttl_s * 1e3)
        self._client: Any = None
        self._fault = "is not connected"
        self._failures = 0
        self._reading = asyncio.Semaphore(_READS_AT_ONCE)
        self._pending: dict[CacheKey, Entry] = {}
        self._has_pending = asyncio.Event()
        self._write_fault = ""
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """Connects; where that fails, goes on trying until it works or the tier is closed."""
        self._tasks["write"] = asyncio.create_task(self._write_behind())
        if error := await self._try_again():
            self._leave(error)

    async def close(self) -> None:
        """What has not been written by then is not written any more."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        if self._client is not None:
            with suppress(Exception):
                await self._client.aclose()

    @property
    def is_readable(self) -> bool:
        """False while Redis is left alone because it failed."""
        return not self._fault

    @property
    def degraded(self) -> str:
        """What does not work; "" = everything does."""
        if self._fault:
            return f"user cache: Redis {self._fault}; each worker has only what it computed itself"
        if self._write_fault:
            return f"user cache: Redis {self._write_fault}; vectors computed now are not written to it"
        return ""

    async def get(self, keys: Sequence[CacheKey]) -> dict[CacheKey, Entry]:
        """What Redis has of them."""
        async with self._reading:
            if self._fault:  # it failed while this waited
                return {}
            start = time.monotonic()
            try:
                found = await self._read(keys)
            except Exception as error:  # whatever it is: requests are served, and this goes on
                self._failed(error)
                return {}
            if time.monotonic() - start < self.budget_s:
                self._failures = 0
            return found

    def late(self) -> None:
        """Somebody has waited for the whole budget in vain."""
        self._failed(TimeoutError())

    def put(self, key: CacheKey, entry: Entry) -> None:
        """Writes a vector, but not now."""
        self._pending.pop(key, None)  # the youngest is last
        self._pending[key] = entry
        if len(self._pending) > _PENDING:
            del self._pending[next(iter(self._pending))]
        self._has_pending.set()

    # ---- Redis itself

    async def _read(self, keys: Sequence[CacheKey]) -> dict[CacheKey, Entry]:
        pipeline = self._client.pipeline(transaction=False)
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

    async def _write(self, entries: Mapping[CacheKey, Entry]) -> None:
        pipeline = self._client.pipeline(transaction=False)
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
                if self._client is None:
                    raise ConnectionError
                await self._write(entries)
            except Exception as error:  # whatever it is: requests are served, and this goes on
                if not self._write_fault:
                    log.warning("user cache: Redis %s; vectors are not written to it: %s", _fault(error), error)
                self._write_fault = _fault(error)
                # Last in the queue now: they may be those of a Cluster's one lost node, and others are of the rest.
                self._pending |= self._done(entries)
                await self._look_anew()
                await asyncio.sleep(_PAUSE_S)
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

    # ---- leaving it alone

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        if self._failures >= _FAILURES and not self._fault:
            self._leave(error)

    def _leave(self, error: Exception) -> None:
        self._fault = _fault(error)
        log.warning("user cache: Redis %s; it is left alone until it answers: %s", self._fault, error)
        self._tasks["recover"] = asyncio.create_task(self._recover())

    async def _recover(self) -> None:
        while self._fault:
            await asyncio.sleep(_PAUSE_S)
            await self._try_again()
        log.info("user cache: Redis answers again")

    async def _try_again(self) -> Exception | None:
        """Uses Redis again if it answers in time; else returns why it does not."""
        probe = (CacheKey("", "", ""),)  # no release is called that
        try:
            if self._client is None:
                self._client = await _connect(self._url, self._authority)
            await self._read(probe)  # may need a new connection, which may take longer
            start = time.monotonic()
            await self._read(probe)
            if time.monotonic() - start > self.budget_s:
                raise TimeoutError
        except Exception as error:  # whatever it is: requests are served, and this goes on
            self._fault = _fault(error)
            await self._look_anew()
            return error
        self._failures = 0
        self._fault = ""
        return None

    async def _look_anew(self) -> None:
        """Lets the next command find out who the primaries of a Cluster are; without retries redis-py never does."""
        if isinstance(self._client, RedisCluster):
            with suppress(Exception):
                await self._client.aclose()


async def _connect(url: str, authority: Path | None) -> Any:
    """A client for what is at the URL: a standalone server or a Cluster."""
    options: dict[str, Any] = {
        "socket_timeout": _COMMAND_S,
        "socket_connect_timeout": _COMMAND_S,
        "retry": Retry(NoBackoff(), 0),  # computing is quicker
        "protocol": 2,
    }
    if authority is not None:
        options["ssl_ca_certs"] = str(authority)
    client: Any = Redis.from_url(url, **options)
    try:
        about = await client.execute_command("HELLO")
    except BaseException:
        await client.aclose()
        raise
    if b"cluster" not in about:
        return client
    await client.aclose()
    cluster = RedisCluster.from_url(url, **options)
    await cluster.initialize()
    return cluster


def redis_key(prefix: str, key: CacheKey) -> str:
    """The key of a user's vector (CONTRACT: Redis keys)."""
    return f"{prefix}user_emb:{key.release}:{key.feature_version}:{key.user_id}"


def _fault(error: Exception) -> str:
    return next((text for kind, text in _FAULTS.items() if isinstance(error, kind)), "cannot be reached")
