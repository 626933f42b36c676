"""Graphs that name other files or operators of others are refused before ONNX Runtime reads them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from twotower_server.errors import ReleaseRefused
from twotower_server.towers import graph
from twotower_server.towers.graph import check_graph

DEMO = Path(graph.__file__).parents[1] / "demo" / "model"
OPSET = helper.make_opsetid("", 17)
WEIGHTS = numpy_helper.from_array(np.ones((4, 8), np.float32), "w")
MULTIPLY = helper.make_node("MatMul", ["x", "w"], ["y"])


def model(*nodes: Any, tensors: Any = (WEIGHTS,), sparse: Any = (), **options: Any) -> Any:
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 4])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 8])]
    made = helper.make_graph(nodes or [MULTIPLY], "g", inputs, outputs, [*tensors], sparse_initializer=[*sparse])
    return helper.make_model(made, opset_imports=options.pop("opset_imports", [OPSET]), **options)


def outside(location: str = "w.bin") -> Any:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4, 8], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def node_in(domain: str) -> Any:
    return helper.make_node("Any", ["x", "w"], ["y"], domain=domain)


def if_node(tensor: Any) -> Any:
    """A constant, deep inside: in the branch of a condition in the branch of a condition."""
    branch = helper.make_graph([helper.make_node("Constant", [], ["z"], value=tensor)], "inner", [], [])
    for _ in range(3):
        node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
        branch = helper.make_graph([node], "outer", [], [])
    return node


def function(*nodes: Any, domain: str = "own") -> Any:
    return helper.make_function(domain, "Any", ["x", "w"], ["y"], [*nodes], [OPSET])


def sparse(tensor: Any) -> Any:
    return helper.make_sparse_tensor(tensor, numpy_helper.from_array(np.array([0], np.int64)), [4])


EXTERNAL = [
    model(tensors=[outside()]),
    model(tensors=[outside("../w.bin")]),
    model(tensors=[outside("/etc/passwd")]),
    model(tensors=[outside("*/_ORT_MEM_ADDR_/*")]),
    model(sparse=[sparse(outside())]),
    model(helper.make_node("Constant", [], ["w"], value=outside())),
    model(helper.make_node("Constant", [], ["w"], sparse_value=sparse(outside()))),
    model(if_node(outside())),
    model(functions=[function(helper.make_node("Constant", [], ["y"], value=outside()))]),
]
FOREIGN = [
    model(node_in("com.evil")),
    model(node_in("ai.onnx.training")),
    model(node_in("org.pytorch.aten")),
    model(helper.make_node("If", ["c"], ["y"], then_branch=model(node_in("com.evil")).graph)),
    model(functions=[function(node_in("com.evil"))]),
]


@pytest.mark.parametrize("broken", EXTERNAL, ids=range(len(EXTERNAL)))
def test_tensors_in_other_files_are_refused_wherever_they_stand(broken: Any) -> None:
    with pytest.raises(ReleaseRefused, match=r"^user_tower.onnx keeps tensors in another file"):
        check_graph(broken.SerializeToString(), "user_tower.onnx")


@pytest.mark.parametrize("broken", FOREIGN, ids=range(len(FOREIGN)))
def test_operators_of_others_are_refused_wherever_they_stand(broken: Any) -> None:
    with pytest.raises(ReleaseRefused, match=r"uses an operator of the domain '.*'; known are those of ai.onnx, "):
        check_graph(broken.SerializeToString(), "user_tower.onnx")


def test_data_that_only_says_that_it_is_elsewhere_is_refused() -> None:
    tensor = numpy_helper.from_array(np.ones((4, 8), np.float32), "w")
    tensor.external_data.add(key="location", value="w.bin")
    for changed in (tensor, TensorProto(name="w", data_location=TensorProto.EXTERNAL)):
        with pytest.raises(ReleaseRefused, match="another file"):
            check_graph(model(tensors=[changed]).SerializeToString(), "g")


def test_a_message_in_two_parts_is_read_as_protobuf_reads_it() -> None:
    """Protobuf merges a field that comes twice: what is dangerous may stand in either."""
    content = model().SerializeToString() + model(tensors=[outside()]).SerializeToString()
    assert onnx.load_model_from_string(content).graph.initializer[1].data_location == TensorProto.EXTERNAL
    with pytest.raises(ReleaseRefused, match="another file"):
        check_graph(content, "g")


@pytest.mark.parametrize("path", sorted(DEMO.glob("*.onnx")), ids=lambda path: path.name)
def test_graphs_of_training_are_taken(path: Path) -> None:
    check_graph(path.read_bytes(), path.name)


def test_what_a_graph_defines_itself_is_taken() -> None:
    own = model(node_in("own"), functions=[function(MULTIPLY)], opset_imports=[OPSET, helper.make_opsetid("own", 1)])
    check_graph(own.SerializeToString(), "g")
    fused = helper.make_node("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft")
    check_graph(model(fused, helper.make_node("Scaler", ["x"], ["z"], domain="ai.onnx.ml")).SerializeToString(), "g")


def test_bytes_that_are_no_message_are_refused() -> None:
    whole = model(if_node(WEIGHTS)).SerializeToString()
    for end in range(1, len(whole), 3):
        try:
            check_graph(whole[:end], "g")
        except ReleaseRefused as error:
            assert str(error) == "g cannot be opened as an ONNX graph: it is no protobuf message"
    random = np.random.default_rng(1)
    for _ in range(2_000):
        content = bytearray(whole)
        for place in random.integers(len(content), size=4):
            content[place] = random.integers(256)
        with suppress(ReleaseRefused):
            check_graph(bytes(content), "g")


def test_nesting_without_end_is_refused() -> None:
    content = b""
    for _ in range(100):  # a graph in an attribute of a node of a graph
        for tag in (0x32, 0x2A, 0x0A):
            content = bytes([tag]) + _varint(len(content)) + content
    with pytest.raises(ReleaseRefused, match="nested more than 64 deep"):
        check_graph(b"\x3a" + _varint(len(content)) + content, "g")


def test_every_way_to_a_tensor_and_an_operator_is_looked_at() -> None:
    """By ONNX's own description of its messages: a field that a later version adds fails here."""
    wanted: dict[str, dict[int, str]] = {}

    def leads(message: Any, seen: frozenset[str] = frozenset()) -> bool:
        """Whether a message is, or can hold, a tensor or an operator."""
        if message.name in ("TensorProto", "NodeProto"):
            return True
        inner = [field.message_type for field in message.fields if field.message_type is not None]
        return any(leads(held, seen | {message.name}) for held in inner if held.name not in seen)

    def visit(message: Any) -> None:
        if message.name in wanted:
            return
        held = {f.number: f.message_type for f in message.fields if f.message_type and leads(f.message_type)}
        wanted[message.name] = {number: inner.name for number, inner in held.items()}
        for inner in held.values():
            visit(inner)

    visit(onnx.ModelProto.DESCRIPTOR)
    names = {"Training": "TrainingInfoProto", "SparseTensor": "SparseTensorProto"}
    names |= {kind: f"{kind}Proto" for kind in graph._HELD if kind not in names}
    assert {names[kind]: {n: names[k] for n, k in held.items()} for kind, held in graph._HELD.items()} == wanted
    tensor, node = onnx.TensorProto.DESCRIPTOR.fields_by_name, onnx.NodeProto.DESCRIPTOR.fields_by_name
    assert (tensor["external_data"].number, tensor["data_location"].number, node["domain"].number) == (13, 14, 7)
    functions = onnx.ModelProto.DESCRIPTOR.fields_by_name["functions"]
    assert (functions.number, functions.message_type.fields_by_name["domain"].number) == (25, 10)


def _varint(value: int) -> bytes:
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])
