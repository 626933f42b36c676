"""The schema: what features each tower reads, and how raw values become the arrays of its graph.

`schema.json` is written by training and is part of every release, so training and serving cannot differ. A schema is
checked completely when it is read: a `TowerSchema` that exists is valid.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from xxhash import xxh3_64_intdigest

from twotower_server.errors import ReleaseRefused
from twotower_server.features.hashing import bucket

Side = Literal["user", "item"]
Kind = Literal["numeric", "categorical", "multi_value", "sequence", "weighted_bag"]
TransformType = Literal["none", "standardize", "min_max", "log1p"]
MissingRule = Literal["constant", "mean", "marker"]
TransformPlace = Literal["graph", "server"]

SCHEMA_FORMAT = 1

# Ids of every kind but numeric. An embedding table has FIRST_ID + size rows.
PADDING_ID = 0
MISSING_ID = 1
UNKNOWN_ID = 2
FIRST_ID = 3

# A release file may not make the server allocate without bound.
MAX_FEATURES = 10_000
MAX_LENGTH = 10_000
MAX_BUCKETS = 2**31
MAX_NAME_BYTES = 256

_TRANSFORM_NUMBERS: dict[str, tuple[str, ...]] = {
    "none": (),
    "log1p": (),
    "standardize": ("mean", "std"),
    "min_max": ("min", "max"),
}


@dataclass(frozen=True, slots=True)
class Transform:
    """Maps a raw number x to `(f(x) - shift) / divisor`; f is log1p(max(x, 0)) for log1p, else the identity.

    `numbers` are those of its type: (mean, std) for standardize, (min, max) for min_max.
    """

    type: TransformType
    numbers: tuple[float, ...] = ()

    @property
    def shift(self) -> float:
        return self.numbers[0] if self.numbers else 0.0

    @property
    def divisor(self) -> float:
        if self.type == "standardize":
            return self.numbers[1]
        return self.numbers[1] - self.numbers[0] if self.type == "min_max" else 1.0

    def to_json(self) -> dict[str, Any]:
        return {"type": self.type, **dict(zip(_TRANSFORM_NUMBERS[self.type], self.numbers, strict=True))}


@dataclass(frozen=True, slots=True)
class Missing:
    """What stands in for an absent value.

    constant: `value` (raw units; a category; a list; for a bag an object of weights).
    mean:     `value` is the raw mean of the training data; numeric only.
    marker:   numeric: 0 after the transform and an extra input column that is 1; else MISSING_ID.
    """

    rule: MissingRule
    value: float | str | tuple[str, ...] | tuple[tuple[str, float], ...] | None = None


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature of one tower. `width` is its number of columns in `ids` (0 when numeric)."""

    name: str
    kind: Kind
    missing: Missing
    transform: Transform = Transform("none")
    clip: tuple[float | None, float | None] = (None, None)
    vocabulary: tuple[str, ...] | None = None
    buckets: int | None = None
    max_length: int | None = None

    @property
    def wildcard(self) -> bool:
        return self.kind == "weighted_bag"

    @property
    def width(self) -> int:
        if self.kind == "numeric":
            return 0
        return 1 if self.kind == "categorical" else self.max_length or 0

    @property
    def table_rows(self) -> int:
        """Rows of the embedding table that holds this feature's ids."""
        return FIRST_ID + (len(self.vocabulary) if self.vocabulary is not None else self.buckets or 0)

    def to_json(self) -> dict[str, Any]:
        """The normalised form: what the fingerprint is made of."""
        out: dict[str, Any] = {"name": self.name, "kind": self.kind, "missing": _missing_to_json(self)}
        if self.kind == "numeric":
            out["transform"] = self.transform.to_json()
            if self.clip != (None, None):
                out["clip"] = list(self.clip)
            return out
        if self.vocabulary is not None:
            out["vocabulary"] = list(self.vocabulary)
        else:
            out["buckets"] = self.buckets
        if self.max_length is not None:
            out["max_length"] = self.max_length
        return out


class IdTable:
    """Values of one feature → ids: a vocabulary looked up, or a hash."""

    def __init__(self, feature: Feature) -> None:
        self._buckets = feature.buckets or 0
        self._vocabulary = (
            None if feature.vocabulary is None else {v: FIRST_ID + i for i, v in enumerate(feature.vocabulary)}
        )

    def id(self, value: str) -> int:
        if self._vocabulary is not None:
            return self._vocabulary.get(value, UNKNOWN_ID)
        return FIRST_ID + bucket(value, self._buckets)


