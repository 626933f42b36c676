"""CONTRACT rule 1: a vector carries its release, out and in; never silently another one."""

from __future__ import annotations

from typing import Any

import pytest

from tests.rpc.messages import ITEM, USER, item, user
from tests.rpc.refusal import refused
from twotower import v1

OWN = v1.Embedding(values=[1.0] * 8, release="dot")
# What the other server gives: a vector of the same dimension, of a release that is not loaded here.
FOREIGN = v1.Embedding(values=[1.0] * 8, release="cosine")
HOMELESS = v1.Embedding(values=[1.0] * 8)

PINNED: list[tuple[str, Any]] = [
    ("GetUserEmbedding", v1.GetUserEmbeddingRequest(user=user(USER))),
    ("BatchGetUserEmbeddings", v1.BatchGetUserEmbeddingsRequest(users=[user(USER)])),
    ("GetItemEmbedding", v1.GetItemEmbeddingRequest(item_id="i1")),
    ("GetItemEmbedding", v1.GetItemEmbeddingRequest(item=item(ITEM))),
    ("BatchGetItemEmbeddings", v1.BatchGetItemEmbeddingsRequest(item_ids=["i1"])),
    ("BatchGetItemEmbeddings", v1.BatchGetItemEmbeddingsRequest(item_keys=[1])),
    ("BatchGetItemEmbeddings", v1.BatchGetItemEmbeddingsRequest(items=[item(ITEM)])),
    ("Score", v1.ScoreRequest(user=user(USER), item_ids=["i1"])),
    ("Recommend", v1.RecommendRequest(user=user(USER), k=1)),
    ("SearchItems", v1.SearchItemsRequest(item_id="i1", k=1)),
    ("SearchItems", v1.SearchItemsRequest(item=item(ITEM), k=1)),
]
WITH_VECTOR: list[tuple[str, Any]] = [
    ("Score", v1.ScoreRequest(item_ids=["i1"])),
    ("Score", v1.ScoreRequest(items=[item(ITEM)])),
    ("Recommend", v1.RecommendRequest(k=1)),
    ("SearchItems", v1.SearchItemsRequest(k=1)),
]
NAMES = ["cosine", "nowhere", "Dot", "dot ", "../dot", "dot\n", "é", "\0", "x" * 100_000]


@pytest.mark.parametrize(("rpc", "request_"), PINNED)
def test_a_pin_chooses_the_release(stub: v1.TwoTowerServiceStub, rpc: str, request_: Any) -> None:
    free = getattr(stub, rpc)(request_)
    pinned = type(request_)(release="dot")
    pinned.MergeFrom(request_)
    assert getattr(stub, rpc)(pinned) == free
    assert "dot" in (getattr(free, "release", ""), *getattr(free, "releases", []))


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
@pytest.mark.parametrize(("rpc", "request_"), PINNED)
def test_a_release_that_is_not_loaded(stub: v1.TwoTowerServiceStub, rpc: str, request_: Any, name: str) -> None:
    pinned = type(request_)(release=name)
    pinned.MergeFrom(request_)
    message = refused(getattr(stub, rpc), pinned, "RELEASE_NOT_LOADED", "release")
    assert message.endswith("loaded are dot")


@pytest.mark.parametrize(("rpc", "request_"), WITH_VECTOR)
def test_a_vector_brings_its_release(stub: v1.TwoTowerServiceStub, rpc: str, request_: Any) -> None:
    call = getattr(stub, rpc)

    def with_vector(vector: v1.Embedding, pin: str = "") -> Any:
        sent = type(request_)(embedding=vector, release=pin)
        sent.MergeFrom(request_)
        return sent

    assert call(with_vector(OWN)).release == "dot"
    assert call(with_vector(OWN, "dot")) == call(with_vector(OWN))
    message = refused(call, with_vector(FOREIGN), "RELEASE_NOT_LOADED", "embedding.release")
    assert message.endswith("loaded are dot")
    refused(call, with_vector(FOREIGN, "cosine"), "RELEASE_NOT_LOADED", "embedding.release")
    refused(call, with_vector(FOREIGN, "dot"), "RELEASE_MISMATCH", "embedding.release")
    refused(call, with_vector(OWN, "cosine"), "RELEASE_MISMATCH", "embedding.release")
    refused(call, with_vector(OWN, "x" * 100_000), "RELEASE_MISMATCH", "embedding.release")
    refused(call, with_vector(HOMELESS), "FIELD_REQUIRED", "embedding.release")
    refused(call, with_vector(HOMELESS, "dot"), "FIELD_REQUIRED", "embedding.release")


def test_a_vector_of_another_release_is_refused_where_that_is_loaded_alone(
    cosine_stub: v1.TwoTowerServiceStub, stub: v1.TwoTowerServiceStub
) -> None:
    vector = stub.GetUserEmbedding(v1.GetUserEmbeddingRequest(user=user(USER))).embedding
    request = v1.ScoreRequest(embedding=vector, item_ids=["i1"])
    message = refused(cosine_stub.Score, request, "RELEASE_NOT_LOADED", "embedding.release")
    assert "'dot'" in message and message.endswith("loaded are cosine")
