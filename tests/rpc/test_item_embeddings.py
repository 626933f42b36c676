"""Item embeddings: stored with the release, or computed from features."""

from __future__ import annotations

import numpy as np
import pytest

from tests.rpc.messages import ITEM, item
from tests.rpc.recomputed import Features, Recomputed, item_key
from tests.rpc.refusal import refused
from twotower import v1

ITEMS: list[Features] = [
    ITEM,
    {"item_price": 0.0},
    {"item_price": -5.0},
    {"item_price": 1e9},
    {"item_ctr": 0.9},
    {"item_age_days": 1000.0},
    {"item_category": "sport"},
    {"item_category": "unheard of"},
    {"item_tags": [f"t{i}" for i in range(9)]},
]


@pytest.mark.parametrize("features", ITEMS, ids=str)
def test_an_item_is_computed_from_features(stub: v1.TwoTowerServiceStub, dot: Recomputed, features: Features) -> None:
    got = stub.GetItemEmbedding(v1.GetItemEmbeddingRequest(item=item(features)))
    np.testing.assert_allclose(got.embedding.values, dot.item(features), rtol=1e-5, atol=1e-6)
    assert (got.embedding.release, got.release, got.source) == ("dot", "dot", v1.SOURCE_COMPUTED)


def test_an_item_is_read_from_the_release(stub: v1.TwoTowerServiceStub, dot: Recomputed) -> None:
    for id in ("i0", "i1", "i299"):
        got = stub.GetItemEmbedding(v1.GetItemEmbeddingRequest(item_id=id))
        assert list(got.embedding.values) == dot.vector(id).tolist()
        assert (got.embedding.release, got.release, got.source) == ("dot", "dot", v1.SOURCE_STORED)


def test_features_are_computed_even_of_a_known_id(stub: v1.TwoTowerServiceStub, dot: Recomputed) -> None:
    got = stub.GetItemEmbedding(v1.GetItemEmbeddingRequest(item=item(ITEM, item_id="i0")))
    np.testing.assert_allclose(got.embedding.values, dot.item(ITEM), rtol=1e-5, atol=1e-6)
    assert got.source == v1.SOURCE_COMPUTED


@pytest.mark.parametrize("id", ["nowhere", "i", "I0", "i0 ", "i00", "Жук", "a\nb", "x" * 512])
def test_an_unknown_id(stub: v1.TwoTowerServiceStub, id: str) -> None:
    message = refused(stub.GetItemEmbedding, v1.GetItemEmbeddingRequest(item_id=id), "ITEM_NOT_FOUND", "item_id")
    assert "release dot" in message


def test_ids_and_keys_name_the_same_items(stub: v1.TwoTowerServiceStub, dot: Recomputed) -> None:
    ids = dot.item_ids[::-1]
    by_id = stub.BatchGetItemEmbeddings(v1.BatchGetItemEmbeddingsRequest(item_ids=ids))
    by_key = stub.BatchGetItemEmbeddings(v1.BatchGetItemEmbeddingsRequest(item_keys=map(item_key, ids)))
    assert [list(embedding.values) for embedding in by_id.embeddings] == dot.vectors[::-1].tolist()
    assert {embedding.release for embedding in by_id.embeddings} == {"dot"}
    assert (by_id.release, list(by_id.missing_indices), list(by_id.problems)) == ("dot", [], [])
    assert by_key == by_id


def test_unknown_ids_among_known_ones_are_named(stub: v1.TwoTowerServiceStub, dot: Recomputed) -> None:
    ids = ["nowhere", "i5", "", "x" * 10_000, "i5", "i6", "nowhere"]
    missing = [0, 2, 3, 6]
    for request in (
        v1.BatchGetItemEmbeddingsRequest(item_ids=ids),
        v1.BatchGetItemEmbeddingsRequest(item_keys=map(item_key, ids)),
    ):
        got = stub.BatchGetItemEmbeddings(request)
        assert list(got.missing_indices) == missing
        assert [list(embedding.values) for embedding in got.embeddings] == [
            [] if i in missing else dot.vector(id).tolist() for i, id in enumerate(ids)
        ]
        assert all(got.embeddings[i] == v1.Embedding() for i in missing)
        request.encoding = v1.EMBEDDING_ENCODING_MATRIX
        got = stub.BatchGetItemEmbeddings(request)
        rows = np.frombuffer(got.matrix.values, "<f4").reshape(got.matrix.rows, got.matrix.dimension)
        assert rows.tolist() == [[0.0] * 8 if i in missing else dot.vector(id).tolist() for i, id in enumerate(ids)]
        assert list(got.missing_indices) == missing
        assert not got.embeddings


@pytest.mark.parametrize("key", [0, 1, 2**63, 2**64 - 1])
def test_an_unknown_key(stub: v1.TwoTowerServiceStub, key: int) -> None:
    got = stub.BatchGetItemEmbeddings(v1.BatchGetItemEmbeddingsRequest(item_keys=[key, item_key("i3")]))
    assert list(got.missing_indices) == [0]


def test_a_batch_is_computed_from_features(stub: v1.TwoTowerServiceStub, dot: Recomputed) -> None:
    request = v1.BatchGetItemEmbeddingsRequest(items=[item(features) for features in ITEMS])
    got = stub.BatchGetItemEmbeddings(request)
    for embedding, features in zip(got.embeddings, ITEMS, strict=True):
        np.testing.assert_allclose(embedding.values, dot.item(features), rtol=1e-5, atol=1e-6)
        assert embedding.release == "dot"
    request.encoding = v1.EMBEDDING_ENCODING_MATRIX
    matrix = stub.BatchGetItemEmbeddings(request).matrix
    assert matrix.values == np.array([e.values for e in got.embeddings], "<f4").tobytes()
    assert (matrix.rows, matrix.dimension) == (len(ITEMS), 8)