@dataclass(frozen=True)
class TowerSchema:
    """The features of one tower, in bytewise order of their names."""

    side: Side
    transforms: TransformPlace
    features: tuple[Feature, ...]

    @cached_property
    def numeric(self) -> tuple[Feature, ...]:
        """Numeric features in the order of `dense_features` and of the columns of `numeric`."""
        return tuple(f for f in self.features if f.kind == "numeric")

    @cached_property
    def categorical(self) -> tuple[Feature, ...]:
        """Every feature with ids, in the order of the columns of `ids`."""
        return tuple(f for f in self.features if f.kind != "numeric")

    @cached_property
    def bags(self) -> tuple[Feature, ...]:
        return tuple(f for f in self.features if f.kind == "weighted_bag")

    @property
    def numeric_width(self) -> int:
        """Columns of the graph's input `numeric`."""
        markers = sum(f.missing.rule == "marker" for f in self.numeric) if self.transforms == "server" else 0
        return len(self.numeric) + markers

    @property
    def ids_width(self) -> int:
        return sum(f.width for f in self.categorical)

    @property
    def weights_width(self) -> int:
        return sum(f.width for f in self.bags)

    @cached_property
    def fingerprint(self) -> int:
        """XXH3-64 of the canonical JSON: equal when, and only when, values are read in the same way."""
        body = {"transforms": self.transforms, "features": [f.to_json() for f in self.features]}
        text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return xxh3_64_intdigest(text.encode())

    def to_json(self) -> dict[str, Any]:
        return {
            "transforms": self.transforms,
            "features": [f.to_json() for f in self.features],
            "fingerprint": f"{self.fingerprint:016x}",
        }

    @classmethod
    def from_json(cls, side: Side, data: object) -> TowerSchema:
        where = f"schema.json: {side}"
        body = _object(data, where)
        transforms = _one_of(body.get("transforms"), get_args(TransformPlace), f"{where}.transforms")
        raw = body.get("features")
        if not isinstance(raw, list) or not raw:
            raise ReleaseRefused(f"{where}.features must be a list of at least one feature")
        if len(raw) > MAX_FEATURES:
            raise ReleaseRefused(f"{where} has {len(raw)} features, more than {MAX_FEATURES}")
        features = sorted(
            (_feature(side, entry, f"{where}.features[{i}]") for i, entry in enumerate(raw)),
            key=lambda f: f.name.encode(),
        )
        for one, two in itertools.pairwise(features):
            if one.name == two.name:
                raise ReleaseRefused(f"{where} names {one.name} twice")
        schema = cls(side, transforms, tuple(features))
        stated = body.get("fingerprint")
        if stated is not None and stated != f"{schema.fingerprint:016x}":
            raise ReleaseRefused(
                f"{where}.fingerprint is {stated}, its features give {schema.fingerprint:016x}; "
                "a schema is written by training and not edited afterwards"
            )
        return schema


