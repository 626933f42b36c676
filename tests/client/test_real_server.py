"""Every call of both clients against the real server, compared with numpy on the release's own files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import twotower
from tests.conftest import ITEMS, Running
from tests.model_folder import DIMENSION, item_table
from tests.rpc.recomputed import Recomputed, item_key
from twotower import Embedding, ErrorReason, Source, all_of, any_of, not_, where

OpenClient = Callable[..., Any]

ROWS = item_table(ITEMS).to_pylist()
# The same user as a caller may write it, and as the schema names it.
USER = twotower.user("u1", age=34, gender="f", city="Oslo", recent_clicks=["i3", "i7"], interest={"sport": 0.8})
USER_FEATURES: dict[str, Any] = {
    "user_age": 34.0,
    "user_gender": "f",
    "user_city": "Oslo",
    "user_recent_clicks": ["i3", "i7"],
    "user_interest_sport": 0.8,
}
OTHER = twotower.user("u2", {"user_age": 61}, ctr=np.float32(0.25), gender="m", tags=["a", "b"], scene_page="cart")
OTHER_FEATURES: dict[str, Any] = {
    "user_age": 61.0,
    "user_ctr": 0.25,
    "user_gender": "m",
    "user_tags": ["a", "b"],
    "scene_page": "cart",
}
BAD = twotower.user("u3", age=float("nan"))


@pytest.fixture(scope="module")
def dot(releases: Path) -> Recomputed:
    return Recomputed(releases / "dot")


@pytest.fixture
def client(server: Running, open_client: OpenClient) -> Any:
    return open_client(server.target)


def item_of(row: dict[str, Any]) -> twotower.v1.Item:
    """A row of the table as a caller would send it; `title` and `in_stock` are no features."""
    features = {name: value for name, value in row.items() if name.startswith("item_") and name != "item_id"}
    return twotower.item(row["item_id"], features)


def close_to(expected: Any) -> Any:
    return pytest.approx(np.asarray(expected), rel=1e-4, abs=1e-5)


# ---- embeddings


def test_get_user_embedding(client: Any, dot: Recomputed) -> None:
    result = client.get_user_embedding(USER)
    assert result.values == close_to(dot.user(USER_FEATURES))
    assert result.values.dtype == np.float32 and result.values.shape == (DIMENSION,)
    assert (result.release, result.source, result.age_ms) == ("dot", Source.COMPUTED, None)
    assert result.feature_use == twotower.FeatureUse(used=5, missing=4, unknown=0)


def test_batch_get_user_embeddings(client: Any, dot: Recomputed) -> None:
    result = client.batch_get_user_embeddings([USER, OTHER])
    assert result.matrix.shape == (2, DIMENSION) and result.matrix.dtype == np.float32
    assert result.matrix == close_to([dot.user(USER_FEATURES), dot.user(OTHER_FEATURES)])
    assert result.releases == ("dot",) and result.release_indices.tolist() == [0, 0]
    assert result.sources == (Source.COMPUTED,) * 2 and result.problems == ()
    assert (result[-1].release, result[-1].source, result[-1].age_ms) == ("dot", Source.COMPUTED, None)


def test_a_bad_user_fails_alone(client: Any, dot: Recomputed) -> None:
    result = client.batch_get_user_embeddings([USER, BAD, OTHER])
    (problem,) = result.problems
    assert (problem.index, problem.reason) == (1, ErrorReason.VALUE_NOT_FINITE)
    assert problem.field.startswith("users[1].features")
    assert result[1] is None and not result.matrix[1].any()
    assert result[0].values == close_to(dot.user(USER_FEATURES))
    assert result[2].values == close_to(dot.user(OTHER_FEATURES))
    with pytest.raises(twotower.InvalidRequest, match=r"^VALUE_NOT_FINITE: users\[1\]") as caught:
        result.raise_for_problems()
    assert caught.value.reason is ErrorReason.VALUE_NOT_FINITE


def test_get_item_embedding(client: Any, dot: Recomputed) -> None:
    stored = client.get_item_embedding("i7")
    computed = client.get_item_embedding(item_of(ROWS[7]))
    assert stored.values.tolist() == dot.vector("i7").tolist()
    assert computed.values == close_to(dot.vector("i7"))
    assert (stored.release, stored.source) == ("dot", Source.STORED)
    assert (computed.release, computed.source) == ("dot", Source.COMPUTED)


def test_batch_get_item_embeddings(client: Any, dot: Recomputed) -> None:
    ids = ["i7", "nope", "i9"]
    by_id = client.batch_get_item_embeddings(ids)
    by_key = client.batch_get_item_embeddings(item_keys=np.array([item_key(one) for one in ids], dtype=np.uint64))
    for result in by_id, by_key:
        assert result.matrix.tolist() == [dot.vector("i7").tolist(), [0.0] * DIMENSION, dot.vector("i9").tolist()]
        assert result.missing_indices.tolist() == [1] and result[1] is None
        assert (result.release, result[2].release) == ("dot", "dot")
    assert by_id.missing_ids == ("nope",) and by_key.missing_ids == ()


def test_batch_get_item_embeddings_of_features(client: Any, dot: Recomputed) -> None:
    result = client.batch_get_item_embeddings(items=[item_of(ROWS[7]), twotower.item("x", price="cheap")])
    assert result.matrix[0] == close_to(dot.vector("i7")) and not result.matrix[1].any()
    assert [(problem.index, problem.reason) for problem in result.problems] == [(1, ErrorReason.FEATURE_TYPE)]
    assert result[1] is None and len(result.missing_indices) == 0


# ---- scores


def test_score(client: Any, dot: Recomputed) -> None:
    vector = dot.user(USER_FEATURES)
    scores = client.score(USER, dot.item_ids)
    assert scores.similarities == close_to(dot.similarities(vector, dot.item_ids))
    assert scores.scores == pytest.approx(dot.scores(scores.similarities), rel=1e-5)
    assert scores.scores.dtype == np.float32 and (scores.scores > 0).all()
    assert [scores.item_ids[position] for position in scores.order()] == dot.top(vector, ITEMS)
    assert (scores.release, scores.source, scores.age_ms) == ("dot", Source.COMPUTED, None)
    assert scores.feature_use == twotower.FeatureUse(used=5, missing=4, unknown=0)
    assert len(scores.missing_indices) == 0 and scores.problems == ()


def test_score_by_key_by_features_and_by_vector(client: Any, dot: Recomputed) -> None:
    rows = [5, 17, 250]
    ids = [f"i{row}" for row in rows]
    expected = dot.similarities(dot.user(USER_FEATURES), ids)
    vector = client.get_user_embedding(USER)
    for scores in (
        client.score(USER, item_keys=[item_key(one) for one in ids]),
        client.score(USER, items=[item_of(ROWS[row]) for row in rows]),
        client.score(vector, np.array(ids)),
        client.score(Embedding(vector.values.astype(np.float64), "dot"), ids),
    ):
        assert scores.similarities == close_to(expected)
        assert scores.scores == pytest.approx(dot.scores(scores.similarities), rel=1e-5)
        assert scores.release == "dot"


def test_missing_candidates(client: Any) -> None:
    scores = client.score(USER, ["nope", "i1", "nor this"])
    assert scores.missing_indices.tolist() == [0, 2] and scores.missing_ids == ("nope", "nor this")
    assert scores.scores[0] == 0 and scores.scores[1] > 0 and scores.order().tolist()[0] == 1
    with pytest.raises(twotower.NotFound, match="nope") as caught:
        client.score(USER, ["nope", "i1"], require_all=True)
    assert caught.value.reason is ErrorReason.ITEM_NOT_FOUND


def test_a_bad_candidate_fails_alone(client: Any) -> None:
    scores = client.score(USER, items=[twotower.item("x", price=float("inf")), item_of(ROWS[7])])
    (problem,) = scores.problems
    assert (problem.index, problem.reason) == (0, ErrorReason.VALUE_NOT_FINITE)
    assert scores.scores[0] == 0 and scores.scores[1] > 0 and scores.item_ids == ("x", "i7")


def test_batch_score(client: Any, dot: Recomputed) -> None:
    vector = client.get_user_embedding(OTHER)
    result = client.batch_score(
        [
            twotower.score_request(USER, ["i1", "nope"]),
            twotower.score_request(BAD, ["i1"]),
            twotower.score_request(vector, item_keys=[item_key("i2")]),
            twotower.score_request(USER, ["i1"], release="r9"),
        ]
    )
    assert len(result) == 4
    assert result[0].similarities[0] == close_to(dot.similarities(dot.user(USER_FEATURES), ["i1"])[0])
    assert result[0].missing_ids == ("nope",) and result[0].scores[1] == 0
    assert result[2].similarities == close_to(dot.similarities(dot.user(OTHER_FEATURES), ["i2"]))
    assert result[1] is None and result[3] is None
    assert [(problem.index, problem.reason) for problem in result.problems] == [
        (1, ErrorReason.VALUE_NOT_FINITE),
        (3, ErrorReason.RELEASE_NOT_LOADED),
    ]
    with pytest.raises(twotower.InvalidRequest, match=r"requests\[1\]\.user"):
        result.raise_for_problems()


# ---- recommendations and neighbours


def test_recommend(client: Any, dot: Recomputed) -> None:
    vector = dot.user(USER_FEATURES)
    best = dot.top(vector, ITEMS)
    for user in USER, client.get_user_embedding(USER):
        result = client.recommend(user, 10)
        assert list(result.item_ids) == best[:10] and result.release == "dot"
        assert result.similarities == close_to(dot.similarities(vector, result.item_ids))
        assert result.scores == pytest.approx(dot.scores(result.similarities), rel=1e-5)
        assert result.user_embedding is None and result.items[0].embedding is None
        assert result.items[0].attributes == {}
    assert list(client.recommend(USER).item_ids) == best[:100]
    assert list(client.recommend(USER, 1000).item_ids) == best


def test_recommend_with_a_filter(client: Any, dot: Recomputed) -> None:
    vector = dot.user(USER_FEATURES)
    chosen = all_of(
        where("price").less_than(30),
        any_of(where("category").is_in("books", "film"), where("tags").equals("t1")),
        not_(where("in_stock").equals(False)),
    )

    def eligible(item: dict[str, Any]) -> bool:
        cheap = item["price"] is not None and item["price"] < 30
        return cheap and (item["category"] in ("books", "film") or "t1" in item["tags"]) and item["in_stock"]

    expected = dot.top(vector, ITEMS, eligible)
    assert 20 < len(expected) < ITEMS
    assert list(client.recommend(USER, 20, filter=chosen).item_ids) == expected[:20]
    assert list(client.recommend(USER, ITEMS, filter=chosen).item_ids) == expected
    unavailable = client.recommend(USER, ITEMS, filter=where("in_stock").equals(False))
    assert list(unavailable.item_ids) == dot.top(vector, ITEMS, lambda item: not item["in_stock"])


def test_exclusions_by_id_and_by_key_add_up(client: Any) -> None:
    best = client.recommend(USER, 8).item_ids
    result = client.recommend(
        USER, 4, exclude_item_ids=[best[0], "nope"], exclude_item_keys=np.array([item_key(best[2])], dtype=np.uint64)
    )
    assert result.item_ids == (best[1], *best[3:6])


def test_attributes_and_embeddings_come_when_asked_for(client: Any, dot: Recomputed) -> None:
    names = ("title", "price", "in_stock", "tags")
    result = client.recommend(USER, 50, return_attributes=names, include_embeddings=True)
    assert result.user_embedding.values == close_to(dot.user(USER_FEATURES))
    assert result.user_embedding.release == "dot"
    for item in result.items:
        stored = {name: dot.attributes[name][dot.rows[item.item_id]] for name in names}
        expected = {**stored, "tags": tuple(stored["tags"])}
        assert item.attributes == {name: value for name, value in expected.items() if value is not None}
        assert item.embedding.values.tolist() == dot.vector(item.item_id).tolist()
        assert item.embedding.release == "dot"
    assert any("price" not in item.attributes for item in result.items), "the catalog lacks some prices"


def test_search_items(client: Any, dot: Recomputed) -> None:
    vector = dot.vector("i7")
    nearest = dot.top(vector, ITEMS)
    others = [item_id for item_id in nearest if item_id != "i7"]
    by_id = client.search_items("i7", 10)
    assert list(by_id.item_ids) == others[:10] and by_id.release == "dot"
    assert list(client.search_items(item_of(ROWS[7]), 10).item_ids) == others[:10]
    assert list(client.search_items(Embedding(vector, "dot"), 10).item_ids) == nearest[:10]


def test_search_items_with_everything(client: Any, dot: Recomputed) -> None:
    music = dot.top(dot.vector("i7"), ITEMS, lambda item: item["category"] == "music" and item["item_id"] != "i7")
    result = client.search_items(
        "i7",
        3,
        filter=where("category").equals("music"),
        exclude_item_ids=music[:1],
        exclude_item_keys=[item_key(music[2])],
        return_attributes=["title"],
        include_embeddings=True,
    )
    assert list(result.item_ids) == [music[1], *music[3:5]]
    for item in result.items:
        assert item.attributes == {"title": f"Title {item.item_id[1:]}"}
        assert item.embedding.values.tolist() == dot.vector(item.item_id).tolist()


def test_serving_info(client: Any) -> None:
    info = client.serving_info()
    (release,) = info.releases
    assert (info.active_release, info.server_version, info.degraded) == ("dot", twotower.__version__, ())
    assert (release.release, release.dimension, release.items, release.active) == ("dot", DIMENSION, ITEMS, True)
    assert (release.similarity, release.scale, release.bias) == (twotower.Similarity.DOT, 2.0, -0.5)
    assert release.user_schema.dense_order == ("user_age", "user_ctr", "user_hour")
    assert twotower.FeatureSpec("user_interest_*", "weighted_bag", True) in release.user_schema.features
    assert info.limits.users == 10_000 and info.limits.request_bytes == 4 << 20


# ---- a cosine release


def test_vectors_of_a_cosine_release_have_norm_1(
    cosine_server: Running, open_client: OpenClient, releases: Path
) -> None:
    client = open_client(cosine_server.target)
    cosine = Recomputed(releases / "cosine")
    user = client.get_user_embedding(USER)
    users = client.batch_get_user_embeddings([USER, OTHER]).matrix
    items = client.batch_get_item_embeddings(cosine.item_ids).matrix
    computed = client.get_item_embedding(item_of(ROWS[7])).values
    for vectors in user.values[None], users, items, computed[None]:
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert user.values == close_to(cosine.user(USER_FEATURES)) and computed == close_to(cosine.vector("i7"))
    assert items.tolist() == cosine.vectors.tolist()
    scores = client.score(USER, cosine.item_ids)
    assert scores.similarities == close_to(items @ user.values), "a plain dot product is the cosine"
    assert scores.scores == close_to(cosine.scores(scores.similarities))
    assert list(client.recommend(USER, 10).item_ids) == cosine.top(user.values, 10)
    assert client.serving_info().releases[0].similarity is twotower.Similarity.COSINE


def test_a_cosine_release_normalises_what_it_is_given(cosine_server: Running, open_client: OpenClient) -> None:
    client = open_client(cosine_server.target)
    user = client.get_user_embedding(USER)
    longer = Embedding(user.values * 7, "cosine")
    assert client.score(longer, ["i1", "i2"]).similarities == close_to(client.score(USER, ["i1", "i2"]).similarities)
    result = client.recommend(longer, 5, include_embeddings=True)
    assert result.item_ids == client.recommend(user, 5).item_ids
    assert result.user_embedding.values == close_to(user.values)
    nothing = Embedding(np.zeros(DIMENSION, np.float32), "cosine")
    assert client.score(nothing, ["i1"]).similarities.tolist() == [0.0]
