"""A worker's side of a switch: opens what the page's next generation names, and serves what its current one says."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from twotower_server.catalog.change import Change
from twotower_server.catalog.log import Reader
from twotower_server.engine.route import Releases
from twotower_server.errors import Reason, Refused, ReleaseRefused
from twotower_server.release.apply import apply
from twotower_server.release.snapshot import Snapshot
from twotower_server.supervisor.board import BEAT_S, Row
from twotower_server.supervisor.generation import Generation, refusal_path
from twotower_server.supervisor.page import Page

log = logging.getLogger(__name__)

# How long a worker takes to notice that there is something to open. Reading the page costs 22 ns.
_LOOK_S = 0.01
_TRIM_S = 1.0
# Changes that wait in memory to be applied at once.
_REPLAY_CHANGES = 1024


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
        self._snapshots: dict[str, Snapshot] = {}
        self._generations: dict[int, Generation] = {}  # those that are prepared
        self._number = 0
        self._releases: Releases | None = None
        self._log = Reader(catalog)
        self._unapplied: list[Change] = []  # read, but an error came before every snapshot had them
        self._log_bytes = 0  # up to which every snapshot has the changes
        row.prepared = row.refused = 0  # the slot's last worker may have come further

    def now(self) -> Releases:
        """What serves a call that begins now: read from the page every time, which makes a switch atomic."""
        if self._page.log_bytes != self._log_bytes:
            self._catch_up()
        number = self._page.current
        if number != self._number or self._releases is None:
            self._switch(number)
            assert self._releases is not None
        return self._releases

    def _switch(self, number: int) -> None:
        generation = self._generations.get(number)
        if generation is None:
            raise Refused(Reason.NOT_READY, "this worker is still opening what the server has switched to; try again")
        columns = {name: loaded.column for name, loaded in generation.loaded.items()}
        self._number = number
        self._releases = Releases(
            {name: self._snapshots[name] for name in columns},
            generation.active,
            generation.shares,
            lambda release, entries: self._row.count(columns[release], entries),
        )

    def _catch_up(self) -> None:
        """Applies the changes that were logged since, to every release."""
        log_bytes = self._page.log_bytes
        for changes in self._log.read(log_bytes):
            self._unapplied += changes
            if len(self._unapplied) >= _REPLAY_CHANGES:
                self._apply()
        self._apply()
        self._log_bytes = log_bytes
        self._releases = None

    def _apply(self) -> None:
        self._snapshots = {name: _changed(snapshot, self._unapplied) for name, snapshot in self._snapshots.items()}
        self._unapplied = []

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
        if self._page.log_bytes != self._log_bytes:
            self._catch_up()
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
        generation = Generation.read(self._folder, number)
        for name, loaded in generation.loaded.items():
            if name not in self._snapshots:
                # In a thread: it takes tens of milliseconds, and calls go on meanwhile.
                snapshot, reader = await asyncio.to_thread(self._open, Path(loaded.folder))
                self._catch_up()
                self._snapshots[name] = _replayed(snapshot, reader, self._log_bytes)
        self._generations[number] = generation
        self._row.prepared = max(self._row.prepared, number)

    def _open(self, folder: Path) -> tuple[Snapshot, Reader]:
        """Opens a release, with the changes that it does not contain."""
        reader = Reader(self._catalog)
        return _replayed(self._open_release(folder), reader, self._page.log_bytes), reader

    def _forget(self) -> None:
        """Lets go of what is no longer served. Calls in flight keep their snapshots until they end."""
        # In this order: read the other way round, what was the next may be the current one by now, and be forgotten.
        following, current = self._page.next, self._page.current
        if current not in self._generations:
            return
        if current != self._number:
            self._switch(current)
        wanted = {following, current}
        gone = [number for number in self._generations if number not in wanted]
        for number in gone:
            del self._generations[number]
        names = {name for generation in self._generations.values() for name in generation.loaded}
        closed = [name for name in self._snapshots if name not in names]
        for name in closed:
            log.info("closed release %s", name)
            del self._snapshots[name]
            if self._closed is not None:
                self._closed(name)
        if closed:
            # Calls in flight may hold them still.
            asyncio.get_running_loop().call_later(_TRIM_S, _return_memory)


def _replayed(snapshot: Snapshot, reader: Reader, to_bytes: int) -> Snapshot:
    """The snapshot with the changes up to an end of the log, in steps that bound the memory."""
    waiting: list[Change] = []
    for changes in reader.read(to_bytes):
        waiting += changes
        if len(waiting) >= _REPLAY_CHANGES:
            snapshot, waiting = _changed(snapshot, waiting), []
    return _changed(snapshot, waiting)


def _changed(snapshot: Snapshot, changes: Sequence[Change]) -> Snapshot:
    """The snapshot with those of the changes that its release does not contain."""
    return apply(snapshot, [change for change in changes if change.position > snapshot.manifest.log_position])


def _return_memory() -> None:
    """Gives freed memory back to the machine at once; glibc keeps it otherwise."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):  # another C library
        log.debug("this C library has no malloc_trim")
