"""`client.releases` of both clients: what goes out, what comes back, what is never sent twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest

import twotower
from tests.client.scripted import ScriptedServer, refuse
from twotower import ReleaseState, v1

OpenClient = Callable[..., Any]
Code = grpc.StatusCode

INFO = v1.ReleaseInfo(release="r1", dimension=8, similarity=v1.SIMILARITY_DOT, items=300, active=True)


@pytest.fixture
def releases(scripted: ScriptedServer, open_client: OpenClient) -> Any:
    return open_client(scripted.target).releases


def status(release: str, state: Any, reason: str = "") -> v1.ReleaseStatus:
    return v1.ReleaseStatus(info=v1.ReleaseInfo(release=release), state=state, reason=reason)


def page(*statuses: v1.ReleaseStatus, next_page_token: str = "") -> v1.ListReleasesResponse:
    return v1.ListReleasesResponse(releases=statuses, next_page_token=next_page_token)


def test_list(scripted: ScriptedServer, releases: Any) -> None:
    active = v1.ReleaseStatus(info=INFO, state=v1.RELEASE_STATE_ACTIVE, served=7, servers=["a-50051", "b-50051"])
    refused = status("r2", v1.RELEASE_STATE_REFUSED, "vectors.npy: too short")
    scripted.answer("ListReleases", page(active, refused))
    first, second = releases.list()
    assert scripted.requests == [v1.ListReleasesRequest()]
    assert (first.release, first.state, first.reason) == ("r1", ReleaseState.ACTIVE, "")
    assert (first.served, first.servers) == (7, ("a-50051", "b-50051"))
    assert (first.info.dimension, first.info.items, first.info.active) == (8, 300, True)
    assert second == twotower.ReleaseStatus("r2", ReleaseState.REFUSED, "vectors.npy: too short", 0, (), None)


def test_list_reads_every_page(scripted: ScriptedServer, releases: Any) -> None:
    pages = [["r1", "r2"], ["r3"], ["r4", "r5"]]
    tokens = ["after r2", "after r3", ""]
    answers = [
        page(*(status(name, v1.RELEASE_STATE_AVAILABLE) for name in names), next_page_token=token)
        for names, token in zip(pages, tokens, strict=True)
    ]
    scripted.answer("ListReleases", *answers)
    assert [one.release for one in releases.list()] == ["r1", "r2", "r3", "r4", "r5"]
    assert [request.page_token for request in scripted.requests] == ["", "after r2", "after r3"]


def test_a_state_of_a_newer_server(scripted: ScriptedServer, releases: Any) -> None:
    scripted.answer("ListReleases", page(status("r1", 99)))
    assert releases.list()[0].state is ReleaseState.UNSPECIFIED


def test_load_returns_at_once(scripted: ScriptedServer, releases: Any) -> None:
    scripted.answer("LoadRelease", v1.LoadReleaseResponse(status=status("r2", v1.RELEASE_STATE_VERIFYING)))
    assert releases.load("r2").state is ReleaseState.VERIFYING
    assert scripted.requests == [v1.LoadReleaseRequest(release="r2")]


def test_load_waits_until_it_is_loaded(scripted: ScriptedServer, releases: Any) -> None:
    scripted.answer("LoadRelease", v1.LoadReleaseResponse(status=status("r2", v1.RELEASE_STATE_VERIFYING)))
    r1, r2 = status("r1", v1.RELEASE_STATE_ACTIVE), status("r2", v1.RELEASE_STATE_VERIFYING)
    scripted.answer("ListReleases", page(r1, r2), page(r1, status("r2", v1.RELEASE_STATE_LOADED)))
    loaded = releases.load("r2", wait_s=60)
    assert (loaded.release, loaded.state) == ("r2", ReleaseState.LOADED)
    assert len(scripted.requests) == 3


@pytest.mark.parametrize("state", [v1.RELEASE_STATE_LOADED, v1.RELEASE_STATE_ACTIVE])
def test_load_of_a_loaded_release_does_not_wait(scripted: ScriptedServer, releases: Any, state: Any) -> None:
    scripted.answer("LoadRelease", v1.LoadReleaseResponse(status=status("r1", state)))
    assert releases.load("r1", wait_s=60).state == state
    assert len(scripted.requests) == 1


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        ([status("r2", v1.RELEASE_STATE_REFUSED, "vectors.npy: too short")], "was refused: vectors.npy: too short"),
        ([status("r2", v1.RELEASE_STATE_AVAILABLE)], "no longer loads release 'r2'"),
        ([status("r1", v1.RELEASE_STATE_ACTIVE)], "'r2' was removed"),
    ],
)
def test_a_wait_ends_with_the_reason(scripted: ScriptedServer, releases: Any, listed: Any, said: str) -> None:
    scripted.answer("LoadRelease", v1.LoadReleaseResponse(status=status("r2", v1.RELEASE_STATE_VERIFYING)))
    scripted.answer("ListReleases", page(*listed))
    with pytest.raises(twotower.ReleaseNotLoaded, match=said) as caught:
        releases.load("r2", wait_s=60)
    assert caught.value.reason is twotower.ErrorReason.RELEASE_NOT_LOADED
    assert caught.value.code is Code.FAILED_PRECONDITION


def test_a_wait_that_ends_too_early(scripted: ScriptedServer, releases: Any) -> None:
    scripted.answer("LoadRelease", v1.LoadReleaseResponse(status=status("r2", v1.RELEASE_STATE_VERIFYING)))
    scripted.answer("ListReleases", page(status("r2", v1.RELEASE_STATE_VERIFYING)))
    with pytest.raises(twotower.DeadlineExceeded, match=r"'r2' is still .* after 0\.01 s; the server goes on"):
        releases.load("r2", wait_s=0.01)


def test_switches(scripted: ScriptedServer, releases: Any) -> None:
    scripted.answer("ActivateRelease", v1.ActivateReleaseResponse(previous="r1"))
    scripted.answer("RollbackRelease", v1.RollbackReleaseResponse(active="r1"))
    scripted.answer("SetTrafficSplit", v1.SetTrafficSplitResponse(shares={"r1": 0.75, "r2": 0.25}))
    assert releases.activate("r2") == "r1"
    assert releases.activate("r2", expected_active="r1") == "r1"
    assert releases.rollback("r2") == "r1"
    assert releases.set_traffic_split({"r1": 0.75, "r2": 0.25}) == {"r1": 0.75, "r2": 0.25}
    assert scripted.requests == [
        v1.ActivateReleaseRequest(release="r2"),
        v1.ActivateReleaseRequest(release="r2", expected_active="r1"),
        v1.RollbackReleaseRequest(from_release="r2"),
        v1.SetTrafficSplitRequest(shares={"r1": 0.75, "r2": 0.25}),
    ]


PASSING = [
    refuse(Code.UNAVAILABLE),
    refuse(Code.UNAVAILABLE, "NOT_READY"),
    refuse(Code.RESOURCE_EXHAUSTED, "OVERLOADED"),
]


@pytest.mark.parametrize("refusal", PASSING)
@pytest.mark.parametrize(
    ("rpc", "call"),
    [
        ("ActivateRelease", lambda releases: releases.activate("r2", expected_active="r1")),
        ("RollbackRelease", lambda releases: releases.rollback("r2")),
        ("SetTrafficSplit", lambda releases: releases.set_traffic_split({})),
    ],
)
def test_a_switch_is_sent_once(
    scripted: ScriptedServer, releases: Any, rpc: str, call: Callable[[Any], Any], refusal: Any
) -> None:
    """It may have happened, and somebody else may have switched back by the next attempt."""
    scripted.answer(rpc, refusal)
    with pytest.raises((twotower.Unavailable, twotower.Overloaded)):
        call(releases)
    assert len(scripted.requests) == 1


@pytest.mark.parametrize("refusal", PASSING)
def test_list_and_load_are_tried_again(scripted: ScriptedServer, releases: Any, refusal: Any) -> None:
    scripted.answer("ListReleases", refusal, page(status("r1", v1.RELEASE_STATE_ACTIVE)))
    scripted.answer("LoadRelease", refusal, v1.LoadReleaseResponse(status=status("r2", v1.RELEASE_STATE_VERIFYING)))
    assert len(releases.list()) == 1 and releases.load("r2").release == "r2"
    assert len(scripted.requests) == 4
