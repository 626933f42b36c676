"""`dense=True`: numeric features in the order of the server's schema, fetched again when it changed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import grpc
import pytest

import twotower
from tests.client.scripted import ScriptedServer, refuse
from twotower import v1

OpenClient = Callable[..., Any]
MISMATCH = refuse(grpc.StatusCode.FAILED_PRECONDITION, "SCHEMA_MISMATCH", "another schema")
GOOD = v1.GetUserEmbeddingResponse(release="r1")


def info(
    *releases: str,
    fingerprint: int = 7,
    order: tuple[str, ...] = ("user_age", "user_ctr"),
    shares: tuple[float, ...] = (1.0, 0.0),
    step: int = 1,
) -> Any:
    """The first release is active. step: from the fingerprint of one release to that of the next."""
    return v1.GetServingInfoResponse(
        active_release=releases[0],
        releases=[
            v1.ReleaseInfo(
                release=release,
                user_schema=v1.TowerSchema(fingerprint=fingerprint + position * step, dense_order=order),
                item_schema=v1.TowerSchema(fingerprint=100 + position * step, dense_order=["item_price"]),
                traffic_share=share,
                active=position == 0,
            )
            for position, (release, share) in enumerate(zip(releases, shares, strict=False))
        ],
    )


def calls(scripted: ScriptedServer) -> list[Any]:
    return [one for one in scripted.requests if not isinstance(one, v1.GetServingInfoRequest)]


def test_numbers_travel_in_the_order_of_the_schema(scripted: ScriptedServer, open_client: OpenClient) -> None:
    scripted.answer("GetServingInfo", info("r1"))
    scripted.answer("GetUserEmbedding", GOOD)
    client = open_client(scripted.target, dense=True)
    user = twotower.user("u1", ctr=0.5, age=34, gender="f", interest={"sport": 0.75})
    client.get_user_embedding(user)
    client.get_user_embedding(user)
    expected = v1.User(
        user_id="u1",
        features={"interest_sport": 0.75},
        string_features={"gender": v1.StringList(values=["f"])},
        dense_features=[34, 0.5],
        schema_fingerprint=7,
    )
    assert [request.user for request in calls(scripted)] == [expected, expected]
    assert len(scripted.requests) == 3, "the schema is fetched once"
    assert dict(user.features) == {"ctr": 0.5, "age": 34, "interest_sport": 0.75}, "the caller's stays"


def test_absent_is_nan_and_the_exact_name_wins(scripted: ScriptedServer, open_client: OpenClient) -> None:
    scripted.answer("GetServingInfo", info("r1", order=("scene_hour", "user_age", "user_ctr", "user_x")))
    scripted.answer("GetUserEmbedding", GOOD)
    user = twotower.user("u1", {"user_user_age": 1, "age": 2, "user_age": 3, "user_user_x": 4})
    open_client(scripted.target, dense=True).get_user_embedding(user)
    (request,) = calls(scripted)
    hour, age, ctr, x = request.user.dense_features
    assert math.isnan(hour) and math.isnan(ctr) and (age, x) == (3, 4)
    assert not request.user.features


def test_a_user_without_a_known_number_stays_a_map(scripted: ScriptedServer, open_client: OpenClient) -> None:
    scripted.answer("GetServingInfo", info("r1"))
    scripted.answer("GetUserEmbedding", GOOD)
    user = twotower.user("u1", nonsense=1)
    open_client(scripted.target, dense=True).get_user_embedding(user)
    assert calls(scripted)[0].user == user


def test_a_changed_schema_is_fetched_again(scripted: ScriptedServer, open_client: OpenClient) -> None:
    new = info("r1", fingerprint=8, order=("user_ctr", "user_age"))
    scripted.answer("GetServingInfo", info("r1"), new)
    scripted.answer("GetUserEmbedding", MISMATCH, GOOD)
    open_client(scripted.target, dense=True).get_user_embedding(twotower.user(age=34, ctr=0.5))
    first, second = calls(scripted)
    assert (first.user.schema_fingerprint, list(first.user.dense_features)) == (7, [34, 0.5])
    assert (second.user.schema_fingerprint, list(second.user.dense_features)) == (8, [0.5, 34])


def test_a_second_mismatch_is_raised(scripted: ScriptedServer, open_client: OpenClient) -> None:
    scripted.answer("GetServingInfo", info("r1"))
    scripted.answer("GetUserEmbedding", MISMATCH)
    with pytest.raises(twotower.SchemaMismatch):
        open_client(scripted.target, dense=True).get_user_embedding(twotower.user(age=34))
    assert len(calls(scripted)) == 2


def test_a_mismatch_of_one_entry_sends_the_batch_again(scripted: ScriptedServer, open_client: OpenClient) -> None:
    problem = v1.Problem(index=0, code=9, reason=v1.ERROR_REASON_SCHEMA_MISMATCH)
    old = v1.BatchGetUserEmbeddingsResponse(matrix=v1.EmbeddingMatrix(), problems=[problem])
    new = v1.BatchGetUserEmbeddingsResponse(matrix=v1.EmbeddingMatrix(), releases=["r1"])
    scripted.answer("GetServingInfo", info("r1"), info("r1", fingerprint=8))
    scripted.answer("BatchGetUserEmbeddings", old, new)
    users = [twotower.user(age=34), twotower.user(age=35)]
    result = open_client(scripted.target, dense=True).batch_get_user_embeddings(users)
    assert result.releases == ("r1",)
    assert [[user.schema_fingerprint for user in one.users] for one in calls(scripted)] == [[7, 7], [8, 8]]


def test_every_request_uses_the_schema_of_its_release(scripted: ScriptedServer, open_client: OpenClient) -> None:
    scripted.answer("GetServingInfo", info("r1", "r2"))
    scripted.answer("BatchScore", v1.BatchScoreResponse(responses=[v1.ScoreResponse()] * 3))
    user, items = twotower.user(age=34), [twotower.item("i1", price=3)]
    vector = twotower.Embedding([0.5], "r2")  # type: ignore[arg-type]
    requests = [
        twotower.score_request(user, items=items),
        twotower.score_request(user, items=items, release="r2"),
        twotower.score_request(vector, items=items),
    ]
    open_client(scripted.target, dense=True).batch_score(requests)
    sent = calls(scripted)[0].requests
    assert [one.user.schema_fingerprint for one in sent] == [7, 8, 0]
    assert [one.items[0].schema_fingerprint for one in sent] == [100, 101, 101]
    assert list(sent[0].items[0].dense_features) == [3]


def test_a_split_of_different_schemas_leaves_users_as_they_are(
    scripted: ScriptedServer, open_client: OpenClient
) -> None:
    """Which release serves an entry is the server's decision, and a dense vector fits only one schema."""
    scripted.answer("GetServingInfo", info("r1", "r2", shares=(0.5, 0.5)))
    scripted.answer("GetUserEmbedding", GOOD)
    client, user = open_client(scripted.target, dense=True), twotower.user("u1", age=34)
    client.get_user_embedding(user)
    client.get_user_embedding(user, release="r2")
    free, pinned = calls(scripted)
    assert free.user == user and pinned.user.schema_fingerprint == 8
    assert len(scripted.requests) == 3, "the schemas are fetched once"


