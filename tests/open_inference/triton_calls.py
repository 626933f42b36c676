"""Calls a server by the client of the package tritonclient, and prints what it was told as JSON.

Runs in an environment of its own: Triton's stubs are another copy of the package `inference`, and two copies cannot be
loaded into one process; nor does the client take a protobuf as new as the server's.

    python triton_calls.py TARGET FEATURES       FEATURES: a user, as JSON
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.grpc.aio
from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

ROW = [31.0, 0.125, 21.0]


def tensor(name: str, datatype: str, data: Any) -> InferInput:
    given = InferInput(name, data.shape, datatype)
    given.set_data_from_numpy(data)
    return given


def features(*instances: str) -> InferInput:
    return tensor("features", "BYTES", np.array([text.encode() for text in instances], np.object_))


def answer(result: tritonclient.grpc.InferResult, output: str = "embedding") -> dict[str, Any]:
    response = result.get_response()
    return {
        "values": result.as_numpy(output).tolist(),
        "release": response.model_version,
        "id": response.id,
    }


def main(target: str, user: str) -> dict[str, Any]:
    client = tritonclient.grpc.InferenceServerClient(target)
    asked = [InferRequestedOutput("embedding")]
    found: dict[str, Any] = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": client.is_model_ready("score"),
        "release_ready": client.is_model_ready("score", "cosine"),
        "other_ready": client.is_model_ready("score", "nope"),
        "server": client.get_server_metadata(as_json=True),
        "model": client.get_model_metadata("user_tower", "cosine", as_json=True),
        "maps": answer(client.infer("user_tower", [features(user, user)], outputs=asked, request_id="7")),
        "pinned": answer(client.infer("user_tower", [features(user)], model_version="cosine")),
        "rows": answer(client.infer("user_tower", [tensor("x", "FP64", np.array([ROW, ROW]))])),
        "halves": answer(client.infer("user_tower", [tensor("x", "FP16", np.array([ROW], np.float16))])),
        "named": answer(
            client.infer(
                "user_tower",
                [
                    tensor("user_age", "INT64", np.array([31, 55])),
                    tensor("user_ctr", "FP32", np.array([0.125, 0.5], np.float32)),
                    tensor("user_gender", "BYTES", np.array(["f", "m"], np.object_)),
                    tensor("user_tags", "BYTES", np.array([["a", "b"], ["c", "a"]], np.object_)),
                ],
                priority=2,
                timeout=1_000_000,
                parameters={"trace": "x"},
                compression_algorithm="gzip",
            )
        ),
        "score": answer(client.infer("score", [features(json.dumps({**json.loads(user), "item_id": "i3"}))]), "score"),
        "asyncio": asyncio.run(by_asyncio(target, user)),
    }
    for name, inputs, pin in (("wrong", [features("{}")], ""), ("not loaded", [features(user)], "nope")):
        try:
            client.infer("user_tower", inputs, model_version=pin)
        except InferenceServerException as error:
            found[name] = {"status": error.status(), "message": error.message()}
    client.close()
    return found


async def by_asyncio(target: str, user: str) -> dict[str, Any]:
    async with tritonclient.grpc.aio.InferenceServerClient(target) as client:
        return answer(await client.infer("user_tower", [features(user)]))


print(json.dumps(main(*sys.argv[1:])))
