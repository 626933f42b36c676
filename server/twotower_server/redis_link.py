"""A Redis that calls wait for: asked on the event loop, within a budget, and left alone while it fails."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from redis._parsers import AsyncCommandsParser
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, OutOfMemoryError, ReadOnlyError
from redis.exceptions import TimeoutError as RedisTimeoutError

log = logging.getLogger(__name__)

# Reads that may fail one after another before Redis is left alone, and for how long at a time.
_FAILURES = 5
PAUSE_S = 1.0
# Callers wait for much less; a connection that has just begun may take this long.
_COMMAND_S = 1.0

_FAULTS = {
    AuthenticationError: "refuses the login",
    NoPermissionError: "denies this user the command",
    OutOfMemoryError: "is out of memory",
    ReadOnlyError: "is a replica, which takes no writes",
    RedisTimeoutError: "does not answer in time",
    TimeoutError: "does not answer in time",
}


class RedisLink:
    """Connects, and counts failures. One a worker and purpose; its methods are called on the event loop.

    Whoever reads says how it went: `succeeded`, `failed` or `late`.
    """

    def __init__(
        self, purpose: str, url: str, authority: Path | None, budget_ms: int, probe: Callable[[], Awaitable[object]]
    ) -> None:
        """purpose: what log lines begin with. url: of a standalone server, or of any node of a Cluster.

        authority: PEM of who has signed its certificate; None = one that the system trusts. budget_ms: callers wait for
        an answer for so long. probe: reads something by `client`, to see whether Redis answers.
        """
        self.budget_s = budget_ms / 1e3
        self.client: Any = None
        self.fault = "is not connected"
        self._purpose = purpose
        self._url = url
        self._authority = authority
        self._probe = probe
        self._failures = 0
        self._recovering: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connects; where that fails, goes on trying until it works or the link is closed."""
        if error := await self._try_again():
            self._leave(error)

    async def close(self) -> None:
        if self._recovering is not None:
            self._recovering.cancel()
            await asyncio.gather(self._recovering, return_exceptions=True)
        if self.client is not None:
            with suppress(Exception):
                await self.client.aclose()

    def succeeded(self) -> None:
        """An answer came within the budget."""
        self._failures = 0

    def failed(self, error: Exception) -> None:
        """A read has failed."""
        self._failures += 1
        if self._failures >= _FAILURES and not self.fault:
            self._leave(error)

    def late(self) -> None:
        """Somebody has waited for the whole budget in vain."""
        self.failed(TimeoutError())

    async def look_anew(self) -> None:
        """Lets the next command find out who the primaries of a Cluster are; without retries redis-py never does."""
        if isinstance(self.client, RedisCluster):
            with suppress(Exception):
                await self.client.aclose()

    def _leave(self, error: Exception) -> None:
        self.fault = fault_of(error)
        log.warning("%s: Redis %s; it is left alone until it answers: %s", self._purpose, self.fault, error)
        self._recovering = asyncio.create_task(self._recover())

    async def _recover(self) -> None:
        while self.fault:
            await asyncio.sleep(PAUSE_S)
            await self._try_again()
        log.info("%s: Redis answers again", self._purpose)

    async def _try_again(self) -> Exception | None:
        """Uses Redis again if it answers in time; else returns why it does not."""
        try:
            if self.client is None:
                self.client = await _connect(self._url, self._authority)
            await self._probe()  # may need a new connection, which may take longer
            start = time.monotonic()
            await self._probe()
            if time.monotonic() - start > self.budget_s:
                raise TimeoutError
        except Exception as error:  # whatever it is: requests are served, and this goes on
            self.fault = fault_of(error)
            await self.look_anew()
            return error
        self._failures = 0
        self.fault = ""
        return None


async def _connect(url: str, authority: Path | None) -> Any:
    """A client for what is at the URL: a standalone server or a Cluster."""
    options: dict[str, Any] = {
        "socket_timeout": _COMMAND_S,
        "socket_connect_timeout": _COMMAND_S,
        "retry": Retry(NoBackoff(), 0),  # whoever waits has not the time
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
    cluster.commands_parser = _Commands()
    await cluster.initialize()
    return cluster


class _Commands(AsyncCommandsParser):
    """The commands of a Cluster, asked for once.

    redis-py asks again whenever it looks for the primaries, several times in a failover, and reads the answer for 30 ms
    in which the event loop does nothing else.
    """

    async def initialize(self, node: Any = None) -> None:
        if not self.commands:
            await super().initialize(node)


def fault_of(error: Exception) -> str:
    """What is wrong with Redis, to follow its name in a sentence."""
    return next((text for kind, text in _FAULTS.items() if isinstance(error, kind)), "cannot be reached")
