"""Releases whose vectors are orthogonal: any mix of two of them has the similarity 0, which none has by itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pyarrow.parquet as pq
from onnx import helper, numpy_helper

from tests.model_folder import item_table, write_model
from twotower_server.items.attribute import AttributeSpec
from twotower_server.release.build import Recipe, build_release

_ATTRIBUTES = (AttributeSpec("title"), AttributeSpec("in_stock"))
# Each release has these many coordinates for itself, in a space that all share.
OWN = 4


def build_orthogonal(name: str, place: int, releases: Path, *, places: int = 2, items: int = 200) -> Path:
    """Builds the release `name`: `places * OWN` dimensions, of which all but those of `place` are always 0.

    Every item has the release's name in its title.
    """
    folder = releases.parent / f"source-{name}"
    model = write_model(folder / "model", dimension=OWN, seed=100 + place)
    for tower in ("user_tower.onnx", "item_tower.onnx"):
        _widen(model / tower, place, places)
    about = (model / "model.json").read_text().replace(f'"dimension": {OWN}', f'"dimension": {OWN * places}')
    (model / "model.json").write_text(about)
    table = item_table(items, seed=200 + place)
    titles = [f"{name} {i}" for i in range(items)]
    pq.write_table(table.set_column(table.schema.get_field_index("title"), "title", [titles]), folder / "items.parquet")
    return build_release(Recipe(name, model, folder / "items.parquet", attributes=_ATTRIBUTES), releases)


def _widen(path: Path, place: int, places: int) -> None:
    """Appends to a tower of OWN dimensions what moves them to their place among others."""
    model = onnx.load(path)
    graph = model.graph
    for node in graph.node:
        for i, output in enumerate(node.output):
            if output == "embedding":
                node.output[i] = "narrow"
    spread = np.zeros((OWN, OWN * places), np.float32)
    spread[:, place * OWN : (place + 1) * OWN] = np.eye(OWN, dtype=np.float32)
    graph.initializer.append(numpy_helper.from_array(spread, "spread"))
    graph.node.append(helper.make_node("MatMul", ["narrow", "spread"], ["embedding"]))
    graph.output[0].type.tensor_type.shape.dim[1].dim_value = OWN * places
    onnx.save(model, path)
