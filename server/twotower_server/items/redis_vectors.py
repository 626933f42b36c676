"""Item vectors read from Redis call by call, on the event loop, for machines that cannot hold them."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from redis.asyncio import RedisCluster
from redis.exceptions import TimeoutError as RedisTimeoutError

from twotower_server.errors import Reason, Refused
from twotower_server.items.redis import RedisKeys
from twotower_server.items.redis_bulk import BulkReader
from twotower_server.redis_link import RedisLink

log = logging.getLogger(__name__)

# How often the budget of a call may begin anew.
_BUDGETS = 10
# Callers wait for much less; a connection that has just begun may take this long.
_ANSWER_S = 1.0


class RedisVectors:
    """One a worker. A read that takes longer than the budget fails, and all fail at once while Redis is left alone."""

    def __init__(self, url: str, authority: Path | None, prefix: str, budget_ms: int) -> None:
        """As RedisLink. prefix: of all keys. budget_ms: a call waits for its vectors for so long."""
        self._link = RedisLink("item store", url, authority, budget_ms, self._probe)
        self._keys = RedisKeys(prefix)
        self._bulk: BulkReader | None = None
        self._late_at = -math.inf  # seconds of the monotonic clock

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
        if not await self._in_time(read):
            self._late()
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

    async def _in_time(self, read: asyncio.Task[list[bytes | None] | None]) -> bool:
        """Waits for a read as long as the budget allows. It goes on when nobody waits for it any more.

        When this worker has many calls, it is late itself, and answers come in the whole time, those to calls before
        this one. Redis is not to blame then, and the budget begins anew, up to a limit.
        """
        loop, budget_s = asyncio.get_running_loop(), self._link.budget_s
        for _ in range(_BUDGETS):
            start = loop.time()
            done, _ = await asyncio.wait({read}, timeout=budget_s)
            if done:
                return True
            is_late = loop.time() - start > 1.5 * budget_s
            # What has come in meanwhile is looked at in the loop's next turn.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            if not is_late and (self._bulk is None or not self._bulk.is_flowing(budget_s)):
                break
        return read.done()

    def _late(self) -> None:
        """Tells the link of a pause of Redis, once for all calls that it has met."""
        now = time.monotonic()
        if now - self._late_at > self._link.budget_s:
            self._late_at = now
            self._link.late()

    async def _read(self, keys: Sequence[str]) -> list[bytes | None] | None:
        """None = it has failed."""
        start = time.monotonic()
        try:
            values = await self._values(keys)
        except Exception as error:  # whatever it is: other calls are served, and this goes on
            self._link.failed(error)
            await self._link.look_anew()
            return None
        if time.monotonic() - start < _BUDGETS * self._link.budget_s:
            self._link.succeeded()
        return values

    async def _values(self, keys: Sequence[str]) -> list[bytes | None]:
        """Read quickly; what that does not understand, such as a slot that has moved, by redis-py, which does."""
        if self._bulk is None:
            self._bulk = BulkReader(self._link.client, _ANSWER_S)
        try:
            return await self._bulk.get(keys)
        except (TimeoutError, RedisTimeoutError):
            raise
        except Exception as error:
            if self._link.fault:
                raise
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
