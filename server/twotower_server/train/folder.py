"""What a model folder holds besides the towers and the schema: how it was trained, and users to measure with."""

from __future__ import annotations

import datetime
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet
import torch

from twotower_server.features.row import Row
from twotower_server.features.schema import TowerSchema
from twotower_server.release.calibration import Calibration
from twotower_server.release.model import MODEL_FORMAT
from twotower_server.train.config import TrainConfig
from twotower_server.train.prepare import Prepared

# Held-back users that go into the model folder: golden samples and the index are measured on them.
MAX_SAMPLE_USERS = 500


@dataclass(frozen=True, slots=True)
class Metrics:
    """Measured on the test users, whom neither the weights nor the stopping have seen.

    recall, popularity_recall: by K, of the model and of showing everybody the most popular items.
    validation_recall: of the validation users, at training.stopping_k.
    parity: the largest difference of an element between PyTorch and ONNX, see check_parity.
    """

    test_users: int
    recall: Mapping[str, float]
    popularity_recall: Mapping[str, float]
    validation_recall: float
    parity: float


def write_users(data: Prepared, path: Path) -> None:
    """A feature table of test users, as they were before the interaction that was held back."""
    count = min(MAX_SAMPLE_USERS, len(data.test_rows))
    targets = data.interactions.items[data.test.which[:count]].tolist()
    columns = {
        "user_id": pa.array(data.test_user_ids[:count], pa.string()),
        **_feature_columns(data.schema.user, data.test_rows[:count]),
        "held_back_item_id": pa.array([data.items.ids[i] for i in targets], pa.string()),
    }
    pyarrow.parquet.write_table(pa.table(columns), path)


def _feature_columns(schema: TowerSchema, rows: Sequence[Row]) -> dict[str, pa.Array]:
    """Rows as the columns of a feature table (features/table.py), by feature name."""
    numeric = {f.name for f in schema.numeric}
    columns: dict[str, pa.Array] = {}
    for feature in schema.features:
        name = feature.name
        if feature.kind == "numeric":
            columns[name] = pa.array([row.features.get(name) for row in rows], pa.float64())
        elif feature.wildcard:
            stem = name[:-1]
            bags = [
                [(k[len(stem) :], v) for k, v in row.features.items() if k.startswith(stem) and k not in numeric]
                for row in rows
            ]
            columns[name] = pa.array([bag or None for bag in bags], pa.map_(pa.string(), pa.float64()))
        else:
            found = [row.string_features.get(name) for row in rows]
            if feature.kind == "categorical":
                columns[name] = pa.array([None if s is None else s.values[0] for s in found], pa.string())
            else:
                columns[name] = pa.array([None if s is None else list(s.values) for s in found], pa.list_(pa.string()))
    return columns


def write_model(
    config: TrainConfig,
    data: Prepared,
    calibration: Calibration,
    metrics: Metrics,
    epochs: tuple[int, int],
    path: Path,
) -> None:
    """Writes model.json: what a release needs to know, and how the model came about. epochs: those run, the best."""
    body: dict[str, Any] = {
        "format": MODEL_FORMAT,
        "dimension": config.model.dimension,
        "similarity": config.model.similarity,
        "calibration": calibration.to_json(),
        **data.mapping.to_json(),
        "training": {
            "data": {
                "interactions": config.data.interactions.name,
                "items": config.data.items.name,
                "users": None if config.data.users is None else config.data.users.name,
                "interactions_count": len(data.interactions.items),
                "items_count": len(data.items.ids),
                "users_count": len(data.interactions.offsets) - 1,
                "examples_count": len(data.train.which),
            },
            "model": asdict(config.model),
            "training": asdict(config.training),
            "epochs": epochs[0],
            "best_epoch": epochs[1],
            "metrics": asdict(metrics),
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "onnx": onnx.__version__,
                "numpy": np.__version__,
            },
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        },
    }
    path.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", "utf-8")
