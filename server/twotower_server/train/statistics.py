"""Declared features → the schema: what is left open is measured, on training data only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twotower_server.errors import ReleaseRefused
from twotower_server.features.row import FeatureRow, Row
from twotower_server.features.schema import SCHEMA_FORMAT, Schema, Side, Transform
from twotower_server.train.config import TrainConfig
from twotower_server.train.feature import FeatureConfig, VocabularyRule


def measure_schema(
    config: TrainConfig,
    users: Sequence[Row],
    items: Sequence[Row],
    item_counts: Sequence[int],
    item_ids: Sequence[str],
) -> Schema:
    """The schema of a model.

    users: raw features of training users. items: of all items. item_counts: how often each is in the training
    interactions; only items that occur are measured. item_ids: of the items, the values of histories.
    Raises ReleaseRefused when a feature that must be measured has no value.
    """
    seen = [i for i, count in enumerate(item_counts) if count]
    occurring = [items[i] for i in seen]
    weights = [item_counts[i] for i in seen]
    values: dict[str, Counter[str]] = {}
    for feature in config.features:
        if not isinstance(feature.vocabulary, VocabularyRule):
            continue
        if feature.history:
            # With a least count of 0 the items that nobody took belong to it too.
            counts = Counter(dict(zip(item_ids, item_counts, strict=True)))
        elif feature.side == "user":
            counts = _count(feature.name, users, [1] * len(users))
        else:
            counts = _count(feature.name, occurring, weights)
        # Features that share a table see the same values: the most that one of them saw counts.
        held = values.setdefault(feature.table, Counter())
        for value, count in counts.items():
            held[value] = max(held[value], count)

    def side(name: Side, rows: Sequence[Row]) -> dict[str, Any]:
        features = [_to_json(feature, rows, values) for feature in config.side(name)]
        return {"transforms": "graph", "features": features}

    return Schema.from_json({"format": SCHEMA_FORMAT, "user": side("user", users), "item": side("item", occurring)})


def _count(name: str, rows: Sequence[FeatureRow], weights: Sequence[int]) -> Counter[str]:
    counter: Counter[str] = Counter()
    for row, weight in zip(rows, weights, strict=True):
        strings = row.string_features.get(name)
        if strings is not None:
            for value in strings.values:
                counter[value] += weight
    return counter


def _to_json(feature: FeatureConfig, rows: Sequence[Row], values: Mapping[str, Counter[str]]) -> dict[str, Any]:
    body: dict[str, Any] = {"name": feature.name, "kind": feature.kind}
    if feature.kind == "numeric":
        return body | _numeric(feature, rows)
    body["missing"] = {"rule": feature.missing}
    if feature.missing == "constant":
        body["missing"]["value"] = feature.missing_value
    if feature.max_length is not None:
        body["max_length"] = feature.max_length
    if feature.buckets is not None:
        return body | {"buckets": feature.buckets}
    if isinstance(feature.vocabulary, VocabularyRule):
        return body | {"vocabulary": _vocabulary(feature, values[feature.table], feature.vocabulary)}
    return body | {"vocabulary": list(feature.vocabulary or ())}


def _vocabulary(feature: FeatureConfig, counter: Counter[str], rule: VocabularyRule) -> list[str]:
    frequent = sorted((v for v, n in counter.items() if n >= rule.min_count), key=lambda v: (-counter[v], v))
    if not frequent:
        raise ReleaseRefused(
            f"features.{feature.name}: no value occurs {rule.min_count} times in training; lower "
            "vocabulary.min_count, or leave the feature out"
        )
    return frequent[: rule.max_size]


def _numeric(feature: FeatureConfig, rows: Sequence[Row]) -> dict[str, Any]:
    known = np.array([row.features[feature.name] for row in rows if feature.name in row.features], np.float64)
    body: dict[str, Any] = {"missing": {"rule": feature.missing}}
    if feature.missing == "constant":
        body["missing"]["value"] = feature.missing_value
    elif feature.missing == "mean":
        body["missing"]["value"] = float(_some(feature, known).mean())
    if feature.clip != (None, None):
        body["clip"] = list(feature.clip)
    if isinstance(feature.transform, Transform):
        body["transform"] = feature.transform.to_json()
        return body
    # Measured as the transform will see them: clipped.
    low, high = (-np.inf if feature.clip[0] is None else feature.clip[0]), feature.clip[1]
    clipped = np.clip(known, low, np.inf if high is None else high)
    body["transform"] = {"type": feature.transform}
    if feature.transform == "standardize":
        values = _some(feature, clipped)
        # A constant feature has nothing to say, and its deviation is rounding: dividing by 1 keeps it finite.
        deviation = float(values.std())
        told_apart = deviation > np.finfo(np.float32).eps * float(np.abs(values).max())
        body["transform"] |= {"mean": float(values.mean()), "std": deviation if told_apart else 1.0}
    elif feature.transform == "min_max":
        values = _some(feature, clipped)
        least, most = float(values.min()), float(values.max())
        body["transform"] |= {"min": least, "max": most if most > least else least + 1.0}
    return body


def _some(feature: FeatureConfig, values: NDArray[np.float64]) -> NDArray[np.float64]:
    if not values.size:
        raise ReleaseRefused(f"features.{feature.name} has no value in the training data; leave it out")
    return values