@dataclass(frozen=True)
class Schema:
    """The schema of a release: one `TowerSchema` a tower."""

    user: TowerSchema
    item: TowerSchema

    def to_json(self) -> dict[str, Any]:
        return {"format": SCHEMA_FORMAT, "user": self.user.to_json(), "item": self.item.to_json()}

    @classmethod
    def from_json(cls, data: object) -> Schema:
        """Raises ReleaseRefused, naming the place, when the schema is not valid."""
        body = _object(data, "schema.json")
        if body.get("format") != SCHEMA_FORMAT:
            raise ReleaseRefused(f"schema.json has format {body.get('format')!r}, this server reads {SCHEMA_FORMAT}")
        return cls(TowerSchema.from_json("user", body.get("user")), TowerSchema.from_json("item", body.get("item")))

    @classmethod
    def load(cls, path: Path) -> Schema:
        try:
            return cls.from_json(json.loads(path.read_text("utf-8")))
        except FileNotFoundError:
            raise ReleaseRefused(f"{path.name} is missing") from None
        except (ValueError, RecursionError) as error:
            raise ReleaseRefused(f"{path.name} is not JSON: {error}") from None

    def dump(self, path: Path) -> None:
        path.write_text(json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n", "utf-8")


def _feature(side: Side, data: object, where: str) -> Feature:
    body = _object(data, where)
    name = body.get("name")
    if not isinstance(name, str) or not name.startswith((f"{side}_", "scene_")):
        raise ReleaseRefused(f"{where}.name must begin with {side}_ or scene_, not {name!r}")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise ReleaseRefused(f"{where}.name is longer than {MAX_NAME_BYTES} bytes")
    where = f"{where} ({name})"
    kind: Kind = _one_of(body.get("kind"), get_args(Kind), f"{where}.kind")
    if name.endswith("*") != (kind == "weighted_bag") or "*" in name[:-1]:
        raise ReleaseRefused(f"{where}: the name of a weighted_bag ends with *, no other name has one")
    allowed = {"name", "kind", "missing"}
    allowed |= {"transform", "clip"} if kind == "numeric" else {"vocabulary", "buckets"}
    if kind not in ("numeric", "categorical"):
        allowed.add("max_length")
    if unknown := sorted(set(body) - allowed):
        raise ReleaseRefused(f"{where}: a {kind} feature has no {', '.join(unknown)}")
    if kind == "numeric":
        transform = _transform(body.get("transform", {"type": "none"}), f"{where}.transform")
        clip = _clip(body.get("clip"), f"{where}.clip")
        return Feature(name, kind, _numeric_missing(body.get("missing"), f"{where}.missing"), transform, clip)
    vocabulary, buckets = _table(body, where)
    if kind == "weighted_bag" and buckets is None:
        raise ReleaseRefused(f"{where}: the names of a weighted_bag are open-ended, so it needs buckets")
    max_length = None
    if kind != "categorical":
        max_length = _integer(body.get("max_length"), 1, MAX_LENGTH, f"{where}.max_length")
    missing = _id_missing(kind, body.get("missing"), f"{where}.missing")
    return Feature(name, kind, missing, vocabulary=vocabulary, buckets=buckets, max_length=max_length)


def _transform(data: object, where: str) -> Transform:
    body = _object(data, where)
    kind: TransformType = _one_of(body.get("type"), get_args(TransformType), f"{where}.type")
    numbers = tuple(_number(body.get(key), f"{where}.{key}") for key in _TRANSFORM_NUMBERS[kind])
    if unknown := sorted(set(body) - {"type", *_TRANSFORM_NUMBERS[kind]}):
        raise ReleaseRefused(f"{where}: {kind} has no {', '.join(unknown)}")
    if kind == "standardize" and numbers[1] <= 0:
        raise ReleaseRefused(f"{where}.std must be greater than 0")
    if kind == "min_max" and numbers[1] <= numbers[0]:
        raise ReleaseRefused(f"{where}.max must be greater than min")
    return Transform(kind, numbers)


def _clip(data: object, where: str) -> tuple[float | None, float | None]:
    if data is None:
        return (None, None)
    if not isinstance(data, list) or len(data) != 2:
        raise ReleaseRefused(f"{where} must be [low, high], null for an open side")
    low, high = (None if side is None else _number(side, where) for side in data)
    if low is not None and high is not None and low > high:
        raise ReleaseRefused(f"{where}: low is greater than high")
    return (low, high)


def _numeric_missing(data: object, where: str) -> Missing:
    body = _object(data, where)
    rule: MissingRule = _one_of(body.get("rule"), get_args(MissingRule), f"{where}.rule")
    return Missing(rule) if rule == "marker" else Missing(rule, _number(body.get("value"), f"{where}.value"))


def _id_missing(kind: Kind, data: object, where: str) -> Missing:
    body = _object(data, where)
    rule: MissingRule = _one_of(body.get("rule"), ("constant", "marker"), f"{where}.rule")
    if rule == "marker":
        return Missing(rule)
    value = body.get("value")
    if kind == "categorical":
        if not isinstance(value, str):
            raise ReleaseRefused(f"{where}.value must be a category")
        return Missing(rule, value)
    if kind == "weighted_bag":
        weights = _object(value, f"{where}.value")
        return Missing(rule, tuple(sorted((k, _number(v, f"{where}.value")) for k, v in weights.items())))
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise ReleaseRefused(f"{where}.value must be a list of strings")
    return Missing(rule, tuple(value))


def _missing_to_json(feature: Feature) -> dict[str, Any]:
    missing = feature.missing
    if missing.rule == "marker":
        return {"rule": "marker"}
    if feature.kind == "weighted_bag":
        return {"rule": missing.rule, "value": dict(missing.value or ())}  # type: ignore[arg-type]
    value = list(missing.value) if isinstance(missing.value, tuple) else missing.value
    return {"rule": missing.rule, "value": value}


def _table(body: Mapping[str, Any], where: str) -> tuple[tuple[str, ...] | None, int | None]:
    vocabulary, buckets = body.get("vocabulary"), body.get("buckets")
    if (vocabulary is None) == (buckets is None):
        raise ReleaseRefused(f"{where} needs either a vocabulary or buckets")
    if buckets is not None:
        return None, _integer(buckets, 1, MAX_BUCKETS, f"{where}.buckets")
    if not isinstance(vocabulary, list) or not all(isinstance(v, str) and v for v in vocabulary):
        raise ReleaseRefused(f"{where}.vocabulary must be a list of non-empty strings")
    if len(set(vocabulary)) != len(vocabulary):
        raise ReleaseRefused(f"{where}.vocabulary holds a value twice")
    return tuple(vocabulary), None


def _object(data: object, where: str) -> Mapping[str, Any]:
    if not isinstance(data, dict):
        raise ReleaseRefused(f"{where} must be an object")
    return data


def _one_of(value: object, allowed: Sequence[str], where: str) -> Any:
    if value not in allowed:
        raise ReleaseRefused(f"{where} must be one of {', '.join(allowed)}, not {value!r}")
    return value


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ReleaseRefused(f"{where} must be a finite number, not {value!r}")
    return float(value)


def _integer(value: object, low: int, high: int, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ReleaseRefused(f"{where} must be a whole number from {low} to {high}, not {value!r}")
    return value
