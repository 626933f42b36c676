"""Item vectors read from Redis call by call, on the event loop, for machines that cannot hold them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from redis.asyncio import RedisCluster

from twotower_server.errors import Reason, Refused
from twotower_server.items.redis import RedisKeys
from twotower_server.items.redis_bulk import BulkReader
from twotower_server.redis_link import RedisLink

log = logging.getLogger(__name__)

_READS_AT_ONCE = 16
# Callers wait for much less; a connection that has just begun may take this long.
_ANSWER_S = 1.0


class RedisVectors:
    """One a worker. A read that takes longer than the budget fails, and all fail at once while Redis is left alone."""

    def __init__(self, url: str, authority: Path | None, prefix: str, budget_ms: int) -> None:
        """As RedisLink. prefix: of all keys. budget_ms: a call waits for its vectors for so long."""
        self._link = RedisLink("item store", url, authority, budget_ms, self._probe)
        self._keys = RedisKeys(prefix)
        self._reading = asyncio.Semaphore(_READS_AT_ONCE)
        self._bulk: BulkReader | None = None

    async def start(self) -> None:
        """Connects; where that fails, goes on trying until it works or the store is closed."""
        await self._link.start()

    async def close(self) -> None:
        if self._bulk is not None:
            await self._bulk.close()
        await self._link.close()

    @property
    def degraded(self) -> str:
        """What does not work; "" = everything does."""
        if not self._link.fault:
            return ""
        return f"item store: Redis {self._link.fault}; vectors of items cannot be read, and nothing can be scored"

    async def read(self, release: str, item_ids: Sequence[str], dimension: int) -> NDArray[np.float32]:
        """The vectors of items that the release has: float32 [n, dimension]. Raises STORE_UNAVAILABLE."""
        if self._link.fault:
            raise _unavailable(f"Redis {self._link.fault}")
        beginning = self._keys.items(release)
        read = asyncio.create_task(self._read([beginning + item_id for item_id in item_ids]))
        # A read goes on when nobody waits for it any more: breaking it off would cost its connection.
        done, _ = await asyncio.wait({read}, timeout=self._link.budget_s)
        if not done:
            self._link.late()
            raise _unavailable(f"Redis does not answer within {self._link.budget_s * 1e3:g} ms")
        values = read.result()
        if values is None:
            raise _unavailable(f"Redis {self._link.fault or 'has failed'}")
        sound = [value for value in values if value is not None and len(value) == dimension * 4]
        if len(sound) < len(values):
            lacks = f"lacks {len(values) - len(sound)} of {len(values)} vectors of release {release}"
            log.error("item store: Redis %s; write them again: twotower items push %s", lacks, release)
            raise _unavailable(f"it {lacks}; twotower items push writes them again")
        return np.frombuffer(b"".join(sound), "<f4").reshape(-1, dimension)

    async def _read(self, keys: Sequence[str]) -> list[bytes | None] | None:
        """None = it has failed."""
        async with self._reading:
            if self._link.fault:  # it failed while this waited
                return None
            start = time.monotonic()
            try:
                values = await self._values(keys)
            except Exception as error:  # whatever it is: other calls are served, and this goes on
                self._link.failed(error)
                await self._link.look_anew()
                return None
            if time.monotonic() - start < self._link.budget_s:
                self._link.succeeded()
            return values

    async def _values(self, keys: Sequence[str]) -> list[bytes | None]:
        """Read quickly; what that does not understand, such as a slot that has moved, by redis-py, which does."""
        if self._bulk is None:
            self._bulk = BulkReader(self._link.client, _ANSWER_S)
        try:
            return await self._bulk.get(keys)
        except TimeoutError:
            raise
        except Exception as error:
            log.debug("item store: asking again: %s", error)
        client = self._link.client
        if not isinstance(client, RedisCluster):
            values: list[bytes | None] = await client.mget(keys)
            return values
        await self._link.look_anew()
        pipeline = client.pipeline()
        for key in keys:
            pipeline.get(key)
        found: list[bytes | None] = await pipeline.execute()
        return found

    async def _probe(self) -> None:
        await self._values([self._keys.items("")])  # no release is called that


def _unavailable(why: str) -> Refused:
    return Refused(Reason.STORE_UNAVAILABLE, f"the store of item vectors cannot be used: {why}")
