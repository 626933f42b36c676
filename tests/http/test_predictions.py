"""What the models answer: to the bit what gRPC does, in every form that a request may have."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.http.calling import Answer, Http, features, tensor
from tests.http.conftest import Own
from tests.rpc.messages import ITEM, USER, item, user
from twotower import v1

OTHER: dict[str, Any] = {"user_age": 55, "user_gender": "m", "user_interest_sport": 1}
OTHER_ITEM: dict[str, Any] = {"item_price": 3.5, "item_category": "books"}
NUMBERS = {"user_age": 31.0, "user_ctr": 0.07, "user_hour": 21.0}
ITEM_NUMBERS = {"item_age_days": 100.0, "item_ctr": 0.034, "item_price": 12.5}


def embedded(own: Own, given: Mapping[str, Any], release: str = "dot", **fields: str) -> NDArray[np.float32]:
    request = v1.GetUserEmbeddingRequest(user=user(given, **fields), release=release)
    return np.array(own.stub.GetUserEmbedding(request).embedding.values, np.float32)


def embedded_item(own: Own, release: str = "dot", **which: Any) -> NDArray[np.float32]:
    request = v1.GetItemEmbeddingRequest(release=release, **which)
    return np.array(own.stub.GetItemEmbedding(request).embedding.values, np.float32)


def scored(own: Own, given: Mapping[str, Any], release: str = "dot", **candidates: Any) -> NDArray[np.float32]:
    request = v1.ScoreRequest(user=user(given), release=release, **candidates)
    return np.array(own.stub.Score(request).scores, np.float32)


def same(found: list[float], *wanted: NDArray[np.float32]) -> bool:
    """Bit by bit: the decimals of an answer are those of the float32."""
    return np.array_equal(np.array(found, np.float32), np.concatenate(wanted))


def output(answer: Answer) -> dict[str, Any]:
    assert answer.status == 200, answer.content
    (found,) = answer.body["outputs"]
    return dict(found)


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/models/user_tower:predict", "instances"),
        ("/v1/models/user_tower:predict", "inputs"),
        ("/predictions/user_tower", "data"),
    ],
)
def test_vectors_of_users_are_one_flat_list(own: Own, http: Http, path: str, field: str) -> None:
    answer = http.post(path, {field: [USER, OTHER], "signature_name": "serving_default"})
    assert same(answer.predictions, embedded(own, USER), embedded(own, OTHER))
    assert answer.release == "dot"
    assert list(answer.body) == ["predictions"]


def test_kserve_v2_answers_one_tensor(own: Own, http: Http) -> None:
    answer = http.infer("user_tower", features(USER, OTHER), id="call 1")
    found = output(answer)
    assert same(found.pop("data"), embedded(own, USER), embedded(own, OTHER))
    assert found == {"name": "embedding", "datatype": "FP32", "shape": [2, 8]}
    assert answer.body["model_name"] == "user_tower"
    assert answer.body["model_version"] == answer.release == "dot"
    assert answer.body["id"] == "call 1"


def test_vectors_of_items_are_computed_or_stored(own: Own, http: Http) -> None:
    answer = http.predict("item_tower", ITEM, {"item_id": "i7"}, OTHER_ITEM, {"item_id": "i8", "user_age": 3})
    assert same(
        answer.predictions,
        embedded_item(own, item=item(ITEM)),
        embedded_item(own, item_id="i7"),
        embedded_item(own, item=item(OTHER_ITEM)),
        embedded_item(own, item_id="i8"),
    )
    assert output(http.infer("item_tower", features(ITEM)))["shape"] == [1, 8]


def test_score_takes_the_user_and_the_item_from_one_map(own: Own, http: Http) -> None:
    pairs = [{**USER, **ITEM, "cross_age_x_price": 2.0}, {**USER, **OTHER_ITEM}, {**OTHER, **ITEM}]
    wanted = [scored(own, USER, items=[item(ITEM), item(OTHER_ITEM)]), scored(own, OTHER, items=[item(ITEM)])]
    assert same(http.predict("score", *pairs).predictions, *wanted)
    found = output(http.infer("score", features(*pairs)))
    assert same(found["data"], *wanted)
    assert (found["name"], found["shape"]) == ("score", [3])


def test_score_looks_an_item_up_where_the_map_has_its_id_alone(own: Own, http: Http) -> None:
    # What of the scene both towers may read does not describe an item.
    ids = [f"i{i}" for i in range(40)]
    answer = http.predict("score", *({**USER, "item_id": id} for id in ids))
    assert same(answer.predictions, scored(own, USER, item_ids=ids))
    mixed = http.predict("score", {**USER, "item_id": "i3"}, {**USER, **ITEM, "item_id": "not-in-the-catalog"})
    assert same(mixed.predictions, scored(own, USER, item_ids=["i3"]), scored(own, USER, items=[item(ITEM)]))


def test_names_are_read_as_by_rpc(own: Own, http: Http) -> None:
    doubled = {"user_user_age": 31, "user_user_ctr": 0.07, "hour": 21, "user_unknown": 1, "item_item_id": "i5"}
    assert same(http.predict("user_tower", doubled).predictions, embedded(own, NUMBERS))
    assert same(http.predict("score", doubled).predictions, scored(own, NUMBERS, item_ids=["i5"]))


def test_values_are_numbers_texts_or_lists(own: Own, http: Http) -> None:
    given = {"user_age": 31, "user_gender": 1.0, "user_tags": ["a", 2, 3.0], "user_recent_clicks": [], "user_city": "é"}
    wanted = {"user_age": 31.0, "user_gender": "1", "user_tags": ["a", "2", "3"], "user_city": "é"}
    assert same(http.predict("user_tower", given).predictions, embedded(own, wanted))
    assert same(output(http.infer("user_tower", features(given)))["data"], embedded(own, wanted))


def test_rows_hold_every_number_in_the_order_that_the_model_tells(own: Own, http: Http) -> None:
    names = http.get("/v2/models/score").body["parameters"]["numeric_features"]
    assert names == [*ITEM_NUMBERS, *NUMBERS]
    row = [*ITEM_NUMBERS.values(), *NUMBERS.values()]
    wanted = scored(own, NUMBERS, items=[item(ITEM_NUMBERS)])
    assert same(http.predict("score", row).predictions, wanted)
    assert same(http.post("/predictions/score", {"data": [row, row]}).predictions, wanted, wanted)
    for datatype in ("FP64", "FP32"):
        assert same(output(http.infer("score", tensor("input0", datatype, [1, 6], *row)))["data"], wanted)
    nested = {"name": "input0", "datatype": "FP64", "shape": [2, 6], "data": [row, row]}
    assert same(output(http.infer("score", nested))["data"], wanted, wanted)
    users = http.infer("user_tower", tensor("x", "INT64", [2, 3], 31, 1, 21, 55, 0, 3))
    first, second = ({"user_age": a, "user_ctr": c, "user_hour": h} for a, c, h in ((31, 1, 21), (55, 0, 3)))
    assert same(output(users)["data"], embedded(own, first), embedded(own, second))


def test_inputs_may_be_named_by_features(own: Own, http: Http) -> None:
    answer = http.infer(
        "score",
        tensor("user_age", "FP32", [2], 31, 55),
        tensor("user_hour", "INT64", [2, 1], 21, 3),
        tensor("user_tags", "BYTES", [2, 2], "a", "b", "c", "d"),
        tensor("user_gender", "BYTES", [2], "f", "m"),
        tensor("item_id", "BYTES", [2], "i1", "i2"),
    )
    first = {"user_age": 31.0, "user_hour": 21.0, "user_tags": ["a", "b"], "user_gender": "f"}
    second = {"user_age": 55.0, "user_hour": 3.0, "user_tags": ["c", "d"], "user_gender": "m"}
    wanted = [scored(own, first, item_ids=["i1"]), scored(own, second, item_ids=["i2"])]
    assert same(output(answer)["data"], *wanted)
    alone = http.infer("user_tower", tensor("user_age", "FP64", [1], 31))
    assert same(output(alone)["data"], embedded(own, {"user_age": 31.0}))
    beside = http.infer("score", features(first), tensor("item_id", "BYTES", [1], "i1"))
    assert same(output(beside)["data"], wanted[0])


@pytest.mark.parametrize("release", ["dot", "cosine"])
def test_a_version_pins_a_release(own: Own, http: Http, release: str) -> None:
    wanted = embedded(own, USER, release)
    for path, body in (
        (f"/v1/models/user_tower/versions/{release}:predict", {"instances": [USER]}),
        (f"/predictions/user_tower?version={release}", {"data": [USER]}),
    ):
        answer = http.post(path, body)
        assert same(answer.predictions, wanted)
        assert answer.release == release
    answer = http.post(f"/v2/models/user_tower/versions/{release}/infer", {"inputs": [features(USER)]})
    assert same(output(answer)["data"], wanted)
    assert answer.body["model_version"] == release
    scores = http.post(
        f"/v1/models/score/versions/{release}:predict", {"inputs": [{**USER, "item_id": "i1"}, {**USER, **ITEM}]}
    )
    wanted_scores = [scored(own, USER, release, item_ids=["i1"]), scored(own, USER, release, items=[item(ITEM)])]
    assert same(scores.predictions, *wanted_scores)


def test_a_large_call_is_served_and_others_go_on(own: Own, http: Http) -> None:
    answer = http.predict("score", *({"user_age": 20 + i % 50, "item_id": f"i{i % 300}"} for i in range(10_000)))
    assert len(answer.predictions) == 10_000
    wanted = scored(own, {"user_age": 21.0}, item_ids=["i1"])
    assert same(answer.predictions[1:2], wanted)
    assert all(0 < score <= 1 for score in answer.predictions)


def test_answers_hold_no_more_digits_than_a_float32_has(http: Http) -> None:
    content = http.predict("user_tower", USER).content
    assert max(map(len, content.decode().split("[")[1].split("]")[0].split(","))) <= 14
    assert json.loads(content)
