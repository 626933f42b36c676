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
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from twotower_server.config import ConfigError
from twotower_server.features.schema import Side
from twotower_server.release.format import Similarity
from twotower_server.train import check
from twotower_server.train.feature import FeatureConfig, read_feature


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
    check.known(raw, {"data", "model", "training", "features"}, "the configuration")
    sections = {name: dict(check.table(raw.get(name, {}), name)) for name in ("data", "model", "training")}
    base = folder or path.parent
    for key in ("interactions", "items", "users"):
        if isinstance(sections["data"].get(key), str):
            sections["data"][key] = base / sections["data"][key]
    for name, values in (overrides or {}).items():
        sections[name].update({key: value for key, value in values.items() if value is not None})
    model = _model(sections["model"])
    features = check.table(raw.get("features", {}), "features")
    declared = tuple(read_feature(name, features[name], model.embedding) for name in sorted(features))
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
    check.known(body, [f.name for f in dataclasses.fields(DataConfig)], "[data]")
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
    check.known(body, [f.name for f in dataclasses.fields(ModelConfig)], "[model]")
    hidden = body.get("hidden", [128, 64])
    if not isinstance(hidden, list):
        raise ConfigError(f"model.hidden must be a list of widths such as [128, 64], not {hidden!r}")
    similarity = body.get("similarity", "cosine")
    if similarity not in get_args(Similarity):
        raise ConfigError(f"model.similarity must be cosine or dot, not {similarity!r}")
    return ModelConfig(
        dimension=check.whole(body.get("dimension", 32), 1, 16_384, "model.dimension"),
        hidden=tuple(check.whole(width, 1, 65_536, "model.hidden") for width in hidden),
        embedding=check.whole(body.get("embedding", 16), 1, 4_096, "model.embedding"),
        similarity=similarity,
        temperature=check.real(body.get("temperature", 0.07), 1e-4, 100.0, "model.temperature"),
        dropout=check.real(body.get("dropout", 0.1), 0.0, 0.95, "model.dropout"),
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
    check.known(body, defaults, "[training]")
    checked: dict[str, Any] = {}
    for key, value in {**defaults, **body}.items():
        low, high = _TRAINING_RANGES[key]
        where = f"training.{key}"
        whole = isinstance(defaults[key], int)
        checked[key] = check.whole(value, int(low), int(high), where) if whole else check.real(value, low, high, where)
    return TrainingConfig(**checked)
