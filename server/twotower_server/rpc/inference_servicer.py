"""inference.GRPCInferenceService, the Open Inference Protocol by gRPC: every RPC is convert → engine → convert.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/open_inference_grpc.proto
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version

import orjson
from open_inference.grpc import protocol

from twotower_server.engine.whole import WholeCalls
from twotower_server.errors import Reason, Refused
from twotower_server.inference.call import infer
from twotower_server.inference.instance import numeric_names
from twotower_server.inference.model import Model
from twotower_server.inference.tensor import FEATURES, instances_of
from twotower_server.rpc import inference_tensor
from twotower_server.rpc.handler import Method

SERVICE = protocol.DESCRIPTOR.services_by_name["GRPCInferenceService"]

_VALUE_BYTES = 4


class InferenceServicer:
    """Serves the three models. Errors are raised as `Refused`; `handler` turns them into statuses."""

    def __init__(self, calls: WholeCalls, is_ready: Callable[[], bool]) -> None:
        """is_ready: says whether this server should be sent calls; it starts or drains else."""
        self._calls = calls
        self._is_server_ready = is_ready

    def methods(self) -> dict[str, Method]:
        """By RPC name."""
        return {
            "ServerLive": self.server_live,
            "ServerReady": self.server_ready,
            "ServerMetadata": self.server_metadata,
            "ModelReady": self.model_ready,
            "ModelMetadata": self.model_metadata,
            "ModelInfer": self.model_infer,
        }

    async def server_live(self, request: protocol.ServerLiveRequest) -> protocol.ServerLiveResponse:
        return protocol.ServerLiveResponse(live=True)

    async def server_ready(self, request: protocol.ServerReadyRequest) -> protocol.ServerReadyResponse:
        return protocol.ServerReadyResponse(ready=self._is_ready(""))

    async def server_metadata(self, request: protocol.ServerMetadataRequest) -> protocol.ServerMetadataResponse:
        return protocol.ServerMetadataResponse(name="twotower", version=version("twotower"))

    async def model_ready(self, request: protocol.ModelReadyRequest) -> protocol.ModelReadyResponse:
        _model(request.name, "name")
        return protocol.ModelReadyResponse(ready=self._is_ready(request.version))

    async def model_metadata(self, request: protocol.ModelMetadataRequest) -> protocol.ModelMetadataResponse:
        model, releases = _model(request.name, "name"), self._calls.releases
        snapshot = releases.route(request.version)
        shape = model.shape(snapshot, -1)
        return protocol.ModelMetadataResponse(
            name=model.value,
            versions=sorted(releases.loaded),
            platform="twotower",
            inputs=[protocol.ModelMetadataResponse.TensorMetadata(name=FEATURES, datatype="BYTES", shape=[-1])],
            outputs=[protocol.ModelMetadataResponse.TensorMetadata(name=model.output, datatype="FP32", shape=shape)],
            properties={
                "release": snapshot.release,
                "numeric_features": orjson.dumps(numeric_names(model.schemas(snapshot))).decode(),
            },
        )

    async def model_infer(self, request: protocol.ModelInferRequest) -> protocol.ModelInferResponse:
        try:
            model = _model(request.model_name, "model_name")
            inference_tensor.check_outputs(request, model)
            given = await instances_of(await inference_tensor.tensors(request, model, self._calls.limits))
            snapshot, values = await infer(self._calls, model, request.model_version, given, _VALUE_BYTES)
        except Refused as error:
            raise _placed(error) from None
        return inference_tensor.answer(request, snapshot.release, model, values)

    def _is_ready(self, release: str) -> bool:
        if not self._is_server_ready():
            return False
        try:
            self._calls.releases.route(release)
        except Refused:
            return False
        return True


def _model(name: str, field: str) -> Model:
    model = Model.named(name)
    if model is None:
        raise Refused(Reason.UNSPECIFIED, f"there is no such model; there are {', '.join(Model)}", field)
    return model


def _placed(error: Refused) -> Refused:
    """With the field in the message, too: clients of this protocol do not show the details of a status."""
    if not error.field or error.message.startswith(error.field):
        return error
    return Refused(error.reason, f"{error.field}: {error.message}", error.field)
