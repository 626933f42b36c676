"""Recommend: the exact best items for a user."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.rpc.messages import USER, user
from tests.rpc.recomputed import Features, Recomputed, item_key
from tests.rpc.refusal import refused
from twotower import v1

USERS: list[Features] = [
    USER,
    {"user_age": 70.0},
    {"user_gender": "m"},
    {"user_interest_film": 1.0, "user_city": "Oslo"},
]
ZERO = v1.Embedding(values=[0.0] * 8, release="dot")


def ids(response: v1.RecommendResponse) -> list[str]:
    return [item.item_id for item in response.items]


def recommend(stub: v1.TwoTowerServiceStub, **fields: Any) -> v1.RecommendResponse:
    fields = fields if "embedding" in fields else {"user": user(USER), **fields}
    got: v1.RecommendResponse = stub.Recommend(v1.RecommendRequest(**fields))
    return got


@pytest.mark.parametrize("features", USERS)
@pytest.mark.parametrize("k", [1, 10, 299, 300])
def test_the_best_items_come_first(stub: v1.TwoTowerServiceStub, dot: Recomputed, features: Features, k: int) -> None:
    got = recommend(stub, user=user(features), k=k)
    vector = dot.user(features)
    assert ids(got) == dot.top(vector, k)
    similarities = [item.similarity for item in got.items]
    np.testing.assert_allclose(similarities, dot.similarities(vector, ids(got)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose([item.score for item in got.items], dot.scores(similarities), rtol=1e-6)
    assert similarities == sorted(similarities, reverse=True)
    assert (got.release, got.source) == ("dot", v1.SOURCE_COMPUTED)
    assert got.feature_use.used == len({name.split("_interest_")[0] for name in features})
    assert not got.HasField("user_embedding")
    assert all(not item.HasField("embedding") and not item.attributes for item in got.items)


def test_no_k_means_100(stub: v1.TwoTowerServiceStub, dot: Recomputed) -> None:
    assert ids(recommend(stub)) == ids(recommend(stub, k=100)) == dot.top(dot.user(USER), 100)


@pytest.mark.parametrize("k", [301, 10_000])
def test_there_may_be_fewer_items_than_asked_for(stub: v1.TwoTowerServiceStub, k: int) -> None:
    assert len(recommend(stub, k=k).items) == 300


@pytest.mark.parametrize("k", [1, 7, 300])
def test_ties_are_broken_by_item_id(stub: v1.TwoTowerServiceStub, dot: Recomputed, k: int) -> None:
    got = recommend(stub, embedding=ZERO, k=k)
    assert ids(got) == sorted(dot.item_ids)[:k]
    assert {item.similarity for item in got.items} == {0.0}


def test_a_vector_stands_for_the_user(stub: v1.TwoTowerServiceStub) -> None:
    embedding = stub.GetUserEmbedding(v1.GetUserEmbeddingRequest(user=user(USER))).embedding
    got = recommend(stub, embedding=embedding, k=20)
    assert list(got.items) == list(recommend(stub, k=20).items)
    assert (got.release, got.source) == ("dot", v1.SOURCE_UNSPECIFIED)
    assert not got.HasField("feature_use")


def test_exclusions_add_up_and_leave_k(stub: v1.TwoTowerServiceStub, dot: Recomputed) -> None:
    best = dot.top(dot.user(USER), 300)
    got = recommend(
        stub,
        k=50,
        # An id twice, in both lists, and ids that the catalog lacks exclude no more than they say.
        exclude_item_ids=[*best[:100], best[0], "nowhere", ""],
        exclude_item_keys=[*map(item_key, best[90:200]), 0, 12345],
    )
    assert ids(got) == best[200:250]


@pytest.mark.parametrize("left", [0, 1, 30])
def test_fewer_than_k_are_left_only_when_all_others_are_excluded(
    stub: v1.TwoTowerServiceStub, dot: Recomputed, left: int
) -> None:
    best = dot.top(dot.user(USER), 300)
    got = recommend(stub, k=50, exclude_item_ids=best[left:])
    assert ids(got) == best[:left]


def test_vectors_come_when_asked_for(stub: v1.TwoTowerServiceStub, dot: Recomputed) -> None:
    got = recommend(stub, k=5, include_embeddings=True)
    np.testing.assert_allclose(got.user_embedding.values, dot.user(USER), rtol=1e-5, atol=1e-6)
    assert got.user_embedding.release == "dot"
    for item in got.items:
        assert list(item.embedding.values) == dot.vector(item.item_id).tolist()
        assert item.embedding.release == "dot"
    # They are ready to be sent back.
    assert ids(recommend(stub, embedding=got.user_embedding, k=5)) == ids(got)


def value(attribute: v1.AttributeValue) -> object:
    kind = attribute.WhichOneof("kind")
    assert kind is not None
    return list(attribute.texts.values) if kind == "texts" else getattr(attribute, kind)


def test_attributes_come_when_asked_for(stub: v1.TwoTowerServiceStub, dot: Recomputed) -> None:
    names = ["title", "in_stock", "category", "price", "tags"]
    got = recommend(stub, k=300, return_attributes=[*names, "title"])
    for item in got.items:
        row = dot.rows[item.item_id]
        expected = {name: dot.attributes[name][row] for name in names}
        present = {name: given for name, given in expected.items() if given is not None}
        assert {name: value(given) for name, given in item.attributes.items()} == present
    absent = [item for item in got.items if "price" not in item.attributes]
    assert 0 < len(absent) < 100
    only = recommend(stub, k=3, return_attributes=["title"])
    assert [set(item.attributes) for item in only.items] == [{"title"}] * 3


@pytest.mark.parametrize("names", [["colour"], ["title", "item_id"], [""], ["item_key"]])
def test_an_attribute_that_is_none(stub: v1.TwoTowerServiceStub, names: list[str]) -> None:
    request = v1.RecommendRequest(user=user(USER), return_attributes=names)
    message = refused(stub.Recommend, request, "FILTER_INVALID", f"return_attributes[{len(names) - 1}]")
    assert "title, in_stock, category, price, tags" in message


def test_an_attribute_named_very_often_is_returned_once(stub: v1.TwoTowerServiceStub) -> None:
    got = recommend(stub, k=1, return_attributes=["title"] * 100_000)
    assert set(got.items[0].attributes) == {"title"}
