"""A worker's side of a switch: opens what the page's next generation names, and serves what its current one says."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from twotower_server.catalog.log import End
from twotower_server.engine.route import Releases
from twotower_server.errors import Reason, Refused, ReleaseRefused
from twotower_server.release.snapshot import Snapshot
from twotower_server.supervisor.board import BEAT_S, Row
from twotower_server.supervisor.generation import Generation, refusal_path
from twotower_server.supervisor.history import History
from twotower_server.supervisor.page import Page

log = logging.getLogger(__name__)

# How long a worker takes to notice that there is something to open. Reading the page costs 22 ns.
_LOOK_S = 0.01
_TRIM_S = 1.0


class Follower:
    """The engine's source of releases. Its methods are called on the event loop."""

    def __init__(
        self,
        folder: Path,
        catalog: Path,
        page: Page,
        row: Row,
        open_release: Callable[[Path], Snapshot],
        closed: Callable[[str], None] | None = None,
    ) -> None:
        """folder: of the server, with the files of generations. catalog: folder of the log of changes.

        open_release: opens a verified release, warmed up. closed: hears of every release that is closed.
        """
        self._folder = folder
        self._catalog = catalog
        self._page = page
        self._row = row
        self._open_release = open_release
        self._closed = closed
        self._generations: dict[int, Generation] = {}  # those that are prepared
        self._histories: dict[int, History] = {}  # by the log's number; two have the same one while it moves
        self._number = self._log_end = 0
        self._releases: Releases | None = None
        row.prepared = row.refused = 0  # the slot's last worker may have come further

    def now(self) -> Releases:
        """What serves a call that begins now: read from the page every time, which makes a switch atomic."""
        number, log_end = self._page.current, self._page.log_end  # in this order
        if number != self._number or log_end != self._log_end or self._releases is None:
            self._serve(number, log_end)
            assert self._releases is not None
        return self._releases

    def _serve(self, number: int, log_end: int) -> None:
        generation = self._generations.get(number)
        if generation is None:
            raise Refused(Reason.NOT_READY, "this worker is still opening what the server has switched to; try again")
        history = self._histories[generation.log]
        history.go_on(generation.log)
        history.catch_up(End.of(log_end))
        columns = {name: loaded.column for name, loaded in generation.loaded.items()}
        self._releases = Releases(
            {name: history.snapshots[loaded.folder] for name, loaded in generation.loaded.items()},
            generation.active,
            generation.shares,
            lambda release, entries: self._row.count(columns[release], entries),
        )
        self._number, self._log_end = number, log_end

    async def prepare_current(self) -> None:
        """Opens what the server serves, before this worker does. Raises ReleaseRefused."""
        while (number := self._page.current) not in self._generations:
            try:
                await self._prepare(number)
            except FileNotFoundError:
                if number == self._page.current:
                    raise
                log.debug("generation %d is no longer served", number)

    def join(self) -> None:
        """Has every switch that begins from now on wait for this worker. To be called before it serves."""
        self._row.beat()
        self._row.pid = os.getpid()

    async def look(self) -> None:
        """Opens what the page names, and applies changes, so that a call after a long pause finds little to do.

        Raises ReleaseRefused when it cannot open what the server serves.
        """
        if self._releases is not None:
            with suppress(Refused):
                self.now()
        # The current one, too: a worker that was stopped for long may have missed the time when it was the next.
        await self.prepare_current()
        if (number := self._page.next) not in self._generations and number > self._row.refused:
            await self._prepare_next(number)
        self._forget()

    async def follow(self) -> None:
        """As `look`, for ever."""
        while True:
            await self.look()
            await asyncio.sleep(_LOOK_S)

    async def beat(self) -> None:
        """Says on the board, for ever, that this worker lives."""
        while True:
            self._row.beat()
            await asyncio.sleep(BEAT_S)

    async def _prepare_next(self, number: int) -> None:
        try:
            await self._prepare(number)
        except Exception as error:  # whatever it is, this worker goes on with what it serves
            if number != self._page.next:
                log.debug("generation %d was withdrawn: %s", number, error)
                return
            expected = isinstance(error, ReleaseRefused)
            log.error("cannot open generation %d: %s", number, error, exc_info=not expected)
            reason = str(error) if expected else f"{type(error).__name__}; the server's log says more"
            with suppress(OSError):
                refusal_path(self._folder, number).write_text(reason, "utf-8")
            self._row.refused = number

    async def _prepare(self, number: int) -> None:
        # In threads: it takes tens of milliseconds or more, and calls go on meanwhile.
        generation = Generation.read(self._folder, number)
        history = self._histories.get(generation.log) or self._source_of(generation.log)
        if history is None:
            history = History(self._catalog, generation.log, self._open_release)
            end = End.of(self._page.log_end)
            if end.number != generation.log:
                end = End(generation.log, generation.log_bytes)
            await asyncio.to_thread(history.catch_up, end)
        for loaded in generation.loaded.values():
            if loaded.folder not in history.snapshots:
                opened = await asyncio.to_thread(history.open, Path(loaded.folder), generation.log)
                history.catch_up(End.of(self._page.log_end))
                history.add(loaded.folder, opened)
        self._histories[generation.log] = history
        self._generations[number] = generation
        self._row.prepared = max(self._row.prepared, number)

    def _source_of(self, log: int) -> History | None:
        """The history that goes on in a log, when that becomes the one that counts."""
        end = End.of(self._page.log_end)
        history = self._histories.get(end.number)
        if history is None:
            return None
        history.catch_up(end)
        return history if history.is_source(log) else None

    def _forget(self) -> None:
        """Lets go of what is no longer served. Calls in flight keep their snapshots until they end."""
        # In this order: read the other way round, what was the next may be the current one by now, and be forgotten.
        following, current = self._page.next, self._page.current
        if current not in self._generations:
            return
        if current != self._number:
            self._serve(current, self._page.log_end)
        wanted = {following, current}
        before = _names(self._generations)
        self._generations = {n: generation for n, generation in self._generations.items() if n in wanted}
        logs = {generation.log for generation in self._generations.values()}
        self._histories = {number: history for number, history in self._histories.items() if number in logs}
        folders = {loaded.folder for g in self._generations.values() for loaded in g.loaded.values()}
        forgotten = [history.keep(folders) for history in set(self._histories.values())]
        for name in before - _names(self._generations):
            log.info("closed release %s", name)
            if self._closed is not None:
                self._closed(name)
        if any(forgotten):
            # Calls in flight may hold them still.
            asyncio.get_running_loop().call_later(_TRIM_S, _return_memory)


def _names(generations: Mapping[int, Generation]) -> set[str]:
    return {name for generation in generations.values() for name in generation.loaded}


def _return_memory() -> None:
    """Gives freed memory back to the machine at once; glibc keeps it otherwise."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):  # another C library
        log.debug("this C library has no malloc_trim")
