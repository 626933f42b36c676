"""What the real server refuses, as both clients raise it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest

import twotower
from tests.conftest import Running
from tests.rpc.recomputed import item_key
from twotower import Embedding, ErrorReason, v1, where

OpenClient = Callable[..., Any]
Code = grpc.StatusCode

USER = twotower.user("u1", age=34, gender="f")
VECTOR = Embedding(np.ones(8, np.float32), "dot")
NO_VALUES = np.empty(0, np.float32)


@pytest.fixture
def client(server: Running, open_client: OpenClient) -> Any:
    return open_client(server.target)


REFUSALS = [
    ("FIELD_REQUIRED", twotower.InvalidRequest, "item_ids", lambda c: c.score(USER)),
    ("FIELD_REQUIRED", twotower.InvalidRequest, "users", lambda c: c.batch_get_user_embeddings([])),
    ("FIELD_REQUIRED", twotower.InvalidRequest, "embedding.release", lambda c: c.recommend(Embedding(NO_VALUES, ""))),
    ("FIELD_CONFLICT", twotower.InvalidRequest, "item_keys", lambda c: c.score(USER, ["i1"], item_keys=[1])),
    (
        "VALUE_NOT_FINITE",
        twotower.InvalidRequest,
        "user.features[age]",
        lambda c: c.recommend(twotower.user(age=float("nan"))),
    ),
    (
        "FEATURE_TYPE",
        twotower.InvalidRequest,
        "user.string_features[age]",
        lambda c: c.get_user_embedding(twotower.user(age="old")),
    ),
    (
        "NO_KNOWN_FEATURE",
        twotower.InvalidRequest,
        "user.features",
        lambda c: c.get_user_embedding(twotower.user(shoe_size=42)),
    ),
    (
        "SCHEMA_MISMATCH",
        twotower.SchemaMismatch,
        "user.schema_fingerprint",
        lambda c: c.get_user_embedding(v1.User(dense_features=[1, 2, 3], schema_fingerprint=7)),
    ),
    (
        "DIMENSION_MISMATCH",
        twotower.InvalidRequest,
        "embedding.values",
        lambda c: c.recommend(Embedding(np.ones(3, np.float32), "dot")),
    ),
    ("LIMIT_EXCEEDED", twotower.InvalidRequest, "k", lambda c: c.search_items("i1", 10_001)),
    (
        "FILTER_INVALID",
        twotower.InvalidRequest,
        "filter.all_of[0].conditions[0].attribute",
        lambda c: c.recommend(USER, filter=where("colour").equals("red")),
    ),
    ("ITEM_NOT_FOUND", twotower.NotFound, "item_id", lambda c: c.get_item_embedding("nope")),
    ("ITEM_NOT_FOUND", twotower.NotFound, "item_id", lambda c: c.search_items("nope")),
    (
        "ITEM_NOT_FOUND",
        twotower.NotFound,
        "item_keys",
        lambda c: c.score(USER, item_keys=[item_key("i1"), 7], require_all=True),
    ),
    ("RELEASE_NOT_LOADED", twotower.ReleaseNotLoaded, "release", lambda c: c.serving_info(release="r9")),
    ("RELEASE_NOT_LOADED", twotower.ReleaseNotLoaded, "release", lambda c: c.pin("r9").score(USER, ["i1"])),
    ("RELEASE_MISMATCH", twotower.ReleaseMismatch, "embedding.release", lambda c: c.pin("r9").score(VECTOR, ["i1"])),
]


@pytest.mark.parametrize(
    ("reason", "kind", "field", "call"), REFUSALS, ids=[f"{reason}-{field}" for reason, _, field, _ in REFUSALS]
)
def test_refusals(
    client: Any, reason: str, kind: type[twotower.TwoTowerError], field: str, call: Callable[[Any], Any]
) -> None:
    with pytest.raises(twotower.TwoTowerError) as caught:
        call(client)
    error = caught.value
    assert type(error) is kind and error.reason is ErrorReason[reason]
    assert error.metadata == {"field": field}
    assert str(error).startswith(f"{reason}: ") and not error.message.startswith(reason)
    assert error.retry_after_s is None


def test_a_release_that_is_not_loaded_is_told_with_those_that_are(client: Any) -> None:
    with pytest.raises(twotower.ReleaseNotLoaded, match="loaded are dot") as caught:
        client.recommend(USER, release="cosine")
    assert caught.value.code is Code.FAILED_PRECONDITION


def test_the_problem_of_an_entry_is_the_error_of_its_own_call(client: Any) -> None:
    bad = twotower.user(age="old")
    with pytest.raises(twotower.InvalidRequest) as alone:
        client.get_user_embedding(bad)
    (problem,) = client.batch_get_user_embeddings([USER, bad]).problems
    error = problem.error()
    assert (type(error), error.reason, error.code) == (type(alone.value), alone.value.reason, alone.value.code)
    assert error.message == f"users[1].string_features[age]: {problem.message}"
    assert problem.message == alone.value.message


@pytest.mark.parametrize("text", ["\ud800", "i\udcff"])
def test_texts_that_are_not_utf_8_never_leave(client: Any, text: str) -> None:
    with pytest.raises(ValueError, match="surrogates"):
        client.score(USER, [text])


def test_a_request_over_gRPCs_limit(client: Any) -> None:
    with pytest.raises(twotower.ResourceExhausted, match="larger than max") as caught:
        client.score(USER, ["x" * 500] * 10_000)
    assert type(caught.value) is twotower.ResourceExhausted
    assert client.score(USER, ["i1"]).release == "dot"


def test_time_that_is_too_short(client: Any) -> None:
    with pytest.raises(twotower.DeadlineExceeded):
        client.batch_get_user_embeddings([USER] * 5000, timeout_s=0.001)
    assert client.score(USER, ["i1"]).release == "dot"


def test_a_server_that_speaks_no_TLS(server: Running, open_client: OpenClient) -> None:
    with pytest.raises(twotower.Unavailable):
        open_client(server.target, tls=twotower.Tls()).serving_info()
