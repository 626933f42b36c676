"""CONTRACT rule 7: exactly one of the alternatives; an empty request lacks what it needs."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest

from tests.rpc.messages import ITEM, USER, item, user
from tests.rpc.refusal import refused
from twotower import v1

VECTOR = v1.Embedding(values=[1.0] * 8, release="dot")
ASKING: dict[str, Any] = {"user": user(USER), "embedding": VECTOR}
CANDIDATES: dict[str, Any] = {"item_ids": ["i1"], "item_keys": [1], "items": [item(ITEM)]}
ONE_ITEM: dict[str, Any] = {"item_id": "i1", "item": item(ITEM)}
NEAREST: dict[str, Any] = {"item_id": "i1", "embedding": VECTOR, "item": item(ITEM)}

# An RPC, its request, the alternatives, and what else the request needs.
ALTERNATIVES: list[tuple[str, Any, dict[str, Any], dict[str, Any]]] = [
    ("GetItemEmbedding", v1.GetItemEmbeddingRequest, ONE_ITEM, {}),
    ("BatchGetItemEmbeddings", v1.BatchGetItemEmbeddingsRequest, CANDIDATES, {}),
    ("Score", v1.ScoreRequest, ASKING, {"item_ids": ["i1"]}),
    ("Score", v1.ScoreRequest, CANDIDATES, {"user": user(USER)}),
    ("Recommend", v1.RecommendRequest, ASKING, {}),
    ("SearchItems", v1.SearchItemsRequest, NEAREST, {}),
]
EMPTY: list[tuple[str, Any, str]] = [
    ("GetUserEmbedding", v1.GetUserEmbeddingRequest(), "user"),
    ("GetUserEmbedding", v1.GetUserEmbeddingRequest(user=v1.User()), "user.features"),
    ("GetUserEmbedding", v1.GetUserEmbeddingRequest(user=v1.User(user_id="u1")), "user.features"),
    ("BatchGetUserEmbeddings", v1.BatchGetUserEmbeddingsRequest(), "users"),
    ("GetItemEmbedding", v1.GetItemEmbeddingRequest(), "item_id"),
    ("GetItemEmbedding", v1.GetItemEmbeddingRequest(item_id=""), "item_id"),
    ("GetItemEmbedding", v1.GetItemEmbeddingRequest(item=v1.Item()), "item.features"),
    ("GetItemEmbedding", v1.GetItemEmbeddingRequest(item=v1.Item(item_id="i1")), "item.features"),
    ("BatchGetItemEmbeddings", v1.BatchGetItemEmbeddingsRequest(), "item_ids"),
    ("Score", v1.ScoreRequest(), "user"),
    ("Score", v1.ScoreRequest(user=v1.User(), item_ids=["i1"]), "user.features"),
    ("BatchScore", v1.BatchScoreRequest(), "requests"),
    ("Recommend", v1.RecommendRequest(), "user"),
    ("Recommend", v1.RecommendRequest(user=v1.User()), "user.features"),
    ("Recommend", v1.RecommendRequest(embedding=v1.Embedding()), "embedding.release"),
    ("SearchItems", v1.SearchItemsRequest(), "item_id"),
    ("SearchItems", v1.SearchItemsRequest(item=v1.Item(item_id="i1")), "item.features"),
]


@pytest.mark.parametrize(("rpc", "request_", "field"), EMPTY)
def test_an_empty_request(stub: v1.TwoTowerServiceStub, rpc: str, request_: Any, field: str) -> None:
    refused(getattr(stub, rpc), request_, "FIELD_REQUIRED", field)


def test_nothing_is_needed_to_ask_what_is_served(stub: v1.TwoTowerServiceStub) -> None:
    assert stub.GetServingInfo(v1.GetServingInfoRequest()).active_release == "dot"


@pytest.mark.parametrize(("rpc", "request_", "alternatives", "rest"), ALTERNATIVES)
def test_each_of_the_alternatives_serves(
    stub: v1.TwoTowerServiceStub, rpc: str, request_: Any, alternatives: dict[str, Any], rest: dict[str, Any]
) -> None:
    for name, given in alternatives.items():
        assert getattr(stub, rpc)(request_(**{name: given}, **rest)).release == "dot"


@pytest.mark.parametrize(("rpc", "request_", "alternatives", "rest"), ALTERNATIVES)
def test_none_of_the_alternatives(
    stub: v1.TwoTowerServiceStub, rpc: str, request_: Any, alternatives: dict[str, Any], rest: dict[str, Any]
) -> None:
    message = refused(getattr(stub, rpc), request_(**rest), "FIELD_REQUIRED", next(iter(alternatives)))
    assert all(name in message for name in alternatives)


@pytest.mark.parametrize(("rpc", "request_", "alternatives", "rest"), ALTERNATIVES)
def test_several_of_the_alternatives(
    stub: v1.TwoTowerServiceStub, rpc: str, request_: Any, alternatives: dict[str, Any], rest: dict[str, Any]
) -> None:
    for count in range(2, len(alternatives) + 1):
        for chosen in combinations(alternatives, count):
            request = request_(**{name: alternatives[name] for name in chosen}, **rest)
            message = refused(getattr(stub, rpc), request, "FIELD_CONFLICT", chosen[1])
            assert all(name in message for name in alternatives)


def test_a_message_that_is_set_but_empty_counts_as_set(stub: v1.TwoTowerServiceStub) -> None:
    both = v1.ScoreRequest(user=v1.User(), embedding=v1.Embedding(), item_ids=["i1"])
    refused(stub.Score, both, "FIELD_CONFLICT", "embedding")
    refused(stub.GetItemEmbedding, v1.GetItemEmbeddingRequest(item_id="i1", item=v1.Item()), "FIELD_CONFLICT", "item")
