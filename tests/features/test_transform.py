"""Numeric transforms on the server, against a plain computation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from twotower_server.features.encode import Encoder
from twotower_server.features.row import Row
from twotower_server.features.schema import TowerSchema

FEATURES = [
    {"name": "user_a", "kind": "numeric", "missing": {"rule": "constant", "value": 7}},
    {
        "name": "user_b",
        "kind": "numeric",
        "transform": {"type": "standardize", "mean": 10, "std": 4},
        "missing": {"rule": "mean", "value": 10},
    },
    {
        "name": "user_c",
        "kind": "numeric",
        "transform": {"type": "min_max", "min": 5, "max": 25},
        "clip": [5, None],
        "missing": {"rule": "marker"},
    },
    {
        "name": "user_d",
        "kind": "numeric",
        "transform": {"type": "log1p"},
        "clip": [None, 100],
        "missing": {"rule": "marker"},
    },
]


def encode(**features: float) -> list[float]:
    encoder = Encoder(TowerSchema.from_json("user", {"transforms": "server", "features": FEATURES}))
    array = encoder.encode_one(Row(features)).numeric
    assert array is not None
    assert array.dtype == np.float32
    return list(array[0].tolist())


@pytest.mark.parametrize(
    ("features", "wanted"),
    [
        ({"user_a": 3, "user_b": 18, "user_c": 15, "user_d": 9}, [3, 2, 0.5, math.log(10), 0, 0]),
        ({"user_a": 3}, [3, 0, 0, 0, 1, 1]),
        ({"user_b": 10}, [7, 0, 0, 0, 1, 1]),
        ({"user_c": -5, "user_d": 1e9}, [7, 0, 0, math.log(101), 0, 0]),
        ({"user_d": -3}, [7, 0, 0, 0, 1, 0]),
    ],
)
def test_transforms(features: dict[str, float], wanted: list[float]) -> None:
    assert encode(**features) == pytest.approx(wanted, rel=1e-6)


def test_large_offsets_keep_their_digits() -> None:
    """Seconds since 1970 do not fit float32; the transform happens before the cast."""
    feature = {
        "name": "user_t",
        "kind": "numeric",
        "transform": {"type": "standardize", "mean": 1_700_000_000, "std": 10},
        "missing": {"rule": "constant", "value": 0},
    }
    encoder = Encoder(TowerSchema.from_json("user", {"transforms": "server", "features": [feature]}))
    array = encoder.encode_one(Row({"user_t": 1_700_000_005})).numeric
    assert array is not None
    assert array[0, 0] == pytest.approx(0.5)
