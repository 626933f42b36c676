"""What the service refuses: the whole call, with one status and one reason, and never as a bug of the server."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from tests.open_inference.calling import Request, features, infer, infer_raw, raw, typed, values
from tests.open_inference.conftest import Own
from tests.rpc.messages import ITEM, USER
from twotower_server.errors import Reason

ROW = (31.0, 0.07, 21.0)
_AGE = typed("user_age", "INT64", [1], 31)


def _number(value: int) -> Any:
    parameter = Request().parameters["x"]
    parameter.int64_param = value
    return parameter


def _with(request: Request, change: Callable[[Request], object]) -> Request:
    change(request)
    return request


def _user(*shape: int, datatype: str = "BYTES", name: str = "features") -> Request:
    """A call with one user, under another shape, datatype or name."""
    request = infer("user_tower", features(USER))
    request.inputs[0].shape[:] = shape or (1,)
    request.inputs[0].datatype = datatype
    request.inputs[0].name = name
    return request


def _fp64(*shape: int, data: tuple[float, ...] = ROW) -> Request:
    return infer_raw("user_tower", ("x", "FP64", shape, data))


def _raw_bytes(content: bytes, *shape: int) -> Request:
    request = infer_raw("user_tower", ("user_gender", "BYTES", shape, ()))
    request.raw_input_contents[0] = content
    return request


@pytest.mark.parametrize(
    ("request_", "start"),
    [
        # no tensors
        (infer("user_tower"), "FIELD_REQUIRED: inputs: "),
        (infer("user_tower", raw_input_contents=[b"x"]), "FIELD_REQUIRED: inputs: "),
        (_user(name=""), "FIELD_REQUIRED: inputs[0].name: "),
        (_user(datatype=""), "FEATURE_TYPE: inputs[0].datatype: "),
        (_user(datatype="BOOL"), "FEATURE_TYPE: inputs[0].datatype: "),
        (_user(datatype="BF16"), "FEATURE_TYPE: inputs[0].datatype: "),
        (_user(datatype="bytes"), "FEATURE_TYPE: inputs[0].datatype: "),
        # shapes
        (_with(_user(), lambda call: call.inputs[0].ClearField("shape")), "DIMENSION_MISMATCH: inputs[0].shape: "),
        (_user(0), "DIMENSION_MISMATCH: inputs[0].shape: "),
        (_user(-1), "DIMENSION_MISMATCH: inputs[0].shape: "),
        (_user(1, 0), "DIMENSION_MISMATCH: inputs[0].shape: "),
        (_user(-1, -1), "DIMENSION_MISMATCH: inputs[0].shape: "),
        (_user(1, 1, 1), "DIMENSION_MISMATCH: inputs[0].shape: "),
        (_user(2), "DIMENSION_MISMATCH: inputs[0].contents: its elements do not fill the shape [2]"),
        (_user(2**63 - 1), "LIMIT_EXCEEDED: inputs[0].shape: "),
        (_user(2**32, 2**32), "LIMIT_EXCEEDED: inputs[0].shape: "),
        (_user(1, 2_001), "LIMIT_EXCEEDED: inputs[0].shape: "),
        (_user(10_001), "LIMIT_EXCEEDED: inputs[0].shape: 10001 users, at most 10000 "),
        (_fp64(2, 3), "DIMENSION_MISMATCH: raw_input_contents[0]: 24 bytes, and its shape and FP64 make 48"),
        (_fp64(1, 3, data=(*ROW, 1.0)), "DIMENSION_MISMATCH: raw_input_contents[0]: "),
        (_fp64(2**31, 2**33), "LIMIT_EXCEEDED: inputs[0].shape: "),
        (infer("user_tower", typed("x", "FP64", [1, 3])), "DIMENSION_MISMATCH: inputs[0].contents: "),
        # raw and typed
        (_with(_user(), lambda call: call.raw_input_contents.append(b"")), "FIELD_CONFLICT: inputs[0].contents: "),
        (
            _with(_fp64(1, 3), lambda call: call.raw_input_contents.append(b"")),
            "DIMENSION_MISMATCH: raw_input_contents: has 2 elements for 1 inputs",
        ),
        (
            _with(_fp64(1, 3), lambda call: call.inputs.add(name="y", datatype="FP64", shape=[1])),
            "DIMENSION_MISMATCH: raw_input_contents: has 1 elements for 2 inputs",
        ),
        (
            _with(_user(), lambda call: call.inputs[0].contents.fp64_contents.append(1)),
            "FEATURE_TYPE: inputs[0].contents: elements of BYTES stand in bytes_contents, not in ",
        ),
        (_user(datatype="FP32"), "FEATURE_TYPE: inputs[0].contents: elements of FP32 stand in fp32_contents"),
        (_user(datatype="FP16"), "FEATURE_TYPE: inputs[0].contents: FP16 can only be sent in raw_input_contents"),
        # BYTES
        (_raw_bytes(b"", 1), "DIMENSION_MISMATCH: raw_input_contents[0]: its elements do not fill the shape [1]"),
        (_raw_bytes(b"\x01", 1), "DIMENSION_MISMATCH: raw_input_contents[0]: ends in the middle of element 0"),
        (_raw_bytes(b"\x02\0\0\0f", 1), "DIMENSION_MISMATCH: raw_input_contents[0]: ends in the middle of element 0"),
        (_raw_bytes(b"\xff\xff\xff\xfff", 1), "DIMENSION_MISMATCH: raw_input_contents[0]: ends in the middle"),
        (_raw_bytes(raw("BYTES", "f", "m"), 1), "DIMENSION_MISMATCH: raw_input_contents[0]: its elements do not fill"),
        (_raw_bytes(raw("BYTES", "f"), 2), "DIMENSION_MISMATCH: raw_input_contents[0]: its elements do not fill"),
        (_raw_bytes(raw("BYTES", "f", "m") + b"x", 2, 1), "DIMENSION_MISMATCH: raw_input_contents[0]: its elements"),
        (_raw_bytes(raw("BYTES", b"\xff"), 1), "FEATURE_TYPE: raw_input_contents[0][0]: is not UTF-8"),
        (infer("user_tower", typed("user_city", "BYTES", [1], b"\xff")), "FEATURE_TYPE: inputs[0].contents[0]: "),
        # maps
        (infer("user_tower", typed("features", "BYTES", [1], "{")), "UNSPECIFIED: inputs[0].contents[0]: is not JSON"),
        (infer("user_tower", typed("features", "BYTES", [1], "")), "UNSPECIFIED: inputs[0].contents[0]: is not JSON"),
        (
            infer("user_tower", typed("features", "BYTES", [1], "3")),
            "FEATURE_TYPE: inputs[0].contents[0]: must be a map",
        ),
        (infer("user_tower", typed("features", "BYTES", [1, 2], "{}", "{}")), "FEATURE_TYPE: inputs[0].contents[0]: "),
        (infer("user_tower", features(USER), features(USER)), "FIELD_CONFLICT: inputs[1]: a feature is sent twice"),
        (
            infer("user_tower", features(USER), typed("user_x", "INT64", [2], 1, 2)),
            "DIMENSION_MISMATCH: inputs[1].shape: 2 instances, inputs[0] has 1",
        ),
        # instances
        (infer("user_tower", features(USER, {})), "FIELD_REQUIRED: instances[1].features: "),
        (infer("user_tower", features(USER, {"x": 1})), "NO_KNOWN_FEATURE: instances[1].features: "),
        (infer("user_tower", features({"user_age": None})), "FEATURE_TYPE: instances[0][user_age]: must be a number"),
        (infer("user_tower", features({**USER, "user_id": "u" * 513})), "LIMIT_EXCEEDED: instances[0].user_id"),
        (infer("score", features({**USER, **ITEM}, ITEM)), "NO_KNOWN_FEATURE: instances[1]."),
        (infer("score", features({**USER, "item_id": "x"})), "ITEM_NOT_FOUND: "),
        (infer("user_tower", typed("user_age", "FP64", [1], math.nan)), "VALUE_NOT_FINITE: instances[0]."),
        (infer("user_tower", typed("user_age", "FP32", [1], math.inf)), "VALUE_NOT_FINITE: instances[0]."),
        (
            infer("user_tower", _AGE, typed("user_tags", "FP64", [1, 2], 1, math.nan)),
            "FEATURE_TYPE: instances[0][user_tags]",
        ),
        (infer("user_tower", typed("user_id", "FP64", [1], math.nan)), "FIELD_REQUIRED: instances[0].features: "),
        (
            infer("user_tower", _AGE, typed("user_tags", "FP64", [1, 2], 1, math.inf)),
            "FEATURE_TYPE: instances[0][user_tags]",
        ),
        (infer("user_tower", typed("user_id", "FP64", [1], math.inf)), "FIELD_REQUIRED: instances[0].features: "),
        # rows
        (_fp64(1, 2, data=ROW[:2]), "DIMENSION_MISMATCH: the instances have 2 columns, and release dot has 3 numeric"),
        (_fp64(1, 3, data=(math.nan, 1, 2)), "VALUE_NOT_FINITE: instances[0]."),
        (infer_raw("score", ("x", "FP64", [1, 3], ROW)), "DIMENSION_MISMATCH: the instances have 3 columns"),
        # outputs
        (
            infer("user_tower", features(USER), outputs=[Request.InferRequestedOutputTensor(name="score")]),
            "UNSPECIFIED: outputs: user_tower has one output, embedding",
        ),
        (
            infer("score", features(USER), outputs=[Request.InferRequestedOutputTensor()]),
            "UNSPECIFIED: outputs: score has one output, score",
        ),
        (
            _with(
                infer("score", features(USER), outputs=[Request.InferRequestedOutputTensor(name="score")]),
                lambda call: call.outputs[0].parameters["classification"].CopyFrom(_number(3)),
            ),
            "UNSPECIFIED: outputs[0].parameters[classification]: is not offered",
        ),
        (
            _with(_user(), lambda call: call.inputs[0].parameters["shared_memory_region"].CopyFrom(_number(3))),
            "UNSPECIFIED: inputs[0].parameters[shared_memory_region]: is not offered",
        ),
        # the whole
        (infer("user_tower", features(USER), model_version="nope"), "RELEASE_NOT_LOADED: "),
        (infer("user_tower", *[typed(f"x{i}", "INT64", [1], 1) for i in range(2_001)]), "LIMIT_EXCEEDED: inputs: "),
        (infer("user_tower", typed("x" * 100_000, "BYTES", [1], "a")), "NO_KNOWN_FEATURE: "),
        (infer("user_tower", features(USER), id="i" * (7 << 19)), "LIMIT_EXCEEDED: the answer would take "),
    ],
)
def test_a_wrong_call_is_refused_whole(own: Own, request_: Request, start: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        own.inference.ModelInfer(request_)
    error = refused.value
    message = str(error.details())
    assert message.startswith(start)
    assert "/work" not in message
    reason = start.partition(":")[0]
    code = {"RELEASE_NOT_LOADED": "FAILED_PRECONDITION", "ITEM_NOT_FOUND": "NOT_FOUND"}.get(reason, "INVALID_ARGUMENT")
    assert error.code().name == code
    trailers: dict[str, Any] = dict(error.trailing_metadata() or ())  # type: ignore[arg-type]
    (detail,) = status_pb2.Status.FromString(trailers["grpc-status-details-bin"]).details
    info = error_details_pb2.ErrorInfo()
    assert detail.Unpack(info)
    assert (info.reason, info.domain) == (reason, "twotower")


def test_bytes_that_are_no_message_are_refused(own: Own) -> None:
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = own.channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer"
    )
    with pytest.raises(grpc.RpcError) as refused:
        call(b"\x0a\xff\xff\xff\xff\x0f")
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert str(refused.value.details()).startswith("UNSPECIFIED: the bytes are not a ModelInfer request")


def test_what_is_no_part_of_the_protocol_is_not_implemented(own: Own) -> None:
    for rpc in ("ModelStreamInfer", "ModelConfig", "RepositoryModelLoad", "SystemSharedMemoryRegister"):
        with pytest.raises(grpc.RpcError) as refused:
            call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = own.channel.unary_unary(
                f"/inference.GRPCInferenceService/{rpc}"
            )
            call(b"")
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


# ---- fuzzing

_DATATYPES = ("BYTES", "FP64", "FP32", "INT64", "INT8", "FP16", "BOOL", "")
_SIZES = (-(2**63), -1, 0, 1, 2, 3, 6, 2_000, 2**31, 2**63 - 1)
_NAMES = ("features", "user_age", "user_tags", "user_gender", "item_id", "user_id", "", "\0", "é" * 300)
_CONTENTS = (b"", b"\0", b"\xff" * 9, struct.pack("<d", math.nan), raw("FP64", *ROW), raw("BYTES", '{"user_age": 1}'))


def _changed(order: random.Random, request: Request) -> None:
    """Changes something in a request."""
    given = order.choice(request.inputs) if request.inputs else request.inputs.add()
    change = order.randrange(10)
    if change == 0:
        given.name = order.choice(_NAMES)
    elif change == 1:
        given.datatype = order.choice(_DATATYPES)
    elif change == 2:
        given.shape[:] = [order.choice(_SIZES) for _ in range(order.randrange(4))]
    elif change == 3:
        getattr(given.contents, order.choice(("fp64_contents", "int64_contents", "uint_contents"))).append(1)
    elif change == 4:
        given.contents.bytes_contents.append(order.choice(_CONTENTS))
    elif change == 5 and request.raw_input_contents:
        at = order.randrange(len(request.raw_input_contents))
        request.raw_input_contents[at] = order.choice(_CONTENTS)
    elif change == 6:
        request.raw_input_contents.append(order.choice(_CONTENTS))
    elif change == 7:
        request.inputs.add().CopyFrom(given)
    elif change == 8:
        request.model_name = order.choice(("user_tower", "item_tower", "score", "x"))
    elif change == 9:
        given.contents.fp64_contents[:] = [order.choice((math.nan, math.inf, 1e308, -0.0))] * 3


def _mutants(seed: int) -> Iterator[Request]:
    """Calls that were sound before something in them was changed."""
    order = random.Random(seed)
    sound = [
        infer("user_tower", features(USER, USER)),
        infer("score", features({**USER, **ITEM}, {**USER, "item_id": "i1"})),
        infer("item_tower", typed("x", "FP64", [1, 3], *ROW)),
        infer("user_tower", typed("user_age", "FP32", [2], 1, 2), typed("user_tags", "BYTES", [2, 1], "a", "b")),
        _fp64(2, 3, data=ROW * 2),
        infer_raw("user_tower", ("user_age", "INT8", [1], [3]), ("user_gender", "BYTES", [1], ["f"])),
    ]
    while True:
        request = Request()
        request.CopyFrom(order.choice(sound))
        for _ in range(order.randrange(1, 4)):
            _changed(order, request)
        yield request


def test_mutated_requests_are_served_or_refused_and_never_a_bug(own: Own) -> None:
    served = refused = 0
    for _, request in zip(range(1_500), _mutants(1), strict=False):
        try:
            assert values(own.inference.ModelInfer(request)).size
            served += 1
        except grpc.RpcError as error:
            assert error.code().name in ("INVALID_ARGUMENT", "NOT_FOUND"), (request, error.details())
            assert str(error.details()).partition(": ")[0] in Reason.__members__
            refused += 1
    assert served > 50
    assert refused > 500
