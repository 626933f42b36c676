"""What the servers of one repository tell each other, as small texts beside the releases:

    active             name of the active release
    ~history           releases that were active before, the latest last; shorter after going back
    ~split             shares of the traffic, for one active release
    ~next/<release>    every server shall load it, since it is about to serve; until when, in seconds since 1970
    ~servers/<server>  what a server has loaded and serves; rewritten every second while it lives

The pointer moves in two phases: every server that lives reports the release loaded, then `active` names it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from twotower_server.errors import Reason, Refused, ReleaseRefused, TwoTowerError
from twotower_server.release.format import check_name
from twotower_server.release.repository import ACTIVE, Repository, no_release

_HISTORY = "~history"
_SPLIT = "~split"
_NEXT = "~next"
_SERVERS = "~servers"
_HISTORY_LENGTH = 20
# Reports that a server may miss before it is taken for dead.
_DEAD_AFTER = 5
_LOOK_S = 0.1
# What the clocks of two machines may differ by.
_CLOCKS_DIFFER_S = 60.0


@dataclass(frozen=True, slots=True)
class Server:
    """What a server reports.

    beat:    rises with every report. every_s: seconds between two. written: by the server's clock, seconds since
             1970; for people.
    active:  what it serves, with the shares of a split. loaded: what it can serve.
    refused: why, by release.
    """

    name: str
    beat: int
    every_s: float
    written: float
    active: str
    loaded: Collection[str]
    shares: Mapping[str, float] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)


_REPORT: dict[str, Any] = {
    "name": str,
    "beat": int,
    "every_s": int | float,
    "written": int | float,
    "active": str,
    "loaded": list,
    "shares": dict,
    "refused": dict,
}


class Fleet:
    """The servers of one repository, this one among them. Methods wait for the repository; see there."""

    def __init__(self, repository: Repository, server: str = "", every_s: float = 1.0) -> None:
        """server: the name to report under, every `every_s` seconds; "" = a command, which does not serve."""
        self.repository = repository
        self._server = server
        self._every_s = every_s
        self._beat = 0

    # ---- the pointer

    def active(self) -> str:
        """The name of the active release. Raises ReleaseRefused, saying what to do, when there is none."""
        name = self.repository.read(ACTIVE)
        if name is None:
            found = self.repository.names()
            if found:
                command = f"twotower release activate {found[-1]} --releases {self.repository}"
                hint = f"activate one of {', '.join(found)}: {command}"
            else:
                hint = f"build one: twotower release build --activate --releases {self.repository}"
            raise ReleaseRefused(f"{self.repository} has no active release; {hint}")
        return check_name(name.strip())

    def activate(self, release: str, expected: str | None = None, *, back: bool = False) -> str:
        """Moves the pointer, in one step; the split ends. Returns the release that was active; "" = none.

        back: to one that was active before; going back again then goes further back. Raises Refused:
        RELEASE_NOT_FOUND, or RELEASE_MISMATCH when `expected` is no longer active.
        """
        if check_name(release) not in (names := self.repository.names()):
            raise Refused(Reason.RELEASE_NOT_FOUND, str(no_release(release, names)), "release")
        with self.repository.locked():
            before = self.pointer()
            if expected is not None:
                self._check_active(expected, "expected_active")
            # Only the last step that is taken changes what is served, and what `previous` says.
            if before and before != release:
                history: list[Any] = self._read(_HISTORY, list)
                history = history[: _last(history, release) + 1] if back else [*history, before][-_HISTORY_LENGTH:]
                self.repository.write(_HISTORY, json.dumps(history) + "\n")
            # A split of another release does not count any more.
            if self._read(_SPLIT, dict).get("active") == release:  # to be ended, or left from an earlier time
                self.repository.remove(_SPLIT)
            if before != release:
                self.repository.write(ACTIVE, release + "\n")
            return before

    def pointer(self) -> str:
        """What stands in the place of the active release's name, whatever it is; "" = nothing."""
        try:
            return (self.repository.read(ACTIVE) or "").strip()
        except ReleaseRefused:
            return "no text"

    def _check_active(self, expected: str, field: str) -> None:
        if (active := self.pointer()) != expected:
            raise Refused(
                Reason.RELEASE_MISMATCH,
                f"the active release is {active or 'none'} by now, not {expected or 'none'}",
                field,
            )

    def previous(self, release: str) -> str | None:
        """The release that was active before `release` and still exists; None when none is known."""
        names = self.repository.names()
        before = [name for name in self._read(_HISTORY, list) if name in names and name != release]
        return before[-1] if before else None

    # ---- the split

    def shares(self, active: str) -> dict[str, float]:
        """Shares of the traffic by release; empty = all to the active one. A split ends when another is activated."""
        split = self._read(_SPLIT, dict)
        if split.get("active") != active or not isinstance(split.get("shares"), dict):
            return {}
        try:
            shares = {check_name(name): float(share) for name, share in split["shares"].items()}
            check_shares(shares)
        except (TypeError, ValueError, TwoTowerError):
            return {}
        return shares

    def set_shares(self, active: str, shares: Mapping[str, float]) -> None:
        """Splits the traffic while `active` is the active release; no shares: it goes there alone.

        Raises Refused (RELEASE_MISMATCH) when it is no longer active.
        """
        with self.repository.locked():
            self._check_active(active, "")
            if shares:
                self.repository.write(_SPLIT, json.dumps({"active": active, "shares": dict(shares)}) + "\n")
            else:
                self.repository.remove(_SPLIT)

    # ---- the servers

    def report(
        self, active: str, shares: Mapping[str, float], loaded: Collection[str], refused: Mapping[str, str]
    ) -> None:
        """Says what this server serves and has loaded, and that it lives."""
        self._beat += 1
        report = Server(
            self._server, self._beat, self._every_s, time.time(), active, sorted(loaded), dict(shares), dict(refused)
        )
        self.repository.write(f"{_SERVERS}/{self._server}", json.dumps(asdict(report)) + "\n")

    def leave(self) -> None:
        """Takes this server's report away."""
        self.repository.remove(f"{_SERVERS}/{self._server}")

    def servers(self) -> list[Server]:
        """What the servers report, also such as have died without a word."""
        reports = [self._read(f"{_SERVERS}/{name}", dict) for name in self.repository.listed(_SERVERS)]
        return [server for report in reports if (server := _server(report)) is not None]

    def living(self) -> list[Server]:
        """The servers that live. Takes until each has reported once more; who does not is forgotten."""
        first = {server.name: server.beat for server in self.servers()}
        self._watch(lambda server: server.beat == first.get(server.name))
        return self.servers()

    def announced(self) -> set[str]:
        """The releases that every server shall load. What a killed one has announced is over after a time."""
        return {name for name in self.repository.listed(_NEXT) if self._read(f"{_NEXT}/{name}", float) > time.time()}

    def wait_loaded(self, release: str, timeout_s: float) -> None:
        """Waits until every other server that lives has loaded a release. Raises Refused, naming who has not."""
        if all(release in server.loaded for server in self.servers() if server.name != self._server):
            return

        heard: dict[str, int] = {}

        def lacks(server: Server) -> bool:
            if release in server.loaded:
                return False
            # A refusal of old may be right by now: what it says counts once it has seen the announcement.
            if release in server.refused and server.beat >= heard.setdefault(server.name, server.beat + 2):
                raise _not_loaded(f"server {server.name} refuses {release}: {server.refused[release]}")
            return True

        self.repository.write(f"{_NEXT}/{release}", f"{time.time() + timeout_s + _CLOCKS_DIFFER_S}\n")
        try:
            late = self._watch(lacks, timeout_s)
        finally:
            self.repository.remove(f"{_NEXT}/{release}")
        if late:
            raise _not_loaded(f"{', '.join(late)} did not load {release} within {timeout_s:g} s; nothing was changed")

    def wait_serving(self, active: str, shares: Mapping[str, float], timeout_s: float) -> list[str]:
        """Waits until every server that lives serves what the repository says; names those that do not in time."""
        return self._watch(lambda server: (server.active, server.shares) != (active, shares), timeout_s)

    def _watch(self, waits_for: Callable[[Server], bool], timeout_s: float = math.inf) -> list[str]:
        """Looks until no other server that lives is waited for; names those that still are in the end.

        A server whose report stays the same for too long is dead: it is forgotten.
        """
        start = time.monotonic()
        seen: dict[str, tuple[int, float]] = {}  # the last beat of a server, and since when
        while True:
            now = time.monotonic()
            late = []
            for server in self.servers():
                if server.name == self._server or not waits_for(server):
                    continue
                beat, since = seen.get(server.name, (-1, now))
                seen[server.name] = (server.beat, since if beat == server.beat else now)
                if now - seen[server.name][1] >= _DEAD_AFTER * server.every_s:
                    self.repository.remove(f"{_SERVERS}/{server.name}")
                else:
                    late.append(server.name)
            if not late or now - start > timeout_s:
                return late
            time.sleep(_LOOK_S)

    def _read(self, name: str, kind: type) -> Any:
        """A JSON text; an empty `kind` when it is absent or none."""
        try:
            value = json.loads(self.repository.read(name) or "null")
        except ValueError:
            value = None
        return value if isinstance(value, kind) else kind()


def check_shares(shares: Mapping[str, float]) -> None:
    """Raises Refused when these cannot be shares of the traffic: each from 0 to 1, their sum 1."""
    for name, share in shares.items():
        if not math.isfinite(share) or not 0 <= share <= 1:
            raise Refused(Reason.VALUE_NOT_FINITE, f"the share of {name} is {share!r}, not from 0 to 1", "shares")
    if shares and abs(math.fsum(shares.values()) - 1) > 1e-9:
        raise Refused(Reason.FIELD_CONFLICT, f"the shares sum to {math.fsum(shares.values()):g}, not 1", "shares")


def _server(report: Mapping[str, Any]) -> Server | None:
    """What a report says. A server of another version may say more, or less: that is no reason to stop."""
    known: dict[str, Any] = {name: value for name, value in report.items() if isinstance(value, _REPORT.get(name, ()))}
    return Server(**known) if known.keys() >= _REPORT.keys() - {"shares", "refused"} else None


def _last(history: Sequence[Any], release: str) -> int:
    """The last place of a release; -1 = it is not there."""
    return max((place for place, name in enumerate(history) if name == release), default=-1)


def _not_loaded(message: str) -> Refused:
    return Refused(Reason.RELEASE_NOT_LOADED, message, "release")
