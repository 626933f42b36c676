"""The routes: every one is read → engine → write. What they refuse is raised as `Refused`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import orjson
from aiohttp import web
from numpy.typing import NDArray

from twotower_server.engine.route import Releases
from twotower_server.engine.whole import WholeCalls
from twotower_server.errors import Reason, Refused
from twotower_server.http.body import read_json
from twotower_server.http.instance import Instance, Instances, instances, numeric_names
from twotower_server.http.metrics import CONTENT_TYPE, ServerState, exposition
from twotower_server.http.model import Model
from twotower_server.http.tensor import FEATURES, instances_of
from twotower_server.release.snapshot import Snapshot

RELEASE_HEADER = "X-Twotower-Release"

# A number of an answer, as text: the longest is -1.1754944e-38, and a comma.
_VALUE_BYTES = 15
# Instances that are read between two looks at the event loop.
_INSTANCES_A_TURN = 256

_MODEL = "{model:[^/:]+}"


class UnknownModel(Exception):
    """A path names none of the models."""


class Gateway:
    """Serves one worker. `is_serving` is False until it may be sent calls, and again while it drains."""

    def __init__(self, calls: WholeCalls, state: Callable[[], ServerState]) -> None:
        self._calls = calls
        self._state = state
        self.is_serving = False

    def routes(self) -> list[web.RouteDef]:
        """Every route, by the protocol that it belongs to."""
        v1, v2 = f"/v1/models/{_MODEL}", f"/v2/models/{_MODEL}"
        return [
            # KServe V1 and TensorFlow Serving
            web.post(f"{v1}:predict", self.predict),
            web.post(f"{v1}/versions/{{release:[^/:]+}}:predict", self.predict),
            web.get(v1, self.model_status),
            web.get(f"{v1}/versions/{{release:[^/:]+}}", self.model_status),
            # KServe V2
            web.get("/v2", self.server_metadata),
            web.get("/v2/health/live", self.live),
            web.get("/v2/health/ready", self.ready),
            web.get(v2, self.metadata),
            web.get(f"{v2}/versions/{{release}}", self.metadata),
            web.get(f"{v2}/ready", self.model_ready),
            web.get(f"{v2}/versions/{{release}}/ready", self.model_ready),
            web.post(f"{v2}/infer", self.infer),
            web.post(f"{v2}/versions/{{release}}/infer", self.infer),
            # TorchServe
            web.post(f"/predictions/{_MODEL}", self.torch_predict),
            web.get("/ping", self.ping),
            # Kubernetes and Prometheus
            web.get("/healthz", self.live),
            web.get("/readyz", self.ready),
            web.get("/metrics", self.metrics),
        ]

    # ---- predictions

    async def predict(self, request: web.Request) -> web.Response:
        body = await read_json(request)
        field = _one_of(body, "instances", "inputs")
        return await self._predictions(request, _release(request), instances(body[field], field))

    async def torch_predict(self, request: web.Request) -> web.Response:
        body = await read_json(request)
        return await self._predictions(
            request, request.query.get("version", ""), instances(body[_one_of(body, "data")], "data")
        )

    async def infer(self, request: web.Request) -> web.Response:
        if "Inference-Header-Content-Length" in request.headers:
            raise Refused(Reason.UNSPECIFIED, "tensors must be sent as JSON, not as binary data (binary_data=False)")
        body = await read_json(request)
        model = _model(request)
        _check_outputs(body.get("outputs"), model)
        snapshot, values = await self._run(model, _release(request), instances_of(body.get("inputs")))
        output = {"name": model.output, "datatype": "FP32", "shape": [*values.shape], "data": values.ravel()}
        answer = {"model_name": model.value, "model_version": snapshot.release, "outputs": [output]}
        if isinstance(body.get("id"), str):
            answer["id"] = body["id"]
        return self._answer(snapshot, answer)

    async def _predictions(self, request: web.Request, release: str, given: Instances) -> web.Response:
        snapshot, values = await self._run(_model(request), release, given)
        return self._answer(snapshot, {"predictions": values.ravel()})

    async def _run(self, model: Model, release: str, given: Instances) -> tuple[Snapshot, NDArray[np.float32]]:
        snapshot = self._calls.route(release, given.user(), len(given))
        self._calls.limits.check_response(_VALUE_BYTES * int(np.prod(model.shape(snapshot, len(given)))))
        read = given.reader(model.schemas(snapshot), snapshot.release)
        found: list[Instance] = []
        for start in range(0, len(given), _INSTANCES_A_TURN):
            if start:
                await asyncio.sleep(0)
            found += map(read, range(start, min(start + _INSTANCES_A_TURN, len(given))))
        return snapshot, await model.run(self._calls, snapshot, found)

    def _answer(self, snapshot: Snapshot, answer: dict[str, Any]) -> web.Response:
        content = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
        self._calls.limits.check_response(len(content))
        return web.Response(body=content, content_type="application/json", headers={RELEASE_HEADER: snapshot.release})

    # ---- models

    async def model_status(self, request: web.Request) -> web.Response:
        model, releases = _model(request), self._releases()
        shown = [_pinned(releases, request).release] if _release(request) else _versions(releases)
        versions = [
            {"version": release, "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
            for release in shown
        ]
        return _json({"name": model.value, "ready": True, "model_version_status": versions})

    async def metadata(self, request: web.Request) -> web.Response:
        model, releases = _model(request), self._releases()
        snapshot = _pinned(releases, request)
        return _json(
            {
                "name": model.value,
                "versions": _versions(releases),
                "platform": "twotower",
                "inputs": [{"name": FEATURES, "datatype": "BYTES", "shape": [-1]}],
                "outputs": [{"name": model.output, "datatype": "FP32", "shape": model.shape(snapshot, -1)}],
                "parameters": {
                    "release": snapshot.release,
                    "numeric_features": numeric_names(model.schemas(snapshot)),
                },
            }
        )

    async def model_ready(self, request: web.Request) -> web.Response:
        model = _model(request)
        _pinned(self._releases(), request)
        return _json({"name": model.value, "ready": True})

    # ---- the server

    async def server_metadata(self, request: web.Request) -> web.Response:
        return _json({"name": "twotower", "version": version("twotower"), "extensions": []})

    async def live(self, request: web.Request) -> web.Response:
        return _json({"live": True})

    async def ready(self, request: web.Request) -> web.Response:
        self._releases()
        return _json({"ready": True})

    async def ping(self, request: web.Request) -> web.Response:
        self._releases()
        return _json({"status": "Healthy"})

    async def metrics(self, request: web.Request) -> web.Response:
        return web.Response(text=exposition(self._state()), headers={"Content-Type": CONTENT_TYPE})

    def _releases(self) -> Releases:
        """For a question, not a call. Raises NOT_READY also while this worker starts or drains."""
        if not self.is_serving:
            raise Refused(Reason.NOT_READY, "this server is starting or stopping")
        return self._calls.releases


def _model(request: web.Request) -> Model:
    model = Model.named(request.match_info["model"])
    if model is None:
        raise UnknownModel
    return model


def _release(request: web.Request) -> str:
    return request.match_info.get("release", "")


def _pinned(releases: Releases, request: web.Request) -> Snapshot:
    return releases.route(_release(request), entries=0)


def _versions(releases: Releases) -> list[str]:
    return sorted(releases.loaded)


def _one_of(body: dict[str, Any], *fields: str) -> str:
    given = [field for field in fields if field in body]
    if not given:
        raise Refused(Reason.FIELD_REQUIRED, f"the request needs {' or '.join(fields)}: a list of maps of features")
    if len(given) > 1:
        raise Refused(Reason.FIELD_CONFLICT, f"the request has {' and '.join(given)}; send one")
    return given[0]


def _check_outputs(outputs: object, model: Model) -> None:
    for output in outputs if isinstance(outputs, list) else ():
        name = output.get("name") if isinstance(output, dict) else None
        if name != model.output:
            raise Refused(Reason.UNSPECIFIED, f"{model.value} has one output, {model.output}", "outputs")


def _json(answer: dict[str, Any]) -> web.Response:
    return web.Response(body=orjson.dumps(answer), content_type="application/json")
