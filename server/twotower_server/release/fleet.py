"""What the servers of one repository tell each other, as small texts beside the releases:

    active             name of the active release
    ~history           releases that were active before, the latest last
    ~split             shares of the traffic, for one active release
    ~next              a release that every server shall load, since it is about to become active
    ~servers/<server>  what a server has loaded; rewritten every second while it lives

The pointer moves in two phases: every server that lives reports the release loaded, then `active` names it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from twotower_server.errors import Reason, Refused, ReleaseRefused
from twotower_server.release.format import check_name
from twotower_server.release.repository import Repository

ACTIVE = "active"
_HISTORY = "~history"
_SPLIT = "~split"
_NEXT = "~next"
_SERVERS = "~servers"
_HISTORY_LENGTH = 20
_LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class Server:
    """What a server reports. beat: rises while it lives. refused: why, by release."""

    name: str
    beat: int
    active: str
    loaded: Collection[str]
    refused: Mapping[str, str] = field(default_factory=dict)


class Fleet:
    """The servers of one repository, this one among them. Methods wait for the repository; see there."""

    def __init__(self, repository: Repository, server: str = "") -> None:
        """server: the name to report under; "" = a command that only looks on and moves the pointer."""
        self.repository = repository
        self._server = server
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

    def activate(self, release: str, expected: str | None = None) -> None:
        """Moves the pointer; the split ends. Raises Refused (RELEASE_MISMATCH) when `expected` is no longer active."""
        with self.repository.locked():
            before = (self.repository.read(ACTIVE) or "").strip()
            if expected is not None and before != expected:
                raise Refused(
                    Reason.RELEASE_MISMATCH, f"the active release is {before} by now, not {expected}", "expected_active"
                )
            if before and before != release:
                history = [*self._read(_HISTORY, list), before][-_HISTORY_LENGTH:]
                self.repository.write(_HISTORY, json.dumps(history) + "\n")
            self.repository.remove(_SPLIT)
            self.repository.write(ACTIVE, release + "\n")

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
        return {str(name): float(share) for name, share in split["shares"].items()}

    def set_shares(self, active: str, shares: Mapping[str, float]) -> None:
        if shares:
            self.repository.write(_SPLIT, json.dumps({"active": active, "shares": dict(shares)}) + "\n")
        else:
            self.repository.remove(_SPLIT)

    # ---- the servers

    def report(self, active: str, loaded: Collection[str], refused: Mapping[str, str]) -> None:
        """Says what this server has loaded, and that it lives."""
        self._beat += 1
        report = Server(self._server, self._beat, active, sorted(loaded), refused)
        self.repository.write(f"{_SERVERS}/{self._server}", json.dumps(asdict(report)) + "\n")

    def leave(self) -> None:
        """Takes this server's report away."""
        self.repository.remove(f"{_SERVERS}/{self._server}")

    def servers(self) -> list[Server]:
        """What the servers report, also such as have died without a word."""
        reports = [self._read(f"{_SERVERS}/{name}", dict) for name in self.repository.listed(_SERVERS)]
        return [Server(**report) for report in reports if report]

    def announced(self) -> str | None:
        """The release that every server shall load."""
        name = self.repository.read(_NEXT)
        return check_name(name.strip()) if name else None

    def wait_loaded(self, release: str, timeout_s: float, dead_s: float) -> None:
        """Waits until every other server that lives has loaded a release. Raises Refused, naming those that have not.

        dead_s: a server whose report stays the same for so long is dead, and is forgotten.
        """
        others = [server for server in self.servers() if server.name != self._server]
        if all(release in server.loaded for server in others):
            return
        self.repository.write(_NEXT, release + "\n")
        try:
            self._wait_loaded(release, timeout_s, dead_s)
        finally:
            self.repository.remove(_NEXT)

    def _wait_loaded(self, release: str, timeout_s: float, dead_s: float) -> None:
        start = time.monotonic()
        seen: dict[str, tuple[int, float]] = {}  # the last beat of a server, and since when
        while True:
            now = time.monotonic()
            late = []
            for server in self.servers():
                if server.name == self._server or release in server.loaded:
                    continue
                if release in server.refused:
                    raise Refused(
                        Reason.RELEASE_NOT_LOADED,
                        f"server {server.name} refuses it: {server.refused[release]}",
                        "release",
                    )
                beat, since = seen.get(server.name, (-1, now))
                seen[server.name] = (server.beat, since if beat == server.beat else now)
                if now - seen[server.name][1] >= dead_s:
                    self.repository.remove(f"{_SERVERS}/{server.name}")
                else:
                    late.append(server.name)
            if not late:
                return
            if now - start > timeout_s:
                raise Refused(
                    Reason.RELEASE_NOT_LOADED,
                    f"{', '.join(late)} did not load {release} within {timeout_s:g} s; nothing was changed",
                    "release",
                )
            time.sleep(_LOOK_S)

    def _read(self, name: str, kind: type) -> Any:
        """A JSON text; an empty `kind` when it is absent or none."""
        try:
            value = json.loads(self.repository.read(name) or "null")
        except ValueError:
            value = None
        return value if isinstance(value, kind) else kind()
