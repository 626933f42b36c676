"""Requests of Reckit's own clients, recorded from them as docs/http.md says, and what they read in the answers.

How each reads an answer stands beside it in Reckit's service/ (commit 3f2cabd).
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.http.calling import Answer, Http

RECORDED: list[dict[str, str]] = json.loads((Path(__file__).parent / "reckit_requests.json").read_text("utf-8"))


def ask(http: Http, request: dict[str, str]) -> Answer:
    headers = {"Content-Type": "application/json", "Accept-Encoding": "gzip"}
    return http.call(request["method"], request["path"], request["body"] or None, headers)


def asked(request: dict[str, str]) -> tuple[str, int]:
    """The model that a request is for, and its number of instances."""
    body: dict[str, Any] = json.loads(request["body"])
    model = "score" if "/score" in request["path"] else "user_tower"
    given = body.get("instances") or body.get("data") or body["inputs"]
    return model, given[0]["shape"][0] if "shape" in given[0] else len(given)


def refused_with(request: dict[str, str]) -> tuple[int, str] | None:
    """How a request that cannot be served must be refused."""
    if "/versions/nope/" in request["path"]:
        return 404, "RELEASE_NOT_LOADED: release 'nope' is not loaded; loaded are cosine, dot"
    if "FP64" in request["body"]:
        columns = json.loads(request["body"])["inputs"][0]["shape"][1]
        if columns != (6 if "/score" in request["path"] else 3):
            return 400, f"DIMENSION_MISMATCH: the instances have {columns} columns"
    return None


@pytest.mark.parametrize("request_", RECORDED, ids=[f"{r['client']} {r['path']} {i}" for i, r in enumerate(RECORDED)])
def test_a_recorded_request_gets_what_its_client_reads(http: Http, request_: dict[str, str]) -> None:
    answer = ask(http, request_)
    if request_["method"] == "GET":
        assert answer.status == 200
        return
    refusal = refused_with(request_)
    if refusal is not None:
        status, start = refusal
        assert answer.status == status
        assert answer.error.startswith(start)
        assert status == 404 or "WithKServeV2FeaturesAsJSON" in answer.error
        return
    assert answer.status == 200, answer.content
    if "/v2/" in request_["path"]:
        # kserve.go: the first output, whose elements must be numbers.
        values = answer.body["outputs"][0]["data"]
    else:
        # tf_serving.go fails on null; torchserve.go looks for `prediction` first, and all take the first of a list.
        assert list(answer.body) == ["predictions"]
        values = answer.body["predictions"]
    assert all(type(value) is float for value in values)
    model, count = asked(request_)
    # A single vector is what TwoTowerRecall takes for the user's; RPCNode reads as many scores as it has candidates.
    assert len(values) == (count if model == "score" else 8 * count)


def test_every_client_gets_the_same_scores_for_the_same_maps(http: Http) -> None:
    scores: dict[str, list[list[float]]] = defaultdict(list)
    for request in RECORDED:
        if request["method"] == "POST" and "/score" in request["path"] and "FP64" not in request["body"]:
            answer = ask(http, request).body
            scores[request["client"]].append(answer["predictions"] if "predictions" in answer else _data(answer))
    assert len(scores) == 7
    three = [found[0] for found in scores.values()]
    assert all(len(found) == 3 for found in three)
    assert all(found == three[0] for found in three)
    assert three[0] == sorted(set(three[0]), reverse=True), "they rise in price, which these towers do not like"


def _data(answer: dict[str, Any]) -> list[float]:
    found: list[float] = answer["outputs"][0]["data"]
    return found
