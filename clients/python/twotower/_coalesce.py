"""Concurrent calls of the asyncio client leave together: an RPC costs a server many times the work for one user.

There is no timer. A call that finds no batch in flight is sent at once, as itself; what comes meanwhile leaves
together when a batch returns, at most one batch for each connection. Each caller keeps its own deadline,
cancellation, retries and error. The Go client does the same.
"""

from __future__ import annotations

import asyncio
import contextvars
import copy
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from twotower import v1
from twotower._errors import DeadlineExceeded, ErrorReason, Overloaded, TwoTowerError, error_of, status_code
from twotower._retry import Deadline

# Of one batch; far from the limits of a message. Larger ones would gain little, and hold up the small calls in them.
_ENTRIES = 128
_BYTES = 1 << 20
_CANDIDATES = 8192
# A call of more than this share of a batch goes out alone.
_ALONE_SHARE = 4

# A batch that is refused so may be refused because of one of its entries, or of their number.
_MAY_BE_ANOTHERS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
)

Send = Callable[[str, Any, float | None], Awaitable[Any]]
"""Makes one attempt: method, request, seconds that it may take (None = no deadline)."""


@dataclass(frozen=True, slots=True)
class _Batching:
    """How requests become the request of one batch, and its answer the answer, or the error, of each."""

    method: str
    together: Callable[[Sequence[Any]], Any]
    apart: Callable[[Any, int], Iterable[Any]]


@dataclass(slots=True)
class _Entry:
    """A call that waits. answered: by its response, its error, or None = the batch was refused, send it alone."""

    request: Any
    deadline: Deadline
    bytes: int
    candidates: int
    answered: asyncio.Future[Any]
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    batch: _Batch | None = None

    def expire(self) -> None:
        if not self.answered.done():
            self.answered.set_result(DeadlineExceeded("Deadline Exceeded", code=grpc.StatusCode.DEADLINE_EXCEEDED))


@dataclass(slots=True)
class _Batch:
    """callers: who still wait for it; without any its RPC is cancelled."""

    task: asyncio.Task[Any]
    callers: int

    def leave(self) -> None:
        self.callers -= 1
        if self.callers == 0:
            self.task.cancel()  # nothing to a task that is done


class Coalescing:
    """Puts concurrent GetUserEmbedding and Score calls of one client together.

    in_flight: at most this many batches at a time, for one RPC (and, for users, release and cache mode).
    """

    def __init__(self, send: Send, in_flight: int) -> None:
        self._send = send
        self._in_flight = in_flight
        # Small: a server has few releases.
        self._queues: dict[tuple[Any, ...], _Queue] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def call(self, method: str, request: Any, deadline: Deadline) -> Any:
        """One attempt of a call, alone or together with others."""
        batching = _BATCHINGS.get(method)
        if batching is None:
            return await self._send(method, request, deadline.remaining_s())
        size, candidates = request.ByteSize(), 0
        if method == "Score":
            candidates = len(request.item_ids) + len(request.item_keys) + len(request.items)
        if size * _ALONE_SHARE > _BYTES or candidates * _ALONE_SHARE > _CANDIDATES:
            return await self._send(method, request, deadline.remaining_s())
        # A batch of users has one release and one cache mode; requests to score have their own.
        key = (method,) if method == "Score" else (method, request.release, request.cache_mode)
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = _Queue(method, batching, self._send, self._in_flight, self._tasks)
        answered = asyncio.get_running_loop().create_future()
        return await queue.call(_Entry(request, deadline, size, candidates, answered))

    async def close(self) -> None:
        """Waits for the tasks of calls that were in flight when the connections were closed."""
        while self._tasks:
            await asyncio.wait(self._tasks)


