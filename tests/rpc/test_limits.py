"""Limits: checked before any work, refused with what to do; answers fit into what a gRPC client reads by default."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from tests.rpc.messages import ITEM, USER, item, user
from tests.rpc.recomputed import Recomputed, item_key
from tests.rpc.refusal import check_problem, refused
from twotower import v1

SMALL = user({"age": 1.0})
VECTOR = v1.Embedding(values=[1.0] * 8, release="dot")


def users(count: int) -> v1.BatchGetUserEmbeddingsRequest:
    return v1.BatchGetUserEmbeddingsRequest(users=[SMALL] * count)


def entries(count: int, candidates: int = 1) -> v1.BatchScoreRequest:
    return v1.BatchScoreRequest(requests=[v1.ScoreRequest(user=SMALL, item_keys=range(candidates))] * count)


AT_THE_LIMIT: list[tuple[str, Any]] = [
    ("BatchGetUserEmbeddings", users(10_000)),
    ("BatchGetItemEmbeddings", v1.BatchGetItemEmbeddingsRequest(item_ids=["i1"] * 10_000)),
    ("BatchGetItemEmbeddings", v1.BatchGetItemEmbeddingsRequest(item_keys=[1] * 10_000)),
    ("BatchGetItemEmbeddings", v1.BatchGetItemEmbeddingsRequest(items=[item({"price": 1.0})] * 10_000)),
    ("Score", v1.ScoreRequest(user=SMALL, item_ids=["i1"] * 10_000)),
    ("Score", v1.ScoreRequest(user=SMALL, item_keys=[1] * 10_000)),
    ("Score", v1.ScoreRequest(user=SMALL, items=[item({"price": 1.0})] * 10_000)),
    ("BatchScore", entries(10_000)),
    ("BatchScore", entries(30, 10_000)),
    ("Recommend", v1.RecommendRequest(user=SMALL, k=10_000)),
    ("Recommend", v1.RecommendRequest(user=SMALL, exclude_item_ids=["x"] * 5_000, exclude_item_keys=[1] * 5_000)),
    ("SearchItems", v1.SearchItemsRequest(item_id="i1", k=10_000)),
    ("SearchItems", v1.SearchItemsRequest(embedding=VECTOR, exclude_item_keys=[1] * 10_000)),
    ("GetUserEmbedding", v1.GetUserEmbeddingRequest(user=user(USER, user_id="u" * 512, routing_key="é" * 256))),
    ("GetUserEmbedding", v1.GetUserEmbeddingRequest(user=user({f"user_interest_{i}": 1.0 for i in range(2_000)}))),
]
OVER_THE_LIMIT: list[tuple[str, Any, str]] = [
    ("BatchGetUserEmbeddings", users(10_001), "users"),
    ("BatchGetItemEmbeddings", v1.BatchGetItemEmbeddingsRequest(item_ids=["i1"] * 10_001), "item_ids"),
    ("BatchGetItemEmbeddings", v1.BatchGetItemEmbeddingsRequest(item_keys=[1] * 10_001), "item_keys"),
    ("BatchGetItemEmbeddings", v1.BatchGetItemEmbeddingsRequest(items=[item(ITEM)] * 10_001), "items"),
    ("Score", v1.ScoreRequest(user=SMALL, item_ids=["i1"] * 10_001), "item_ids"),
    ("Score", v1.ScoreRequest(user=SMALL, item_keys=[1] * 500_000), "item_keys"),
    ("Score", v1.ScoreRequest(embedding=VECTOR, items=[item(ITEM)] * 10_001), "items"),
    ("BatchScore", entries(10_001), "requests"),
    ("Recommend", v1.RecommendRequest(user=SMALL, k=10_001), "k"),
    ("Recommend", v1.RecommendRequest(user=SMALL, k=2**32 - 1), "k"),
    ("Recommend", v1.RecommendRequest(user=SMALL, exclude_item_ids=["x"] * 10_001), "exclude_item_ids"),
    (
        "Recommend",
        v1.RecommendRequest(user=SMALL, exclude_item_ids=["x"] * 5_000, exclude_item_keys=[1] * 5_001),
        "exclude_item_ids",
    ),
    ("SearchItems", v1.SearchItemsRequest(item_id="i1", k=10_001), "k"),
    ("SearchItems", v1.SearchItemsRequest(item=item(ITEM), exclude_item_keys=[1] * 10_001), "exclude_item_ids"),
    ("SearchItems", v1.SearchItemsRequest(item_id="i" * 513), "item_id"),
    ("GetItemEmbedding", v1.GetItemEmbeddingRequest(item_id="i" * 513), "item_id"),
    ("GetItemEmbedding", v1.GetItemEmbeddingRequest(item_id="é" * 257), "item_id"),
    ("GetItemEmbedding", v1.GetItemEmbeddingRequest(item_id="i" * 4_000_000), "item_id"),
]


@pytest.mark.parametrize(("rpc", "request_"), AT_THE_LIMIT, ids=range(len(AT_THE_LIMIT)))
def test_as_much_as_allowed(stub: v1.TwoTowerServiceStub, rpc: str, request_: Any) -> None:
    answer = getattr(stub, rpc)(request_)
    assert answer.ByteSize() < 3_670_016
    assert not getattr(answer, "problems", [])


@pytest.mark.parametrize(("rpc", "request_", "field"), OVER_THE_LIMIT, ids=range(len(OVER_THE_LIMIT)))
def test_too_much(stub: v1.TwoTowerServiceStub, rpc: str, request_: Any, field: str) -> None:
    message = refused(getattr(stub, rpc), request_, "LIMIT_EXCEEDED", field)
    assert "10000" in message or "512" in message


def test_scores_that_would_not_fit_an_answer(stub: v1.TwoTowerServiceStub) -> None:
    message = refused(stub.BatchScore, entries(48, 10_000), "LIMIT_EXCEEDED")
    assert "3670016" in message


def test_limits_can_be_set(tight: v1.TwoTowerServiceStub, dot: Recomputed) -> None:
    assert len(tight.BatchGetUserEmbeddings(users(3)).embeddings) == 3
    refused(tight.BatchGetUserEmbeddings, users(4), "LIMIT_EXCEEDED", "users")
    refused(tight.BatchScore, entries(4), "LIMIT_EXCEEDED", "requests")
    refused(tight.Score, v1.ScoreRequest(user=SMALL, item_ids=dot.item_ids[:5]), "LIMIT_EXCEEDED", "item_ids")
    refused(tight.Recommend, v1.RecommendRequest(user=SMALL, k=301), "LIMIT_EXCEEDED", "k")
    excluding = v1.RecommendRequest(user=SMALL, k=1, exclude_item_ids=["a"] * 3, exclude_item_keys=[1] * 3)
    refused(tight.Recommend, excluding, "LIMIT_EXCEEDED", "exclude_item_ids")
    many = user({f"user_interest_{i}": 1.0 for i in range(13)})
    refused(tight.GetUserEmbedding, v1.GetUserEmbeddingRequest(user=many), "LIMIT_EXCEEDED", "user.features")
    refused(tight.GetItemEmbedding, v1.GetItemEmbeddingRequest(item_id="i" * 17), "LIMIT_EXCEEDED", "item_id")
    got = tight.BatchScore(v1.BatchScoreRequest(requests=[*entries(1).requests, *entries(1, 5).requests]))
    check_problem(got.problems[0], 1, "LIMIT_EXCEEDED", "requests[1].item_keys")


@pytest.mark.parametrize(
    "request_",
    [
        v1.RecommendRequest(user=SMALL, k=300),
        v1.RecommendRequest(user=SMALL, k=60, include_embeddings=True),
        v1.RecommendRequest(user=SMALL, k=60, return_attributes=["title", "category", "tags"]),
    ],
)
def test_an_answer_that_would_not_fit_is_refused_before_work(tight: v1.TwoTowerServiceStub, request_: Any) -> None:
    # Not a filter, not a user: nothing has been looked at yet when the size is refused.
    request_.filter.all_of.add()
    request_.user.features["age"] = float("nan")
    assert "4096" in refused(tight.Recommend, request_, "LIMIT_EXCEEDED")


def test_an_answer_that_fits(tight: v1.TwoTowerServiceStub) -> None:
    request = v1.RecommendRequest(user=SMALL, k=20, include_embeddings=True, return_attributes=["title"])
    assert len(tight.Recommend(request).items) == 20


def test_an_answer_that_turns_out_too_large_is_refused(long_titles: v1.TwoTowerServiceStub) -> None:
    """Values of attributes vary: the estimate before work cannot know them."""
    request = v1.RecommendRequest(user=SMALL, k=50, return_attributes=["title"])
    message = refused(long_titles.Recommend, request, "LIMIT_EXCEEDED")
    assert "3670016" in message
    request.k = 20
    assert long_titles.Recommend(request).ByteSize() > 2_000_000


@pytest.mark.parametrize("megabytes", [5, 50])
def test_a_message_that_is_too_large_is_refused_by_grpc_itself(stub: v1.TwoTowerServiceStub, megabytes: int) -> None:
    request = v1.ScoreRequest(user=SMALL, item_ids=["x" * 1_000_000] * megabytes)
    with pytest.raises(grpc.RpcError) as caught:
        stub.Score(request)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    # No reason: so that clients do not retry it (CONTRACT rule 9).
    assert "grpc-status-details-bin" not in dict(error.trailing_metadata())


def test_a_message_just_below_the_limit_is_read(stub: v1.TwoTowerServiceStub) -> None:
    request = v1.ScoreRequest(user=SMALL, item_ids=["x" * 1_000_000] * 4)
    assert list(stub.Score(request).missing_indices) == [0, 1, 2, 3]


def test_a_batch_of_nothing_but_problems_can_be_read(stub: v1.TwoTowerServiceStub) -> None:
    bad = user({"n" * 300: float("nan")})
    for encoding in (v1.EMBEDDING_ENCODING_LIST, v1.EMBEDDING_ENCODING_MATRIX):
        request = v1.BatchGetUserEmbeddingsRequest(users=[bad] * 10_000, encoding=encoding)
        got = stub.BatchGetUserEmbeddings(request)
        assert got.ByteSize() < 3_670_016
        assert [problem.index for problem in got.problems] == list(range(10_000))
        assert {problem.reason for problem in got.problems} == {v1.ERROR_REASON_VALUE_NOT_FINITE}
        assert all(problem.message.startswith("VALUE_NOT_FINITE") for problem in got.problems)
        check_problem(got.problems[0], 0, "VALUE_NOT_FINITE", f"users[0].features[{'n' * 300}]")
    items = [item({"n" * 300: float("nan")})] * 50
    scored = stub.BatchScore(v1.BatchScoreRequest(requests=[v1.ScoreRequest(user=SMALL, items=items)] * 200))
    assert scored.ByteSize() < 3_670_016
    assert all(len(response.problems) == 50 for response in scored.responses)


def test_keys_of_the_whole_catalog(stub: v1.TwoTowerServiceStub, dot: Recomputed) -> None:
    request = v1.RecommendRequest(user=SMALL, exclude_item_keys=map(item_key, dot.item_ids))
    assert not stub.Recommend(request).items
