"""A worker that is stopped (SIGSTOP) across switches: when it goes on, nothing of the old release comes from it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from tests.reliability.load import caller
from tests.reliability.serving import OWN_CONNECTION, Own, StartOwn
from tests.supervisor.running import PATIENCE_S, until
from twotower import v1

REQUEST = v1.GetUserEmbeddingRequest(user=caller(1))
_ESTABLISHED = "01"


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def connections(own: Own, each: int) -> dict[int, list[Own]]:
    """So many connections to each of the workers. The kernel chooses a worker, so that many are opened."""
    found: dict[int, list[Own]] = {pid: [] for pid in own.server.children()}
    seen = {pid: accepted(pid) for pid in found}

    def enough() -> bool:
        another = Own(own.server, own.target, grpc.insecure_channel(own.target, OWN_CONNECTION))
        another.serving.GetUserEmbedding(REQUEST)
        (pid,) = [pid for pid in found if accepted(pid) != seen[pid]]
        seen[pid] = accepted(pid)
        found[pid].append(another)
        return all(len(connected) >= each for connected in found.values())

    until(enough)
    return found


def accepted(pid: int) -> set[str]:
    """The connections of a process, by their inodes."""
    sockets = {os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir()}
    lines = [line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()]
    return {line[9] for line in lines if line[3] == _ESTABLISHED and f"socket:[{line[9]}]" in sockets}


def test_a_stopped_worker_serves_nothing_old_when_it_goes_on(start: StartOwn) -> None:
    own = start("--workers", "2")
    own.load("right")
    workers = connections(own, each=3)
    stops, other = workers
    with stopped(stops):
        for release, before in (("right", "left"), ("left", "right"), ("right", "left")):
            assert workers[other][0].activate(release) == before
            assert workers[other][1].serving.GetUserEmbedding(REQUEST).release == release
        sent_after = [one.serving.GetUserEmbedding.future(REQUEST, timeout=PATIENCE_S) for one in workers[stops]]
    for call in sent_after:
        if call.exception() is None:
            assert call.result().release == "right"
        else:
            assert call.code() is grpc.StatusCode.UNAVAILABLE
            assert call.details().startswith("NOT_READY: ")
    until(lambda: served(workers[stops][0]) == "right")
    assert own.activate("left") == "right"
    assert {served(one) for connected in workers.values() for one in connected} == {"left"}
    assert set(own.server.children()) == set(workers), "both are the same as ever"
    for connected in workers.values():
        for one in connected:
            one.channel.close()


def served(own: Own) -> str:
    """The release of an answer; "" while the worker is behind."""
    try:
        return str(own.serving.GetUserEmbedding(REQUEST).release)
    except grpc.RpcError as error:
        assert str(error.details()).startswith("NOT_READY: ")
        return ""