def test_a_split_that_begins_is_noticed(scripted: ScriptedServer, open_client: OpenClient) -> None:
    scripted.answer("GetServingInfo", info("r1"), info("r1", "r2", shares=(0.5, 0.5)))
    scripted.answer("GetUserEmbedding", MISMATCH, GOOD)
    user = twotower.user("u1", age=34)
    open_client(scripted.target, dense=True).get_user_embedding(user)
    first, second = calls(scripted)
    assert first.user.schema_fingerprint == 7 and second.user == user


def test_a_split_of_one_schema_is_dense(scripted: ScriptedServer, open_client: OpenClient) -> None:
    scripted.answer("GetServingInfo", info("r1", "r2", shares=(0.5, 0.5), step=0))
    scripted.answer("GetUserEmbedding", GOOD)
    open_client(scripted.target, dense=True).get_user_embedding(twotower.user("u1", age=34))
    assert calls(scripted)[0].user.schema_fingerprint == 7


def test_an_active_release_outside_of_the_split_serves_no_users(
    scripted: ScriptedServer, open_client: OpenClient
) -> None:
    scripted.answer("GetServingInfo", info("r1", "r2", shares=(0.0, 1.0)))
    scripted.answer("GetUserEmbedding", GOOD)
    user = twotower.user("u1", age=34)
    open_client(scripted.target, dense=True).get_user_embedding(user)
    assert calls(scripted)[0].user == user


def test_a_release_that_is_not_loaded_is_left_to_the_server(scripted: ScriptedServer, open_client: OpenClient) -> None:
    scripted.answer("GetServingInfo", info("r1"))
    scripted.answer("Score", refuse(grpc.StatusCode.FAILED_PRECONDITION, "RELEASE_NOT_LOADED"))
    user = twotower.user(age=34)
    with pytest.raises(twotower.ReleaseNotLoaded):
        open_client(scripted.target, dense=True).pin("r9").score(user, ["i1"])
    assert calls(scripted)[0].user == user


def test_a_call_without_features_fetches_nothing(scripted: ScriptedServer, open_client: OpenClient) -> None:
    scripted.answer("SearchItems", v1.SearchItemsResponse())
    open_client(scripted.target, dense=True).search_items("i1")
    assert len(scripted.requests) == 1


def test_a_vector_that_the_caller_made_is_sent_as_it_is(scripted: ScriptedServer, open_client: OpenClient) -> None:
    scripted.answer("GetUserEmbedding", MISMATCH)
    user = v1.User(dense_features=[1, 2], schema_fingerprint=9)
    with pytest.raises(twotower.SchemaMismatch):
        open_client(scripted.target, dense=True).get_user_embedding(user)
    assert [one.user for one in calls(scripted)] == [user]


def test_without_dense_nothing_is_changed(scripted: ScriptedServer, open_client: OpenClient) -> None:
    scripted.answer("GetUserEmbedding", GOOD)
    user = twotower.user(age=34)
    open_client(scripted.target).get_user_embedding(user)
    assert scripted.requests == [v1.GetUserEmbeddingRequest(user=user)]
