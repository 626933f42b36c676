"""The cache in a worker's memory, through the calls that it serves."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from tests.cache.conftest import StartServer
from tests.reliability.serving import Own
from tests.rpc.messages import USER, user
from tests.rpc.recomputed import Features, Recomputed
from tests.supervisor.running import until
from twotower import v1

COMPUTED, CACHE = v1.SOURCE_COMPUTED, v1.SOURCE_CACHE
OTHER: Features = {"user_age": 70.0, "user_gender": "m"}
ALL_USED = v1.FeatureUse(used=9)


def embed(own: Own, features: Features, user_id: str = "u1", **fields: Any) -> v1.GetUserEmbeddingResponse:
    mode, release = fields.pop("cache_mode", 0), fields.pop("release", "")
    request = v1.GetUserEmbeddingRequest(user=user(features, user_id=user_id, **fields), cache_mode=mode)
    request.release = release
    got: v1.GetUserEmbeddingResponse = own.serving.GetUserEmbedding(request)
    assert got.HasField("age_ms") == (got.source == CACHE)
    assert got.HasField("feature_use") == (got.source == COMPUTED)
    return got


def is_of(values: Any, expected: Any) -> bool:
    return np.allclose(values, expected, rtol=1e-5, atol=1e-6)


def test_the_vector_of_a_user_is_kept_for_every_call(start_server: StartServer, dot: Recomputed) -> None:
    own = start_server("--user-cache", "ttl")
    first = embed(own, USER)
    assert (first.source, first.feature_use) == (COMPUTED, ALL_USED)
    time.sleep(0.05)
    # Other features: what is answered with is the vector that was kept.
    again = embed(own, OTHER)
    assert again.source == CACHE
    assert again.embedding == first.embedding
    assert 50 <= again.age_ms < 60_000

    cached = user(OTHER, user_id="u1")
    scored = own.serving.Score(v1.ScoreRequest(user=cached, item_ids=["i1", "i2"]))
    assert (scored.source, scored.HasField("age_ms"), scored.HasField("feature_use")) == (CACHE, True, False)
    assert is_of(scored.similarities, dot.similarities(dot.user(USER), ["i1", "i2"]))
    found = own.serving.Recommend(v1.RecommendRequest(user=cached, k=3, include_embeddings=True))
    assert (found.source, found.HasField("age_ms"), found.HasField("feature_use")) == (CACHE, True, False)
    assert found.user_embedding == first.embedding

    for call, request in (
        (own.serving.Score, v1.ScoreRequest(user=user(USER, user_id="u2"), item_ids=["i1"])),
        (own.serving.Recommend, v1.RecommendRequest(user=user(USER, user_id="u3"), k=1)),
    ):
        assert [call(request).source for _ in range(3)] == [COMPUTED, CACHE, CACHE]
        assert not call(request).HasField("feature_use")


def test_batches(start_server: StartServer, dot: Recomputed) -> None:
    own = start_server("--user-cache", "ttl")
    embed(own, USER, "known")
    time.sleep(0.002)
    users = [
        user(OTHER, user_id="known"),
        user(OTHER, user_id="new"),
        user({"user_age": float("nan")}, user_id="bad"),
        user(OTHER),
        user(USER, user_id="new"),  # as its first entry
        user({"user_age": float("nan")}, user_id="twice"),
        user(OTHER, user_id="twice"),  # its first entry is refused
    ]
    expected = [USER, OTHER, None, OTHER, OTHER, None, OTHER]
    request = v1.BatchGetUserEmbeddingsRequest(users=users)
    got = own.serving.BatchGetUserEmbeddings(request)
    assert list(got.sources) == [CACHE, COMPUTED, 0, COMPUTED, CACHE, 0, COMPUTED]
    assert len(got.ages_ms) == len(users)
    assert got.ages_ms[0] > 0
    assert [got.ages_ms[i] for i in (1, 2, 3, 5, 6)] == [0] * 5
    assert [problem.index for problem in got.problems] == [2, 5]
    for embedding, features in zip(got.embeddings, expected, strict=True):
        assert list(embedding.values) == [] if features is None else is_of(embedding.values, dot.user(features))

    request.cache_mode = v1.CACHE_MODE_BYPASS
    fresh = own.serving.BatchGetUserEmbeddings(request)
    assert set(fresh.sources) == {COMPUTED, 0} and not fresh.ages_ms

    default = v1.CACHE_MODE_UNSPECIFIED
    modes = (default, v1.CACHE_MODE_REFRESH, v1.CACHE_MODE_BYPASS, default)
    entries = [v1.ScoreRequest(user=user(OTHER, user_id="known"), item_ids=["i1"], cache_mode=mode) for mode in modes]
    entries.append(v1.ScoreRequest(user=user({"user_age": float("nan")}, user_id="worse"), item_ids=["i1"]))
    scored = own.serving.BatchScore(v1.BatchScoreRequest(requests=entries))
    assert [response.source for response in scored.responses] == [CACHE, COMPUTED, COMPUTED, CACHE, 0]
    assert [response.HasField("age_ms") for response in scored.responses] == [True, False, False, True, False]
    assert [response.HasField("feature_use") for response in scored.responses] == [False, True, True, False, False]
    assert [problem.field for problem in scored.problems] == ["requests[4].user.features[user_age]"]
    assert is_of(scored.responses[0].similarities, dot.similarities(dot.user(USER), ["i1"]))
    assert is_of(scored.responses[1].similarities, dot.similarities(dot.user(OTHER), ["i1"]))


def test_a_batch_of_many_chunks(start_server: StartServer, dot: Recomputed) -> None:
    own = start_server("--user-cache", "ttl")
    ages = [float(i % 90) for i in range(1000)]
    users = [user({"user_age": age}, user_id=f"u{i}") for i, age in enumerate(ages)]
    request = v1.BatchGetUserEmbeddingsRequest(users=users, encoding=v1.EMBEDDING_ENCODING_MATRIX)
    expected = [dot.user({"user_age": age}) for age in ages]
    for source in (COMPUTED, CACHE):
        got = own.serving.BatchGetUserEmbeddings(request)
        assert set(got.sources) == {source}
        assert is_of(np.frombuffer(got.matrix.values, "<f4").reshape(1000, 8), expected)


def test_what_is_not_cached(start_server: StartServer) -> None:
    own = start_server("--user-cache", "ttl", "--user-cache-real-time", "user_hour,user_city", "--limit-id-bytes", "9")
    for fields in ({"user_id": ""}, {"feature_version": "a:b"}, {"feature_version": "-"}):
        assert [embed(own, OTHER, **fields).source for _ in range(2)] == [COMPUTED] * 2
    assert [embed(own, {**OTHER, "hour": 3.0}).source for _ in range(2)] == [COMPUTED] * 2
    assert [embed(own, OTHER).source for _ in range(2)] == [COMPUTED, CACHE]
    # One who sends a real-time feature is computed although there is a vector, which stays.
    assert embed(own, {**OTHER, "user_city": "Oslo"}).source == COMPUTED
    assert embed(own, OTHER).source == CACHE


def test_what_is_refused_stays_refused(start_server: StartServer) -> None:
    own = start_server("--user-cache", "ttl", "--limit-id-bytes", "9", "--limit-features", "3")
    embed(own, OTHER)
    too_many: Features = {f"user_interest_{i}": 1.0 for i in range(4)}
    for message in (
        v1.User(user_id="u1"),
        user(OTHER, user_id="u1", routing_key="x" * 10),
        user(too_many, user_id="u1"),
    ):
        with pytest.raises(Exception, match=r"FIELD_REQUIRED|LIMIT_EXCEEDED"):
            own.serving.GetUserEmbedding(v1.GetUserEmbeddingRequest(user=message))
        got = own.serving.BatchGetUserEmbeddings(v1.BatchGetUserEmbeddingsRequest(users=[message]))
        assert [problem.index for problem in got.problems] == [0]


def test_modes(start_server: StartServer, dot: Recomputed) -> None:
    own = start_server("--user-cache", "ttl")
    assert embed(own, USER, cache_mode=v1.CACHE_MODE_BYPASS).source == COMPUTED
    assert embed(own, USER).source == COMPUTED  # a bypass does not write
    assert embed(own, OTHER, cache_mode=v1.CACHE_MODE_BYPASS).source == COMPUTED
    assert is_of(embed(own, OTHER).embedding.values, dot.user(USER))
    assert embed(own, OTHER, cache_mode=v1.CACHE_MODE_REFRESH).source == COMPUTED
    refreshed = embed(own, USER)
    assert refreshed.source == CACHE
    assert is_of(refreshed.embedding.values, dot.user(OTHER))
    assert embed(own, USER, cache_mode=99).source == CACHE  # as the default


def test_versions(start_server: StartServer) -> None:
    own = start_server("--user-cache", "ttl", "--user-cache-by-version")
    assert [embed(own, USER).source for _ in range(2)] == [COMPUTED] * 2
    assert [embed(own, USER, feature_version="1").source for _ in range(2)] == [COMPUTED, CACHE]
    assert [embed(own, USER, feature_version="2").source for _ in range(2)] == [COMPUTED, CACHE]
    assert embed(own, USER, feature_version="1").source == CACHE


def test_a_vector_expires(start_server: StartServer) -> None:
    own = start_server("--user-cache", "ttl", "--user-cache-ttl-s", "1")
    embed(own, USER)
    until(lambda: embed(own, USER).source == COMPUTED)
    assert embed(own, USER).age_ms < 1000


def test_a_switch_never_serves_the_vector_of_another_release(start_server: StartServer, dot: Recomputed) -> None:
    own = start_server("--user-cache", "ttl", "--keep-s", "3")
    before = embed(own, USER)
    assert own.load("cosine") == "LOADED"
    pinned = [embed(own, USER, release="cosine").source for _ in range(2)]
    assert pinned == [COMPUTED, CACHE]
    own.activate("cosine")
    after = embed(own, USER)
    assert (after.release, after.source) == ("cosine", CACHE)
    assert after.embedding.values != before.embedding.values
    # The vectors of a release that was closed are gone when it is opened again.
    until(lambda: "closed release dot" in own.server.log())
    assert own.load("dot") == "LOADED"
    reopened = embed(own, USER, release="dot")
    assert reopened.source == COMPUTED
    assert is_of(reopened.embedding.values, dot.user(USER))


def test_off_is_the_default(start_server: StartServer) -> None:
    own = start_server()
    assert [embed(own, USER).source for _ in range(3)] == [COMPUTED] * 3
