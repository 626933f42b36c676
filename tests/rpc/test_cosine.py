"""CONTRACT rule 6: vectors of a cosine release have norm 1, whichever way they come or go."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.rpc.messages import ITEM, USER, item, user
from tests.rpc.recomputed import Features, Recomputed, item_key
from tests.rpc.refusal import check_problem, refused
from twotower import v1

USERS: list[Features] = [USER, {"user_age": 70.0}, {"user_city": "Oslo"}]


def check_unit(vectors: Any) -> None:
    np.testing.assert_allclose(np.linalg.norm(np.array(vectors, np.float64), axis=-1), 1.0, atol=1e-6)


def embedding(values: Any) -> v1.Embedding:
    return v1.Embedding(values=values, release="cosine")


@pytest.mark.parametrize("features", USERS)
def test_users_have_unit_vectors(cosine_stub: v1.TwoTowerServiceStub, cosine: Recomputed, features: Features) -> None:
    got = cosine_stub.GetUserEmbedding(v1.GetUserEmbeddingRequest(user=user(features)))
    check_unit(got.embedding.values)
    np.testing.assert_allclose(got.embedding.values, cosine.user(features), rtol=1e-5, atol=1e-6)
    assert got.release == "cosine"


def test_batches_of_users_have_unit_vectors(cosine_stub: v1.TwoTowerServiceStub) -> None:
    request = v1.BatchGetUserEmbeddingsRequest(users=map(user, USERS))
    check_unit([one.values for one in cosine_stub.BatchGetUserEmbeddings(request).embeddings])
    request.encoding = v1.EMBEDDING_ENCODING_MATRIX
    matrix = cosine_stub.BatchGetUserEmbeddings(request).matrix
    check_unit(np.frombuffer(matrix.values, "<f4").reshape(3, 8))


def test_items_have_unit_vectors(cosine_stub: v1.TwoTowerServiceStub, cosine: Recomputed) -> None:
    computed = cosine_stub.GetItemEmbedding(v1.GetItemEmbeddingRequest(item=item(ITEM)))
    check_unit(computed.embedding.values)
    np.testing.assert_allclose(computed.embedding.values, cosine.item(ITEM), rtol=1e-5, atol=1e-6)
    stored = cosine_stub.BatchGetItemEmbeddings(v1.BatchGetItemEmbeddingsRequest(item_ids=cosine.item_ids))
    check_unit([one.values for one in stored.embeddings])
    found = cosine_stub.SearchItems(v1.SearchItemsRequest(item_id="i5", include_embeddings=True))
    check_unit([one.embedding.values for one in found.items])


def test_a_plain_dot_product_of_what_left_is_the_similarity(
    cosine_stub: v1.TwoTowerServiceStub, cosine: Recomputed
) -> None:
    got = cosine_stub.Recommend(v1.RecommendRequest(user=user(USER), k=50, include_embeddings=True))
    assert [one.item_id for one in got.items] == cosine.top(cosine.user(USER), 50)
    vectors = np.array([one.embedding.values for one in got.items])
    similarities = [one.similarity for one in got.items]
    np.testing.assert_allclose(vectors @ np.array(got.user_embedding.values), similarities, atol=1e-6)
    np.testing.assert_allclose([one.score for one in got.items], cosine.scores(similarities), rtol=1e-6)
    assert max(map(abs, similarities)) <= 1 + 1e-6


@pytest.mark.parametrize("factor", [1e-30, 1e-3, 1.0, 7.0, 1e30])
def test_what_enters_is_normalised(cosine_stub: v1.TwoTowerServiceStub, cosine: Recomputed, factor: float) -> None:
    scaled = embedding(cosine.user(USER).astype(np.float64) * factor)
    expected = cosine.similarities(cosine.user(USER), cosine.item_ids)
    scored = cosine_stub.Score(v1.ScoreRequest(embedding=scaled, item_ids=cosine.item_ids))
    np.testing.assert_allclose(scored.similarities, expected, atol=1e-6)
    by_key = cosine_stub.Score(v1.ScoreRequest(embedding=scaled, item_keys=map(item_key, cosine.item_ids)))
    assert by_key == scored
    found = cosine_stub.Recommend(v1.RecommendRequest(embedding=scaled, k=20, include_embeddings=True))
    assert [one.item_id for one in found.items] == cosine.top(cosine.user(USER), 20)
    check_unit(found.user_embedding.values)
    near = cosine_stub.SearchItems(v1.SearchItemsRequest(embedding=scaled, k=20))
    assert [one.item_id for one in near.items] == cosine.top(cosine.user(USER), 20)


def test_items_by_features_are_normalised(cosine_stub: v1.TwoTowerServiceStub, cosine: Recomputed) -> None:
    got = cosine_stub.Score(v1.ScoreRequest(user=user(USER), items=[item(ITEM)]))
    np.testing.assert_allclose(got.similarities, [cosine.user(USER) @ cosine.item(ITEM)], atol=1e-6)
    (itself,) = cosine_stub.Score(
        v1.ScoreRequest(embedding=embedding(cosine.item(ITEM)), items=[item(ITEM)])
    ).similarities
    assert itself == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("values", [[float("nan")] + [1.0] * 7, [float("inf")] * 8, [float("-inf")] + [0.0] * 7])
def test_what_is_not_finite_cannot_be_normalised(cosine_stub: v1.TwoTowerServiceStub, values: list[float]) -> None:
    request = v1.ScoreRequest(embedding=embedding(values), item_ids=["i1"])
    refused(cosine_stub.Score, request, "VALUE_NOT_FINITE", "embedding.values")


def test_a_tower_whose_vector_is_not_finite(cosine_stub: v1.TwoTowerServiceStub) -> None:
    bad = item({"item_ctr": 3e38})
    refused(cosine_stub.GetItemEmbedding, v1.GetItemEmbeddingRequest(item=bad), "VALUE_NOT_FINITE", "item.features")
    got = cosine_stub.BatchGetItemEmbeddings(v1.BatchGetItemEmbeddingsRequest(items=[bad, item(ITEM)]))
    check_problem(got.problems[0], 0, "VALUE_NOT_FINITE", "items[0].features")
    check_unit(got.embeddings[1].values)


def test_a_zero_vector_has_similarity_zero_to_everything(
    cosine_stub: v1.TwoTowerServiceStub, cosine: Recomputed
) -> None:
    zero = embedding([0.0] * 8)
    scored = cosine_stub.Score(v1.ScoreRequest(embedding=zero, item_ids=["i1", "i2"]))
    assert list(scored.similarities) == [0.0, 0.0]
    np.testing.assert_allclose(scored.scores, cosine.scores([0.0, 0.0]), rtol=1e-6)
    found = cosine_stub.Recommend(v1.RecommendRequest(embedding=zero, k=300))
    assert [one.item_id for one in found.items] == sorted(cosine.item_ids)
    assert {one.similarity for one in found.items} == {0.0}
