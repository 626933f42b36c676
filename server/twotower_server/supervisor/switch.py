"""The one switch: loads, activates, splits and retires releases, for all workers at the same moment.

Every change is a new generation, in three steps:

    1. its file is written and named as the page's next; workers open what it adds, beside what they serve
    2. when every healthy worker has opened it, the pointer in the releases folder is moved, where it changes
    3. its number is stored as the page's current: from then on, no call begins on anything else

Whatever ends a process between two steps leaves the generation before it serving.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from twotower_server.catalog.log import End, Log
from twotower_server.config import Config
from twotower_server.errors import Reason, Refused, TwoTowerError
from twotower_server.release.base import base_folder
from twotower_server.release.completion import Completion
from twotower_server.release.fleet import Fleet, Server, check_shares
from twotower_server.release.stamp import is_stamped, remove_stamp
from twotower_server.supervisor.board import COLUMNS, Board
from twotower_server.supervisor.generation import Generation, Loaded, refusal_path
from twotower_server.supervisor.page import Page
from twotower_server.supervisor.thread import in_thread

log = logging.getLogger(__name__)

_LOOK_S = 0.005
# What is wrong with a release that the folder names may be right by now.
_TRY_AGAIN_S = 30.0


@dataclass(frozen=True, slots=True)
class State:
    """A release, as this server sees it.

    state: available, verifying, loaded, active or refused. reason: why refused. served: entries, since the start.
    servers: of the fleet, that have it loaded.
    """

    release: str
    state: str
    reason: str
    served: int
    servers: Sequence[str]


@dataclass(frozen=True, slots=True)
class _Refusal:
    """at: seconds of the monotonic clock."""

    reason: str
    at: float


class Switch:
    """Owns the page. Lives in the supervisor, on its event loop."""

    def __init__(
        self,
        config: Config,
        fleet: Fleet,
        folder: Path,
        page: Page,
        changes: Log,
        board: Board,
        verify: Callable[[Path], Awaitable[Path]],
        completion: Completion,
    ) -> None:
        """folder: of the server. verify: returns the folder to open instead of a release's; raises ReleaseRefused when
        it disagrees with itself. completion: where that folder may come from.
        """
        self._config = config
        self._fleet = fleet
        self._folder = folder
        self._page = page
        self._changes = changes
        self._board = board
        self._verify = verify
        self._completion = completion
        self._lock = asyncio.Lock()
        self._generation: Generation | None = None
        self._number = 0
        self._columns: dict[str, int] = {}  # by release, in the order of their loading
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._places: dict[str, Path] = {}  # of verified releases, without changes
        self._refused: dict[str, _Refusal] = {}
        self._announced: set[str] = set()
        self._named: set[str] = set()  # by the repository: announced, active or in the split
        self._failures: dict[str, str] = {}  # what fails at the moment, and why
        self._follow_now = asyncio.Event()
        self._report_now = asyncio.Event()
        self._served: set[str] = set()  # loaded, and active or in the split at some time since
        self._rested: dict[str, float] = {}  # loaded, but not active and not in the split: since when

    @property
    def generation(self) -> Generation:
        """What is served now."""
        assert self._generation is not None
        return self._generation

    async def start(self, active: str) -> None:
        """Makes the first generation, before there are workers. Raises ReleaseRefused."""
        folder = await self._verified(active)
        number = self._changes.end.number
        generation = Generation(1, active, {active: self._loaded(active, folder)}, log=number)
        shares = await in_thread(self._fleet.shares, active)
        try:
            others = {name: self._loaded(name, await self._verified(name)) for name in shares if name != active}
        except (TwoTowerError, OSError) as error:
            log.error("all traffic goes to %s, without the split: %s", active, error)
        else:
            generation = replace(generation, loaded={**generation.loaded, **others}, shares=shares)
        generation.write(self._folder)
        self._number = self._page.next = self._page.current = 1
        self._now(generation)

    # ---- what callers of ReleaseService ask for

    async def states(self) -> list[State]:
        """Every release of the repository and every loaded one, by name."""
        names, servers = await in_thread(lambda: (self._fleet.repository.names(), self._fleet.servers()))
        return [self._state(name, servers) for name in sorted({*names, *self.generation.loaded})]

    async def degraded(self) -> list[str]:
        """What does not work as it should, one sentence each."""
        refused = [
            f"release {name}, which the releases folder names, is refused: {refusal.reason}"
            for name, refusal in sorted(self._refused.items())
            if name in self._named - self._announced
        ]
        return refused + [f"{failure}; the server's log says why" for failure in self._failures]

    async def load(self, release: str) -> State:
        """Begins to verify and open a release. Raises FIELD_REQUIRED or RELEASE_NOT_FOUND."""
        await self._check_known(release)
        self._begin_loading(release)
        return self._state(release, await in_thread(self._fleet.servers))

    async def activate(self, release: str, expected_active: str = "") -> str:
        """Makes a loaded release the active one; returns the one before. All traffic then goes to it.

        Raises FIELD_REQUIRED, RELEASE_NOT_LOADED, RELEASE_MISMATCH, or NOT_READY when a worker cannot follow.
        """
        return await self._activate(release, expected_active)

    async def rollback(self, from_release: str) -> str:
        """Makes the release active that was active before `from_release`; returns it."""
        if not from_release:
            raise Refused(Reason.FIELD_REQUIRED, "name the release to go back from", "from_release")
        if from_release != self.generation.active:
            raise _mismatch(f"the active release is {self.generation.active}, not {from_release}", "from_release")
        previous = await in_thread(self._fleet.previous, from_release)
        if previous is None:
            raise Refused(
                Reason.RELEASE_NOT_FOUND,
                f"no release is known to have been active before {from_release}",
                "from_release",
            )
        if (loading := self._begin_loading(previous)) is not None:
            await asyncio.wait([loading])
            if previous in self._refused:
                reason = self._refused[previous].reason
                raise Refused(Reason.RELEASE_NOT_LOADED, f"release {previous} is refused: {reason}", "from_release")
        await self._activate(previous, from_release, back=True)
        return previous

    async def split(self, shares: Mapping[str, float]) -> Mapping[str, float]:
        """Splits the traffic between loaded releases; returns the shares that apply then."""
        for name in shares:
            self._check_loaded(name, "shares")
        check_shares(shares)
        async with self._lock:
            for name in shares:
                self._check_loaded(name, "shares")
            kept = {name: share for name, share in shares.items() if share > 0}
            before = self.generation
            await self._publish(replace(before, shares=kept), lambda: self._fleet.set_shares(before.active, kept))
            log.info("split the traffic: %s", kept or f"all to {before.active}")
        return kept or {before.active: 1.0}

    # ---- what became of the log of changes

    async def take_log(self, end: End) -> None:
        """Serves changes from the log of the next number, and releases from the bases that belong to it.

        end: of that log; what was appended to this one since it was made from it comes on top. Raises Refused and
        OSError; nothing has changed then.
        """
        async with self._lock:
            before = self.generation
            loaded = {
                name: replace(entry, folder=str(self._based(self._places[name], end.number)))
                for name, entry in before.loaded.items()
            }
            after = replace(before, loaded=loaded, log=end.number, log_bytes=end.size_bytes)
            await self._publish(after, partial(self._take_over, end.number))
        await in_thread(self._forget_bases, {entry.folder for entry in before.loaded.values()})
        await in_thread(self._changes.remove_others, end.number)

    def _take_over(self, number: int) -> None:
        # Nobody may be told of a change in the new log before every call sees it.
        with self._changes.locked():
            self._changes.take_over(number)
            self._page.current = self._number

    def _forget_bases(self, folders: set[str]) -> None:
        for folder in map(Path, folders):
            if folder not in self._places.values():
                remove_stamp(folder, self._config.data)

    # ---- what the pointer in the releases folder and time ask for

    async def follow(self) -> None:
        """Looks, for ever, at what the repository says is active or to be loaded, and retires old releases."""
        try:
            while True:
                await _wait(self._follow_now, self._config.follow_s)
                with self.failing("the releases folder cannot be followed"):
                    await self._look()
                with self.failing("old releases cannot be closed"):
                    await self._retire()
        finally:
            for loading in self._loading.values():
                loading.cancel()

    async def report(self) -> None:
        """Tells the fleet, for ever, what this server serves and that it lives, whatever else it waits for.

        Without a healthy worker it says nothing: nobody shall wait for it.
        """
        while True:
            now = self.generation
            refused = {name: why.reason for name, why in self._refused.items() if name not in self._loading}
            if any(row.healthy for row in self._board.rows):
                with self.failing("the releases folder cannot be written"):
                    await in_thread(self._fleet.report, now.active, now.shares, list(now.loaded), refused)
            await _wait(self._report_now, self._config.follow_s)

    @contextmanager
    def failing(self, failure: str) -> Iterator[None]:
        """Goes on, and logs, whatever fails. failure: what that means, for `degraded`."""
        try:
            yield
            self._failures.pop(failure, None)
        except Exception as error:
            if str(error) != self._failures.get(failure):  # once, not every second
                log.error("%s: %s", failure, error, exc_info=not isinstance(error, TwoTowerError | OSError))
            self._failures[failure] = str(error)

    async def _look(self) -> None:
        self._announced = named = await in_thread(self._fleet.announced)
        try:
            active, shares = await in_thread(self._pointer)
            named = {*named, active, *shares}
        finally:
            self._want(named)
        if (active, shares) == (self.generation.active, self.generation.shares):
            return
        async with self._lock:
            # Read again: a caller of this server may have changed it while the lock was not held.
            await self._follow_pointer(*await in_thread(self._pointer))

    def _want(self, named: set[str]) -> None:
        """Begins to load what the repository names; what was refused, when it is named anew, or after a while."""
        for name in named:
            refusal = self._refused.get(name)
            if refusal is None or name not in self._named or time.monotonic() - refusal.at > _TRY_AGAIN_S:
                self._begin_loading(name)
        self._named = named

    async def _follow_pointer(self, active: str, shares: Mapping[str, float]) -> None:
        before = self.generation
        if not before.loaded.keys() >= shares.keys():
            shares = before.shares if active == before.active else {}
        if active in before.loaded and (active, shares) != (before.active, before.shares):
            await self._publish(replace(before, active=active, shares=shares))
            log.info("as the releases folder says, %s is active%s", active, f", split {dict(shares)}" if shares else "")

    def _pointer(self) -> tuple[str, dict[str, float]]:
        """What the repository says: the active release and the shares of a split."""
        active = self._fleet.active()
        return active, self._fleet.shares(active)

    async def _retire(self) -> None:
        """Closes releases that have rested for `keep_s`, and the longest rested beyond `keep_releases`.

        Those that have not served yet do not count as kept for callers that pin them.
        """
        now = time.monotonic()
        newest_first = sorted(self._rested, key=lambda name: -self._rested[name])
        gone = set([name for name in newest_first if name in self._served][self._config.keep_releases :])
        gone |= {name for name, since in self._rested.items() if now - since > self._config.keep_s}
        gone -= self._announced
        if gone:
            async with self._lock:
                before = self.generation
                kept = {n: loaded for n, loaded in before.loaded.items() if n not in gone or n in _serving(before)}
                await self._publish(replace(before, loaded=kept))
            log.info("retired %s", ", ".join(sorted(gone - kept.keys())))
        in_use = {*self.generation.loaded, *self._loading}
        self._fleet.repository.use(in_use)
        self._completion.use(in_use)

    # ---- how

    def _begin_loading(self, release: str) -> asyncio.Task[None] | None:
        """The task that loads a release; None when it is loaded."""
        if release in self.generation.loaded:
            return None
        if release not in self._loading:
            self._loading[release] = asyncio.create_task(self._load(release))
        return self._loading[release]

    async def _load(self, release: str) -> None:
        """Fetches, verifies and opens; a refusal is kept for `states`."""
        try:
            folder = await self._verified(release)
            async with self._lock:
                before = self.generation
                loaded = self._loaded(release, folder)
                await self._publish(replace(before, loaded={**before.loaded, release: loaded}))
            self._refused.pop(release, None)
            log.info("loaded release %s", release)
        except Exception as error:  # nobody awaits this task, so it is told here or never
            self._refused[release] = _Refusal(self._told(error), time.monotonic())
            expected = isinstance(error, TwoTowerError | OSError)
            log.error("release %s is refused: %s", release, error, exc_info=not expected)
        finally:
            self._loading.pop(release, None)
            self._follow_now.set()
            self._report_now.set()

    async def _activate(self, release: str, expected_active: str, *, back: bool = False) -> str:
        """As `activate`. back: see `Fleet.activate`."""
        self._check_switch(release, expected_active)
        if not await self._serves_alone(release):
            # Not under the lock: the servers that this one waits for may be waiting for it.
            await in_thread(self._fleet.wait_loaded, release, self._config.fleet_timeout_s)
        async with self._lock:
            self._check_switch(release, expected_active)
            before = self.generation
            if await self._serves_alone(release):
                return before.active
            after = replace(before, active=release, shares={})
            expected = await self._replaceable()
            await self._publish(after, lambda: self._fleet.activate(release, expected, back=back))
            log.info("activated release %s; before it %s was active", release, before.active)
            return before.active

    def _check_switch(self, release: str, expected_active: str) -> None:
        active = self.generation.active
        if expected_active and expected_active != active:
            raise _mismatch(f"the active release is {active}, not {expected_active}", "expected_active")
        self._check_loaded(release)

    async def _serves_alone(self, release: str) -> bool:
        """Whether all traffic goes to a release, and the repository says so, too."""
        pointer = await in_thread(self._fleet.pointer)
        return (self.generation.active, pointer, self.generation.shares) == (release, release, {})

    async def _replaceable(self) -> str:
        """What the pointer must be for this server to move it: what it serves, or what it cannot."""
        pointer = await in_thread(self._fleet.pointer)
        can_serve = pointer not in self._refused and pointer in await in_thread(self._fleet.repository.names)
        return self.generation.active if can_serve else pointer

    async def _verified(self, release: str) -> Path:
        folder = await in_thread(self._fleet.repository.local, release)
        self._places[release] = place = await self._verify(folder)
        return place

    def _based(self, folder: Path, log_number: int) -> Path:
        """The base of a release for the log of a number; without one its folder."""
        if not any(self._changes.folder(log_number).glob(f"*/{folder.name}")):
            return folder
        base = base_folder(self._changes.catalog, log_number, folder)
        return base if is_stamped(base, self._config.data) else folder

    def _loaded(self, release: str, folder: Path) -> Loaded:
        column = self._columns.pop(release, None)
        if column is None and len(self._columns) < COLUMNS:
            column = len(self._columns)
        if column is None:
            oldest = next(name for name in self._columns if name not in self.generation.loaded)
            column = self._columns.pop(oldest)
            for row in self._board.rows:
                row.forget(column)
        self._columns[release] = column
        return Loaded(str(self._based(folder, self._changes.end.number)), column)

    async def _publish(self, generation: Generation, commit: Callable[[], object] = lambda: None) -> None:
        """Steps 1 to 3. The lock is held. Raises Refused when a worker cannot follow; nothing has changed then."""
        before = self.generation
        self._number += 1
        generation = replace(generation, number=self._number)
        generation.write(self._folder)
        self._page.next = generation.number
        try:
            await self._opened(generation.number)
            await in_thread(commit)
        except BaseException:
            self._page.next = before.number
            self._remove(generation.number)
            raise
        self._page.current = generation.number
        self._now(generation)
        self._remove(before.number)

    def _now(self, generation: Generation) -> None:
        """Remembers what the page says."""
        self._generation = generation
        now, serving = time.monotonic(), _serving(generation)
        self._served = self._served & generation.loaded.keys() | serving
        self._rested = {name: self._rested.get(name, now) for name in generation.loaded if name not in serving}
        self._report_now.set()

    def _remove(self, number: int) -> None:
        with suppress(OSError):  # what remains is in nobody's way
            Generation.remove(self._folder, number)

    async def _opened(self, number: int) -> None:
        """Waits until every healthy worker has opened a generation, and there is one."""
        deadline = time.monotonic() + self._config.switch_timeout_s
        while True:
            healthy = [row for row in self._board.rows if row.healthy]
            for row in healthy:
                if row.refused == number:
                    reason = "the server's log says why"
                    with suppress(OSError):
                        reason = refusal_path(self._folder, number).read_text("utf-8")
                    raise Refused(Reason.RELEASE_NOT_LOADED, f"a worker cannot open it: {reason}", "release")
            late = [slot for slot, row in enumerate(self._board.rows) if row.healthy and row.prepared < number]
            if healthy and not late:
                return
            if time.monotonic() > deadline:
                why = f"worker {', '.join(map(str, late))} did not open it" if late else "no worker was healthy"
                raise Refused(
                    Reason.NOT_READY, f"{why} within {self._config.switch_timeout_s:g} s; nothing was changed"
                )
            await asyncio.sleep(_LOOK_S)

    def _state(self, release: str, servers: Sequence[Server]) -> State:
        generation = self.generation
        reason = ""
        if release == generation.active:
            state = "active"
        elif release in generation.loaded:
            state = "loaded"
        elif release in self._loading:
            state = "verifying"
        elif release in self._refused:
            state, reason = "refused", self._refused[release].reason
        else:
            state = "available"
        served = self._board.counted(self._columns[release]) if release in self._columns else 0
        return State(release, state, reason, served, [s.name for s in servers if release in s.loaded])

    async def _check_known(self, release: str) -> None:
        if not release:
            raise Refused(Reason.FIELD_REQUIRED, "name the release", "release")
        names = await in_thread(self._fleet.repository.names)
        if release not in names:
            raise Refused(
                Reason.RELEASE_NOT_FOUND,
                f"there is no release {release[:63]!r}; there are {', '.join(names[-20:]) or 'none'}",
                "release",
            )

    def _told(self, error: Exception) -> str:
        """What callers read of an error: no path, no driver's text."""
        if isinstance(error, Refused):
            return error.message
        if isinstance(error, OSError):
            return error.strerror or "it cannot be read at the moment; the server's log says why"
        if not isinstance(error, TwoTowerError):
            return "this is a bug of the server; its log has the details"
        text = str(error).replace(f" --releases {self._config.releases}", "")
        for place, name in ((self._config.releases, "the releases folder"), (self._config.data, "the data folder")):
            text = text.replace(str(place), name)
        return text

    def _check_loaded(self, release: str, field: str = "release") -> None:
        if not release:
            raise Refused(Reason.FIELD_REQUIRED, "name the release", field)
        if release not in self.generation.loaded:
            loaded = ", ".join(sorted(self.generation.loaded))
            raise Refused(
                Reason.RELEASE_NOT_LOADED,
                f"release {release[:63]!r} is not loaded; loaded are {loaded}; LoadRelease loads it",
                field,
            )


def _serving(generation: Generation) -> set[str]:
    """The releases that entries without a pin go to."""
    return {generation.active, *generation.shares}


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    """Until the event, at most for a time; the event is over then."""
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):  # `wait_for` may swallow a cancellation
            await event.wait()
    event.clear()


def _mismatch(message: str, field: str) -> Refused:
    return Refused(Reason.RELEASE_MISMATCH, message, field)
