"""From statuses and trailers to the tree of errors, in both clients."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from typing import Any

import grpc
import pytest

import twotower
from tests.client.scripted import ScriptedServer, ServerFactory, refuse
from twotower import ErrorReason, v1
from twotower._errors import error_of

Code = grpc.StatusCode
USER = twotower.user("u1", age=34)

BY_REASON = [
    (Code.INVALID_ARGUMENT, "FIELD_REQUIRED", twotower.InvalidRequest),
    (Code.INVALID_ARGUMENT, "FIELD_CONFLICT", twotower.InvalidRequest),
    (Code.INVALID_ARGUMENT, "VALUE_NOT_FINITE", twotower.InvalidRequest),
    (Code.INVALID_ARGUMENT, "FEATURE_TYPE", twotower.InvalidRequest),
    (Code.INVALID_ARGUMENT, "FEATURE_UNKNOWN", twotower.InvalidRequest),
    (Code.INVALID_ARGUMENT, "NO_KNOWN_FEATURE", twotower.InvalidRequest),
    (Code.FAILED_PRECONDITION, "SCHEMA_MISMATCH", twotower.SchemaMismatch),
    (Code.INVALID_ARGUMENT, "DIMENSION_MISMATCH", twotower.InvalidRequest),
    (Code.INVALID_ARGUMENT, "LIMIT_EXCEEDED", twotower.InvalidRequest),
    (Code.INVALID_ARGUMENT, "FILTER_INVALID", twotower.InvalidRequest),
    (Code.NOT_FOUND, "ITEM_NOT_FOUND", twotower.NotFound),
    (Code.NOT_FOUND, "RELEASE_NOT_FOUND", twotower.NotFound),
    (Code.FAILED_PRECONDITION, "RELEASE_NOT_LOADED", twotower.ReleaseNotLoaded),
    (Code.FAILED_PRECONDITION, "RELEASE_MISMATCH", twotower.ReleaseMismatch),
    (Code.FAILED_PRECONDITION, "ITEM_KEY_COLLISION", twotower.InvalidRequest),
    (Code.RESOURCE_EXHAUSTED, "OVERLOADED", twotower.Overloaded),
    (Code.UNAVAILABLE, "NOT_READY", twotower.Unavailable),
    (Code.UNAVAILABLE, "STORE_UNAVAILABLE", twotower.Unavailable),
    (Code.DEADLINE_EXCEEDED, "DEADLINE", twotower.DeadlineExceeded),
    (Code.INTERNAL, "INTERNAL", twotower.InternalError),
]


def test_the_reasons_are_those_of_the_contract() -> None:
    names = {f"ERROR_REASON_{reason.name}": reason.value for reason in ErrorReason}
    assert names == dict(v1.ErrorReason.items())
    assert {name for _, name, _ in BY_REASON} == {reason.name for reason in ErrorReason if reason}


@pytest.mark.parametrize(("code", "reason", "kind"), BY_REASON)
def test_a_reason_chooses_the_error(
    scripted: ScriptedServer,
    open_client: Callable[..., Any],
    code: Code,
    reason: str,
    kind: type[twotower.TwoTowerError],
) -> None:
    scripted.answer("GetUserEmbedding", refuse(code, reason, "look here", field="user.features[age]"))
    with pytest.raises(twotower.TwoTowerError) as caught:
        open_client(scripted.target).get_user_embedding(USER)
    error = caught.value
    assert type(error) is kind
    assert error.reason is ErrorReason[reason] and error.code is code
    assert error.message == "look here" and str(error) == f"{reason}: look here"
    assert error.metadata == {"field": "user.features[age]"}
    assert error.retry_after_s is None


BY_CODE = [
    (Code.INVALID_ARGUMENT, twotower.InvalidRequest),
    (Code.NOT_FOUND, twotower.NotFound),
    (Code.RESOURCE_EXHAUSTED, twotower.ResourceExhausted),
    (Code.UNAVAILABLE, twotower.Unavailable),
    (Code.UNAUTHENTICATED, twotower.AccessDenied),
    (Code.PERMISSION_DENIED, twotower.AccessDenied),
    (Code.UNIMPLEMENTED, twotower.Unimplemented),
    (Code.INTERNAL, twotower.InternalError),
    (Code.FAILED_PRECONDITION, twotower.TwoTowerError),
]


@pytest.mark.parametrize(("code", "kind"), BY_CODE)
def test_without_a_reason_the_code_chooses(
    scripted: ScriptedServer, open_client: Callable[..., Any], code: Code, kind: type[twotower.TwoTowerError]
) -> None:
    scripted.answer("Score", refuse(code, message="a proxy says no"))
    with pytest.raises(twotower.TwoTowerError) as caught:
        open_client(scripted.target).score(USER, ["i1"])
    assert type(caught.value) is kind
    assert caught.value.reason is ErrorReason.UNSPECIFIED
    assert str(caught.value) == f"{code.name}: a proxy says no"


def test_without_trailers_the_leading_reason_counts(scripted: ScriptedServer, open_client: Callable[..., Any]) -> None:
    scripted.answer("Recommend", refuse(Code.FAILED_PRECONDITION, message="RELEASE_MISMATCH: r1, not r2"))
    with pytest.raises(twotower.ReleaseMismatch) as caught:
        open_client(scripted.target).recommend(USER)
    assert caught.value.message == "r1, not r2" and caught.value.reason is ErrorReason.RELEASE_MISMATCH


def test_trailers_of_another_domain_do_not_count(scripted: ScriptedServer, open_client: Callable[..., Any]) -> None:
    scripted.answer("Recommend", refuse(Code.NOT_FOUND, "OVERLOADED_ROUTE", domain="proxy.example"))
    with pytest.raises(twotower.NotFound) as caught:
        open_client(scripted.target).recommend(USER)
    assert caught.value.reason is ErrorReason.UNSPECIFIED


def test_trailers_that_cannot_be_read_do_not_hide_the_error(
    scripted: ScriptedServer, open_client: Callable[..., Any]
) -> None:
    def answer(request: Any, context: grpc.ServicerContext) -> None:
        context.set_trailing_metadata((("grpc-status-details-bin", b"\xff\xff"),))
        context.abort(Code.NOT_FOUND, "ITEM_NOT_FOUND: i1")

    scripted.answer("GetItemEmbedding", answer)
    with pytest.raises(twotower.NotFound, match="i1"):
        open_client(scripted.target).get_item_embedding("i1")


def test_a_reason_of_a_newer_server_keeps_its_name_in_the_message(
    scripted: ScriptedServer, open_client: Callable[..., Any]
) -> None:
    scripted.answer("GetItemEmbedding", refuse(Code.INVALID_ARGUMENT, "MOON_PHASE", "wrong moon"))
    with pytest.raises(twotower.InvalidRequest) as caught:
        open_client(scripted.target).get_item_embedding("i1")
    assert caught.value.reason is ErrorReason.UNSPECIFIED
    assert caught.value.message == "MOON_PHASE: wrong moon"


def test_the_deadline_ends_a_call(scripted: ScriptedServer, open_client: Callable[..., Any]) -> None:
    released = threading.Event()

    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        released.wait(30)
        return v1.ScoreResponse()

    scripted.answer("Score", answer)
    try:
        with pytest.raises(twotower.DeadlineExceeded) as caught:
            open_client(scripted.target).score(USER, ["i1"], timeout_s=0.2)
    finally:
        released.set()
    assert caught.value.code is Code.DEADLINE_EXCEEDED and len(scripted.requests) == 1


def test_the_deadline_reaches_the_server(scripted: ScriptedServer, open_client: Callable[..., Any]) -> None:
    remaining: list[float | None] = []

    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        remaining.append(context.time_remaining())
        return v1.ScoreResponse()

    scripted.answer("Score", answer)
    client = open_client(scripted.target, timeout_s=500.0)
    client.score(USER, ["i1"])
    client.score(USER, ["i1"], timeout_s=100.0)
    client.score(USER, ["i1"], timeout_s=float("inf"))
    first, second, third = (seconds or float("inf") for seconds in remaining)
    assert 200 < first < 510 and 0 < second < 110 and third > 1e6


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan")])
def test_a_useless_timeout_is_refused(open_client: Callable[..., Any], timeout_s: float) -> None:
    with pytest.raises(ValueError, match="timeout_s"):
        open_client("localhost:1", timeout_s=timeout_s)


def test_nobody_listens(open_client: Callable[..., Any]) -> None:
    with pytest.raises(twotower.Unavailable):
        open_client("localhost:1").serving_info()


def test_an_error_survives_pickling() -> None:
    error = error_of("no", ErrorReason.SCHEMA_MISMATCH, Code.FAILED_PRECONDITION, {"release": "r1"}, 0.5)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is twotower.SchemaMismatch and str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_closing_a_blocking_client_ends_its_calls(start_scripted: ServerFactory) -> None:
    scripted = start_scripted()
    arrived, released = threading.Event(), threading.Event()

    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        arrived.set()
        released.wait(30)
        return v1.ScoreResponse()

    scripted.answer("Score", answer)
    client = twotower.Client(scripted.target, timeout_s=30)
    caught: list[BaseException] = []

    def call() -> None:
        try:
            client.score(USER, ["i1"])
        except twotower.TwoTowerError as error:
            caught.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    assert arrived.wait(30)
    client.close()
    thread.join(30)
    released.set()
    assert [type(error) for error in caught] == [twotower.Cancelled]
