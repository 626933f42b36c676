"""One feature as the configuration declares it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from twotower_server.config import ConfigError
from twotower_server.features.schema import Kind, MissingRule, Side, Transform, TransformType
from twotower_server.train import check

_NUMERIC_KEYS = {"kind", "column", "transform", "clip", "missing"}
_ID_KEYS = {"kind", "column", "missing", "vocabulary", "buckets", "embedding", "table"}
_LIST_KEYS = _ID_KEYS | {"max_length", "separator"}
_DEFAULT_MAX_LENGTH = 20


@dataclass(frozen=True, slots=True)
class VocabularyRule:
    """A vocabulary to measure: the values seen min_count times in training, at most max_size of them."""

    min_count: int = 1
    max_size: int = 100_000


@dataclass(frozen=True, slots=True)
class FeatureConfig:
    """One feature as declared: what the schema needs but for what is measured.

    transform: its type, or with its numbers when they are given. missing_value: of the rule "constant".
    vocabulary: given, or the rule to measure it by; None when the feature is hashed into `buckets`.
    content: of a history: item features that are part of the embeddings of its item ids.
    table: name of the embedding table. embedding: columns of it.
    """

    name: str
    kind: Kind
    column: str
    missing: MissingRule
    missing_value: Any = None
    transform: TransformType | Transform = "none"
    clip: tuple[float | None, float | None] = (None, None)
    vocabulary: tuple[str, ...] | VocabularyRule | None = None
    buckets: int | None = None
    max_length: int | None = None
    separator: str | None = None
    history: bool = False
    embedding: int = 0
    table: str = ""
    content: tuple[str, ...] = ()

    @property
    def side(self) -> Side:
        return "item" if self.name.startswith("item_") else "user"


def read_feature(name: str, data: object, embedding: int) -> FeatureConfig:
    """Reads one table below [features]. embedding: columns of its embedding where it does not say.

    Raises ConfigError, naming the setting.
    """
    where = f"features.{name}"
    body = check.table(data, where)
    if not name.startswith(("user_", "item_", "scene_")):
        raise ConfigError(f"{where}: the name of a feature begins with user_, item_ or scene_")
    kind: Any = body.get("kind")
    if kind not in get_args(Kind):
        raise ConfigError(f"{where}.kind must be one of {', '.join(get_args(Kind))}, not {kind!r}")
    if name.endswith("*") != (kind == "weighted_bag") or "*" in name[:-1]:
        raise ConfigError(f"{where}: the name of a weighted_bag ends with *, no other name has one")
    column = body.get("column", name)
    if not isinstance(column, str) or not column:
        raise ConfigError(f"{where}.column must be the name of a column")
    missing, value = _missing(body.get("missing"), kind, f"{where}.missing")
    if kind == "numeric":
        check.known(body, _NUMERIC_KEYS, where)
        transform = _transform(body.get("transform", "none"), f"{where}.transform")
        clip = _clip(body.get("clip"), f"{where}.clip")
        return FeatureConfig(name, kind, column, missing, value, transform, clip)
    allowed = _ID_KEYS if kind == "categorical" else _LIST_KEYS
    check.known(body, allowed | ({"history", "content"} if kind == "sequence" else set()), where)
    history = body.get("history", False)
    if not isinstance(history, bool) or (history and name.startswith("item_")):
        raise ConfigError(f"{where}.history must be true or false, and only a user has a history")
    content = body.get("content", [])
    if not check.is_texts(content) or (content and not history):
        raise ConfigError(f"{where}.content must be a list of item features, of a feature with history = true")
    separator = body.get("separator")
    if separator is not None and (not isinstance(separator, str) or not separator):
        raise ConfigError(f"{where}.separator must be text, such as ', '")
    vocabulary, buckets = _values(body, kind, where)
    table = body.get("table", name)
    if not isinstance(table, str) or not table:
        raise ConfigError(f"{where}.table must be the name of a table of embeddings, any that you like")
    length = body.get("max_length", _DEFAULT_MAX_LENGTH)
    return FeatureConfig(
        name,
        kind,
        column,
        missing,
        value,
        vocabulary=vocabulary,
        buckets=buckets,
        max_length=None if kind == "categorical" else check.whole(length, 1, 10_000, f"{where}.max_length"),
        separator=separator,
        history=history,
        embedding=check.whole(body.get("embedding", embedding), 1, 4_096, f"{where}.embedding"),
        table=table,
        content=tuple(content),
    )


def _values(
    body: Mapping[str, Any], kind: Kind, where: str
) -> tuple[tuple[str, ...] | VocabularyRule | None, int | None]:
    vocabulary, buckets = body.get("vocabulary"), body.get("buckets")
    if vocabulary is not None and buckets is not None:
        raise ConfigError(f"{where} takes either a vocabulary or buckets")
    if buckets is not None:
        return None, check.whole(buckets, 1, 2**31, f"{where}.buckets")
    if kind == "weighted_bag":
        raise ConfigError(f"{where}: the names of a weighted_bag are open-ended, so it needs buckets, such as 256")
    if vocabulary is None:
        return VocabularyRule(), None
    if isinstance(vocabulary, list):
        if not vocabulary or not check.is_texts(vocabulary):
            raise ConfigError(f"{where}.vocabulary must be a list of texts")
        value, times = Counter(vocabulary).most_common(1)[0]
        if times > 1:
            raise ConfigError(f"{where}.vocabulary names {value!r} twice")
        return tuple(vocabulary), None
    rule = check.table(vocabulary, f"{where}.vocabulary")
    check.known(rule, ("min_count", "max_size"), f"{where}.vocabulary")
    return (
        VocabularyRule(
            check.whole(rule.get("min_count", 1), 0, 2**31, f"{where}.vocabulary.min_count"),
            check.whole(rule.get("max_size", 100_000), 1, 10_000_000, f"{where}.vocabulary.max_size"),
        ),
        None,
    )


def _missing(data: object, kind: Kind, where: str) -> tuple[MissingRule, Any]:
    if data is None:
        # An empty list says by itself that nothing is known; a number or a category cannot.
        empty: dict[str, Any] = {"multi_value": [], "sequence": [], "weighted_bag": {}}
        return ("constant", empty[kind]) if kind in empty else ("marker", None)
    if data == "marker":
        return "marker", None
    if data == "mean" and kind == "numeric":
        return "mean", None
    if not isinstance(data, dict) or set(data) != {"constant"}:
        rules = '"mean", "marker"' if kind == "numeric" else '"marker"'
        raise ConfigError(f"{where} must be {rules} or {{constant = ...}}, not {data!r}")
    value = data["constant"]
    fits: dict[Kind, bool] = {
        "numeric": check.is_finite(value),
        "categorical": isinstance(value, str) and value != "",
        "multi_value": check.is_texts(value),
        "sequence": check.is_texts(value),
        "weighted_bag": isinstance(value, dict) and all(map(check.is_finite, value.values())),
    }
    if not fits[kind]:
        raise ConfigError(f"{where}.constant does not fit the kind {kind}: {value!r}")
    return "constant", value


def _transform(data: object, where: str) -> TransformType | Transform:
    if isinstance(data, str):
        if data not in get_args(TransformType):
            raise ConfigError(f"{where} must be one of {', '.join(get_args(TransformType))}, not {data!r}")
        return data  # type: ignore[return-value]
    body = check.table(data, where)
    numbers = {"standardize": ("mean", "std"), "min_max": ("min", "max")}.get(str(body.get("type")))
    if numbers is None or set(body) != {"type", *numbers}:
        raise ConfigError(
            f"{where} must be a name, or {{type = 'standardize', mean = …, std = …}}, or "
            f"{{type = 'min_max', min = …, max = …}}"
        )
    for key in numbers:
        if not check.is_finite(body[key]):
            raise ConfigError(f"{where}.{key} must be a finite number, not {body[key]!r}")
    low, high = (float(body[key]) for key in numbers)
    if (high <= 0) if body["type"] == "standardize" else (high <= low):
        raise ConfigError(f"{where}: std must be above 0, and max above min")
    return Transform(body["type"], (low, high))


def _clip(data: object, where: str) -> tuple[float | None, float | None]:
    if data is None:
        return (None, None)
    if isinstance(data, list) and len(data) == 2 and all(map(check.is_number, data)) and data[0] < data[1]:
        # TOML has no null: an infinity leaves a side open.
        low, high = (None if math.isinf(side) else float(side) for side in data)
        return low, high
    raise ConfigError(f"{where} must be [low, high], -inf or inf for an open side, not {data!r}")
