"""A release recomputed from its files alone, by numpy, onnxruntime, pyarrow and xxhash: no code of the server."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.ipc
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

Features = Mapping[str, float | str | list[str]]

_PADDING, _MISSING, _UNKNOWN, _FIRST = range(4)


class Recomputed:
    """item_ids, vectors and attributes by row; vectors: float32 [items, dimension]."""

    def __init__(self, release: Path) -> None:
        manifest = json.loads((release / "release.json").read_text("utf-8"))
        self.name: str = manifest["release"]
        self.dimension: int = manifest["dimension"]
        self.cosine = manifest["similarity"] == "cosine"
        self.scale: float = manifest["calibration"]["scale"]
        self.bias: float = manifest["calibration"]["bias"]
        self.schema: dict[str, Any] = json.loads((release / "schema.json").read_text("utf-8"))
        self._towers = {side: _session(release / f"{side}_tower.onnx") for side in ("user", "item")}
        with pa.ipc.open_file(pa.memory_map(str(release / "items.arrow"))) as file:
            columns = file.read_all().to_pydict()
        self.item_ids: list[str] = columns.pop("item_id")
        self.attributes: dict[str, list[Any]] = columns
        self.rows = {id: row for row, id in enumerate(self.item_ids)}
        self.vectors: NDArray[np.float32] = np.load(release / "vectors.npy")

    def user(self, features: Features) -> NDArray[np.float32]:
        """float32 [dimension]. Features by their full names: numbers, one text, or a list of texts."""
        return self._embed("user", features)

    def item(self, features: Features) -> NDArray[np.float32]:
        """float32 [dimension]. Features by their full names: numbers, one text, or a list of texts."""
        return self._embed("item", features)

    def vector(self, item_id: str) -> NDArray[np.float32]:
        """The stored vector of an item: float32 [dimension]."""
        vector: NDArray[np.float32] = self.vectors[self.rows[item_id]]
        return vector

    def scores(self, similarities: Sequence[float]) -> NDArray[np.float64]:
        """sigmoid(scale · similarity + bias), never below the smallest normal float32."""
        exact = 1 / (1 + np.exp(-(self.scale * np.array(similarities, np.float64) + self.bias)))
        return np.maximum(exact, float(np.finfo(np.float32).tiny))

    def similarities(self, query: NDArray[np.float32], item_ids: Sequence[str]) -> NDArray[np.float64]:
        """Dot products of the query with stored vectors: float64 [n]."""
        rows = [self.rows[id] for id in item_ids]
        return self.vectors[rows].astype(np.float64) @ query.astype(np.float64)

    def top(
        self, query: NDArray[np.float32], k: int, eligible: Callable[[dict[str, Any]], object] = lambda item: True
    ) -> list[str]:
        """Ids of the k most similar items, ties by id. `eligible` sees an item: its id and attributes by name."""
        found = self.similarities(query, self.item_ids).tolist()
        ranked = [
            (-similarity, id)
            for row, (id, similarity) in enumerate(zip(self.item_ids, found, strict=True))
            if eligible({"item_id": id, **{name: values[row] for name, values in self.attributes.items()}})
        ]
        return [id for _, id in sorted(ranked)[:k]]

    def _embed(self, side: str, features: Features) -> NDArray[np.float32]:
        schema = self.schema[side]
        specs = sorted(schema["features"], key=lambda spec: str(spec["name"]).encode())
        inputs: dict[str, NDArray[Any]] = {
            "numeric": _numbers([s for s in specs if s["kind"] == "numeric"], features, schema["transforms"]),
            "ids": np.array([[id for s in specs for id in _ids(s, features)]], np.int64),
            "weights": np.array([[weight for s in specs for weight in _weights(s, features)]], np.float32),
        }
        (vectors,) = self._towers[side].run(
            ["embedding"], {name: array for name, array in inputs.items() if array.size}
        )
        vector = vectors[0].astype(np.float64)
        if self.cosine:
            vector /= np.linalg.norm(vector)
        embedding: NDArray[np.float32] = vector.astype(np.float32)
        return embedding


def item_key(item_id: str) -> int:
    """XXH3-64 of the id's UTF-8 bytes (CONTRACT rule 10)."""
    return xxh3_64_intdigest(item_id.encode())


def _session(graph: Path) -> Any:
    return onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])


def _numbers(specs: list[Any], features: Features, transforms: str) -> NDArray[np.float32]:
    raw = [features.get(spec["name"], np.nan) for spec in specs]
    if transforms == "graph":
        return np.array([raw], np.float32)
    values, markers = [], []
    for spec, given in zip(specs, raw, strict=True):
        value, missing = float(given), spec["missing"]  # type: ignore[arg-type]
        if missing["rule"] == "marker":
            markers.append(float(np.isnan(value)))
            if markers[-1]:
                values.append(0.0)
                continue
        elif np.isnan(value):
            value = missing["value"]
        low, high = spec.get("clip", [None, None])
        value = min(max(value, -np.inf if low is None else low), np.inf if high is None else high)
        transform = spec["transform"]
        if transform["type"] == "log1p":
            value = np.log1p(max(value, 0.0))
        elif transform["type"] == "standardize":
            value = (value - transform["mean"]) / transform["std"]
        elif transform["type"] == "min_max":
            value = (value - transform["min"]) / (transform["max"] - transform["min"])
        values.append(value)
    return np.array([values + markers], np.float32)


def _ids(spec: Any, features: Features) -> list[int]:
    if spec["kind"] == "numeric":
        return []
    if spec["kind"] == "weighted_bag":
        bag = _bag(spec, features)
        ids = [_id(spec, name) for name, _ in bag] if bag else [_MISSING]
    else:
        given = features.get(spec["name"])
        if given is None and spec["missing"]["rule"] == "constant":
            given = spec["missing"]["value"]
        texts = [given] if isinstance(given, str) else given
        assert texts is None or isinstance(texts, list)
        length = spec.get("max_length", 1)
        if texts is not None:
            texts = texts[-length:] if spec["kind"] == "sequence" else texts[:length]
        ids = [_id(spec, text) for text in texts] if texts else [_MISSING]
    return ids + [_PADDING] * (spec.get("max_length", 1) - len(ids))


def _weights(spec: Any, features: Features) -> list[float]:
    if spec["kind"] != "weighted_bag":
        return []
    weights = [weight for _, weight in _bag(spec, features)] or [1.0]
    return weights + [0.0] * (spec["max_length"] - len(weights))


def _bag(spec: Any, features: Features) -> list[tuple[str, float]]:
    """The heaviest entries of a bag, by name."""
    stem = spec["name"].removesuffix("*")
    entries = [(name.removeprefix(stem), float(w)) for name, w in features.items() if name.startswith(stem)]  # type: ignore[arg-type]
    heaviest = sorted(entries, key=lambda entry: (-abs(entry[1]), entry[0]))[: spec["max_length"]]
    return sorted(heaviest)


def _id(spec: Any, text: str) -> int:
    if "vocabulary" in spec:
        return _FIRST + spec["vocabulary"].index(text) if text in spec["vocabulary"] else _UNKNOWN
    return int(_FIRST + xxh3_64_intdigest(text.encode()) % spec["buckets"])
