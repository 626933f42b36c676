"""The benchmark's release: 32 numeric features of users, towers of 128-64-64, a catalog on an unclustered manifold.

Vectors of well-separated clusters flatter every index. Here an item is a point of a 16-dimensional normal
distribution, and both towers are fixed random networks: neighbours lie everywhere, as they do in real catalogs.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from twotower_server.errors import ReleaseRefused
from twotower_server.features.schema import Schema
from twotower_server.items.attribute import AttributeSpec
from twotower_server.release.build import Recipe, build_release
from twotower_server.release.format import Manifest
from twotower_server.release.progress import Progress

DIMENSION = 64
LATENT = 16
USER_FEATURES = tuple(f"user_f{i:02}" for i in range(2 * LATENT))
ITEM_FEATURES = tuple(f"item_f{i:02}" for i in range(LATENT))
USERS = 1_000
_LAYERS = (128, 64, DIMENSION)
_ROWS = 100_000


def ensure_release(folder: Path, items: int, progress: Progress) -> Path:
    """Builds `folder/releases/bench-<items>` where it is absent, makes it active, and returns `folder/releases`."""
    releases, name = folder / "releases", f"bench-{items}"
    try:
        Manifest.load(releases / name)
    except ReleaseRefused:  # absent, or of an older format
        shutil.rmtree(releases / name, ignore_errors=True)
        with tempfile.TemporaryDirectory() as work:
            table, model = Path(work, "items.parquet"), Path(work, "model")
            write_items(table, items)
            write_model(model)
            build_release(Recipe(name, model, table, attributes=[AttributeSpec("share", "number")]), releases, progress)
    (releases / "active").write_text(f"{name}\n")
    return releases


def users(count: int, seed: int = 7) -> list[dict[str, float]]:
    """Raw features of `count` users that the index was not tuned on."""
    values = _user_values(count, seed).round(4)
    return [dict(zip(USER_FEATURES, row, strict=True)) for row in values.tolist()]


def _user_values(count: int, seed: int) -> NDArray[np.float64]:
    latent = np.random.default_rng(seed).normal(size=(count, LATENT))
    mixing = np.random.default_rng(11).normal(size=(LATENT, len(USER_FEATURES))) / 4.0
    return latent @ mixing


def write_items(path: Path, count: int) -> None:
    """`share` is uniform in [0, 1): a filter `share < s` lets the share s of the catalog through."""
    random = np.random.default_rng(3)
    fields = [pa.field("item_id", pa.string()), pa.field("share", pa.float64())]
    schema = pa.schema([*fields, *(pa.field(name, pa.float64()) for name in ITEM_FEATURES)])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, count, _ROWS):
            rows = min(_ROWS, count - start)
            latent = random.normal(size=(rows, LATENT))
            ids = pa.array([f"item-{start + i}" for i in range(rows)])
            columns = [ids, pa.array(random.random(rows)), *(pa.array(column) for column in latent.T)]
            writer.write_batch(pa.record_batch(columns, schema=schema))


def write_model(folder: Path, user_layers: Sequence[int] = _LAYERS) -> None:
    """A model folder. user_layers: widths of the user tower's layers, the last of them DIMENSION."""
    folder.mkdir()
    sides = {"user": USER_FEATURES, "item": ITEM_FEATURES}
    features = {
        side: [{"name": name, "kind": "numeric", "missing": {"rule": "constant", "value": 0}} for name in names]
        for side, names in sides.items()
    }
    schema = {side: {"transforms": "graph", "features": listed} for side, listed in features.items()}
    Schema.from_json({"format": 1, **schema}).dump(folder / "schema.json")
    _write_tower(folder / "user_tower.onnx", len(USER_FEATURES), user_layers, seed=5)
    _write_tower(folder / "item_tower.onnx", len(ITEM_FEATURES), _LAYERS, seed=6)
    about = {"format": 1, "similarity": "cosine", "calibration": {"scale": 8.0, "bias": -2.0}}
    (folder / "model.json").write_text(json.dumps(about))
    values = _user_values(USERS, seed=9)
    columns = {name: values[:, i] for i, name in enumerate(USER_FEATURES)}
    pq.write_table(pa.table({"user_id": [f"u{i}" for i in range(USERS)], **columns}), folder / "users.parquet")


def _write_tower(path: Path, columns: int, layers: Sequence[int], seed: int) -> None:
    """Layers with tanh between them and random weights: float32 [n, columns] → [n, 64]; missing counts as 0."""
    random = np.random.default_rng(seed)
    constants = [numpy_helper.from_array(np.zeros(1, np.float32), "fill")]
    nodes = [
        helper.make_node("IsNaN", ["numeric"], ["missing"]),
        helper.make_node("Where", ["missing", "fill", "numeric"], ["filled"]),
    ]
    source = "filled"
    width = columns
    for i, wide in enumerate(layers):
        weights = random.normal(size=(width, wide)) * (1.2 / np.sqrt(width))
        constants += [
            numpy_helper.from_array(weights.astype(np.float32), f"weights_{i}"),
            numpy_helper.from_array((0.3 * random.normal(size=wide)).astype(np.float32), f"bias_{i}"),
        ]
        last = i == len(layers) - 1
        result = "embedding" if last else f"layer_{i}"
        nodes.append(helper.make_node("Gemm", [source, f"weights_{i}", f"bias_{i}"], [result]))
        if not last:
            nodes.append(helper.make_node("Tanh", [result], [f"active_{i}"]))
            source = f"active_{i}"
        width = wide
    graph = helper.make_graph(
        nodes,
        "tower",
        [helper.make_tensor_value_info("numeric", TensorProto.FLOAT, ["batch", columns])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", DIMENSION])],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
