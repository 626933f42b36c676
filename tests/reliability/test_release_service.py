"""ReleaseService, call by call: what it refuses, what a retry does, how many releases it lists, when it closes them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from tests.orthogonal import build_orthogonal
from tests.reliability.conftest import own_folder, stamp
from tests.reliability.load import IDS, caller
from tests.reliability.serving import Own, StartOwn, connected, starting
from tests.rpc.refusal import refused
from tests.supervisor.running import PATIENCE_S, until
from twotower import v1
from twotower_server.release.stamp import write_stamp

# So many names fill more than 64 KiB, the default length of a line that asyncio reads.
MANY = 1_200
NAMES = ["Left", "left ", "../left", "", "~next", "x" * 100_000, "\0", "é"]
REQUEST = v1.GetUserEmbeddingRequest(user=caller(1))


@pytest.fixture(scope="module")
def own(orthogonal: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Own]:
    """A server with `left`, which is active, `right`, and many more in its folder, of which it knows the names."""
    place = tmp_path_factory.mktemp("service")
    releases = own_folder(orthogonal, place)
    for number in range(MANY):
        (releases / f"z{number:04}").mkdir()
        (releases / f"z{number:04}" / "release.json").touch()
    stamp(releases, place / "data")
    with starting(releases, place / "data") as server, connected(server) as own:
        yield own


@pytest.fixture(autouse=True)
def it_goes_on(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test has called, the same worker serves `left` again."""
    if "own" not in request.fixturenames:
        yield
        return
    own: Own = request.getfixturevalue("own")
    workers = own.server.children()
    yield
    own.load("left")
    own.activate("left")
    assert own.server.children() == workers
    assert "Traceback" not in own.server.log()


def listed(own: Own, page_size: int) -> list[list[str]]:
    """All pages of names."""
    pages, token = [], ""
    while True:
        request = v1.ListReleasesRequest(page_size=page_size, page_token=token)
        response = own.releases.ListReleases(request)
        pages.append([status.info.release for status in response.releases])
        token = response.next_page_token
        if not token:
            return pages


@pytest.mark.parametrize(("page_size", "most"), [(0, 100), (1_000_000, 100), (77, 77), (100, 100)])
def test_releases_are_listed_page_by_page(own: Own, page_size: int, most: int) -> None:
    pages = listed(own, page_size)
    assert [name for page in pages for name in page] == ["left", "right", *(f"z{i:04}" for i in range(MANY))]
    assert {len(page) for page in pages[:-1]} == {most} and 0 < len(pages[-1]) <= most


def test_a_page_begins_after_its_token_whatever_has_come_or_gone(own: Own) -> None:
    for token, first in (("left", "right"), ("m", "right"), ("z0004x", "z0005"), ("right", "z0000")):
        response = own.releases.ListReleases(v1.ListReleasesRequest(page_size=1, page_token=token))
        assert response.releases[0].info.release == first
    last = own.releases.ListReleases(v1.ListReleasesRequest(page_token=f"z{MANY - 1:04}"))
    assert not last.releases and last.next_page_token == ""


def test_what_is_loaded_is_described_of_the_others_the_name_is_known(own: Own) -> None:
    own.load("right")
    active, other = own.status("left"), own.status("right")
    assert (own.state("left"), own.state("right")) == ("ACTIVE", "LOADED")
    assert active.info.active and not other.info.active
    assert (active.info.dimension, active.info.items, active.info.traffic_share) == (8, 200, 1.0)
    page = own.releases.ListReleases(v1.ListReleasesRequest(page_token="right", page_size=1))
    assert page.releases[0] == v1.ReleaseStatus(info=v1.ReleaseInfo(release="z0000"), state=v1.RELEASE_STATE_AVAILABLE)
    until(lambda: list(own.status("right").servers) == [f"{name}" for name in own.status("left").servers] != [])


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_names_that_are_none(own: Own, name: str) -> None:
    reason = "RELEASE_NOT_FOUND" if name else "FIELD_REQUIRED"
    message = refused(own.releases.LoadRelease, v1.LoadReleaseRequest(release=name), reason, "release")
    assert len(message) < 2_000
    reason = "RELEASE_NOT_LOADED" if name else "FIELD_REQUIRED"
    refused(own.releases.ActivateRelease, v1.ActivateReleaseRequest(release=name), reason, "release")
    reason = "RELEASE_MISMATCH" if name else "FIELD_REQUIRED"
    refused(own.releases.RollbackRelease, v1.RollbackReleaseRequest(from_release=name), reason, "from_release")
    if name:
        request = v1.ActivateReleaseRequest(release="left", expected_active=name)
        refused(own.releases.ActivateRelease, request, "RELEASE_MISMATCH", "expected_active")


def test_requests_as_large_as_they_can_be(own: Own) -> None:
    shares = {f"{i:0100}": 0.0 for i in range(30_000)}
    message = refused(
        own.releases.SetTrafficSplit, v1.SetTrafficSplitRequest(shares=shares), "RELEASE_NOT_LOADED", "shares"
    )
    assert len(message) < 2_000
    # Each of these characters takes six bytes on the way to the supervisor.
    name = "\1" * 4_000_000
    refused(own.releases.LoadRelease, v1.LoadReleaseRequest(release=name), "RELEASE_NOT_FOUND", "release")


