"""The routes: every one is read → engine → write. What they refuse is raised as `Refused`."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import orjson
from aiohttp import web

from twotower_server.engine.route import Releases
from twotower_server.engine.whole import WholeCalls
from twotower_server.errors import Reason, Refused
from twotower_server.http.body import read_json
from twotower_server.http.metrics import ServerState
from twotower_server.http.probe import Probes, json_answer
from twotower_server.http.tensor import tensors
from twotower_server.inference.call import infer
from twotower_server.inference.instance import Instances, instances, numeric_names
from twotower_server.inference.model import Model
from twotower_server.inference.tensor import FEATURES, instances_of
from twotower_server.release.snapshot import Snapshot

RELEASE_HEADER = "X-Twotower-Release"

# A number of an answer, as text: the longest is -1.1754944e-38, and a comma.
_VALUE_BYTES = 15

_MODEL = "{model:[^/:]+}"


class UnknownModel(Exception):
    """A path names none of the models."""


class Gateway:
    """Serves one worker."""

    def __init__(self, calls: WholeCalls, state: Callable[[], ServerState], is_ready: Callable[[], bool]) -> None:
        """state: of the whole server. is_ready: whether it should be sent calls."""
        self._calls = calls
        self._probes = Probes(state, is_ready)

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
            web.get("/v2/health/live", self._probes.live),
            web.get("/v2/health/ready", self._probes.ready),
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
            *self._probes.routes(),
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
        given = await instances_of(tensors(body.get("inputs"), model, self._calls.limits))
        snapshot, values = await infer(self._calls, model, _release(request), given, _VALUE_BYTES)
        output = {"name": model.output, "datatype": "FP32", "shape": [*values.shape], "data": values.ravel()}
        answer = {"model_name": model.value, "model_version": snapshot.release, "outputs": [output]}
        if isinstance(body.get("id"), str):
            answer["id"] = body["id"]
        return self._answer(snapshot, answer)

    async def _predictions(self, request: web.Request, release: str, given: Instances) -> web.Response:
        snapshot, values = await infer(self._calls, _model(request), release, given, _VALUE_BYTES)
        return self._answer(snapshot, {"predictions": values.ravel()})

    def _answer(self, snapshot: Snapshot, answer: dict[str, Any]) -> web.Response:
        content = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
        self._calls.limits.check_response(len(content))
        return web.Response(body=content, content_type="application/json", headers={RELEASE_HEADER: snapshot.release})

    # ---- models

    async def model_status(self, request: web.Request) -> web.Response:
        model, releases = _model(request), self._calls.releases
        shown = [_pinned(releases, request).release] if _release(request) else _versions(releases)
        versions = [
            {"version": release, "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
            for release in shown
        ]
        return json_answer({"name": model.value, "ready": True, "model_version_status": versions})

    async def metadata(self, request: web.Request) -> web.Response:
        model, releases = _model(request), self._calls.releases
        snapshot = _pinned(releases, request)
        return json_answer(
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
        self._probes.check_ready()
        _pinned(self._calls.releases, request)
        return json_answer({"name": model.value, "ready": True})

    # ---- the server

    async def server_metadata(self, request: web.Request) -> web.Response:
        return json_answer({"name": "twotower", "version": version("twotower"), "extensions": []})

    async def ping(self, request: web.Request) -> web.Response:
        self._probes.check_ready()
        return json_answer({"status": "Healthy"})


def _model(request: web.Request) -> Model:
    model = Model.named(request.match_info["model"])
    if model is None:
        raise UnknownModel
    return model


def _release(request: web.Request) -> str:
    return request.match_info.get("release", "")


def _pinned(releases: Releases, request: web.Request) -> Snapshot:
    return releases.route(_release(request))


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
        model.check_output(output.get("name") if isinstance(output, dict) else None)
