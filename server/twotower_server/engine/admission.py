"""Which calls a worker takes on when there are more than it can serve. Knows no transport; all of them ask here.

Before any work is done for a call, these are looked at:

- **its deadline**: a call that is too late is dropped;
- **the queue**: calls wait where this process does not see them, in the transport, which counts them twenty times a
  second (`look`). When they wait for longer than `queue_s`, calls are shed: first those of callers who have used more
  than others of late, else every other call, so that some are served always;
- **large calls**, those of several chunks: at most so many are begun, and none that others would keep from ending
  before its deadline. When there is no place left, a caller with few of them takes one of the caller with most.

What is shed is OVERLOADED, and says after how long to try again: longer, the longer the overload lasts.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from contextvars import Token
from itertools import count
from types import TracebackType

from twotower_server.engine import turn
from twotower_server.engine.turn import Turns
from twotower_server.errors import Overloaded, Reason, Refused

# A chunk takes about as long as so many small calls.
_CHUNK_CALLS = 8
# What a caller has used counts less with every look: to an eighth within a second.
_KEPT_SHARE = 0.9
_FORGOTTEN = 0.5
# Who has used so much more than others on average is shed first.
_GREEDY = 1.1
# Fewer calls in a queue are no overload, however slow they are.
_SHORT = 32
# Callers are asked to wait for longer with every look at an overload, up to 7 times so long within a second.
_LONGER, _SHORTER = 1.1, 0.95
_MAX_RETRY_S = 10.0


class Admitted:
    """A call that a worker has taken on: the context in which its work is done."""

    __slots__ = ("_admission", "_token", "age", "asked", "deadline", "identity", "is_large", "left")

    def __init__(self, admission: Admission, identity: str, deadline: float | None) -> None:
        self._admission = admission
        self._token: Token[turn.LargeCall | None] | None = None
        self.identity = identity
        self.deadline = deadline
        self.is_large = False
        self.age = 0  # of a large call: the smaller, the older
        self.left = 0  # chunks that a large call still has
        self.asked: asyncio.Future[None] | None = None  # for a turn

    def __enter__(self) -> Admitted:
        self._token = turn.current.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._token is not None, "it was entered"
        turn.current.reset(self._token)
        self._admission.end(self)

    def expect(self, chunks: int) -> None:
        """Says how many more chunks it will have. Raises OVERLOADED when they cannot be worked on in time."""
        self._admission.expect(self, chunks)

    async def turn(self) -> None:
        """Waits until its next chunk may be worked on. Raises OVERLOADED when another call has taken its place."""
        await self._admission.turn(self)


class Admission:
    """One a worker; its methods are called on the event loop."""

    def __init__(
        self, queue_s: float = 0.2, large_calls: int = 32, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """queue_s: how long calls may wait, in seconds. large_calls: that may be begun at a time."""
        self._queue_s = queue_s
        self._large_calls = large_calls
        self._clock = clock
        self._turns = Turns(clock)
        self._age = count(1)
        self._large: dict[str, list[Admitted]] = {}  # by identity, the oldest first
        self._left = 0  # chunks of all large calls
        self._queued = 0  # calls in the transport's queue, when it was looked at
        self._used: dict[str, float] = {}  # by identity, in small calls
        self._usual = 0.0  # what an identity uses on average
        self._excess = 0  # calls to shed until the next look
        self._spared = False  # whether the last call that might have been shed was served
        self._retry_s = queue_s
        self.in_flight = 0

    @property
    def waiting(self) -> int:
        """Calls that wait: in the transport's queue, and large ones for their turn."""
        return self._queued + self._turns.waiting

    def admit(self, identity: str, remaining_s: float | None = None) -> Admitted:
        """A call to be entered, and left when it is answered. Costs about a microsecond while nothing is shed.

        remaining_s: to the call's deadline, in seconds; None = it has none. Raises DEADLINE or OVERLOADED.
        """
        deadline = None
        if remaining_s is not None:
            if remaining_s <= 0.0:
                raise Refused(Reason.DEADLINE, "the deadline passed before the server came to this call")
            deadline = self._clock() + remaining_s
        if self._excess > 0 and self._is_shed(identity):
            self._excess -= 1
            raise self._overloaded(self._retry_s)
        self._used[identity] = self._used.get(identity, 0.0) + 1.0
        self.in_flight += 1
        return Admitted(self, identity, deadline)

    def look(self, queued: int, taken: int, elapsed_s: float) -> None:
        """What the transport sees of its queue.

        queued: calls that wait in it. taken: those that were taken out since the last look, `elapsed_s` seconds ago.
        """
        self._queued = queued
        allowed = max(taken / elapsed_s * self._queue_s, _SHORT)
        # No more than will be taken until the next look.
        self._excess = min(max(round(queued - allowed), 0), taken)
        longer = self._retry_s * (_LONGER if self._excess else _SHORTER)
        self._retry_s = min(max(longer, self._queue_s), _MAX_RETRY_S)
        self._usual = sum(self._used.values()) / max(len(self._used), 1)
        used = {identity: _KEPT_SHARE * calls for identity, calls in self._used.items()}
        self._used = {identity: calls for identity, calls in used.items() if calls > _FORGOTTEN}

    def end(self, call: Admitted) -> None:
        """A call that was admitted has its answer, or needs none any more."""
        self.in_flight -= 1
        if call.is_large:
            self._left -= call.left
            own = self._large[call.identity]
            own.remove(call)
            if not own:
                del self._large[call.identity]

    # ---- large calls

    def expect(self, call: Admitted, chunks: int) -> None:
        if not call.is_large:
            self._check_time(call, chunks)
            self._check_place(call)
            call.is_large = True
            call.age = next(self._age)
            self._large.setdefault(call.identity, []).append(call)
        call.left += chunks
        self._left += chunks

    async def turn(self, call: Admitted) -> None:
        call.asked = self._turns.ask(call.identity, call.age)
        await self._turns.wait(call.asked)
        if call.left:
            call.left -= 1
            self._left -= 1
        self._used[call.identity] = self._used.get(call.identity, 0.0) + _CHUNK_CALLS

    def _check_time(self, call: Admitted, chunks: int) -> None:
        """Turns go round among callers: nobody waits for more chunks of another than there are of their own."""
        own = chunks + sum(other.left for other in self._large.get(call.identity, ()))
        callers = len(self._large.keys() | {call.identity})
        wait_s = self._turns.chunk_s * (min(own * callers, self._left + chunks) - chunks)
        needed_s = self._turns.chunk_s * chunks
        if call.deadline is not None and wait_s > 0.0 and self._clock() + wait_s + needed_s > call.deadline:
            raise self._overloaded(wait_s)

    def _check_place(self, call: Admitted) -> None:
        if sum(map(len, self._large.values())) < self._large_calls:
            return
        most = max(self._large.values(), key=len)
        if len(most) > len(self._large.get(call.identity, ())) + 1:
            for other in reversed(most):  # the newest has had the least work
                if other.asked is not None and not other.asked.done():
                    other.asked.set_exception(self._overloaded(self._turns.chunk_s * self._left))
                    return
        raise self._overloaded(self._turns.chunk_s * self._left)

    # ---- shedding

    def _is_shed(self, identity: str) -> bool:
        # Among equals nobody is greedy, and a lone caller has nobody to be compared with.
        if len(self._used) > 1 and self._used.get(identity, 0.0) > _GREEDY * self._usual:
            return True
        self._spared = not self._spared
        return not self._spared

    def _overloaded(self, after_s: float) -> Overloaded:
        return Overloaded(min(max(after_s, self._queue_s), _MAX_RETRY_S) * random.uniform(0.5, 1.5))
