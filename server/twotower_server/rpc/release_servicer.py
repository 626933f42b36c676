"""ReleaseService: every RPC is passed on to the supervisor, which switches all workers at once."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any, Protocol

from twotower import v1
from twotower_server.engine.engine import Engine
from twotower_server.rpc import convert
from twotower_server.rpc.handler import Method

_MAX_PAGE = 100
_STATES = {
    "available": v1.RELEASE_STATE_AVAILABLE,
    "verifying": v1.RELEASE_STATE_VERIFYING,
    "loaded": v1.RELEASE_STATE_LOADED,
    "active": v1.RELEASE_STATE_ACTIVE,
    "refused": v1.RELEASE_STATE_REFUSED,
}


class Ask(Protocol):
    """Calls a method of the supervisor's `Switch`. Raises what it refuses with."""

    async def __call__(self, method: str, **arguments: Any) -> Any: ...


class ReleaseServicer:
    """Serves by asking. Errors are raised as `Refused`; `handler` turns them into statuses."""

    def __init__(self, engine: Engine, ask: Ask) -> None:
        self._engine = engine
        self._ask = ask

    def methods(self) -> dict[str, Method]:
        """By RPC name."""
        return {
            "ListReleases": self.list_releases,
            "LoadRelease": self.load_release,
            "ActivateRelease": self.activate_release,
            "RollbackRelease": self.rollback_release,
            "SetTrafficSplit": self.set_traffic_split,
        }

    async def list_releases(self, request: v1.ListReleasesRequest) -> v1.ListReleasesResponse:
        states = await self._ask("states")
        # The token is the last name of the page before: releases that come and go shift nothing.
        start = bisect_right(states, request.page_token, key=lambda state: str(state["release"]))
        page = states[start : start + min(request.page_size or _MAX_PAGE, _MAX_PAGE)]
        more = start + len(page) < len(states)
        return v1.ListReleasesResponse(
            releases=[self._status(state) for state in page], next_page_token=page[-1]["release"] if more else ""
        )

    async def load_release(self, request: v1.LoadReleaseRequest) -> v1.LoadReleaseResponse:
        return v1.LoadReleaseResponse(status=self._status(await self._ask("load", release=request.release)))

    async def activate_release(self, request: v1.ActivateReleaseRequest) -> v1.ActivateReleaseResponse:
        previous = await self._ask("activate", release=request.release, expected_active=request.expected_active)
        return v1.ActivateReleaseResponse(previous=previous)

    async def rollback_release(self, request: v1.RollbackReleaseRequest) -> v1.RollbackReleaseResponse:
        return v1.RollbackReleaseResponse(active=await self._ask("rollback", from_release=request.from_release))

    async def set_traffic_split(self, request: v1.SetTrafficSplitRequest) -> v1.SetTrafficSplitResponse:
        return v1.SetTrafficSplitResponse(shares=await self._ask("split", shares=dict(request.shares)))

    def _status(self, state: dict[str, Any]) -> v1.ReleaseStatus:
        releases = self._engine.releases
        snapshot = releases.loaded.get(state["release"])
        return v1.ReleaseStatus(
            info=convert.release_info(releases, snapshot) if snapshot else v1.ReleaseInfo(release=state["release"]),
            state=_STATES[state["state"]],
            reason=state["reason"],
            served=state["served"],
            servers=state["servers"],
        )
