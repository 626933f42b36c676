"""The end of a server: it says so, finishes what it has begun, and refuses the rest so that clients try again."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import twotower
from tests.life.conftest import Start, StartOwn
from tests.life.workers import HELD
from tests.reliability.load import caller
from tests.reliability.serving import OWN_CONNECTION
from tests.rpc.messages import USER, user
from tests.supervisor.running import PATIENCE_S, until
from twotower import v1

REQUEST = v1.GetUserEmbeddingRequest(user=caller(1))
SLOW = v1.GetUserEmbeddingRequest(user=user(USER, user_id=HELD))
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
IN_FLIGHT = 16


def connect(target: str, opened: ExitStack) -> grpc.Channel:
    return opened.enter_context(grpc.insecure_channel(target, OWN_CONNECTION))


def health(channel: grpc.Channel, service: str = "") -> int:
    request = health_pb2.HealthCheckRequest(service=service)
    return int(health_pb2_grpc.HealthStub(channel).Check(request, timeout=PATIENCE_S).status)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_calls_in_flight_finish_and_new_ones_are_refused(start: Start, tmp_path: Path, number: signal.Signals) -> None:
    server = start("--workers", "2", worker="tests.life.workers:hold")
    target, data = server.ready()["target"], tmp_path / "data-0"
    with ExitStack() as opened:
        stubs = [v1.TwoTowerServiceStub(connect(target, opened)) for _ in range(IN_FLIGHT)]
        slow = [stub.GetUserEmbedding.future(SLOW) for stub in stubs]
        until(lambda: len([*data.glob("begun-*")]) == IN_FLIGHT)
        server.send(number)
        until(lambda: f"{number.name}: calls in flight may finish" in server.log())

        def is_refused() -> bool:
            with ExitStack() as once:
                stub = v1.TwoTowerServiceStub(connect(target, once))
                try:
                    stub.GetUserEmbedding(REQUEST, timeout=PATIENCE_S)
                except grpc.RpcError as error:
                    assert error.code() is grpc.StatusCode.UNAVAILABLE
                    return True
                return False

        until(is_refused)
        for stub in stubs:  # on connections that are still there
            late = stub.GetUserEmbedding.future(REQUEST, timeout=PATIENCE_S)
            assert late.exception() is not None
            assert late.code() is grpc.StatusCode.UNAVAILABLE
        assert not any(call.done() for call in slow)
        (data / "go").touch()
        assert {call.result(PATIENCE_S).release for call in slow} == {"left"}
    assert server.ended() == 0
    assert "Traceback" not in server.log()


def test_calls_that_outlast_the_grace_are_ended(start_own: StartOwn, tmp_path: Path) -> None:
    own = start_own("--grace-s", "0.5", worker="tests.life.workers:hold")
    slow = own.serving.GetUserEmbedding.future(SLOW)
    until(lambda: [*(tmp_path / "data-0").glob("begun-*")])
    own.server.send(signal.SIGTERM)
    assert own.server.ended() == 0
    assert slow.exception(PATIENCE_S).code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def test_a_second_signal_ends_calls_at_once(start_own: StartOwn, tmp_path: Path) -> None:
    own = start_own("--grace-s", "3600", "--drain-delay-s", "3600", worker="tests.life.workers:hold")
    slow = own.serving.GetUserEmbedding.future(SLOW)
    until(lambda: [*(tmp_path / "data-0").glob("begun-*")])
    own.server.send(signal.SIGTERM)
    until(lambda: "calls are taken for another 3600 s" in own.server.log())
    own.server.send(signal.SIGTERM)
    assert own.server.ended() == 1
    assert slow.exception(PATIENCE_S).code() is grpc.StatusCode.UNAVAILABLE


def test_while_load_balancers_notice_calls_are_taken_on_old_and_new_connections(start: Start) -> None:
    server = start("--workers", "2", "--drain-delay-s", "5", "--http-listen", "localhost:0")
    target = server.ready()["target"]
    with ExitStack() as opened:
        channel = connect(target, opened)
        assert health(channel) == SERVING
        server.send(signal.SIGTERM)
        until(lambda: health(channel) == NOT_SERVING)
        for _ in range(20):
            another = connect(target, opened)
            assert health(another, "twotower.v1.TwoTowerService") == NOT_SERVING
            for one in (channel, another):
                assert v1.TwoTowerServiceStub(one).GetUserEmbedding(REQUEST).release == "left"
    assert server.ended() == 0


def test_a_server_that_does_not_serve_yet_ends_without_delay(start: Start) -> None:
    server = start("--drain-delay-s", "3600", worker="tests.life.workers:open_for_ever_once")
    until(lambda: "is sound" in server.log() and server.children())
    server.send(signal.SIGTERM)
    assert server.ended() == 0


def test_open_streams_of_health_and_reflection_do_not_hold_up_the_end(start: Start) -> None:
    server = start("--grace-s", "3600")
    with ExitStack() as opened:
        channel = connect(server.ready()["target"], opened)
        watches = [
            health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=service))
            for service in ("", "twotower.v1.CatalogService", "no.Service")
        ]
        unknown = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        assert [next(watch).status for watch in watches] == [SERVING, SERVING, unknown]
        over = threading.Event()

        def asking() -> Iterator[reflection_pb2.ServerReflectionRequest]:
            yield reflection_pb2.ServerReflectionRequest(list_services="")
            over.wait(PATIENCE_S)

        opened.callback(over.set)
        answers = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(asking())
        assert next(answers).list_services_response.service
        server.send(signal.SIGTERM)
        assert [next(watch).status for watch in watches[:2]] == [NOT_SERVING, NOT_SERVING]
        for watch in watches:
            with pytest.raises(grpc.RpcError) as ended:
                next(watch)
            assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        assert server.ended() == 0


def test_no_call_of_a_retrying_client_fails_when_one_of_two_servers_stops(start: Start) -> None:
    servers = [start("--workers", "2") for _ in range(2)]
    ports = [server.ready()["port"] for server in servers]
    target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
    outcomes: Counter[str] = Counter()
    over = threading.Event()

    def calling() -> None:
        with twotower.Client(target, timeout_s=PATIENCE_S) as client:
            while not over.is_set():
                try:
                    outcomes[client.get_user_embedding(twotower.user("u", {"user_age": 30})).release] += 1
                except twotower.TwoTowerError as error:
                    outcomes[f"{type(error).__name__}: {error}"] += 1

    with ThreadPoolExecutor(8) as callers:
        for _ in range(8):
            callers.submit(calling)
        until(lambda: outcomes["left"] > 500)
        servers[0].send(signal.SIGTERM)
        assert servers[0].ended() == 0
        before = outcomes["left"]
        until(lambda: outcomes["left"] > before + 500)
        over.set()
    assert set(outcomes) == {"left"}
