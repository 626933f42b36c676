"""`twotower serve` with a real release, asked through real stubs."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import twotower
from tests.supervisor.running import PATIENCE_S, Server, alive, until

StartServer = Callable[..., Server]

USER = twotower.user("u1", {"age": 0.5, "ctr": 0.25})


@pytest.fixture
def own_releases(built_releases: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(built_releases, tmp_path / "releases"))


def recommended(target: str, k: int = 3) -> list[str]:
    with twotower.Client(target, timeout_s=PATIENCE_S) as client:
        found = client.recommend(USER, k)
        assert found.release == "r1"
        return list(found.item_ids)


def test_it_serves_the_active_release_and_ends_in_order(start_server: StartServer) -> None:
    server = start_server()
    ready = server.ready()
    assert ready["release"] == "r1"
    assert len(recommended(ready["target"])) == 3
    assert "verifying release r1" in server.log()
    server.send(signal.SIGTERM)
    assert server.ended() == 0
    assert "Traceback" not in server.log()


def test_a_release_is_verified_once(start_server: StartServer) -> None:
    first = start_server()
    first.ready()
    assert "release r1 is sound" in first.log()
    first.send(signal.SIGTERM)
    assert first.ended() == 0
    second = start_server()
    assert recommended(second.ready()["target"])
    assert "verif" not in second.log()


def test_health_is_serving_until_the_drain(start_server: StartServer) -> None:
    server = start_server("--grace-s", "1")
    with grpc.insecure_channel(server.ready()["target"]) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(service="twotower.v1.TwoTowerService"), timeout=PATIENCE_S
        )
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        server.send(signal.SIGTERM)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert server.ended() == 0


def test_a_killed_worker_is_replaced_and_serves(start_server: StartServer) -> None:
    server = start_server()
    target = server.ready()["target"]
    expected = recommended(target)
    (first,) = server.children()
    os.kill(first, signal.SIGKILL)
    until(lambda: server.log().count("worker 0 is ready") == 2)
    assert server.children() != [first]
    assert recommended(target) == expected


def test_no_worker_outlives_a_killed_supervisor(start_server: StartServer) -> None:
    server = start_server()
    server.ready()
    (worker,) = server.children()
    server.send(signal.SIGKILL)
    server.ended()
    until(lambda: not alive(worker))


def test_two_workers_share_the_port(start_server: StartServer) -> None:
    server = start_server("--workers", "2")
    target = server.ready()["target"]
    assert len(server.children()) == 2
    # Each call opens a connection of its own, and connections are spread.
    assert len({tuple(recommended(target)) for _ in range(8)}) == 1


def test_limits_are_those_configured(start_server: StartServer) -> None:
    target = start_server("--limit-k", "5").ready()["target"]
    assert len(recommended(target, 5)) == 5
    with pytest.raises(twotower.InvalidRequest) as refused:
        recommended(target, 6)
    assert refused.value.reason == twotower.ErrorReason.LIMIT_EXCEEDED


@pytest.mark.parametrize("strict", [True, False])
def test_strict_features(start_server: StartServer, strict: bool) -> None:
    target = start_server("--strict-features" if strict else "--no-strict-features").ready()["target"]
    user = twotower.user("u1", {"age": 0.5, "shoe_size": 44})
    with twotower.Client(target, timeout_s=PATIENCE_S) as client:
        if strict:
            with pytest.raises(twotower.InvalidRequest) as refused:
                client.get_user_embedding(user)
            assert refused.value.reason == twotower.ErrorReason.FEATURE_UNKNOWN
        else:
            assert client.get_user_embedding(user).release == "r1"


@pytest.mark.parametrize("reflection", [True, False])
def test_reflection(start_server: StartServer, reflection: bool) -> None:
    target = start_server("--reflection" if reflection else "--no-reflection").ready()["target"]
    with grpc.insecure_channel(target) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        answers = stub.ServerReflectionInfo(iter([request]), timeout=PATIENCE_S)
        if reflection:
            names = [service.name for service in next(answers).list_services_response.service]
            assert "twotower.v1.TwoTowerService" in names
        else:
            with pytest.raises(grpc.RpcError) as refused:
                next(answers)
            assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_tls(start_server: StartServer, tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "certificate.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    options = ("--tls-certificate", str(tmp_path / "certificate.pem"), "--tls-key", str(tmp_path / "key.pem"))
    target = start_server(*options).ready()["target"]
    tls = twotower.Tls(root_certificates=authority.cert_pem.bytes())
    with twotower.Client(target, timeout_s=PATIENCE_S, tls=tls) as client:
        assert client.get_user_embedding(USER).release == "r1"


def test_a_certificate_that_is_none(start_server: StartServer, tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("no certificate")
    server = start_server("--tls-certificate", str(tmp_path / "no.pem"), "--tls-key", str(tmp_path / "no.pem"))
    assert server.ended() == 2
    assert "--tls-certificate" in server.log()
    assert "Traceback" not in server.log()


def test_a_second_server_on_the_port_is_refused(start_server: StartServer) -> None:
    ready = start_server().ready()
    second = start_server("--listen", f":{ready['port']}")
    assert second.ended() == 4
    assert second.log().startswith(f"twotower serve: port {ready['port']} is in use by another twotower server")


def test_a_changed_byte_is_refused(start_server: StartServer, own_releases: Path) -> None:
    vectors = own_releases / "r1" / "vectors.npy"
    content = bytearray(vectors.read_bytes())
    content[-1] ^= 1
    vectors.write_bytes(content)
    server = start_server("--releases", str(own_releases))
    assert server.ended() == 3
    assert "twotower serve: release r1: vectors.npy has changed" in server.log()
    assert "Traceback" not in server.log()


def test_a_verifier_that_runs_out_of_memory_is_the_release_refused(start_server: StartServer) -> None:
    server = start_server("--verifier-memory-mib", "1")
    assert server.ended() == 3
    assert "allow more by --verifier-memory-mib" in server.log()


@pytest.fixture
def verifying(start_server: StartServer, own_releases: Path) -> Server:
    """A server whose verifier waits for ever: a file of the release is a pipe that nobody writes."""
    golden = own_releases / "r1" / "golden.json"
    golden.unlink()
    os.mkfifo(golden)
    server = start_server("--releases", str(own_releases))
    until(lambda: "verifying release r1" in server.log() and server.children())
    return server


def test_a_verifier_that_is_killed_is_the_release_refused(verifying: Server) -> None:
    (verifier,) = verifying.children()
    os.kill(verifier, signal.SIGKILL)
    assert verifying.ended() == 3
    assert "release r1: the verifier was killed, most likely because the machine ran out" in verifying.log()


def test_a_signal_ends_a_verification(verifying: Server) -> None:
    (verifier,) = verifying.children()
    verifying.send(signal.SIGTERM)
    assert verifying.ended() == 0
    assert not alive(verifier)


def test_a_data_folder_that_cannot_be_written(start_server: StartServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    server = start_server("--data", str(tmp_path / "file"))
    assert server.ended() == 1
    assert "name another folder by --data" in server.log()
