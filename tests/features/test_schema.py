"""The schema: what it accepts, what it refuses, and when two schemas are the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from twotower_server.errors import ReleaseRefused
from twotower_server.features.schema import Schema, TowerSchema

NUMERIC = {"name": "user_age", "kind": "numeric", "missing": {"rule": "constant", "value": 0}}
CATEGORY = {
    "name": "user_gender",
    "kind": "categorical",
    "vocabulary": ["f", "m"],
    "missing": {"rule": "marker"},
}
SEQUENCE = {
    "name": "user_clicks",
    "kind": "sequence",
    "buckets": 10,
    "max_length": 4,
    "missing": {"rule": "constant", "value": []},
}
BAG = {
    "name": "user_interest_*",
    "kind": "weighted_bag",
    "buckets": 10,
    "max_length": 3,
    "missing": {"rule": "constant", "value": {}},
}


def tower(*features: dict[str, Any], transforms: str = "graph") -> TowerSchema:
    return TowerSchema.from_json("user", {"transforms": transforms, "features": list(features)})


def test_order_of_writing_does_not_matter() -> None:
    one, two = tower(NUMERIC, BAG, CATEGORY, SEQUENCE), tower(SEQUENCE, CATEGORY, NUMERIC, BAG)
    assert one == two
    assert one.fingerprint == two.fingerprint
    assert [f.name for f in one.features] == ["user_age", "user_clicks", "user_gender", "user_interest_*"]


def test_layout() -> None:
    schema = tower(NUMERIC, BAG, CATEGORY, SEQUENCE)
    assert (schema.numeric_width, schema.ids_width, schema.weights_width) == (1, 4 + 1 + 3, 3)
    marked = {**NUMERIC, "name": "user_b", "missing": {"rule": "marker"}}
    assert tower(NUMERIC, marked, transforms="server").numeric_width == 3
    assert tower(NUMERIC, marked, transforms="graph").numeric_width == 2


@pytest.mark.parametrize(
    "change",
    [
        {"transform": {"type": "log1p"}},
        {"clip": [0, 100]},
        {"missing": {"rule": "constant", "value": 1}},
        {"missing": {"rule": "marker"}},
        {"transform": {"type": "min_max", "min": 0.1, "max": 0.7}},
    ],
)
def test_fingerprint_changes_with_how_a_value_is_read(change: dict[str, Any]) -> None:
    assert tower(NUMERIC).fingerprint != tower({**NUMERIC, **change}).fingerprint


def test_fingerprint_is_the_same_in_every_version() -> None:
    """Clients keep fingerprints: a change of this number is a change of the contract."""
    assert f"{tower(NUMERIC, BAG, CATEGORY, SEQUENCE).fingerprint:016x}" == "e4644990ca3d7244"


def test_survives_a_file(tmp_path: Path) -> None:
    item = {**NUMERIC, "name": "item_price", "transform": {"type": "min_max", "min": 0.1, "max": 0.7}}
    schema = Schema(
        tower(NUMERIC, BAG, CATEGORY, SEQUENCE),
        TowerSchema.from_json("item", {"transforms": "server", "features": [item]}),
    )
    schema.dump(tmp_path / "schema.json")
    assert Schema.load(tmp_path / "schema.json") == schema


def test_an_edited_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    item = TowerSchema.from_json("item", {"transforms": "graph", "features": [{**NUMERIC, "name": "item_a"}]})
    Schema(tower(CATEGORY), item).dump(path)
    data = json.loads(path.read_text())
    data["user"]["features"][0]["vocabulary"] = ["m", "f"]
    path.write_text(json.dumps(data))
    with pytest.raises(ReleaseRefused, match="fingerprint"):
        Schema.load(path)


@pytest.mark.parametrize(
    ("feature", "reason"),
    [
        ({**NUMERIC, "name": "age"}, "must begin with user_"),
        ({**NUMERIC, "name": "item_price"}, "must begin with user_"),
        ({**NUMERIC, "name": "user_*"}, "ends with"),
        ({**BAG, "name": "user_interest"}, "ends with"),
        ({**NUMERIC, "name": "user_" + "x" * 300}, "longer than"),
        ({**NUMERIC, "kind": "vector"}, "must be one of"),
        ({**NUMERIC, "buckets": 5}, "has no buckets"),
        ({**NUMERIC, "transform": {"type": "standardize", "mean": 0, "std": 0}}, "std must be greater"),
        ({**NUMERIC, "transform": {"type": "standardize", "mean": 0}}, "std must be a finite number"),
        ({**NUMERIC, "transform": {"type": "min_max", "min": 1, "max": 1}}, "greater than min"),
        ({**NUMERIC, "transform": {"type": "log1p", "base": 2}}, "has no base"),
        ({**NUMERIC, "clip": [2, 1]}, "low is greater"),
        ({**NUMERIC, "clip": [0]}, "low, high"),
        ({**NUMERIC, "missing": {"rule": "median", "value": 1}}, "must be one of"),
        ({**NUMERIC, "missing": {"rule": "mean"}}, "finite number"),
        ({**NUMERIC, "missing": {"rule": "constant", "value": float("nan")}}, "finite number"),
        ({**CATEGORY, "buckets": 5}, "either a vocabulary or buckets"),
        ({**CATEGORY, "vocabulary": ["a", "a"]}, "twice"),
        ({**CATEGORY, "vocabulary": ["", "a"]}, "non-empty"),
        ({**CATEGORY, "missing": {"rule": "mean", "value": 1}}, "must be one of"),
        ({**CATEGORY, "missing": {"rule": "constant", "value": 1}}, "must be a category"),
        ({**SEQUENCE, "max_length": 0}, "whole number"),
        ({**SEQUENCE, "max_length": True}, "whole number"),
        ({**SEQUENCE, "max_length": 10**9}, "whole number"),
        ({**SEQUENCE, "buckets": 2**40}, "whole number"),
        ({**SEQUENCE, "missing": {"rule": "constant", "value": "a"}}, "list of strings"),
        ({**BAG, "buckets": None, "vocabulary": ["a"]}, "needs buckets"),
        ({**BAG, "missing": {"rule": "constant", "value": ["a"]}}, "must be an object"),
    ],
)
def test_refused(feature: dict[str, Any], reason: str) -> None:
    with pytest.raises(ReleaseRefused, match=reason):
        tower(feature)


@pytest.mark.parametrize("data", [None, [], {}, {"transforms": "graph", "features": []}, {"features": [NUMERIC]}])
def test_refused_as_a_whole(data: object) -> None:
    with pytest.raises(ReleaseRefused):
        TowerSchema.from_json("user", data)


def test_a_name_twice_is_refused() -> None:
    with pytest.raises(ReleaseRefused, match="twice"):
        tower(NUMERIC, NUMERIC)
