"""Servers that share a log of item changes in Redis, each with a caller that changes items."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.catalog.live import READY, reached, workers
from tests.reliability.conftest import stamp
from tests.reliability.serving import Own, connected, starting
from tests.reliability.writing import Catalog, Writer, agreed
from tests.supervisor.running import Server, until

# Of the vectors that the callers send.
RELEASE = "left"
DIMENSION = 8
WORKERS = 2


class Member:
    """One of the servers. What it keeps on its disk outlives it."""

    def __init__(self, releases: Path, data: Path, url: str, *options: str) -> None:
        """url: of their Redis."""
        self.writer = Writer(data.name, RELEASE, DIMENSION)
        self._servers: list[Server] = []
        self._releases = releases
        self._data = data
        self._options = ("--workers", str(WORKERS), "--change-log", "redis", "--redis", url, *options)
        self._running = ExitStack()
        self._killed = 0  # of its workers
        self._writing: asyncio.Task[None] | None = None
        stamp(releases, data)

    def start(self) -> None:
        """Starts it, and waits until it serves."""
        server = self._running.enter_context(starting(self._releases, self._data, *self._options))
        self._servers.append(server)
        self.own: Own = self._running.enter_context(connected(server))
        self._killed = 0

    def kill(self) -> None:
        """Kills the whole server, if it runs."""
        self._running.close()

    def log(self) -> str:
        """What it has logged from the beginning."""
        return "".join(server.log() for server in self._servers)

    @property
    def is_whole(self) -> bool:
        """Whether all its workers serve."""
        return self.own.server.log().count(READY) == WORKERS + self._killed

    def kill_worker(self, order: random.Random) -> None:
        self._killed += 1
        os.kill(order.choice(workers(self.own.server)), signal.SIGKILL)

    async def write(self) -> None:
        """Lets the writer change items until `rest`, or until it has met what it should not."""
        self._writing = asyncio.create_task(self.writer.run(self.own.target, kills=True))

    async def rest(self) -> None:
        """Stops the writer. Raises what it met."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)
            if not self._writing.cancelled():
                self._writing.result()
            self._writing = None


def same_catalog(members: Sequence[Member]) -> Catalog:
    """Waits until all workers of all servers live and have the same items; returns them.

    What was changed by their callers must be what it may be.
    """
    until(lambda: all(member.is_whole and not member.own.degraded() for member in members))
    with ExitStack() as opened:
        lives = [opened.enter_context(reached(member.own)) for member in members]
        servings = [connection.serving for live in lives for connection in live.connections]
        return agreed(servings, RELEASE, [member.writer for member in members])
