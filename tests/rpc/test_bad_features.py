"""Features and vectors that cannot be served: single calls, and entries of a batch, which fail alone."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.rpc.messages import ITEM, USER, item, user
from tests.rpc.recomputed import Features
from tests.rpc.refusal import check_problem, refused
from twotower import v1

NAN, INF = math.nan, math.inf


def with_vector_feature(name: str, features: Features) -> v1.User:
    message = user(features)
    message.vector_features[name].values.append(1.0)
    return message


def in_two_maps(name: str, value: float, text: str) -> v1.User:
    message = user({"user_age": 1.0, name: value})
    message.string_features[name].values.append(text)
    return message


BAD_USERS: list[tuple[v1.User, str, str]] = [
    (v1.User(), "FIELD_REQUIRED", "features"),
    (v1.User(user_id="u1"), "FIELD_REQUIRED", "features"),
    # NaN and infinities, wherever they stand
    *((user({**USER, "user_age": bad}), "VALUE_NOT_FINITE", "features[user_age]") for bad in (NAN, INF, -INF, 1e39)),
    (user({"age": NAN}), "VALUE_NOT_FINITE", "features[age]"),
    (user({**USER, "user_interest_film": INF}), "VALUE_NOT_FINITE", "features[user_interest_film]"),
    (user({"user_age": 1.0, "user_gender": NAN}), "VALUE_NOT_FINITE", "features[user_gender]"),
    (user({"user_city": INF}), "VALUE_NOT_FINITE", "features[user_city]"),
    (user({"user_age": 1.0, "unknown": NAN}), "VALUE_NOT_FINITE", "features[unknown]"),
    (user({"user_age": 1.0, "item_price": -INF}), "VALUE_NOT_FINITE", "features[item_price]"),
    # Values that are finite but of which the tower makes none that is
    (user({"user_age": 3e38, "user_hour": -3e38, "user_ctr": 3e38}), "VALUE_NOT_FINITE", "features"),
    # Wrong types
    (user({"user_age": "old"}), "FEATURE_TYPE", "string_features[user_age]"),
    (user({"age": ["1"], "user_ctr": 1.0}), "FEATURE_TYPE", "string_features[age]"),
    (user({"user_gender": 1.5}), "FEATURE_TYPE", "features[user_gender]"),
    (user({"user_tags": 0.1}), "FEATURE_TYPE", "features[user_tags]"),
    (user({"user_city": 1e17}), "FEATURE_TYPE", "features[user_city]"),
    (user({"user_gender": ["f", "m"]}), "FEATURE_TYPE", "string_features[user_gender]"),
    (user({"user_interest_film": "much"}), "FEATURE_TYPE", "string_features[user_interest_film]"),
    (user({"user_age": 1.0, "interest_film": ["a"]}), "FEATURE_TYPE", "string_features[interest_film]"),
    (with_vector_feature("user_clip", USER), "FEATURE_TYPE", "vector_features[user_clip]"),
    (with_vector_feature("user_clip", {}), "FEATURE_TYPE", "vector_features[user_clip]"),
    # Not one known name
    (user({"shoe_size": 44.0}), "NO_KNOWN_FEATURE", "features"),
    (user({"pets": ["cat"]}), "NO_KNOWN_FEATURE", "features"),
    (user(ITEM), "NO_KNOWN_FEATURE", "features"),
    (user({"user_interest_": 1.0}), "NO_KNOWN_FEATURE", "features"),
    (user({"": 1.0}), "NO_KNOWN_FEATURE", "features"),
    (user({"USER_AGE": 1.0, "user_age ": 2.0}), "NO_KNOWN_FEATURE", "features"),
    (user({"cross_a": 1.0, "scene_a": 2.0}), "NO_KNOWN_FEATURE", "features"),
    # One name in two maps
    (in_two_maps("user_gender", 1.0, "f"), "FIELD_CONFLICT", "string_features[user_gender]"),
    (in_two_maps("unknown", 1.0, "f"), "FIELD_CONFLICT", "string_features[unknown]"),
    (with_vector_feature("user_age", USER), "FIELD_CONFLICT", "vector_features[user_age]"),
    (with_vector_feature("user_city", USER), "FIELD_CONFLICT", "vector_features[user_city]"),
    # Too much
    (user({"user_age": 1.0, **{f"user_interest_{i}": 1.0 for i in range(2_000)}}), "LIMIT_EXCEEDED", "features"),
    (user({"user_age": 1.0, **{f"text {i}": "a" for i in range(2_000)}}), "LIMIT_EXCEEDED", "features"),
    (user(USER, user_id="u" * 513), "LIMIT_EXCEEDED", "user_id"),
    (user(USER, user_id="é" * 257), "LIMIT_EXCEEDED", "user_id"),
    (user(USER, user_id="u" * 1_000_000), "LIMIT_EXCEEDED", "user_id"),
    (user(USER, feature_version="v" * 513), "LIMIT_EXCEEDED", "feature_version"),
    (user(USER, routing_key="r" * 513), "LIMIT_EXCEEDED", "routing_key"),
]
BAD_ITEMS: list[tuple[v1.Item, str, str]] = [
    (v1.Item(), "FIELD_REQUIRED", "features"),
    (item({**ITEM, "item_price": NAN}), "VALUE_NOT_FINITE", "features[item_price]"),
    (item({"item_ctr": 3e38}), "VALUE_NOT_FINITE", "features"),
    (item({"item_price": "cheap"}), "FEATURE_TYPE", "string_features[item_price]"),
    (item({"item_category": ["a", "b"]}), "FEATURE_TYPE", "string_features[item_category]"),
    (item(USER), "NO_KNOWN_FEATURE", "features"),
    (item(ITEM, item_id="i" * 513), "LIMIT_EXCEEDED", "item_id"),
]
GOOD = user(USER)


@pytest.mark.parametrize(("bad", "reason", "field"), BAD_USERS, ids=range(len(BAD_USERS)))
def test_a_bad_user(stub: v1.TwoTowerServiceStub, bad: v1.User, reason: str, field: str) -> None:
    field = f"user.{field}"
    refused(stub.GetUserEmbedding, v1.GetUserEmbeddingRequest(user=bad), reason, field)
    refused(stub.Score, v1.ScoreRequest(user=bad, item_ids=["i1"]), reason, field)
    refused(stub.Recommend, v1.RecommendRequest(user=bad), reason, field)


def test_a_bad_user_of_a_batch_fails_alone(stub: v1.TwoTowerServiceStub) -> None:
    users = [one for bad, _, _ in BAD_USERS if bad.ByteSize() < 100_000 for one in (GOOD, bad)]
    expected = [(reason, field) for bad, reason, field in BAD_USERS if bad.ByteSize() < 100_000]
    got = stub.BatchGetUserEmbeddings(v1.BatchGetUserEmbeddingsRequest(users=users))
    own = stub.GetUserEmbedding(v1.GetUserEmbeddingRequest(user=GOOD)).embedding
    for i, (problem, (reason, field)) in enumerate(zip(got.problems, expected, strict=True)):
        check_problem(problem, 2 * i + 1, reason, f"users[{2 * i + 1}].{field}")
        assert got.embeddings[2 * i] == own
        assert got.embeddings[2 * i + 1] == v1.Embedding()
    assert list(got.sources) == [v1.SOURCE_COMPUTED, v1.SOURCE_UNSPECIFIED] * len(expected)
    assert list(got.releases) == ["dot"]


def test_rows_of_bad_users_are_zero_in_a_matrix(stub: v1.TwoTowerServiceStub) -> None:
    request = v1.BatchGetUserEmbeddingsRequest(users=[v1.User(), GOOD, user({"user_age": 3e38, "user_hour": 3e38})])
    request.encoding = v1.EMBEDDING_ENCODING_MATRIX
    got = stub.BatchGetUserEmbeddings(request)
    assert (got.matrix.rows, got.matrix.dimension) == (3, 8)
    assert got.matrix.values[:32] == got.matrix.values[64:] == bytes(32)
    assert got.matrix.values[32:64] != bytes(32)
    assert [problem.index for problem in got.problems] == [0, 2]


def test_every_user_of_a_batch_may_be_bad(stub: v1.TwoTowerServiceStub) -> None:
    got = stub.BatchGetUserEmbeddings(v1.BatchGetUserEmbeddingsRequest(users=[v1.User()] * 3))
    assert list(got.embeddings) == [v1.Embedding()] * 3
    assert [problem.index for problem in got.problems] == [0, 1, 2]
    assert list(got.releases) == ["dot"]


@pytest.mark.parametrize(("bad", "reason", "field"), BAD_ITEMS, ids=range(len(BAD_ITEMS)))
def test_a_bad_item(stub: v1.TwoTowerServiceStub, bad: v1.Item, reason: str, field: str) -> None:
    refused(stub.GetItemEmbedding, v1.GetItemEmbeddingRequest(item=bad), reason, f"item.{field}")
    refused(stub.SearchItems, v1.SearchItemsRequest(item=bad), reason, f"item.{field}")


def test_a_bad_item_of_a_batch_fails_alone(stub: v1.TwoTowerServiceStub) -> None:
    items = [one for bad, _, _ in BAD_ITEMS for one in (item(ITEM), bad)]
    batch = stub.BatchGetItemEmbeddings(v1.BatchGetItemEmbeddingsRequest(items=items))
    scored = stub.Score(v1.ScoreRequest(user=GOOD, items=items))
    for problems in (batch.problems, scored.problems):
        for i, (problem, (_, reason, field)) in enumerate(zip(problems, BAD_ITEMS, strict=True)):
            check_problem(problem, 2 * i + 1, reason, f"items[{2 * i + 1}].{field}")
    own = stub.GetItemEmbedding(v1.GetItemEmbeddingRequest(item=item(ITEM))).embedding
    assert list(batch.embeddings[::2]) == [own] * len(BAD_ITEMS)
    assert list(batch.embeddings[1::2]) == [v1.Embedding()] * len(BAD_ITEMS)
    assert not batch.missing_indices


BAD_VECTORS: list[tuple[list[float], str]] = [
    ([], "DIMENSION_MISMATCH"),
    ([1.0] * 7, "DIMENSION_MISMATCH"),
    ([1.0] * 9, "DIMENSION_MISMATCH"),
    ([1.0] * 500_000, "DIMENSION_MISMATCH"),
    ([1.0] * 7 + [NAN], "VALUE_NOT_FINITE"),
    ([INF] + [1.0] * 7, "VALUE_NOT_FINITE"),
    ([1.0, -INF] + [1.0] * 6, "VALUE_NOT_FINITE"),
    # Finite, but their dot products would not be
    ([3e38] * 8, "VALUE_NOT_FINITE"),
    ([3e38, -3e38] * 4, "VALUE_NOT_FINITE"),
]


@pytest.mark.parametrize(("values", "reason"), BAD_VECTORS, ids=range(len(BAD_VECTORS)))
def test_a_bad_vector(stub: v1.TwoTowerServiceStub, values: list[float], reason: str) -> None:
    vector = v1.Embedding(values=values, release="dot")
    requests: list[tuple[Any, Any]] = [
        (stub.Score, v1.ScoreRequest(embedding=vector, item_ids=["i1"])),
        (stub.Recommend, v1.RecommendRequest(embedding=vector)),
        (stub.SearchItems, v1.SearchItemsRequest(embedding=vector)),
    ]
    for call, request in requests:
        refused(call, request, reason, "embedding.values")


def test_unknown_names_are_counted_and_in_strict_mode_refused(
    stub: v1.TwoTowerServiceStub, tight: v1.TwoTowerServiceStub
) -> None:
    for given, where in (
        (user({**USER, "agee": 1.0}), "features"),
        (user({"age": 1.0, "agee": "x"}), "string_features"),
    ):
        request = v1.GetUserEmbeddingRequest(user=given)
        assert stub.GetUserEmbedding(request).feature_use.unknown == 1
        refused(tight.GetUserEmbedding, request, "FEATURE_UNKNOWN", f"user.{where}[agee]")
        got = tight.BatchGetUserEmbeddings(v1.BatchGetUserEmbeddingsRequest(users=[GOOD, given]))
        check_problem(got.problems[0], 1, "FEATURE_UNKNOWN", f"users[1].{where}[agee]")
        assert len(got.embeddings[0].values) == 8
    refused(
        tight.GetItemEmbedding,
        v1.GetItemEmbeddingRequest(item=item({**ITEM, "weight": 1.0})),
        "FEATURE_UNKNOWN",
        "item.features[weight]",
    )
