"""SearchItems: the nearest items to an item or a vector (CONTRACT rule 13)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.rpc.messages import ITEM, USER, item, user
from tests.rpc.recomputed import Recomputed, item_key
from tests.rpc.refusal import refused
from twotower import v1


def search(stub: v1.TwoTowerServiceStub, **fields: Any) -> v1.SearchItemsResponse:
    got: v1.SearchItemsResponse = stub.SearchItems(v1.SearchItemsRequest(**fields))
    return got


def ids(response: v1.SearchItemsResponse) -> list[str]:
    return [found.item_id for found in response.items]


@pytest.mark.parametrize("id", ["i0", "i123", "i299"])
@pytest.mark.parametrize("k", [1, 20, 300])
def test_an_item_does_not_find_itself(stub: v1.TwoTowerServiceStub, dot: Recomputed, id: str, k: int) -> None:
    got = search(stub, item_id=id, k=k)
    assert ids(got) == dot.top(dot.vector(id), k, lambda item: item["item_id"] != id)
    similarities = [found.similarity for found in got.items]
    np.testing.assert_allclose(similarities, dot.similarities(dot.vector(id), ids(got)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose([found.score for found in got.items], dot.scores(similarities), rtol=1e-6)
    assert got.release == "dot"


def test_no_k_means_100(stub: v1.TwoTowerServiceStub) -> None:
    assert ids(search(stub, item_id="i5")) == ids(search(stub, item_id="i5", k=100))
    assert len(search(stub, item_id="i5").items) == 100


def test_by_vector_everything_may_be_found(stub: v1.TwoTowerServiceStub, dot: Recomputed) -> None:
    vector = v1.Embedding(values=dot.vector("i5"), release="dot")
    assert ids(search(stub, embedding=vector, k=300)) == dot.top(dot.vector("i5"), 300)


def test_by_a_users_vector_it_recommends(stub: v1.TwoTowerServiceStub) -> None:
    recommended = stub.Recommend(v1.RecommendRequest(user=user(USER), k=10, include_embeddings=True))
    assert list(search(stub, embedding=recommended.user_embedding, k=10, include_embeddings=True).items) == list(
        recommended.items
    )


def test_by_features(stub: v1.TwoTowerServiceStub, dot: Recomputed) -> None:
    assert ids(search(stub, item=item(ITEM), k=300)) == dot.top(dot.item(ITEM), 300)
    assert ids(search(stub, item=item(ITEM, item_id="new"), k=300)) == dot.top(dot.item(ITEM), 300)


def test_by_features_of_a_known_item_it_is_left_out(stub: v1.TwoTowerServiceStub, dot: Recomputed) -> None:
    best = dot.top(dot.item(ITEM), 300)
    assert ids(search(stub, item=item(ITEM, item_id=best[0]), k=10)) == best[1:11]


def test_exclusions_and_the_item_itself(stub: v1.TwoTowerServiceStub, dot: Recomputed) -> None:
    best = dot.top(dot.vector("i5"), 300, lambda item: item["item_id"] != "i5")
    got = search(
        stub, item_id="i5", k=20, exclude_item_ids=[*best[:10], "i5"], exclude_item_keys=map(item_key, best[5:30])
    )
    assert ids(got) == best[30:50]


def test_vectors_and_attributes_come_when_asked_for(stub: v1.TwoTowerServiceStub, dot: Recomputed) -> None:
    got = search(stub, item_id="i5", k=3, include_embeddings=True, return_attributes=["title"])
    for found in got.items:
        assert list(found.embedding.values) == dot.vector(found.item_id).tolist()
        assert found.embedding.release == "dot"
        assert found.attributes["title"].text == f"Title {found.item_id[1:]}"
    bare = search(stub, item_id="i5", k=3)
    assert all(not found.HasField("embedding") and not found.attributes for found in bare.items)


def test_what_cannot_be_searched_for(stub: v1.TwoTowerServiceStub) -> None:
    call = stub.SearchItems
    refused(call, v1.SearchItemsRequest(item_id="nowhere"), "ITEM_NOT_FOUND", "item_id")
    refused(call, v1.SearchItemsRequest(item=v1.Item()), "FIELD_REQUIRED", "item.features")
    refused(call, v1.SearchItemsRequest(item=item({"user_age": 1.0})), "NO_KNOWN_FEATURE", "item.features")
    refused(
        call,
        v1.SearchItemsRequest(embedding=v1.Embedding(values=[1.0], release="dot")),
        "DIMENSION_MISMATCH",
        "embedding.values",
    )
