"""Requests of the Open Inference Protocol, written with the stubs of the package open-inference-grpc."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from open_inference.grpc import protocol

Request = protocol.ModelInferRequest
Input = protocol.ModelInferRequest.InferInputTensor

_CONTENTS = {
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_RAW = {"INT8": "i1", "INT32": "<i4", "INT64": "<i8", "UINT8": "u1", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}


def typed(name: str, datatype: str, shape: Sequence[int], *data: Any) -> Input:
    """An input with typed contents; texts are sent as UTF-8."""
    values = [value.encode() if isinstance(value, str) else value for value in data]
    contents = protocol.InferTensorContents()
    getattr(contents, _CONTENTS[datatype]).extend(values)
    return Input(name=name, datatype=datatype, shape=shape, contents=contents)


def features(*instances: Mapping[str, Any]) -> Input:
    """The input whose elements are maps, as JSON."""
    return typed("features", "BYTES", [len(instances)], *map(json.dumps, instances))


def raw(datatype: str, *data: Any) -> bytes:
    """Elements as they stand in raw_input_contents."""
    if datatype != "BYTES":
        return np.array(data, _RAW[datatype]).tobytes()
    texts = [value.encode() if isinstance(value, str) else bytes(value) for value in data]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def infer(model: str, *inputs: Input, **fields: Any) -> Request:
    return Request(model_name=model, inputs=inputs, **fields)


def infer_raw(model: str, *inputs: tuple[str, str, Sequence[int], Sequence[Any]], **fields: Any) -> Request:
    """inputs: name, datatype, shape and elements of each."""
    return Request(
        model_name=model,
        inputs=[Input(name=name, datatype=datatype, shape=shape) for name, datatype, shape, _ in inputs],
        raw_input_contents=[raw(datatype, *data) for _, datatype, _, data in inputs],
        **fields,
    )


def values(answer: protocol.ModelInferResponse) -> NDArray[np.float32]:
    """The only output, from wherever it stands: float32 in its shape."""
    (output,) = answer.outputs
    assert output.datatype == "FP32"
    if answer.raw_output_contents:
        assert not output.HasField("contents")
        found = np.frombuffer(answer.raw_output_contents[0], "<f4")
    else:
        found = np.array(output.contents.fp32_contents, np.float32)
    return found.reshape(output.shape)
