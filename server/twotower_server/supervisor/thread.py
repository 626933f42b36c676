"""Waiting for what blocks, without keeping the process from ending."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


async def in_thread(
    function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Result:
    """Calls a function in a thread of its own and returns what it does.

    As `asyncio.to_thread`, but for what may wait long, as for a network or for other servers: at its end asyncio waits
    for its own threads; these just end with the process.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def run() -> None:
        try:
            settle: Callable[[], None] = partial(future.set_result, function(*args, **kwargs))
        except BaseException as error:
            settle = partial(future.set_exception, error)
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(lambda: None if future.done() else settle())  # done: it was cancelled

    threading.Thread(target=run, daemon=True).start()
    return await future
