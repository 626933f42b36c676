"""Every call of both clients: what goes out, and what comes back."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest

import twotower
from tests.client.scripted import ScriptedServer, refuse
from twotower import CacheMode, Embedding, Source, v1, where

OpenClient = Callable[..., Any]
USER = twotower.user("u1", age=34)
VECTOR = Embedding(np.array([0.5, -0.25], dtype=np.float32), "r2")


def matrix(rows: list[list[float]]) -> v1.EmbeddingMatrix:
    array = np.array(rows, dtype="<f4")
    return v1.EmbeddingMatrix(values=array.tobytes(), rows=array.shape[0], dimension=array.shape[1])


def test_both_clients_offer_the_same() -> None:
    def signatures(client: type) -> dict[str, str]:
        return {
            name: str(inspect.signature(member)).replace("Async", "").replace("aio.", "")
            for name, member in inspect.getmembers(client, inspect.isfunction)
            if not name.startswith("_")
        }

    assert signatures(twotower.Client) == signatures(twotower.AsyncClient)
    assert signatures(twotower.PinnedClient) == signatures(twotower.AsyncPinnedClient)
    assert signatures(twotower.Releases) == signatures(twotower.AsyncReleases)


def test_get_user_embedding(scripted: ScriptedServer, open_client: OpenClient) -> None:
    response = v1.GetUserEmbeddingResponse(
        embedding=v1.Embedding(values=[0.5, -0.25], release="r1"),
        release="r1",
        source=v1.SOURCE_CACHE,
        age_ms=0,
        feature_use=v1.FeatureUse(used=1, missing=2, unknown=3),
    )
    scripted.answer("GetUserEmbedding", response)
    result = open_client(scripted.target).get_user_embedding(USER, cache_mode=CacheMode.REFRESH)
    assert scripted.requests == [v1.GetUserEmbeddingRequest(user=USER, cache_mode=v1.CACHE_MODE_REFRESH)]
    assert result.values.dtype == np.float32 and result.values.tolist() == [0.5, -0.25]
    assert (result.release, result.source, result.age_ms) == ("r1", Source.CACHE, 0)
    assert result.feature_use == twotower.FeatureUse(used=1, missing=2, unknown=3)
    assert not result.values.flags.writeable


def test_a_vector_computed_now_has_no_age(scripted: ScriptedServer, open_client: OpenClient) -> None:
    scripted.answer("GetUserEmbedding", v1.GetUserEmbeddingResponse(source=v1.SOURCE_COMPUTED))
    assert open_client(scripted.target).get_user_embedding(USER).age_ms is None


def test_batch_get_user_embeddings(scripted: ScriptedServer, open_client: OpenClient) -> None:
    problem = v1.Problem(
        index=1,
        code=3,
        reason=v1.ERROR_REASON_NO_KNOWN_FEATURE,
        message="NO_KNOWN_FEATURE: none of them",
        field="users[1].features",
    )
    response = v1.BatchGetUserEmbeddingsResponse(
        matrix=matrix([[1, 2], [0, 0], [3, 4]]),
        releases=["r1", "r2"],
        release_indices=[0, 0, 1],
        sources=[v1.SOURCE_COMPUTED, v1.SOURCE_UNSPECIFIED, v1.SOURCE_CACHE],
        ages_ms=[0, 0, 70],
        problems=[problem],
    )
    scripted.answer("BatchGetUserEmbeddings", response)
    users = [twotower.user(f"u{i}", age=i) for i in range(3)]
    result = open_client(scripted.target).batch_get_user_embeddings(users)
    assert scripted.requests == [v1.BatchGetUserEmbeddingsRequest(users=users, encoding=v1.EMBEDDING_ENCODING_MATRIX)]
    assert len(result) == 3 and result.matrix.dtype == np.float32
    assert result.matrix.tolist() == [[1, 2], [0, 0], [3, 4]]
    assert result.releases == ("r1", "r2") and result.release_indices.tolist() == [0, 0, 1]
    assert result[1] is None
    assert (result[0].release, result[0].source, result[0].age_ms) == ("r1", Source.COMPUTED, None)
    last = result[-1]
    assert (last.release, last.source, last.age_ms, last.values.tolist()) == ("r2", Source.CACHE, 70, [3, 4])
    with pytest.raises(IndexError):
        result[3]
    assert result.problems[0].message == "none of them"
    with pytest.raises(twotower.InvalidRequest) as caught:
        result.raise_for_problems()
    assert str(caught.value) == "NO_KNOWN_FEATURE: users[1].features: none of them"
    assert caught.value.reason is twotower.ErrorReason.NO_KNOWN_FEATURE
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT


def test_the_matrix_is_not_copied(scripted: ScriptedServer, open_client: OpenClient) -> None:
    scripted.answer(
        "BatchGetUserEmbeddings", v1.BatchGetUserEmbeddingsResponse(matrix=matrix([[1, 2]]), releases=["r1"])
    )
    result = open_client(scripted.target).batch_get_user_embeddings([USER])
    assert not result.matrix.flags.owndata and not result.matrix.flags.writeable
    assert result[0].values.base is not None
    result.raise_for_problems()


def test_lists_that_the_server_leaves_out_are_filled(scripted: ScriptedServer, open_client: OpenClient) -> None:
    scripted.answer(
        "BatchGetUserEmbeddings",
        v1.BatchGetUserEmbeddingsResponse(matrix=matrix([[1, 2], [3, 4]]), releases=["r1"]),
    )
    result = open_client(scripted.target).batch_get_user_embeddings([USER, USER])
    assert result.release_indices.tolist() == [0, 0] and result.ages_ms.tolist() == [0, 0]
    assert result.sources == (Source.UNSPECIFIED,) * 2
    assert result[1].release == "r1"


def test_a_split_of_mixed_dimensions(scripted: ScriptedServer, open_client: OpenClient) -> None:
    response = v1.BatchGetUserEmbeddingsResponse(
        embeddings=[
            v1.Embedding(values=[1, 2], release="r1"),
            v1.Embedding(),
            v1.Embedding(values=[3, 4, 5], release="r2"),
        ],
        releases=["r1", "r2"],
        release_indices=[0, 0, 1],
        problems=[v1.Problem(index=1, code=3)],
    )
    scripted.answer("BatchGetUserEmbeddings", response)
    result = open_client(scripted.target).batch_get_user_embeddings([USER] * 3)
    assert [row.tolist() for row in result.rows] == [[1, 2], [], [3, 4, 5]]
    assert result[1] is None and result[2].release == "r2"
    with pytest.raises(ValueError, match="pin one release"):
        _ = result.matrix


def test_get_item_embedding(scripted: ScriptedServer, open_client: OpenClient) -> None:
    response = v1.GetItemEmbeddingResponse(
        embedding=v1.Embedding(values=[1, 2], release="r1"), release="r1", source=v1.SOURCE_STORED
    )
    scripted.answer("GetItemEmbedding", response)
    client = open_client(scripted.target)
    item = twotower.item("i9", price=3)
    result = client.get_item_embedding("i1")
    client.get_item_embedding(item, release="r7")
    assert scripted.requests == [
        v1.GetItemEmbeddingRequest(item_id="i1"),
        v1.GetItemEmbeddingRequest(item=item, release="r7"),
    ]
    assert (result.values.tolist(), result.release, result.source) == ([1, 2], "r1", Source.STORED)


def test_batch_get_item_embeddings(scripted: ScriptedServer, open_client: OpenClient) -> None:
    response = v1.BatchGetItemEmbeddingsResponse(matrix=matrix([[1, 2], [0, 0]]), release="r1", missing_indices=[1])
    scripted.answer("BatchGetItemEmbeddings", response)
    client = open_client(scripted.target)
    by_id = client.batch_get_item_embeddings(["i1", "nope"])
    by_key = client.batch_get_item_embeddings(item_keys=np.array([2**64 - 1, 7], dtype=np.uint64))
    item = twotower.item("i9", price=3)
    client.batch_get_item_embeddings(items=[item])
    encoding = v1.EMBEDDING_ENCODING_MATRIX
    assert scripted.requests == [
        v1.BatchGetItemEmbeddingsRequest(item_ids=["i1", "nope"], encoding=encoding),
        v1.BatchGetItemEmbeddingsRequest(item_keys=[2**64 - 1, 7], encoding=encoding),
        v1.BatchGetItemEmbeddingsRequest(items=[item], encoding=encoding),
    ]
    assert by_id.missing_ids == ("nope",) and by_key.missing_ids == ()
    assert by_key.missing_indices.tolist() == [1] and by_key.missing_indices.dtype == np.uint32
    assert by_id[1] is None
    assert (by_id[0].values.tolist(), by_id[0].release) == ([1, 2], "r1")


SCORES = v1.ScoreResponse(
    scores=[1.0, 0, 1.0, 0.25],
    similarities=[20, 0, 21, -3],
    missing_indices=[1],
    release="r1",
    source=v1.SOURCE_COMPUTED,
    feature_use=v1.FeatureUse(used=1),
)


def test_score(scripted: ScriptedServer, open_client: OpenClient) -> None:
    scripted.answer("Score", SCORES)
    scores = open_client(scripted.target).score(USER, ["a", "nope", "b", "c"], require_all=True)
    assert scripted.requests == [v1.ScoreRequest(user=USER, item_ids=["a", "nope", "b", "c"], require_all=True)]
    assert len(scores) == 4 and scores.scores.dtype == np.float32
    assert scores.scores.tolist() == [1, 0, 1, 0.25] and scores.similarities.tolist() == [20, 0, 21, -3]
    assert scores.missing_ids == ("nope",) and scores.item_ids == ("a", "nope", "b", "c")
    assert scores.order().tolist() == [2, 0, 3, 1]
    assert (scores.release, scores.source, scores.feature_use.used) == ("r1", Source.COMPUTED, 1)


def test_equal_similarities_are_ordered_by_id(scripted: ScriptedServer, open_client: OpenClient) -> None:
    response = v1.ScoreResponse(scores=[0.5, 0.5, 0.5], similarities=[1, 1, 2])
    scripted.answer("Score", response)
    client = open_client(scripted.target)
    assert client.score(USER, ["b", "a", "c"]).order().tolist() == [2, 1, 0]
    assert client.score(USER, item_keys=[5, 6, 7]).order().tolist() == [2, 0, 1]


def test_score_with_a_vector_and_the_other_candidates(scripted: ScriptedServer, open_client: OpenClient) -> None:
    problem = v1.Problem(index=0, code=3, reason=v1.ERROR_REASON_VALUE_NOT_FINITE, field="items[0]")
    response = v1.ScoreResponse(scores=[0.0], similarities=[0.0], problems=[problem])
    scripted.answer("Score", response)
    client = open_client(scripted.target)
    item = twotower.item("i9", price=3)
    scores = client.score(VECTOR, items=[item])
    client.score(VECTOR, item_keys=[1, 2**64 - 1])
    embedding = v1.Embedding(values=[0.5, -0.25], release="r2")
    assert scripted.requests == [
        v1.ScoreRequest(embedding=embedding, items=[item]),
        v1.ScoreRequest(embedding=embedding, item_keys=[1, 2**64 - 1]),
    ]
    assert scores.item_ids == ("i9",)
    with pytest.raises(twotower.InvalidRequest, match=r"VALUE_NOT_FINITE: items\[0\]"):
        scores.raise_for_problems()


def test_a_vector_that_came_back_routes_the_next_call(scripted: ScriptedServer, open_client: OpenClient) -> None:
    embedding = v1.Embedding(values=[0.5, -0.25], release="r1")
    scripted.answer("GetUserEmbedding", v1.GetUserEmbeddingResponse(embedding=embedding, release="r1"))
    scripted.answer("Recommend", v1.RecommendResponse())
    client = open_client(scripted.target)
    client.recommend(client.get_user_embedding(USER))
    assert scripted.requests[1] == v1.RecommendRequest(embedding=embedding)


def test_batch_score(scripted: ScriptedServer, open_client: OpenClient) -> None:
    problem = v1.Problem(index=1, code=9, reason=v1.ERROR_REASON_RELEASE_NOT_LOADED, message="r9")
    response = v1.BatchScoreResponse(responses=[SCORES, v1.ScoreResponse()], problems=[problem])
    scripted.answer("BatchScore", response)
    requests = [
        twotower.score_request(USER, ["a", "nope", "b", "c"]),
        twotower.score_request(VECTOR, ["a"], release="r9"),
    ]
    result = open_client(scripted.target).batch_score(requests, release="r1")
    assert [request.release for request in scripted.requests[0].requests] == ["r1", "r9"]
    assert [request.release for request in requests] == ["", "r9"]
    assert len(result) == 2 and result[0].missing_ids == ("nope",) and result[1] is None
    with pytest.raises(twotower.ReleaseNotLoaded):
        result.raise_for_problems()


ITEMS = [
    v1.ScoredItem(
        item_id="i1",
        score=0.75,
        similarity=2,
        embedding=v1.Embedding(values=[1, 2], release="r1"),
        attributes={
            "title": v1.AttributeValue(text="Persuasion"),
            "price": v1.AttributeValue(number=9.5),
            "in_stock": v1.AttributeValue(flag=False),
            "tags": v1.AttributeValue(texts=v1.StringList(values=["a", "b"])),
        },
    ),
    v1.ScoredItem(item_id="i2", score=0.5, similarity=1),
]


def test_recommend(scripted: ScriptedServer, open_client: OpenClient) -> None:
    response = v1.RecommendResponse(
        items=ITEMS,
        release="r1",
        source=v1.SOURCE_CACHE,
        age_ms=70,
        user_embedding=v1.Embedding(values=[3, 4], release="r1"),
        feature_use=v1.FeatureUse(used=1),
    )
    scripted.answer("Recommend", response)
    result = open_client(scripted.target).recommend(
        USER,
        k=2,
        filter=where("price").less_than(20),
        exclude_item_ids=["i3"],
        exclude_item_keys=[7],
        return_attributes=["title", "price"],
        include_embeddings=True,
    )
    expected = v1.Filter(all_of=[v1.AnyOf(conditions=[where("price").less_than(20)])])
    assert scripted.requests == [
        v1.RecommendRequest(
            user=USER,
            k=2,
            filter=expected,
            exclude_item_ids=["i3"],
            exclude_item_keys=[7],
            return_attributes=["title", "price"],
            include_embeddings=True,
        )
    ]
    assert len(result) == 2 and result.item_ids == ("i1", "i2")
    assert result.scores.tolist() == [0.75, 0.5] and result.similarities.dtype == np.float32
    first, second = result.items
    assert first.attributes == {"title": "Persuasion", "price": 9.5, "in_stock": False, "tags": ("a", "b")}
    assert first.embedding.values.tolist() == [1, 2] and first.embedding.release == "r1"
    assert second.embedding is None and second.attributes == {}
    assert result.user_embedding.values.tolist() == [3, 4]
    assert (result.source, result.age_ms, result.release) == (Source.CACHE, 70, "r1")


def test_a_filter_is_not_sent_unless_asked_for(scripted: ScriptedServer, open_client: OpenClient) -> None:
    scripted.answer("Recommend", v1.RecommendResponse())
    result = open_client(scripted.target).recommend(USER)
    assert not scripted.requests[0].HasField("filter") and scripted.requests[0].k == 0
    assert result.user_embedding is None and len(result) == 0


def test_search_items(scripted: ScriptedServer, open_client: OpenClient) -> None:
    scripted.answer("SearchItems", v1.SearchItemsResponse(items=ITEMS, release="r1"))
    client = open_client(scripted.target)
    item = twotower.item("i9", price=3)
    result = client.search_items("i1", 5, return_attributes=["title"])
    client.search_items(VECTOR, exclude_item_ids=["i1"])
    client.search_items(item, release="r7")
    assert scripted.requests == [
        v1.SearchItemsRequest(item_id="i1", k=5, return_attributes=["title"]),
        v1.SearchItemsRequest(embedding=v1.Embedding(values=[0.5, -0.25], release="r2"), exclude_item_ids=["i1"]),
        v1.SearchItemsRequest(item=item, release="r7"),
    ]
    assert result.item_ids == ("i1", "i2") and result.release == "r1"


INFO = v1.GetServingInfoResponse(
    active_release="r1",
    releases=[
        v1.ReleaseInfo(
            release="r1",
            dimension=2,
            similarity=v1.SIMILARITY_COSINE,
            scale=4.0,
            bias=-1.0,
            user_schema=v1.TowerSchema(
                fingerprint=2**63 + 1,
                features=[v1.FeatureSpec(name="user_interest_*", kind="weighted_bag", wildcard=True)],
                dense_order=["user_age"],
            ),
            items=10_000,
            index_kind="exact",
            index_recall=1.0,
            traffic_share=1.0,
            active=True,
        )
    ],
    limits=v1.Limits(users=1024, k=1000),
    server_version="0.1.0",
    capabilities=["recommend"],
    degraded=["redis"],
)


def test_serving_info(scripted: ScriptedServer, open_client: OpenClient) -> None:
    scripted.answer("GetServingInfo", INFO)
    info = open_client(scripted.target).serving_info()
    (release,) = info.releases
    assert scripted.requests == [v1.GetServingInfoRequest()]
    assert (info.active_release, info.server_version) == ("r1", "0.1.0")
    assert (info.capabilities, info.degraded) == (("recommend",), ("redis",))
    assert (info.limits.users, info.limits.k) == (1024, 1000)
    assert release.similarity is twotower.Similarity.COSINE and release.scale == 4.0
    assert release.user_schema.fingerprint == 2**63 + 1
    assert release.user_schema.features == (twotower.FeatureSpec("user_interest_*", "weighted_bag", True),)
    assert release.user_schema.dense_order == ("user_age",) and release.active


def test_a_pin_names_its_release_in_every_call(scripted: ScriptedServer, open_client: OpenClient) -> None:
    scripted.answer("GetServingInfo", INFO)
    scripted.answer("GetUserEmbedding", v1.GetUserEmbeddingResponse())
    scripted.answer("BatchGetUserEmbeddings", v1.BatchGetUserEmbeddingsResponse())
    scripted.answer("GetItemEmbedding", v1.GetItemEmbeddingResponse())
    scripted.answer("BatchGetItemEmbeddings", v1.BatchGetItemEmbeddingsResponse())
    scripted.answer("Score", v1.ScoreResponse())
    scripted.answer("BatchScore", v1.BatchScoreResponse(responses=[v1.ScoreResponse()]))
    scripted.answer("Recommend", v1.RecommendResponse())
    scripted.answer("SearchItems", v1.SearchItemsResponse())
    pinned = open_client(scripted.target).pin()
    assert pinned.release == "r1" and len(scripted.requests) == 1
    pinned.get_user_embedding(USER)
    pinned.batch_get_user_embeddings([USER])
    pinned.get_item_embedding("i1")
    pinned.batch_get_item_embeddings(["i1"])
    pinned.score(USER, ["i1"])
    pinned.recommend(USER)
    pinned.search_items("i1")
    pinned.serving_info()
    assert [request.release for request in scripted.requests[1:]] == ["r1"] * 8
    pinned.batch_score([twotower.score_request(USER, ["i1"])])
    assert scripted.requests[-1].requests[0].release == "r1"


def test_a_pin_by_name_asks_nobody(scripted: ScriptedServer, open_client: OpenClient) -> None:
    scripted.answer("Score", refuse(grpc.StatusCode.FAILED_PRECONDITION, "RELEASE_MISMATCH", "r2, not r7"))
    pinned = open_client(scripted.target).pin("r7")
    assert scripted.requests == []
    with pytest.raises(twotower.ReleaseMismatch):
        pinned.score(VECTOR, ["i1"])
    assert scripted.requests[0].release == "r7" and scripted.requests[0].embedding.release == "r2"


def test_a_pin_without_an_active_release(scripted: ScriptedServer, open_client: OpenClient) -> None:
    scripted.answer("GetServingInfo", v1.GetServingInfoResponse())
    with pytest.raises(twotower.ReleaseNotLoaded):
        open_client(scripted.target).pin()


@pytest.mark.parametrize(
    ("method", "kwargs"),
    [
        ("score", {"user": USER, "item_ids": "i1"}),
        ("recommend", {"user": USER, "return_attributes": "title"}),
        ("search_items", {"item": "i1", "exclude_item_ids": "i1"}),
        ("batch_get_item_embeddings", {"item_ids": "i1"}),
    ],
)
def test_one_text_is_not_a_list(
    scripted: ScriptedServer, open_client: OpenClient, method: str, kwargs: dict[str, Any]
) -> None:
    with pytest.raises(TypeError, match="a list of texts"):
        getattr(open_client(scripted.target), method)(**kwargs)


def test_ids_from_numpy_are_plain_texts(scripted: ScriptedServer, open_client: OpenClient) -> None:
    scripted.answer("Score", v1.ScoreResponse(scores=[0.5, 0], similarities=[1, 0], missing_indices=[1]))
    scores = open_client(scripted.target).score(USER, np.array(["i1", "i2"]))
    assert [type(item_id) for item_id in scores.item_ids + scores.missing_ids] == [str] * 3
    assert list(scripted.requests[0].item_ids) == ["i1", "i2"]


@pytest.mark.parametrize("keys", [np.array([1.0, 2.0]), [1.5], ["i1"]])
def test_keys_are_whole_numbers(scripted: ScriptedServer, open_client: OpenClient, keys: Any) -> None:
    with pytest.raises(TypeError):
        open_client(scripted.target).score(USER, item_keys=keys)
    assert scripted.requests == []


@pytest.mark.parametrize("keys", [[-1], [2**64]])
def test_keys_have_64_bits(scripted: ScriptedServer, open_client: OpenClient, keys: list[int]) -> None:
    with pytest.raises(ValueError, match="range"):
        open_client(scripted.target).score(USER, item_keys=keys)


def test_an_empty_array_is_no_keys(scripted: ScriptedServer, open_client: OpenClient) -> None:
    scripted.answer("Score", v1.ScoreResponse())
    open_client(scripted.target).score(USER, ["i1"], item_keys=np.array([]))
    assert scripted.requests == [v1.ScoreRequest(user=USER, item_ids=["i1"])]
