"""A worker that pauses at every `await` between a request and its answer, for times that differ."""

from __future__ import annotations

import asyncio
import functools
import inspect
import random
import time
from collections.abc import Callable
from typing import Any

from twotower_server.app import run_worker
from twotower_server.engine import embed, engine
from twotower_server.engine.search import search
from twotower_server.engine.users import UserVectors
from twotower_server.index.exact import ExactIndex
from twotower_server.index.ivf import IvfSq8Index
from twotower_server.rpc.servicer import TwoTowerServicer
from twotower_server.supervisor.child import Parent
from twotower_server.supervisor.job import Job

MAX_PAUSE_S = 0.004

_sleep = asyncio.sleep


def run(job: Job, parent: Parent) -> None:
    """Entry of the worker."""
    for owner in (TwoTowerServicer, engine.Engine, UserVectors, embed):
        for name, function in inspect.getmembers(owner, inspect.iscoroutinefunction):
            setattr(owner, name, _paused(function))
    setattr(engine, "search", _paused_in_a_thread(search))  # noqa: B010
    setattr(asyncio, "sleep", _longer_sleep)  # noqa: B010
    # So that small batches take every turn that large ones take.
    embed.CHUNK_ROWS = 2
    engine._ENTRIES_A_TURN = 1
    for kind in (ExactIndex, IvfSq8Index):
        kind.is_brief = lambda self, nearest: False  # type: ignore[method-assign]
    run_worker(job, parent)


def _pause_s() -> float:
    return random.uniform(0, MAX_PAUSE_S)


def _paused(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        await _sleep(_pause_s())
        try:
            return await function(*args, **kwargs)
        finally:
            await _sleep(_pause_s())

    return call


def _paused_in_a_thread(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        time.sleep(_pause_s())
        result = function(*args)
        time.sleep(_pause_s())
        return result

    return call


async def _longer_sleep(delay: float, result: Any = None) -> Any:
    return await _sleep(delay or _pause_s(), result)
