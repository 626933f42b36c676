"""Concurrent calls of the asyncio client that leave together, against a scripted server."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import grpc
import pytest

import twotower
from tests.client.scripted import Answer, ScriptedServer, refuse
from twotower import CacheMode, v1

FAST = twotower.RetryPolicy(initial_backoff_s=0.001, max_backoff_s=0.002)


def user_of(number: int) -> v1.User:
    return twotower.user(f"u{number}", age=number)


def embedded(request: v1.GetUserEmbeddingRequest, context: Any) -> v1.GetUserEmbeddingResponse:
    return v1.GetUserEmbeddingResponse(
        embedding=v1.Embedding(values=[request.user.features["age"]]),
        release=request.release or "r1",
        source=v1.SOURCE_COMPUTED,
        feature_use=v1.FeatureUse(used=1),
    )


def all_embedded(request: v1.BatchGetUserEmbeddingsRequest, context: Any) -> v1.BatchGetUserEmbeddingsResponse:
    return v1.BatchGetUserEmbeddingsResponse(
        embeddings=[v1.Embedding(values=[user.features["age"]]) for user in request.users],
        releases=[request.release or "r1"],
        sources=[v1.SOURCE_COMPUTED] * len(request.users),
    )


def scored(request: v1.ScoreRequest, context: Any) -> v1.ScoreResponse:
    count = len(request.item_ids) + len(request.item_keys)
    return v1.ScoreResponse(scores=[0.5] * count, similarities=[0.0] * count, release=request.release or "r1")


def all_scored(request: v1.BatchScoreRequest, context: Any) -> v1.BatchScoreResponse:
    return v1.BatchScoreResponse(responses=[scored(one, context) for one in request.requests])


@pytest.fixture
def script(scripted: ScriptedServer) -> ScriptedServer:
    """A server that answers every call that may leave together, and its batches."""
    scripted.answer("GetUserEmbedding", embedded)
    scripted.answer("BatchGetUserEmbeddings", all_embedded)
    scripted.answer("Score", scored)
    scripted.answer("BatchScore", all_scored)
    return scripted


class Held:
    """An answer that the test holds back. arrived, ended: that its call came, and is over."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._loop = asyncio.get_running_loop()
        self._released = threading.Event()
        self.arrived, self.ended = asyncio.Event(), asyncio.Event()
        self.time_remaining = 0.0

    def __call__(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.time_remaining = context.time_remaining()
        context.add_callback(self._end)
        self._loop.call_soon_threadsafe(self.arrived.set)
        self._released.wait(30)
        return self._answer(request, context)

    def _end(self) -> None:
        self._released.set()
        self._loop.call_soon_threadsafe(self.ended.set)

    def release(self) -> None:
        self._released.set()

    async def came(self) -> None:
        await asyncio.wait_for(self.arrived.wait(), 30)


async def begin(calls: Sequence[Coroutine[Any, Any, Any]]) -> list[asyncio.Task[Any]]:
    """Tasks that wait for their answers, in this order."""
    tasks = [asyncio.create_task(call) for call in calls]
    await asyncio.sleep(0)
    return tasks


async def settled(calls: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    """The result or the error of each."""
    return await asyncio.gather(*calls, return_exceptions=True)


def run(
    test: Callable[[twotower.AsyncClient], Coroutine[Any, Any, None]], script: ScriptedServer, **kwargs: Any
) -> None:
    async def use() -> None:
        async with twotower.AsyncClient(script.target, timeout_s=30, retry=FAST, **kwargs) as client:
            await test(client)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(use())


def sizes(script: ScriptedServer) -> list[int]:
    """Of each request the number of calls in it; 1 for a call of its own."""
    return [
        len(request.requests)
        if isinstance(request, v1.BatchScoreRequest)
        else len(request.users)
        if isinstance(request, v1.BatchGetUserEmbeddingsRequest)
        else 1
        for request in script.requests
    ]


def test_a_lone_call_goes_as_itself(script: ScriptedServer) -> None:
    async def test(client: twotower.AsyncClient) -> None:
        for _ in range(2):
            vector = await client.get_user_embedding(user_of(1))
            assert vector.feature_use == twotower.FeatureUse(used=1, missing=0, unknown=0)
        await client.score(user_of(1), ["i1"])

    run(test, script)
    expected = v1.GetUserEmbeddingRequest(user=user_of(1))
    assert script.requests == [expected, expected, v1.ScoreRequest(user=user_of(1), item_ids=["i1"])]


def test_calls_that_begin_together_leave_together(script: ScriptedServer) -> None:
    async def test(client: twotower.AsyncClient) -> None:
        vectors = await asyncio.gather(*(client.get_user_embedding(user_of(i)) for i in range(5)))
        assert [vector.values.tolist() for vector in vectors] == [[i] for i in range(5)]
        assert {(vector.release, vector.feature_use) for vector in vectors} == {("r1", None)}
        scores = await asyncio.gather(*(client.score(user_of(i), [f"i{n}" for n in range(i)]) for i in range(5)))
        assert [one.item_ids for one in scores] == [tuple(f"i{n}" for n in range(i)) for i in range(5)]
        assert [len(one.scores) for one in scores] == list(range(5))

    run(test, script)
    assert sizes(script) == [5, 5]


def test_what_comes_while_a_call_is_in_flight_leaves_when_it_returns(script: ScriptedServer) -> None:
    async def test(client: twotower.AsyncClient) -> None:
        script.answer("Score", first := Held(scored))
        (lone,) = await begin([client.score(user_of(0), ["i1"])])
        await first.came()
        waiting = await begin([client.score(user_of(i), ["i1"]) for i in range(3)])
        waiting += await begin([client.score(user_of(i), item_keys=[7, 8]) for i in range(3)])
        assert sizes(script) == [1]
        first.release()
        assert [len((await task).scores) for task in [lone, *waiting]] == [1, 1, 1, 1, 2, 2, 2]

    run(test, script)
    assert sizes(script) == [1, 6]


def test_each_connection_has_a_batch_in_flight(script: ScriptedServer) -> None:
    async def test(client: twotower.AsyncClient) -> None:
        held = [Held(scored), Held(scored)]
        script.answer("Score", *held)
        tasks = []
        for one in held:
            tasks += await begin([client.score(user_of(0), ["i1"])])
            await one.came()
        tasks += await begin([client.score(user_of(i), ["i1"]) for i in range(3)])
        assert sizes(script) == [1, 1]
        held[1].release()
        await asyncio.gather(*tasks[1:])
        held[0].release()
        await tasks[0]

    run(test, script, connections=2)
    assert sizes(script) == [1, 1, 3]


def test_releases_and_cache_modes_stay_apart(script: ScriptedServer) -> None:
    async def test(client: twotower.AsyncClient) -> None:
        pinned = await client.pin("r2")
        vectors = await asyncio.gather(
            *(client.get_user_embedding(user_of(i)) for i in range(2)),
            *(pinned.get_user_embedding(user_of(i)) for i in range(2)),
            *(client.get_user_embedding(user_of(i), cache_mode=CacheMode.REFRESH) for i in range(2)),
        )
        assert [vector.release for vector in vectors] == ["r1", "r1", "r2", "r2", "r1", "r1"]
        scores = await asyncio.gather(
            client.score(user_of(1), ["i1"]),
            pinned.score(user_of(1), ["i1"], cache_mode=CacheMode.BYPASS, require_all=True),
        )
        assert [one.release for one in scores] == ["r1", "r2"]

    run(test, script)
    *users, score = script.requests
    assert {(one.release, CacheMode(one.cache_mode), len(one.users)) for one in users} == {
        ("", CacheMode.DEFAULT, 2),
        ("r2", CacheMode.DEFAULT, 2),
        ("", CacheMode.REFRESH, 2),
    }
    assert list(score.requests) == [
        twotower.score_request(user_of(1), ["i1"]),
        twotower.score_request(user_of(1), ["i1"], cache_mode=CacheMode.BYPASS, require_all=True, release="r2"),
    ]


def test_a_batch_is_capped_by_calls(script: ScriptedServer) -> None:
    async def test(client: twotower.AsyncClient) -> None:
        await asyncio.gather(*(client.get_user_embedding(user_of(i)) for i in range(300)))

    run(test, script)
    assert sizes(script) == [128, 128, 44]


def test_a_batch_is_capped_by_bytes_and_candidates(script: ScriptedServer) -> None:
    async def test(client: twotower.AsyncClient) -> None:
        long = twotower.user("u" * 200_000, age=1)
        await asyncio.gather(*(client.get_user_embedding(long) for _ in range(7)))
        await asyncio.gather(*(client.score(user_of(i), item_keys=range(2_000)) for i in range(7)))

    run(test, script)
    assert sizes(script) == [5, 2, 4, 3]


def test_a_very_large_call_goes_alone_and_waits_for_nobody(script: ScriptedServer) -> None:
    async def test(client: twotower.AsyncClient) -> None:
        script.answer("Score", first := Held(scored), scored)
        (lone,) = await begin([client.score(user_of(0), ["i1"])])
        await first.came()
        assert len(await client.score(user_of(0), item_keys=range(2_500))) == 2_500
        assert (await client.score(twotower.user("u" * 300_000, age=1), ["i1"])).release == "r1"
        first.release()
        await lone

    run(test, script)
    assert sizes(script) == [1, 1, 1]


def test_a_bad_entry_fails_alone_as_its_own_call_would(script: ScriptedServer) -> None:
    def problem(field: str) -> v1.Problem:
        reason = v1.ERROR_REASON_VALUE_NOT_FINITE
        return v1.Problem(index=1, code=3, reason=reason, message="VALUE_NOT_FINITE: it is NaN", field=field)

    def users(request: Any, context: Any) -> Any:
        answer = all_embedded(request, context)
        answer.problems.append(problem("users[1].features[age]"))
        return answer

    def scores(request: Any, context: Any) -> Any:
        answer = all_scored(request, context)
        answer.problems.append(problem("requests[1].user.features[age]"))
        return answer

    script.answer("BatchGetUserEmbeddings", users)
    script.answer("BatchScore", scores)
    refused = refuse(grpc.StatusCode.INVALID_ARGUMENT, "VALUE_NOT_FINITE", "it is NaN", field="user.features[age]")
    script.answer("GetUserEmbedding", refused)

    async def test(client: twotower.AsyncClient) -> None:
        with pytest.raises(twotower.InvalidRequest) as alone:
            await client.get_user_embedding(user_of(1))
        for calls in (
            [client.get_user_embedding(user_of(i)) for i in range(3)],
            [client.score(user_of(i), ["i1"]) for i in range(3)],
        ):
            good, bad, other = await settled(calls)
            assert (good.release, other.release) == ("r1", "r1")
            assert type(bad) is type(alone.value) and bad.__reduce__() == alone.value.__reduce__()

    run(test, script)


def test_a_problem_without_its_message_is_asked_for_again(script: ScriptedServer) -> None:
    def users(request: Any, context: Any) -> Any:
        answer = all_embedded(request, context)
        answer.problems.add(index=0, code=3, reason=v1.ERROR_REASON_VALUE_NOT_FINITE, message="VALUE_NOT_FINITE")
        return answer

    script.answer("BatchGetUserEmbeddings", users)
    script.answer("GetUserEmbedding", refuse(grpc.StatusCode.INVALID_ARGUMENT, "VALUE_NOT_FINITE", "it is NaN"))

    async def test(client: twotower.AsyncClient) -> None:
        bad, good = await settled([client.get_user_embedding(user_of(i)) for i in range(2)])
        assert str(bad) == "VALUE_NOT_FINITE: it is NaN" and good.values.tolist() == [1]

    run(test, script)
    assert sizes(script) == [2, 1]


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    ],
)
def test_a_batch_refused_as_a_whole_is_sent_again_call_by_call(script: ScriptedServer, code: grpc.StatusCode) -> None:
    script.answer("BatchScore", refuse(code))

    async def test(client: twotower.AsyncClient) -> None:
        scores = await asyncio.gather(*(client.score(user_of(i), ["i1"] * i) for i in range(3)))
        assert [len(one) for one in scores] == [0, 1, 2]

    run(test, script)
    assert sizes(script) == [3, 1, 1, 1]


