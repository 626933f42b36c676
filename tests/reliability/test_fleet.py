"""Several servers of one folder: none is overlooked, none holds up the others for ever, all end in one state."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import grpc
import pytest

from tests.orthogonal import build_orthogonal
from tests.reliability.conftest import own_folder, stamp
from tests.reliability.load import caller
from tests.reliability.serving import Own, connected, starting
from tests.rpc.refusal import refused
from tests.supervisor.running import until
from twotower import v1
from twotower_server.release.stamp import is_stamped

REQUEST = v1.GetUserEmbeddingRequest(user=caller(1))


@pytest.fixture(scope="module")
def releases(orthogonal: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`left`, which is active, `right` and `third`."""
    releases = own_folder(orthogonal, tmp_path_factory.mktemp("fleet"))
    build_orthogonal("third", 1, releases)
    return releases


@pytest.fixture(scope="module")
def servers(releases: Path) -> Iterator[list[Own]]:
    """Three servers, each with a data folder of its own; the third one's verifier has no memory for other releases."""
    with ExitStack() as stack:
        started = []
        for number, memory in enumerate(("0", "0", "1")):
            data = releases.parent / f"data-{number}"
            stamp(releases, data, "left", "right", "third")
            options = ("--follow-s", "0.2", "--verifier-memory-mib", memory)
            started.append(stack.enter_context(starting(releases, data, *options)))
        servers = [stack.enter_context(connected(server)) for server in started]
        until(lambda: len(servers[0].status("left").servers) == 3)
        yield servers


@pytest.fixture
def folder(servers: Sequence[Own], releases: Path) -> Iterator[Path]:
    """The folder of releases; after a test all servers serve `left` again."""
    yield releases
    servers[0].load("left")
    servers[0].activate("left")
    until(lambda: [served(own) for own in servers] == ["left"] * 3)


def served(own: Own) -> str:
    return str(own.serving.GetUserEmbedding(REQUEST).release)


def name(own: Own) -> str:
    """Under which a server reports."""
    return f"{os.uname().nodename}-{own.target.rpartition(':')[2]}"


@contextmanager
def stopped(own: Own) -> Iterator[None]:
    """All processes of a server stand still."""
    processes = [own.server.process.pid, *own.server.children()]
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in processes:
            os.kill(pid, signal.SIGCONT)


def test_a_release_becomes_active_when_every_server_has_loaded_it(servers: Sequence[Own], folder: Path) -> None:
    one, two, three = servers
    assert one.load("right") == "LOADED"
    assert one.activate("right") == "left"
    assert served(one) == "right"
    assert {own.state("right") for own in (two, three)} <= {"LOADED", "ACTIVE"}
    assert sorted(one.status("right").servers) == sorted(map(name, servers))
    until(lambda: served(two) == served(three) == "right")
    # Another one goes back.
    assert three.rollback("right") == "left"
    until(lambda: served(one) == served(two) == "left")


def test_a_server_that_refuses_it_is_named_and_nothing_changes(servers: Sequence[Own], folder: Path) -> None:
    build_orthogonal("new", 1, folder)
    one, two, three = servers
    assert one.load("new") == "LOADED"
    request = v1.ActivateReleaseRequest(release="new")
    message = refused(one.releases.ActivateRelease, request, "RELEASE_NOT_LOADED", "release")
    assert message.startswith(f"RELEASE_NOT_LOADED: server {name(three)} refuses new: ")
    assert "--verifier-memory-mib" in message and str(folder) not in message
    assert (folder / "active").read_text() == "left\n"
    assert [served(own) for own in servers] == ["left"] * 3
    assert [own.degraded() for own in servers] == [[]] * 3
    # Two of the three have it: they need no more than the third to agree.
    until(lambda: two.state("new") == "LOADED")
    assert is_stamped(folder / "new", folder.parent / "data-1") and not is_stamped(
        folder / "new", folder.parent / "data-2"
    )


def test_a_server_that_stands_still_is_taken_for_dead_and_follows_when_it_goes_on(
    servers: Sequence[Own], folder: Path
) -> None:
    one, two, three = servers
    build_orthogonal("other", 1, folder)
    assert one.load("other") == "LOADED"
    with stopped(three):
        assert one.activate("other") == "left"
        until(lambda: served(two) == "other")
        assert name(three) not in one.status("left").servers
    # It refuses the release that is active now, says so, and goes on with its own.
    until(lambda: any("other" in sentence for sentence in three.degraded()))
    assert served(three) == "left"
    # A caller of it may move all of them to what it can serve.
    three.load("right")
    assert three.activate("right") == "left"
    until(lambda: [served(own) for own in servers] == ["right"] * 3)
    until(lambda: three.degraded() == [])


def test_operators_at_one_moment_end_in_one_state(servers: Sequence[Own], folder: Path) -> None:
    for own in servers:
        for release in ("right", "third"):
            assert own.load(release) == "LOADED"

    def attempt(call: Callable[[], object]) -> str:
        """The reason of a refusal; "" = it was done."""
        try:
            call()
        except grpc.RpcError as error:
            return str(error.details()).partition(":")[0]
        return ""

    active = "left"
    with ThreadPoolExecutor(3) as threads:
        for _ in range(6):
            # Two wish for another release, each by a server of his own, and a third splits what is active.
            wanted = [name for name in ("left", "right", "third") if name != active]
            calls: list[Callable[[], object]] = [
                partial(servers[0].activate, wanted[0], active),
                partial(servers[1].activate, wanted[1], active),
                partial(servers[2].split, **{active: 0.5, wanted[0]: 0.5}),
            ]
            answers = list(threads.map(attempt, calls))
            assert sorted(answers[:2]) == ["", "RELEASE_MISMATCH"]
            assert answers[2] in ("", "RELEASE_MISMATCH")
            active = wanted[answers.index("")]
            assert (folder / "active").read_text() == f"{active}\n"
            until(lambda serving={active: 1.0}: [shares(own) for own in servers] == [serving] * 3)  # type: ignore[misc]


def shares(own: Own) -> dict[str, float]:
    return {release.release: release.traffic_share for release in own.info().releases if release.traffic_share}
