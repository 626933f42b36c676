"""What is not a prediction: models, health, metrics, ports, TLS."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
from http.client import HTTPException, HTTPSConnection
from pathlib import Path

import grpc
import pytest
import trustme

from tests.http.calling import TIMEOUT_S, Http, features, read
from tests.http.conftest import Own, Start
from tests.rpc.messages import ITEM, USER, user
from tests.supervisor.running import Server, until
from twotower import v1
from twotower_server.config import Config, ConfigError


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/ping", {"status": "Healthy"}),
        ("/healthz", {"live": True}),
        ("/readyz", {"ready": True}),
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True}),
        ("/v2/models/score/ready", {"name": "score", "ready": True}),
        ("/v2/models/user_tower/versions/cosine/ready", {"name": "user_tower", "ready": True}),
    ],
)
def test_health_is_told_in_the_words_of_each_protocol(http: Http, path: str, body: object) -> None:
    answer = http.get(path)
    assert (answer.status, answer.body) == (200, body)
    assert answer.headers["Server"] == "twotower"
    assert http.call("HEAD", path).status == 200


def test_metadata_names_releases_tensors_and_the_order_of_columns(http: Http) -> None:
    assert http.get("/v2").body["name"] == "twotower"
    wanted = {
        "name": "item_tower",
        "versions": ["cosine", "dot"],
        "platform": "twotower",
        "inputs": [{"name": "features", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [{"name": "embedding", "datatype": "FP32", "shape": [-1, 8]}],
        "parameters": {"release": "dot", "numeric_features": ["item_age_days", "item_ctr", "item_price"]},
    }
    assert http.get("/v2/models/item_tower").body == wanted
    pinned = http.get("/v2/models/item_tower/versions/cosine").body
    assert pinned == {**wanted, "parameters": {**wanted["parameters"], "release": "cosine"}}  # type: ignore[dict-item]
    assert http.get("/v2/models/score").body["outputs"] == [{"name": "score", "datatype": "FP32", "shape": [-1]}]


def test_the_status_of_a_model_is_that_of_its_releases(http: Http) -> None:
    def status(release: str) -> dict[str, object]:
        return {"version": release, "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}

    answer = http.get("/v1/models/user_tower").body
    assert answer == {
        "name": "user_tower",
        "ready": True,
        "model_version_status": [status("cosine"), status("dot")],
    }
    answer = http.get("/v1/models/user_tower/versions/dot").body
    assert answer["model_version_status"] == [status("dot")]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/x",
        "/v1/models/score/versions/none",
        "/v2/models/x",
        "/v2/models/x/ready",
        "/v2/models/score/versions/none",
        "/v2/models/score/versions/none/ready",
    ],
)
def test_what_is_not_there_is_not_found(http: Http, path: str) -> None:
    answer = http.get(path)
    assert answer.status == 404
    assert "cosine, dot" in answer.error or "there are user_tower, item_tower, score" in answer.error


def served(http: Http) -> dict[str, float]:
    """By release, as /metrics tells it."""
    text = http.get("/metrics").content.decode()
    return {
        name: float(n) for name, n in re.findall(r'^twotower_entries_served_total\{release="(.*)"\} (.*)$', text, re.M)
    }


def test_metrics_count_entries_of_both_ports(own: Own, http: Http) -> None:
    before = served(http)
    assert before.keys() == {"cosine", "dot"}
    http.predict("user_tower", USER, USER)
    http.post("/v2/models/score/versions/cosine/infer", {"inputs": [features({**USER, **ITEM})]})
    own.stub.GetUserEmbedding(v1.GetUserEmbeddingRequest(user=user(USER)))
    assert served(http) == {"cosine": before["cosine"] + 1, "dot": before["dot"] + 3}
    answer = http.get("/metrics")
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = answer.content.decode().splitlines()
    assert 'twotower_worker_healthy{worker="0"} 1' in lines
    assert 'twotower_release_active{release="dot"} 1' in lines
    assert 'twotower_release_active{release="cosine"} 0' in lines


def test_any_worker_answers_metrics_for_all(start: Start, releases: Path) -> None:
    own = start(releases, "dot", "--workers", "2")
    connections = [own.http.connection() for _ in range(12)]
    for connection in connections:
        connection.request("POST", "/predictions/user_tower", '{"data": [{"user_age": 1}]}')
        assert len(read(connection).predictions) == 8
    for connection in connections:
        connection.request("GET", "/metrics")
        lines = read(connection).content.decode().splitlines()
        assert 'twotower_entries_served_total{release="dot"} 12' in lines
        assert {'twotower_worker_healthy{worker="0"} 1', 'twotower_worker_healthy{worker="1"} 1'} <= {*lines}
        connection.close()
    killed = own.server.children()[0]
    own.server.send(signal.SIGSTOP)  # nothing replaces the worker that dies
    try:
        assert {*_workers(own.http)} == {"1"}
        os.kill(killed, signal.SIGKILL)
        until(lambda: sorted(_workers(own.http)) == ["0", "1"])
    finally:
        own.server.send(signal.SIGCONT)


def _workers(http: Http) -> list[str]:
    try:
        text = http.get("/metrics").content.decode()
    except OSError:  # the connection was for the worker that died
        return []
    return re.findall(r"^twotower_worker_healthy\{.*\} (.)$", text, re.M)


def test_there_is_no_http_unless_it_is_asked_for(releases: Path, tmp_path: Path) -> None:
    command = ["-m", "twotower_server.cli.main", "serve", "--releases", str(releases), "--data", str(tmp_path)]
    server = Server([*command, "--listen", "localhost:0"], tmp_path / "log", {})
    try:
        assert server.ready().keys() == {"event", "release", "target", "port"}
        (worker,) = server.children()
        libraries = Path(f"/proc/{worker}/maps").read_text()
        assert "uvloop" in libraries
        assert "aiohttp" not in libraries
        assert "orjson" not in libraries
    finally:
        server.close()


def test_a_taken_port_is_named_by_its_option(own: Own, releases: Path, tmp_path: Path) -> None:
    command = ["-m", "twotower_server.cli.main", "serve", "--releases", str(releases), "--data", str(tmp_path)]
    command += ["--listen", "localhost:0", "--http-listen", own.http.target]
    second = Server(command, tmp_path / "log", {})
    try:
        assert second.ended() == 4
        assert "another twotower server" in second.log()
        assert "--http-listen" in second.log()
    finally:
        second.close()


def test_both_ports_cannot_be_one() -> None:
    with pytest.raises(ConfigError, match="http_listen and listen have the port 7"):
        Config(Path("r"), listen=":7", http_listen="localhost:7")  # type: ignore[arg-type]


def test_with_a_certificate_both_ports_speak_tls_alone(start: Start, releases: Path, tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    issued.private_key_pem.write_to_path(key)
    for i, blob in enumerate(issued.cert_chain_pems):
        blob.write_to_path(certificate, append=i > 0)
    own = start(releases, "dot", "--tls-certificate", str(certificate), "--tls-key", str(key))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    connection = HTTPSConnection(own.http.target, timeout=TIMEOUT_S, context=context)
    connection.request("POST", "/v1/models/user_tower:predict", '{"instances": [{"user_age": 31}]}')
    assert len(read(connection).predictions) == 8
    connection.close()
    with pytest.raises((ConnectionError, HTTPException)):
        own.http.get("/ping")
    with pytest.raises(grpc.RpcError):
        own.stub.GetServingInfo(v1.GetServingInfoRequest())


@pytest.mark.parametrize(
    "sent",
    [
        b"GARBAGE\r\n\r\n",
        b"GET /ping HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"POST /v1/models/score:predict HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/models/score:predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/models/score:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{",  # and goes away
        b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03",
        b"\x00" * 1_000,
    ],
    ids=range(8),
)
def test_what_is_no_http_harms_nobody(http: Http, sent: bytes) -> None:
    host, _, port = http.target.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while more := connection.recv(65_536):
            answer += more
    assert not answer or b" 400 " in answer.partition(b"\r\n")[0], answer
    assert http.get("/ping").status == 200
