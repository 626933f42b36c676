"""Graphs that do not fit their schema, made from one that does, and what is said of each."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Change = Callable[[Path], None]


def _edit(change: Callable[[Any], None]) -> Change:
    @functools.wraps(change)
    def edit(path: Path) -> None:
        model = onnx.load(path)
        change(model.graph)
        onnx.save(model, path)

    return edit


def _input(graph: Any, name: str) -> Any:
    return next(value for value in graph.input if value.name == name)


def _before(graph: Any, name: str, node: Any) -> None:
    """Puts a node between the input `name`, now its operand, and everybody who reads it."""
    for reader in graph.node:
        for i, operand in enumerate(reader.input):
            if operand == name:
                reader.input[i] = node.output[0]
    graph.node.insert(0, node)


def _after(graph: Any, *nodes: Any, shape: list[int | str], type: int = TensorProto.FLOAT) -> None:
    """Appends nodes between `inner`, as the embedding is then called, and the output `embedding`."""
    for node in graph.node:
        if node.output[0] == "embedding":
            node.output[0] = "inner"
    graph.node.extend(nodes)
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("embedding", type, shape))


def _constant(graph: Any, name: str, array: NDArray[Any]) -> str:
    graph.initializer.append(numpy_helper.from_array(array, name))
    return name


@_edit
def rename_input(graph: Any) -> None:
    _before(graph, "ids", helper.make_node("Identity", ["values"], ["ids_inner"]))
    _input(graph, "ids").name = "values"


@_edit
def lose_input(graph: Any) -> None:
    """Reads the numbers as if they were part of the graph."""
    numeric = _input(graph, "numeric")
    width = numeric.type.tensor_type.shape.dim[1].dim_value
    graph.input.remove(numeric)
    _constant(graph, "numeric", np.zeros((1, width), np.float32))


@_edit
def widen_ids(graph: Any) -> None:
    _input(graph, "ids").type.tensor_type.shape.dim[1].dim_value += 3


@_edit
def flatten_ids(graph: Any) -> None:
    _before(
        graph, "ids", helper.make_node("Unsqueeze", ["ids", _constant(graph, "axis_0", np.array([0]))], ["ids_inner"])
    )
    del _input(graph, "ids").type.tensor_type.shape.dim[0]


@_edit
def fix_batch(graph: Any) -> None:
    _input(graph, "ids").type.tensor_type.shape.dim[0].dim_value = 1


@_edit
def float_ids(graph: Any) -> None:
    _before(graph, "ids", helper.make_node("Cast", ["ids"], ["ids_inner"], to=TensorProto.INT64))
    _input(graph, "ids").type.tensor_type.elem_type = TensorProto.FLOAT


@_edit
def rename_output(graph: Any) -> None:
    graph.node.append(helper.make_node("Identity", ["embedding"], ["vector"]))
    graph.output[0].name = "vector"


@_edit
def double_output(graph: Any) -> None:
    cast = helper.make_node("Cast", ["inner"], ["embedding"], to=TensorProto.DOUBLE)
    _after(graph, cast, shape=["batch", 8], type=TensorProto.DOUBLE)


@_edit
def flat_output(graph: Any) -> None:
    total = helper.make_node("ReduceSum", ["inner", "axis_1"], ["embedding"], keepdims=0)
    _after(graph, total, shape=["batch"])


@_edit
def average_batch(graph: Any) -> None:
    mean = helper.make_node("ReduceMean", ["inner"], ["embedding"], axes=[0], keepdims=1)
    _after(graph, mean, shape=["batch", 8])


@_edit
def widen_output(graph: Any) -> None:
    twice = helper.make_node("Concat", ["inner", "inner"], ["embedding"], axis=1)
    _after(graph, twice, shape=["batch", 16])


@_edit
def cut_table(graph: Any) -> None:
    """An embedding table that lacks the rows of the last ids of the schema."""
    table = max((one for one in graph.initializer if one.name.startswith("table_")), key=lambda one: int(one.dims[0]))
    rows = numpy_helper.to_array(table)[:-1]
    table.CopyFrom(numpy_helper.from_array(rows, table.name))


@_edit
def point_outside(graph: Any) -> None:
    """Weights that lie in another file, as ONNX allows."""
    weights = next(one for one in graph.initializer if one.name == "weights_numeric")
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    entry = weights.external_data.add()
    entry.key, entry.value = "location", "../../../etc/passwd"


def multiply_output(path: Path, factor: float) -> None:
    """A graph that fits, with vectors `factor` times as long."""

    def change(graph: Any) -> None:
        times = _constant(graph, "times", np.array(factor, np.float32))
        _after(graph, helper.make_node("Mul", ["inner", times], ["embedding"]), shape=["batch", 8])

    _edit(change)(path)


def replace_by_text(path: Path) -> None:
    path.write_text("no graph")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


BROKEN: list[tuple[Change, str]] = [
    (replace_by_text, "cannot be opened as an ONNX graph"),
    (truncate, "cannot be opened as an ONNX graph"),
    (empty, "cannot be opened as an ONNX graph"),
    (point_outside, "cannot be opened as an ONNX graph"),
    (rename_input, r"has inputs \['numeric', 'values'(, 'weights')?\], the \w+ schema gives \['ids', 'numeric'"),
    (lose_input, r"has inputs \['ids'(, 'weights')?\], the \w+ schema gives \['ids', 'numeric'"),
    (widen_ids, r"input ids has \d+ columns, the \w+ schema gives \d+"),
    (flatten_ids, r"input ids has shape \[\d+\], not \[batch, \d+\]"),
    (fix_batch, r"input ids has shape \[1, \d+\], not \[batch, \d+\]"),
    (float_ids, r"input ids is tensor\(float\), not tensor\(int64\)"),
    (rename_output, r"has no output named embedding, but \['vector'\]"),
    (double_output, r"output embedding is tensor\(double\) \['batch', 8\], not float32 \[batch, D\]"),
    (flat_output, r"output embedding is tensor\(float\) \['batch'\], not float32 \[batch, D\]"),
    (average_batch, r"output embedding has shape \(1, 8\) for two rows"),
    (widen_output, "16"),
    (cut_table, "fails on a row of zeros or of the greatest ids"),
]