class _Queue:
    """Calls that may leave together."""

    def __init__(
        self, method: str, batching: _Batching, send: Send, in_flight: int, tasks: set[asyncio.Task[None]]
    ) -> None:
        self._method = method
        self._batching = batching
        self._send = send
        self._free = in_flight
        self._tasks = tasks
        self._waiting: deque[_Entry] = deque()

    async def call(self, entry: _Entry) -> Any:
        self._waiting.append(entry)
        self._depart()
        remaining_s = entry.deadline.remaining_s()
        timer = None
        if remaining_s is not None:
            timer = asyncio.get_running_loop().call_later(remaining_s, entry.expire)
        try:
            answer = await entry.answered
        finally:
            if timer is not None:
                timer.cancel()
            if entry.batch is not None:
                entry.batch.leave()
        if answer is None:
            return await self._send(self._method, entry.request, entry.deadline.remaining_s())
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _depart(self) -> None:
        """Starts a batch, where one is free and a caller waits. Its task takes what has come until it runs."""
        while self._waiting and self._waiting[0].answered.done():
            self._waiting.popleft()
        if self._waiting and self._free:
            self._free -= 1
            # The trace of a batch is that of its first call.
            task = asyncio.get_running_loop().create_task(self._carry(), context=self._waiting[0].context)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(self) -> None:
        entries = self._take()
        try:
            if entries:
                for entry, answer in zip(entries, await self._answers(entries), strict=True):
                    if not entry.answered.done():
                        entry.answered.set_result(answer)
        finally:
            for entry in entries:
                entry.answered.cancel()  # nothing to one that has its answer: this task was cancelled
            self._free += 1
            self._depart()

    def _take(self) -> list[_Entry]:
        entries: list[_Entry] = []
        size = candidates = 0
        while self._waiting and len(entries) < _ENTRIES:
            entry = self._waiting[0]
            if not entry.answered.done():
                size += entry.bytes
                candidates += entry.candidates
                if entries and (size > _BYTES or candidates > _CANDIDATES):
                    break
                entries.append(entry)
            self._waiting.popleft()
        if entries:
            task = asyncio.current_task()
            assert task is not None
            batch = _Batch(task, len(entries))
            for entry in entries:
                entry.batch = batch
        return entries

    async def _answers(self, entries: Sequence[_Entry]) -> Sequence[Any]:
        """Of each entry what `_Entry.answered` says."""
        remaining_s = [entry.deadline.remaining_s() for entry in entries]
        timeout_s = None if None in remaining_s else max(one for one in remaining_s if one is not None)
        requests = [entry.request for entry in entries]
        try:
            if len(entries) == 1:
                return [await self._send(self._method, requests[0], timeout_s)]
            response = await self._send(self._batching.method, self._batching.together(requests), timeout_s)
            return list(self._batching.apart(response, len(entries)))
        except Exception as error:
            if len(entries) > 1 and _may_be_anothers(error):
                return [None] * len(entries)
            # One for each: raising adds the caller's own frames to an error.
            return [copy.copy(error) if isinstance(error, TwoTowerError) else error for _ in entries]


def _may_be_anothers(error: Exception) -> bool:
    return isinstance(error, TwoTowerError) and not isinstance(error, Overloaded) and error.code in _MAY_BE_ANOTHERS


def _users_together(requests: Sequence[Any]) -> Any:
    return v1.BatchGetUserEmbeddingsRequest(
        users=[request.user for request in requests],
        release=requests[0].release,
        cache_mode=requests[0].cache_mode,
        encoding=v1.EMBEDDING_ENCODING_LIST,
    )


def _users_apart(response: Any, count: int) -> Iterable[Any]:
    problems = {problem.index: problem for problem in response.problems}
    for i in range(count):
        if i in problems:
            yield _as_call(problems[i], f"users[{i}]", "user")
            continue
        source = response.sources[i] if response.sources else v1.SOURCE_UNSPECIFIED
        yield v1.GetUserEmbeddingResponse(
            embedding=response.embeddings[i],
            release=response.releases[response.release_indices[i] if response.release_indices else 0],
            source=source,
            age_ms=response.ages_ms[i] if source == v1.SOURCE_CACHE else None,
        )


def _scores_together(requests: Sequence[Any]) -> Any:
    return v1.BatchScoreRequest(requests=requests)


def _scores_apart(response: Any, count: int) -> Iterable[Any]:
    problems = {problem.index: problem for problem in response.problems}
    for i in range(count):
        yield _as_call(problems[i], f"requests[{i}]", "") if i in problems else response.responses[i]


def _as_call(problem: v1.Problem, entry: str, alone: str) -> TwoTowerError | None:
    """The error that the entry's own call would have had: its field has no place in a batch."""
    reason = ErrorReason(problem.reason)
    if problem.message == reason.name:
        return None  # shortened, as in a batch of many long ones; a call of its own says more
    name = problem.field
    if name.startswith(entry):
        name = (alone + name.removeprefix(entry)).removeprefix(".")
    return error_of(problem.message, reason, status_code(problem.code), {"field": name} if name else {})


_BATCHINGS = {
    "GetUserEmbedding": _Batching("BatchGetUserEmbeddings", _users_together, _users_apart),
    "Score": _Batching("BatchScore", _scores_together, _scores_apart),
}
