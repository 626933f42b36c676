"""50,000 requests that are wrong in every way: none is answered INTERNAL, ends a process, leaks, or harms another.

Everything follows from one number, which is printed: TWOTOWER_FUZZ_SEED=7 makes other requests.
"""

from __future__ import annotations

import asyncio
import collections
import http.client
import json
import math
import os
import random
import socket
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import hypothesis
import numpy as np
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from hypothesis import HealthCheck, Phase

from tests.reliability.figures import Figures
from tests.reliability.fuzz_bytes import damaged, damaged_connection, grpc_statuses
from tests.reliability.fuzz_http import RIGHT, chunked_call, nearly_right_call, whole_call
from tests.reliability.fuzz_message import nearly_right
from tests.reliability.fuzz_request import Rpc, rpcs_of
from tests.reliability.memory import anonymous_bytes
from tests.reliability.recording import recorded
from tests.reliability.serving import OWN_CONNECTION, starting
from tests.rpc.messages import ITEM, USER, item, user
from tests.rpc.recomputed import Recomputed
from tests.supervisor.running import PATIENCE_S, Server
from twotower import v1

SEED = int(os.environ.get("TWOTOWER_FUZZ_SEED", "0"))
ROUNDS = 5
# Of each round: requests by hypothesis to each RPC of a service, and damaged ones.
MESSAGES = {
    "twotower.v1.TwoTowerService": 180,
    "twotower.v1.CatalogService": 120,
    "twotower.v1.ReleaseService": 40,
    "inference.GRPCInferenceService": 100,
}
OTHER_MESSAGES = 40
DAMAGED_MESSAGES = 4_600
DAMAGED_CONNECTIONS = 1_600
HTTP_CALLS = 400
DAMAGED_HTTP_CALLS = 1_400
STREAMS = 16
# A round of the first requests warms up what only they use; then nothing grows any more.
GROWTH = 1.05

_BAD = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED}
_BAD_NUMBERS = {str(code.value[0]) for code in _BAD}
_REASONS = frozenset(v1.ErrorReason.keys())
_LARGE_BYTES = 100_000
_QUIET_S = 0.05


@dataclass(slots=True)
class Fuzzed:
    """A server, and what it was asked. sent: requests by kind. codes: how often each status was the answer."""

    server: Server
    target: str
    http_target: str
    rpcs: Sequence[Rpc]
    workers: list[int]
    releases: Mapping[str, Recomputed]
    sent: collections.Counter[str] = field(default_factory=collections.Counter)
    codes: collections.Counter[str] = field(default_factory=collections.Counter)

    @property
    def processes(self) -> list[int]:
        return [self.server.process.pid, *self.workers]


@pytest.fixture
def fuzzed(releases: Path, tmp_path: Path) -> Iterator[Fuzzed]:
    own = tmp_path / "releases"
    own.mkdir()
    for name in ("dot", "cosine"):
        (own / name).symlink_to(releases / name)
    (own / "active").write_text("dot\n")
    options = ("--workers", "2", "--http-listen", "localhost:0", "--compact-changes", "500")
    with starting(own, tmp_path / "data", *options) as server:
        ready = server.ready()
        target = str(ready["target"])
        with grpc.insecure_channel(target, OWN_CONNECTION) as channel:
            v1.ReleaseServiceStub(channel).LoadRelease(v1.LoadReleaseRequest(release="cosine"))
            rpcs = rpcs_of(channel)
            recomputed = {name: Recomputed(releases / name) for name in ("dot", "cosine")}
            yield Fuzzed(server, target, str(ready["http_target"]), rpcs, server.children(), recomputed)


def test_no_request_breaks_a_server(fuzzed: Fuzzed, figures: Figures) -> None:
    assert {rpc.path for rpc in fuzzed.rpcs} >= {
        f"/{service.full_name}/{method.name}"
        for file in (v1.TWOTOWER_SERVICE_FILE, v1.CATALOG_SERVICE_FILE, v1.RELEASE_SERVICE_FILE)
        for service in file.services_by_name.values()
        for method in service.methods
    }
    connection = recorded(fuzzed.target)
    sizes = []
    for number in range(ROUNDS):
        seed = SEED * ROUNDS + number
        seen = _send_messages(fuzzed, seed)
        asyncio.run(_send_damaged_messages(fuzzed, seed, seen))
        asyncio.run(_send_damaged_connections(fuzzed, seed, connection))
        _send_http_calls(fuzzed, seed)
        asyncio.run(_send_damaged_http_calls(fuzzed, seed))
        _is_right(fuzzed)
        sizes.append(anonymous_bytes(fuzzed.processes))
    growth = sizes[-1] / sizes[1]
    figures.add(
        f"fuzzed requests, seed {SEED}: {', '.join(f'{count:,} {kind}' for kind, count in fuzzed.sent.items())}",
        calls=fuzzed.sent.total(),
        failed=0,
        measured=f"memory {growth - 1:+.1%}; answers: "
        + ", ".join(f"{count:,} {code}" for code, count in fuzzed.codes.most_common()),
    )
    assert fuzzed.sent.total() >= 50_000
    assert growth <= GROWTH, sizes


