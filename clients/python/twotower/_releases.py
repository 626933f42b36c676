"""ReleaseService: which releases the server has, loading one, switching, and splitting the traffic."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping

import grpc

from twotower import _request
from twotower._errors import DeadlineExceeded, ErrorReason, ReleaseNotLoaded
from twotower._result import ReleaseState, ReleaseStatus
from twotower._transport import AsyncTransport, Transport

# Longer than a client's calls: a switch waits for all workers and for the other servers of a fleet, by their defaults
# up to 90 s, and the releases can be in an object store.
_TIMEOUT_S = 120.0
_POLL_S = 0.2


class Releases:
    """The releases of a server: `client.releases`.

        client.releases.load("2026-05-02", wait_s=600)
        client.releases.activate("2026-05-02", expected_active="2026-05-01")

    Every call takes `timeout_s`, the seconds for all its attempts together, and raises a `TwoTowerError`.

    `activate`, `rollback` and `set_traffic_split` are sent once, whatever the client's `RetryPolicy`: where the
    connection broke in the middle, the switch may have happened, and somebody else may have switched back by the
    next attempt, which would undo that. After Unavailable or DeadlineExceeded, see what `list` says before calling
    again; `expected_active` and `from_release` then refuse what is out of date.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, *, timeout_s: float = _TIMEOUT_S) -> tuple[ReleaseStatus, ...]:
        """Every release that the server has, loaded or not, by name. Each page of 100 is a call."""
        found: list[ReleaseStatus] = []
        token: str | None = ""
        while token is not None:
            page, token = self._transport.run(_request.list_releases(token), timeout_s)
            found += page
        return tuple(found)

    def load(self, release: str, *, wait_s: float = 0.0, timeout_s: float = _TIMEOUT_S) -> ReleaseStatus:
        """Has a release verified and opened beside the active one; a loaded release stays as it is.

        wait_s: seconds to wait until it is loaded; 0 = return at once, usually with the state VERIFYING.
        timeout_s: for each call of the wait.
        Raises NotFound; while it waits ReleaseNotLoaded with the reason of a refusal, and DeadlineExceeded
        after wait_s, while the server goes on.
        """
        end = time.monotonic() + wait_s
        status = self._transport.run(_request.load_release(release), timeout_s)
        while wait_s > 0 and not _is_loaded(status):
            _check_time_left(release, wait_s, end)
            time.sleep(_POLL_S)
            status = _status_of(release, self.list(timeout_s=timeout_s))
        return status

    def activate(self, release: str, *, expected_active: str = "", timeout_s: float = _TIMEOUT_S) -> str:
        """Makes a loaded release the active one; returns the one before. The traffic split, if any, ends.

        A call that is sent after this one has returned is served by the new release, unless it is pinned.
        expected_active: raise ReleaseMismatch and change nothing when another release is active; "" = whatever
        is. Raises ReleaseNotLoaded when the release, or in a fleet one of the servers, is not ready for it.
        """
        return self._transport.run(_request.activate_release(release, expected_active), timeout_s)

    def rollback(self, from_release: str, *, timeout_s: float = _TIMEOUT_S) -> str:
        """Makes the release active that was active before `from_release`; returns it.

        Raises ReleaseMismatch and changes nothing when another one than `from_release` is active, so calling
        it again does not flip back.
        """
        return self._transport.run(_request.rollback_release(from_release), timeout_s)

    def set_traffic_split(self, shares: Mapping[str, float], *, timeout_s: float = _TIMEOUT_S) -> dict[str, float]:
        """Splits what is not pinned between loaded releases, by routing key, else user id; returns the shares
        that apply now.

        shares: from 0 to 1 by release, with the sum 1; empty = everything to the active release.
        """
        return self._transport.run(_request.set_traffic_split(shares), timeout_s)


