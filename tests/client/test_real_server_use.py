"""How clients are used with the real server: pinned, dense, shared, opened and closed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest

import twotower
from tests.conftest import Running
from twotower import Embedding, v1

OpenClient = Callable[..., Any]
Call = Callable[[], Any]

USER = twotower.user("u1", age=34, gender="f", interest={"sport": 0.8})
ITEM = twotower.item("x", price=12.5, ctr=0.03, category="books")
# Users who differ, so that an answer of another call would be seen.
AGES = list(range(16, 80))


def user_of(age: int) -> v1.User:
    return twotower.user(f"u{age}", age=age, hour=age % 24, gender="fm"[age % 2])


# ---- pinning


def test_a_pin_for_one_flow(server: Running, open_client: OpenClient) -> None:
    client = open_client(server.target)
    pinned = client.pin()
    assert pinned.release == "dot"
    vector = pinned.get_user_embedding(USER)
    assert vector.release == pinned.recommend(vector, 3).release == pinned.search_items("i1", 3).release == "dot"
    assert pinned.batch_get_user_embeddings([USER]).releases == ("dot",)
    assert pinned.get_item_embedding("i1").release == pinned.batch_get_item_embeddings(["i1"]).release == "dot"
    assert pinned.score(vector, ["i1"]).release == "dot"
    assert pinned.batch_score([twotower.score_request(USER, ["i1"])])[0].release == "dot"
    assert [release.release for release in pinned.serving_info().releases] == ["dot"]


def test_a_pin_never_means_another_release(server: Running, open_client: OpenClient) -> None:
    pinned = open_client(server.target).pin("cosine")
    calls: list[Call] = [
        lambda: pinned.get_user_embedding(USER),
        lambda: pinned.batch_get_user_embeddings([USER]),
        lambda: pinned.get_item_embedding("i1"),
        lambda: pinned.batch_get_item_embeddings(["i1"]),
        lambda: pinned.score(USER, ["i1"]),
        lambda: pinned.recommend(USER),
        lambda: pinned.search_items("i1"),
        pinned.serving_info,
    ]
    for call in calls:
        with pytest.raises(twotower.ReleaseNotLoaded):
            call()
    (problem,) = pinned.batch_score([twotower.score_request(USER, ["i1"])]).problems
    assert problem.reason is twotower.ErrorReason.RELEASE_NOT_LOADED


def test_a_vector_of_another_release_is_refused(
    server: Running, cosine_server: Running, open_client: OpenClient
) -> None:
    vector = open_client(cosine_server.target).get_user_embedding(USER)
    client = open_client(server.target)
    calls: list[Call] = [lambda: client.score(vector, ["i1"]), lambda: client.recommend(vector)]
    for call in calls:
        with pytest.raises(twotower.ReleaseNotLoaded, match="'cosine'"):
            call()
    with pytest.raises(twotower.ReleaseMismatch):
        client.pin().recommend(vector)


# ---- dense features


def test_dense_features_mean_the_same(server: Running, open_client: OpenClient) -> None:
    plain, dense = open_client(server.target), open_client(server.target, dense=True)
    users = [user_of(age) for age in AGES] + [USER, twotower.user(user_age=20, user_user_hour=3)]
    expected = plain.batch_get_user_embeddings(users)
    found = dense.batch_get_user_embeddings(users)
    assert found.matrix == pytest.approx(expected.matrix, abs=1e-5) and not found.problems
    assert dense.get_user_embedding(USER).values == pytest.approx(plain.get_user_embedding(USER).values, abs=1e-5)
    assert dense.get_item_embedding(ITEM).values == pytest.approx(plain.get_item_embedding(ITEM).values, abs=1e-5)
    assert dense.recommend(USER, 20).item_ids == plain.recommend(USER, 20).item_ids
    assert dense.search_items(ITEM, 20).item_ids == plain.search_items(ITEM, 20).item_ids
    requests = [twotower.score_request(USER, items=[ITEM]), twotower.score_request(user_of(30), ["i1", "nope"])]
    for one, other in zip(dense.batch_score(requests).responses, plain.batch_score(requests).responses, strict=True):
        assert one.similarities == pytest.approx(other.similarities, abs=1e-4)


def test_a_dense_vector_of_ones_own(server: Running, open_client: OpenClient) -> None:
    client = open_client(server.target)
    schema = client.serving_info().releases[0].user_schema
    values = {"user_age": 34.0, "user_hour": float("nan"), "user_ctr": 0.25}
    user = v1.User(dense_features=[values[name] for name in schema.dense_order], schema_fingerprint=schema.fingerprint)
    assert client.get_user_embedding(user).values.tolist() == (
        client.get_user_embedding(twotower.user(age=34, ctr=0.25)).values.tolist()
    )


def test_unknown_numbers_are_still_refused_when_dense(server: Running, open_client: OpenClient) -> None:
    with pytest.raises(twotower.InvalidRequest) as caught:
        open_client(server.target, dense=True).get_user_embedding(twotower.user(shoe_size=42))
    assert caught.value.reason is twotower.ErrorReason.NO_KNOWN_FEATURE


class OldSchemaFirst(grpc.UnaryUnaryClientInterceptor):
    """The first schema that the client sees is one that the server no longer has."""

    def __init__(self) -> None:
        self.methods: list[str] = []

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        call = continuation(details, request)
        self.methods.append(details.method.rpartition("/")[2])
        if self.methods == ["GetServingInfo"]:
            call.result().releases[0].user_schema.fingerprint += 1
        return call


def test_a_schema_that_changed_is_fetched_again(server: Running) -> None:
    seen = OldSchemaFirst()
    with grpc.insecure_channel(server.target) as channel:
        client = twotower.Client.from_channel(grpc.intercept_channel(channel, seen), timeout_s=30, dense=True)
        vectors = [client.get_user_embedding(USER).values for _ in range(2)]
    assert seen.methods == ["GetServingInfo", "GetUserEmbedding"] * 2 + ["GetUserEmbedding"]
    with twotower.Client(server.target, timeout_s=30) as plain:
        for vector in vectors:
            assert vector == pytest.approx(plain.get_user_embedding(USER).values, abs=1e-5)


# ---- sharing


def check(age: int, best: twotower.Recommendations, scores: twotower.Scores, expected: dict[int, Any]) -> None:
    vector, ids = expected[age]
    assert best.user_embedding is not None
    assert best.user_embedding.values == pytest.approx(vector, abs=1e-5) and best.item_ids == ids
    assert scores.similarities == pytest.approx(best.similarities, abs=1e-4)


@pytest.fixture
def expected(server: Running) -> dict[int, Any]:
    """For each age the vector and the five best items, asked for one after the other."""
    with twotower.Client(server.target, timeout_s=30) as client:
        return {
            age: (client.get_user_embedding(user_of(age)).values, client.recommend(user_of(age), 5).item_ids)
            for age in AGES
        }


@pytest.mark.parametrize("connections", [1, 3])
def test_threads_share_a_client(server: Running, expected: dict[int, Any], connections: int) -> None:
    with (
        twotower.Client(server.target, timeout_s=60, connections=connections, dense=True) as client,
        ThreadPoolExecutor(8) as threads,
    ):

        def ask(age: int) -> None:
            best = client.recommend(user_of(age), 5, include_embeddings=True)
            check(age, best, client.score(user_of(age), best.item_ids), expected)

        for done in threads.map(ask, AGES * 3):
            assert done is None


@pytest.mark.parametrize("connections", [1, 3])
def test_tasks_share_an_asyncio_client(server: Running, expected: dict[int, Any], connections: int) -> None:
    async def ask_all() -> None:
        async with twotower.AsyncClient(server.target, timeout_s=60, connections=connections, dense=True) as client:

            async def ask(age: int) -> None:
                best = await client.recommend(user_of(age), 5, include_embeddings=True)
                check(age, best, await client.score(user_of(age), best.item_ids), expected)

            async with asyncio.TaskGroup() as tasks:
                for age in AGES * 3:
                    tasks.create_task(ask(age))

    asyncio.run(ask_all())


def test_a_cancelled_task_leaves_the_client_usable(server: Running) -> None:
    async def cancel() -> None:
        async with twotower.AsyncClient(server.target, timeout_s=30) as client:
            tasks = [asyncio.create_task(client.score(USER, ["i1"] * 5000)) for _ in range(20)]
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                assert isinstance(result, asyncio.CancelledError)
            assert (await client.score(USER, ["i1"])).release == "dot"

    asyncio.run(cancel())


# ---- opening and closing


def test_with_closes(server: Running) -> None:
    with twotower.Client(server.target) as client:
        pinned = client.pin()
        assert pinned.score(USER, ["i1"]).release == "dot"
    for closed in client, pinned:
        with pytest.raises(twotower.Cancelled):
            closed.score(USER, ["i1"])


def test_async_with_closes(server: Running) -> None:
    async def use() -> None:
        async with twotower.AsyncClient(server.target) as client:
            pinned = await client.pin()
            assert (await pinned.score(USER, ["i1"])).release == "dot"
        for closed in client, pinned:
            with pytest.raises(twotower.Cancelled):
                await closed.score(USER, ["i1"])

    asyncio.run(use())


def test_an_error_inside_of_with_comes_through(server: Running) -> None:
    with pytest.raises(ZeroDivisionError), twotower.Client(server.target):
        _ = 1 / 0


def test_vectors_of_one_client_serve_another(server: Running) -> None:
    with twotower.Client(server.target, timeout_s=30) as one, twotower.Client(server.target, timeout_s=30) as other:
        vector = one.get_user_embedding(USER)
        kept = Embedding(np.array(vector.values.tolist()), vector.release)
        assert other.recommend(kept, 5).item_ids == one.recommend(USER, 5).item_ids
