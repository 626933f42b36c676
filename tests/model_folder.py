"""A model folder with a feature of every kind, its towers small enough to be recomputed by numpy in a test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from twotower_server.features.schema import Schema, TowerSchema
from twotower_server.release.format import Similarity

DIMENSION = 8
CATEGORIES = ("books", "film", "music", "sport")

SCHEMA: dict[str, Any] = {
    "format": 1,
    # The user tower reads raw numbers, NaN where missing: transforms live in its graph.
    "user": {
        "transforms": "graph",
        "features": [
            {"name": "user_age", "kind": "numeric", "missing": {"rule": "mean", "value": 38.0}},
            {"name": "user_ctr", "kind": "numeric", "missing": {"rule": "constant", "value": 0.05}},
            {"name": "user_hour", "kind": "numeric", "missing": {"rule": "constant", "value": 12.0}},
            {
                "name": "user_gender",
                "kind": "categorical",
                "vocabulary": ["f", "m", "1"],
                "missing": {"rule": "marker"},
            },
            {"name": "user_city", "kind": "categorical", "buckets": 16, "missing": {"rule": "marker"}},
            {
                "name": "user_tags",
                "kind": "multi_value",
                "buckets": 32,
                "max_length": 4,
                "missing": {"rule": "marker"},
            },
            {
                "name": "user_recent_clicks",
                "kind": "sequence",
                "buckets": 64,
                "max_length": 5,
                "missing": {"rule": "marker"},
            },
            {
                "name": "user_interest_*",
                "kind": "weighted_bag",
                "buckets": 64,
                "max_length": 6,
                "missing": {"rule": "marker"},
            },
            {
                "name": "scene_page",
                "kind": "categorical",
                "vocabulary": ["home", "cart"],
                "missing": {"rule": "constant", "value": "home"},
            },
        ],
    },
    # The item tower reads what the server has transformed.
    "item": {
        "transforms": "server",
        "features": [
            {
                "name": "item_price",
                "kind": "numeric",
                "transform": {"type": "log1p"},
                "clip": [0, 10_000],
                "missing": {"rule": "marker"},
            },
            {
                "name": "item_ctr",
                "kind": "numeric",
                "transform": {"type": "standardize", "mean": 0.05, "std": 0.02},
                "missing": {"rule": "mean", "value": 0.05},
            },
            {
                "name": "item_age_days",
                "kind": "numeric",
                "transform": {"type": "min_max", "min": 0.0, "max": 365.0},
                "missing": {"rule": "constant", "value": 30.0},
            },
            {
                "name": "item_category",
                "kind": "categorical",
                "vocabulary": [*CATEGORIES, "1"],
                "missing": {"rule": "marker"},
            },
            {
                "name": "item_tags",
                "kind": "multi_value",
                "buckets": 32,
                "max_length": 4,
                "missing": {"rule": "marker"},
            },
        ],
    },
}


def write_model(
    folder: Path,
    *,
    similarity: Similarity = "dot",
    scale: float = 2.0,
    bias: float = -0.5,
    seed: int = 1,
    dimension: int = DIMENSION,
    schema: dict[str, Any] = SCHEMA,
    users: int = 60,
) -> Path:
    """Writes a whole model folder, with `users` held-back users (0 = none). Another seed gives other towers."""
    folder.mkdir(parents=True)
    checked = Schema.from_json(schema)
    checked.dump(folder / "schema.json")
    write_tower(folder / "user_tower.onnx", checked.user, dimension, seed)
    write_tower(folder / "item_tower.onnx", checked.item, dimension, seed + 1000)
    about = {
        "format": 1,
        "dimension": dimension,
        "similarity": similarity,
        "calibration": {"scale": scale, "bias": bias},
        "training": {"seed": seed},
    }
    (folder / "model.json").write_text(json.dumps(about), "utf-8")
    if users:
        pq.write_table(user_table(users), folder / "users.parquet")
    return folder


def write_tower(path: Path, schema: TowerSchema, dimension: int, seed: int) -> None:
    """embedding = numeric @ W + the mean of each list's embeddings (of a bag: their weighted sum).

    Padding embeds to zero. In a graph schema a missing number becomes the constant or mean of its rule.
    """
    random = np.random.default_rng(seed)
    nodes: list[Any] = []
    constants: list[Any] = []
    inputs: list[Any] = []
    parts: list[str] = []

    def constant(name: str, value: NDArray[Any]) -> str:
        constants.append(numpy_helper.from_array(value, name))
        return name

    def node(kind: str, operands: list[str], result: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, operands, [result], **attributes))
        return result

    def columns(source: str, start: int, width: int, name: str) -> str:
        places = [constant(f"{name}_{end}", np.array([at])) for end, at in (("from", start), ("to", start + width))]
        return node("Slice", [source, *places, "axis_1"], name)

    constant("axis_1", np.array([1]))
    if schema.numeric_width:
        inputs.append(helper.make_tensor_value_info("numeric", TensorProto.FLOAT, ["batch", schema.numeric_width]))
        numbers = "numeric"
        if schema.transforms == "graph":
            fill = np.array([[float(f.missing.value or 0.0) for f in schema.numeric]], np.float32)  # type: ignore[arg-type]
            missing = node("IsNaN", ["numeric"], "missing")
            numbers = node("Where", [missing, constant("fill", fill), "numeric"], "filled")
        scale = 0.02 if schema.transforms == "graph" else 0.3
        weights = (scale * random.normal(size=(schema.numeric_width, dimension))).astype(np.float32)
        parts.append(node("MatMul", [numbers, constant("weights_numeric", weights)], "part_numeric"))
    if schema.ids_width:
        inputs.append(helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", schema.ids_width]))
    if schema.weights_width:
        inputs.append(helper.make_tensor_value_info("weights", TensorProto.FLOAT, ["batch", schema.weights_width]))
    start = weights_start = 0
    for i, feature in enumerate(schema.categorical):
        table = random.normal(size=(feature.table_rows, dimension)).astype(np.float32)
        table[0] = 0.0
        ids = columns("ids", start, feature.width, f"ids_{i}")
        rows = node("Gather", [constant(f"table_{i}", table), ids], f"rows_{i}", axis=0)
        start += feature.width
        if feature.wildcard:
            shares = columns("weights", weights_start, feature.width, f"shares_{i}")
            weights_start += feature.width
            spread = node("Unsqueeze", [shares, constant(f"axis_last_{i}", np.array([2]))], f"spread_{i}")
            rows = node("Mul", [rows, spread], f"weighted_{i}")
            parts.append(node("ReduceSum", [rows, "axis_1"], f"part_{i}", keepdims=0))
            continue
        summed = node("ReduceSum", [rows, "axis_1"], f"sum_{i}", keepdims=0)
        zero = constant(f"zero_{i}", np.array(0))
        present = node("Cast", [node("Greater", [ids, zero], f"present_{i}")], f"counted_{i}", to=TensorProto.FLOAT)
        count = node("ReduceSum", [present, "axis_1"], f"count_{i}", keepdims=1)
        least = node("Max", [count, constant(f"one_{i}", np.array(1.0, np.float32))], f"least_{i}")
        parts.append(node("Div", [summed, least], f"part_{i}"))
    node("Sum", parts, "embedding")
    output = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", dimension])
    graph = helper.make_graph(nodes, "tower", inputs, [output], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def user_table(count: int, seed: int = 5) -> pa.Table:
    """Users with every feature, some of them missing."""
    random = np.random.default_rng(seed)
    lost = random.random(count) < 0.2
    return pa.table(
        {
            "user_id": [f"u{i}" for i in range(count)],
            "user_age": pa.array(random.integers(16, 80, count).astype(float), mask=lost),
            "user_ctr": np.round(random.random(count) * 0.1, 4),
            "user_hour": random.integers(0, 24, count).astype(float),
            "user_gender": random.choice(["f", "m"], count),
            "user_city": random.choice(["Berlin", "Paris", "Oslo"], count),
            "user_tags": [["a", "b"][: i % 3] for i in range(count)],
            "user_recent_clicks": [[f"i{j}" for j in random.integers(0, 300, i % 8)] for i in range(count)],
            "user_interest_sport": np.round(random.random(count), 2),
            "user_interest_film": np.round(random.random(count), 2),
        }
    )


def item_table(count: int, seed: int = 6) -> pa.Table:
    """Items with every feature, and columns that are attributes alone: title, in_stock."""
    random = np.random.default_rng(seed)
    lost = random.random(count) < 0.1
    return pa.table(
        {
            "item_id": [f"i{i}" for i in range(count)],
            "title": [f"Title {i}" for i in range(count)],
            "in_stock": random.random(count) < 0.8,
            "item_price": pa.array(np.round(np.exp(random.normal(3.0, 1.0, count)), 2), mask=lost),
            "item_ctr": np.round(random.random(count) * 0.1, 4),
            "item_age_days": random.integers(0, 365, count).astype(float),
            "item_category": random.choice(CATEGORIES, count),
            "item_tags": [[f"t{j}" for j in random.integers(0, 9, i % 4)] for i in range(count)],
        }
    )
