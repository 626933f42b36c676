"""Compaction, seen from the supervisor: when it is due, and how its results become what serves.

due → compactor process writes log and bases of the next number → workers open them beside what serves
    → what was appended meanwhile follows into the new log → the switch
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from twotower_server.catalog.log import End, Log, Prefix
from twotower_server.config import Config
from twotower_server.release.format import Manifest
from twotower_server.supervisor.switch import Switch
from twotower_server.supervisor.thread import in_thread

if TYPE_CHECKING:
    from twotower_server.catalog.shared_log import SharedLog

log = logging.getLogger(__name__)

_LOOK_S = 1.0
# What fails, as on a full disk, fails for a while.
_TRY_AGAIN_S = 30.0
# Changes wait for so large a part of the catalog: writing it anew takes time in proportion.
_SHARE = 20


class Compaction:
    """Lives in the supervisor, on its event loop."""

    def __init__(
        self,
        config: Config,
        changes: Log,
        switch: Switch,
        compact: Callable[[End, Sequence[Path]], Awaitable[None]],
        moving: asyncio.Lock,
        shared: SharedLog | None = None,
    ) -> None:
        """compact: writes what the log up to an end, and folders of releases, become; raises TwoTowerError.

        moving: held while the log becomes that of another number. shared: the log that this one is a copy of.
        """
        self._config = config
        self._log = changes
        self._switch = switch
        self._compact = compact
        self._moving = moving
        self._shared = shared
        self._manifest = cache(Manifest.load)  # of folders that never change

    async def run(self) -> None:
        """Looks, for ever, whether it is due."""
        while True:
            pause_s = _TRY_AGAIN_S
            with self._switch.failing("item changes cannot be compacted"):
                if await in_thread(self._is_due):
                    await self.compact()
                pause_s = _LOOK_S
            await asyncio.sleep(pause_s)

    async def compact(self) -> None:
        """Does it now."""
        async with self._moving:
            end = self._log.end
            folders = [Path(loaded.folder) for loaded in self._switch.generation.loaded.values()]
            await self._compact(end, folders)
            number = end.number + 1
            await self._switch.take_log(End(number, Prefix.load(self._log.folder(number)).size_bytes))
        log.info("serving from the compacted changes")
        if self._shared is not None:
            await in_thread(self._shared.publish_snapshot, self._config.compact_changes // 2)

    def _is_due(self) -> bool:
        prefix = self._log.prefix
        if not self._config.compact_changes or self._log.end.size_bytes == prefix.size_bytes:
            return False
        generation = self._switch.generation
        manifests = [self._manifest(Path(loaded.folder)) for loaded in generation.loaded.values()]
        compacted = max(prefix.mark.position, min(manifest.log_position for manifest in manifests))
        waiting = self._log.mark.position - compacted
        return waiting >= max(self._config.compact_changes, max(manifest.items for manifest in manifests) // _SHARE)
