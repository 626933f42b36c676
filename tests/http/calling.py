"""Calls of the HTTP port, by the standard library's client."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """body: what the JSON says; None when there is none."""

    status: int
    headers: http.client.HTTPMessage
    content: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.content)

    @property
    def release(self) -> str | None:
        return self.headers["X-Twotower-Release"]

    @property
    def predictions(self) -> list[float]:
        """Of a call by KServe V1, TensorFlow Serving or TorchServe that was served."""
        assert self.status == 200, self.content
        found: list[float] = self.body["predictions"]
        return found

    @property
    def error(self) -> str:
        """Of a call that was refused."""
        assert self.status != 200
        assert list(self.body) == ["error"]
        return str(self.body["error"])


@dataclass(frozen=True, slots=True)
class Http:
    """The HTTP port of a server. target: host:port."""

    target: str

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.target, timeout=TIMEOUT_S)

    def get(self, path: str) -> Answer:
        return self.call("GET", path)

    def post(self, path: str, body: object) -> Answer:
        """body: bytes or text as they are, anything else as JSON."""
        content = body if isinstance(body, str | bytes) else json.dumps(body)
        return self.call("POST", path, content, {"Content-Type": "application/json"})

    def call(
        self, method: str, path: str, body: str | bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        connection = self.connection()
        try:
            connection.request(method, path, body, headers or {})
            return read(connection)
        finally:
            connection.close()

    def predict(self, model: str, *instances: object) -> Answer:
        """By KServe V1."""
        return self.post(f"/v1/models/{model}:predict", {"instances": instances})

    def infer(self, model: str, *inputs: object, **fields: object) -> Answer:
        """By KServe V2."""
        return self.post(f"/v2/models/{model}/infer", {"inputs": inputs, **fields})


def read(connection: http.client.HTTPConnection) -> Answer:
    """The answer to what was sent on a connection."""
    response = connection.getresponse()
    return Answer(response.status, response.headers, response.read())


def tensor(name: str, datatype: str, shape: list[int], *data: object) -> dict[str, object]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": list(data)}


def features(*instances: Mapping[str, Any]) -> dict[str, object]:
    """The input by which Reckit sends maps, WithKServeV2FeaturesAsJSON."""
    return tensor("features", "BYTES", [len(instances)], *map(json.dumps, instances))
