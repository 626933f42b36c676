"""What a call is about: instances, each a map of names or a row of numbers, as the engine reads users and items.

map    {"user_age": 29, "user_gender": "f", "user_tags": ["a", "b"]}: a value is a number, a text or a list of either
row    [29.0, 0.1, …]: every numeric feature of the model, in bytewise order of their names
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from twotower_server.errors import Reason, Refused
from twotower_server.features.row import Strings
from twotower_server.features.schema import TowerSchema

_MAX_INTEGRAL = 2.0**53  # above it a double no longer tells neighbouring integers apart
# Reckit's EnrichNode doubles the prefix of a name that has one.
_USER_IDS = ("user_id", "user_user_id")
_ITEM_IDS = ("item_id", "item_item_id")
_IDS = frozenset((*_USER_IDS, *_ITEM_IDS))


@dataclass(frozen=True, slots=True)
class Instance:
    """One user, one item, or both to be scored together: what the engine calls a row."""

    features: Mapping[str, float]
    string_features: Mapping[str, Strings] = field(default_factory=dict)
    user_id: str = ""
    item_id: str = ""
    # What this port has no place for.
    vector_features: Mapping[str, object] = field(default_factory=dict)
    dense_features: Sequence[float] = ()
    schema_fingerprint: int = 0
    feature_version: str = ""
    routing_key: str = ""


@dataclass(frozen=True, slots=True)
class Maps:
    """Instances that name their features."""

    values: Sequence[Mapping[str, object]]

    def __len__(self) -> int:
        return len(self.values)

    def user(self) -> Instance | None:
        """Whom all instances are of, for the traffic split; None = of several users, or of none."""
        ids = {_id(values, _USER_IDS) for values in self.values}
        return Instance({}, user_id=ids.pop()) if len(ids) == 1 else None

    def reader(self, schemas: Sequence[TowerSchema], release: str) -> Callable[[int], Instance]:
        """Reads the instance of an index. schemas: of the towers that will run."""
        # An id is a feature, too, where a schema has one of that name.
        ids_apart = _IDS - {feature.name for schema in schemas for feature in schema.features}
        return lambda index: _instance(self.values[index], index, ids_apart)


@dataclass(frozen=True, slots=True)
class Rows:
    """Instances that are rows of numbers, all of one length."""

    values: Sequence[Sequence[object]]

    def __len__(self) -> int:
        return len(self.values)

    def user(self) -> Instance | None:
        """Rows name no user."""
        return None

    def reader(self, schemas: Sequence[TowerSchema], release: str) -> Callable[[int], Instance]:
        """As `Maps`. Raises DIMENSION_MISMATCH unless the rows have every numeric feature of the towers."""
        names = numeric_names(schemas)
        width = len(self.values[0])
        if width != len(names):
            raise Refused(
                Reason.DIMENSION_MISMATCH,
                f"the instances have {width} columns, and release {release} has {len(names)} numeric features, which "
                "stand in the order that GET /v2/models/… tells; send maps of names instead, with Reckit's KServe "
                "client by WithKServeV2FeaturesAsJSON()",
            )
        return lambda index: Instance(dict(zip(names, map(_number, self.values[index]), strict=True)))


Instances = Maps | Rows


def numeric_names(schemas: Sequence[TowerSchema]) -> list[str]:
    """The columns of rows: numeric features of the towers, each once, in bytewise order."""
    return sorted({feature.name for schema in schemas for feature in schema.numeric}, key=str.encode)


def instances(value: object, field: str) -> Instances:
    """Reads a list of maps, or of rows, from JSON. field: what it stands under, for messages."""
    if not isinstance(value, list) or not value:
        raise Refused(Reason.FIELD_REQUIRED, "must be a list of at least one map of features", field)
    if all(isinstance(entry, dict) for entry in value):
        return Maps(value)
    if all(isinstance(entry, list) for entry in value):
        if any(len(row) != len(value[0]) for row in value):
            raise Refused(Reason.DIMENSION_MISMATCH, "the rows have different lengths", field)
        return Rows(value)
    raise Refused(Reason.FEATURE_TYPE, "must hold maps of features alone, or rows of numbers alone", field)


def _instance(values: Mapping[str, object], index: int, ids_apart: frozenset[str]) -> Instance:
    features: dict[str, float] = {}
    strings: dict[str, Strings] = {}
    for name, value in values.items():
        if name in ids_apart:
            continue
        if _is_number(value):
            features[name] = value  # type: ignore[assignment]
        elif isinstance(value, str):
            strings[name] = Strings((value,))
        elif isinstance(value, list):
            strings[name] = Strings(list(_texts(value, f"instances[{index}][{name}]")))
        else:
            raise Refused(
                Reason.FEATURE_TYPE,
                f"must be a number, a text or a list of either, not {_json_type(value)}; leave a missing value out",
                f"instances[{index}][{name}]",
            )
    return Instance(features, strings, _id(values, _USER_IDS), _id(values, _ITEM_IDS))


def _texts(values: Sequence[object], where: str) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            yield value
        elif _is_number(value) and (text := _integral(value)):
            yield text
        else:
            raise Refused(Reason.FEATURE_TYPE, "a list may hold texts and whole numbers", where)


def _id(values: Mapping[str, object], names: Sequence[str]) -> str:
    """The id under the first of the names that is there; "" = none. A whole number equals its decimal text."""
    value = next((values[name] for name in names if name in values), "")
    if isinstance(value, str):
        return value
    return _integral(value) if _is_number(value) else ""


def _integral(value: Any) -> str:
    """The decimal text of a whole number; "" for another."""
    return str(int(value)) if value == int(value) and abs(value) <= _MAX_INTEGRAL else ""


def _number(value: object) -> float:
    if not _is_number(value):
        raise Refused(Reason.FEATURE_TYPE, f"rows hold numbers, not {_json_type(value)}")
    return value  # type: ignore[return-value]


def _is_number(value: object) -> bool:
    return type(value) is float or type(value) is int  # not bool, which is an int elsewhere


def _json_type(value: object) -> str:
    if value is None:
        return "null"
    names: dict[type, str] = {bool: "true or false", dict: "an object", list: "a list", str: "a text"}
    return names.get(type(value), "a number")
