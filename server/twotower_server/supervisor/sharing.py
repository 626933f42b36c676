"""The supervisor's side of a log that servers share in Redis: keeps this machine's copy up to date.

what others append    pulled as it comes; workers find it when their next call begins
another history       the whole log is read anew, as that of the next number; one switch makes it count
"""

from __future__ import annotations

import asyncio
import logging

from twotower_server.catalog.redis_log import Behind, Diverged
from twotower_server.catalog.shared_log import SharedLog
from twotower_server.errors import StoreRefused, StoreUnavailable
from twotower_server.supervisor.switch import Switch
from twotower_server.supervisor.thread import in_thread

log = logging.getLogger(__name__)

_WAIT_S = 5.0
_PAUSE_S = 0.5
_AWAY = "the log of item changes in Redis cannot be read, those of other servers are missing"


class Sharing:
    """Lives in the supervisor, on its event loop."""

    def __init__(self, shared: SharedLog, switch: Switch, moving: asyncio.Lock) -> None:
        """moving: held while the log becomes that of another number."""
        self._shared = shared
        self._switch = switch
        self._moving = moving

    async def start(self) -> None:
        """Brings the copy up to date before anything is served from it, if Redis answers."""
        try:
            await in_thread(self._begin)
        except (StoreUnavailable, StoreRefused, OSError) as error:
            log.error("%s; this server begins with those that it had: %s", _AWAY, error)

    def _begin(self) -> None:
        for risk in self._shared.redis.risks():
            log.warning(risk)
        try:
            self._shared.pull()
        except (Diverged, Behind) as error:
            log.warning("%s; reading all of it", error)
            copy = self._shared.copy
            number = self._shared.download(copy.end.number + 1).number
            with copy.locked():
                copy.take_over(number)
            copy.remove_others(number)

    async def run(self) -> None:
        """Pulls, for ever, whatever others append."""
        while True:
            pause_s = _PAUSE_S
            with self._switch.failing(_AWAY):
                await self._pull()
                pause_s = 0.0
            await asyncio.sleep(pause_s)

    async def _pull(self) -> None:
        mark = await in_thread(lambda: self._shared.copy.mark)
        if await in_thread(self._shared.redis.wait, mark, _WAIT_S):
            try:
                await in_thread(self._shared.pull)
            except (Diverged, Behind) as error:
                log.warning("%s; reading all of it", error)
                await self._read_anew()

    async def _read_anew(self) -> None:
        async with self._moving:
            end = await in_thread(self._shared.download, self._shared.copy.end.number + 1)
            await self._switch.take_log(end)
            log.info("serving from the log of item changes as Redis has it now")
