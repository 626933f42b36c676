"""User embeddings, against the release's towers run by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tests.rpc.messages import USER, user
from tests.rpc.recomputed import Features, Recomputed
from twotower import v1

TOO_LONG: Features = {
    "user_tags": [f"tag {i}" for i in range(9)],
    "user_recent_clicks": [f"i{i}" for i in range(9)],
    **{f"user_interest_{i}": (-1) ** i * i / 10 for i in range(9)},
}
USERS: list[Features] = [
    USER,
    {"user_age": 44.0},
    {"user_ctr": 0.5, "user_hour": 0.0},
    {"user_gender": "m"},
    {"user_gender": "not in the vocabulary"},
    {"user_city": "Zürich"},
    {"scene_page": "home"},
    {"user_tags": ["one"]},
    {"user_recent_clicks": ["i3", "i3", "i1"]},
    {"user_interest_film": 1.0},
    {"user_interest_film": 0.0},
    {"user_interest_Ж": -0.5},
    TOO_LONG,
]


def embed(stub: v1.TwoTowerServiceStub, message: v1.User) -> v1.GetUserEmbeddingResponse:
    got: v1.GetUserEmbeddingResponse = stub.GetUserEmbedding(v1.GetUserEmbeddingRequest(user=message))
    return got


@pytest.mark.parametrize("features", USERS, ids=lambda features: " ".join(features)[:30])
def test_every_kind_of_feature(stub: v1.TwoTowerServiceStub, dot: Recomputed, features: Features) -> None:
    got = embed(stub, user(features, user_id="u1"))
    np.testing.assert_allclose(got.embedding.values, dot.user(features), rtol=1e-5, atol=1e-6)
    assert (got.embedding.release, got.release, got.source) == ("dot", "dot", v1.SOURCE_COMPUTED)
    assert not got.HasField("age_ms")


def test_different_users_have_different_vectors(dot: Recomputed) -> None:
    assert len({dot.user(features).tobytes() for features in USERS}) == len(USERS)


def test_an_anonymous_user_is_served(stub: v1.TwoTowerServiceStub, dot: Recomputed) -> None:
    got = embed(stub, user(USER))
    np.testing.assert_allclose(got.embedding.values, dot.user(USER), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", [v1.CACHE_MODE_UNSPECIFIED, v1.CACHE_MODE_BYPASS, v1.CACHE_MODE_REFRESH, 99])
def test_every_cache_mode_computes_without_a_cache(
    stub: v1.TwoTowerServiceStub, dot: Recomputed, mode: v1.CacheMode
) -> None:
    message = user(USER, user_id="u1", feature_version="v1", routing_key="session")
    got = stub.GetUserEmbedding(v1.GetUserEmbeddingRequest(user=message, cache_mode=mode))
    np.testing.assert_allclose(got.embedding.values, dot.user(USER), rtol=1e-5, atol=1e-6)
    assert got.source == v1.SOURCE_COMPUTED


def test_features_are_counted(stub: v1.TwoTowerServiceStub) -> None:
    some = user({"user_age": 1.0, "user_interest_a": 1.0, "user_interest_b": 1.0, "shoe_size": 44.0, "pets": ["cat"]})
    assert embed(stub, some).feature_use == v1.FeatureUse(used=2, missing=7, unknown=2)
    assert embed(stub, user(USER)).feature_use == v1.FeatureUse(used=9, missing=0, unknown=0)


@pytest.mark.parametrize("encoding", [v1.EMBEDDING_ENCODING_UNSPECIFIED, v1.EMBEDDING_ENCODING_LIST, 99])
def test_a_batch_as_a_list(stub: v1.TwoTowerServiceStub, dot: Recomputed, encoding: v1.EmbeddingEncoding) -> None:
    got = stub.BatchGetUserEmbeddings(v1.BatchGetUserEmbeddingsRequest(users=map(user, USERS), encoding=encoding))
    for embedding, features in zip(got.embeddings, USERS, strict=True):
        np.testing.assert_allclose(embedding.values, dot.user(features), rtol=1e-5, atol=1e-6)
        assert embedding.release == "dot"
    assert not got.HasField("matrix")
    assert list(got.releases) == ["dot"]
    assert list(got.sources) == [v1.SOURCE_COMPUTED] * len(USERS)
    assert not got.release_indices and not got.ages_ms and not got.problems


def test_a_batch_as_a_matrix(stub: v1.TwoTowerServiceStub, dot: Recomputed) -> None:
    users = [user(features) for features in USERS * 40]  # more than one chunk of work
    got = stub.BatchGetUserEmbeddings(
        v1.BatchGetUserEmbeddingsRequest(users=users, encoding=v1.EMBEDDING_ENCODING_MATRIX)
    )
    assert (got.matrix.rows, got.matrix.dimension) == (len(users), 8)
    rows = np.frombuffer(got.matrix.values, "<f4").reshape(len(users), 8)
    np.testing.assert_allclose(rows, [dot.user(features) for features in USERS] * 40, rtol=1e-5, atol=1e-6)
    assert not got.embeddings
    assert list(got.releases) == ["dot"]
