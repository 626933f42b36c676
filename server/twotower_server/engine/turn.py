"""Turns of large calls: a chunk of one of them is worked on, then all that is ready has its part, then the next.

So a small call waits for a few chunks, of about a millisecond each, however many large calls a worker has. Turns go
round among callers: one with many large calls has no more of them than one with a single call. Of the calls of one
caller the oldest comes first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from heapq import heappop, heappush
from itertools import count
from typing import Protocol

from twotower_server.observe import stage
from twotower_server.observe.stage import Stage

# The time of a chunk before one was measured, and how much a new measurement counts.
_CHUNK_S = 0.001
_NEW_SHARE = 0.1


class LargeCall(Protocol):
    """A call that is worked on in chunks."""

    def expect(self, chunks: int) -> None:
        """Says how many more chunks the call will have. Raises OVERLOADED when they cannot be worked on in time."""

    async def turn(self) -> None:
        """Waits until the next chunk may be worked on. Raises OVERLOADED when another call takes the place."""


current: ContextVar[LargeCall | None] = ContextVar("call", default=None)


class Pace:
    """Paces work that comes in pieces of different sizes."""

    def __init__(self, work: float, a_turn: float) -> None:
        """work: all of it. a_turn: what may be done in one turn, in the same unit."""
        self._a_turn = a_turn
        self._done = 0.0
        call = current.get()
        if work > a_turn and call is not None:
            call.expect(int(work / a_turn))

    async def spend(self, work: float) -> None:
        """Before a piece of work: waits for another turn when enough was done in this one."""
        if self._done >= self._a_turn:
            self._done = 0.0
            await next_turn()
        self._done += work


async def next_turn() -> None:
    """Waits for another turn of the call that is being served: between two pieces of work of about a millisecond."""
    call = current.get()
    if call is None:
        await asyncio.sleep(0)
    else:
        await call.turn()


async def in_turns(entries: int, chunk: int) -> AsyncIterator[range]:
    """The places of so many entries, in chunks; each comes when it is its turn. What fits one chunk comes at once."""
    if entries <= chunk:
        if entries:
            yield range(entries)
        return
    call = current.get()
    if call is not None:
        call.expect(-(-entries // chunk))
    for start in range(0, entries, chunk):
        await next_turn()
        yield range(start, min(start + chunk, entries))


class Turns:
    """Who is next. One a worker, for its event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._number = count()
        # By identity, in the order of their turns: the waiting, by the age of their calls.
        self._waiting: dict[str, list[tuple[int, int, asyncio.Future[None]]]] = {}
        self._is_granting = False
        self._granted = 0.0
        self.waiting = 0
        self.chunk_s = _CHUNK_S  # how long a turn takes, other calls included

    def ask(self, identity: str, age: int) -> asyncio.Future[None]:
        """A future that ends when it is the caller's turn. age: the smaller, the older is the call."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        heappush(self._waiting.setdefault(identity, []), (age, next(self._number), future))
        if not self._is_granting:
            self._is_granting = True
            self._granted = 0.0
            loop.call_soon(self._grant)
        return future

    async def wait(self, future: asyncio.Future[None]) -> None:
        """Waits for what `ask` returned."""
        start_ns = stage.now()
        self.waiting += 1
        try:
            await future
        finally:
            self.waiting -= 1
        stage.record(Stage.QUEUE, start_ns)

    def _grant(self) -> None:
        """One turn; the next comes after the chunk, and after all other calls that are ready by then."""
        while self._waiting:
            identity = next(iter(self._waiting))
            own = self._waiting.pop(identity)
            *_, future = heappop(own)
            if own:
                self._waiting[identity] = own  # behind the others
            if not future.done():  # else its call has ended
                future.set_result(None)
                self._measure()
                asyncio.get_running_loop().call_soon(self._grant)
                return
        self._is_granting = False

    def _measure(self) -> None:
        now = self._clock()
        if self._granted:
            self.chunk_s += _NEW_SHARE * (now - self._granted - self.chunk_s)
        self._granted = now
