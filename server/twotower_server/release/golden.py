"""Golden samples: users and items with the vectors and scores that this release must give for them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twotower_server.errors import ReleaseRefused
from twotower_server.features.row import Row, Strings
from twotower_server.release.format import GOLDEN, read_json

GOLDEN_FORMAT = 1
SAMPLES = 64
# Another processor may sum in another order; another training differs in the first digit.
TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Golden:
    """n users and m items. user_vectors [n, d], item_vectors [m, d], scores [n, m]: float32."""

    users: Sequence[Row]
    user_vectors: NDArray[np.float32]
    item_ids: Sequence[str]
    items: Sequence[Row]
    item_vectors: NDArray[np.float32]
    scores: NDArray[np.float32]

    def dump(self, path: Path) -> None:
        data = {
            "format": GOLDEN_FORMAT,
            "users": [
                {**_row_to_json(row), "embedding": vector}
                for row, vector in zip(self.users, self.user_vectors.tolist(), strict=True)
            ],
            "items": [
                {"item_id": id, **_row_to_json(row), "embedding": vector}
                for id, row, vector in zip(self.item_ids, self.items, self.item_vectors.tolist(), strict=True)
            ],
            "scores": self.scores.tolist(),
        }
        path.write_text(json.dumps(data, ensure_ascii=False) + "\n", "utf-8")

    @classmethod
    def load(cls, path: Path) -> Golden:
        """Raises ReleaseRefused when the file is not of this form."""
        data = read_json(path)
        try:
            if data["format"] != GOLDEN_FORMAT:
                raise ReleaseRefused(f"{GOLDEN} has format {data['format']!r}, this server reads {GOLDEN_FORMAT}")
            users, items = data["users"], data["items"]
            golden = cls(
                [_row_from_json(user) for user in users],
                np.array([user["embedding"] for user in users], np.float32),
                [str(item["item_id"]) for item in items],
                [_row_from_json(item) for item in items],
                np.array([item["embedding"] for item in items], np.float32),
                np.array(data["scores"], np.float32),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ReleaseRefused(f"{GOLDEN} cannot be read: {type(error).__name__}: {error}") from None
        if not users or not items or golden.scores.shape != (len(users), len(items)):
            raise ReleaseRefused(f"{GOLDEN} needs users, items, and a score for each pair")
        return golden


def _row_to_json(row: Row) -> dict[str, Any]:
    return {
        "features": dict(row.features),
        "string_features": {name: list(strings.values) for name, strings in row.string_features.items()},
    }


def _row_from_json(data: Mapping[str, Any]) -> Row:
    return Row(
        {str(name): float(value) for name, value in data["features"].items()},
        {str(name): Strings([str(v) for v in values]) for name, values in data["string_features"].items()},
    )