class AsyncReleases:
    """The same as `Releases` for asyncio."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def list(self, *, timeout_s: float = _TIMEOUT_S) -> tuple[ReleaseStatus, ...]:
        """Every release that the server has, loaded or not, by name. Each page of 100 is a call."""
        found: list[ReleaseStatus] = []
        token: str | None = ""
        while token is not None:
            page, token = await self._transport.run(_request.list_releases(token), timeout_s)
            found += page
        return tuple(found)

    async def load(self, release: str, *, wait_s: float = 0.0, timeout_s: float = _TIMEOUT_S) -> ReleaseStatus:
        """Has a release verified and opened beside the active one; a loaded release stays as it is.

        wait_s: seconds to wait until it is loaded; 0 = return at once, usually with the state VERIFYING.
        timeout_s: for each call of the wait.
        Raises NotFound; while it waits ReleaseNotLoaded with the reason of a refusal, and DeadlineExceeded
        after wait_s, while the server goes on.
        """
        end = time.monotonic() + wait_s
        status = await self._transport.run(_request.load_release(release), timeout_s)
        while wait_s > 0 and not _is_loaded(status):
            _check_time_left(release, wait_s, end)
            await asyncio.sleep(_POLL_S)
            status = _status_of(release, await self.list(timeout_s=timeout_s))
        return status

    async def activate(self, release: str, *, expected_active: str = "", timeout_s: float = _TIMEOUT_S) -> str:
        """Makes a loaded release the active one; returns the one before. The traffic split, if any, ends.

        A call that is sent after this one has returned is served by the new release, unless it is pinned.
        expected_active: raise ReleaseMismatch and change nothing when another release is active; "" = whatever
        is. Raises ReleaseNotLoaded when the release, or in a fleet one of the servers, is not ready for it.
        """
        return await self._transport.run(_request.activate_release(release, expected_active), timeout_s)

    async def rollback(self, from_release: str, *, timeout_s: float = _TIMEOUT_S) -> str:
        """Makes the release active that was active before `from_release`; returns it.

        Raises ReleaseMismatch and changes nothing when another one than `from_release` is active, so calling
        it again does not flip back.
        """
        return await self._transport.run(_request.rollback_release(from_release), timeout_s)

    async def set_traffic_split(
        self, shares: Mapping[str, float], *, timeout_s: float = _TIMEOUT_S
    ) -> dict[str, float]:
        """Splits what is not pinned between loaded releases, by routing key, else user id; returns the shares
        that apply now.

        shares: from 0 to 1 by release, with the sum 1; empty = everything to the active release.
        """
        return await self._transport.run(_request.set_traffic_split(shares), timeout_s)


def _is_loaded(status: ReleaseStatus) -> bool:
    """False while the server works on it. Raises ReleaseNotLoaded when it does not, or refused the release."""
    if status.state in (ReleaseState.LOADED, ReleaseState.ACTIVE):
        return True
    if status.state is ReleaseState.VERIFYING:
        return False
    if status.state is ReleaseState.REFUSED:
        raise _not_loaded(f"release {status.release!r} was refused: {status.reason}")
    raise _not_loaded(
        f"the server no longer loads release {status.release!r}: it restarted or retired the release; load it again"
    )


def _status_of(release: str, statuses: Iterable[ReleaseStatus]) -> ReleaseStatus:
    for status in statuses:
        if status.release == release:
            return status
    raise _not_loaded(f"release {release!r} was removed while it was loaded")


def _check_time_left(release: str, wait_s: float, end: float) -> None:
    if time.monotonic() >= end:
        raise DeadlineExceeded(
            f"release {release!r} is still being verified and loaded after {wait_s:g} s; the server goes on",
            code=grpc.StatusCode.DEADLINE_EXCEEDED,
        )


def _not_loaded(message: str) -> ReleaseNotLoaded:
    return ReleaseNotLoaded(message, reason=ErrorReason.RELEASE_NOT_LOADED, code=grpc.StatusCode.FAILED_PRECONDITION)
