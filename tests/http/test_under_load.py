"""While callers keep on calling: releases switch, traffic is split, the server stops. No call fails, none is mixed."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tests.http.calling import Http, features, read
from tests.http.conftest import Own, Start
from tests.orthogonal import OWN
from tests.rpc.messages import ITEM, USER
from tests.supervisor.running import until
from twotower import v1

CALLERS = 8
SWITCHES = 12


@dataclass(slots=True)
class Caller:
    """One thread, one connection, call after call until it is told to stop or the server says that it closes."""

    http: Http
    number: int
    stop: threading.Event
    expected: Mapping[str, Mapping[str, list[float]]]  # by release and model
    observed: list[tuple[float, float, str]] = field(default_factory=list)  # sent, answered, by which release
    closed: bool = False
    failed: BaseException | None = None

    def run(self) -> None:
        connection = self.http.connection()
        try:
            while not self.stop.is_set() and not self.closed:
                self._call(connection)
        except BaseException as error:
            self.failed = error
        finally:
            connection.close()

    def _call(self, connection: HTTPConnection) -> None:
        user = {**USER, "user_id": f"u{self.number}"}
        pairs = pairs_of(user)
        path, body = (
            ("/v1/models/user_tower:predict", {"instances": [user]}),
            ("/v2/models/user_tower/infer", {"inputs": [features(user)]}),
            ("/predictions/score", {"data": pairs}),
        )[len(self.observed) % 3]
        sent = time.monotonic()
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = read(connection)
        assert answer.status == 200, answer.content
        assert answer.release is not None
        self.observed.append((sent, time.monotonic(), answer.release))
        self.closed = answer.headers["Connection"] == "close"
        found = _values(answer.body)
        assert found == self.expected[answer.release]["score" if "score" in path else "user_tower"]


def pairs_of(user: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{**user, "item_id": "i1"}, {**user, **ITEM}]


def expected(http: Http) -> dict[str, dict[str, list[float]]]:
    """What each release answers when it is pinned."""
    instances = {"user_tower": [USER], "score": pairs_of(USER)}
    found = {
        release: {
            model: http.post(f"/v1/models/{model}/versions/{release}:predict", {"instances": given}).predictions
            for model, given in instances.items()
        }
        for release in ("left", "right")
    }
    assert not {*found["left"]["user_tower"]} & {*found["right"]["user_tower"]} - {0.0}
    return found


def _values(body: dict[str, Any]) -> list[float]:
    found: list[float] = body["predictions"] if "predictions" in body else body["outputs"][0]["data"]
    return found


def during(own: Own, act: Callable[[Sequence[Caller]], None], callers: int = CALLERS) -> list[Caller]:
    """What was observed while `act` ran. Raises what a caller failed with."""
    stop = threading.Event()
    wanted = expected(own.http)
    found = [Caller(own.http, number, stop, wanted) for number in range(callers)]
    threads = [threading.Thread(target=caller.run) for caller in found]
    for thread in threads:
        thread.start()
    try:
        act(found)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    for caller in found:
        if caller.failed is not None:
            raise caller.failed
    return found


def answered(callers: Sequence[Caller], since: float) -> bool:
    """Whether every caller has sent three more calls since then, and got the answers; or has failed."""
    return all(c.failed or c.closed or sum(sent > since for sent, *_ in c.observed) >= 3 for c in callers)


@pytest.fixture
def two(start: Start, orthogonal: Path) -> Own:
    own = start(orthogonal, "left", "--workers", "2")
    own.load("right")
    return own


def test_what_is_sent_after_a_switch_is_served_by_the_new_release(two: Own) -> None:
    switches: list[tuple[float, float, str]] = [(0.0, 0.0, "left")]  # called, returned, to which

    def act(callers: Sequence[Caller]) -> None:
        for number in range(SWITCHES):
            release = ("right", "left")[number % 2]
            called = time.monotonic()
            two.releases.ActivateRelease(v1.ActivateReleaseRequest(release=release))
            switches.append((called, time.monotonic(), release))
            until(lambda: answered(callers, switches[-1][1]))

    observed = [entry for caller in during(two, act) for entry in caller.observed]
    assert len(observed) > 3 * CALLERS * SWITCHES - 1
    for sent, done, release in observed:
        last = [to for _, returned, to in switches if returned <= sent][-1]
        meanwhile = {to for called, returned, to in switches if called <= done and returned > sent}
        assert release in {last, *meanwhile}


def test_a_split_serves_each_user_whole_by_the_same_release_as_grpc(two: Own) -> None:
    two.releases.SetTrafficSplit(v1.SetTrafficSplitRequest(shares={"left": 0.5, "right": 0.5}))
    arms = {}
    for number in range(40):
        user = {**USER, "user_id": f"u{number}"}
        answers = [
            two.http.predict("user_tower", user, user),
            two.http.predict("score", *pairs_of(user)),
        ]
        request = v1.GetUserEmbeddingRequest(user=v1.User(user_id=f"u{number}", features={"user_age": 1}))
        (arms[number],) = {*(answer.release for answer in answers), two.stub.GetUserEmbedding(request).release}
    assert {*arms.values()} == {"left", "right"}
    # Several users are served together, by the active release.
    several = two.http.predict("user_tower", *({**USER, "user_id": f"u{number}"} for number in range(10)))
    assert several.release == "left"
    assert len(several.predictions) == 10 * 2 * OWN


def test_a_server_that_stops_fails_no_call(two: Own) -> None:
    def act(callers: Sequence[Caller]) -> None:
        until(lambda: answered(callers, 0.0))
        two.server.send(signal.SIGTERM)
        assert two.server.ended() == 0
        until(lambda: all(caller.closed or caller.failed for caller in callers))

    assert all(caller.closed for caller in during(two, act, callers=16))
    assert "Traceback" not in two.server.log()
