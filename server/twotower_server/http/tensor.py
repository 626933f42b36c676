"""Tensors as JSON, in the `inputs` of an infer request by KServe V2."""

from __future__ import annotations

from collections.abc import Sequence

from twotower_server.engine.limits import Limits
from twotower_server.errors import Reason, Refused
from twotower_server.inference.model import Model
from twotower_server.inference.tensor import BYTES, INTEGERS, Tensor, check_datatype, check_shape


def tensors(inputs: object, model: Model, limits: Limits) -> list[Tensor]:
    """Reads the `inputs` of an infer request."""
    if not isinstance(inputs, list) or not inputs:
        raise Refused(Reason.FIELD_REQUIRED, "must be a list of at least one tensor", "inputs")
    limits.check("features", len(inputs), "inputs")
    return [_tensor(value, model, limits, f"inputs[{i}]") for i, value in enumerate(inputs)]


def _tensor(value: object, model: Model, limits: Limits, where: str) -> Tensor:
    if not isinstance(value, dict):
        raise Refused(Reason.FEATURE_TYPE, "must be an object with name, shape, datatype and data", where)
    name, sizes, data = (value.get(key) for key in ("name", "shape", "data"))
    if not isinstance(name, str) or not name:
        raise Refused(Reason.FIELD_REQUIRED, "must be the input's name", f"{where}.name")
    datatype = check_datatype(value.get("datatype"), where)
    shape = check_shape(sizes if isinstance(sizes, list) else (), model, limits, where)
    if not isinstance(data, list):
        raise Refused(Reason.FIELD_REQUIRED, "must be the list of elements", f"{where}.data")
    if shape.dimensions == 2 and all(isinstance(row, list) for row in data):
        data = [element for row in data for element in row] if all(len(row) == shape.columns for row in data) else []
    if len(data) != shape.elements:
        raise Refused(Reason.DIMENSION_MISMATCH, f"its elements do not fill the shape {sizes}", f"{where}.data")
    _check_elements(data, datatype, f"{where}.data")
    return Tensor(name, datatype, shape, data, f"{where}.data")


def _check_elements(data: Sequence[object], datatype: str, where: str) -> None:
    kinds: set[type] = {str} if datatype == BYTES else {int} if datatype in INTEGERS else {int, float}
    if not kinds.issuperset(map(type, data)):
        wanted = "texts" if datatype == BYTES else "whole numbers" if datatype in INTEGERS else "numbers"
        raise Refused(Reason.FEATURE_TYPE, f"elements of {datatype} must be {wanted}", where)
