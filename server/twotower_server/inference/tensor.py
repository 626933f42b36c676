"""Tensors of the Open Inference Protocol (KServe V2) → instances.

one input `features`, BYTES       each element is an instance: a map, as JSON
one numeric input [n, columns]    each row is an instance
inputs named by features          [n] or [n, k] each: every instance has one value, or a list of k, of each

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from twotower_server.engine.limits import Limits
from twotower_server.errors import Reason, Refused
from twotower_server.inference.instance import Instances, Maps, Rows
from twotower_server.inference.model import Model

FEATURES = "features"

BYTES = "BYTES"
INTEGERS = frozenset(("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"))
FLOATS = frozenset(("FP16", "FP32", "FP64"))

# Elements that are read between two looks at the event loop, in about half a millisecond.
ELEMENTS_A_TURN = 4_096
_MAPS_A_TURN = 256


@dataclass(frozen=True, slots=True)
class Shape:
    """rows: one an instance. columns: what each has of it. dimensions: 1 or 2, as it was sent."""

    rows: int
    columns: int
    dimensions: int

    @property
    def elements(self) -> int:
        return self.rows * self.columns


@dataclass(frozen=True, slots=True)
class Tensor:
    """data: numbers or texts, in row-major order, as many as the shape has. where: they stand in the request."""

    name: str
    datatype: str
    shape: Shape
    data: Sequence[object]
    where: str

    def values(self) -> Sequence[object]:
        """What each instance has: one element, or a list of them."""
        return self.data if self.shape.columns == 1 else self.lists()

    def lists(self) -> list[Sequence[object]]:
        columns = self.shape.columns
        return [self.data[start : start + columns] for start in range(0, len(self.data), columns)]


def check_datatype(datatype: object, where: str) -> str:
    """The datatype. Raises FEATURE_TYPE for one that no feature has."""
    if isinstance(datatype, str) and (datatype in INTEGERS or datatype in FLOATS or datatype == BYTES):
        return datatype
    raise Refused(
        Reason.FEATURE_TYPE, "must be BYTES, FP16, FP32, FP64, or INT or UINT with 8, 16, 32 or 64", f"{where}.datatype"
    )


def check_shape(sizes: Sequence[object], model: Model, limits: Limits, where: str) -> Shape:
    """Reads the shape of an input before anything is made of its size. Raises DIMENSION_MISMATCH, LIMIT_EXCEEDED."""
    if len(sizes) not in (1, 2) or not all(type(size) is int and size > 0 for size in sizes):
        raise Refused(
            Reason.DIMENSION_MISMATCH, "must be [instances] or [instances, columns], 1 or more each", f"{where}.shape"
        )
    rows, columns, *_ = *sizes, 1
    assert isinstance(rows, int) and isinstance(columns, int)
    limits.check(model.limit, rows, f"{where}.shape")
    limits.check("features", columns, f"{where}.shape")
    return Shape(rows, columns, len(sizes))


async def instances_of(tensors: Sequence[Tensor]) -> Instances:
    """What the inputs of a call say together."""
    first = tensors[0]
    if len(tensors) == 1 and first.shape.dimensions == 2 and first.datatype != BYTES:
        return Rows(first.lists())
    maps: list[dict[str, object]] = [{} for _ in range(first.shape.rows)]
    done = 0
    for i, tensor in enumerate(tensors):
        if tensor.shape.rows != first.shape.rows:
            raise Refused(
                Reason.DIMENSION_MISMATCH,
                f"{tensor.shape.rows} instances, inputs[0] has {first.shape.rows}",
                f"inputs[{i}].shape",
            )
        whole = tensor.name == FEATURES and tensor.datatype == BYTES
        turn = _MAPS_A_TURN if whole else ELEMENTS_A_TURN
        for row, value in enumerate(tensor.values()):
            done += 1
            if done % turn == 0:
                await asyncio.sleep(0)
            more = _map(value, f"{tensor.where}[{row}]") if whole else {tensor.name: value}
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
