"""What the server tells of itself and of its models, and how it is found."""

from __future__ import annotations

import json

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from open_inference.grpc import protocol

from tests.open_inference.calling import features, infer
from tests.open_inference.conftest import Own
from tests.rpc.messages import USER
from twotower_server.inference.model import Model

SERVICE = "inference.GRPCInferenceService"


def test_the_server_lives_and_is_ready(own: Own) -> None:
    assert own.inference.ServerLive(protocol.ServerLiveRequest()).live
    assert own.inference.ServerReady(protocol.ServerReadyRequest()).ready
    metadata = own.inference.ServerMetadata(protocol.ServerMetadataRequest())
    assert metadata.name == "twotower"
    assert metadata.version
    assert not metadata.extensions


@pytest.mark.parametrize("model", [*Model])
def test_a_model_is_ready_in_the_releases_that_are_loaded(own: Own, model: str) -> None:
    def ready(version: str) -> bool:
        return bool(own.inference.ModelReady(protocol.ModelReadyRequest(name=model, version=version)).ready)

    assert ready("")
    assert ready("cosine")
    assert not ready("nope")


@pytest.mark.parametrize(
    ("model", "output", "shape", "numeric"),
    [
        ("user_tower", "embedding", [-1, 8], ["user_age", "user_ctr", "user_hour"]),
        ("item_tower", "embedding", [-1, 8], ["item_age_days", "item_ctr", "item_price"]),
        (
            "score",
            "score",
            [-1],
            ["item_age_days", "item_ctr", "item_price", "user_age", "user_ctr", "user_hour"],
        ),
    ],
)
def test_metadata_tell_tensors_and_releases(
    own: Own, model: str, output: str, shape: list[int], numeric: list[str]
) -> None:
    found = own.inference.ModelMetadata(protocol.ModelMetadataRequest(name=model, version="cosine"))
    assert (found.name, found.versions, found.platform) == (model, ["cosine", "dot"], "twotower")
    assert [(tensor.name, tensor.datatype, tensor.shape) for tensor in found.inputs] == [("features", "BYTES", [-1])]
    assert [(tensor.name, tensor.datatype, tensor.shape) for tensor in found.outputs] == [(output, "FP32", shape)]
    assert found.properties["release"] == "cosine"
    assert json.loads(found.properties["numeric_features"]) == numeric


def test_health_and_reflection_know_the_service(own: Own) -> None:
    health = health_pb2_grpc.HealthStub(own.channel)
    answer = health.Check(health_pb2.HealthCheckRequest(service=SERVICE))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
    ]
    stub = reflection_pb2_grpc.ServerReflectionStub(own.channel)
    services, file = stub.ServerReflectionInfo(iter(asked))
    assert SERVICE in [service.name for service in services.list_services_response.service]
    (descriptor,) = file.file_descriptor_response.file_descriptor_proto
    assert b"ModelInferRequest" in descriptor


def test_a_model_that_is_not_there_is_refused_with_those_that_are(own: Own) -> None:
    for call, request in (
        (own.inference.ModelReady, protocol.ModelReadyRequest(name="towers")),
        (own.inference.ModelMetadata, protocol.ModelMetadataRequest(name="")),
        (own.inference.ModelInfer, infer("towers", features(USER))),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            call(request)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "there are user_tower, item_tower, score" in str(refused.value.details())