def _is_right(fuzzed: Fuzzed) -> None:
    """After a round: the same processes, nothing in the log, and all answers as ever."""
    assert " ERROR " not in fuzzed.server.log(), fuzzed.server.log()[-5_000:]
    assert "Traceback" not in fuzzed.server.log(), fuzzed.server.log()[-5_000:]
    assert set(fuzzed.workers) <= set(fuzzed.server.children()), fuzzed.server.log()[-5_000:]
    ids = [f"i{i}" for i in range(50)]
    for _ in fuzzed.workers * 3:
        with grpc.insecure_channel(fuzzed.target, OWN_CONNECTION) as channel:
            stub, releases = v1.TwoTowerServiceStub(channel), v1.ReleaseServiceStub(channel)
            releases.SetTrafficSplit(v1.SetTrafficSplitRequest())
            releases.ActivateRelease(v1.ActivateReleaseRequest(release="dot"))
            assert stub.GetUserEmbedding(v1.GetUserEmbeddingRequest(user=user(USER))).release == "dot"
            for name, own in fuzzed.releases.items():
                query = own.user(USER)
                answer = stub.Score(v1.ScoreRequest(user=user(USER), item_ids=ids, release=name))
                np.testing.assert_allclose(answer.similarities, own.similarities(query, ids), rtol=1e-3, atol=1e-4)
                answer = stub.Score(v1.ScoreRequest(user=user(USER), items=[item(ITEM)], release=name))
                np.testing.assert_allclose(answer.similarities, [query @ own.item(ITEM)], rtol=1e-3, atol=1e-4)
                found = stub.Recommend(v1.RecommendRequest(user=user(USER), release=name, include_embeddings=True))
                vectors = np.array([entry.embedding.values for entry in found.items], np.float32)
                np.testing.assert_allclose(
                    [entry.similarity for entry in found.items], vectors @ query, rtol=1e-3, atol=1e-4
                )


# ---- messages by hypothesis