def test_loading_twice_is_loading_once(own: Own) -> None:
    own.load("right")
    before = own.server.log()
    with ThreadPoolExecutor(8) as threads:
        request = v1.LoadReleaseRequest(release="right")
        states = [r.status.state for r in threads.map(own.releases.LoadRelease, [request] * 32)]
    assert set(states) == {v1.RELEASE_STATE_LOADED}
    assert own.releases.LoadRelease(v1.LoadReleaseRequest(release="left")).status.state == v1.RELEASE_STATE_ACTIVE
    assert own.server.log() == before


def test_activating_again_does_nothing_and_a_guarded_retry_says_what_is_active(own: Own) -> None:
    own.load("right")
    assert own.activate("right", "left") == "left"
    assert own.activate("right") == "right"
    request = v1.ActivateReleaseRequest(release="right", expected_active="left")
    message = refused(own.releases.ActivateRelease, request, "RELEASE_MISMATCH", "expected_active")
    assert message == "RELEASE_MISMATCH: the active release is right, not left"
    assert own.active() == "right"


def test_of_many_guarded_switches_at_once_one_is_made(own: Own) -> None:
    own.load("right")
    request = v1.ActivateReleaseRequest(release="right", expected_active="left")

    def activate(_: int) -> str:
        try:
            return str(own.releases.ActivateRelease(request).previous)
        except grpc.RpcError as error:
            return str(error.details())

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(activate, range(16)))
    assert sorted(answers) == ["RELEASE_MISMATCH: the active release is right, not left"] * 15 + ["left"]


def test_going_back_and_its_retry(own: Own) -> None:
    own.load("right")
    own.activate("right")
    assert own.rollback("right") == "left"
    request = v1.RollbackReleaseRequest(from_release="right")
    message = refused(own.releases.RollbackRelease, request, "RELEASE_MISMATCH", "from_release")
    assert message == "RELEASE_MISMATCH: the active release is left, not right"
    assert own.active() == "left"


def test_while_the_supervisor_stands_still_workers_serve_and_what_was_asked_is_answered_later(own: Own) -> None:
    own.load("right")
    own.server.send(signal.SIGSTOP)
    try:
        # Far more than the socket between the two holds.
        name = "n" * 100_000
        waiting = [own.releases.LoadRelease.future(v1.LoadReleaseRequest(release=name)) for _ in range(50)]
        for _ in range(100):
            assert own.serving.GetUserEmbedding(REQUEST, timeout=PATIENCE_S).release == "left"
        assert not any(call.done() for call in waiting)
    finally:
        own.server.send(signal.SIGCONT)
    assert {call.exception(PATIENCE_S).code() for call in waiting} == {grpc.StatusCode.NOT_FOUND}
    assert own.activate("right") == "left"


def maps(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


def test_a_release_that_rests_is_kept_for_pins_and_then_gone_from_memory(start: StartOwn, folder: Path) -> None:
    build_orthogonal("third", 1, folder)
    write_stamp(folder / "third", folder.parent / "data")
    own = start("--workers", "2", "--keep-releases", "1", "--follow-s", "0.1")
    workers = own.server.children()
    pinned = v1.GetUserEmbeddingRequest(user=caller(1), release="left")
    vector = own.serving.GetUserEmbedding(pinned).embedding
    by_vector = v1.ScoreRequest(embedding=vector, item_ids=IDS)
    for release in ("right", "third"):
        assert own.load(release) == "LOADED"
    # Two wait to be activated: that closes nothing.
    until(lambda: len(own.info().releases) == 3)
    own.activate("right")
    for _ in range(20):
        assert own.serving.GetUserEmbedding(pinned).release == "left"
        assert own.serving.Score(by_vector).release == "left"
    assert all(f"{folder}/left/vectors.npy" in maps(pid) for pid in workers)
    own.activate("third")
    until(lambda: own.state("left") == "AVAILABLE")
    until(lambda: not any(f"{folder}/left/" in maps(pid) for pid in workers))
    refused(own.serving.GetUserEmbedding, pinned, "RELEASE_NOT_LOADED", "release")
    refused(own.serving.Score, by_vector, "RELEASE_NOT_LOADED", "embedding.release")
    assert all(f"{folder}/right/vectors.npy" in maps(pid) for pid in workers)
    assert own.serving.GetUserEmbedding(v1.GetUserEmbeddingRequest(user=caller(1), release="right")).release == "right"
    # It can come back: by name, and by going back, which loads it.
    assert own.rollback("third") == "right"
    assert own.rollback("right") == "left"
    assert own.serving.Score(by_vector).release == "left"
    request = v1.RollbackReleaseRequest(from_release="left")
    refused(own.releases.RollbackRelease, request, "RELEASE_NOT_FOUND", "from_release")
    assert own.server.children() == workers


def test_a_release_that_rests_too_long_is_gone_too(start: StartOwn, folder: Path) -> None:
    own = start("--keep-s", "0.5", "--follow-s", "0.1")
    own.load("right")
    own.activate("right")
    pinned = v1.GetUserEmbeddingRequest(user=caller(1), release="left")
    assert own.serving.GetUserEmbedding(pinned).release == "left"
    until(lambda: own.state("left") == "AVAILABLE")
    refused(own.serving.GetUserEmbedding, pinned, "RELEASE_NOT_LOADED", "release")
    assert own.active() == "right"
