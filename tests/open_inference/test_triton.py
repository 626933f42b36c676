"""The client of the package tritonclient, unchanged, against a real server."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.open_inference.calling import features, infer, values
from tests.open_inference.conftest import Own
from tests.rpc.messages import USER, user
from tests.rpc.recomputed import Features
from tests.supervisor.running import PATIENCE_S
from twotower import v1

ROW = {"user_age": 31.0, "user_ctr": 0.125, "user_hour": 21.0}


@pytest.fixture(scope="module")
def told(shared: Own) -> dict[str, Any]:
    """What the client was told."""
    python = os.environ.get("TRITON_PYTHON") or Path(__file__).parents[2] / ".tools" / "triton" / "bin" / "python"
    if not Path(python).exists():
        pytest.fail(f"no environment with tritonclient at {python}: run the tests by `make test`, which makes it")
    command = [python, Path(__file__).with_name("triton_calls.py"), shared.target, json.dumps(USER)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def wanted(own: Own, *given: Features, release: str = "dot") -> list[NDArray[np.float32]]:
    requests = [v1.GetUserEmbeddingRequest(user=user(one), release=release) for one in given]
    return [np.array(own.native.GetUserEmbedding(one).embedding.values, np.float32) for one in requests]


def same(found: dict[str, Any], vectors: list[NDArray[np.float32]]) -> bool:
    return np.array_equal(np.array(found["values"], np.float32), vectors)


def test_it_sees_what_is_there(own: Own, told: dict[str, Any]) -> None:
    assert [told[name] for name in ("live", "ready", "model_ready", "release_ready", "other_ready")] == [True] * 4 + [
        False
    ]
    assert told["server"]["name"] == "twotower"
    assert told["model"] == {
        "name": "user_tower",
        "versions": ["cosine", "dot"],
        "platform": "twotower",
        "inputs": [{"name": "features", "datatype": "BYTES", "shape": ["-1"]}],
        "outputs": [{"name": "embedding", "datatype": "FP32", "shape": ["-1", "8"]}],
    }


def test_it_reads_vectors_bit_by_bit(own: Own, told: dict[str, Any]) -> None:
    assert same(told["maps"], wanted(own, USER, USER))
    assert (told["maps"]["release"], told["maps"]["id"]) == ("dot", "7")
    assert same(told["pinned"], wanted(own, USER, release="cosine"))
    assert told["pinned"]["release"] == "cosine"
    assert same(told["asyncio"], wanted(own, USER))


def test_it_may_send_rows_and_features_by_name(own: Own, told: dict[str, Any]) -> None:
    assert same(told["rows"], wanted(own, ROW, ROW))
    assert same(told["halves"], wanted(own, ROW))
    first: Features = {"user_age": 31.0, "user_ctr": 0.125, "user_gender": "f", "user_tags": ["a", "b"]}
    second: Features = {"user_age": 55.0, "user_ctr": 0.5, "user_gender": "m", "user_tags": ["c", "a"]}
    assert same(told["named"], wanted(own, first, second))


def test_it_reads_scores(own: Own, told: dict[str, Any]) -> None:
    answer = own.inference.ModelInfer(infer("score", features({**USER, "item_id": "i3"})))
    assert same(told["score"], list(values(answer)))


def test_it_says_what_was_wrong_and_where(told: dict[str, Any]) -> None:
    assert told["wrong"]["status"] == "StatusCode.INVALID_ARGUMENT"
    assert told["wrong"]["message"].startswith("FIELD_REQUIRED: instances[0].features: ")
    assert told["not loaded"]["status"] == "StatusCode.FAILED_PRECONDITION"
    assert told["not loaded"]["message"].startswith("RELEASE_NOT_LOADED: ")
