"""What a graph may not hold, found in its bytes before ONNX Runtime reads them.

ONNX Runtime reads tensors from other files where a graph says so, also when it was given bytes: then from the working
folder (measured with 1.32; older ones read anywhere). And an operator may belong to a library that somebody loaded.

A graph is a protobuf message: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto. Only what leads to tensors and
operators is looked at; everything else is stepped over, so nothing that a graph declares is ever allocated.
"""

from __future__ import annotations

from collections.abc import Iterator

from twotower_server.errors import ReleaseRefused

# "" is ai.onnx; the last one holds ONNX Runtime's own operators, which quantised graphs use.
DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})

# Protobuf's own limit is 100.
_MAX_DEPTH = 64

# message → field number → message that it holds
_HELD = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {
        5: "Tensor",
        6: "Graph",
        10: "Tensor",
        11: "Graph",
        22: "SparseTensor",
        23: "SparseTensor",
    },
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
}
_MODEL_FUNCTIONS, _FUNCTION_DOMAIN, _NODE_DOMAIN = 25, 10, 7
_TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 13, 14


def check_graph(content: bytes, name: str) -> None:
    """Refuses a graph that names other files or operators of others.

    content: of the file `name`. Raises ReleaseRefused.
    """
    try:
        whole = memoryview(content)
        # What a graph defines itself, of known operators, is no library's.
        own = {
            _text(domain)
            for number, function in _fields(whole)
            if number == _MODEL_FUNCTIONS and isinstance(function, memoryview)
            for inner, domain in _fields(function)
            if inner == _FUNCTION_DOMAIN
        }
        _check(whole, "Model", DOMAINS | own, 0)
    except _Refused as error:
        raise ReleaseRefused(f"{name} {error}") from None
    except (IndexError, ValueError):
        raise ReleaseRefused(f"{name} cannot be opened as an ONNX graph: it is no protobuf message") from None


class _Refused(Exception):
    """The message says what of the graph."""


def _check(message: memoryview, kind: str, domains: frozenset[str], depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise _Refused(f"is nested more than {_MAX_DEPTH} deep")
    held = _HELD[kind]
    for number, value in _fields(message):
        if kind == "Tensor" and (number == _TENSOR_EXTERNAL_DATA or (number == _TENSOR_DATA_LOCATION and value)):
            raise _Refused("keeps tensors in another file; save it with all of its data inside")
        if kind == "Node" and number == _NODE_DOMAIN and _text(value) not in domains:
            known = ", ".join(sorted(filter(None, DOMAINS)))
            raise _Refused(f"uses an operator of the domain {_text(value)[:64]!r}; known are those of {known}")
        if number in held:
            if not isinstance(value, memoryview):
                raise ValueError("no message")
            _check(value, held[number], domains, depth + 1)


def _text(value: int | memoryview) -> str:
    if not isinstance(value, memoryview):
        raise ValueError("no text")
    return str(value, "utf-8")


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field; of those of fixed size the value is 0. Raises ValueError or IndexError."""
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        value: int | memoryview = 0
        match key & 7:
            case 0:
                value, at = _varint(message, at)
            case 1:
                at += 8
            case 2:
                size, at = _varint(message, at)
                value = message[at : at + size]
                at += size
            case 5:
                at += 4
            case _:  # groups, which ONNX has none of
                raise ValueError("no field")
        if at > end:
            raise ValueError("cut off")
        yield key >> 3, value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            # Protobuf drops what does not fit 64 bits.
            return value & (2**64 - 1), at
    raise ValueError("no number")
