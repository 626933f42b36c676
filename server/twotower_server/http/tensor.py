"""Tensors of KServe V2 (Open Inference Protocol) → instances.

one input `features`, BYTES       each element is an instance: a map, as JSON
one numeric input [n, columns]    each row is an instance
inputs named by features          [n] or [n, k] each: every instance has one value, or a list of k, of each

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from twotower_server.errors import Reason, Refused
from twotower_server.http.instance import Instances, Maps, Rows

FEATURES = "features"

_NUMERIC = ("FP64", "FP32", "INT64")
_BYTES = "BYTES"


@dataclass(frozen=True, slots=True)
class _Tensor:
    """rows: one an instance, all of the same length. data: its elements, in row-major order."""

    name: str
    datatype: str
    dimensions: int
    rows: int
    columns: int
    data: Sequence[object]

    def values(self) -> list[object]:
        """What each instance has: one element, or a list of them."""
        if self.columns == 1:
            return list(self.data)
        return [*self.lists()]

    def lists(self) -> list[Sequence[object]]:
        return [self.data[start : start + self.columns] for start in range(0, len(self.data), self.columns)]


def instances_of(inputs: object) -> Instances:
    """Reads the `inputs` of an infer request."""
    if not isinstance(inputs, list) or not inputs:
        raise Refused(Reason.FIELD_REQUIRED, "must be a list of at least one tensor", "inputs")
    tensors = [_tensor(value, f"inputs[{i}]") for i, value in enumerate(inputs)]
    first = tensors[0]
    if len(tensors) == 1 and first.dimensions == 2 and first.datatype != _BYTES:
        return Rows(first.lists())
    maps: list[dict[str, object]] = [{} for _ in range(first.rows)]
    for i, tensor in enumerate(tensors):
        if tensor.rows != first.rows:
            raise Refused(
                Reason.DIMENSION_MISMATCH, f"{tensor.rows} instances, inputs[0] has {first.rows}", f"inputs[{i}].shape"
            )
        whole = tensor.name == FEATURES and tensor.datatype == _BYTES
        for row, value in enumerate(tensor.values()):
            more = _map(value, f"inputs[{i}].data[{row}]") if whole else {tensor.name: value}
            if not maps[row].keys().isdisjoint(more):
                raise Refused(Reason.FIELD_CONFLICT, "a feature is sent twice", f"inputs[{i}]")
            maps[row] |= more
    return Maps(maps)


def _map(value: object, where: str) -> dict[str, object]:
    if not isinstance(value, str):
        raise Refused(Reason.FEATURE_TYPE, "an instance is one map of features, as JSON", where)
    try:
        found = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise Refused(Reason.UNSPECIFIED, f"is not JSON: {error.msg}", where) from None
    if not isinstance(found, dict):
        raise Refused(Reason.FEATURE_TYPE, 'must be a map of features as JSON, such as "{\\"user_age\\": 29}"', where)
    return found


def _tensor(value: object, where: str) -> _Tensor:
    if not isinstance(value, dict):
        raise Refused(Reason.FEATURE_TYPE, "must be an object with name, shape, datatype and data", where)
    name, shape, datatype, data = (value.get(key) for key in ("name", "shape", "datatype", "data"))
    if not isinstance(name, str) or not name:
        raise Refused(Reason.FIELD_REQUIRED, "must be the input's name", f"{where}.name")
    if datatype not in (*_NUMERIC, _BYTES):
        raise Refused(Reason.FEATURE_TYPE, f"must be one of {', '.join(_NUMERIC)}, {_BYTES}", f"{where}.datatype")
    if (
        not isinstance(shape, list)
        or len(shape) not in (1, 2)
        or not all(type(size) is int and size > 0 for size in shape)
    ):
        raise Refused(
            Reason.DIMENSION_MISMATCH,
            "must be [instances] or [instances, columns], 1 or more each",
            f"{where}.shape",
        )
    rows, columns = shape[0], shape[1] if len(shape) == 2 else 1
    if not isinstance(data, list):
        raise Refused(Reason.FIELD_REQUIRED, "must be the list of elements", f"{where}.data")
    if len(shape) == 2 and all(isinstance(row, list) for row in data):
        data = [element for row in data for element in row] if all(len(row) == columns for row in data) else []
    if len(data) != rows * columns:
        raise Refused(Reason.DIMENSION_MISMATCH, f"its elements do not fill the shape {shape}", f"{where}.data")
    _check_elements(data, datatype, f"{where}.data")
    return _Tensor(name, datatype, len(shape), rows, columns, data)


def _check_elements(data: Sequence[object], datatype: str, where: str) -> None:
    kinds: set[type] = {str} if datatype == _BYTES else {int} if datatype == "INT64" else {int, float}
    if not kinds.issuperset(map(type, data)):
        wanted = {_BYTES: "texts", "INT64": "whole numbers"}.get(datatype, "numbers")
        raise Refused(Reason.FEATURE_TYPE, f"elements of {datatype} must be {wanted}", where)
