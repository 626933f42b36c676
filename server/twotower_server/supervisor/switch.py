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
from pathlib import Path

from twotower_server.config import Config
from twotower_server.errors import Reason, Refused, TwoTowerError
from twotower_server.release.fleet import Fleet, Server, check_shares
from twotower_server.supervisor.board import COLUMNS, Board
from twotower_server.supervisor.generation import Generation, Loaded, refusal_path
from twotower_server.supervisor.page import Page
from twotower_server.supervisor.thread import in_thread

log = logging.getLogger(__name__)

_LOOK_S = 0.005
# When the place of releases has failed a load, it is tried again.
_RETRY_S = 10.0


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


class Switch:
    """Owns the page. Lives in the supervisor, on its event loop."""

    def __init__(
        self,
        config: Config,
        fleet: Fleet,
        folder: Path,
        page: Page,
        board: Board,
        verify: Callable[[Path], Awaitable[None]],
    ) -> None:
        """folder: of the server. verify: raises ReleaseRefused when a release folder disagrees with itself."""
        self._config = config
        self._fleet = fleet
        self._folder = folder
        self._page = page
        self._board = board
        self._verify = verify
        self._lock = asyncio.Lock()
        self._generation: Generation | None = None
        self._number = 0
        self._columns: dict[str, int] = {}  # by release, in the order of their loading
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._refused: dict[str, str] = {}
        self._announced: str | None = None
        self._follow_now = asyncio.Event()
        self._report_now = asyncio.Event()
        self._failures: dict[str, str] = {}  # of following and reporting, at the moment
        self._rested: dict[str, float] = {}  # loaded, but not active and not in the split: since when

    @property
    def generation(self) -> Generation:
        """What is served now."""
        assert self._generation is not None
        return self._generation

    async def start(self, active: str) -> None:
        """Makes the first generation, before there are workers. Raises ReleaseRefused."""
        folder = await self._verified(active)
        generation = Generation(1, active, {active: self._loaded(active, folder)})
        shares = await in_thread(self._fleet.shares, active)
        for name in shares:
            if name != active:
                more = await self._verified(name)
                generation = replace(generation, loaded={**generation.loaded, name: self._loaded(name, more)})
        generation = replace(generation, shares=shares)
        generation.write(self._folder)
        self._number = self._page.next = self._page.current = 1
        self._generation = generation

    # ---- what callers of ReleaseService ask for

    async def states(self) -> list[State]:
        """Every release of the repository and every loaded one, by name."""
        names, servers = await in_thread(lambda: (self._fleet.repository.names(), self._fleet.servers()))
        return [self._state(name, servers) for name in sorted({*names, *self.generation.loaded})]

    async def degraded(self) -> list[str]:
        """What does not work as it should, one sentence each."""
        failed = [f"release {name} is refused: {reason}" for name, reason in sorted(self._refused.items())]
        return failed + [f"the releases folder cannot be {what}; the server's log says why" for what in self._failures]

    async def load(self, release: str) -> State:
        """Begins to verify and open a release. Raises FIELD_REQUIRED or RELEASE_NOT_FOUND."""
        await self._check_known(release)
        self._refused.pop(release, None)
        self._begin_load(release)
        return self._state(release, await in_thread(self._fleet.servers))

    async def activate(self, release: str, expected_active: str = "") -> str:
        """Makes a loaded release the active one; returns the one before. All traffic then goes to it.

        Raises FIELD_REQUIRED, RELEASE_NOT_LOADED, RELEASE_MISMATCH, or NOT_READY when a worker cannot follow.
        """
        self._check_switch(release, expected_active)
        if release != self.generation.active:
            await in_thread(self._fleet.wait_loaded, release, self._config.fleet_timeout_s)
        async with self._lock:
            self._check_switch(release, expected_active)
            before = self.generation
            if release == before.active and not before.shares:
                return before.active
            generation = replace(before, active=release, shares={})
            await self._publish(generation, lambda: self._fleet.activate(release, before.active))
            log.info("activated release %s; before it %s was active", release, before.active)
            return before.active

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
        self._refused.pop(previous, None)
        self._begin_load(previous)
        if previous in self._loading:
            await asyncio.wait([self._loading[previous]])
        if previous in self._refused:
            raise Refused(Reason.RELEASE_NOT_LOADED, f"{previous}: {self._refused[previous]}", "from_release")
        await self.activate(previous, from_release)
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

    # ---- what the pointer in the releases folder and time ask for

    async def follow(self) -> None:
        """Looks, for ever, at what the repository says is active or to be loaded, and retires old releases."""
        try:
            while True:
                await _wait(self._follow_now, self._config.follow_s)
                with self._failing("followed"):
                    await self._look()
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
            if any(row.healthy for row in self._board.rows):
                with self._failing("written"):
                    await in_thread(self._fleet.report, now.active, now.shares, list(now.loaded), dict(self._refused))
            await _wait(self._report_now, self._config.follow_s)

    async def _look(self) -> None:
        self._announced, active, shares = await in_thread(self._wanted)
        for name in sorted(self._needed_names(active, shares) - self._refused.keys()):
            self._begin_load(name)
        if (active, shares) == (self.generation.active, self.generation.shares):
            return
        async with self._lock:
            # Read again: a caller of this server may have changed it while the lock was not held.
            _, active, shares = await in_thread(self._wanted)
            before = self.generation
            if (active, shares) != (before.active, before.shares) and before.loaded.keys() >= {active, *shares}:
                await self._publish(replace(before, active=active, shares=shares))
                log.info("activated release %s, as the releases folder says", active)

    @contextmanager
    def _failing(self, what: str) -> Iterator[None]:
        """Goes on, and logs, when the releases folder cannot be used."""
        try:
            yield
            self._failures.pop(what, None)
        except (TwoTowerError, OSError) as error:
            if str(error) != self._failures.get(what):  # once, not every second
                log.error("the releases folder cannot be %s: %s", what, error)
            self._failures[what] = str(error)

    def _wanted(self) -> tuple[str | None, str, dict[str, float]]:
        """What the repository says: the release to load, the active one, the shares."""
        active = self._fleet.active()
        return self._fleet.announced(), active, self._fleet.shares(active)

    async def _retire(self) -> None:
        """Closes releases that have rested for `keep_s`, and the longest rested beyond `keep_releases`."""
        now = time.monotonic()
        resting = [name for name in self.generation.loaded if not self._needed(name)]
        self._rested = {name: self._rested.get(name, now) for name in resting}
        newest_first = sorted(resting, key=lambda name: -self._rested[name])
        gone = [
            name
            for place, name in enumerate(newest_first)
            if place >= self._config.keep_releases or now - self._rested[name] > self._config.keep_s
        ]
        if gone:
            async with self._lock:
                before = self.generation
                kept = {n: loaded for n, loaded in before.loaded.items() if n not in gone or self._needed(n)}
                await self._publish(replace(before, loaded=kept))
            log.info("retired %s", ", ".join(gone))
        self._fleet.repository.use({*self.generation.loaded, *self._loading})

    # ---- how

    def _begin_load(self, release: str) -> None:
        if release not in self.generation.loaded and release not in self._loading:
            self._loading[release] = asyncio.create_task(self._load(release))

    async def _load(self, release: str) -> None:
        """Fetches, verifies and opens; a refusal is kept for `states`."""
        try:
            loaded = self._loaded(release, await self._verified(release))
            async with self._lock:
                before = self.generation
                self._rested[release] = time.monotonic()
                await self._publish(replace(before, loaded={**before.loaded, release: loaded}))
            log.info("loaded release %s", release)
        except TwoTowerError as error:
            self._refused[release] = error.message if isinstance(error, Refused) else str(error)
            log.error("release %s is refused: %s", release, error)
        except OSError as error:  # not the release's fault
            self._refused[release] = "it cannot be read at the moment; the server's log says why"
            asyncio.get_running_loop().call_later(_RETRY_S, self._refused.pop, release, None)
            log.error("release %s cannot be read: %s", release, error)
        finally:
            self._loading.pop(release, None)
            self._follow_now.set()
            self._report_now.set()

    async def _verified(self, release: str) -> Path:
        folder = await in_thread(self._fleet.repository.local, release)
        await self._verify(folder)
        return folder

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
        return Loaded(str(folder), column)

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
            Generation.remove(self._folder, generation.number)
            raise
        self._page.current = generation.number
        self._generation = generation
        self._report_now.set()
        Generation.remove(self._folder, before.number)

    async def _opened(self, number: int) -> None:
        """Waits until every healthy worker has opened a generation, and there is one."""
        deadline = time.monotonic() + self._config.switch_timeout_s
        while True:
            healthy = [row for row in self._board.rows if row.healthy]
            for row in healthy:
                if row.refused == number:
                    reason = refusal_path(self._folder, number).read_text("utf-8")
                    raise Refused(Reason.RELEASE_NOT_LOADED, f"a worker cannot open it: {reason}", "release")
            late = [slot for slot, row in enumerate(self._board.rows) if row.healthy and row.prepared < number]
            if healthy and not late:
                return
            if time.monotonic() > deadline:
                who = f"worker {', '.join(map(str, late))} has" if late else "no worker is healthy, none has"
                raise Refused(
                    Reason.NOT_READY,
                    f"{who} not opened it within {self._config.switch_timeout_s:g} s; nothing was changed",
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
            state, reason = "refused", self._refused[release]
        else:
            state = "available"
        served = self._board.counted(self._columns[release]) if release in self._columns else 0
        return State(release, state, reason, served, [s.name for s in servers if release in s.loaded])

    def _needed(self, release: str) -> bool:
        return release in self._needed_names(self.generation.active, self.generation.shares)

    def _needed_names(self, active: str, shares: Mapping[str, float]) -> set[str]:
        return {active, *shares} | ({self._announced} if self._announced else set())

    def _check_switch(self, release: str, expected_active: str) -> None:
        active = self.generation.active
        if expected_active and expected_active != active:
            raise _mismatch(f"the active release is {active}, not {expected_active}", "expected_active")
        self._check_loaded(release)

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


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    """Until the event, at most for a time; the event is over then."""
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), timeout_s)
    event.clear()


def _mismatch(message: str, field: str) -> Refused:
    return Refused(Reason.RELEASE_MISMATCH, message, field)
