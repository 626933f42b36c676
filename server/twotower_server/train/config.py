"""The configuration of a training: one TOML file, checked completely before any data is read.

Values in [data], [model] and [training] are the defaults, but for the three files.

[data]                             # paths are relative to the folder of this file, or to --data
interactions = "interactions.csv"  # one row an interaction, oldest first
items = "items.csv"
users = "users.csv"                # optional
user_id = "user_id"                # names of columns, here and below
item_id = "item_id"
# timestamp = "at"                 # orders the interactions: a number, or ISO 8601; without it the order of rows counts

[model]
dimension = 32                     # of the vectors
hidden = [128, 64]                 # widths of the layers before them, in both towers
embedding = 16                     # columns of an embedding, where the feature does not say
similarity = "cosine"              # or "dot"
temperature = 0.07                 # divides similarities in the loss
dropout = 0.1                      # of hidden layers

[training]
epochs = 30                        # at most
patience = 4                       # epochs without a better recall of the validation users before it stops
stopping_k = 100                   # the K of that recall@K; far below the number of items
batch_size = 512
learning_rate = 0.003              # of AdamW, and so is
weight_decay = 0.0
uniform_negatives = 512            # items drawn evenly from the catalog for each batch
popularity_correction = 1.0        # 0: none
feature_dropout = 0.0              # chance that a feature is made missing in an example
validation_share = 0.1             # of users
test_share = 0.1                   # of users
seed = 1
threads = 1                        # of PyTorch

# A table a feature: item_* from the table of items, user_* from users, or from history.
[features.item_authors]
kind = "multi_value"               # numeric, categorical, multi_value, sequence, weighted_bag
column = "authors"                 # default: the feature's own name
separator = ", "                   # splits a text cell into a list; default: |
max_length = 4                     # default: 20
vocabulary = {min_count = 2}       # measured on training data (default: 1); or a list; or instead: buckets = 5000
embedding = 16                     # columns of its embedding
table = "author"                   # features that name the same table share vocabulary and embedding
missing = "marker"                 # "mean", "marker" or {constant = 0}

[features.user_shelf]
kind = "sequence"
history = true                     # filled from the user's own earlier interactions: item ids, oldest first
vocabulary = {min_count = 0}       # 0: every item of the table, taken in training or not
content = ["item_authors"]         # item features that the embeddings of its ids hold too

[features.item_year]
kind = "numeric"
clip = [1800, 2020]                # -inf or inf for an open side
transform = "standardize"          # none, standardize, min_max or log1p, numbers are measured; or with them:
                                   # {type = "standardize", mean = 1990, std = 20}
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import tomllib
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard, get_args

from twotower_server.config import ConfigError
from twotower_server.features.schema import Kind, MissingRule, Side, Transform, TransformType
from twotower_server.release.format import Similarity

_NUMERIC_KEYS = {"kind", "column", "transform", "clip", "missing"}
_ID_KEYS = {"kind", "column", "missing", "vocabulary", "buckets", "embedding", "table"}
_LIST_KEYS = _ID_KEYS | {"max_length", "separator"}
_DEFAULT_MAX_LENGTH = 20


@dataclass(frozen=True, slots=True)
class DataConfig:
    """The files, and the names of their columns. timestamp: None when rows are in the order of time."""

    interactions: Path
    items: Path
    users: Path | None = None
    user_id: str = "user_id"
    item_id: str = "item_id"
    timestamp: str | None = None


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Both towers: embeddings → hidden layers → dimension.

    embedding: columns of a feature's embedding where the feature does not say. temperature: divides
    similarities in the loss. dropout: of hidden layers, in training only.
    """

    dimension: int = 32
    hidden: tuple[int, ...] = (128, 64)
    embedding: int = 16
    similarity: Similarity = "cosine"
    temperature: float = 0.07
    dropout: float = 0.1


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """The loop.

    patience: epochs without a better validation recall before it stops. stopping_k: the K of that recall@K;
    choose one far below the number of items, or every model seems perfect. uniform_negatives: items drawn
    evenly from the catalog that every batch is compared with besides its own. popularity_correction: 1
    corrects for how often an item is drawn as a negative, 0 does not. feature_dropout: chance that a feature
    of a user or an item is made missing in an example, so that the towers learn to do without it.
    validation_share, test_share: of users. threads: of PyTorch; towers of usual size gain next to nothing from
    more than one, lose much of their speed where cores are shared, and sums depend on the number.
    """

    epochs: int = 30
    patience: int = 4
    stopping_k: int = 100
    batch_size: int = 512
    learning_rate: float = 0.003
    weight_decay: float = 0.0
    uniform_negatives: int = 512
    popularity_correction: float = 1.0
    feature_dropout: float = 0.0
    validation_share: float = 0.1
    test_share: float = 0.1
    seed: int = 1
    threads: int = 1


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


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Everything that decides what comes out, besides the data."""

    data: DataConfig
    model: ModelConfig
    training: TrainingConfig
    features: tuple[FeatureConfig, ...]

    def side(self, side: Side) -> tuple[FeatureConfig, ...]:
        return tuple(feature for feature in self.features if feature.side == side)


def load_config(
    path: Path, *, folder: Path | None = None, overrides: Mapping[str, Mapping[str, Any]] | None = None
) -> TrainConfig:
    """Reads and checks a configuration.

    folder: what its paths are relative to, by default its own folder. overrides: settings by section that
    replace the file's, None values apart; paths among them are taken as they are. Raises ConfigError, naming
    the setting.
    """
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    _known(raw, {"data", "model", "training", "features"}, "the configuration")
    sections = {name: dict(_table(raw.get(name, {}), name)) for name in ("data", "model", "training")}
    base = folder or path.parent
    for key in ("interactions", "items", "users"):
        if isinstance(sections["data"].get(key), str):
            sections["data"][key] = base / sections["data"][key]
    for name, values in (overrides or {}).items():
        sections[name].update({key: value for key, value in values.items() if value is not None})
    model = _model(sections["model"])
    features = _table(raw.get("features", {}), "features")
    declared = tuple(_feature(name, features[name], model.embedding) for name in sorted(features))
    config = TrainConfig(_data(sections["data"]), model, _training(sections["training"]), declared)
    _check_whole(config)
    return config


def _check_whole(config: TrainConfig) -> None:
    for side in get_args(Side):
        if not config.side(side):
            raise ConfigError(f"no feature of the {side} is declared; add a table such as [features.{side}_...]")
    from_table = [f.name for f in config.side("user") if not f.history]
    if from_table and config.data.users is None:
        raise ConfigError(
            f"features.{from_table[0]} is read from the table of users, which data.users does not name; "
            "name it, or set history = true for a feature made of the user's earlier interactions"
        )
    tables: dict[str, FeatureConfig] = {}
    contents: dict[str, FeatureConfig] = {}
    by_name = {feature.name: feature for feature in config.side("item")}
    for feature in config.features:
        if feature.kind == "numeric":
            continue
        for name in feature.content:
            other = by_name.get(name)
            if other is None or other.kind not in ("categorical", "multi_value") or other.table == feature.table:
                raise ConfigError(
                    f"features.{feature.name}.content names {name!r}, which is not a categorical or "
                    "multi_value feature of the items with a table of its own"
                )
        holder = contents.setdefault(feature.table, feature) if feature.content else feature
        if holder.content != feature.content:
            raise ConfigError(
                f"features.{feature.name} and features.{holder.name} share the table {feature.table!r}, so "
                "their content must be the same"
            )
        first = tables.setdefault(feature.table, feature)
        if (first.vocabulary, first.buckets, first.embedding) != (
            feature.vocabulary,
            feature.buckets,
            feature.embedding,
        ):
            raise ConfigError(
                f"features.{feature.name} and features.{first.name} share the table {feature.table!r}, so "
                "their vocabulary, buckets and embedding must be the same"
            )


def _data(body: dict[str, Any]) -> DataConfig:
    _known(body, [f.name for f in dataclasses.fields(DataConfig)], "[data]")
    for key in ("interactions", "items"):
        if not isinstance(body.get(key), Path):
            raise ConfigError(f"data.{key} must name a file; set it in the configuration or by --{key}")
    if not isinstance(body.get("users"), Path | None):
        raise ConfigError("data.users must name a file")
    for key in ("user_id", "item_id", "timestamp"):
        if key in body and (not isinstance(body[key], str) or not body[key]):
            raise ConfigError(f"data.{key} must be the name of a column")
    return DataConfig(**body)


def _model(body: dict[str, Any]) -> ModelConfig:
    _known(body, [f.name for f in dataclasses.fields(ModelConfig)], "[model]")
    hidden = body.get("hidden", [128, 64])
    if not isinstance(hidden, list):
        raise ConfigError(f"model.hidden must be a list of widths such as [128, 64], not {hidden!r}")
    similarity = body.get("similarity", "cosine")
    if similarity not in get_args(Similarity):
        raise ConfigError(f"model.similarity must be cosine or dot, not {similarity!r}")
    return ModelConfig(
        dimension=_whole(body.get("dimension", 32), 1, 16_384, "model.dimension"),
        hidden=tuple(_whole(width, 1, 65_536, "model.hidden") for width in hidden),
        embedding=_whole(body.get("embedding", 16), 1, 4_096, "model.embedding"),
        similarity=similarity,
        temperature=_real(body.get("temperature", 0.07), 1e-4, 100.0, "model.temperature"),
        dropout=_real(body.get("dropout", 0.1), 0.0, 0.95, "model.dropout"),
    )


# Least and greatest value of every setting of [training].
_TRAINING_RANGES: dict[str, tuple[float, float]] = {
    "epochs": (1, 100_000),
    "patience": (1, 100_000),
    "stopping_k": (1, 1_000_000),
    "batch_size": (2, 65_536),
    "learning_rate": (1e-7, 10.0),
    "weight_decay": (0.0, 10.0),
    "uniform_negatives": (0, 65_536),
    "popularity_correction": (0.0, 1.0),
    "feature_dropout": (0.0, 0.9),
    "validation_share": (0.001, 0.5),
    "test_share": (0.001, 0.4),
    "seed": (0, 2**32 - 1),
    "threads": (1, 1024),
}


def _training(body: dict[str, Any]) -> TrainingConfig:
    defaults = dataclasses.asdict(TrainingConfig())
    _known(body, defaults, "[training]")
    checked: dict[str, Any] = {}
    for key, value in {**defaults, **body}.items():
        low, high = _TRAINING_RANGES[key]
        where = f"training.{key}"
        whole = isinstance(defaults[key], int)
        checked[key] = _whole(value, int(low), int(high), where) if whole else _real(value, low, high, where)
    return TrainingConfig(**checked)


def _feature(name: str, data: object, embedding: int) -> FeatureConfig:
    where = f"features.{name}"
    body = _table(data, where)
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
        _known(body, _NUMERIC_KEYS, where)
        transform = _transform(body.get("transform", "none"), f"{where}.transform")
        clip = _clip(body.get("clip"), f"{where}.clip")
        return FeatureConfig(name, kind, column, missing, value, transform, clip)
    allowed = _ID_KEYS if kind == "categorical" else _LIST_KEYS
    _known(body, allowed | ({"history", "content"} if kind == "sequence" else set()), where)
    history = body.get("history", False)
    if not isinstance(history, bool) or (history and name.startswith("item_")):
        raise ConfigError(f"{where}.history must be true or false, and only a user has a history")
    content = body.get("content", [])
    if not _is_texts(content) or (content and not history):
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
        max_length=None if kind == "categorical" else _whole(length, 1, 10_000, f"{where}.max_length"),
        separator=separator,
        history=history,
        embedding=_whole(body.get("embedding", embedding), 1, 4_096, f"{where}.embedding"),
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
        return None, _whole(buckets, 1, 2**31, f"{where}.buckets")
    if kind == "weighted_bag":
        raise ConfigError(f"{where}: the names of a weighted_bag are open-ended, so it needs buckets, such as 256")
    if vocabulary is None:
        return VocabularyRule(), None
    if isinstance(vocabulary, list):
        if not vocabulary or not _is_texts(vocabulary):
            raise ConfigError(f"{where}.vocabulary must be a list of texts")
        value, times = Counter(vocabulary).most_common(1)[0]
        if times > 1:
            raise ConfigError(f"{where}.vocabulary names {value!r} twice")
        return tuple(vocabulary), None
    rule = _table(vocabulary, f"{where}.vocabulary")
    _known(rule, ("min_count", "max_size"), f"{where}.vocabulary")
    return (
        VocabularyRule(
            _whole(rule.get("min_count", 1), 0, 2**31, f"{where}.vocabulary.min_count"),
            _whole(rule.get("max_size", 100_000), 1, 10_000_000, f"{where}.vocabulary.max_size"),
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
        "numeric": _is_finite(value),
        "categorical": isinstance(value, str) and value != "",
        "multi_value": _is_texts(value),
        "sequence": _is_texts(value),
        "weighted_bag": isinstance(value, dict) and all(map(_is_finite, value.values())),
    }
    if not fits[kind]:
        raise ConfigError(f"{where}.constant does not fit the kind {kind}: {value!r}")
    return "constant", value


def _transform(data: object, where: str) -> TransformType | Transform:
    if isinstance(data, str):
        if data not in get_args(TransformType):
            raise ConfigError(f"{where} must be one of {', '.join(get_args(TransformType))}, not {data!r}")
        return data  # type: ignore[return-value]
    body = _table(data, where)
    numbers = {"standardize": ("mean", "std"), "min_max": ("min", "max")}.get(str(body.get("type")))
    if numbers is None or set(body) != {"type", *numbers}:
        raise ConfigError(
            f"{where} must be a name, or {{type = 'standardize', mean = …, std = …}}, or "
            f"{{type = 'min_max', min = …, max = …}}"
        )
    for key in numbers:
        if not _is_finite(body[key]):
            raise ConfigError(f"{where}.{key} must be a finite number, not {body[key]!r}")
    low, high = (float(body[key]) for key in numbers)
    if (high <= 0) if body["type"] == "standardize" else (high <= low):
        raise ConfigError(f"{where}: std must be above 0, and max above min")
    return Transform(body["type"], (low, high))


def _clip(data: object, where: str) -> tuple[float | None, float | None]:
    if data is None:
        return (None, None)
    if isinstance(data, list) and len(data) == 2 and all(map(_is_number, data)) and data[0] < data[1]:
        # TOML has no null: an infinity leaves a side open.
        low, high = (None if math.isinf(side) else float(side) for side in data)
        return low, high
    raise ConfigError(f"{where} must be [low, high], -inf or inf for an open side, not {data!r}")


def _known(body: Mapping[str, Any], allowed: Collection[str], where: str) -> None:
    for key in body:
        if key not in allowed:
            near = difflib.get_close_matches(key, allowed, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; it takes {', '.join(sorted(allowed))}"
            raise ConfigError(f"{where} has no setting {key}{hint}")


def _table(data: object, where: str) -> Mapping[str, Any]:
    if not isinstance(data, dict):
        raise ConfigError(f"{where} must be a table, not {data!r}")
    return data


def _is_texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(text, str) and text for text in value)


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_finite(value: object) -> bool:
    return _is_number(value) and math.isfinite(value)


def _whole(value: object, low: int, high: int, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(f"{where} must be a whole number from {low} to {high}, not {value!r}")
    return value


def _real(value: object, low: float, high: float, where: str) -> float:
    if not _is_number(value) or not low <= value <= high:
        raise ConfigError(f"{where} must be a number from {low:g} to {high:g}, not {value!r}")
    return float(value)
