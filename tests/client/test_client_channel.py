"""Limits, TLS, tokens, connections and the life of a client, over real sockets."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

import twotower
from tests.client.scripted import ScriptedServer, ServerFactory
from twotower import Tls, v1

OpenClient = Callable[..., Any]
USER = twotower.user("u1", age=34)
GOOD = v1.ScoreResponse(release="r1")


def test_a_request_over_the_limit_is_not_tried_again(scripted: ScriptedServer, open_client: OpenClient) -> None:
    client = open_client(scripted.target)
    with pytest.raises(twotower.ResourceExhausted, match="larger than max") as caught:
        client.score(USER, ["x" * 1000] * 5000)
    assert not isinstance(caught.value, twotower.Overloaded) and scripted.requests == []


def test_a_response_over_the_limit_is_not_tried_again(scripted: ScriptedServer, open_client: OpenClient) -> None:
    scripted.answer("Score", v1.ScoreResponse(release="x" * 5_000_000))
    with pytest.raises(twotower.ResourceExhausted, match="larger than max"):
        open_client(scripted.target).score(USER, ["i1"])
    assert len(scripted.requests) == 1


def test_a_large_request_under_the_limit_passes(scripted: ScriptedServer, open_client: OpenClient) -> None:
    scripted.answer("Score", GOOD)
    open_client(scripted.target).score(USER, ["x" * 1000] * 4000)
    assert len(scripted.requests[0].item_ids) == 4000


def test_the_server_sees_who_calls(scripted: ScriptedServer, open_client: OpenClient) -> None:
    scripted.answer("Score", GOOD)
    open_client(scripted.target, metadata=[("x-tenant", "books")]).score(USER, ["i1"])
    assert str(scripted.metadata[0]["user-agent"]).startswith(f"twotower-python/{twotower.__version__} ")
    assert scripted.metadata[0]["x-tenant"] == "books"


@pytest.mark.parametrize("connections", [1, 3])
def test_calls_take_turns_over_the_connections(
    scripted: ScriptedServer, open_client: OpenClient, connections: int
) -> None:
    scripted.answer("Score", GOOD)
    client = open_client(scripted.target, connections=connections)
    for _ in range(2 * connections):
        client.score(USER, ["i1"])
    assert len(scripted.peers) == connections


def test_two_clients_do_not_share_a_connection(scripted: ScriptedServer, open_client: OpenClient) -> None:
    scripted.answer("Score", GOOD)
    open_client(scripted.target).score(USER, ["i1"])
    open_client(scripted.target).score(USER, ["i1"])
    assert len(scripted.peers) == 2


def test_at_least_one_connection(open_client: OpenClient) -> None:
    with pytest.raises(ValueError, match="connections"):
        open_client("localhost:1", connections=0)


class Authority:
    """A certificate authority made for this run."""

    def __init__(self) -> None:
        self._ca = trustme.CA()
        self.root = self._ca.cert_pem.bytes()

    def issue(self, *names: str) -> tuple[bytes, bytes]:
        """The private key and the certificate chain of a new certificate."""
        certificate = self._ca.issue_cert(*names)
        chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
        return certificate.private_key_pem.bytes(), chain


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def secure(authority: Authority, start_scripted: ServerFactory) -> ScriptedServer:
    scripted = start_scripted(grpc.ssl_server_credentials([authority.issue("localhost")]))
    scripted.answer("Score", GOOD)
    return scripted


def test_tls(secure: ScriptedServer, open_client: OpenClient, authority: Authority, tmp_path: Path) -> None:
    path = tmp_path / "root.pem"
    path.write_bytes(authority.root)
    for tls in Tls(root_certificates=authority.root), Tls.from_files(root_certificates=path):
        assert open_client(secure.target, tls=tls).score(USER, ["i1"]).release == "r1"


def test_a_server_of_another_authority_is_not_trusted(secure: ScriptedServer, open_client: OpenClient) -> None:
    for tls in Tls(root_certificates=Authority().root), Tls():
        with pytest.raises(twotower.Unavailable):
            open_client(secure.target, tls=tls).score(USER, ["i1"])
    with pytest.raises(twotower.Unavailable):
        open_client(secure.target).score(USER, ["i1"])
    assert secure.requests == []


def test_the_name_in_the_certificate_can_differ(
    authority: Authority, start_scripted: ServerFactory, open_client: OpenClient
) -> None:
    scripted = start_scripted(grpc.ssl_server_credentials([authority.issue("twotower.internal")]))
    scripted.answer("Score", GOOD)
    with pytest.raises(twotower.Unavailable):
        open_client(scripted.target, tls=Tls(authority.root)).score(USER, ["i1"])
    tls = Tls(authority.root, server_name="twotower.internal")
    assert open_client(scripted.target, tls=tls).score(USER, ["i1"]).release == "r1"


def test_a_client_certificate(authority: Authority, start_scripted: ServerFactory, open_client: OpenClient) -> None:
    credentials = grpc.ssl_server_credentials([authority.issue("localhost")], authority.root, True)
    scripted = start_scripted(credentials)
    scripted.answer("Score", GOOD)
    key, chain = authority.issue("caller")
    with pytest.raises(twotower.Unavailable):
        open_client(scripted.target, tls=Tls(authority.root)).score(USER, ["i1"])
    tls = Tls(authority.root, certificate_chain=chain, private_key=key)
    assert open_client(scripted.target, tls=tls).score(USER, ["i1"]).release == "r1"


def test_half_a_client_certificate_is_refused() -> None:
    with pytest.raises(ValueError, match="both"):
        Tls(private_key=b"key")


def test_a_token_travels_under_tls(secure: ScriptedServer, open_client: OpenClient, authority: Authority) -> None:
    tls = Tls(authority.root)
    open_client(secure.target, tls=tls, token="fixed").score(USER, ["i1"])
    renewed = iter(["first", "second"])
    client = open_client(secure.target, tls=tls, token=lambda: next(renewed))
    client.score(USER, ["i1"])
    client.score(USER, ["i1"])
    assert [metadata["authorization"] for metadata in secure.metadata] == [
        "Bearer fixed",
        "Bearer first",
        "Bearer second",
    ]


def test_a_token_that_cannot_be_had_fails_the_call(
    secure: ScriptedServer, open_client: OpenClient, authority: Authority
) -> None:
    def token() -> str:
        raise RuntimeError("the vault is closed")

    with pytest.raises(twotower.TwoTowerError, match="vault is closed"):
        open_client(secure.target, tls=Tls(authority.root), token=token).score(USER, ["i1"])
    assert secure.requests == []


def test_a_token_never_travels_in_clear_text(open_client: OpenClient) -> None:
    with pytest.raises(ValueError, match="clear text"):
        open_client("localhost:1", token="secret")


def test_threads_share_a_client(scripted: ScriptedServer) -> None:
    scripted.answer("GetItemEmbedding", lambda request, _: v1.GetItemEmbeddingResponse(release=request.item_id))
    with (
        twotower.Client(scripted.target, timeout_s=30, connections=2) as client,
        ThreadPoolExecutor(8) as threads,
    ):
        names = [f"i{position}" for position in range(200)]
        results = list(threads.map(client.get_item_embedding, names))
    assert [result.release for result in results] == names


def test_tasks_share_an_asyncio_client(scripted: ScriptedServer) -> None:
    scripted.answer("GetItemEmbedding", lambda request, _: v1.GetItemEmbeddingResponse(release=request.item_id))
    names = [f"i{position}" for position in range(200)]

    async def call_all() -> list[str]:
        async with twotower.AsyncClient(scripted.target, timeout_s=30) as client:
            results = await asyncio.gather(*(client.get_item_embedding(name) for name in names))
            return [result.release for result in results]

    assert asyncio.run(call_all()) == names


def test_cancelling_a_task_cancels_its_call(scripted: ScriptedServer) -> None:
    async def cancel() -> None:
        loop = asyncio.get_running_loop()
        arrived, ended = asyncio.Event(), asyncio.Event()

        def answer(request: Any, context: grpc.ServicerContext) -> Any:
            def on_end() -> None:
                loop.call_soon_threadsafe(ended.set)

            context.add_callback(on_end)
            loop.call_soon_threadsafe(arrived.set)
            asyncio.run_coroutine_threadsafe(ended.wait(), loop).result(30)
            return GOOD

        scripted.answer("Score", answer)
        async with twotower.AsyncClient(scripted.target, timeout_s=60) as client:
            task = asyncio.create_task(client.score(USER, ["i1"]))
            await asyncio.wait_for(arrived.wait(), 30)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.wait_for(ended.wait(), 30)

    asyncio.run(cancel())


def test_a_closed_client_makes_no_calls(scripted: ScriptedServer, open_client: OpenClient) -> None:
    scripted.answer("Score", GOOD)
    client = open_client(scripted.target)
    client.score(USER, ["i1"])
    client.close()
    with pytest.raises(twotower.Cancelled, match="closed"):
        client.score(USER, ["i1"])
    assert len(scripted.requests) == 1
    client.close()


def test_closing_an_asyncio_client_ends_its_calls_but_no_task(scripted: ScriptedServer) -> None:
    released = threading.Event()

    async def close() -> None:
        loop = asyncio.get_running_loop()
        arrived = asyncio.Event()

        def answer(request: Any, context: grpc.ServicerContext) -> Any:
            loop.call_soon_threadsafe(arrived.set)
            released.wait(30)
            return GOOD

        scripted.answer("Score", answer)
        client = twotower.AsyncClient(scripted.target, timeout_s=60)
        task = asyncio.create_task(client.score(USER, ["i1"]))
        await asyncio.wait_for(arrived.wait(), 30)
        await client.close()
        with pytest.raises(twotower.Cancelled):
            await task
        assert not task.cancelled()

    try:
        asyncio.run(close())
    finally:
        released.set()


def test_an_asyncio_client_needs_a_running_loop() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        twotower.AsyncClient("localhost:1")


def test_a_channel_of_ones_own_stays_open(scripted: ScriptedServer) -> None:
    scripted.answer("Score", GOOD)
    with grpc.insecure_channel(scripted.target) as channel:
        for _ in range(2):
            with twotower.Client.from_channel(channel, timeout_s=30) as client:
                assert client.score(USER, ["i1"]).release == "r1"


def test_an_asyncio_channel_of_ones_own_stays_open(scripted: ScriptedServer) -> None:
    scripted.answer("Score", GOOD)

    async def call() -> None:
        async with grpc.aio.insecure_channel(scripted.target) as channel:
            for _ in range(2):
                async with twotower.AsyncClient.from_channel(channel, timeout_s=30) as client:
                    assert (await client.score(USER, ["i1"])).release == "r1"

    asyncio.run(call())
