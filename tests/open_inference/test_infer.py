"""What the models answer: to the bit what the service's own protocol does, in every form that a request may have."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from open_inference.grpc.protocol import InferParameter

from tests.open_inference.calling import Input, Request, features, infer, infer_raw, typed, values
from tests.open_inference.conftest import Own
from tests.rpc.messages import ITEM, USER, item, user
from twotower import v1

OTHER: dict[str, Any] = {"user_age": 55, "user_gender": "m", "user_interest_sport": 1}
OTHER_ITEM: dict[str, Any] = {"item_price": 3.5, "item_category": "books"}
# Every numeric feature, in bytewise order of the names: exact in all the types that carry fractions.
NAMES, ROW = ("user_age", "user_ctr", "user_hour"), (31.0, 0.125, 21.0)


def embedded(own: Own, given: Mapping[str, Any], release: str = "dot", **fields: str) -> NDArray[np.float32]:
    request = v1.GetUserEmbeddingRequest(user=user(given, **fields), release=release)
    return np.array(own.native.GetUserEmbedding(request).embedding.values, np.float32)


def embedded_item(own: Own, **which: Any) -> NDArray[np.float32]:
    request = v1.GetItemEmbeddingRequest(release="dot", **which)
    return np.array(own.native.GetItemEmbedding(request).embedding.values, np.float32)


def answered(own: Own, request: Request) -> NDArray[np.float32]:
    return values(own.inference.ModelInfer(request))


def test_vectors_of_users_are_those_of_the_own_protocol(own: Own) -> None:
    found = answered(own, infer("user_tower", features(USER, OTHER)))
    assert np.array_equal(found, [embedded(own, USER), embedded(own, OTHER)])


def test_vectors_of_items_are_computed_of_features_or_stored(own: Own) -> None:
    found = answered(own, infer("item_tower", features(ITEM, {"item_id": "i7"}, OTHER_ITEM)))
    wanted = [
        embedded_item(own, item=item(ITEM)),
        embedded_item(own, item_id="i7"),
        embedded_item(own, item=item(OTHER_ITEM)),
    ]
    assert np.array_equal(found, wanted)


def test_scores_are_one_number_for_each_pair(own: Own) -> None:
    found = answered(own, infer("score", features({**USER, "item_id": "i3"}, {**USER, "item_id": "i9"})))
    assert found.shape == (2,)
    scored = own.native.Score(v1.ScoreRequest(user=user(USER), item_ids=["i3", "i9"], release="dot"))
    assert np.array_equal(found, np.array(scored.scores, np.float32))


@pytest.mark.parametrize("model", ["user_tower", "item_tower", "score"])
def test_raw_and_typed_contents_say_the_same_and_are_answered_in_kind(own: Own, model: str) -> None:
    given = {**USER, **ITEM, "user_city": "Zürich"}
    as_typed = own.inference.ModelInfer(infer(model, features(given, given)))
    as_raw = own.inference.ModelInfer(infer_raw(model, ("features", "BYTES", [2], [json.dumps(given)] * 2)))
    assert not as_typed.raw_output_contents
    assert as_raw.raw_output_contents
    assert np.array_equal(values(as_typed), values(as_raw))
    assert values(as_raw).shape[0] == 2


@pytest.mark.parametrize("datatype", ["FP64", "FP32", "FP16"])
def test_rows_are_all_numeric_features_in_order_of_their_names(own: Own, datatype: str) -> None:
    wanted = embedded(own, dict(zip(NAMES, ROW, strict=True)))
    found = answered(own, infer_raw("user_tower", ("x", datatype, [2, 3], ROW * 2)))
    assert np.array_equal(found, [wanted, wanted])
    if datatype != "FP16":  # which has no typed contents
        assert np.array_equal(answered(own, infer("user_tower", typed("x", datatype, [1, 3], *ROW))), [wanted])


@pytest.mark.parametrize("datatype", ["INT64", "INT32", "UINT8", "INT8", "FP64"])
def test_whole_numbers_may_have_any_type(own: Own, datatype: str) -> None:
    wanted = embedded(own, dict(zip(NAMES, (31.0, 1.0, 21.0), strict=True)))
    assert np.array_equal(answered(own, infer_raw("user_tower", ("x", datatype, [1, 3], [31, 1, 21]))), [wanted])
    if datatype != "INT8":
        assert np.array_equal(answered(own, infer("user_tower", typed("x", datatype, [1, 3], 31, 1, 21))), [wanted])


def by_name(form: str) -> Request:
    given: list[tuple[str, str, Sequence[int], Sequence[Any]]] = [
        ("user_age", "INT64", [2], [31, 55]),
        ("user_ctr", "FP64", [2, 1], [0.07, 0.5]),
        ("user_gender", "BYTES", [2], ["f", "m"]),
        ("user_tags", "BYTES", [2, 2], ["a", "b", "c", "a"]),
    ]
    if form == "raw":
        return infer_raw("user_tower", *given)
    return infer("user_tower", *(typed(name, datatype, shape, *data) for name, datatype, shape, data in given))


@pytest.mark.parametrize("form", ["raw", "typed"])
def test_inputs_may_be_named_by_features(own: Own, form: str) -> None:
    wanted = [
        embedded(own, {"user_age": 31.0, "user_ctr": 0.07, "user_gender": "f", "user_tags": ["a", "b"]}),
        embedded(own, {"user_age": 55.0, "user_ctr": 0.5, "user_gender": "m", "user_tags": ["c", "a"]}),
    ]
    assert np.array_equal(answered(own, by_name(form)), wanted)


def test_a_version_pins_the_release_that_the_answer_names(own: Own) -> None:
    request = infer("user_tower", features(USER), model_version="cosine", id="call 7")
    request.parameters["priority"].uint64_param = 3
    answer = own.inference.ModelInfer(request)
    assert (answer.model_name, answer.model_version, answer.id) == ("user_tower", "cosine", "call 7")
    assert np.array_equal(values(answer), [embedded(own, USER, "cosine")])
    answer = own.inference.ModelInfer(infer("user_tower", features(USER)))
    assert (answer.model_version, answer.id) == ("dot", "")


def test_a_user_is_served_by_the_arm_of_a_split_as_by_the_own_protocol(own: Own) -> None:
    own.releases.SetTrafficSplit(v1.SetTrafficSplitRequest(shares={"dot": 0.5, "cosine": 0.5}))
    try:
        arms = set()
        for number in range(20):
            given = {**USER, "user_id": f"u{number}"}
            answer = own.inference.ModelInfer(infer("user_tower", features(given, given)))
            native = own.native.GetUserEmbedding(v1.GetUserEmbeddingRequest(user=user(USER, user_id=f"u{number}")))
            assert answer.model_version == native.release
            arms.add(answer.model_version)
        assert arms == {"dot", "cosine"}
    finally:
        own.releases.SetTrafficSplit(v1.SetTrafficSplitRequest())


def test_as_many_instances_as_the_limit_are_one_answer(own: Own) -> None:
    ages = np.arange(10_000) % 90
    found = answered(own, infer_raw("user_tower", ("user_age", "UINT8", [10_000], ages.tolist())))
    assert found.shape == (10_000, 8)
    assert np.array_equal(found[89], embedded(own, {"user_age": 89.0}))
    assert np.array_equal(found[89], found[9_989])


def test_an_output_may_be_asked_for_by_its_name(own: Own) -> None:
    asked = Request.InferRequestedOutputTensor(name="embedding", parameters={"x": InferParameter(bool_param=True)})
    found = answered(own, infer("user_tower", features(USER), outputs=[asked]))
    assert np.array_equal(found, [embedded(own, USER)])


def test_an_input_may_carry_parameters_that_change_nothing(own: Own) -> None:
    # As MLServer's codecs do.
    given = Input()
    given.CopyFrom(features(USER))
    given.parameters["content_type"].string_param = "str"
    assert np.array_equal(answered(own, infer("user_tower", given)), [embedded(own, USER)])