def _fuzz(seed: int, examples: int, strategy: Any, check: Callable[[Any], None]) -> None:
    settings = hypothesis.settings(
        max_examples=examples,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    hypothesis.seed(seed)(settings(hypothesis.given(strategy)(check)))()


def _send_messages(fuzzed: Fuzzed, seed: int) -> Mapping[str, list[bytes]]:
    """Sends what is nearly right to every RPC; returns what it sent, by the path of the RPC."""
    seen: dict[str, list[bytes]] = {}
    with grpc.insecure_channel(fuzzed.target, OWN_CONNECTION) as channel:
        for rpc in fuzzed.rpcs:
            sent = seen.setdefault(rpc.path, [*rpc.right])
            call = _caller(channel, rpc)

            def check(request: bytes, rpc: Rpc = rpc, sent: list[bytes] = sent, call: Any = call) -> None:
                if len(request) < _LARGE_BYTES:
                    sent.append(request)
                fuzzed.sent["messages"] += 1
                try:
                    answer = call(request)
                except grpc.RpcError as error:
                    _check_error(fuzzed, rpc, error)
                else:
                    _check_answer(fuzzed, rpc, answer)

            examples = MESSAGES.get(rpc.service, OTHER_MESSAGES)
            _fuzz(seed, examples, nearly_right(rpc.request, rpc.right, rpc.words), check)
    return seen


def _caller(channel: grpc.Channel, rpc: Rpc) -> Callable[[bytes], bytes]:
    """Sends the bytes of a request, and returns those of the (first) answer."""
    if not rpc.streams:
        unary = channel.unary_unary(rpc.path)
        return lambda request: unary(request, timeout=PATIENCE_S)
    stream = channel.stream_stream(rpc.path)

    def first(request: bytes) -> bytes:
        answers = stream(iter((request,)), timeout=PATIENCE_S)
        try:
            found: bytes = next(answers, b"")
            return found
        finally:
            answers.cancel()

    return first


def _check_error(fuzzed: Fuzzed, rpc: Rpc, error: Any) -> None:
    """A refusal has a status of the contract and says why, in its message as in its details."""
    code, message = error.code(), str(error.details())
    fuzzed.codes[code.name] += 1
    assert code not in _BAD, (rpc.path, code, message)
    too_large = code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in message
    if rpc.service.startswith("twotower.") and not too_large:
        assert code is not grpc.StatusCode.RESOURCE_EXHAUSTED, message
        trailers = dict(error.trailing_metadata())
        status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
        info = error_details_pb2.ErrorInfo()
        assert status.details[0].Unpack(info)
        assert f"ERROR_REASON_{info.reason}" in _REASONS, message
        assert message.startswith(f"{info.reason}: ") and status.message == message


def _check_answer(fuzzed: Fuzzed, rpc: Rpc, answer: bytes) -> None:
    fuzzed.codes["OK"] += 1
    if len(answer) < _LARGE_BYTES:
        _is_finite(rpc.answer.FromString(answer))


def _is_finite(message: Message) -> None:
    for found, value in message.ListFields():
        if found.cpp_type in (found.CPPTYPE_DOUBLE, found.CPPTYPE_FLOAT):
            values = value if found.is_repeated else (value,)
            assert all(map(math.isfinite, values)), (found.full_name, message)
        elif found.message_type is not None and not found.message_type.GetOptions().map_entry:
            for inner in value if found.is_repeated else (value,):
                _is_finite(inner)


# ---- damaged messages, on connections that are in order


async def _send_damaged_messages(fuzzed: Fuzzed, seed: int, seen: Mapping[str, list[bytes]]) -> None:
    order = random.Random(seed)
    # A release is loaded and activated in a hundred times the time of any other call.
    slow, quick = [], []
    for rpc in fuzzed.rpcs:
        (slow if rpc.service == "twotower.v1.ReleaseService" else quick).append(rpc)

    def damage() -> Iterator[tuple[Rpc, bytes]]:
        for number in range(DAMAGED_MESSAGES):
            rpc = order.choice(quick if number % 20 else slow)
            yield rpc, damaged(order.choice(seen[rpc.path]), order, seen[rpc.path])

    requests = damage()

    async def stream() -> None:
        async with grpc.aio.insecure_channel(fuzzed.target, options=OWN_CONNECTION) as channel:
            for rpc, request in requests:
                fuzzed.sent["damaged messages"] += 1
                try:
                    if rpc.streams:
                        call = channel.stream_stream(rpc.path)(iter((request,)), timeout=PATIENCE_S)
                        answer = await call.read()
                        call.cancel()
                        answer = b"" if answer is grpc.aio.EOF else answer
                    else:
                        answer = await channel.unary_unary(rpc.path)(request, timeout=PATIENCE_S)
                except grpc.aio.AioRpcError as error:
                    _check_error(fuzzed, rpc, error)
                else:
                    _check_answer(fuzzed, rpc, answer)

    await _together(stream)


async def _together(stream: Callable[[], Any]) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(STREAMS):
            group.create_task(stream())


# ---- connections that are damaged themselves


async def _send_damaged_connections(fuzzed: Fuzzed, seed: int, connections: Sequence[bytes]) -> None:
    order = random.Random(seed)

    def check(answer: bytes) -> None:
        for status in grpc_statuses(answer):
            assert status not in _BAD_NUMBERS, answer

    await _send_bytes(
        fuzzed,
        fuzzed.target,
        "damaged connections",
        (damaged_connection(order.choice(connections), order, connections) for _ in range(DAMAGED_CONNECTIONS)),
        order,
        check,
    )


async def _send_bytes(
    fuzzed: Fuzzed,
    target: str,
    kind: str,
    contents: Iterator[bytes],
    order: random.Random,
    check: Callable[[bytes], None],
) -> None:
    """Sends each content on a connection of its own, reads what comes back, and closes it, or breaks it off."""
    host, _, port = target.rpartition(":")

    async def stream() -> None:
        for content in contents:
            fuzzed.sent[kind] += 1
            reader, writer = await asyncio.open_connection(host, int(port))
            answer = b""
            try:
                # In two parts, of which the second comes later.
                at = order.randrange(len(content) + 1) if order.random() < 0.2 else len(content)
                for part in (content[:at], content[at:]):
                    writer.write(part)
                    await writer.drain()
                while True:
                    async with asyncio.timeout(_QUIET_S if answer else 4 * _QUIET_S):
                        if not (read := await reader.read(65_536)):
                            break
                    answer += read
            except (TimeoutError, ConnectionError):
                pass
            if order.random() < 0.5:
                linger = struct.pack("ii", 1, 0)  # closing sends RST
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.close()
            check(answer)

    await _together(stream)


# ---- HTTP


def _send_http_calls(fuzzed: Fuzzed, seed: int) -> None:
    connection = http.client.HTTPConnection(fuzzed.http_target, timeout=PATIENCE_S)

    def check(call: tuple[str, bytes]) -> None:
        path, body = call
        fuzzed.sent["HTTP calls"] += 1
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            content = response.read()
        except ConnectionError:  # a body that was refused unread
            connection.close()
            raise
        fuzzed.codes[f"HTTP {response.status}"] += 1
        assert response.status < 500, (path, body, content)
        json.loads(content, parse_constant=_refuse_constant)

    _fuzz(seed, HTTP_CALLS, nearly_right_call(), check)
    connection.close()


def _refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} in JSON")


async def _send_damaged_http_calls(fuzzed: Fuzzed, seed: int) -> None:
    order = random.Random(seed)
    calls = [form(path, body) for path, body in RIGHT for form in (whole_call, chunked_call)]

    def check(answer: bytes) -> None:
        if answer:
            version, _, rest = answer.partition(b" ")
            assert version in (b"HTTP/1.1", b"HTTP/1.0"), answer
            fuzzed.codes[f"HTTP {rest[:3].decode()}"] += 1
            assert not rest.startswith(b"5"), answer

    await _send_bytes(
        fuzzed,
        fuzzed.http_target,
        "damaged HTTP calls",
        (damaged(order.choice(calls), order, calls) for _ in range(DAMAGED_HTTP_CALLS)),
        order,
        check,
    )
