"""A model folder: what training hands over, and `release build` turns into a release."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twotower_server.errors import ReleaseRefused
from twotower_server.features.columns import ColumnMapping
from twotower_server.features.schema import Schema
from twotower_server.release.calibration import Calibration
from twotower_server.release.format import ITEM_TOWER, SCHEMA, USER_TOWER, Similarity, parse_similarity, read_json
from twotower_server.towers.tower import Tower

MODEL = "model.json"
USERS = "users.parquet"
MODEL_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Model:
    """Schema, towers and what training says of them.

    item_columns: how columns of the item table become features. users: a table of held-back users, None if absent.
    """

    folder: Path
    schema: Schema
    user_tower: Tower
    item_tower: Tower
    similarity: Similarity
    calibration: Calibration
    training: Mapping[str, Any]
    item_columns: ColumnMapping
    users: Path | None

    @property
    def dimension(self) -> int:
        return self.item_tower.dimension

    @classmethod
    def open(cls, folder: Path, *, threads: int = 1) -> Model:
        """Opens and checks a model folder. threads: for the towers' graphs. Raises ReleaseRefused."""
        if not folder.is_dir():
            raise ReleaseRefused(f"{folder} is not a folder; `twotower train --out` writes one")
        data = _read(folder / MODEL)
        similarity = parse_similarity(data.get("similarity"), MODEL)
        schema = Schema.load(folder / SCHEMA)
        user_tower = Tower(folder / USER_TOWER, schema.user, threads=threads)
        item_tower = Tower(folder / ITEM_TOWER, schema.item, threads=threads)
        if user_tower.dimension != item_tower.dimension:
            raise ReleaseRefused(
                f"{USER_TOWER} gives {user_tower.dimension} dimensions, {ITEM_TOWER} {item_tower.dimension}"
            )
        training = data.get("training", {})
        if not isinstance(training, dict):
            raise ReleaseRefused(f"{MODEL}.training must be an object")
        return cls(
            folder,
            schema,
            user_tower,
            item_tower,
            similarity,
            Calibration.from_json(data.get("calibration", Calibration().to_json()), MODEL),
            training,
            ColumnMapping.from_json(data),
            folder / USERS if (folder / USERS).exists() else None,
        )


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ReleaseRefused(f"{path.parent} has no {path.name}; `twotower train --out` writes it")
    data = read_json(path)
    if not isinstance(data, dict) or data.get("format") != MODEL_FORMAT:
        raise ReleaseRefused(f"{path.name} is not of format {MODEL_FORMAT}")
    return data
