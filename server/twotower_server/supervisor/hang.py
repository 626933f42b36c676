"""Finds workers that hang: that are there, and do not move."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from twotower_server.supervisor.board import Row

_TICK_S = 0.25
# Ticks within the time after which a worker counts as hanging, at least.
_TICKS = 8


async def until_it_hangs(row: Row, is_ready: Callable[[], bool], hang_s: float, start_s: float) -> str:
    """Returns how the worker of a row hangs, once it does.

    hang_s: how long it may not move, once it has moved; 0 = for ever. Loading its libraries takes seconds, in which
    it cannot. start_s: how long it may take from now until it is ready; 0 = for ever.

    What counts are ticks of this process, not the clock: where everything is paused, as in a container that is frozen,
    or on a laptop that sleeps, nothing hangs.
    """
    tick_s = min([_TICK_S, *(limit_s / _TICKS for limit_s in (hang_s, start_s) if limit_s)])
    began = last = row.last_beat
    still = starting = 0
    while True:
        await asyncio.sleep(tick_s)
        beat = row.last_beat
        still = still + 1 if beat == last else 0
        last = beat
        if hang_s and last != began and still * tick_s >= hang_s:
            return f"hangs: it has not moved for {hang_s:g} s"
        starting = 0 if is_ready() else starting + 1
        if start_s and starting * tick_s >= start_s:
            return f"hangs: it did not serve within {start_s:g} s of its start"
