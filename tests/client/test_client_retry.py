"""Which failures are tried again, how often, and after how long."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc_testing
import pytest

import twotower
from tests.client.scripted import ScriptedServer, refuse, trailers_of
from twotower import ErrorReason, RetryPolicy, v1
from twotower._errors import error_of
from twotower._retry import Attempts, Deadline

Code = grpc.StatusCode
USER = twotower.user("u1", age=34)
OVERLOADED = refuse(Code.RESOURCE_EXHAUSTED, "OVERLOADED")
UNAVAILABLE = refuse(Code.UNAVAILABLE)
GOOD = v1.ScoreResponse(scores=[0.5], similarities=[0.1], release="r1")

SERVICE = v1.ScoreRequest.DESCRIPTOR.file.pool.FindServiceByName("twotower.v1.TwoTowerService")
SCORE = SERVICE.methods_by_name["Score"]


@pytest.mark.parametrize("refusal", [OVERLOADED, UNAVAILABLE, refuse(Code.UNAVAILABLE, "NOT_READY")])
def test_a_passing_refusal_is_tried_again(
    scripted: ScriptedServer, open_client: Callable[..., Any], refusal: Any
) -> None:
    scripted.answer("Score", refusal, refusal, GOOD)
    scores = open_client(scripted.target).score(USER, ["i1"])
    assert scores.release == "r1" and len(scripted.requests) == 3
    assert scripted.requests[0] == scripted.requests[2]


@pytest.mark.parametrize(
    "refusal",
    [
        refuse(Code.RESOURCE_EXHAUSTED, message="Received message larger than max (5000000 vs. 4194304)"),
        refuse(Code.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED"),
        refuse(Code.INVALID_ARGUMENT, "FIELD_REQUIRED"),
        refuse(Code.FAILED_PRECONDITION, "RELEASE_NOT_LOADED"),
        refuse(Code.FAILED_PRECONDITION, "SCHEMA_MISMATCH"),
        refuse(Code.INTERNAL, "INTERNAL"),
        refuse(Code.DEADLINE_EXCEEDED, "DEADLINE"),
        refuse(Code.ABORTED),
    ],
)
def test_any_other_refusal_is_final(scripted: ScriptedServer, open_client: Callable[..., Any], refusal: Any) -> None:
    scripted.answer("Score", refusal, GOOD)
    with pytest.raises(twotower.TwoTowerError):
        open_client(scripted.target).score(USER, ["i1"])
    assert len(scripted.requests) == 1


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_attempts_are_bounded(scripted: ScriptedServer, open_client: Callable[..., Any], attempts: int) -> None:
    scripted.answer("Score", OVERLOADED)
    retry = RetryPolicy(attempts=attempts, initial_backoff_s=0.0, max_backoff_s=0.0)
    with pytest.raises(twotower.Overloaded):
        open_client(scripted.target, retry=retry).score(USER, ["i1"])
    assert len(scripted.requests) == attempts


def test_a_wait_that_outlasts_the_deadline_is_not_begun(
    scripted: ScriptedServer, open_client: Callable[..., Any]
) -> None:
    scripted.answer("Score", refuse(Code.RESOURCE_EXHAUSTED, "OVERLOADED", retry_after_ms=600_000))
    with pytest.raises(twotower.Overloaded) as caught:
        open_client(scripted.target, timeout_s=30.0).score(USER, ["i1"])
    assert caught.value.retry_after_s == 600.0 and len(scripted.requests) == 1


def error(kind: Code = Code.UNAVAILABLE, retry_after_s: float | None = None) -> twotower.TwoTowerError:
    return error_of("no", ErrorReason.UNSPECIFIED, kind, retry_after_s=retry_after_s)


class FixedClock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def test_the_backoff_is_exponential_with_full_jitter() -> None:
    policy = RetryPolicy(attempts=6, initial_backoff_s=0.1, max_backoff_s=0.5, multiplier=2)
    bounds: list[tuple[float, float]] = []

    def half(low: float, high: float) -> float:
        bounds.append((low, high))
        return high / 2

    attempts = Attempts(policy, Deadline(float("inf")), half)
    delays = [attempts.delay_s(error()) for _ in range(6)]
    assert bounds == [(0.0, 0.1), (0.0, 0.2), (0.0, 0.4), (0.0, 0.5), (0.0, 0.5)]
    assert delays == [0.05, 0.1, 0.2, 0.25, 0.25, None]


def test_the_wait_that_the_server_asks_for_comes_before_the_jitter() -> None:
    attempts = Attempts(RetryPolicy(initial_backoff_s=0.1), Deadline(float("inf")), lambda low, high: high)
    assert attempts.delay_s(error(retry_after_s=2.0)) == pytest.approx(2.1)


def test_all_attempts_share_one_deadline() -> None:
    clock = FixedClock()
    deadline = Deadline(1.0, clock)
    attempts = Attempts(RetryPolicy(initial_backoff_s=0.4, max_backoff_s=0.4), deadline, lambda low, high: high)
    assert deadline.remaining_s() == 1.0
    assert attempts.delay_s(error()) == 0.4
    clock.seconds += 0.7
    assert deadline.remaining_s() == pytest.approx(0.3)
    assert attempts.delay_s(error()) is None
    clock.seconds += 7
    assert deadline.remaining_s() == 0.0


@pytest.mark.parametrize(
    "fields",
    [
        {"attempts": 0},
        {"initial_backoff_s": -1},
        {"initial_backoff_s": 2, "max_backoff_s": 1},
        {"multiplier": 0.5},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="RetryPolicy"):
        RetryPolicy(**fields)


class TestOnTestingChannel:
    """The blocking client on grpcio-testing's channel, where the test plays the server call by call."""

    def terminate(self, channel: Any, code: Code, details: str, trailers: Any = ()) -> Any:
        _, request, rpc = channel.take_unary_unary(SCORE)
        rpc.send_initial_metadata(())
        rpc.terminate(GOOD if code is Code.OK else None, trailers, code, details)
        return request

    def play(self, *statuses: tuple[Code, str, Any]) -> tuple[Any, list[Any]]:
        """The result of one Score answered by these statuses, and the requests that arrived."""
        channel = grpc_testing.channel([SERVICE], grpc_testing.strict_real_time())
        retry = RetryPolicy(initial_backoff_s=0.0, max_backoff_s=0.0)
        client = twotower.Client.from_channel(channel, timeout_s=30, retry=retry)
        with ThreadPoolExecutor(1) as threads:
            answer = threads.submit(client.score, USER, ["i1"])
            requests = [self.terminate(channel, *status) for status in statuses]
            return answer, requests

    def test_a_good_answer(self) -> None:
        answer, requests = self.play((Code.OK, "", ()))
        assert answer.result().scores.tolist() == [0.5]
        assert requests == [v1.ScoreRequest(user=USER, item_ids=["i1"])]

    def test_overloaded_then_unavailable_then_good(self) -> None:
        overloaded = (Code.RESOURCE_EXHAUSTED, "OVERLOADED: busy", trailers_of("OVERLOADED"))
        answer, requests = self.play(overloaded, (Code.UNAVAILABLE, "gone", ()), (Code.OK, "", ()))
        assert answer.result().release == "r1" and len(requests) == 3

    def test_a_reason_in_the_message_is_enough(self) -> None:
        answer, requests = self.play((Code.RESOURCE_EXHAUSTED, "OVERLOADED: busy", ()), (Code.OK, "", ()))
        assert answer.result().release == "r1" and len(requests) == 2

    def test_gRPCs_own_limit_is_final(self) -> None:
        answer, _ = self.play((Code.RESOURCE_EXHAUSTED, "Received message larger than max", ()))
        with pytest.raises(twotower.ResourceExhausted) as caught:
            answer.result()
        assert not isinstance(caught.value, twotower.Overloaded)

    def test_a_deadline_is_final(self) -> None:
        answer, _ = self.play((Code.DEADLINE_EXCEEDED, "Deadline Exceeded", ()))
        with pytest.raises(twotower.DeadlineExceeded):
            answer.result()

    def test_a_typed_refusal(self) -> None:
        trailers = trailers_of("RELEASE_NOT_LOADED", loaded="r1,r2")
        answer, _ = self.play((Code.FAILED_PRECONDITION, "RELEASE_NOT_LOADED: r9 is not", trailers))
        with pytest.raises(twotower.ReleaseNotLoaded) as caught:
            answer.result()
        assert caught.value.metadata == {"loaded": "r1,r2"} and caught.value.message == "r9 is not"
