"""What the port refuses: the whole call, with one status and one reason, and never as a bug of the server."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from tests.http.calling import Http, features, tensor
from tests.rpc.messages import ITEM, USER
from twotower_server.errors import Reason, Refused
from twotower_server.http.status import STATUSES, message_of

V1, V2, TORCH = "/v1/models/user_tower:predict", "/v2/models/user_tower/infer", "/predictions/user_tower"
SCORE = "/v1/models/score:predict"
ROW = [31.0, 0.07, 21.0]


def infer(*inputs: object, **fields: object) -> dict[str, object]:
    return {"inputs": inputs, **fields}


@pytest.mark.parametrize(
    ("path", "body", "status", "start"),
    [
        # no JSON
        (V1, "", 400, "UNSPECIFIED: the body is not JSON"),
        (V1, b"\xff\xfe", 400, "UNSPECIFIED: the body is not JSON"),
        (V1, "[" * 100_000, 400, "UNSPECIFIED: the body is not JSON: depth limit exceeded"),
        (V1, '{"instances": [{"user_age": NaN}]}', 400, "UNSPECIFIED: the body is not JSON"),
        (V1, '{"instances": [{"user_age": Infinity}]}', 400, "UNSPECIFIED: the body is not JSON"),
        (V1, '{"instances": [{"user_age": 1e999}]}', 400, "UNSPECIFIED: the body is not JSON"),
        (V1, '{"instances": [{"user_city": "\\ud800"}]}', 400, "UNSPECIFIED: the body is not JSON"),
        (V1, [USER], 400, "UNSPECIFIED: the body must be a JSON object"),
        # no instances
        (V1, {}, 400, "FIELD_REQUIRED: the request needs instances or inputs"),
        (V1, {"data": [USER]}, 400, "FIELD_REQUIRED: the request needs instances or inputs"),
        (TORCH, {"instances": [USER]}, 400, "FIELD_REQUIRED: the request needs data"),
        (V1, {"instances": [USER], "inputs": [USER]}, 400, "FIELD_CONFLICT: "),
        (V1, {"instances": []}, 400, "FIELD_REQUIRED: instances: "),
        (V1, {"instances": None}, 400, "FIELD_REQUIRED: instances: "),
        (V1, {"inputs": {"user_age": [31]}}, 400, "FIELD_REQUIRED: inputs: must be a list"),
        (TORCH, {"data": USER}, 400, "FIELD_REQUIRED: data: "),
        (V1, {"instances": [USER, ROW]}, 400, "FEATURE_TYPE: instances: "),
        (V1, {"instances": [1, 2]}, 400, "FEATURE_TYPE: instances: "),
        # one wrong instance refuses the call
        (V1, {"instances": [USER, {}]}, 400, "FIELD_REQUIRED: instances[1].features: the user has no features"),
        (V1, {"instances": [USER, {"x": 1}]}, 400, "NO_KNOWN_FEATURE: instances[1].features: "),
        (V1, {"instances": [{"user_age": None}]}, 400, "FEATURE_TYPE: instances[0][user_age]: must be a number"),
        (V1, {"instances": [{"user_age": True}]}, 400, "FEATURE_TYPE: instances[0][user_age]: "),
        (V1, {"instances": [{"user_age": {"a": 1}}]}, 400, "FEATURE_TYPE: instances[0][user_age]: "),
        (V1, {"instances": [{"user_age": "31"}]}, 400, "FEATURE_TYPE: instances[0]."),
        (V1, {"instances": [{"user_age": [31]}]}, 400, "FEATURE_TYPE: instances[0]."),
        (V1, {"instances": [{"user_tags": ["a", 0.5]}]}, 400, "FEATURE_TYPE: instances[0][user_tags]: "),
        (V1, {"instances": [{"user_tags": [None]}]}, 400, "FEATURE_TYPE: instances[0][user_tags]: "),
        (V1, {"instances": [{"user_gender": 0.5}]}, 400, "FEATURE_TYPE: instances[0]."),
        (V1, {"instances": [{"user_age": 1e39}]}, 400, "VALUE_NOT_FINITE: instances[0].features[user_age]: "),
        (V1, {"instances": [{"user_age": 1e38}]}, 400, "VALUE_NOT_FINITE: instances[0]."),
        (V1, {"instances": [{"user_age": 10**400}]}, 400, ""),
        (V1, {"instances": [{**USER, "user_id": "u" * 513}]}, 400, "LIMIT_EXCEEDED: instances[0].user_id"),
        (V1, {"instances": [{f"user_interest_{i}": 1 for i in range(2_001)}]}, 400, "LIMIT_EXCEEDED: "),
        (V1, {"instances": [{"user_age": 1}] * 10_001}, 400, "LIMIT_EXCEEDED: "),
        # items
        (SCORE, {"instances": [{**ITEM}]}, 400, "NO_KNOWN_FEATURE: instances[0]."),
        (SCORE, {"instances": [{**USER}]}, 400, "NO_KNOWN_FEATURE: instances[0]."),
        (SCORE, {"instances": [{"item_id": "i1"}]}, 400, "FIELD_REQUIRED: instances[0]."),
        (SCORE, {"instances": [{**USER, "item_id": "i1"}, {**USER, "item_id": "x"}]}, 404, "ITEM_NOT_FOUND: "),
        (SCORE, {"instances": [{**USER, "item_id": "i" * 513}]}, 400, "LIMIT_EXCEEDED: "),
        (SCORE, {"instances": [{**USER, "item_id": 0.5}]}, 400, "NO_KNOWN_FEATURE: "),
        (
            SCORE,
            {"instances": [{**USER, **ITEM}, {**USER, **ITEM}, {"x": 1, **ITEM}]},
            400,
            "NO_KNOWN_FEATURE: instances[2]",
        ),
        # rows
        (V1, {"instances": [[]]}, 400, "DIMENSION_MISMATCH: the instances have 0 columns"),
        (V1, {"instances": [ROW[:2]]}, 400, "DIMENSION_MISMATCH: the instances have 2 columns"),
        (V1, {"instances": [ROW, ROW[:2]]}, 400, "DIMENSION_MISMATCH: instances: "),
        (V1, {"instances": [["a", "b", "c"]]}, 400, "FEATURE_TYPE: rows hold numbers, not a text"),
        (V1, {"instances": [[1, 2, None]]}, 400, "FEATURE_TYPE: rows hold numbers, not null"),
        (V1, {"instances": [[[1], [2], [3]]]}, 400, "FEATURE_TYPE: rows hold numbers, not a list"),
        (SCORE, {"instances": [ROW]}, 400, "DIMENSION_MISMATCH: the instances have 3 columns"),
        # tensors
        (V2, {}, 400, "FIELD_REQUIRED: inputs: "),
        (V2, infer(), 400, "FIELD_REQUIRED: inputs: "),
        (V2, infer(3), 400, "FEATURE_TYPE: inputs[0]: "),
        (V2, infer({"name": "features"}), 400, "FEATURE_TYPE: inputs[0].datatype: "),
        (V2, infer({**features(USER), "name": 3}), 400, "FIELD_REQUIRED: inputs[0].name: "),
        (V2, infer({**features(USER), "datatype": "BOOL"}), 400, "FEATURE_TYPE: inputs[0].datatype: "),
        (V2, infer({**features(USER), "datatype": ["BYTES"]}), 400, "FEATURE_TYPE: inputs[0].datatype: "),
        (V2, infer({**features(USER), "shape": 1}), 400, "DIMENSION_MISMATCH: inputs[0].shape: "),
        (V2, infer({**features(USER), "shape": [1, 1, 1]}), 400, "DIMENSION_MISMATCH: inputs[0].shape: "),
        (V2, infer({**features(USER), "shape": [-1]}), 400, "DIMENSION_MISMATCH: inputs[0].shape: "),
        (V2, infer({**features(USER), "shape": [True]}), 400, "DIMENSION_MISMATCH: inputs[0].shape: "),
        (V2, infer(tensor("x", "FP64", [10**18, 0])), 400, "DIMENSION_MISMATCH: inputs[0].shape: "),
        (V2, infer({**features(USER), "shape": [2]}), 400, "DIMENSION_MISMATCH: inputs[0].data: "),
        (V2, infer({**features(USER), "data": "x"}), 400, "FIELD_REQUIRED: inputs[0].data: "),
        (V2, infer(tensor("x", "FP64", [2, 3], ROW, ROW[:2])), 400, "DIMENSION_MISMATCH: inputs[0].data: "),
        (V2, infer(tensor("x", "FP64", [1, 3], *"abc")), 400, "FEATURE_TYPE: inputs[0].data: "),
        (V2, infer(tensor("x", "INT64", [1, 3], *ROW)), 400, "FEATURE_TYPE: inputs[0].data: "),
        (V2, infer(tensor("features", "BYTES", [1], "{")), 400, "UNSPECIFIED: inputs[0].data[0]: is not JSON"),
        (V2, infer(tensor("features", "BYTES", [1], "[]")), 400, "FEATURE_TYPE: inputs[0].data[0]: "),
        (V2, infer(tensor("features", "BYTES", [1], '{"user_age": NaN}')), 400, "UNSPECIFIED: inputs[0].data[0]: "),
        (V2, infer(tensor("features", "BYTES", [1, 2], "{}", "{}")), 400, "FEATURE_TYPE: inputs[0].data[0]: "),
        (V2, infer(tensor("x", "FP64", [1], 1.0)), 400, "NO_KNOWN_FEATURE: "),
        (V2, infer(features(USER), features(USER)), 400, "FIELD_CONFLICT: inputs[1]: "),
        (V2, infer(features(USER), tensor("user_age", "FP64", [2], 1, 2)), 400, "DIMENSION_MISMATCH: inputs[1].shape"),
        (V2, infer(features(USER), outputs=[{"name": "scores"}]), 400, "UNSPECIFIED: outputs: user_tower has one"),
        # models and releases
        ("/v1/models/two_tower:predict", {"instances": [USER]}, 404, "UNSPECIFIED: there is no such model; there are "),
        ("/v2/models/two_tower/infer", infer(features(USER)), 404, "UNSPECIFIED: there is no such model"),
        ("/predictions/two_tower", {"data": [USER]}, 404, "UNSPECIFIED: there is no such model"),
        (
            "/v1/models/user_tower/versions/7:predict",
            {"instances": [USER]},
            404,
            "RELEASE_NOT_LOADED: release '7' is not loaded; loaded are cosine, dot",
        ),
        ("/v2/models/user_tower/versions/7/infer", infer(features(USER)), 404, "RELEASE_NOT_LOADED: "),
        ("/predictions/user_tower?version=7", {"data": [USER]}, 404, "RELEASE_NOT_LOADED: "),
        # paths
        ("/v1/models/user_tower:explain", {}, 404, "UNSPECIFIED: there is nothing at /v1/models/user_tower:explain"),
        ("/", {}, 404, "UNSPECIFIED: "),
    ],
)
def test_a_wrong_call_is_refused_whole(http: Http, path: str, body: object, status: int, start: str) -> None:
    answer = http.post(path, body)
    assert answer.status == status, answer.content
    assert answer.error.startswith(start)
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.release is None
    assert "/work" not in answer.error
    assert "Traceback" not in answer.error


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", V1, "POST"), ("PUT", V2, "POST"), ("POST", "/metrics", "GET, HEAD"), ("DELETE", "/ping", "GET, HEAD")],
)
def test_a_wrong_method_is_told_the_right_one(http: Http, method: str, path: str, allowed: str) -> None:
    answer = http.call(method, path)
    assert answer.status == 405
    assert answer.headers["Allow"] == allowed
    assert answer.error == f"UNSPECIFIED: {path} takes {allowed}"


def test_binary_tensors_are_refused_with_what_to_do(http: Http) -> None:
    answer = http.call("POST", V2, json.dumps(infer(features(USER))), {"Inference-Header-Content-Length": "10"})
    assert answer.status == 400
    assert "binary_data=False" in answer.error


def test_long_names_are_shortened(http: Http) -> None:
    answer = http.predict("user_tower", {"x" * 100_000: None})
    assert answer.status == 400
    assert len(answer.error) <= 1_001


def test_a_body_over_the_limit_is_refused_also_when_it_comes_compressed(http: Http) -> None:
    body = json.dumps({"instances": [{"user_age": 1, "x": "y" * (4 << 20)}]})
    answer = http.post(V1, body)
    assert answer.status == 413
    assert answer.error == f"LIMIT_EXCEEDED: the request has more than {4 << 20} bytes"
    bomb = gzip.compress(body.encode())
    assert len(bomb) < 100_000
    answer = http.call("POST", V1, bomb, {"Content-Encoding": "gzip"})
    assert answer.status == 413
    small = gzip.compress(json.dumps({"instances": [USER]}).encode())
    assert len(http.call("POST", V1, small, {"Content-Encoding": "gzip"}).predictions) == 8
    assert http.call("POST", V1, b"no gzip", {"Content-Encoding": "gzip"}).status == 400


def test_every_reason_has_a_status_and_stands_first() -> None:
    assert STATUSES.keys() == set(Reason)
    assert all(400 <= status < 600 for status in STATUSES.values())
    assert message_of(Refused(Reason.OVERLOADED, "wait")) == "OVERLOADED: wait"
    assert message_of(Refused(Reason.FEATURE_TYPE, "no", "inputs[0]")) == "FEATURE_TYPE: inputs[0]: no"


# Values of every type, wrong nearly everywhere.
_ODD: tuple[Any, ...] = (
    None, True, 0, -1, 2**63, 10**30, 0.5, -1e308, "", "user_tower", "\u0000", "é" * 300,
    [], [[]], {}, {"": 0}, [None], [0] * 9,
)  # fmt: skip


def _changed(random: random.Random, value: Any) -> Any:
    """The same value with something in it replaced, removed or doubled."""
    if random.random() < 0.2 or not value or not isinstance(value, dict | list):
        return random.choice(_ODD)
    if isinstance(value, list):
        at = random.randrange(len(value))
        change = random.choice(([], [value[at]] * 2, [_changed(random, value[at])]))
        return [*value[:at], *change, *value[at + 1 :]]
    name = random.choice([*value])
    changed = {**value, name: _changed(random, value[name])}
    if random.random() < 0.2:
        changed[random.choice(("user_age", "item_id", "x", ""))] = changed.pop(name)
    return changed


def _mutants(seed: int) -> Iterator[tuple[str, bytes]]:
    """Calls that were sound before something in them was changed."""
    order = random.Random(seed)
    sound: list[tuple[str, dict[str, Any]]] = [
        (V1, {"instances": [{**USER}, {**USER, "user_id": "u1"}]}),
        (SCORE, {"inputs": [{**USER, **ITEM}, {**USER, "item_id": "i1"}]}),
        (TORCH, {"data": [ROW, ROW]}),
        (V2, infer(features(USER, USER))),
        ("/v2/models/score/infer", infer(features({**USER, "item_id": "i1"}))),
        ("/v2/models/item_tower/infer", infer(tensor("x", "FP64", [1, 3], *ROW))),
        (V2, infer(tensor("user_age", "FP32", [2], 1, 2), tensor("user_tags", "BYTES", [2, 1], "a", "b"))),
    ]
    while True:
        path, body = order.choice(sound)
        changed: Any = body
        for _ in range(order.randrange(1, 4)):
            changed = _changed(order, changed)
        content = bytearray(json.dumps(changed).encode())
        if order.random() < 0.2:
            content[order.randrange(len(content))] = order.randrange(256)
        yield path, bytes(content)


def test_mutated_requests_are_served_or_refused_and_never_a_bug(http: Http) -> None:
    statuses = set()
    for path, body in (call for _, call in zip(range(1_000), _mutants(1), strict=False)):
        answer = http.post(path, body)
        assert answer.status in (200, 400, 404), (path, body, answer.content)
        if answer.status != 200:
            reason, colon, _ = answer.error.partition(": ")
            assert colon
            assert reason in Reason.__members__
        statuses.add(answer.status)
    assert statuses >= {200, 400}