def test_what_may_pass_is_tried_again_together(script: ScriptedServer) -> None:
    overloaded = refuse(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
    script.answer("BatchScore", overloaded, all_scored)

    async def test(client: twotower.AsyncClient) -> None:
        scores = await asyncio.gather(*(client.score(user_of(i), ["i1"]) for i in range(3)))
        assert [one.release for one in scores] == ["r1"] * 3

    run(test, script)
    assert sizes(script)[0] == 3 and sum(sizes(script)[1:]) == 3


def test_other_errors_of_a_batch_are_each_callers_own(script: ScriptedServer) -> None:
    refused = refuse(grpc.StatusCode.FAILED_PRECONDITION, "RELEASE_NOT_LOADED", "r9 is not")
    script.answer("BatchGetUserEmbeddings", refused)

    async def test(client: twotower.AsyncClient) -> None:
        errors = await settled([client.get_user_embedding(user_of(i), release="r9") for i in range(3)])
        assert [str(error) for error in errors] == ["RELEASE_NOT_LOADED: r9 is not"] * 3
        assert {type(error) for error in errors} == {twotower.ReleaseNotLoaded} and len(set(map(id, errors))) == 3

    run(test, script)
    assert sizes(script) == [3]


def test_a_caller_that_is_cancelled_leaves_at_once_and_holds_nobody(script: ScriptedServer) -> None:
    async def test(client: twotower.AsyncClient) -> None:
        script.answer("Score", first := Held(scored))
        script.answer("BatchScore", batch := Held(all_scored))
        (lone,) = await begin([client.score(user_of(0), ["i1"])])
        await first.came()
        calls = await begin([client.score(user_of(i), ["i1"]) for i in range(4)])
        calls[0].cancel()  # while it waits
        with pytest.raises(asyncio.CancelledError):
            await calls[0]
        first.release()
        await batch.came()
        calls[1].cancel()  # while its batch is in flight
        with pytest.raises(asyncio.CancelledError):
            await calls[1]
        batch.release()
        assert [(await call).release for call in [lone, *calls[2:]]] == ["r1"] * 3

    run(test, script)
    assert sizes(script) == [1, 3]


def test_a_batch_that_nobody_waits_for_is_cancelled(script: ScriptedServer) -> None:
    async def test(client: twotower.AsyncClient) -> None:
        script.answer("BatchScore", batch := Held(all_scored))
        calls = await begin([client.score(user_of(i), ["i1"]) for i in range(3)])
        await batch.came()
        waiting = await begin([client.score(user_of(3), ["i1"])])
        for call in calls:
            call.cancel()
        await asyncio.wait_for(batch.ended.wait(), 30)
        assert (await waiting[0]).release == "r1"

    run(test, script)
    assert sizes(script) == [3, 1]


def test_each_caller_keeps_its_deadline(script: ScriptedServer) -> None:
    async def test(client: twotower.AsyncClient) -> None:
        script.answer("BatchScore", batch := Held(all_scored))
        calls = [client.score(user_of(i), ["i1"], timeout_s=timeout_s) for i, timeout_s in enumerate((0.5, 500, 50))]
        short, *long = await begin(calls)
        await batch.came()
        (queued,) = await begin([client.score(user_of(3), ["i1"], timeout_s=0.1)])
        for late in short, queued:
            with pytest.raises(twotower.DeadlineExceeded, match="Deadline Exceeded") as caught:
                await late
            assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert batch.time_remaining > 100  # the longest of its callers
        batch.release()
        assert [(await call).release for call in long] == ["r1"] * 2

    run(test, script)
    assert sizes(script) == [3]


def test_a_batch_has_the_context_of_its_first_call(script: ScriptedServer) -> None:
    trace = contextvars.ContextVar("trace", default="none")
    seen: list[str] = []

    class Tracing(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            seen.append(trace.get())
            return await continuation(details, request)

    async def use() -> None:
        script.answer("Score", first := Held(scored))
        async with grpc.aio.insecure_channel(script.target, interceptors=[Tracing()]) as channel:
            client = twotower.AsyncClient.from_channel(channel, timeout_s=30)
            trace.set("a")
            calls = await begin([client.score(user_of(0), ["i1"])])
            await first.came()
            for name in "bc":
                trace.set(name)
                calls += await begin([client.score(user_of(1), ["i1"])])
            first.release()
            await asyncio.gather(*calls)

    asyncio.run(use())
    assert seen == ["a", "b"]


def test_without_coalescing_every_call_goes_alone(script: ScriptedServer) -> None:
    async def test(client: twotower.AsyncClient) -> None:
        vectors = await asyncio.gather(*(client.get_user_embedding(user_of(i)) for i in range(5)))
        assert all(vector.feature_use is not None for vector in vectors)
        async with grpc.aio.insecure_channel(script.target) as channel:
            other = twotower.AsyncClient.from_channel(channel, timeout_s=30, coalescing=False)
            await asyncio.gather(*(other.score(user_of(i), ["i1"]) for i in range(5)))

    run(test, script, coalescing=False)
    assert sizes(script) == [1] * 10


def test_closing_ends_what_is_in_flight_and_what_waits(script: ScriptedServer) -> None:
    async def test(client: twotower.AsyncClient) -> None:
        script.answer("BatchScore", batch := Held(all_scored))
        calls = await begin([client.score(user_of(i), ["i1"]) for i in range(3)])
        await batch.came()
        calls += await begin([client.score(user_of(i), ["i1"]) for i in range(3)])
        await client.close()
        assert asyncio.all_tasks() - set(calls) == {asyncio.current_task()}
        for error in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(error, twotower.Cancelled)

    run(test, script)
