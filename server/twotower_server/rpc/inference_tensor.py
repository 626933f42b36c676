"""Messages of the Open Inference Protocol ↔ tensors.

typed contents   in the field of `contents` that belongs to the datatype
raw contents     little-endian, of all inputs or of none; BYTES: each element is its length in 4 bytes, and the bytes
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from open_inference.grpc import protocol

from twotower_server.engine.limits import Limits
from twotower_server.errors import Reason, Refused
from twotower_server.inference.model import Model
from twotower_server.inference.tensor import BYTES, ELEMENTS_A_TURN, Shape, Tensor, check_datatype, check_shape
from twotower_server.rpc.wire import packed

# The protocol has no typed contents for FP16.
_CONTENTS = {
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}
_RAW: dict[str, np.dtype[Any]] = {
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
_LENGTH_BYTES = 4
# They would move the elements, or ask for another answer. What else a caller adds changes nothing here.
_REFUSED = ("shared_memory_region", "classification")


async def tensors(request: protocol.ModelInferRequest, model: Model, limits: Limits) -> list[Tensor]:
    """Reads the inputs of a request. Sizes are checked before anything is made of them."""
    if not request.inputs:
        raise Refused(Reason.FIELD_REQUIRED, "must have at least one tensor", "inputs")
    limits.check("features", len(request.inputs), "inputs")
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise Refused(
            Reason.DIMENSION_MISMATCH,
            f"has {len(raw)} elements for {len(request.inputs)} inputs; send one for each",
            "raw_input_contents",
        )
    found: list[Tensor] = []
    for i, given in enumerate(request.inputs):
        if found:
            await asyncio.sleep(0)
        where = f"inputs[{i}]"
        _check_parameters(given.parameters, where)
        if not given.name:
            raise Refused(Reason.FIELD_REQUIRED, "must be the input's name", f"{where}.name")
        datatype = check_datatype(given.datatype, where)
        shape = check_shape(given.shape, model, limits, where)
        filled = [field.name for field, _ in given.contents.ListFields()]
        if raw and filled:
            raise Refused(
                Reason.FIELD_CONFLICT, "the request has raw_input_contents, too; send one", f"{where}.contents"
            )
        where = f"raw_input_contents[{i}]" if raw else f"{where}.contents"
        if raw:
            data = await _of_raw(raw[i], datatype, shape, where)
        else:
            data = await _of_typed(given.contents, filled, datatype, shape, where)
        found.append(Tensor(given.name, datatype, shape, data, where))
    return found


def check_outputs(request: protocol.ModelInferRequest, model: Model) -> None:
    """Raises for an output that the model does not have, or does not have like that."""
    for i, output in enumerate(request.outputs):
        model.check_output(output.name)
        _check_parameters(output.parameters, f"outputs[{i}]")


def answer(
    request: protocol.ModelInferRequest, release: str, model: Model, values: NDArray[np.float32]
) -> protocol.ModelInferResponse:
    """values: float32, the only output: raw where the request was, else typed."""
    response = protocol.ModelInferResponse(model_name=model.value, model_version=release, id=request.id)
    output = response.outputs.add(name=model.output, datatype="FP32", shape=values.shape)
    if request.raw_input_contents:
        response.raw_output_contents.append(values.astype("<f4", copy=False).tobytes())
    else:
        output.contents.MergeFromString(packed(protocol.InferTensorContents.FP32_CONTENTS_FIELD_NUMBER, values))
    return response


def _check_parameters(parameters: Any, where: str) -> None:
    for name in _REFUSED:
        if name in parameters:
            raise Refused(Reason.UNSPECIFIED, "is not offered", f"{where}.parameters[{name}]")


async def _of_typed(contents: Any, filled: Sequence[str], datatype: str, shape: Shape, where: str) -> Sequence[object]:
    field = _CONTENTS.get(datatype)
    if field is None:
        raise Refused(Reason.FEATURE_TYPE, f"{datatype} can only be sent in raw_input_contents", where)
    if any(name != field for name in filled):
        named = " and ".join(filled)
        raise Refused(Reason.FEATURE_TYPE, f"elements of {datatype} stand in {field}, not in {named}", where)
    values = getattr(contents, field)
    _check_count(len(values), shape, where)
    return await _texts(values, where) if datatype == BYTES else list(values)


async def _of_raw(content: bytes, datatype: str, shape: Shape, where: str) -> Sequence[object]:
    if datatype == BYTES:
        return await _texts(await _split(content, shape, where), where)
    dtype = _RAW[datatype]
    if len(content) != shape.elements * dtype.itemsize:
        raise Refused(
            Reason.DIMENSION_MISMATCH,
            f"{len(content)} bytes, and its shape and {datatype} make {shape.elements * dtype.itemsize}",
            where,
        )
    values: list[object] = np.frombuffer(content, dtype).tolist()
    return values


async def _split(content: bytes, shape: Shape, where: str) -> list[bytes]:
    """The elements of BYTES."""
    found: list[bytes] = []
    start = 0
    while start < len(content) and len(found) < shape.elements:
        if len(found) % ELEMENTS_A_TURN == ELEMENTS_A_TURN - 1:
            await asyncio.sleep(0)
        begin = start + _LENGTH_BYTES
        end = begin + int.from_bytes(content[start:begin], "little")
        if begin > len(content) or end > len(content):
            raise Refused(Reason.DIMENSION_MISMATCH, f"ends in the middle of element {len(found)}", where)
        found.append(content[begin:end])
        start = end
    _check_count(len(found) + (start < len(content)), shape, where)
    return found


async def _texts(values: Sequence[bytes], where: str) -> list[str]:
    found: list[str] = []
    for i, value in enumerate(values):
        if i % ELEMENTS_A_TURN == ELEMENTS_A_TURN - 1:
            await asyncio.sleep(0)
        try:
            found.append(value.decode())
        except UnicodeDecodeError:
            raise Refused(Reason.FEATURE_TYPE, "is not UTF-8", f"{where}[{i}]") from None
    return found


def _check_count(count: int, shape: Shape, where: str) -> None:
    if count != shape.elements:
        sizes = [shape.rows, shape.columns][: shape.dimensions]
        raise Refused(Reason.DIMENSION_MISMATCH, f"its elements do not fill the shape {sizes}", where)
