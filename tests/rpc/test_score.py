"""Score: candidates of one user (CONTRACT rule 5)."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.rpc.messages import ITEM, USER, item, user
from tests.rpc.recomputed import Features, Recomputed, item_key
from tests.rpc.refusal import check_problem, refused
from twotower import v1

TINY = float(np.finfo(np.float32).tiny)


def check_scores(got: v1.ScoreResponse, dot: Recomputed, expected: NDArray[np.float64]) -> None:
    np.testing.assert_allclose(got.similarities, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got.scores, dot.scores(got.similarities), rtol=1e-6)


def test_by_id(stub: v1.TwoTowerServiceStub, dot: Recomputed) -> None:
    got = stub.Score(v1.ScoreRequest(user=user(USER), item_ids=dot.item_ids))
    check_scores(got, dot, dot.similarities(dot.user(USER), dot.item_ids))
    assert (got.release, got.source, list(got.missing_indices)) == ("dot", v1.SOURCE_COMPUTED, [])
    assert got.feature_use == v1.FeatureUse(used=9)
    assert not got.HasField("age_ms") and not got.problems


def test_by_key(stub: v1.TwoTowerServiceStub, dot: Recomputed) -> None:
    ids = dot.item_ids[:50]
    by_id = stub.Score(v1.ScoreRequest(user=user(USER), item_ids=ids))
    by_key = stub.Score(v1.ScoreRequest(user=user(USER), item_keys=map(item_key, ids)))
    assert by_key == by_id


def test_a_candidate_may_come_twice(stub: v1.TwoTowerServiceStub) -> None:
    got = stub.Score(v1.ScoreRequest(user=user(USER), item_ids=["i1", "i2", "i1"]))
    assert got.similarities[0] == got.similarities[2] != got.similarities[1]


def test_by_features(stub: v1.TwoTowerServiceStub, dot: Recomputed) -> None:
    items: list[Features] = [ITEM, {"item_price": 3.0}, {"item_category": "film", "item_tags": ["t1"]}]
    request = v1.ScoreRequest(user=user(USER), items=[item(features, item_id="i0") for features in items])
    got = stub.Score(request)
    check_scores(got, dot, np.array([dot.user(USER) @ dot.item(features) for features in items]))
    assert not got.missing_indices and not got.problems


def test_a_vector_stands_for_the_user(stub: v1.TwoTowerServiceStub, dot: Recomputed) -> None:
    embedding = stub.GetUserEmbedding(v1.GetUserEmbeddingRequest(user=user(USER))).embedding
    by_user = stub.Score(v1.ScoreRequest(user=user(USER), item_ids=dot.item_ids))
    got = stub.Score(v1.ScoreRequest(embedding=embedding, item_ids=dot.item_ids))
    assert got.similarities == by_user.similarities
    assert got.scores == by_user.scores
    assert (got.release, got.source) == ("dot", v1.SOURCE_UNSPECIFIED)
    assert not got.HasField("feature_use")


def test_missing_candidates_score_exactly_nothing(stub: v1.TwoTowerServiceStub, dot: Recomputed) -> None:
    ids = ["nowhere", "i5", "", "x" * 10_000, "i6", "Жук"]
    for request in (
        v1.ScoreRequest(user=user(USER), item_ids=ids),
        v1.ScoreRequest(user=user(USER), item_keys=map(item_key, ids)),
    ):
        got = stub.Score(request)
        assert list(got.missing_indices) == [0, 2, 3, 5]
        assert [got.scores[i] for i in got.missing_indices] == [0.0] * 4
        assert [got.similarities[i] for i in got.missing_indices] == [0.0] * 4
        expected = dot.similarities(dot.user(USER), ["i5", "i6"])
        np.testing.assert_allclose([got.similarities[1], got.similarities[4]], expected, rtol=1e-4)
        assert min(got.scores[1], got.scores[4]) > 0


def test_all_candidates_may_be_missing(stub: v1.TwoTowerServiceStub) -> None:
    got = stub.Score(v1.ScoreRequest(user=user(USER), item_ids=["a", "b"]))
    assert (list(got.scores), list(got.missing_indices)) == ([0.0, 0.0], [0, 1])


@pytest.mark.parametrize("by", ["item_ids", "item_keys"])
def test_required_candidates_that_are_missing(stub: v1.TwoTowerServiceStub, by: str) -> None:
    ids = ["i5", "nowhere", "i6"]
    request = v1.ScoreRequest(user=user(USER), require_all=True)
    getattr(request, by).extend(ids if by == "item_ids" else map(item_key, ids))
    message = refused(stub.Score, request, "ITEM_NOT_FOUND", by)
    assert ("nowhere" if by == "item_ids" else str(item_key("nowhere"))) in message
    del getattr(request, by)[1]
    assert len(stub.Score(request).scores) == 2


def test_a_bad_candidate_fails_alone(stub: v1.TwoTowerServiceStub, dot: Recomputed) -> None:
    items = [item(ITEM), item({"user_age": 3.0}), item({"item_price": float("nan")}), item({}), item(ITEM)]
    got = stub.Score(v1.ScoreRequest(user=user(USER), items=items, require_all=True))
    one, two, three = got.problems
    check_problem(one, 1, "NO_KNOWN_FEATURE", "items[1].features")
    check_problem(two, 2, "VALUE_NOT_FINITE", "items[2].features[item_price]")
    check_problem(three, 3, "FIELD_REQUIRED", "items[3].features")
    assert list(got.scores[1:4]) == [0.0] * 3
    assert list(got.similarities[1:4]) == [0.0] * 3
    expected = float(dot.user(USER) @ dot.item(ITEM))
    np.testing.assert_allclose([got.similarities[0], got.similarities[4]], expected, rtol=1e-4)
    assert not got.missing_indices


@pytest.mark.parametrize("factor", [1e3, 1e9, 1e18])
def test_real_scores_are_above_nothing_and_at_most_one(
    stub: v1.TwoTowerServiceStub, dot: Recomputed, factor: float
) -> None:
    for sign, score in ((-1, TINY), (1, 1.0)):
        vector = v1.Embedding(values=dot.vector("i5") * np.float32(sign * factor), release="dot")
        got = stub.Score(v1.ScoreRequest(embedding=vector, item_ids=["i5", "nowhere"]))
        assert list(got.scores) == [score, 0.0]
        np.testing.assert_allclose(got.similarities[0], sign * factor * np.sum(dot.vector("i5") ** 2), rtol=1e-5)


def test_similarities_still_tell_scores_of_one_apart(stub: v1.TwoTowerServiceStub, dot: Recomputed) -> None:
    vector = v1.Embedding(values=dot.vector("i5") * 100, release="dot")
    got = stub.Score(v1.ScoreRequest(embedding=vector, item_ids=dot.item_ids))
    sure = [similarity for similarity, score in zip(got.similarities, got.scores, strict=True) if score == 1.0]
    assert len(sure) > 20
    assert len(set(sure)) == len(sure)


def test_a_zero_vector_has_no_similarity(stub: v1.TwoTowerServiceStub, dot: Recomputed) -> None:
    got = stub.Score(v1.ScoreRequest(embedding=v1.Embedding(values=[0.0] * 8, release="dot"), item_ids=["i1"]))
    assert list(got.similarities) == [0.0]
    np.testing.assert_allclose(got.scores, dot.scores([0.0]), rtol=1e-6)


def test_score_and_recommend_agree_to_the_bit(stub: v1.TwoTowerServiceStub) -> None:
    found = stub.Recommend(v1.RecommendRequest(user=user(USER), k=300)).items
    scored = stub.Score(v1.ScoreRequest(user=user(USER), item_ids=[one.item_id for one in found]))
    assert list(scored.similarities) == [one.similarity for one in found]
    assert list(scored.scores) == [one.score for one in found]
